"""What two versions said about the same rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from dukou.core.comparison import BOUNDS, MOST_SLICES, OTHER, Agreement, Comparison, Tally
from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import DTYPES, narrow
from dukou.lifecycle.compare import bind, compare

CLASSES = ("setosa", "versicolor", "virginica")
SIGNATURE = Signature(
    "serving_default",
    (TensorSpec("X", "FP32", (-1, 2), columns=("length", "width")), TensorSpec("country", "BYTES", (-1,))),
    (
        TensorSpec("label", "INT64", (-1,)),
        TensorSpec("scores", "FP32", (-1, 3), columns=CLASSES),
        TensorSpec("value", "FP32", (-1, 1)),
    ),
)
NAN, INF = np.nan, np.inf


def of(name: str, primary: Any, candidate: Any, **settings: Any) -> Comparison:
    """One output of SIGNATURE compared."""
    there = {} if candidate is None else {name: np.asarray(candidate)}
    return compare(SIGNATURE, {}, {name: np.asarray(primary)}, there, **settings)


def objects(*values: Any) -> NDArray[Any]:
    """A BYTES tensor."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("primary", "candidate", "agreed", "confusion"),
    [
        ([0, 1, 1], [0, 1, 2], 2, {"0": {"0": 1}, "1": {"1": 1, "2": 1}}),
        ([True, False], [True, True], 1, {"True": {"True": 1}, "False": {"True": 1}}),
        (objects("a", "b"), objects("a", "c"), 1, {"a": {"a": 1}, "b": {"c": 1}}),
        (objects("a", b"\xff"), objects(b"a", b"\xff"), 2, {"a": {"a": 1}, "\ufffd": {"\ufffd": 1}}),
        (np.array(["a", "b"]), objects("a", "b"), 2, {"a": {"a": 1}, "b": {"b": 1}}),
        (np.array([1], np.int32), np.array([1], np.int64), 1, {"1": {"1": 1}}),
        ([[0], [1]], [[0], [0]], 1, {"0": {"0": 1}, "1": {"0": 1}}),
        ([], [], 0, {}),
    ],
)
def test_labels_agree_or_are_confused(
    primary: Any, candidate: Any, agreed: int, confusion: dict[str, dict[str, int]]
) -> None:
    """Integers, booleans and strings; text and its UTF-8 form are the same label."""
    primary = np.asarray(primary, None if len(primary) else np.int64)
    candidate = np.asarray(candidate, None if len(candidate) else np.int64)

    found = of("label", primary, candidate)

    assert found.labels["label"] == Agreement(len(primary), agreed, confusion)
    assert found.disagreed == len(primary) - agreed


