"""Errors in the words that clients of the Open Inference Protocol look for, which are Triton's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dukou.core.errors import DukouError, Reason


def describe(error: DukouError) -> str:
    """The message of an error; the default sentence where no client looks for another."""
    if "text" in error.facts:
        return str(error.facts["text"])
    text = _TEXTS.get(error.reason)
    return text(_Facts(error.facts)) if text else str(error)


class _Facts(dict[str, Any]):
    """Facts by attribute; None where one is missing."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def _unknown_model(facts: _Facts) -> str:
    return f"Request for unknown model: '{facts.model}' is not found"


def _unknown_version(facts: _Facts) -> str:
    return f"Request for unknown model: '{facts.model}' version {facts.version} is not found"


def _inputs_missing(facts: _Facts) -> str:
    text = f"expected {len(facts.wanted)} inputs but got {len(facts.got)} inputs for model '{facts.model}'"
    if not facts.missing:
        return f"{text}. Got input(s) {facts.got}, wanted are {facts.wanted}."
    return (
        f"{text}. Got input(s) {facts.got}, but missing required input(s) {facts.missing}. "
        "Please provide all required input(s)."
    )


def _unexpected_shape(facts: _Facts) -> str:
    if facts.stated is not None:
        return (
            f"unable to parse 'data' of input '{facts.tensor}' for model '{facts.model}': shape {_shape(facts.stated)} "
            f"does not match true shape of 'data', which has {facts.got} elements"
        )
    return (
        f"unexpected shape for input '{facts.tensor}' for model '{facts.model}'. "
        f"Expected {_shape(facts.spec_shape or ())}, got {_shape(facts.shape or ())}. "
    )


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


_TEXTS: Mapping[Reason, Callable[[_Facts], str]] = {
    Reason.MALFORMED_JSON: lambda facts: f"failed to parse the request JSON buffer: {facts.detail}",
    Reason.MODEL_NOT_FOUND: _unknown_model,
    Reason.VERSION_NOT_FOUND: _unknown_version,
    Reason.INPUT_MISSING: _inputs_missing,
    Reason.INPUT_UNEXPECTED: lambda facts: f"unexpected inference input '{facts.tensor}' for model '{facts.model}'",
    Reason.INPUT_DUPLICATE: lambda facts: f"input '{facts.tensor}' already exists in request",
    Reason.OUTPUT_UNEXPECTED: lambda facts: f"unexpected inference output '{facts.got}' for model '{facts.model}'",
    Reason.OUTPUT_DUPLICATE: lambda facts: f"output '{facts.got}' already exists in request",
    Reason.WRONG_DATATYPE: lambda facts: (
        f"inference input '{facts.tensor}' data-type is '{facts.got}', "
        f"but model '{facts.model}' expects '{facts.wanted}'"
    ),
    Reason.WRONG_SHAPE: _unexpected_shape,
    Reason.WRONG_WIDTH: _unexpected_shape,
    Reason.WRONG_BYTES: lambda facts: (
        f"input byte size mismatch for input '{facts.tensor}' for model '{facts.model}'. "
        f"Expected {facts.wanted}, got {facts.got}"
    ),
    Reason.WRONG_STRINGS: lambda facts: (
        f"expected {facts.wanted} string elements for inference input '{facts.tensor}' for model '{facts.model}', "
        f"got {facts.got}"
    ),
    Reason.ROWS_DIFFER: lambda facts: (
        f"input '{facts.tensor}' batch size does not match other inputs for '{facts.model}'"
    ),
    Reason.BATCH_TOO_LARGE: lambda facts: f"inference request batch-size must be <= {facts.wanted} for '{facts.model}'",
    Reason.QUEUE_FULL: lambda facts: (
        f"Exceeds maximum queue size for model '{facts.model}': {facts.got} rows are waiting, {facts.wanted} is the "
        "most; try again soon"
    ),
    Reason.DEADLINE_EXCEEDED: lambda facts: "Request timeout expired",
}
