"""JSON bytes to Python values: three parsers, each for what it is best at.

Small bodies of a known form are decoded by msgspec (`decode`). `read` takes any JSON: first the large arrays are cut
out, which simdjson decodes, and the rest goes to msgspec. What that refuses goes to the standard library's parser,
which also knows NaN and the infinities. All agree on everything that two of them accept: duplicate keys (the last
wins), integers of any size, a byte order mark, lone surrogates (refused).

A parser holds the interpreter until it is done, and a value takes some 50 times the memory of the byte that says it.
So what becomes Python objects is bounded by `MOST_VALUES`; arrays are not, they cost no more than their bytes.
"""

import json
import re
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from dukou.core.errors import DukouError, Reason
from dukou.wire.json_cut import Cut, cut, quoted

T = TypeVar("T")

MAX_DEPTH = 100
"""Levels of lists and objects that are read; no tensor needs more."""

SMALL = 4096
"""Bodies up to this many bytes are read whole: no array in them is worth a cut (`bench/json_decode.py`)."""

MOST_VALUES = 500_000
"""Values of a body, besides the numbers of its large arrays: these take 0.1 s to parse."""

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


def read(body: bytes, trailing: bool = False, most_values: float = MOST_VALUES) -> Any:
    """Any JSON value; in bodies above `SMALL`, large rectangular lists of numbers are arrays (`json_cut.cut`).

    The arrays are int64, uint64 (both only where every number is an integer) or float64. NaN, Infinity and -Infinity
    are numbers. `trailing` ignores what follows the first complete value. Raises DukouError MALFORMED_JSON, TOO_DEEP,
    TOO_MANY_VALUES.
    """
    document = cut(body) if len(body) > SMALL else Cut(body)
    text = document.text
    if len(text) > most_values:
        _check_values(text, most_values)
    try:
        value = _any.decode(text)
    except (ValueError, RecursionError):
        value = _read_tolerant(document, trailing)
    if len(text) > SMALL or text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return _put_back(value, document) if document.arrays else value


def _check_values(text: bytes, most: float) -> None:
    """Count the values of a document: each but the first follows a comma or opens a list or an object."""
    marks = np.frombuffer(text, np.uint8)
    values = marks == ord(",")
    values |= marks == ord("[")
    values |= marks == ord("{")
    if np.count_nonzero(values) <= most:
        return
    values &= ~quoted(text)
    count = int(np.count_nonzero(values))
    if count > most:
        raise DukouError(Reason.TOO_MANY_VALUES, got=count, wanted=most)


def _read_tolerant(document: Cut, trailing: bool) -> Any:
    text = ""
    try:
        text = document.text.decode("utf-8-sig")
        start = cast("re.Match[str]", _blank.match(text)).end()
        if start == len(text):
            raise DukouError(Reason.MALFORMED_JSON, detail="The document is empty")
        value, end = _tolerant.raw_decode(text, start)
        rest = cast("re.Match[str]", _blank.match(text, end)).end()
        if rest < len(text) and not trailing:
            raise json.JSONDecodeError("more follows the first value", text, rest)
        if _surrogate.search(text):
            _check_depth(value)
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise DukouError(Reason.TOO_DEEP, wanted=MAX_DEPTH) from None
    except UnicodeDecodeError as error:
        offset = document.offset(error.start)
        raise DukouError(Reason.MALFORMED_JSON, detail=f"not UTF-8 at offset {offset}") from None
    except UnicodeEncodeError:
        raise DukouError(Reason.MALFORMED_JSON, detail="half of a surrogate pair in a string") from None
    except json.JSONDecodeError as error:
        offset = document.offset(len(text[: error.pos].encode()))
        raise DukouError(Reason.MALFORMED_JSON, detail=f"{error.msg.removesuffix(' at')} at offset {offset}") from None
    except ValueError:  # int() refuses numbers of more than 4300 digits, because its time is quadratic
        raise DukouError(Reason.MALFORMED_JSON, detail="a number has too many digits") from None
    return value


def _put_back(value: Any, document: Cut) -> Any:
    """The value with its arrays where their stand-ins are."""
    whole = [value]
    nodes: list[Any] = [whole]
    while nodes:
        node = nodes.pop()
        for key, child in node.items() if type(node) is dict else enumerate(node):
            if type(child) is dict and document.mark in child:
                node[key] = document.arrays[child[document.mark]]
            elif type(child) in (dict, list):
                nodes.append(child)
    return whole[0]


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
