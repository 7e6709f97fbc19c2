"""Errors: facts added on the way out."""

from dukou.core.errors import DukouError, Reason


def test_facts_added_later_lose_neither_those_before_nor_the_cause() -> None:
    """The log shows what a model raised, however many layers named it."""
    cause = RuntimeError("inside")
    error = DukouError(Reason.MODEL_FAILED, model="iris")
    error.__cause__ = cause

    named = error.within(model="other", version=3)

    assert named.facts == {"model": "iris", "version": 3}
    assert named.__cause__ is cause
