"""TensorFlow's TensorProto to arrays and back.

A tensor's values are its `tensor_content`, the elements as memory has them, or else the list that belongs to its dtype
(`float_val`, `int_val`, ...), of which the last value stands for all that are missing, zero where there is none, and
what is too much is left out (tensorflow/core/framework/tensor.cc). Answers are written with lists, as TensorFlow
Serving does by default.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.tensor import DTYPES, datatype_of
from dukou.protos.pool import message
from dukou.wire import protobuf
from dukou.wire.json_cut import MAX_RANK
from dukou.wire.json_text import MOST_VALUES
from dukou.wire.json_write import native
from dukou.wire.raw_array import SMALL_BYTES, Raw
from dukou.wire.tf_kinds import DATATYPES, KINDS
from dukou.wire.tf_says import says

MOST_FILLED_BYTES = 64 * 1024 * 1024
"""The largest array made of fewer values than it has elements: what the largest message of the default settings can
carry in full, so that no message makes a larger array by leaving its values out."""

FEW = 64
"""Lists up to this long are read faster as Python numbers than from their packed bytes."""

AS_MEMORY = frozenset({"FP32", "FP64", "BOOL"})
"""Datatypes whose packed list is their memory; of the others every value is written by itself."""

_DTYPE_FIELD, _SHAPE_FIELD = 1, 2


def name_of(number: int) -> str:
    """The name of the datatype with that number, also of those that no model here takes."""
    datatype = DATATYPES.get(number)
    if datatype is not None:
        return KINDS[datatype].name
    known = message("tensorflow.TensorProto").DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    return known[number].name.removeprefix("DT_").lower() if number in known else f"datatype {number}"


def from_proto(tensor: Any, name: str) -> NDArray[Any] | None:
    """The array of a TensorProto in its own datatype; None where no model here takes that.

    `name` is the tensor's, for errors. Elements of BYTES are `bytes`. Raises DukouError MALFORMED_REQUEST for what is
    no tensor, WRONG_VALUE for integers that their datatype does not hold, TOO_MANY_VALUES for strings.
    """
    datatype = DATATYPES.get(tensor.dtype)
    if datatype is None:
        return None
    dtype = DTYPES[datatype]
    shape, size = _shape(tensor.tensor_shape, name)
    content: bytes = tensor.tensor_content
    if content:
        return _from_content(content, dtype, shape, size, name)
    array = _from_list(getattr(tensor, KINDS[datatype].field), datatype, name)
    if len(array) < size or not size:
        array = _filled(array, shape, size, name)
    return array[:size].reshape(shape)


def _shape(stated: Any, name: str) -> tuple[tuple[int, ...], int]:
    """A tensor's shape, and its number of elements."""
    written = stated.SerializeToString()
    try:
        return _small_shape(written) if len(written) <= _SMALL_SHAPE_BYTES else _read_shape(stated)
    except ValueError as error:
        raise _unreadable(name, str(error)) from None


_SMALL_SHAPE_BYTES = 64
"""Shapes up to this size, in bytes of protobuf, are remembered: one takes 0.1 µs then, not 2."""


@lru_cache(1024)
def _small_shape(written: bytes) -> tuple[tuple[int, ...], int]:
    return _read_shape(message("tensorflow.TensorShapeProto").FromString(written))


def _read_shape(stated: Any) -> tuple[tuple[int, ...], int]:
    if stated.unknown_rank:
        raise ValueError("its rank is unknown")
    if len(stated.dim) > MAX_RANK:
        raise ValueError(f"it has {len(stated.dim)} axes, {MAX_RANK} is the most")
    shape = tuple([axis.size for axis in stated.dim])
    if shape and min(shape) < 0:
        raise ValueError(f"its shape is {list(shape)}")
    return shape, math.prod(shape)


def _filled(array: NDArray[Any], shape: Sequence[int], size: int, name: str) -> NDArray[Any]:
    """The values with the last of them, or zero, for all that are missing.

    Axes count even where another one is 0: NumPy has limits there as well.
    """
    if math.prod([axis or 1 for axis in shape]) * array.dtype.itemsize > MOST_FILLED_BYTES:
        detail = f"{len(array)} values came for shape {list(shape)}, which is too large to be filled up"
        raise _unreadable(name, detail)
    filled = np.empty(size, array.dtype)
    filled[: len(array)] = array[:size]
    if len(array):
        filled[len(array) :] = array[-1]
    else:
        filled[:] = b"" if array.dtype.kind == "O" else np.zeros((), array.dtype)
    return filled


def _from_content(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, name: str) -> NDArray[Any]:
    """The array whose memory is `content`, a read-only view of it."""
    if dtype.kind == "O":
        return _from_strings(content, size, name).reshape(shape)
    if len(content) != size * dtype.itemsize:
        wanted = size * dtype.itemsize
        raise _unreadable(name, f"tensor_content has {len(content)} bytes, shape {list(shape)} needs {wanted}")
    array: NDArray[Any] = np.ndarray(shape, dtype, content)
    # A byte of 2 would be a boolean that is neither.
    return array if dtype.kind != "b" else array.view(np.uint8) != 0


