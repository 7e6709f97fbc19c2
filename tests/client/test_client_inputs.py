"""What callers have, as the tensors of a signature."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies

from dukou.client.inputs import typed
from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES, widen

X = TensorSpec("X", "FP32", (-1, 2))
NAMED = TensorSpec("X", "FP32", (-1, 2), ("width", "height"))
AGE = TensorSpec("age", "INT64", (-1, 1))
CITY = TensorSpec("city", "BYTES", (-1, 1))


def refusal(values: Any, *specs: TensorSpec) -> DukouError:
    with pytest.raises(DukouError) as caught:
        typed(values, specs)
    return caught.value


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2], [3, 4]],
        [(1.0, 2.0), (3.0, 4.0)],
        np.array([[1, 2], [3, 4]]),
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.array([[1, 2], [3, 4]], dtype=object),
        {"X": [[1, 2], [3, 4]]},
        pd.DataFrame({"b": [1, 3], "a": [2, 4]}),
    ],
)
def test_numbers_become_the_only_input(values: Any) -> None:
    """Arrays, lists, a dict and a frame of an unnamed matrix are the same tensor."""
    tensors = typed(values, [X])

    assert list(tensors) == ["X"]
    assert tensors["X"].dtype == np.float32
    assert tensors["X"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "values",
    [
        pd.DataFrame({"height": [2, 4], "other": ["x", "y"], "width": [1.0, 3.0]}),
        {"height": [2, 4], "width": np.array([1, 3])},
        {"X": [[1, 2], [3, 4]]},
        [[1, 2], [3, 4]],
    ],
)
def test_named_columns_are_matched_by_name(values: Any) -> None:
    """A frame's order does not matter where the signature names the columns; an array's order is the signature's."""
    assert typed(values, [NAMED])["X"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "values",
    [
        pd.DataFrame({"city": ["Rom", "Köln"], "age": [30, 40], "more": [0, 0]}),
        {"age": [30, 40], "city": ["Rom", "Köln"]},
        {"age": np.array([[30], [40]]), "city": np.array([["Rom"], ["Köln"]])},
        [[30, "Rom"], [40, "Köln"]],
        np.array([[30, "Rom"], [40, "Köln"]], dtype=object),
    ],
)
def test_several_inputs_come_by_name_or_one_column_each(values: Any) -> None:
    """[rows] becomes [rows, 1] where the signature has it so."""
    tensors = typed(values, [AGE, CITY])

    assert tensors["age"].tolist() == [[30], [40]]
    assert tensors["age"].dtype == np.int64
    assert tensors["city"].tolist() == [["Rom"], ["Köln"]]
    assert tensors["city"].dtype == object


