"""Arrays to JSON bytes."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dukou.core.errors import DukouError, Reason
from dukou.core.tensor import DTYPES
from dukou.wire import json_write
from dukou.wire.json_write import (
    LONGEST_ERROR,
    SIX_DIGITS_ONE_BY_ONE,
    array_text,
    error_text,
    in_b64,
    quote,
    six_digit_text,
)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([1, 2]), b"[1,2]"),
        (np.array([[True], [False]]), b"[[true],[false]]"),
        (np.array([0.1, 5.0], np.float32), b"[0.1,5.0]"),
        (np.array([0.1, 1 / 3]), b"[0.1,0.3333333333333333]"),
        (np.array([np.nan, np.inf, -np.inf, 1.0]), b"[NaN,Infinity,-Infinity,1.0]"),
        (np.array([[np.nan, 1.0], [2.0, np.inf]], np.float32), b"[[NaN,1.0],[2.0,Infinity]]"),
        (np.array([np.nan, 0.5], np.float16), b"[NaN,0.5]"),
        (np.array(2.5), b"2.5"),
        (np.array(np.nan), b"NaN"),
        (np.array(7), b"7"),
        (np.zeros((0, 3), np.float32), b"[]"),
        (np.array(["a", "null"], object), b'["a","null"]'),
        (np.array([b"hi", "x"], object), b'["hi","x"]'),
        (np.array("one", object), b'"one"'),
        (np.array([[True, 3, "a", 0.5]], object), b'[[true,3,"a",0.5]]'),
        (np.array(["a", "b"]), b'["a","b"]'),
        (np.array([2**64 - 1], np.uint64), b"[18446744073709551615]"),
        (np.arange(6).reshape(2, 3)[:, ::2], b"[[0,2],[3,5]]"),
        (np.array([1, 2], ">i4"), b"[1,2]"),
    ],
)
def test_an_array_is_written_exactly(array: Any, text: bytes) -> None:
    """Floats in the shortest form of their own precision, what is not finite as a token."""
    assert array_text(array) == text


def test_bytes_that_are_no_text_are_not_guessed_at() -> None:
    """The protocol that asks decides what to say."""
    for element in (b"\xff", "\ud800"):
        with pytest.raises(UnicodeError):
            array_text(np.array([[element]], object))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (100,)])
@pytest.mark.parametrize("write", [array_text, six_digit_text])
def test_bf16_has_no_json_form(write: Any, shape: tuple[int, ...]) -> None:
    """Its bits are no number that a reader would understand."""
    with pytest.raises(DukouError) as caught:
        write(np.zeros(shape, DTYPES["BF16"]))

    assert caught.value.reason is Reason.NOT_SUPPORTED


@given(
    st.sampled_from([name for name in DTYPES if name not in ("BYTES", "BF16")]).flatmap(
        lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, max_dims=3, min_side=1))
    )
)
def test_what_is_written_reads_as_the_same_array(array: Any) -> None:
    """For every datatype, not-finite numbers included."""
    result = np.array(json.loads(array_text(array)), array.dtype)

    assert result.shape == array.shape
    assert np.array_equal(result, array, equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (2.05, np.float32, "2.05"),
        (0.1, np.float32, "0.1"),
        (3.0, np.float32, "3.0"),
        (0.0, np.float32, "0.0"),
        (-0.0, np.float32, "-0.0"),
        (9_000_000.0, np.float32, "9e+06"),
        (0.00003, np.float32, "3e-05"),
        (1_234_567.0, np.float32, "1234567.0"),
        (123_456.0, np.float32, "123456.0"),
        (0.98190755, np.float32, "0.981907547"),
        (1 / 3, np.float64, "0.3333333333333333"),
        (0.1, np.float64, "0.1"),
        (1 / 3, np.float16, "0.333252"),
        (np.nan, np.float32, "NaN"),
        (np.inf, np.float32, "Infinity"),
        (-np.inf, np.float64, "-Infinity"),
        (np.finfo(np.float32).max, np.float32, "3.40282347e+38"),
        (np.finfo(np.float32).smallest_subnormal, np.float32, "1.4013e-45"),
        (np.finfo(np.float64).max, np.float64, "1.7976931348623157e+308"),
    ],
)
def test_a_float_has_six_digits_or_all(value: float, dtype: type, text: str) -> None:
    """As TensorFlow Serving writes it: short where that is exact in the tensor's precision, whole numbers with .0."""
    assert six_digit_text(np.array(value, dtype)) == text.encode()
    assert six_digit_text(np.array([[value]], dtype)) == f"[[{text}]]".encode()


@given(hnp.arrays(np.float32, SIX_DIGITS_ONE_BY_ONE + 20))
@example(np.array([0.5 * 10.0**exponent for exponent in range(-45, 39)], np.float32))
@example(np.array([10.0**exponent for exponent in range(-45, 39)], np.float32))
@example(np.array([1.0000001 * 10.0**exponent for exponent in range(-45, 38)], np.float32))
@example(np.linspace(-1, 1, 1001, dtype=np.float32))
@example(np.random.default_rng(0).random(10_000).astype(np.float32))
@example(np.random.default_rng(0).normal(0, 1e5, 10_000).astype(np.float32))
def test_many_floats_are_the_same_numbers_as_single_ones(array: Any) -> None:
    """Rounding all at once gives the decimal digits that writing each float gives."""
    one = json_write._SINGLE[array.dtype.itemsize]
    singly = [float(one(value)) for value in array.tolist()]

    together = json.loads(six_digit_text(array))

    assert len(array) > SIX_DIGITS_ONE_BY_ONE
    assert np.array_equal(np.array(together), np.array(singly), equal_nan=True)


def test_bytes_are_written_in_base64_at_any_depth() -> None:
    """Text counts as its UTF-8."""
    tree = in_b64([[b"hello"], ["é"]])

    assert tree == [[{"b64": "aGVsbG8="}], [{"b64": "w6k="}]]
    assert in_b64(b"hello") == {"b64": "aGVsbG8="}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", '"x"'),
        (None, "null"),
        (True, "true"),
        (math.nan, "NaN"),
        ({"a": [1, 2.5]}, '{"a": [1, 2.5]}'),
        (np.array([[1, 2]]), "[1, 2]"),
        ("é", '"é"'),
    ],
)
def test_a_value_is_quoted_as_json(value: Any, text: str) -> None:
    """For error messages."""
    assert quote(value) == text


def test_a_quotation_is_short_whatever_is_quoted() -> None:
    """An error never repeats a large body."""
    for value in ("x" * 10_000, [1] * 10_000, np.ones(100_000), {"a": {"b": [[1] * 10_000]}}):
        assert len(quote(value)) < 300


def test_an_error_is_json_whatever_its_text() -> None:
    """Half of a surrogate pair can come from a URL."""
    assert json.loads(error_text('no "label" \ud800')) == {"error": 'no "label" ?'}


def test_an_error_is_never_long() -> None:
    """Names that the caller chose are not sent back whole."""
    assert len(error_text("x" * 1_000_000)) < LONGEST_ERROR + 20