def _from_strings(content: bytes, size: int, name: str) -> NDArray[Any]:
    """Strings in `tensor_content`: the length of each as a varint, then all of them."""
    if size > len(content):  # each takes a byte at least
        raise _unreadable(name, f"tensor_content has {len(content)} bytes, too few for {size} strings")
    _check_strings(size, name)
    array = np.empty(size, object)
    lengths: list[int] = []
    place = length = shift = 0
    while len(lengths) < size and place < len(content) and shift < _MOST_LENGTH_BITS:
        length |= (content[place] & 0x7F) << shift
        shift += 7
        if content[place] < 0x80:
            lengths.append(length)
            length = shift = 0
        place += 1
    if len(lengths) < size or place + sum(lengths) != len(content):
        raise _unreadable(name, f"tensor_content is not {size} strings")
    for index, length in enumerate(lengths):
        array[index] = content[place : place + length]
        place += length
    return array


_MOST_LENGTH_BITS = 35
"""Of a varint of five bytes, which lengths are at most."""


def _check_strings(count: int, name: str) -> None:
    if count > MOST_VALUES:
        raise DukouError(Reason.TOO_MANY_VALUES, tensor=name, got=count, wanted=MOST_VALUES)


def _from_list(values: Any, datatype: str, name: str) -> NDArray[Any]:
    """The values of a list, as an array of one axis."""
    if datatype in AS_MEMORY and len(values) > FEW:
        return _unpacked(values, KINDS[datatype].field, DTYPES[datatype])
    if datatype == "BYTES":
        _check_strings(len(values), name)
    if len(values) <= AT_ONCE:
        return _from_values(values[:], datatype, name)
    parts = [_from_values(values[at : at + AT_ONCE], datatype, name) for at in range(0, len(values), AT_ONCE)]
    return np.concatenate(parts)


AT_ONCE = 65_536
"""Values that become Python objects at a time, some 3 ms: the event loop gets its turn between, and little memory is
taken."""


def _from_values(values: list[Any], datatype: str, name: str) -> NDArray[Any]:
    dtype = DTYPES[datatype]
    if dtype.kind == "O":
        strings = np.empty(len(values), object)
        strings[:] = values
        return strings
    if KINDS[datatype].field == "half_val":
        return np.array(values, np.int32).astype(np.uint16).view(dtype)
    try:
        return np.array(values, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        wrong = next(value for value in values if not limits.min <= value <= limits.max)
    raise DukouError(Reason.WRONG_VALUE, tensor=name, got=wrong, wanted=datatype)


def _unpacked(values: Any, field: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Many floats or booleans: protobuf writes them packed, which is their memory. 80 times faster than one by one."""
    alone = message("tensorflow.TensorProto")()
    getattr(alone, field).MergeFrom(values)
    packed = alone.SerializeToString()
    return np.frombuffer(packed, dtype, len(values), len(packed) - len(values) * dtype.itemsize)


def _unreadable(name: str, detail: str) -> DukouError:
    return says(f"tensor parsing error: {name}: {detail}", tensor=name)


def to_proto(array: NDArray[Any]) -> tuple[bytes, Raw]:
    """A TensorProto as the bytes of its dtype and shape and those of its values, which follow them.

    The second is a view of the array's memory where that is what the list holds. Raises UnicodeError for text without
    a UTF-8 form.
    """
    datatype = datatype_of(array)
    head = _head(datatype, array.shape)
    if datatype in AS_MEMORY:
        array = native(array)
        return head, array.tobytes() if array.nbytes <= SMALL_BYTES else array.reshape(-1).view(np.uint8).data
    if not array.size:
        return head, b""
    values = _to_list(array, datatype)
    kind = KINDS[datatype]
    if len(values) <= FEW_INTEGERS and datatype in _INTEGERS:
        return head, _length_delimited(kind.field_number, b"".join([varint(value & _UINT64) for value in values]))
    return head, message("tensorflow.TensorProto")(**{kind.field: values}).SerializeToString()


FEW_INTEGERS = 8
"""Lists up to this long are written faster by hand than by protobuf."""

_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16"})
_UINT64 = 2**64 - 1
"""Negative numbers are written as their complement to two, in 64 bits."""


def _to_list(array: NDArray[Any], datatype: str) -> list[Any]:
    if datatype == "BYTES":
        return [item if type(item) is bytes else str(item).encode() for item in array.ravel().tolist()]
    if KINDS[datatype].field == "half_val":
        array = native(array).view(np.uint16)
    flat: list[Any] = array.ravel().tolist()
    return flat


@lru_cache(1024)
def _head(datatype: str, shape: tuple[int, ...]) -> bytes:
    """All of a TensorProto before its values; before their memory where that is what follows."""
    axes = b"".join([_length_delimited(2, b"\x08" + varint(size) if size else b"") for size in shape])
    head = bytes([_DTYPE_FIELD << 3, KINDS[datatype].number]) + _length_delimited(_SHAPE_FIELD, axes)
    size = math.prod(shape) * DTYPES[datatype].itemsize
    return head + protobuf.head(KINDS[datatype].field_number, size) if datatype in AS_MEMORY and size else head


def _length_delimited(number: int, content: bytes) -> bytes:
    return protobuf.head(number, len(content)) + content


def varint(number: int) -> bytes:
    """A whole number from 0 as protobuf writes it."""
    if number < 0x80:
        return _ONE_BYTE[number]
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


_ONE_BYTE = [bytes([number]) for number in range(0x80)]
