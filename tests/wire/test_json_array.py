"""Parsed JSON to arrays by datatype."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES
from dukou.wire.json_array import MAX_RANK, Numbers, flatten, from_b64, to_array
from dukou.wire.json_text import SMALL, read

NUMERIC = [name for name in DTYPES if name not in ("BOOL", "BF16", "BYTES")]
INTEGERS = [name for name in NUMERIC if "INT" in name]


def refused(data: Any, datatype: str) -> DukouError:
    with pytest.raises(DukouError) as caught:
        to_array(data, TensorSpec("X", datatype))
    return caught.value


@pytest.mark.parametrize(
    ("data", "datatype", "expected"),
    [
        (1, "FP32", np.float32(1)),
        ([1, 2.5], "FP32", np.array([1, 2.5], np.float32)),
        ([[1], [2]], "INT8", np.array([[1], [2]], np.int8)),
        ([2**63 - 1, -(2**63)], "INT64", np.array([2**63 - 1, -(2**63)])),
        ([9007199254740993], "INT64", np.array([9007199254740993])),
        ([2**64 - 1], "UINT64", np.array([2**64 - 1], np.uint64)),
        ([True, False], "BOOL", np.array([True, False])),
        ([1e300, -1e300, 1e-300], "FP32", np.array([np.inf, -np.inf, 0], np.float32)),
        ([1e6], "FP16", np.array([np.inf], np.float16)),
        ([2**70], "FP64", np.array([2.0**70])),
        ([], "FP32", np.zeros(0, np.float32)),
        ([[], []], "INT32", np.zeros((2, 0), np.int32)),
        (np.array([[1, 2]]), "FP32", np.array([[1, 2]], np.float32)),
        (np.array([[1.5, 1e300]]), "FP32", np.array([[1.5, np.inf]], np.float32)),
        (np.array([255, 0]), "UINT8", np.array([255, 0], np.uint8)),
        (np.array([2**64 - 1], np.uint64), "UINT64", np.array([2**64 - 1], np.uint64)),
        ([np.array([1, 2]), np.array([3, 4])], "INT64", np.array([[1, 2], [3, 4]])),
        ([np.array([1, 2]), np.array([0.5, 4])], "FP32", np.array([[1, 2], [0.5, 4]], np.float32)),
        ([np.array([1, 2]), [3, 4]], "INT64", np.array([[1, 2], [3, 4]])),
    ],
)
def test_values_of_the_datatype_become_an_array(data: Any, datatype: str, expected: Any) -> None:
    """The dtype is the datatype's, the shape the nesting's, the values exact."""
    array = to_array(data, TensorSpec("X", datatype))

    assert array.dtype == DTYPES[datatype]
    assert array.shape == expected.shape
    assert np.array_equal(array, expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (["a", "é"], ["a", "é"]),
        ([{"b64": "aGk="}, "x"], [b"hi", "x"]),
        ([{"b64": "aGk"}], [b"hi"]),
        ([{"b64": "-_-_"}], [b"\xfb\xff\xbf"]),
        ([{"b64": ""}], [b""]),
        (["\x00"], ["\x00"]),
    ],
)
def test_text_and_base64_become_objects(data: Any, expected: Any) -> None:
    """BYTES elements are str, or bytes where base64 came."""
    array = to_array(data, TensorSpec("s", "BYTES"))

    assert array.dtype == object
    assert array.tolist() == expected


@pytest.mark.parametrize("datatype", NUMERIC)
@pytest.mark.parametrize("value", ["5", True, None, {}, {"b64": "aGk="}])
def test_only_numbers_become_numbers(value: Any, datatype: str) -> None:
    """A string that looks like a number is a string, and true is not 1."""
    error = refused([[0, 1], [2, value]], datatype)

    assert error.reason is Reason.WRONG_VALUE
    assert error.facts["row"] == 1
    assert error.facts["tensor"] == "X"
    assert error.facts["got"] == json.dumps(value)


@pytest.mark.parametrize("data", [1, [1.0], ["x"], np.array([1.0, 2.0]), [np.array([1.0]), np.array([2.0])]])
def test_bf16_has_no_json_form(data: Any) -> None:
    """Said at once, whatever came."""
    assert refused(data, "BF16").reason is Reason.NOT_SUPPORTED


@pytest.mark.parametrize("datatype", INTEGERS)
@pytest.mark.parametrize("make", [list, np.array], ids=["list", "array"])
def test_an_integer_has_no_fraction(make: Any, datatype: str) -> None:
    """1.0 is no integer, nor is 1.5 cut off."""
    error = refused(make([1.5, 2.0]), datatype)

    assert error.reason is Reason.WRONG_VALUE
    assert error.facts["row"] == 0
    assert refused(make([1.0]), datatype).reason is Reason.WRONG_VALUE


@pytest.mark.parametrize("datatype", INTEGERS)
@pytest.mark.parametrize("make", [lambda rows: rows, np.array], ids=["list", "array"])
def test_an_integer_fits_its_datatype(make: Any, datatype: str) -> None:
    """Integers never wrap around; the row that does not fit is named."""
    limits = np.iinfo(DTYPES[datatype])
    inside = [[int(limits.max), 0], [int(limits.min), 1]]

    for outside in (int(limits.max) + 1, int(limits.min) - 1):
        data = make([[0, 0], [0, outside]])
        if isinstance(data, np.ndarray) and data.dtype.kind not in "iu":
            continue  # no array of integers holds both; the reader gives lists then
        error = refused(data, datatype)
        assert error.reason is Reason.WRONG_VALUE
        assert error.facts["row"] == 1
    assert np.array_equal(to_array(inside, TensorSpec("X", datatype)), np.array(inside, DTYPES[datatype]))


@pytest.mark.parametrize(
    ("data", "datatype"),
    [
        ([1], "BOOL"),
        (np.array([1, 0]), "BOOL"),
        (["true"], "BOOL"),
        ([1], "BYTES"),
        (np.array([1.0]), "BYTES"),
        (np.array([0, 2**63], np.uint64), "INT64"),
        ([None], "BYTES"),
        ([{"b64": "!"}], "BYTES"),
        ([{"b64": "a"}], "BYTES"),
        ([{"b64": 1}], "BYTES"),
        ([{"b64": "aGk=", "x": 1}], "BYTES"),
        ([10**400], "FP64"),
        ([10**400], "INT64"),
    ],
)
def test_other_values_are_refused(data: Any, datatype: str) -> None:
    """Booleans are true and false, texts are texts or base64, numbers have a size."""
    assert refused(data, datatype).reason is Reason.WRONG_VALUE


@pytest.mark.parametrize(
    ("data", "row", "got", "wanted"),
    [
        ([[1, 2], [3]], 1, [1], [2]),
        ([[1, 2], 3], 1, [], [2]),
        ([1, [2]], 1, [1], []),
        ([[1], [2], [[3]]], 2, [1], []),
        ([[[1], [2]], [[3], [4, 5]]], 1, [2], [1]),
        ([[[1, 1], [2, 2]], [[3, 3]]], 1, [1], [2]),
        ([[1, 2]] * 5000 + [[1]], 5000, [1], [2]),
        ([[], [1]], 1, [1], [0]),
        ([np.array([1, 2]), np.array([1, 2, 3])], 1, [3], [2]),
        ([1, np.array([1, 2])], 1, [2], []),
        ([np.array([1, 2]), 1], 1, [], [2]),
    ],
)
def test_ragged_rows_are_named(data: Any, row: int, got: list[int], wanted: list[int]) -> None:
    """The first row whose shape differs, and how."""
    error = refused(data, "FP32")

    assert error.reason is Reason.RAGGED
    assert error.facts == {"tensor": "X", "row": row, "got": got, "wanted": wanted}


def test_a_ragged_row_hidden_in_a_large_body_is_named() -> None:
    """Rows whose lengths even out would make a rectangle of the same size."""
    rows = [[1.5, 2.5]] * 5000 + [[1.5], [1.5, 2.5, 3.5]]
    body = json.dumps(rows).encode()

    error = refused(read(body), "FP32")

    assert len(body) > SMALL
    assert error.reason is Reason.RAGGED
    assert error.facts["row"] == 5000


@pytest.mark.parametrize(
    "data",
    [
        [np.array([1, 2]), np.array([1.5, 2.5])],
        [[3, 4], np.array([1, 2])],
        [[np.array([1, 2])], [[3, 4.5]]],
        [[[1, 2]], [np.array([3, 4])]],
        [np.array([2**63 - 1]), np.array([2**63], np.uint64)],
    ],
)
@pytest.mark.parametrize("datatype", ["FP64", "INT64", "UINT64", "BYTES"])
def test_arrays_among_lists_are_read_as_lists_are(data: Any, datatype: str) -> None:
    """Rows of a large body are arrays where they are written long, and may hold integers or not."""
    outcomes = []
    for one in (data, lists(data)):
        try:
            outcomes.append(to_array(one, TensorSpec("X", datatype)).tolist())
        except DukouError as error:
            outcomes.append((error.reason, error.facts["row"]))

    assert outcomes[0] == outcomes[1]


def lists(data: Any) -> Any:
    """The same with lists in the place of arrays."""
    if isinstance(data, list):
        return [lists(child) for child in data]
    return data.tolist() if isinstance(data, np.ndarray) else data


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_missing_value_among_integers_is_named(value: float) -> None:
    """Not the first value, which only came in the same array."""
    error = refused(np.array([[1.0], [value]]), "INT64")

    assert error.reason is Reason.WRONG_VALUE
    assert error.facts["row"] == 1


def test_more_axes_than_numpy_has_are_refused() -> None:
    """Instead of NumPy's own ValueError."""
    data: Any = 1
    for _ in range(MAX_RANK + 1):
        data = [data]

    assert refused(data, "FP32").reason is Reason.TOO_DEEP


