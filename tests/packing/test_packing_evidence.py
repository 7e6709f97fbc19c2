"""The tolerances of a comparison: what passes, what does not, and in which words."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.packing.evidence import BUDGET_S, CHUNK, FLOAT32, FLOAT64, compare, judge
from dukou.testing.clock import HandClock
from dukou.testing.models import FunctionModel

CHANCE = np.random.default_rng(3)
VALUES = CHANCE.normal(100.0, 10.0, 200)
PROBABILITIES = CHANCE.dirichlet([1, 1, 1], 200)
SIGNATURE = Signature("s", (TensorSpec("x", "FP64", (-1, 1)),), (TensorSpec("y", "FP64", (-1,)),))


def labelled(probabilities: Any) -> Tensors:
    """A classifier's answer."""
    return {"label": np.argmax(probabilities, axis=1), "probabilities": probabilities}


def test_equal_answers_agree() -> None:
    """Nothing differs, nothing is said."""
    outcome = compare({"y": VALUES}, {"y": VALUES.copy()}, FLOAT32)

    assert outcome.agrees
    assert (outcome.rows, outcome.said, outcome.max_abs_difference) == (200, "", 0.0)


@pytest.mark.parametrize(("off", "agrees"), [(1e-6, True), (1e-4, True), (1e-1, False)])
def test_numbers_are_measured_by_how_much_they_vary(off: float, agrees: bool) -> None:
    """The values vary by 10; a difference of 1e-4 is nothing, one of 0.1 is not."""
    outcome = compare({"y": VALUES}, {"y": VALUES + off}, FLOAT32)

    assert outcome.agrees is agrees
    assert outcome.max_abs_difference == pytest.approx(off)


def test_a_large_offset_does_not_widen_the_tolerance() -> None:
    """Answers around 1.7e9 that vary by minutes may not be off by 64, which is only 4e-8 of the value."""
    seconds = 1.7e9 + 100 * VALUES

    outcome = compare({"y": seconds}, {"y": seconds.astype(np.float32).astype(np.float64)}, FLOAT32)

    assert not outcome.agrees
    assert re.search(r"y off by up to [56]\d", outcome.said)


def test_every_column_has_its_own_spread() -> None:
    """A small column beside a large one is not judged by the large one."""
    table = np.column_stack([VALUES * 1e6, VALUES * 1e-6])

    outcome = compare({"y": table}, {"y": table + np.array([0.0, 1e-3])}, FLOAT32)

    assert not outcome.agrees


def test_a_constant_output_may_be_off_by_the_resolution_of_float32_only() -> None:
    """Where nothing varies there is no spread to measure by."""
    same = np.full(50, 1e3)

    assert compare({"y": same}, {"y": same + 1e-5}, FLOAT32).agrees
    assert not compare({"y": same}, {"y": same + 1.0}, FLOAT32).agrees


@pytest.mark.parametrize(("off", "agrees"), [(1e-7, True), (1e-4, False)])
def test_probabilities_have_an_absolute_tolerance(off: float, agrees: bool) -> None:
    """However they vary, probabilities lie between 0 and 1."""
    assert compare({"probabilities": PROBABILITIES}, {"probabilities": PROBABILITIES + off}, FLOAT32).agrees is agrees


def test_labels_may_differ_only_where_the_original_is_undecided() -> None:
    """A tie may go either way, a clear case may not."""
    tie = np.array([[0.5, 0.5 - 1e-9, 0.0], [0.7, 0.2, 0.1]])
    original = labelled(tie)

    on_tie = compare(original, {"label": np.array([1, 0]), "probabilities": tie}, FLOAT32)
    on_clear = compare(original, {"label": np.array([0, 1]), "probabilities": tie}, FLOAT32)

    assert (on_tie.agrees, on_tie.label_differences) == (True, 1)
    assert (on_clear.agrees, on_clear.label_differences) == (False, 1)
    assert on_clear.said == "label differs on 1 of 2 rows"


def test_without_scores_no_label_may_differ() -> None:
    """Where nothing says how sure the original is, every label counts."""
    assert not compare({"label": np.array(["a", "b"], object)}, {"label": np.array(["a", "a"], object)}, FLOAT32).agrees