def test_scores_with_named_entries_are_the_label_of_the_highest() -> None:
    """Two models may be unequally sure of the same answer; a row without numbers has a label of its own."""
    primary = [[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [NAN, 0.0, 0.0]]
    candidate = [[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [NAN, 1.0, 0.0]]

    found = of("scores", primary, candidate)

    confusion = {"setosa": {"setosa": 1}, "versicolor": {"virginica": 1}, "NaN": {"NaN": 1}}
    assert found.labels == {"scores": Agreement(3, 2, confusion)}
    assert found.numbers == {}


def test_rows_of_several_labels_agree_when_all_of_them_do() -> None:
    """They are not told apart."""
    found = of("label", [[1, 2], [3, 4]], [[1, 2], [3, 5]])

    assert found.labels["label"] == Agreement(2, 1, {}, other=2)
    assert found.disagreed == 1


@pytest.mark.parametrize(
    ("primary", "candidate", "disagrees"),
    [
        (1.0, 1.0, False),
        (1.0, 1.0005, False),
        (1.0, 1.01, True),
        (1000.0, 1000.5, False),
        (0.0, 1e-7, False),
        (0.0, 1e-3, True),
        (NAN, NAN, False),
        (NAN, 1.0, True),
        (1.0, NAN, True),
        (INF, INF, False),
        (INF, -INF, True),
        (INF, 1.0, True),
        (-0.0, 0.0, False),
    ],
)
def test_numbers_agree_within_the_tolerance(primary: float, candidate: float, disagrees: bool) -> None:
    """Relative to the larger; what is not a number agrees with the same only."""
    found = of("value", [[primary]], [[candidate]], tolerance=1e-3)

    assert found.disagreed == int(disagrees)


def test_differences_are_counted_in_buckets() -> None:
    """None in the first, larger than all bounds or not a number in the last."""
    found = of("value", [[1.0], [1.0], [1.0], [1.0]], [[1.0], [1.01], [NAN], [1e9]]).numbers["value"]

    assert found.values == 4
    assert (found.absolute[0], found.absolute[-1]) == (1, 2)
    assert found.absolute[BOUNDS.index(10.0**-2) + 1 if 1.01 - 1.0 > 10.0**-2 else BOUNDS.index(10.0**-2)] == 1
    assert len(found.absolute) == len(found.relative) == len(BOUNDS) + 1
    assert found.relative[-1] == 1
    assert found.largest == pytest.approx(1e9)


def test_half_and_brain_floats_are_numbers() -> None:
    """BF16 arrays hold bits; their numbers are compared."""
    halves = np.array([[1.0], [2.0]], np.float16)

    found = of("value", halves, narrow(np.array([[1.0], [3.0]], np.float32)))

    assert found.disagreed == 1
    assert found.numbers["value"].largest == 1.0


@pytest.mark.parametrize("candidate", [None, [[1.0, 2.0]], [1.0]])
def test_numbers_that_are_missing_or_of_another_shape_disagree(candidate: Any) -> None:
    """Every row does, and every value is beyond the last bound."""
    found = of("value", [[1.0]], candidate)

    assert found.disagreed == 1
    assert found.numbers["value"].absolute[-1] == 1


@pytest.mark.parametrize("candidate", [None, [1, 2, 3], objects("1", "2")])
def test_labels_that_are_missing_or_of_another_kind_disagree(candidate: Any) -> None:
    """Text is no number."""
    found = of("label", [1, 2], candidate)

    assert found.labels["label"] == Agreement(2, 0, {}, other=2)
    assert found.disagreed == 2


def test_labels_that_became_numbers_are_compared_as_numbers() -> None:
    """A version may answer 1.0 where the other answers 1."""
    found = of("label", [1, 2], [1.0, 2.5])

    assert found.disagreed == 1
    assert found.numbers["label"].values == 2


def test_an_output_that_only_the_candidate_has_says_nothing() -> None:
    """No caller gets it from the primary."""
    outputs = {"label": np.array([1])}

    found = compare(SIGNATURE, {}, outputs, outputs | {"new": np.array([1])})

    assert list(found.labels) == ["label"]
    assert found.disagreed == 0


def test_a_candidate_that_failed_disagrees_in_every_row() -> None:
    """And the rows are counted as failed."""
    found = compare(SIGNATURE, {}, {"label": np.array([1, 2])}, None)

    assert found == Comparison(rows=2, disagreed=2, failed=2)


def test_a_row_disagrees_once_however_many_outputs_do() -> None:
    """The numbers of rows add up."""
    ours = {"label": np.array([1, 2]), "value": np.array([[1.0], [2.0]])}
    theirs = {"label": np.array([1, 3]), "value": np.array([[9.0], [9.0]])}

    found = compare(SIGNATURE, {}, ours, theirs)

    assert (found.rows, found.disagreed) == (2, 2)


def test_without_a_row_axis_the_whole_is_one_row() -> None:
    """As its batch is."""
    signature = Signature("serving_default", (), SIGNATURE.outputs, batched=False)

    found = compare(signature, {}, {"value": np.zeros((3, 2))}, {"value": np.array([[0, 0], [0, 0], [0, 1.0]])})

    assert (found.rows, found.disagreed) == (1, 1)
    assert found.numbers["value"].values == 6


@pytest.mark.parametrize(
    ("slice_by", "slices"),
    [
        ("country", {"at": Tally(2, 1), "be": Tally(1, 0)}),
        ("width", {"0.5": Tally(2, 0), "1": Tally(1, 1)}),
        ("unknown", {}),
        ("X", {}),
        ("", {}),
    ],
)
def test_rows_are_counted_by_the_value_of_an_input_or_a_column(slice_by: str, slices: dict[str, Tally]) -> None:
    """An input has to have one value a row."""
    inputs = {"X": np.array([[1, 0.5], [2, 0.5], [3, 1.0]], np.float32), "country": objects("at", b"be", "at")}

    found = compare(
        SIGNATURE, inputs, {"label": np.array([1, 1, 1])}, {"label": np.array([1, 1, 2])}, slice_by=slice_by
    )

    assert found.slices == slices


def test_there_are_only_so_many_slices() -> None:
    """The commonest values have one."""
    values = objects(*map(str, range(MOST_SLICES)), "often", "often")
    labels = {"label": np.zeros(len(values), np.int64)}

    found = compare(SIGNATURE, {"country": values}, labels, labels, slice_by="country")

    assert found.slices["often"] == Tally(2, 0)
    assert found.slices[OTHER] == Tally(1, 0)
    assert len(found.slices) == MOST_SLICES + 1


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 3))),
    st.floats(0.0, 0.1),
)
def test_the_same_answers_never_disagree(values: NDArray[np.float32], tolerance: float) -> None:
    """Whatever they are, and every value is in the first bucket."""
    found = of("value", values, values.copy(), tolerance=tolerance)

    assert found.disagreed == 0
    assert found.numbers["value"].absolute == [values.size] + [0] * len(BOUNDS)


