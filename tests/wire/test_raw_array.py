"""Raw tensor data: every datatype both ways, sizes that do not fit, hostile lengths."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dukou.core.errors import DukouError, Reason
from dukou.core.tensor import DTYPES
from dukou.wire.json_text import MOST_VALUES
from dukou.wire.raw_array import SMALL_BYTES, from_raw, to_raw

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMBERS = st.sampled_from([name for name in DTYPES if name not in ("BYTES", "BF16")]).flatmap(
    lambda name: st.tuples(st.just(name), hnp.arrays(DTYPES[name], SHAPES))
)
BF16 = hnp.arrays(np.uint16, SHAPES).map(lambda bits: ("BF16", bits.view(DTYPES["BF16"])))
STRINGS = hnp.arrays(object, SHAPES, elements=st.binary(max_size=5), fill=st.nothing()).map(
    lambda array: ("BYTES", array)
)


def refused(data: bytes, datatype: str, shape: Any) -> DukouError:
    with pytest.raises(DukouError) as caught:
        from_raw(data, datatype, shape, "x")
    return caught.value


def string(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<I", len(text) if length is None else length) + text


@given(NUMBERS | BF16 | STRINGS, st.integers(0, 9))
def test_every_array_comes_back_as_it_went(named: tuple[str, Any], offset: int) -> None:
    """To the bit, in its shape, wherever in a body the data begins."""
    datatype, array = named
    body = memoryview(b"x" * offset + bytes(to_raw(array)))

    result = from_raw(body[offset:], datatype, array.shape, "x")

    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert result.flags.aligned
    assert result.tolist() == array.tolist() or result.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("array", "data"),
    [
        (np.array([1, 256], np.int32), b"\x01\0\0\0\0\x01\0\0"),
        (np.array([1, 256], ">i4"), b"\x01\0\0\0\0\x01\0\0"),
        (np.array([[1, 2], [3, 4]], np.uint8).T, b"\x01\x03\x02\x04"),
        (np.array([True, False]), b"\x01\x00"),
        (np.array(["a", "é"], object), b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"),
        (np.array(["a", "bc"]), b"\x01\0\0\0a\x02\0\0\0bc"),
        (np.array([b"a", b"\xff"]), b"\x01\0\0\0a\x01\0\0\0\xff"),
        (np.array([b"", 7], object), b"\0\0\0\0\x01\0\0\x007"),
        (np.array(1.0, np.float16), b"\x00\x3c"),
        (np.zeros((2, 0), np.float32), b""),
    ],
)
def test_data_is_little_endian_in_row_major_order(array: Any, data: bytes) -> None:
    """Whatever lies in memory; strings have their length before them."""
    assert bytes(to_raw(array)) == data


def test_aligned_numbers_are_not_copied() -> None:
    """A large input is a view of the body, a large output is written from its own memory."""
    array = np.arange(SMALL_BYTES, dtype=np.float32)
    body = array.tobytes()

    assert np.shares_memory(from_raw(memoryview(body), "FP32", array.shape, "x"), np.frombuffer(body, np.uint8))
    assert np.shares_memory(np.frombuffer(to_raw(array), np.uint8), array)


def test_any_byte_but_zero_is_true() -> None:
    """A boolean that is neither would surprise whoever counts."""
    assert from_raw(b"\x00\x01\x02\xff", "BOOL", (4,), "x").tolist() == [False, True, True, True]
    assert from_raw(b"\x02", "BOOL", (1,), "x").view(np.uint8).tolist() == [1]


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "got", "wanted"),
    [
        (b"1234567", "FP32", [2], 7, 8),
        (b"", "FP32", [1], 0, 4),
        (b"12345678", "FP32", [1], 8, 4),
        (b"1", "FP32", [0], 1, 0),
        (b"1", "BOOL", [2], 1, 2),
        (b"123", "BF16", [2], 3, 4),
        (b"", "INT8", [2**31], 0, 2**31),
        (b"", "FP64", [2**31, 2**31], 0, 2**65),
    ],
)
def test_numbers_of_another_size_are_refused(data: bytes, datatype: str, shape: Any, got: int, wanted: int) -> None:
    """With the bytes that came and those that the shape makes."""
    error = refused(data, datatype, shape)

    assert error.reason is Reason.WRONG_BYTES
    assert (error.facts["got"], error.facts["wanted"]) == (got, wanted)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
@pytest.mark.parametrize(
    "shape", [[-1], [-1, -4], [1, -1], [2**63], [10**400], [1] * 33, [0] * 1000, [2**40, 2**40, 0]]
)
def test_shapes_that_no_array_has_are_refused(shape: list[int], datatype: str) -> None:
    """Before anything is made of their product."""
    assert refused(b"", datatype, shape).reason is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("data", "shape", "reason", "text"),
    [
        (string(b"a"), [2], Reason.WRONG_STRINGS, "1 strings came, 2 are wanted"),
        (b"", [1], Reason.WRONG_STRINGS, "0 strings came, 1 are wanted"),
        (string(b"a") * 3, [2], Reason.WRONG_STRINGS, "3 strings came, 2 are wanted"),
        (string(b"") * 100_000, [0], Reason.WRONG_STRINGS, "1 strings came, 0 are wanted"),
        (string(b"a") + b"\x01\0", [2], Reason.MALFORMED_REQUEST, "expecting 4 bytes but only 2 bytes"),
        (string(b"ab", 3), [1], Reason.MALFORMED_REQUEST, "expecting string of length 3 but only 2 bytes"),
        (string(b"", 2**32 - 1), [1], Reason.MALFORMED_REQUEST, "expecting string of length 4294967295 but only 0"),
        (string(b"ab", 1), [1], Reason.MALFORMED_REQUEST, "expecting 4 bytes but only 1 bytes"),
        (b"", [MOST_VALUES + 1], Reason.TOO_MANY_VALUES, "500001"),
    ],
)
def test_strings_that_do_not_add_up_are_refused(data: bytes, shape: list[int], reason: Reason, text: str) -> None:
    """Too few, too many, cut off, and lengths that point beyond the data."""
    error = refused(data, "BYTES", shape)

    assert error.reason is reason
    assert text in str(error)


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_strings_or_refused(data: bytes, count: int) -> None:
    """Nothing else happens, and what is read is written as it came."""
    try:
        array = from_raw(data, "BYTES", (count,), "x")
    except DukouError:
        return

    assert array.shape == (count,)
    assert to_raw(array) == data


def test_text_with_half_a_surrogate_pair_has_no_raw_form() -> None:
    """The caller of `to_raw` says so."""
    with pytest.raises(UnicodeError):
        to_raw(np.array(["\ud800"], object))
