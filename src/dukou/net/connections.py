"""What all connections of one server share, and the one sweep that keeps their times."""

import asyncio
import itertools
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from dukou.config import HttpConfig
from dukou.core.clock import Clock
from dukou.core.event import Observer, RequestLogged
from dukou.net.exchange import Answer, Exchange, OnRefused
from dukou.net.http1 import Head, ResponseWriter
from dukou.wire.codec import Headers

SWEPT_TOGETHER = 256
UNIX = "unix"

_REQUEST_ID = re.compile(rb"[ -~]{1,128}")


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The client's address and port; `unix` for one that came by such a socket, `unknown` for one that has gone."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    if isinstance(peer, tuple):
        return f"{peer[0]}:{peer[1]}"
    own = transport.get_extra_info("socket") if transport is not None else None
    return UNIX if own is not None and own.family == socket.AF_UNIX else "unknown"


class Progress:
    """Whether a client takes what is sent to it."""

    __slots__ = ("_since_s", "_taken_bytes")

    def __init__(self) -> None:
        self._taken_bytes = -1
        self._since_s = 0.0

    def stalled_s(self, now: float, sent_bytes: int, waiting_bytes: int) -> float:
        """How long the client has taken nothing of what waits for it, as far as this was asked; 0 when nothing does."""
        taken_bytes = sent_bytes - waiting_bytes
        if not waiting_bytes or taken_bytes != self._taken_bytes:
            self._taken_bytes = taken_bytes
            self._since_s = now
        return now - self._since_s


class Open(Protocol):
    """A connection that is open, of whatever protocol."""

    def sweep(self, now: float) -> None:
        """Cut the client off if it has used up a timeout."""

    def close_when_idle(self) -> None:
        """Close now if no request is under way; `Connections.draining` closes it later otherwise."""

    def abort(self) -> None:
        """Drop the connection with whatever is under way; one that closes behind its last answer may send that."""


class Connections:
    """All connections of one server. `sweep` is to be run about `sweep_s` seconds apart."""

    def __init__(
        self,
        limits: HttpConfig,
        on_refused: OnRefused,
        *,
        clock: Clock,
        wall: Clock,
        log_to: Sequence[Observer] = (),
    ) -> None:
        self.limits = limits
        self.on_refused = on_refused
        self.clock = clock
        self.log_to = log_to
        self.draining = False
        self.known_heads: dict[bytes, Head] = {}
        self.writer = ResponseWriter()
        self.sweep_s = min(
            1.0,
            0.25 * min(limits.header_timeout_s, limits.body_timeout_s, limits.idle_timeout_s, limits.write_timeout_s),
        )
        self._wall = wall
        self._open: set[Open] = set()
        self._on_empty: Callable[[], None] | None = None
        self._id_prefix = secrets.token_hex(4)
        self._count = itertools.count(1)
        self.writer.set_date(wall())

    def __len__(self) -> int:
        return len(self._open)

    def id_for(self, headers: Headers) -> str:
        """The request's own id, if it brought a decent one, or a new one, unlike those of other processes."""
        asked = headers.get(b"x-request-id")
        if asked is not None and _REQUEST_ID.fullmatch(asked):
            return asked.decode("ascii")
        return f"{self._id_prefix}-{next(self._count)}"

    def log_request(self, exchange: Exchange, answer: Answer, peer: str, response_bytes: int) -> None:
        """Write the access log, if there is one."""
        head = exchange.head
        event = RequestLogged(
            id=exchange.id,
            peer=peer,
            method=head.method.decode("latin-1") if head else "-",
            path=head.target.decode("latin-1") if head else "-",
            status=answer.status,
            request_bytes=len(exchange.body),
            response_bytes=response_bytes,
            duration_s=self.clock() - exchange.arrived_s,
        )
        for observer in self.log_to:
            observer(event)

    def opened(self, connection: Open) -> bool:
        """Count a connection in; False when there is no room for it."""
        if self.draining or len(self._open) >= self.limits.max_connections:
            return False
        self._open.add(connection)
        return True

    def replace(self, connection: Open, by: Open) -> None:
        """The same connection speaks through another object from now on."""
        self._open.discard(connection)
        self._open.add(by)

    def closed(self, connection: Open) -> None:
        """Count a connection out."""
        self._open.discard(connection)
        if not self._open and self._on_empty is not None:
            self._on_empty()

    def sweep(self) -> Iterator[None]:
        """Cut off whoever has used up a timeout, and set the date of answers.

        To be run to its end; yields after every SWEPT_TOGETHER connections, for the event loop to turn: a connection
        takes 2 µs, and there may be many thousands.
        """
        self.writer.set_date(self._wall())
        for count, connection in enumerate(list(self._open), 1):
            connection.sweep(self.clock())
            if count % SWEPT_TOGETHER == 0:
                yield

    def drain(self, on_empty: Callable[[], None]) -> None:
        """Close what is idle now and the rest after its answers; `on_empty` is told when none is left."""
        self.draining = True
        self._on_empty = on_empty
        for connection in list(self._open):
            connection.close_when_idle()
        if not self._open:
            on_empty()

    def abort(self) -> None:
        """Drop every connection."""
        for connection in list(self._open):
            connection.abort()
