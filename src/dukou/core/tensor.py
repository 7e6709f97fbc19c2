"""Tensors: NumPy arrays under names, and the specs that say what they must look like.

Datatype names are those of the Open Inference Protocol (BOOL, INT64, FP32, BYTES, ...). A BYTES tensor is an object
array whose elements are `str` (text) or `bytes`; every other datatype is the NumPy dtype of the table below.

NumPy has no bfloat16: a BF16 tensor is an array of records with one field, its 16 bits. That keeps it apart from UINT16
and costs no conversion; `widen` and `narrow` are for whoever computes.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensors: TypeAlias = Mapping[str, NDArray[Any]]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype([("bfloat16", "<u2")]),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
"""Datatype name to NumPy dtype."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: NDArray[Any]) -> str:
    """The datatype name of an array; strings of any NumPy kind are BYTES. Raises KeyError for a dtype with no name."""
    name = _NAMES.get(array.dtype)
    if name is not None:
        return name
    return "BYTES" if array.dtype.kind in "US" else _NAMES[array.dtype.newbyteorder("=")]


def widen(array: NDArray[Any]) -> NDArray[np.float32]:
    """A BF16 array as FP32, exactly: its bits are the upper half."""
    bits: NDArray[np.uint32] = array.view(np.uint16).astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32).reshape(array.shape)


def narrow(array: NDArray[np.float32]) -> NDArray[Any]:
    """An FP32 array as BF16, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(
        np.uint16
    )
    quiet = np.where(np.isnan(array), np.uint16(0x7FC0), rounded)
    return np.ascontiguousarray(quiet).view(DTYPES["BF16"]).reshape(array.shape)
