"""PredictRequests that come again with other values.

A client's requests differ in the values of their tensors, and in nothing else. Once one has been read and bound, the
bytes around its values are remembered: a body of the same length that has the same bytes in the same places has the
same form, because the lengths of all fields are among those bytes. Its values are then taken from where they lie, and
protobuf, which takes 3 µs for a row and copies large tensors twice, is not asked.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.message import InferenceRequest, Served
from dukou.core.model import ModelManifest, Signature
from dukou.core.tensor import datatype_of
from dukou.core.version import ModelRef
from dukou.wire.raw_array import SMALL_BYTES

MOST_FIXED_BYTES = 1024
"""Of a request beside its values; one that has more is read anew each time."""

MOST_LENGTHS, MOST_FORMS = 256, 4
"""How many lengths of bodies are remembered, and how many forms of each."""


_Tensor: TypeAlias = tuple[str, int, int, np.dtype[Any], tuple[int, ...]]


class Known(msgspec.Struct, frozen=True):
    """The form of a request, and what it came to when it was bound to `manifest`.

    `tensors` has of each input its name, the place of its values and their end, its dtype and its shape; `fixed` are
    the bytes between those, with their places.
    """

    ref: ModelRef
    manifest: ModelManifest
    signature: Signature
    tensors: tuple[_Tensor, ...]
    fixed: tuple[tuple[int, bytes], ...]
    outputs: tuple[str, ...]
    rows: int


@lru_cache(MOST_LENGTHS)
def _forms(length: int) -> list[Known]:
    """The known forms of bodies of `length` bytes, the newest first."""
    return []


def find(body: bytes) -> Known | None:
    """The form of a body, where it is known."""
    for known in _forms(len(body)):
        for place, piece in known.fixed:
            if not body.startswith(piece, place):
                break
        else:
            return known
    return None


def arrays(known: Known, body: bytes) -> dict[str, NDArray[Any]]:
    """The inputs that a body of a known form holds: views of it where they are large and aligned."""
    inputs = {}
    for name, start, end, dtype, shape in known.tensors:
        if end - start <= SMALL_BYTES:
            inputs[name] = np.ndarray(shape, dtype, body[start:end])
        else:
            array: NDArray[Any] = np.ndarray(shape, dtype, body, start)
            inputs[name] = array if array.flags.aligned else array.copy()
    return inputs


def learn(body: bytes, ref: ModelRef, served: Served, request: InferenceRequest) -> None:
    """Remember the form of a body that was bound to `request`, where its values lie in it as memory has them."""
    inputs = request.inputs
    size = sum(array.nbytes for array in inputs.values())
    if not 0 < len(body) - size <= MOST_FIXED_BYTES or any(array.dtype.kind in "bO" for array in inputs.values()):
        return
    try:
        places = [*_values(body)]
    except ValueError:
        return
    if len(places) != len(inputs):
        return
    tensors: list[_Tensor] = []
    for key, (begins, start, end) in places:
        name = key.decode()  # protobuf has read it
        array = inputs[name]
        holds = begins in (_TENSOR_CONTENT, _AS_MEMORY.get(datatype_of(array)))
        if not holds or end - start != array.nbytes or not _same(array, body, start, end):
            return
        tensors.append((name, start, end, array.dtype, array.shape))
    known = Known(
        ref, served.manifest, request.signature, tuple(tensors), _between(body, tensors), request.outputs, request.rows
    )
    forms = _forms(len(body))
    forms[:] = [known, *[form for form in forms if form.fixed != known.fixed]][:MOST_FORMS]


def _same(array: NDArray[Any], body: bytes, start: int, end: int) -> bool:
    return bool(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data == memoryview(body)[start:end])


def _between(body: bytes, tensors: Sequence[_Tensor]) -> tuple[tuple[int, bytes], ...]:
    fixed = []
    at = 0
    for _, start, end, _, _ in tensors:
        fixed.append((at, body[at:start]))
        at = end
    fixed.append((at, body[at:]))
    return tuple(fixed)


_INPUTS, _KEY, _VALUE = 0x12, 0x0A, 0x12
_TENSOR_CONTENT = 0x22
_AS_MEMORY = {"FP32": 0x2A, "FP64": 0x32}
"""Datatype to the list that holds its values as memory has them. All these are what the fields begin with."""


def _values(body: bytes) -> Iterator[tuple[bytes, tuple[int, int, int]]]:
    """The name of each input, what its values begin with, and where they lie.

    Raises ValueError for what is no such message, and for forms of it that no client writes.
    """
    for begins, start, end in _fields(body, 0, len(body)):
        if begins != _INPUTS:
            continue
        parts = [*_fields(body, start, end)]
        if [part[0] for part in parts] != [_KEY, _VALUE]:
            raise ValueError("not a key and a value")
        (_, key, key_end), (_, value, value_end) = parts
        found = [part for part in _fields(body, value, value_end) if part[0] in (_TENSOR_CONTENT, *_AS_MEMORY.values())]
        if len(found) != 1:
            raise ValueError("not one piece of values")
        yield body[key:key_end], found[0]


_VARINT, _LENGTH = 0, 2
_MOST_FIELDS = 64


def _fields(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """What the fields from `at` to `end` begin with, and where those lie that have a length. Raises ValueError."""
    for _ in range(_MOST_FIELDS):
        if at == end:
            return
        begins, at = _varint(body, at)
        if begins & 7 == _LENGTH:
            length, at = _varint(body, at)
            yield begins, at, at + length
            at += length
        elif begins & 7 == _VARINT:
            at = _varint(body, at)[1]
        else:
            raise ValueError("a field of a kind that PredictRequest has not")
        if at > end:
            raise ValueError("cut off")
    raise ValueError("too many fields")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises ValueError."""
    value = 0
    for place in range(at, min(at + 10, len(body))):
        value |= (body[place] & 0x7F) << 7 * (place - at)
        if body[place] < 0x80:
            return value, place + 1
    raise ValueError("no number")
