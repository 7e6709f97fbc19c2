"""Calls, answers and copies as they travel between a worker and a model process, and lie in a capture's files.

A frame is its size in four bytes, most significant first, and a body: the size of its head in four bytes, the head in
MessagePack, then the data of the tensors that the head describes, one after the other: elements in row-major order,
little-endian; the elements of BYTES as a MessagePack list of text and binary.

No I/O here. Bytes that are no frame raise DukouError MALFORMED_REQUEST, whatever they are.
"""

import struct
import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Copy
from dukou.core.tensor import DTYPES, Tensors, datatype_of
from dukou.core.version import ModelVersion

assert sys.byteorder == "little", "tensor data is little-endian, and so must be the machine"

PREFIX_BYTES = 4
MAX_FRAME_BYTES = 1024 * 1024 * 1024
"""The largest body. A model process answers nobody but the workers of its own server, so this is against mistakes."""

_SMALL_BYTES = 4096
"""Arrays of up to so many bytes are copied faster than a view of their memory is made."""

Part: TypeAlias = bytes | memoryview


class Call(msgspec.Struct):
    """A question to a model process: what `LoadedModel.infer` takes."""

    signature: str
    inputs: Tensors
    outputs: tuple[str, ...]
    parameters: Mapping[str, Any] = {}


class Answer(msgspec.Struct):
    """What came of a Call: the outputs by name, and the time of the model itself, in seconds."""

    outputs: Tensors
    infer_s: float = 0.0


class Failure(msgspec.Struct):
    """What came of a Call: an error, by the name of its Reason and its facts."""

    reason: str
    facts: Mapping[str, Any] = {}

    @classmethod
    def of(cls, error: DukouError) -> "Failure":
        """The error, ready to travel."""
        return cls(error.reason.name, error.facts)

    def error(self) -> DukouError:
        """The error again; a reason that this version does not know is INTERNAL."""
        return DukouError(Reason.__members__.get(self.reason, Reason.INTERNAL), **self.facts)


class Dropped(msgspec.Struct):
    """So many copies were not sent since the last frame: there was no room, or nobody there."""

    copies: int


Frame: TypeAlias = Copy | Call | Answer | Failure | Dropped


