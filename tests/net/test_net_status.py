"""The status tables."""

import pytest

from dukou.core.errors import Code
from dukou.net.status import CODES, GRPC, HTTP, REASONS, RETRY_AFTER_S, TF_REST, TRITON


@pytest.mark.parametrize("statuses", [HTTP, TF_REST, TRITON, GRPC], ids=["http", "tf_rest", "triton", "grpc"])
def test_every_code_has_a_status(statuses: dict[Code, int]) -> None:
    """The tables are total."""
    assert set(statuses) == set(Code)


def test_every_http_status_of_a_code_has_a_reason_phrase() -> None:
    """No answer fails for want of its phrase."""
    assert {*HTTP.values(), *TF_REST.values(), *TRITON.values()} <= set(REASONS)


@pytest.mark.parametrize(
    ("code", "http", "tf_rest", "grpc"),
    [
        (Code.INVALID_ARGUMENT, 400, 400, 3),
        (Code.NOT_FOUND, 404, 404, 5),
        (Code.FAILED_PRECONDITION, 409, 400, 9),
        (Code.PAYLOAD_TOO_LARGE, 413, 413, 8),
        (Code.RESOURCE_EXHAUSTED, 429, 429, 8),
        (Code.CANCELLED, 499, 499, 1),
        (Code.UNIMPLEMENTED, 501, 501, 12),
        (Code.UNAVAILABLE, 503, 503, 14),
        (Code.DEADLINE_EXCEEDED, 504, 504, 4),
    ],
)
def test_a_code_has_the_status_that_clients_know(code: Code, http: int, tf_rest: int, grpc: int) -> None:
    """The numbers of HTTP, of TensorFlow Serving's REST interface and of gRPC."""
    assert (HTTP[code], TF_REST[code], GRPC[code]) == (http, tf_rest, grpc)


def test_every_refusal_of_http_itself_counts_under_a_code() -> None:
    """Whatever status it has; of the Codes that share one, the first."""
    assert {status for status in REASONS if status >= 400} <= set(CODES)
    assert (CODES[400], CODES[409], CODES[500]) == (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.INTERNAL)


def test_codes_that_pass_by_themselves_say_when_to_ask_again() -> None:
    """Retry-After goes with 429 and 503."""
    assert set(RETRY_AFTER_S) == {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.INVALID_ARGUMENT, 400),
        (Code.PAYLOAD_TOO_LARGE, 400),
        (Code.NOT_FOUND, 404),
        (Code.INTERNAL, 500),
        (Code.UNIMPLEMENTED, 501),
        (Code.UNAVAILABLE, 503),
        (Code.RESOURCE_EXHAUSTED, 503),
        (Code.DEADLINE_EXCEEDED, 503),
    ],
)
def test_triton_knows_few_statuses(code: Code, status: int) -> None:
    """A full queue and a timeout are "unavailable" there, and what else is wrong is 400."""
    assert TRITON[code] == status
