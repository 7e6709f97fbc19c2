"""Two versions asked the same: what is compared, counted, and told apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dukou.app.side_by_side import Side, SideBySide, labels_of, same_label
from dukou.app.traffic import Asked
from dukou.core.errors import DukouError, Reason
from dukou.core.frame import Answer
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion, Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.lifecycle.measured import Outcomes
from dukou.lifecycle.plan import parse

SIGNATURE = Signature(
    DEFAULT_SIGNATURE,
    (TensorSpec("x", "FP32", (-1, 2), columns=("a", "b")),),
    (TensorSpec("label", "INT64", (-1,)),),
)
SIGNATURES = {SIGNATURE.name: SIGNATURE}


class Answering:
    """A model process that answers by a function of the rows, and notes how many came each time."""

    def __init__(self, label: Callable[[NDArray[Any]], Any], infer_s: float = 1e-3) -> None:
        self._label = label
        self._infer_s = infer_s
        self.asked: list[int] = []

    def ask(self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]) -> Answer:
        self.asked.append(len(inputs["x"]))
        return Answer({"label": self._label(inputs["x"])}, self._infer_s)


def positive(x: NDArray[Any]) -> NDArray[Any]:
    return (x[:, 0] > 0).astype(np.int64)


def always_one(x: NDArray[Any]) -> NDArray[Any]:
    return np.ones(len(x), np.int64)


def refusing_five(x: NDArray[Any]) -> NDArray[Any]:
    """Fails where a row begins with 5."""
    if 5.0 in x[:, 0]:
        raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="five")
    return positive(x)


def gone(x: NDArray[Any]) -> NDArray[Any]:
    raise DukouError(Reason.NOT_SERVING, detail="it has ended")


def call(*firsts: float, **known: Any) -> Asked:
    """A call with a row `[first, 0]` each."""
    rows = np.array([[first, 0.0] for first in firsts], np.float32)
    return Asked(DEFAULT_SIGNATURE, {"x": rows}, ("label",), len(rows), **known)


def pair(
    primary: Callable[[NDArray[Any]], Any] | None, candidate: Callable[[NDArray[Any]], Any], plan: str = "shadow"
) -> SideBySide:
    sides = [
        Side(ModelVersion("m", number), SIGNATURES, Answering(label)) if label else None
        for number, label in ((1, primary), (2, candidate))
    ]
    assert sides[1] is not None
    return SideBySide(sides[0], sides[1], parse(plan))


def test_answers_are_compared_row_by_row() -> None:
    """Of four rows two differ; both times are counted; each call is one of the copies."""
    both = pair(positive, always_one)

    both.ask(call(1.0, -1.0))
    both.ask(call(-1.0, 2.0))

    comparison = both.seen.measured.comparison
    assert (comparison.copies, comparison.rows, comparison.disagreed, comparison.failed) == (2, 4, 2, 0)
    assert comparison.labels["label"].confusion == {"1": {"1": 2}, "0": {"1": 2}}
    assert (sum(comparison.primary_s), sum(comparison.candidate_s)) == (2, 2)


def test_a_row_that_the_candidate_fails_on_is_found_among_the_others() -> None:
    """What was asked together is asked in halves; eight rows, one at fault, and the call has no time."""
    both = pair(positive, refusing_five)

    both.ask(call(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0))

    comparison = both.seen.measured.comparison
    assert (comparison.rows, comparison.failed, comparison.disagreed) == (8, 1, 1)
    assert both.seen.failure == "model 'm', version 2: the model cannot take these values: five"
    assert comparison.candidate_s == []


def test_what_the_primary_refuses_is_compared_with_nothing() -> None:
    """Whichever of both was asked first."""
    both = pair(refusing_five, positive)

    for _ in range(2):
        both.ask(call(5.0))

    assert both.seen.measured.comparison.rows == 0
    assert (both.seen.calls, both.seen.refused) == (2, 2)
    assert both.seen.refusal == "model 'm', version 1: the model cannot take these values: five"


@pytest.mark.parametrize("dead", ["primary", "candidate"])
def test_a_process_that_has_ended_ends_the_replay(dead: str) -> None:
    """That is no answer to a call."""
    both = pair(gone if dead == "primary" else positive, gone if dead == "candidate" else positive)

    with pytest.raises(DukouError, match="it has ended"):
        both.ask(call(1.0))


def test_labels_score_both_versions() -> None:
    """A failed row is a wrong answer."""
    both = pair(positive, refusing_five)

    both.ask(call(1.0, -1.0, 5.0, labels=["1", "1", "1.0"]))

    measured = both.seen.measured
    assert measured.primary_outcomes == Outcomes(labelled=3, right=2)
    assert measured.candidate_outcomes == Outcomes(labelled=3, right=1)


def test_without_a_primary_the_recorded_answers_stand_for_it() -> None:
    """No times, as they were taken elsewhere."""
    both = pair(None, always_one)

    both.ask(call(1.0, -1.0, version=1, answered={"label": np.array([1, 0])}))

    comparison = both.seen.measured.comparison
    assert (comparison.rows, comparison.disagreed, comparison.candidate_s) == (2, 1, [])


@pytest.mark.parametrize("redacted", [("x",), ("b",)])
def test_answers_to_what_was_not_recorded_are_not_compared(redacted: tuple[str, ...]) -> None:
    """The candidate would be asked something else; an input or one of its columns."""
    both = pair(None, always_one)

    both.ask(call(1.0, version=1, answered={"label": np.array([1])}, redacted=redacted))

    assert both.seen.refused == 1
    assert f"{redacted[0]} was not recorded" in both.seen.refusal


def test_with_a_primary_redacted_calls_are_compared_as_they_are() -> None:
    """Both get the same zeros. Names of other models' inputs are nobody's here."""
    both = pair(positive, positive)

    both.ask(call(0.0, version=1, answered={"label": np.array([1])}, redacted=("a", "other")))

    assert both.seen.measured.comparison.disagreed == 0
    assert both.seen.redacted == {"a"}
    assert both.seen.known == 0


def test_a_primary_that_answers_otherwise_than_it_did_is_noticed() -> None:
    """Its own recorded answers are compared with those of now; another version's are not."""
    both = pair(positive, positive)

    both.ask(call(1.0, -1.0, version=1, answered={"label": np.array([1, 1])}))
    both.ask(call(1.0, version=7, answered={"label": np.array([0])}))

    assert (both.seen.known, both.seen.changed) == (2, 1)


