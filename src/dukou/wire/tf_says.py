"""Refusals in TensorFlow Serving's words. Light: the supervisor, which reads configurations, needs no arrays."""

from typing import Any

from dukou.core.errors import DukouError, Reason


def says(text: str, reason: Reason = Reason.MALFORMED_REQUEST, **facts: Any) -> DukouError:
    """A refusal in these words."""
    return DukouError(reason, detail=text, text=text, **facts)
