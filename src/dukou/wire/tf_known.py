"""PredictRequests that come again with other values.

A client's requests differ in the values of their tensors, and in nothing else. Once one has been read and bound, the
bytes around its values are remembered: a body of the same length that has the same bytes in the same places has the
same form, because the lengths of all fields are among those bytes. Its values are then taken from where they lie, and
protobuf, which takes 3 µs for a row and copies large tensors twice, is not asked.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.message import InferenceRequest, Served
from dukou.core.model import ModelManifest, Signature
from dukou.core.tensor import DTYPES, Tensors
from dukou.core.version import ModelRef
from dukou.wire.raw_array import SMALL_BYTES
from dukou.wire.tf_kinds import DATATYPES, KINDS

MOST_FIXED_BYTES = 1024
"""Of a request beside its values; one that has more is read anew each time."""

MOST_LENGTHS, MOST_FORMS = 256, 4
"""How many lengths of bodies are remembered, and how many forms of each."""


_Tensor: TypeAlias = tuple[str, int, int, np.dtype[Any], np.dtype[Any], tuple[int, ...]]


class Known(msgspec.Struct, frozen=True):
    """The form of a request, and what it came to when it was bound to `manifest`.

    `tensors` has of each input its name, the place of its values and their end, the dtype that they have, the one that
    the signature wants, and the shape; `fixed` are the bytes between those, with their places.
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


def forget() -> None:
    """Forget all forms."""
    _forms.cache_clear()


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
    for name, start, end, came, wanted, shape in known.tensors:
        array: NDArray[Any]
        if end - start <= SMALL_BYTES:
            array = np.ndarray(shape, came, body[start:end])
        else:
            array = np.ndarray(shape, came, body, start)
            if not array.flags.aligned:
                array = array.copy()
        inputs[name] = array if came is wanted else array.astype(wanted)
    return inputs


def learn(body: bytes, message: Any, ref: ModelRef, served: Served, request: InferenceRequest) -> None:
    """Remember the form of a body, which holds `message` and was bound to `request`, where its values lie in it as
    memory has them."""
    tensors = _tensors(body, message.inputs, request.inputs)
    if not tensors:
        return
    known = Known(
        ref, served.manifest, request.signature, tensors, _between(body, tensors), request.outputs, request.rows
    )
    forms = _forms(len(body))
    forms[:] = [known, *[form for form in forms if form.fixed != known.fixed]][:MOST_FORMS]


def _tensors(body: bytes, came: Any, bound: Tensors) -> tuple[_Tensor, ...]:
    """Where the values of all inputs lie; nothing where those of one of them do not lie so.

    They do if a tensor's only piece of values is of the size of its array: then none was filled up or cut off.
    """
    sizes = {}
    for name, array in bound.items():
        datatype = DATATYPES[came[name].dtype]
        dtype = DTYPES[datatype]
        if dtype.kind in "bO" or (dtype.kind in "iu" and getattr(came[name], KINDS[datatype].field)):
            return ()  # not every byte is a value, or not as memory has it
        sizes[name] = (dtype, array.size * dtype.itemsize)
    if not 0 < len(body) - sum(size for _, size in sizes.values()) <= MOST_FIXED_BYTES:
        return ()
    try:
        places = [*_values(body)]
    except ValueError:
        return ()
    tensors: dict[str, _Tensor] = {}
    for key, (begins, start, end) in places:
        name = key.decode()  # protobuf has read it
        dtype, size = sizes[name]
        if (begins != _TENSOR_CONTENT and dtype is not _AS_MEMORY[begins]) or end - start != size:
            return ()
        tensors[name] = (name, start, end, dtype, bound[name].dtype, bound[name].shape)
    return tuple([tensors[name] for name in bound]) if len(places) == len(tensors) == len(bound) else ()


def _between(body: bytes, tensors: Sequence[_Tensor]) -> tuple[tuple[int, bytes], ...]:
    fixed = []
    at = 0
    for _, start, end, *_ in sorted(tensors, key=itemgetter(1)):
        fixed.append((at, body[at:start]))
        at = end
    fixed.append((at, body[at:]))
    return tuple(fixed)


_INPUTS, _KEY, _VALUE = 0x12, 0x0A, 0x12
_TENSOR_CONTENT = 0x22
_AS_MEMORY = {0x2A: DTYPES["FP32"], 0x32: DTYPES["FP64"]}
"""The lists that hold their values as memory has them, and what dtype. All these are what the fields begin with."""


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
        found = [
            part for part in _fields(body, value, value_end) if part[0] == _TENSOR_CONTENT or part[0] in _AS_MEMORY
        ]
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