def test_a_signature_that_the_candidate_lacks_fails() -> None:
    """Every row of such a call."""
    named = {"other": SIGNATURE, **SIGNATURES}
    primary = Side(ModelVersion("m", 1), named, Answering(positive))
    both = SideBySide(primary, Side(ModelVersion("m", 2), SIGNATURES, Answering(positive)), parse("shadow"))
    asked = call(1.0, 2.0)
    asked.signature = "other"

    both.ask(asked)

    assert both.seen.measured.comparison.failed == 2
    assert "there is no signature 'other'" in both.seen.failure


def test_both_are_first_as_often() -> None:
    """What the first of a pair warms up serves the second, and times are compared."""
    order: list[int] = []

    def noted(number: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        def label(x: NDArray[Any]) -> NDArray[Any]:
            order.append(number)
            return positive(x)

        return label

    both = pair(noted(1), noted(2))

    for _ in range(4):
        both.ask(call(1.0))

    assert order == [1, 2, 2, 1, 1, 2, 2, 1]


@pytest.mark.parametrize(
    ("outputs", "specs", "labels"),
    [
        ({"label": np.array([1, 0])}, (), ["1", "0"]),
        ({"label": np.array([[1], [0]])}, (), ["1", "0"]),
        ({"yes": np.array([True, False])}, (), ["True", "False"]),
        ({"name": np.array(["cat", b"dog"], object)}, (), ["cat", "dog"]),
        (
            {"scores": np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)},
            (TensorSpec("scores", "FP32", (-1, 2), columns=("cat", "dog")),),
            ["dog", "cat"],
        ),
        ({"value": np.array([0.5, 1.5]), "label": np.array([1, 0])}, (), ["1", "0"]),
    ],
)
def test_labels_are_found_among_the_outputs(
    outputs: Tensors, specs: Sequence[TensorSpec], labels: Sequence[str]
) -> None:
    """Integers, booleans, text, or the highest of scores that have names."""
    assert labels_of(Signature("s", (), tuple(specs)), outputs, 2) == labels


def test_a_model_that_answers_with_numbers_has_no_labels() -> None:
    """Accuracy would mean nothing."""
    with pytest.raises(DukouError, match="accuracy needs a model that answers with labels"):
        labels_of(Signature("s", (), ()), {"value": np.array([0.5, 1.5])}, 2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1.0", True),
        ("1", "True", True),
        ("cat", "cat", True),
        ("cat", "Cat", False),
        ("1", "2", False),
        ("nan", "nan", True),
        ("9007199254740993", "9007199254740992", False),
    ],
)
def test_labels_are_the_same_however_they_are_written(one: str, other: str, same: bool) -> None:
    """A CSV says 1.0 where the model says 1; large identifiers stay apart."""
    assert same_label(one, other) is same
