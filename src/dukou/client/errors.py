"""What a client can meet, as a tree:

ClientError
├── ConnectionFailed    the server was not reached, or hung up
├── TimedOut            no whole answer within the time allowed
├── BadAnswer           what came back is not the Open Inference Protocol, or larger than allowed
└── Refused             the server answered with an error: .status, .message
    ├── InvalidInput    400, 413, 422; or found here, before anything was sent (status 0)
    ├── Forbidden       401, 403
    ├── NotFound        404: no such model or version, or the server does not have this call
    ├── Overloaded      429: too much is waiting; the retries are used up
    ├── Unavailable     502, 503: loading or shutting down; the retries are used up
    ├── DeadlineMissed  504: the server gave up on time
    └── ServerFailed    any other 5xx

The numbers are HTTP's; over gRPC the statuses that mean the same have the same errors.
"""

from collections.abc import Mapping


class ClientError(Exception):
    """Anything that a client raises about a call."""


class ConnectionFailed(ClientError):
    """The server was not reached, or hung up before it had answered."""


class TimedOut(ClientError):
    """No whole answer came within the time allowed."""


class BadAnswer(ClientError):
    """The answer cannot be read as the protocol's, or is larger than allowed."""


class Refused(ClientError):
    """The server said no. `status` is the number of its status, HTTP's or gRPC's (0 when nothing was sent), `called`
    the same for people, `message` the server's own text."""

    def __init__(self, message: str, status: int = 0, called: str = "") -> None:
        super().__init__(message, status, called)
        self.message = message
        self.status = status
        self.called = called

    def __str__(self) -> str:
        return f"{self.message} ({self.called})" if self.called else self.message


class InvalidInput(Refused):
    """The inputs do not fit the model."""


class Forbidden(Refused):
    """The caller is unknown, or may not do this."""


class NotFound(Refused):
    """There is no such model, version or call."""


class Overloaded(Refused):
    """Too many requests are waiting."""


class Unavailable(Refused):
    """The model is not ready, or the server is shutting down."""


class DeadlineMissed(Refused):
    """The server did not finish in its own time limit."""


class ServerFailed(Refused):
    """The model or the server failed."""


_BY_HTTP: Mapping[int, type[Refused]] = {
    400: InvalidInput,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    413: InvalidInput,
    422: InvalidInput,
    429: Overloaded,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineMissed,
}

_BY_GRPC: Mapping[int, tuple[str, type[Refused]]] = {
    1: ("CANCELLED", Refused),
    2: ("UNKNOWN", ServerFailed),
    3: ("INVALID_ARGUMENT", InvalidInput),
    4: ("DEADLINE_EXCEEDED", DeadlineMissed),
    5: ("NOT_FOUND", NotFound),
    6: ("ALREADY_EXISTS", Refused),
    7: ("PERMISSION_DENIED", Forbidden),
    8: ("RESOURCE_EXHAUSTED", Overloaded),
    9: ("FAILED_PRECONDITION", InvalidInput),
    10: ("ABORTED", Refused),
    11: ("OUT_OF_RANGE", InvalidInput),
    12: ("UNIMPLEMENTED", ServerFailed),
    13: ("INTERNAL", ServerFailed),
    14: ("UNAVAILABLE", Unavailable),
    15: ("DATA_LOSS", ServerFailed),
    16: ("UNAUTHENTICATED", Forbidden),
}


def http_refusal(status: int, message: str) -> Refused:
    """The error for an answer with that HTTP status."""
    kind = _BY_HTTP.get(status, ServerFailed if status >= 500 else Refused)
    return kind(message, status, f"HTTP {status}")


def grpc_refusal(status: int, message: str) -> Refused:
    """The error for a call that ended with that gRPC status."""
    name, kind = _BY_GRPC.get(status, (str(status), Refused))
    return kind(message, status, f"gRPC {name}")
