"""Large arrays cut out of JSON text, so that their numbers never become Python objects.

What an array costs is a few passes over its bytes in C: nothing is done for each number or each row. The document that
remains is small, whatever the arrays' size, and goes to an ordinary parser.
"""

import secrets
import threading
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import simdjson
from msgspec import Struct
from numpy.typing import NDArray

LEAST_BYTES = 4096
"""Lists written in fewer bytes are not worth the cut."""

FEW = 64
"""Lists of up to this many numbers stay lists, however much space they are written with."""

MOST_QUOTES = 4_000_000
"""Documents with more hold strings, not large arrays; nothing is cut out of them."""

LONG_BYTES = 512
"""Arrays whose lists take this many bytes or more are checked list by list, others byte by byte: 7 ms instead of 13 for
1x3x224x224 floats, and 0.06 instead of 0.08 for 256 rows of four (`bench/json_decode.py`)."""

MOST_KEPT_BYTES = 8_388_608
"""A thread's parser keeps the memory of texts up to this size, some four times as much."""

MAX_RANK = 32
"""Axes that every NumPy supports."""


class Cut(Struct):
    """A document without its large arrays. In `text` each is replaced by the object `{mark: place in arrays}`.

    `mark` is random, so that nobody can send it. `spans` are the first and last byte offsets of the arrays before.
    """

    text: bytes
    mark: str = ""
    arrays: list[NDArray[np.generic]] = []
    spans: list[tuple[int, int]] = []

    def offset(self, place: int) -> int:
        """The byte offset, in the document as it came, of `place` in `text`."""
        for number, (start, end) in enumerate(self.spans):
            if place <= start:
                break
            place += end - start - len(_stand_in(self.mark, number))
        return place


def _stand_in(mark: str, number: int) -> bytes:
    # An object, not a string: as the key of a member it is refused just as an array is.
    return b'{"%b":%d}' % (mark.encode(), number)


def cut(document: bytes, least_bytes: int = LEAST_BYTES, few: int = FEW) -> Cut:
    """The document without its rectangular lists of numbers of `least_bytes` and more than `few` numbers."""
    result = Cut(document, secrets.token_hex(16), [], [])
    kept, before = [], 0
    for start, end in _candidates(document, least_bytes):
        array = array_of(document[start:end])
        if array is None or array.size <= few:
            continue
        kept += [document[before:start], _stand_in(result.mark, len(result.arrays))]
        before = end
        result.arrays.append(array)
        result.spans.append((start, end))
    if kept:
        result.text = b"".join([*kept, document[before:]])
    return result


def _candidates(document: bytes, least_bytes: int) -> Iterator[tuple[int, int]]:
    """Where large arrays may be: from the first `[` between two strings to the last `]` before a brace."""
    places = _quote_places(document)
    if len(places) > MOST_QUOTES:
        return
    edges = np.concatenate(([-1], places, [len(document)]))
    ends = edges[1::2]
    starts = edges[0::2][: len(ends)] + 1
    long = ends - starts >= least_bytes
    for start, stop in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
        first = document.find(b"[", start, stop)
        if first < 0:
            continue
        braces = document.find(b"{", first, stop), document.find(b"}", first, stop)
        last = document.rfind(b"]", first, min((place for place in braces if place >= 0), default=stop)) + 1
        if last - first >= least_bytes:
            yield first, last


def _quote_places(document: bytes) -> NDArray[np.intp]:
    """Where strings begin and end. Few of them are found one by one, without a look at every byte by itself."""
    places: list[int] = []
    place = document.find(b'"')
    while place >= 0 and len(places) < FEW:
        places.append(place)
        place = document.find(b'"', place + 1)
    if place >= 0 or b"\\" in document:
        return np.flatnonzero(_quotes(document))
    return np.array(places, np.intp)


def _quotes(document: bytes) -> NDArray[np.bool_]:
    """For each byte, whether a string begins or ends with it."""
    if b"\\" in document:
        document = document.replace(rb"\\", b"__").replace(rb"\"", b"__")
    quotes: NDArray[np.bool_] = np.frombuffer(document, np.uint8) == ord('"')
    return quotes


def quoted(document: bytes) -> NDArray[np.bool_]:
    """For each byte, whether it belongs to a string."""
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(_quotes(document))
    return inside


_NUMERIC = b"0123456789+-.eE \t\r\n"
_TOKENS = ((b"-Infinity", -np.inf), (b"Infinity", np.inf), (b"NaN", np.nan))
"""Each is replaced by the control character of its place here, which JSON never has, and that by a zero."""
_CONTROLS = bytes(range(len(_TOKENS)))
_TO_ZEROS = bytes.maketrans(_CONTROLS, b"0" * len(_TOKENS))


