"""One HTTP request and its answer."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec
import orjson

from dukou.core.errors import Code
from dukou.core.version import ModelVersion
from dukou.net.http1 import Head
from dukou.wire.codec import JSON, Headers


class Cancellable(Protocol):
    """Something under way: a Run, a Future."""

    def cancel(self) -> object:
        """The caller has gone."""


class Answer(msgspec.Struct, frozen=True):
    """What is said to a request. Without a content type there is no body.

    A body that comes bit by bit is `pieces`, and `body` is empty: the connection takes each when the client has taken
    the last, and closes the iterator (`aclose`) when the client goes. `status` is that of HTTP, or of gRPC for a call.
    """

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()
    pieces: AsyncIterator[bytes] | None = None


def error_body(detail: str) -> bytes:
    """`{"error": detail}`, the form that all clients read."""
    return orjson.dumps({"error": detail})


class Exchange(msgspec.Struct, eq=False):
    """A request on its way to its answer.

    `head` is None for bytes that were no request. `run` is the call under way, to be cancelled when the client goes.
    `arrived_s` and `deadline_s`, which is the caller's own, are on the monotonic clock. `close` says that the
    connection ends with this answer. `peer` is who asks by HTTP (`dukou.net.connections.peer_of`). `version` is the one
    chosen to answer, `executed` says that it has.
    """

    head: Head | None
    body: bytes
    id: str
    arrived_s: float
    on_answer: Callable[[], None]
    close: bool = False
    peer: str = ""
    run: Cancellable | None = None
    version: ModelVersion | None = None
    executed: bool = False
    deadline_s: float = math.inf
    said: Answer | None = None

    @property
    def headers(self) -> Headers:
        """The request's headers."""
        return self.head.headers if self.head is not None else {}

    def answer(self, answer: Answer) -> None:
        """Answer the request; only the first answer counts, and none after the client has gone."""
        if self.said is None:
            self.said = answer
            self.on_answer()


Responder: TypeAlias = Callable[[Exchange], None]
"""Answers the exchange once, now or later, from the event loop. Never raises."""

OnRefused: TypeAlias = Callable[[Exchange, Code], None]
"""Told once of each exchange whose answer is a refusal, for the counts."""
