"""JSON bytes to Python values: three parsers, each for what it is best at.

Small bodies of a known form are decoded by msgspec (`decode`). `read` takes any JSON: small bodies again by msgspec,
larger ones by simdjson, which gives rectangular lists of numbers as NumPy arrays. What these two refuse goes to the
standard library's parser, which also knows NaN and the infinities. All three agree on everything that two of them
accept: duplicate keys (the last wins), integers of any size, a byte order mark, lone surrogates (refused).
"""

import json
import math
import re
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import simdjson
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason

T = TypeVar("T")

MAX_DEPTH = 100
"""Levels of lists and objects that are read; no tensor needs more."""

SMALL = 4096
"""Bodies up to this many bytes are faster by msgspec, larger ones by simdjson (`bench/json_decode.py`)."""

FEW = 64
"""Lists of up to this many numbers stay lists; lists of more objects and objects of more members are not searched for
arrays, they hold records."""

_any = msgspec.json.Decoder()
_tolerant = json.JSONDecoder()
_blank = re.compile(r"[ \t\n\r]*")
_surrogate = re.compile(r"\\u[dD][89a-fA-F]")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    """A small body of the decoder's form; None for every other, which `read` must judge."""
    if len(body) > SMALL:
        return None
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError):
        return None


def read(body: bytes, trailing: bool = False) -> Any:
    """Any JSON value; in bodies above `SMALL`, rectangular lists of more than `FEW` numbers are arrays.

    The arrays are int64, uint64 (both only where every number is an integer) or float64. NaN, Infinity and -Infinity
    are numbers. `trailing` ignores what follows the first complete value. Raises DukouError MALFORMED_JSON, TOO_DEEP.
    """
    try:
        value = _Large(body).value if len(body) > SMALL else _any.decode(body)
    except (ValueError, RuntimeError):  # RecursionError too; simdjson says BIGINT_ERROR and DEPTH_ERROR as RuntimeError
        value = _read_tolerant(body, trailing)
    if len(body) > SMALL or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def _read_tolerant(body: bytes, trailing: bool) -> Any:
    try:
        text = body.decode("utf-8-sig")
        start = cast("re.Match[str]", _blank.match(text)).end()
        if start == len(text):
            raise DukouError(Reason.MALFORMED_JSON, detail="The document is empty")
        value, end = _tolerant.raw_decode(text, start)
        rest = cast("re.Match[str]", _blank.match(text, end)).end()
        if rest < len(text) and not trailing:
            raise DukouError(Reason.MALFORMED_JSON, detail=f"more follows the first value at offset {rest}")
        if _surrogate.search(text):
            _check_depth(value)
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise DukouError(Reason.TOO_DEEP, wanted=MAX_DEPTH) from None
    except UnicodeDecodeError as error:
        raise DukouError(Reason.MALFORMED_JSON, detail=f"not UTF-8 at offset {error.start}") from None
    except UnicodeEncodeError:
        raise DukouError(Reason.MALFORMED_JSON, detail="half of a surrogate pair in a string") from None
    except json.JSONDecodeError as error:
        raise DukouError(Reason.MALFORMED_JSON, detail=f"{error.msg} at offset {error.pos}") from None
    except ValueError:  # int() refuses numbers of more than 4300 digits, because its time is quadratic
        raise DukouError(Reason.MALFORMED_JSON, detail="a number has too many digits") from None
    return value


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, list | dict)
        ]
        if not level:
            return
    raise DukouError(Reason.TOO_DEEP, wanted=MAX_DEPTH)


class _Large:
    """A large document by simdjson. `value` is its tree, with arrays where lists of numbers are rectangular.

    simdjson flattens nested lists of numbers into a buffer without a look at their lengths. So the lengths are read
    first, level by level; a list hidden among the numbers themselves shows in the count of brackets.
    """

    def __init__(self, body: bytes) -> None:
        document = simdjson.Parser().parse(body)
        self._lists = 0
        self.value = self._tree(document)
        if self._lists != np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")):  # 3 times as fast as body.count
            self.value = _plain(document)

    def _tree(self, node: Any) -> Any:
        kind = type(node)
        if kind is simdjson.Object:
            names = list(node)  # `items` would make lists of all arrays
            if len(names) > FEW or len(set(names)) < len(names) or any("\0" in name for name in names):
                # Names are searched from the start: slow if many, the first of two, and ended by a NUL.
                return node.as_dict()
            return {name: self._tree(node[name]) for name in names}
        if kind is not simdjson.Array:
            return node
        array = self._array(node)
        if array is not None:
            return array
        self._lists += 1
        if 0 < len(node) <= FEW and type(node[0]) is simdjson.Object:
            return [self._tree(child) for child in node]
        return node.as_list()

    def _array(self, node: Any) -> NDArray[Any] | list[Any] | None:
        """The array (the list, if small) of a rectangular list of numbers; None for every other list."""
        level, lists = [node], 0
        shape: list[int] = []
        while True:
            sizes = set(map(len, level))
            lists += len(level)
            shape.append(sizes.pop())
            if sizes or not shape[-1]:
                break
            first = level[0][0]
            if type(first) is not simdjson.Array:
                size = math.prod(shape)
                numbers = _numbers(node, first)
                if numbers is None or numbers.size != size:
                    break
                self._lists += lists
                return numbers.reshape(shape) if size > FEW else cast("list[Any]", node.as_list())
            level = [child for parent in level for child in parent]
            if set(map(type, level)) != {simdjson.Array}:
                break
        return None


_KINDS: tuple[tuple[str, type[np.generic]], ...] = (("i", np.int64), ("u", np.uint64), ("d", np.float64))


def _numbers(node: Any, first: Any) -> NDArray[Any] | None:
    """All numbers of a list, flat. Integers stay integers where all are."""
    if type(first) not in (int, float):
        return None
    for kind, dtype in _KINDS if type(first) is int else _KINDS[-1:]:
        try:
            return np.frombuffer(node.as_buffer(of_type=kind), dtype)
        except (TypeError, ValueError):
            continue
    return None


def _plain(node: Any) -> Any:
    if isinstance(node, simdjson.Array):
        return node.as_list()
    return node.as_dict() if isinstance(node, simdjson.Object) else node
