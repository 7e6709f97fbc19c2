"""Rows as people write them to the inputs of a signature."""

from typing import Any

import numpy as np
import pytest

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.testing.models import manifest, served
from dukou.wire.rows import count, fit, from_rows

FRAME = Signature(DEFAULT_SIGNATURE, (TensorSpec("X", "FP32", (-1, 2), columns=("width", "length")),), ())
COLUMNS = Signature(
    DEFAULT_SIGNATURE,
    (TensorSpec("age", "FP32", (-1, 1)), TensorSpec("work", "BYTES", (-1, 1)), TensorSpec("id", "INT64", (-1, 1))),
    (),
)
WORDS = Signature(DEFAULT_SIGNATURE, (TensorSpec("s", "BYTES", (-1,)),), ())


def caught(call: Any, *arguments: Any) -> DukouError:
    with pytest.raises(DukouError) as info:
        call(*arguments)
    return info.value


@pytest.mark.parametrize(
    ("shape", "declared", "expected"),
    [
        ((3, 4), (-1, 4), (3, 4)),
        ((3, 4), (3, 4), (3, 4)),
        ((3, 4), None, (3, 4)),
        ((), None, ()),
        ((), (), ()),
        ((3,), (-1, 1), (3, 1)),
        ((3,), (-1,), (3,)),
        ((3, 5), (-1, -1), (3, 5)),
        ((), (1,), (1,)),
        ((3, 2), (-1, 2, 1), (3, 2, 1)),
    ],
)
def test_a_shape_that_is_allowed_fits(shape: tuple[int, ...], declared: Any, expected: tuple[int, ...]) -> None:
    """A missing last axis of size one is added."""
    assert fit(np.zeros(shape), TensorSpec("X", "FP64", declared)).shape == expected


@pytest.mark.parametrize(
    ("shape", "declared", "reason", "facts"),
    [
        ((3, 5), (-1, 4), Reason.WRONG_WIDTH, {"got": 5, "wanted": 4, "row": 0}),
        ((3, 0), (-1, 4), Reason.WRONG_WIDTH, {"got": 0, "wanted": 4, "row": 0}),
        ((4,), (-1, 4), Reason.WRONG_SHAPE, {"got": [4], "wanted": [-1, 4]}),
        ((3, 1), (-1,), Reason.WRONG_SHAPE, {"got": [3, 1], "wanted": [-1]}),
        ((3, 4, 4), (-1, 4), Reason.WRONG_SHAPE, {"got": [3, 4, 4], "wanted": [-1, 4]}),
        ((2, 3, 5), (-1, 3, 4), Reason.WRONG_WIDTH, {"got": 5, "wanted": 4}),
        ((2, 4, 4), (-1, 3, 4), Reason.WRONG_SHAPE, {"got": [2, 4, 4]}),
        ((), (-1, 4), Reason.WRONG_SHAPE, {"got": []}),
        ((2,), (1,), Reason.WRONG_SHAPE, {"got": [2], "wanted": [1]}),
        ((0,), (-1, 4), Reason.NO_ROWS, {"tensor": "X"}),
    ],
)
def test_a_shape_that_is_not_allowed_is_named(
    shape: tuple[int, ...], declared: tuple[int, ...], reason: Reason, facts: dict[str, Any]
) -> None:
    """What came and what was wanted."""
    error = caught(fit, np.zeros(shape), TensorSpec("X", "FP64", declared))

    assert error.reason is reason
    assert error.facts["tensor"] == "X"
    assert facts.items() <= error.facts.items()


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [3, 4]],
        [{"width": 1, "length": 2}, {"length": 4, "width": 3}],
        {"length": [2, 4], "width": [1, 3]},
        np.array([[1, 2], [3, 4]]),
    ],
)
def test_a_frame_is_given_as_rows_records_or_columns(rows: Any) -> None:
    """Columns go where the model was trained to have them, in whatever order they come."""
    inputs = from_rows(rows, FRAME)

    assert inputs["X"].tolist() == [[1, 2], [3, 4]]
    assert inputs["X"].dtype == np.float32


@pytest.mark.parametrize(
    "rows",
    [
        [[39, "Private", 2**62 + 1], [40.5, "Self", 7]],
        [{"id": 2**62 + 1, "age": 39, "work": "Private"}, {"age": 40.5, "work": "Self", "id": 7}],
        {"work": ["Private", "Self"], "id": [2**62 + 1, 7], "age": [39, 40.5]},
        {"work": [["Private"], ["Self"]], "id": [[2**62 + 1], [7]], "age": [[39], [40.5]]},
    ],
)
def test_one_input_for_each_column_is_given_as_rows_records_or_columns(rows: Any) -> None:
    """Each column becomes `[rows, 1]` in its own datatype."""
    inputs = from_rows(rows, COLUMNS)

    assert list(inputs) == ["age", "work", "id"]
    assert inputs["age"].tolist() == [[39.0], [40.5]]
    assert inputs["work"].tolist() == [["Private"], ["Self"]]
    assert inputs["id"].tolist() == [[2**62 + 1], [7]]


def test_all_number_columns_may_come_as_an_array() -> None:
    """A large body of numbers arrives as one array, also for a model with an input for each column."""
    signature = Signature(DEFAULT_SIGNATURE, (TensorSpec("a", "INT64", (-1, 1)), TensorSpec("b", "FP32", (-1, 1))), ())

    inputs = from_rows(np.array([[1, 2], [3, 4]]), signature)

    assert inputs["a"].tolist() == [[1], [3]]
    assert inputs["b"].tolist() == [[2.0], [4.0]]