class _Described(msgspec.Struct, array_like=True):
    """A tensor whose data comes after the head."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int


class _CopyHead(msgspec.Struct, array_like=True, tag="copy"):
    model: str
    version: int
    signature: str
    rows: int
    parameters: Mapping[str, Any]
    infer_s: float
    inputs: list[_Described]
    outputs: list[_Described]


class _CallHead(msgspec.Struct, array_like=True, tag="call"):
    signature: str
    wanted: tuple[str, ...]
    parameters: Mapping[str, Any]
    inputs: list[_Described]


class _AnswerHead(msgspec.Struct, array_like=True, tag="answer"):
    outputs: list[_Described]
    infer_s: float


class _FailureHead(msgspec.Struct, array_like=True, tag="failure"):
    reason: str
    facts: dict[str, Any]


class _DroppedHead(msgspec.Struct, array_like=True, tag="dropped"):
    copies: int


_Head: TypeAlias = _CopyHead | _CallHead | _AnswerHead | _FailureHead | _DroppedHead

_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_head_decoder: msgspec.msgpack.Decoder[_Head] = msgspec.msgpack.Decoder(_Head)
_strings_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Any])
_prefix = struct.Struct(">II")
_size = struct.Struct(">I")

_STRINGS = {str, bytes}
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError, OverflowError)


def encode_copy(copy: Copy) -> list[Part]:
    """The frame of a copy, in parts: views of its larger arrays, which have to stay as they are until it is written.

    Raises DukouError MALFORMED_REQUEST for what no frame can hold.
    """
    data: list[Part] = []
    version = copy.version
    inputs = _describe(copy.inputs, data)
    outputs = _describe(copy.outputs, data)
    head = _CopyHead(
        version.name, version.version, copy.signature, copy.rows, copy.parameters, copy.infer_s, inputs, outputs
    )
    return _pack(head, data)


def encode_call(call: Call) -> list[Part]:
    """The frame of a call, in parts, as of `encode_copy`. Raises what that raises."""
    data: list[Part] = []
    inputs = _describe(call.inputs, data)
    return _pack(_CallHead(call.signature, call.outputs, call.parameters, inputs), data)


def encode_answer(outputs: Tensors, infer_s: float = 0.0) -> list[Part]:
    """The frame of an Answer, in parts, as of `encode_copy`. Raises what that raises."""
    data: list[Part] = []
    return _pack(_AnswerHead(_describe(outputs, data), infer_s), data)


def encode_failure(failure: Failure) -> list[Part]:
    """The frame of a Failure. Raises what `encode_copy` raises."""
    return _pack(_FailureHead(failure.reason, dict(failure.facts)), [])


def encode_dropped(dropped: Dropped) -> list[Part]:
    """The frame of a Dropped."""
    return _pack(_DroppedHead(dropped.copies), [])


def body_size(prefix: bytes | memoryview) -> int:
    """How many bytes follow the first PREFIX_BYTES of a frame. Raises DukouError when that is more than there may be,
    or `prefix` is cut off."""
    if len(prefix) != PREFIX_BYTES:
        raise _malformed(f"it ends after {len(prefix)} bytes")
    (size,) = _size.unpack(prefix)
    return _checked(size)


def decode(body: bytes | memoryview) -> Frame:
    """What the frame with this body says; its arrays are views of `body` where they are aligned, and may be read-only.

    Raises DukouError MALFORMED_REQUEST.
    """
    view = memoryview(body)
    if len(view) < PREFIX_BYTES:
        raise _malformed(f"its body has {len(view)} bytes")
    (head_size,) = _size.unpack_from(view)
    start = PREFIX_BYTES + head_size
    if start > len(view):
        raise _malformed(f"its head has {head_size} bytes, {len(view) - PREFIX_BYTES} came")
    try:
        head = _head_decoder.decode(view[PREFIX_BYTES:start])
        data = _Data(view, start)
        frame = _frame(head, data)
    except _UNREADABLE as error:
        raise _malformed(str(error)) from error
    if data.left:
        raise _malformed(f"{data.left} bytes follow its last tensor")
    return frame


def decode_copy(body: bytes | memoryview) -> Copy:
    """The copy in this body. Raises DukouError MALFORMED_REQUEST for any other frame, too."""
    frame = decode(body)
    if not isinstance(frame, Copy):
        raise _malformed(f"it is a {type(frame).__name__}, not a Copy")
    return frame


def _frame(head: _Head, data: "_Data") -> Frame:
    match head:
        case _CopyHead():
            inputs = data.tensors(head.inputs)
            outputs = data.tensors(head.outputs)
            version = ModelVersion(head.model, head.version)
            return Copy(version, head.signature, inputs, outputs, head.rows, head.parameters, head.infer_s)
        case _CallHead():
            return Call(head.signature, data.tensors(head.inputs), head.wanted, head.parameters)
        case _AnswerHead():
            return Answer(data.tensors(head.outputs), head.infer_s)
        case _FailureHead():
            return Failure(head.reason, head.facts)
        case _DroppedHead():
            return Dropped(head.copies)


def _describe(tensors: Tensors, data: list[Part]) -> list[_Described]:
    """The descriptions of `tensors`; what they describe is added to `data`."""
    described = []
    for name, array in tensors.items():
        try:
            datatype = datatype_of(array)
        except KeyError:
            raise _malformed(f"no datatype has a name for the dtype {array.dtype} of {name!r}") from None
        part = _strings(array) if datatype == "BYTES" else _numbers(array, DTYPES[datatype])
        data.append(part)
        described.append(_Described(name, datatype, array.shape, len(part)))
    return described


def _numbers(array: NDArray[Any], dtype: np.dtype[Any]) -> Part:
    if array.dtype is not dtype:
        array = array.astype(dtype)  # the other byte order
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _strings(array: NDArray[Any]) -> Part:
    items: list[str | bytes] = array.ravel().tolist()
    for index, item in enumerate(items):
        if type(item) is not str and type(item) is not bytes:
            items[index] = bytes(item) if isinstance(item, bytes) else str(item)
    return _packed(items)


def _pack(head: _Head, data: Sequence[Part]) -> list[Part]:
    packed = _packed(head)
    size = PREFIX_BYTES + len(packed)
    for part in data:
        size += len(part)
    return [_prefix.pack(_checked(size), len(packed)) + packed, *data]


def _packed(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError, TypeError, ValueError, OverflowError) as error:
        raise _malformed(f"it cannot be written: {error}") from error


class _Data:
    """The bytes after a head, taken tensor by tensor."""

    def __init__(self, view: memoryview, start: int) -> None:
        self._view = view
        self._start = start

    @property
    def left(self) -> int:
        return len(self._view) - self._start

    def tensors(self, described: Sequence[_Described]) -> dict[str, NDArray[Any]]:
        return {one.name: self._take(one) for one in described}

    def _take(self, one: _Described) -> NDArray[Any]:
        """Raises ValueError for a description that no array has, or that is not of these bytes."""
        dtype = DTYPES.get(one.datatype)
        if dtype is None or not 0 <= one.size <= self.left or any(length < 0 for length in one.shape):
            raise ValueError(f"the tensor {one.name!r} has {one.size} bytes of {one.datatype} {list(one.shape)}")
        end = self._start + one.size
        part = self._view[self._start : end]
        self._start = end
        count = prod(one.shape)
        if dtype.kind == "O":
            return _objects(part, count).reshape(one.shape)
        if one.size != count * dtype.itemsize:
            raise ValueError(f"the tensor {one.name!r} has {one.size} bytes, {count * dtype.itemsize} are wanted")
        if not part:
            return np.empty(one.shape, dtype)
        if dtype.kind == "b":
            return np.frombuffer(part, np.uint8).astype(np.bool_).reshape(one.shape)  # 2 would be neither of both
        array = np.frombuffer(part, dtype)
        return (array if array.flags.aligned else array.copy()).reshape(one.shape)


def _objects(part: memoryview, count: int) -> NDArray[Any]:
    items = _strings_decoder.decode(part)
    if len(items) != count or not _STRINGS.issuperset(map(type, items)):
        raise ValueError(f"{len(items)} values came where {count} strings are wanted")
    array = np.empty(count, object)
    array[:] = items
    return array


def _checked(size: int) -> int:
    if size > MAX_FRAME_BYTES:
        raise _malformed(f"it has {size} bytes, {MAX_FRAME_BYTES} is the most")
    return size


def _malformed(detail: str) -> DukouError:
    return DukouError(Reason.MALFORMED_REQUEST, detail=f"a frame cannot be read or written: {detail}")