def array_of(text: bytes, long_bytes: int = LONG_BYTES) -> NDArray[np.generic] | None:
    """The array of nested lists of numbers, int64 or uint64 where all are such integers, else float64.

    None for every other text: no JSON, ragged lists, lists without numbers, integers that no 64 bits hold. Lists of
    `long_bytes` on average are looked at one by one.
    """
    tokens = b"N" in text or b"I" in text
    if not tokens:
        lists = int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("[")))
        if lists * long_bytes <= len(text):
            return _array_of_few_lists(text, lists)
    if tokens:
        for control, (token, _) in zip(_CONTROLS, _TOKENS, strict=True):
            if control in text:
                return None
            # The spaces keep it apart from what stands beside it: 1NaN is no number.
            text = text.replace(token, b" %c " % control)
    structure = text.translate(None, _NUMERIC)
    shape = _shape(structure.translate(None, _CONTROLS) if tokens else structure)
    if shape is None:
        return None
    parsed = _parse(text.translate(_TO_ZEROS) if tokens else text)
    array = _numbers(parsed, floats=tokens) if parsed is not None else None
    if array is None or array.size != np.prod(shape, dtype=object):
        return None
    return (_with_tokens(array, structure) if tokens else array).reshape(shape)


def _array_of_few_lists(text: bytes, brackets: int) -> NDArray[np.generic] | None:
    """The same for text without tokens, looking at each list: faster than at each byte where lists are long.

    The lengths of all lists of a level are equal, and no bracket is left that would be a list among the numbers.
    """
    parsed = _parse(text)
    if parsed is None:
        return None
    level: list[Any] = [parsed]
    lists = 0
    shape: list[int] = []
    while True:
        sizes = set(map(len, level))
        lists += len(level)
        shape.append(sizes.pop())
        if sizes or not shape[-1] or len(shape) > MAX_RANK:
            return None
        if type(level[0][0]) is not simdjson.Array:
            break
        level = [child for parent in level for child in parent]
        if set(map(type, level)) != {simdjson.Array}:
            return None
    if lists != brackets:
        return None
    array = _numbers(parsed, floats=False)
    return array.reshape(shape) if array is not None and array.size == np.prod(shape, dtype=object) else None


def _shape(structure: bytes) -> tuple[int, ...] | None:
    """The shape of nested lists that are rectangular, of their brackets and commas; None where they are not.

    From the innermost axis out: its first list has all its elements written alike, or it is not rectangular.
    """
    rank = len(structure) - len(structure.lstrip(b"["))
    if not 0 < rank <= MAX_RANK:
        return None
    element, shape = b"", []
    for axis in reversed(range(rank)):
        end = structure.find(b"]" * (rank - axis)) + rank - axis
        size = (end - axis - 1) // (len(element) + 1)
        rectangle = b"[" + ((element + b",") * size)[:-1] + b"]"
        if structure[axis:end] != rectangle:
            return None
        element = rectangle
        shape.append(size)
    return tuple(reversed(shape)) if element == structure else None


_KINDS: tuple[tuple[Literal["i", "u", "d"], type[np.generic]], ...] = (
    ("i", np.int64),
    ("u", np.uint64),
    ("d", np.float64),
)


class _Own(threading.local):
    """Each thread's parser, whose memory is used again: fresh memory for 3 MB of text costs 4 of 12 ms."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_own = _Own()


def _parse(text: bytes) -> simdjson.Array | None:
    """Text that begins with a bracket as simdjson has it; None for no JSON, too deep, integers of more than 64 bits."""
    parser = _own.parser if len(text) <= MOST_KEPT_BYTES else simdjson.Parser()
    try:
        parsed = parser.parse(text)
    except (ValueError, RuntimeError):
        return None
    assert isinstance(parsed, simdjson.Array), "the text begins with a bracket"
    return parsed


def _numbers(parsed: simdjson.Array, floats: bool) -> NDArray[np.generic] | None:
    """All numbers of nested lists, flat."""
    for kind, dtype in _KINDS[-1:] if floats else _KINDS:
        try:
            return np.frombuffer(parsed.as_buffer(of_type=kind), dtype)
        except (TypeError, ValueError):
            continue
    return None


def _with_tokens(array: NDArray[np.generic], structure: bytes) -> NDArray[np.generic]:
    """The array with the token's value wherever `structure` has its control character."""
    marks = np.frombuffer(structure, np.uint8)
    places = np.flatnonzero(marks < len(_TOKENS))
    commas = np.cumsum(marks == ord(","), dtype=np.int32)  # before the n-th number of a rectangle are n commas
    filled = array.copy()
    filled[commas[places]] = np.array([value for _, value in _TOKENS])[marks[places]]
    return filled