def test_scores_of_one_column_are_undecided_around_zero() -> None:
    """An outlier's label flips where decision_function is zero."""
    score = np.array([1e-12, 1.0, -1.0])
    original = {"label": np.array([1, 1, -1]), "score": score}

    assert compare(original, {"label": np.array([-1, 1, -1]), "score": score}, FLOAT32).agrees
    assert not compare(original, {"label": np.array([1, -1, -1]), "score": score}, FLOAT32).agrees


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_must_be_in_the_same_places(bad: float) -> None:
    """Equal holes agree; a hole on one side only does not."""
    holed = VALUES.copy()
    holed[7] = bad

    assert compare({"y": holed}, {"y": holed.copy()}, FLOAT32).agrees
    assert not compare({"y": holed}, {"y": VALUES}, FLOAT32).agrees
    assert not compare({"y": VALUES}, {"y": holed}, FLOAT32).agrees


def test_infinities_have_a_sign() -> None:
    """Plus is not minus."""
    assert not compare({"y": np.array([np.inf])}, {"y": np.array([-np.inf])}, FLOAT32).agrees


@pytest.mark.parametrize("other", [VALUES.astype(np.float32), VALUES.reshape(-1, 1), VALUES.astype(object)])
def test_shape_and_datatype_must_be_equal(other: Any) -> None:
    """A matrix of one column is not a list of numbers, and float32 is not float64."""
    outcome = compare({"y": VALUES}, {"y": other}, FLOAT32)

    assert not outcome.agrees
    assert "the original gives float64[200]" in outcome.said


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_every_answer_agrees_with_itself(values: list[float]) -> None:
    """Whatever the numbers, also under the tighter tolerance."""
    array = np.array(values)

    assert compare({"y": array}, {"y": array.copy()}, FLOAT64).agrees


def test_rows_that_the_original_refuses_are_left_out() -> None:
    """One bad row in the data says nothing about the others."""

    def positive(inputs: Tensors) -> Tensors:
        if (inputs["x"] < 0).any():
            raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="negative")
        return {"y": inputs["x"][:, 0]}

    rows = {"x": np.array([[1.0], [-1.0], [3.0]])}

    outcome = judge(FunctionModel(positive), FunctionModel(lambda i: {"y": i["x"][:, 0]}), SIGNATURE, rows, FLOAT32)

    assert (outcome.agrees, outcome.rows) == (True, 2)


def test_an_original_that_refuses_every_row_proves_nothing() -> None:
    """No answer, no agreement."""

    def refuse(inputs: Tensors) -> Tensors:
        raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="no")

    outcome = judge(FunctionModel(refuse), FunctionModel(dict), SIGNATURE, {"x": np.ones((3, 1))}, FLOAT32)

    assert not outcome.agrees
    assert outcome.said == "the original refused every row"


def test_a_compiled_form_that_fails_where_the_original_answers_disagrees() -> None:
    """Its error is in the sentence."""

    def refuse(inputs: Tensors) -> Tensors:
        raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="bad shape")

    outcome = judge(
        FunctionModel(lambda i: {"y": i["x"][:, 0]}), FunctionModel(refuse), SIGNATURE, {"x": np.ones((3, 1))}, FLOAT32
    )

    assert not outcome.agrees
    assert "bad shape" in outcome.said


def test_an_output_of_another_length_disagrees() -> None:
    """A converter that gives one answer for many rows is found out."""
    outcome = judge(
        FunctionModel(lambda i: {"y": i["x"][:, 0]}),
        FunctionModel(lambda i: {"y": i["x"][:1, 0]}),
        SIGNATURE,
        {"x": np.ones((3, 1))},
        FLOAT32,
    )

    assert not outcome.agrees
    assert "shape [1] where the original gives [3]" in outcome.said


def test_a_comparison_ends_when_its_time_is_over() -> None:
    """What was compared until then counts, and at least one chunk is."""
    clock = HandClock()

    def slow(inputs: Tensors) -> Tensors:
        clock.advance(BUDGET_S * 0.6)
        return {"y": inputs["x"][:, 0]}

    rows = {"x": np.arange(10.0 * CHUNK).reshape(-1, 1)}

    outcome = judge(FunctionModel(slow), FunctionModel(slow), SIGNATURE, rows, FLOAT32, clock=clock)

    assert (outcome.agrees, outcome.rows) == (True, CHUNK)