def test_arrays_below_too_many_lists_are_refused() -> None:
    """A large body reaches the same bound by stacking."""
    data: Any = np.ones((1,) * MAX_RANK)

    assert refused([data], "FP32").reason is Reason.TOO_DEEP


def test_known_numbers_are_not_looked_at_singly_but_ragged_rows_are_found() -> None:
    """The quick way for typed numbers answers as the careful one."""
    spec = TensorSpec("X", "FP32")

    assert to_array([[1, 2.5]], spec, numbers=True).tolist() == [[1.0, 2.5]]
    with pytest.raises(DukouError) as caught:
        to_array([[1, 2], [3]], spec, numbers=True)
    assert caught.value.reason is Reason.RAGGED


@pytest.mark.parametrize("body", [b"[true]", b'["5"]', b"[null]", b"[1e300]", b"[9223372036854775808]", b"[[[[[1]]]]]"])
def test_numbers_are_numbers_that_every_float_takes(body: bytes) -> None:
    """What is decoded as `Numbers` needs no further look."""
    assert msgspec.json.decode(b"[[[[1.5, 2]]], 3]", type=Numbers) == [[[[1.5, 2]]], 3]
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=Numbers)


@pytest.mark.parametrize("value", ["aGk=", {"b64": "aGk=", "more": 1}, {"b64": None}, {"b64": "aé=="}, {}, None])
def test_only_one_form_is_base64(value: Any) -> None:
    """An object with the one key `b64` and a string of the alphabet."""
    assert from_b64(value) is None


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
def test_flatten_is_the_inverse_of_nesting(shape: tuple[int, ...]) -> None:
    """Leaves in row-major order; an empty axis ends the shape, because nothing below it can be seen."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)

    leaves, found = flatten(array.tolist())

    assert leaves == array.ravel().tolist()
    assert found == shape[: shape.index(0) + 1] if 0 in shape else found == shape


@given(
    st.sampled_from(NUMERIC).flatmap(lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=1, max_dims=3)))
)
def test_lists_and_arrays_of_the_same_numbers_give_the_same(array: Any) -> None:
    """The way of large bodies (arrays) and of small ones (lists) end in the same array."""
    name = next(name for name in NUMERIC if DTYPES[name] == array.dtype)
    spec = TensorSpec("X", name)
    wide = array.astype({"f": np.float64, "i": np.int64, "u": np.uint64}[array.dtype.kind])

    from_list, from_array = to_array(array.tolist(), spec), to_array(wide, spec)

    assert np.array_equal(from_list, array, equal_nan=array.dtype.kind == "f")
    assert np.array_equal(from_array, array, equal_nan=array.dtype.kind == "f")
