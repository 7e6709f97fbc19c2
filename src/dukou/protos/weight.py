"""How much a message becomes in memory, known before protobuf makes it.

An empty message in a repeated field is two bytes on the wire and a hundred in memory; protobuf makes all of them in one
go, with the interpreter locked. So what becomes objects is counted first, by the message's own descriptor.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from dukou.core.errors import DukouError, Reason

MOST_RECORDS = 1_000_000
"""Fields in all, which take some hundred bytes each. A feature of a tensorflow.Example is five of them."""
PACKED_BYTES = 16
"""A packed number of variable length may be one byte on the wire and is eight in memory: so many count as a field."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_GROWING = {
    *(FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64),
    *(FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM),
}

Shape: TypeAlias = Mapping[int, Any]
"""Field number to the Shape of the messages there, or None for packed numbers of variable length; others are absent."""


@cache
def shape_of(descriptor: Any) -> Shape:
    """What of a message is to be looked into."""
    shape: dict[int, Any] = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            shape[field.number] = shape_of(field.message_type)
        elif field.type in _GROWING:
            shape[field.number] = None
    return shape


def check(descriptor: Any, data: bytes) -> None:
    """Raise DukouError TOO_MANY_VALUES for a message that holds more than MOST_RECORDS fields.

    What is no message is left for protobuf to say.
    """
    try:
        left = _count(shape_of(descriptor), data, 0, len(data), MOST_RECORDS)
    except IndexError:
        return
    if left < 0:
        raise DukouError(Reason.TOO_MANY_VALUES, got=f"more than {MOST_RECORDS}", wanted=MOST_RECORDS)


def _count(shape: Shape, data: bytes, at: int, end: int, left: int) -> int:
    """What is `left` after the fields of the message at `at:end`; counts no further once that is negative.

    Raises IndexError where the message is damaged.
    """
    while at < end and left >= 0:
        left -= 1
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(data, at - 1)
        kind = tag & 7
        if kind == _LENGTH:
            size = data[at]
            at += 1
            if size > 0x7F:
                size, at = _varint(data, at - 1)
            if size and (tag >> 3) in shape:
                inner = shape[tag >> 3]
                left = left - size // PACKED_BYTES if inner is None else _count(inner, data, at, at + size, left)
            at += size
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
    return left


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError
