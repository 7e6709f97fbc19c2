"""Raw tensor data to arrays and back: elements in row-major order, little-endian, as the memory of this machine has it.

A BOOL takes a byte. Each element of BYTES is its length in four bytes and then that many bytes.
"""

import struct
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.tensor import DTYPES
from dukou.wire.json_cut import MAX_RANK
from dukou.wire.json_text import MOST_VALUES
from dukou.wire.json_write import native

assert sys.byteorder == "little", "raw tensor data is little-endian, and so must be the machine"

Raw: TypeAlias = bytes | memoryview

LENGTH_BYTES = 4
MOST_LENGTH = 2**48
"""The longest axis that is taken seriously."""

SMALL_BYTES = 4096
"""Arrays of up to so many bytes are copied faster than a view of their memory is made."""

_length = struct.Struct("<I")


def stated_size(shape: Sequence[int], tensor: str) -> int:
    """How many elements a tensor of `shape` has. Raises DukouError MALFORMED_REQUEST for what no array can have."""
    if len(shape) > MAX_RANK:
        raise no_shape(tensor)
    size = 1
    for length in shape:
        if not 0 <= length <= MOST_LENGTH:
            raise no_shape(tensor)
        size *= length
    return size


def no_shape(tensor: str) -> DukouError:
    """The refusal of a shape that no array can have."""
    return DukouError(Reason.MALFORMED_REQUEST, tensor=tensor, detail="no tensor has the stated shape")


def from_raw(data: Raw, datatype: str, shape: Sequence[int], tensor: str) -> NDArray[Any]:
    """The array of `data`: a read-only view where the data is aligned for its dtype, else a copy.

    The elements of BYTES are `bytes`. `tensor` is its name, for errors. Raises DukouError WRONG_BYTES, WRONG_STRINGS,
    TOO_MANY_VALUES and MALFORMED_REQUEST for data of another size than the shape, and shapes that nothing has.
    """
    size = stated_size(shape, tensor)
    dtype = DTYPES[datatype]
    if dtype.kind == "O":
        array = _strings(data, size, tensor)
    else:
        if len(data) != size * dtype.itemsize:
            raise DukouError(Reason.WRONG_BYTES, tensor=tensor, got=len(data), wanted=size * dtype.itemsize)
        array = _numbers(data, dtype)
    try:
        return array.reshape(tuple(shape))
    except (ValueError, OverflowError):  # no elements, and axes that are too long together
        raise no_shape(tensor) from None


def _numbers(data: Raw, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not data:
        return np.empty(0, dtype)
    if dtype.kind == "b":
        return np.frombuffer(data, np.uint8).astype(np.bool_)  # a byte of 2 would be a boolean that is neither
    array = np.frombuffer(data, dtype)
    return array if array.flags.aligned else array.copy()


def _strings(data: Raw, count: int, tensor: str) -> NDArray[Any]:
    if count > MOST_VALUES:
        raise DukouError(Reason.TOO_MANY_VALUES, got=count, wanted=MOST_VALUES)
    raw = bytes(data)
    read_length = _length.unpack_from
    array = np.empty(count, object)
    items: list[bytes] = []
    end = 0
    try:
        for _ in range(count):
            start = end + LENGTH_BYTES
            (length,) = read_length(raw, end)
            end = start + length
            items.append(raw[start:end])
    except struct.error:
        pass  # the data has ended
    if len(items) != count or end != len(raw):
        raise _other_strings(raw, count, tensor)
    array[:] = items
    return array


def _other_strings(raw: bytes, count: int, tensor: str) -> DukouError:
    """Why `raw` is not `count` strings."""
    found = end = 0
    while end < len(raw) and found <= count:
        left = len(raw) - end - LENGTH_BYTES
        if left < 0:
            return _cut_off(tensor, "length indicator", f"{LENGTH_BYTES} bytes", len(raw) - end)
        (length,) = _length.unpack_from(raw, end)
        if length > left:
            return _cut_off(tensor, "data", f"string of length {length}", left)
        end += LENGTH_BYTES + length
        found += 1
    return DukouError(Reason.WRONG_STRINGS, tensor=tensor, got=found, wanted=count)


def _cut_off(tensor: str, what: str, wanted: str, left: int) -> DukouError:
    detail = (
        f"incomplete string {what} for inference input '{tensor}', expecting {wanted} but only {left} bytes are left"
    )
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def to_raw(array: NDArray[Any]) -> Raw:
    """The data of an array, a view of its memory where that is worth it. Raises UnicodeError for text without a UTF-8
    form."""
    if array.dtype.kind in "OUS":
        return _from_strings(array.ravel().tolist())
    if array.nbytes <= SMALL_BYTES:
        return native(array).tobytes()
    return native(array).reshape(-1).view(np.uint8).data


def _from_strings(items: Sequence[Any]) -> bytes:
    pack = _length.pack
    parts: list[bytes] = []
    for item in items:
        raw = item if type(item) is bytes else str(item).encode()
        parts.append(pack(len(raw)))
        parts.append(raw)
    return b"".join(parts)
