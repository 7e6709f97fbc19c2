"""The little of protobuf's encoding that is read and written by hand, so that large fields need not be copied.

Protobuf copies a field of bytes twice on its way into Python, and once on its way out. Here such fields are cut out of
a message, which protobuf then reads without them, or put behind one that it has written: fields may come in any order.
Encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from dukou.core.errors import DukouError, Reason
from dukou.wire.raw_array import SMALL_BYTES, Raw

MOST_FIELDS = 4096
"""An empty message in a repeated field is two bytes on the wire and a hundred in memory."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10


def tag(field: int) -> int:
    """What a length-delimited field of that number, from 1 to 15, begins with."""
    return field << 3 | _LENGTH


def cut(message: bytes, taken: Mapping[int, list[Raw]]) -> bytes:
    """`message` without the fields whose tags are in `taken`; what they hold is appended to the lists there.

    Only the outermost fields are looked at; what is found in more than SMALL_BYTES are views. Raises DukouError
    MALFORMED_REQUEST for what is no message, and for more than MOST_FIELDS of them.
    """
    return b"".join(around(message, taken))


def around(message: bytes, taken: Mapping[int, list[Raw]]) -> Sequence[Raw]:
    """What `cut` leaves of a message, in pieces."""
    size = len(message)
    view = message if size <= SMALL_BYTES else memoryview(message)
    rest: list[Raw] = []
    begun = at = 0
    try:
        for _ in range(MOST_FIELDS + 1):
            if at >= size:
                break
            start = at
            begins = message[at]
            at += 1
            if begins > 0x7F:
                begins, at = _varint(message, start)
            if begins & 7 != _LENGTH:
                at = _after(message, begins & 7, at)
                continue
            length = message[at]
            at += 1
            if length > 0x7F:
                length, at = _varint(message, at - 1)
            into = taken.get(begins)
            if into is not None:
                if start > begun:
                    rest.append(view[begun:start])
                begun = at + length
                into.append(view[at:begun])
            at += length
        else:
            raise DukouError(Reason.MALFORMED_REQUEST, detail=f"the message has more than {MOST_FIELDS} fields")
    except IndexError:
        raise _damaged() from None
    if at > size:
        raise _damaged()
    if begun < size:
        rest.append(view[begun:])
    return rest


def _after(message: bytes, kind: int, at: int) -> int:
    """Where the field ends whose value, which is not length-delimited, begins at `at`. Raises IndexError."""
    if kind == _VARINT:
        return _varint(message, at)[1]
    if kind == _EIGHT_BYTES:
        return at + 8
    if kind == _FOUR_BYTES:
        return at + 4
    raise _damaged()


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises IndexError where the message ends before."""
    value = 0
    for shift in range(0, 7 * _MOST_VARINT_BYTES, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _damaged()


def _damaged() -> DukouError:
    return DukouError(Reason.MALFORMED_REQUEST, detail="the message is damaged or cut off")


@lru_cache(1024)
def head(field: int, size: int) -> bytes:
    """What stands before the `size` bytes of the length-delimited field of number `field`, which is below 16."""
    made = bytearray([tag(field)])
    while size > 0x7F:
        made.append(size & 0x7F | 0x80)
        size >>= 7
    made.append(size)
    return bytes(made)
