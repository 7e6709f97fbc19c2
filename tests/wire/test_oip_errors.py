"""The words of errors that clients look for."""

import pytest

from dukou.core.errors import DukouError, Reason
from dukou.wire.oip_errors import describe


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DukouError(Reason.MALFORMED_JSON, detail="why"), "failed to parse the request JSON buffer: why"),
        (DukouError(Reason.MODEL_NOT_FOUND, model="m"), "Request for unknown model: 'm' is not found"),
        (DukouError(Reason.MODEL_NOT_FOUND, model="m", version=9), "Request for unknown model: 'm' is not found"),
        (
            DukouError(Reason.VERSION_NOT_FOUND, model="m", version=9),
            "Request for unknown model: 'm' version 9 is not found",
        ),
        (
            DukouError(Reason.INPUT_MISSING, model="m", wanted=["A", "B"], got=["A"], missing=["B"]),
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['A'], but missing required input(s) ['B']."
            " Please provide all required input(s).",
        ),
        (DukouError(Reason.INPUT_UNEXPECTED, model="m", tensor="X"), "unexpected inference input 'X' for model 'm'"),
        (DukouError(Reason.INPUT_DUPLICATE, tensor="X"), "input 'X' already exists in request"),
        (DukouError(Reason.OUTPUT_UNEXPECTED, model="m", got="Y"), "unexpected inference output 'Y' for model 'm'"),
        (DukouError(Reason.OUTPUT_DUPLICATE, got="Y"), "output 'Y' already exists in request"),
        (
            DukouError(Reason.WRONG_DATATYPE, model="m", tensor="X", got="FP32", wanted="INT32"),
            "inference input 'X' data-type is 'FP32', but model 'm' expects 'INT32'",
        ),
        (
            DukouError(Reason.WRONG_SHAPE, model="m", tensor="X", shape=[1, 15], spec_shape=[-1, 16]),
            "unexpected shape for input 'X' for model 'm'. Expected [-1,16], got [1,15]. ",
        ),
        (
            DukouError(Reason.WRONG_WIDTH, model="m", tensor="X", got=3, stated=[1, 2]),
            "unable to parse 'data' of input 'X' for model 'm': shape [1,2] does not match true shape of 'data', which "
            "has 3 elements",
        ),
        (
            DukouError(Reason.WRONG_BYTES, model="m", tensor="X", got=40, wanted=32),
            "input byte size mismatch for input 'X' for model 'm'. Expected 32, got 40",
        ),
        (
            DukouError(Reason.WRONG_STRINGS, model="m", tensor="X", got=1, wanted=2),
            "expected 2 string elements for inference input 'X' for model 'm', got 1",
        ),
        (
            DukouError(Reason.ROWS_DIFFER, model="m", tensor="X"),
            "input 'X' batch size does not match other inputs for 'm'",
        ),
        (
            DukouError(Reason.BATCH_TOO_LARGE, model="m", wanted=8, got=9),
            "inference request batch-size must be <= 8 for 'm'",
        ),
        (
            DukouError(Reason.QUEUE_FULL, model="m", got=9, wanted=8),
            "Exceeds maximum queue size for model 'm': 9 rows are waiting, 8 is the most; try again soon",
        ),
        (DukouError(Reason.DEADLINE_EXCEEDED), "Request timeout expired"),
        (DukouError(Reason.DRAINING), "the server is shutting down"),
        (DukouError(Reason.NO_ROWS, model="m", version=1), "model 'm', version 1: no rows came"),
    ],
)
def test_errors_are_said_as_triton_says_them(error: DukouError, text: str) -> None:
    """Where no client looks for other words, in our own."""
    assert describe(error) == text


@pytest.mark.parametrize("reason", Reason)
def test_no_fact_is_needed(reason: Reason) -> None:
    """Errors of other layers may know less; that is no second error."""
    facts = {"wanted": ["A"], "got": []} if reason is Reason.INPUT_MISSING else {}

    assert describe(DukouError(reason, **facts))
