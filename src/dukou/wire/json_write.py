"""Arrays to JSON bytes.

orjson writes floats in the shortest form that is exact in their own precision, but NaN and the infinities as null;
they are written here as the tokens NaN, Infinity and -Infinity, which every Python client reads.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_null = re.compile(b"null")

FEW = 64
"""Up to this many values that Python has exactly are written faster as Python's own: 0.3 µs instead of 0.7 for one."""

SIX_DIGITS_ONE_BY_ONE = 16
"""Up to this many floats are formatted singly; more are rounded together (`bench/json_encode.py`)."""


def array_text(array: NDArray[Any]) -> bytes:
    """Nested lists of numbers, booleans or strings.

    Raises UnicodeError for elements that have no UTF-8 form, DukouError NOT_SUPPORTED for BF16, which has no JSON form.
    """
    kind = array.dtype.kind
    if kind in "OUS":
        return nested_text(texts(array.tolist()))
    if array.size <= FEW and (kind in "iub" or array.dtype.itemsize == 8):
        text = orjson.dumps(array.tolist())
    elif not array.ndim:
        return array_text(array.reshape(1))[1:-1]
    elif kind == "V":
        raise DukouError(Reason.NOT_SUPPORTED, detail="an output is BF16, which has no JSON form; ask for raw data")
    else:
        text = orjson.dumps(native(array), option=_NUMPY)
    return _with_tokens(text, array) if kind == "f" and b"null" in text else text


def split_rows(text: bytes, ndim: int, prefix: bytes = b"") -> list[bytes]:
    """The rows of an array of numbers out of its text, each behind `prefix`. It has `ndim` axes, and elements."""
    opening, closing = b"[" * (ndim - 1), b"]" * (ndim - 1)
    rows = text[ndim:-ndim].split(closing + b"," + opening)
    opening = prefix + opening
    return [opening + row + closing for row in rows]


def nested_text(value: Any) -> bytes:
    """Nested lists of what `texts` and `in_b64` return."""
    return orjson.dumps(value, option=_NUMPY)


def _with_tokens(text: bytes, array: NDArray[Any]) -> bytes:
    """`text`, orjson's form of `array`, with the null of every number that is not finite replaced by its token."""
    tokens = map(_token, array[~np.isfinite(array)].tolist())
    return _null.sub(lambda _: next(tokens), text)


def _token(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    return b"Infinity" if value > 0 else b"-Infinity"


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array as orjson wants it: contiguous, in this machine's byte order."""
    if array.flags.c_contiguous and array.dtype.isnative:
        return array
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def texts(value: Any) -> Any:
    """Nested lists of strings; numbers and booleans stay. Raises UnicodeError where an element has no UTF-8 form."""
    if isinstance(value, list):
        return [texts(child) for child in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, int | float):
        return value
    text = str(value)
    text.encode()
    return text


def in_b64(value: Any) -> Any:
    """Nested lists of `{"b64": ...}` for nested lists of strings or bytes. Raises UnicodeError as `texts` does."""
    if isinstance(value, list):
        return [in_b64(child) for child in value]
    raw = value if isinstance(value, bytes) else str(value).encode()
    return {"b64": base64.b64encode(raw).decode()}


def six_digit_text(array: NDArray[Any]) -> bytes:
    """Nested lists of floats with the numbers that TensorFlow Serving writes.

    A float has six significant digits where those are exact in the array's own precision, else nine (FP16, FP32) or
    what is exact (FP64); whole numbers end in `.0`. The numbers are that server's to the digit, but may be written
    otherwise: 0.00001 for 1e-05, and no digits that say nothing, as in 0.10000000000000001.
    """
    if array.dtype.itemsize == 8 or array.dtype.kind == "V":
        return array_text(array)
    if array.size <= SIX_DIGITS_ONE_BY_ONE:
        return _nested(array.tolist(), _SINGLE[array.dtype.itemsize]).encode()
    return array_text(_rounded(array))


def _nested(value: Any, one: Callable[[float], str]) -> str:
    if type(value) is not list:
        return one(value)
    if value and type(value[0]) is list:
        return "[" + ",".join([_nested(child, one) for child in value]) + "]"
    return "[" + ",".join(map(one, value)) + "]"


def _in_six_digits(precision: str, half_ulp: float, smallest_normal: float) -> Callable[[float], str]:
    pack, unpack = struct.Struct(precision).pack, struct.Struct(precision).unpack
    surely = half_ulp * smallest_normal

    def text_of(value: float) -> str:
        text = "%g" % value  # noqa: UP031, an f-string takes 1.6 times as long
        short = float(text)
        if short != value:
            exact_within = half_ulp * abs(value)
            if abs(short - value) > exact_within >= surely or unpack(pack(short))[0] != value:
                text = "%.9g" % value  # noqa: UP031
        if "." in text or "e" in text:
            return text
        return text + ".0" if math.isfinite(value) else _token(value).decode()

    return text_of


_SINGLE = {2: _in_six_digits("e", 2.0**-11, 2.0**-14), 4: _in_six_digits("f", 2.0**-24, 2.0**-126)}
"""Bytes of a float to the text of one."""


def _rounded(array: NDArray[Any]) -> NDArray[np.float64]:
    """Float64 numbers with six decimal digits where those are exact in `array`'s dtype, else nine."""
    exact = array.astype(np.float64)
    size = np.abs(exact)
    plain = (size > 10.0**-_REACH) & (size < 10.0**_REACH)
    exponent = np.floor(np.log10(size, out=np.zeros_like(exact), where=plain)).astype(np.intp)
    six = _to_digits(exact, exponent, 6)
    rounded = np.where(six.astype(array.dtype) == array, six, _to_digits(exact, exponent, 9))
    rest = ~plain & (size != 0)
    if rest.any():
        one = _SINGLE[array.dtype.itemsize]
        rounded[rest] = [float(one(value)) for value in exact[rest].tolist()]
    return rounded


_REACH = 13
_SCALES = {
    digits: (
        10.0 ** np.maximum(digits - 1 - np.arange(-_REACH, _REACH + 1), 0),
        10.0 ** np.maximum(np.arange(-_REACH, _REACH + 1) - digits + 1, 0),
    )
    for digits in (6, 9)
}
"""Powers of ten that make an integer of that many digits: to multiply by and to divide by, for each exponent."""


def _to_digits(exact: NDArray[np.float64], exponent: NDArray[np.intp], digits: int) -> NDArray[np.float64]:
    """Each number rounded to `digits` decimal digits, right for exponents within `_REACH`.

    All powers are at most 10**22, which float64 holds exactly, so that the way back from the integer gives the very
    float64 nearest to the decimal.
    """
    times, over = _SCALES[digits]
    up, down = times[exponent + _REACH], over[exponent + _REACH]
    return np.asarray(np.rint(exact * up / down) / up * down)


def quote(value: Any, most: int = 256) -> str:
    """The JSON text of any parsed value, for error messages: at most `most` characters, whatever the value's size."""
    text = ""
    for piece in _quoting.iterencode(value):
        text += piece
        if len(text) > most:
            return text[:most] + "..."
    return text


_quoting = json.JSONEncoder(ensure_ascii=False, default=lambda array: array.ravel()[:64].tolist())


LONGEST_ERROR = 2000
"""Characters of an error message that are sent; names and labels in it are the caller's own and may be any size."""


def error_text(message: str) -> bytes:
    """`{"error": message}`; half surrogate pairs, which a URL can hold, become question marks."""
    if len(message) > LONGEST_ERROR:
        message = message[:LONGEST_ERROR] + "..."
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})