@given(st.data(), st.integers(1, 9), st.sampled_from(["FP32", "FP64", "INT64", "BOOL"]))
def test_both_ways_round_show_the_same(data: st.DataObject, rows: int, datatype: str) -> None:
    """Neither version is the right one."""
    elements = arrays.arrays(DTYPES[datatype], (rows, 1))
    ours, theirs = data.draw(elements), data.draw(elements)

    one, other = of("value", ours, theirs), of("value", theirs, ours)

    assert one.disagreed == other.disagreed
    assert one.numbers == other.numbers
    assert sum(each.agreed for each in one.labels.values()) == sum(each.agreed for each in other.labels.values())


@pytest.mark.parametrize(
    ("came", "wanted"),
    [
        (np.array([[1.0, 2.0]], np.float64), np.float32),
        (np.array([[1, 2]], np.int16), np.float32),
        (np.array([[True, False]]), np.float32),
        (narrow(np.array([[1.0, 2.0]], np.float32)), np.float32),
        (np.array([[1.0, 2.0]], np.float32), np.float32),
    ],
)
def test_the_primarys_inputs_are_widened_for_the_candidate(came: NDArray[Any], wanted: Any) -> None:
    """Small integers fit into floats, and floats have the width that the signature says."""
    bound = bind(SIGNATURE, {"X": came, "country": objects("at")})

    assert bound["X"].dtype == wanted
    assert bound["X"].shape == (1, 2)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"X": np.zeros((1, 2), np.float32)}, Reason.INPUT_MISSING),
        ({"X": np.zeros((1, 2), np.float32), "country": objects("a"), "Y": objects("a")}, Reason.INPUT_UNEXPECTED),
        ({"X": np.zeros((1, 3), np.float32), "country": objects("a")}, Reason.WRONG_SHAPE),
        ({"X": np.zeros((1, 2), np.int64), "country": objects("a")}, Reason.WRONG_DATATYPE),
        ({"X": np.zeros((1, 2), np.float32), "country": np.array([1])}, Reason.WRONG_DATATYPE),
        ({"X": objects("a", "b").reshape(1, 2), "country": objects("a")}, Reason.WRONG_DATATYPE),
    ],
)
def test_inputs_that_the_candidate_cannot_take_are_refused(inputs: dict[str, NDArray[Any]], reason: Reason) -> None:
    """By the names of the errors that a caller would get."""
    with pytest.raises(DukouError) as raised:
        bind(SIGNATURE, inputs)

    assert raised.value.reason is reason
