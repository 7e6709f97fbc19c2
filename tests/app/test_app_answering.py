"""What a model process makes of calls and copies."""

import logging
from collections.abc import Callable
from threading import Barrier, Thread

import numpy as np
import pytest

from dukou.app.answering import Answering
from dukou.core.errors import DukouError, Reason
from dukou.core.frame import PREFIX_BYTES, Answer, Call, Failure, decode
from dukou.core.link import CompareBy
from dukou.core.message import Copy
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion, Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.testing.models import FunctionModel, manifest

SIGNATURE = Signature(DEFAULT_SIGNATURE, (TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "INT64", (-1,)),))
PRIMARY = ModelVersion("m", 1)


class Whole:
    """A model that answers with the whole part, refuses what is negative, and notes how many rows it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, inputs: Tensors) -> Tensors:
        x = inputs["x"]
        self.asked.append(len(x))
        if (x < 0.0).any():
            raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="negative")
        return {"y": x.astype(np.int64)}


def answering(function: Callable[[Tensors], Tensors], concurrency: int = 1) -> Answering:
    """The function as the candidate, version 2."""
    return Answering(manifest("m", 2, (SIGNATURE,)), FunctionModel(function, concurrency), CompareBy())


def copy_of(x: list[float], y: list[int]) -> Copy:
    return Copy(PRIMARY, DEFAULT_SIGNATURE, {"x": np.array(x)}, {"y": np.array(y)}, len(x), {}, 1e-4)


def test_rows_that_the_candidate_refuses_are_found_and_the_others_compared() -> None:
    """By halves: the good rows are asked together as far as can be."""
    whole = Whole()
    under_test = answering(whole)

    under_test.take(copy_of([1.0, 2.0, 3.0, -4.0], [1, 2, 2, 4]))

    found = under_test.taken()
    assert found is not None
    assert (found.rows, found.failed, found.disagreed) == (4, 1, 2)
    assert found.labels["y"].confusion == {"1": {"1": 1}, "2": {"2": 1, "3": 1}}
    assert whole.asked == [4, 2, 2, 1, 1]
    assert sum(found.candidate_s) == 0  # no run of the whole batch is to be compared with the primary's


def test_both_models_times_are_counted_for_batches_that_ran_whole() -> None:
    """So that they can be compared."""
    under_test = answering(Whole())

    under_test.take(copy_of([1.0, 2.0], [1, 2]))

    found = under_test.taken()
    assert found is not None
    assert (found.copies, sum(found.primary_s), sum(found.candidate_s)) == (1, 1, 1)


@pytest.mark.parametrize(
    "copy",
    [
        Copy(PRIMARY, "other", {"x": np.zeros(2)}, {"y": np.zeros(2, np.int64)}, 2),
        Copy(PRIMARY, DEFAULT_SIGNATURE, {"z": np.zeros(2)}, {"y": np.zeros(2, np.int64)}, 2),
        Copy(PRIMARY, DEFAULT_SIGNATURE, {"x": np.zeros((2, 2))}, {"y": np.zeros(2, np.int64)}, 2),
        Copy(PRIMARY, DEFAULT_SIGNATURE, {"x": np.zeros(2)}, {"y": np.array(0)}, 2),
        Copy(PRIMARY, DEFAULT_SIGNATURE, {"x": np.zeros(2)}, {"y": np.zeros(3)}, 2),
    ],
)
def test_what_cannot_be_asked_or_compared_has_failed(copy: Copy) -> None:
    """Another signature, other inputs, another shape, answers that are not rows."""
    whole = Whole()
    under_test = answering(whole)

    under_test.take(copy)

    found = under_test.taken()
    assert found is not None
    assert (found.rows, found.failed, found.disagreed) == (2, 2, 2)
    assert whole.asked == []


def test_what_was_taken_is_told_once() -> None:
    """The next time only what came since."""
    under_test = answering(Whole())
    under_test.take(copy_of([1.0], [1]))
    under_test.drop(3)

    first, second = under_test.taken(), under_test.taken()

    assert first is not None
    assert (first.rows, first.dropped) == (1, 3)
    assert second is None


def test_a_candidate_that_fails_all_the_time_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """With what it raised."""

    def fail(inputs: Tensors) -> Tensors:
        raise ValueError("mine")

    under_test = answering(fail)

    with caplog.at_level(logging.ERROR, "dukou"):
        for _ in range(20):
            under_test.take(copy_of([1.0, 2.0], [1, 2]))

    found = under_test.taken()
    assert found is not None
    assert found.failed == 40
    assert caplog.text.count("ValueError: mine") == 1


def test_calls_are_answered_or_refused() -> None:
    """By the frames that say so."""
    under_test = answering(Whole())

    answer, failure = (
        decode(b"".join(under_test.answer(Call(DEFAULT_SIGNATURE, {"x": np.array([x])}, ("y",))))[PREFIX_BYTES:])
        for x in (1.5, -1.0)
    )

    assert isinstance(answer, Answer)
    assert answer.outputs["y"].tolist() == [1]
    assert isinstance(failure, Failure)
    assert failure.error().reason is Reason.MODEL_REFUSED_INPUT


def test_no_more_threads_are_in_the_model_than_it_allows() -> None:
    """Two may be, and are."""
    both = Barrier(2)
    inside: list[int] = []

    def meet(inputs: Tensors) -> Tensors:
        inside.append(1)
        assert len(inside) <= 2
        both.wait(10.0)
        inside.pop()
        return {"y": np.zeros(1, np.int64)}

    under_test = answering(meet, concurrency=2)
    threads = [Thread(target=under_test.take, args=(copy_of([1.0], [0]),)) for _ in range(6)]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join(10.0)

    found = under_test.taken()
    assert found is not None
    assert (found.rows, found.failed) == (6, 0)
