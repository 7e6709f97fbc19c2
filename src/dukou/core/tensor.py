"""Tensors: NumPy arrays under names, and the specs that say what they must look like.

Datatype names are those of the Open Inference Protocol (BOOL, INT64, FP32, BYTES, ...). A BYTES tensor is an object
array whose elements are `str` (text) or `bytes`; every other datatype is the NumPy dtype of the table below.
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
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
"""Datatype name to NumPy dtype. BF16 has no NumPy dtype and is not here."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: NDArray[Any]) -> str:
    """The datatype name of an array; strings of any NumPy kind are BYTES. Raises KeyError for a dtype with no name."""
    name = _NAMES.get(array.dtype)
    if name is not None:
        return name
    return "BYTES" if array.dtype.kind in "US" else _NAMES[array.dtype.newbyteorder("=")]