@pytest.mark.parametrize(
    ("values", "specs", "reason", "text"),
    [
        ([[1, 2, 3]], (X,), Reason.WRONG_SHAPE, "input 'X': shape [1, 3] came, [-1, 2] is wanted"),
        ([1, 2], (X,), Reason.WRONG_SHAPE, "input 'X': shape [2] came, [-1, 2] is wanted"),
        ([[1, 2], [3]], (X,), Reason.MALFORMED_REQUEST, "the rows have different lengths"),
        ({"x": [[1, 2]]}, (X,), Reason.INPUT_MISSING, "missing: X"),
        ({"X": [[1, 2]], "Y": 1}, (X,), Reason.INPUT_UNEXPECTED, "'Y'"),
        ({"width": [1]}, (NAMED,), Reason.COLUMN_MISSING, "column height is missing"),
        (pd.DataFrame({"width": [1], "heigth": [1]}), (NAMED,), Reason.COLUMN_MISSING, "column height is missing"),
        ({"width": [1], "height": [1], "depth": [1]}, (NAMED,), Reason.COLUMN_UNEXPECTED, "column 'depth' is unknown"),
        ([["a", "b"]], (X,), Reason.WRONG_DATATYPE, "datatype BYTES came, FP32 is wanted"),
        (np.array([[1, "2"]], dtype=object), (X,), Reason.WRONG_VALUE, "row 0: '2' came where FP32"),
        ([[1j, 2]], (X,), Reason.WRONG_DATATYPE, "complex128"),
        ([[1, 2], [3, 1e300]], (X,), Reason.WRONG_VALUE, "row 1: 1e+300 came where FP32"),
        ([[1.5]], (AGE,), Reason.WRONG_VALUE, "row 0: 1.5 came where INT64"),
        ([[float("nan")]], (AGE,), Reason.WRONG_VALUE, "nan came"),
        ([[3000]], (TensorSpec("n", "INT8", (-1, 1)),), Reason.WRONG_VALUE, "3000 came"),
        ([[-1]], (TensorSpec("n", "UINT8", (-1, 1)),), Reason.WRONG_VALUE, "-1 came"),
        ([[2]], (TensorSpec("b", "BOOL", (-1, 1)),), Reason.WRONG_VALUE, "2 came"),
        ([[1]], (CITY,), Reason.WRONG_VALUE, "1 came where BYTES"),
        (np.array([[1]]), (CITY,), Reason.WRONG_DATATYPE, "INT64 came, BYTES is wanted"),
        (pd.DataFrame({"city": ["a", None]}), (CITY,), Reason.WRONG_VALUE, "row 1"),
        ([[1, "Rom", 3]], (AGE, CITY), Reason.WRONG_WIDTH, "3 values came, 2 (age, city) are wanted"),
        ([1, 2], (AGE, CITY), Reason.WRONG_WIDTH, "1 values came"),
        ([[1]], (TensorSpec("x", "FP8", (-1, 1)),), Reason.NOT_SUPPORTED, "FP8"),
        ([[1.0], [3.4e38]], (TensorSpec("x", "BF16", (-1, 1)),), Reason.WRONG_VALUE, "row 1"),
        ([[1]], (), Reason.MALFORMED_REQUEST, "no inputs"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    values: Any, specs: tuple[TensorSpec, ...], reason: Reason, text: str
) -> None:
    """The message names the input, the row, what came and what is wanted."""
    error = refusal(values, *specs)

    assert error.reason is reason
    assert text in str(error)


@pytest.mark.parametrize(
    ("values", "datatype", "result"),
    [
        ([[True]], "FP32", [[1.0]]),
        ([[1]], "BOOL", [[True]]),
        ([[2.0]], "INT64", [[2]]),
        ([[0.1]], "FP32", [[float(np.float32(0.1))]]),
        ([[np.inf]], "FP32", [[np.inf]]),
        ([[2**53 + 1]], "INT64", [[2**53 + 1]]),
        ([[b"\x00a\x00"]], "BYTES", [[b"\x00a\x00"]]),
    ],
)
def test_values_that_mean_the_same_are_cast(values: Any, datatype: str, result: Any) -> None:
    """Precision may be lost, meaning may not."""
    assert typed(values, [TensorSpec("x", datatype, (-1, 1))])["x"].tolist() == result


@pytest.mark.parametrize("values", [[[1.5, -2.0]], np.array([[1.5, -2.0]], np.float16)])
def test_bf16_is_made_of_any_numbers(values: Any) -> None:
    """The nearest value that BF16 has, in its own bits."""
    array = typed(values, [TensorSpec("x", "BF16", (-1, 2))])["x"]

    assert widen(array).tolist() == [[1.5, -2.0]]
    assert typed(array, [TensorSpec("x", "BF16", (-1, 2))])["x"] is array


def test_the_bfloat16_of_other_libraries_is_taken_as_it_is() -> None:
    """ml_dtypes gives NumPy a dtype whose bits are the same."""
    ml_dtypes = pytest.importorskip("ml_dtypes")

    array = typed(np.array([[1.5]], ml_dtypes.bfloat16), [TensorSpec("x", "BF16", (-1, 1))])["x"]

    assert widen(array).tolist() == [[1.5]]


def test_missing_numbers_of_a_frame_are_nan() -> None:
    """None among numbers is what a frame calls missing; for a float input it is NaN."""
    frame = pd.DataFrame({"a": pd.Series([1, None], dtype=object), "b": [2, 3]})

    tensors = typed(frame, [X])

    assert np.isnan(tensors["X"][1, 0])


def test_a_shape_of_unknown_rank_is_left_to_the_server() -> None:
    """Servers write [-1] for it in their metadata."""
    assert typed([[1, 2]], [TensorSpec("x", "INT64", (-1,))])["x"].shape == (1, 2)


def test_an_array_of_the_right_type_is_not_copied() -> None:
    """Nothing is paid where nothing is to be done."""
    array = np.zeros((2, 2), np.float32)

    assert typed(array, [X])["X"] is array


_values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=3),
    lambda inner: strategies.lists(inner, max_size=3),
    max_leaves=8,
)


@given(_values, strategies.sampled_from([(X,), (CITY,), (AGE, CITY), (TensorSpec("u", "UINT8", None),)]))
def test_anything_is_typed_or_refused(values: Any, specs: tuple[TensorSpec, ...]) -> None:
    """No value makes another error than DukouError, and what comes out fits."""
    try:
        tensors = typed(values, specs)
    except DukouError:
        return

    for spec in specs:
        assert tensors[spec.name].dtype == DTYPES[spec.datatype]
        assert spec.fits(tensors[spec.name].shape)
