"""Tensors: NumPy arrays under names, and the specs that say what they must look like.

Datatype names are those of the Open Inference Protocol (BOOL, INT64, FP32, BYTES, ...). A BYTES tensor is an object
array whose elements are `str` (text) or `bytes`; every other datatype is the NumPy dtype of the table below.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
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


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a tensor must look like: its name, datatype and shape.

    `shape` has -1 for any size and is None when even the rank is unknown. `columns` names the entries of the last axis
    for a model that was trained on a frame; empty when it was not.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None = None
    columns: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the datatype."""
        return DTYPES[self.datatype]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` is allowed."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (-1, came) for want, came in zip(self.shape, shape, strict=True)
        )
