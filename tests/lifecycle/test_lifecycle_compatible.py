"""Whether a candidate can take the calls of a primary."""

from typing import Any

import msgspec
import pytest

from dukou.core.model import Signature, TensorSpec
from dukou.lifecycle.compatible import differences

X = TensorSpec("X", "FP32", (-1, 4))
LABEL = TensorSpec("label", "INT64", (-1,))
SCORES = TensorSpec("scores", "FP32", (-1, 3))
IRIS = Signature("serving_default", (X,), (LABEL, SCORES))


def unlike(primary: Signature, candidate: Signature) -> tuple[str, ...]:
    return differences({"serving_default": primary}, {"serving_default": candidate})


def with_input(**changes: Any) -> Signature:
    return msgspec.structs.replace(IRIS, inputs=(msgspec.structs.replace(X, **changes),))


def with_scores(**changes: Any) -> Signature:
    return msgspec.structs.replace(IRIS, outputs=(LABEL, msgspec.structs.replace(SCORES, **changes)))


@pytest.mark.parametrize(
    ("primary", "candidate"),
    [
        (IRIS, IRIS),
        (IRIS, with_input(shape=(-1, -1))),
        (IRIS, with_input(shape=None)),
        (IRIS, with_input(tensor="other:0", stated=(1, 4))),
        (with_input(shape=(-1, 4)), with_input(columns=("a", "b", "c", "d"))),
        (IRIS, msgspec.structs.replace(IRIS, outputs=(SCORES, LABEL, TensorSpec("why", "BYTES", (-1,))))),
        (with_scores(shape=(-1, -1)), with_scores(shape=(-1, 3))),
        (with_scores(shape=None), IRIS),
        (IRIS, with_scores(columns=("a", "b", "c"))),
    ],
)
def test_it_may_take_and_give_more(primary: Signature, candidate: Signature) -> None:
    """Every call that was fine is fine, and its answer is what callers know."""
    assert unlike(primary, candidate) == ()


@pytest.mark.parametrize(
    ("primary", "candidate", "said"),
    [
        (IRIS, with_input(name="Z"), "it wants an input 'Z', which callers do not send; they send 'X'"),
        (IRIS, with_input(datatype="FP64"), "its input 'X' is FP64, not FP32"),
        (IRIS, with_input(datatype="FP16"), "its input 'X' is FP16, not FP32"),
        (IRIS, with_input(shape=(-1, 5)), "its input 'X' has shape [-1, 5], where [-1, 4] was taken"),
        (IRIS, with_input(shape=(-1, 4, 1)), "its input 'X' has shape [-1, 4, 1], where [-1, 4] was taken"),
        (with_input(shape=(-1, -1)), IRIS, "its input 'X' has shape [-1, 4], where [-1, -1] was taken"),
        (with_input(shape=None), IRIS, "its input 'X' has shape [-1, 4], where any was taken"),
        (
            with_input(columns=("a", "b")),
            with_input(columns=("b", "a")),
            "its input 'X' has the columns 'b', 'a', not 'a', 'b'",
        ),
        (with_input(columns=("a", "b")), IRIS, "its input 'X' has no named columns; callers may name 'a', 'b'"),
        (IRIS, msgspec.structs.replace(IRIS, outputs=(SCORES,)), "it has no output 'label'; it has 'scores'"),
        (IRIS, with_scores(datatype="FP64"), "its output 'scores' is FP64, not FP32"),
        (IRIS, with_scores(shape=(-1, 4)), "its output 'scores' has shape [-1, 4], where callers expect [-1, 3]"),
        (IRIS, with_scores(shape=None), "its output 'scores' has shape any, where callers expect [-1, 3]"),
        (
            with_scores(columns=("a", "b", "c")),
            with_scores(columns=("a", "c", "b")),
            "its output 'scores' has the entries 'a', 'c', 'b', not 'a', 'b', 'c'",
        ),
        (IRIS, msgspec.structs.replace(IRIS, method="classify"), "its method is classify, not predict"),
        (
            IRIS,
            msgspec.structs.replace(IRIS, batched=False),
            "it is not batched: axis 0 of its inputs is not rows",
        ),
        (IRIS, msgspec.structs.replace(IRIS, streaming=True), "it streams its answers"),
        (msgspec.structs.replace(IRIS, streaming=True), IRIS, "it does not stream its answers"),
    ],
)
def test_it_says_what_differs(primary: Signature, candidate: Signature, said: str) -> None:
    """A sentence for each difference, with what was and what is."""
    assert said in unlike(primary, candidate)


def test_an_input_by_another_name_is_two_differences() -> None:
    """One is missing, one is wanted that nobody sends."""
    assert len(unlike(IRIS, with_input(name="Z"))) == 2


def test_every_signature_of_the_primary_is_needed() -> None:
    """Others may come; where there are several, the sentence says which."""
    primary = {"serving_default": IRIS, "scores": IRIS}

    assert differences({"serving_default": IRIS}, primary) == ()
    assert differences(primary, {"serving_default": IRIS}) == (
        "it has no signature 'scores'; it has 'serving_default'",
    )
    assert differences(primary, {"serving_default": IRIS, "scores": with_input(datatype="BYTES")}) == (
        "signature 'scores': its input 'X' is BYTES, not FP32",
    )