def test_a_column_of_integers_may_come_in_an_array_of_floats() -> None:
    """JSON says nothing of dtypes: what other columns hold makes no column of integers wrong."""
    signature = Signature(DEFAULT_SIGNATURE, (TensorSpec("a", "INT64", (-1, 1)), TensorSpec("b", "FP32", (-1, 1))), ())

    inputs = from_rows(np.array([[1, 2.5], [3, np.nan]]), signature)

    assert inputs["a"].tolist() == [[1], [3]]
    with pytest.raises(DukouError) as caught:
        from_rows(np.array([[1, 2.5], [3.5, 4]]), signature)
    assert caught.value.facts["row"] == 1


@pytest.mark.parametrize(
    ("rows", "reason", "row"),
    [(np.ones((3, 2)), Reason.WRONG_WIDTH, 0), (np.ones(3), Reason.WRONG_VALUE, 0)],
)
def test_an_array_of_another_width_is_refused(rows: Any, reason: Reason, row: int) -> None:
    """As the same lists would be."""
    with pytest.raises(DukouError) as caught:
        from_rows(rows, COLUMNS)

    assert caught.value.reason is reason
    assert caught.value.facts["row"] == row


@pytest.mark.parametrize(
    ("signature", "rows", "reason", "facts"),
    [
        (FRAME, [{"width": 1}], Reason.COLUMN_MISSING, {"row": 0, "missing": "'length'"}),
        (FRAME, [{"width": 1, "length": 2}, {}], Reason.COLUMN_MISSING, {"row": 1, "missing": "'width', 'length'"}),
        (FRAME, [{"width": 1, "length": 2, "hue": 3}], Reason.COLUMN_UNEXPECTED, {"row": 0, "got": "hue"}),
        (FRAME, [{"width": 1, "length": 2}, [1, 2]], Reason.WRONG_VALUE, {"row": 1, "got": "[1, 2]"}),
        (FRAME, [{"width": 1, "length": "2"}], Reason.WRONG_VALUE, {"row": 0, "got": '"2"'}),
        (FRAME, {"width": [1]}, Reason.COLUMN_MISSING, {"missing": "'length'"}),
        (FRAME, {"width": [1], "hue": [2]}, Reason.COLUMN_UNEXPECTED, {"got": "hue"}),
        (FRAME, {"width": [1], "length": [1, 2]}, Reason.ROWS_DIFFER, {"tensor": "length"}),
        (FRAME, {"width": [1, None], "length": [1, 2]}, Reason.WRONG_VALUE, {"tensor": "width", "row": 1}),
        (FRAME, {"width": 1, "length": 2}, Reason.WRONG_SHAPE, {"tensor": "X"}),
        (FRAME, [], Reason.NO_ROWS, {}),
        (FRAME, "a", Reason.WRONG_VALUE, {"tensor": "X"}),
        (COLUMNS, [], Reason.NO_ROWS, {}),
        (COLUMNS, [[39, "Private"]], Reason.WRONG_WIDTH, {"row": 0, "got": 2, "wanted": 3}),
        (COLUMNS, [[1, "a", 1], 5], Reason.WRONG_VALUE, {"row": 1, "got": "5", "wanted": "a list"}),
        (COLUMNS, [[1, "a", 1], [1, 2, 1]], Reason.WRONG_VALUE, {"row": 1, "tensor": "work", "got": "2"}),
        (COLUMNS, "x", Reason.WRONG_VALUE, {"got": '"x"', "wanted": "a list"}),
        (COLUMNS, None, Reason.WRONG_VALUE, {"got": "null"}),
        (COLUMNS, 5, Reason.WRONG_VALUE, {"got": "5"}),
        (COLUMNS, {"age": [1]}, Reason.COLUMN_MISSING, {"missing": "'work', 'id'"}),
    ],
)
def test_rows_that_do_not_fit_are_explained(
    signature: Signature, rows: Any, reason: Reason, facts: dict[str, Any]
) -> None:
    """By column, row, what came and what was wanted."""
    error = caught(from_rows, rows, signature)

    assert error.reason is reason
    assert facts.items() <= error.facts.items()


def test_base64_is_a_value_not_a_record() -> None:
    """`{"b64": ...}` in a list of texts is bytes."""
    assert from_rows([{"b64": "aGk="}, "x"], WORDS)["s"].tolist() == [b"hi", "x"]


def test_rows_are_counted_on_axis_zero() -> None:
    """The common size of all inputs; 1 where the signature is not batched."""
    inputs = {"a": np.zeros((3, 2)), "b": np.zeros(3)}

    assert count(inputs, FRAME, served()) == 3
    assert count(inputs, Signature("one", (), (), batched=False), served()) == 1


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"a": np.zeros((3, 2)), "b": np.zeros(2)}, Reason.ROWS_DIFFER),
        ({"a": np.zeros((0, 2))}, Reason.NO_ROWS),
        ({"a": np.zeros(())}, Reason.WRONG_SHAPE),
        ({"a": np.zeros((9, 2))}, Reason.BATCH_TOO_LARGE),
    ],
)
def test_rows_that_cannot_run_together_are_refused(inputs: dict[str, Any], reason: Reason) -> None:
    """Different counts, none, no axis at all, or more than the version's own limit."""
    version = served(manifest(options={"max_request_rows": 8}))

    assert caught(count, inputs, FRAME, version).reason is reason
