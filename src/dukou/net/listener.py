"""The HTTP server of one process: sockets in, calls of the data plane out."""

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

from dukou.config import EngineConfig, HttpConfig
from dukou.core.clock import Clock, monotonic
from dukou.core.clock import wall as wall_clock
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import Observer, RequestRefused
from dukou.core.message import DataPlane
from dukou.net.api import Call
from dukou.net.calls import Calls
from dukou.net.connection import Connections
from dukou.net.exchange import Answer, Exchange, error_body
from dukou.net.pages import Pages
from dukou.net.routes import Page, Route, route
from dukou.net.status import CODES

KNOWN_ROUTES = 1024
KNOWN_TARGET_BYTES = 256

# The file belongs to whoever opened the socket: the other workers go on accepting there.
_KEEP_SOCKET_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
_log = logging.getLogger("dukou.net")


class HttpServer:
    """Serves `plane` over HTTP/1.1.

    `metrics` makes the body of /metrics and runs in `pool`, where large bodies are read and large answers written:
    a pool of its own, or models would hold them up. `observers` are told of what is refused and, with `access_log`, of
    every request.
    """

    def __init__(
        self,
        plane: DataPlane,
        http: HttpConfig,
        engine: EngineConfig,
        *,
        metrics: Callable[[], bytes],
        pool: Executor,
        clock: Clock = monotonic,
        wall: Clock = wall_clock,
        observers: Sequence[Observer] = (),
        access_log: bool = False,
    ) -> None:
        self.connections = Connections(
            http,
            self._respond,
            self._tell_refused,
            clock=clock,
            wall=wall,
            log_to=observers if access_log else (),
        )
        self._http = http
        self._clock = clock
        self._observers = observers
        self._calls = Calls(plane, engine, http.max_body_bytes, pool=pool, on_refused=self._tell_refused)
        self._pages = Pages(plane, metrics, pool, lambda: self.connections.draining, lambda: self._scheme)
        self.known_routes: dict[tuple[bytes, bytes], Route] = {}  # method and target to what `route` said of them
        self._scheme = "http"
        self._servers: list[asyncio.AbstractServer] = []
        self._next_sweep: asyncio.Handle | None = None

    async def serve(
        self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None, backlog: int = 2048
    ) -> None:
        """Accept connections on listening `sockets`; returns once it does.

        `backlog` is that of the sockets: event loops call listen() again and would cut it to 100.
        """
        loop = asyncio.get_running_loop()
        timeout_s = self._http.header_timeout_s if tls else None
        if tls:
            self._scheme = "https"
        for one in sockets:
            create: Any = loop.create_server
            if one.family == socket.AF_UNIX:
                create = partial(loop.create_unix_server, **_KEEP_SOCKET_FILE)
            self._servers.append(
                await create(self.connections, sock=one, backlog=backlog, ssl=tls, ssl_handshake_timeout=timeout_s)
            )
        self._sweep(self.connections.sweep())

    async def drain(self) -> None:
        """Accept no more, answer what was taken, return when every connection is closed."""
        for server in self._servers:
            server.close()
        empty = asyncio.get_running_loop().create_future()
        self.connections.drain(lambda: None if empty.done() else empty.set_result(None))
        await empty
        self.close()

    def close(self) -> None:
        """Drop everything at once, but for last answers that are on their way."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._next_sweep is not None:
            self._next_sweep.cancel()
            self._next_sweep = None
        self.connections.abort()

    def _sweep(self, sweep: Iterator[None]) -> None:
        """Go on with a sweep; when it is done, begin the next one in time."""
        loop = asyncio.get_running_loop()
        try:
            next(sweep)
            self._next_sweep = loop.call_soon(self._sweep, sweep)
        except StopIteration:
            self._next_sweep = loop.call_later(self.connections.sweep_s, self._sweep, self.connections.sweep())

    def _respond(self, exchange: Exchange) -> None:
        """Answer an exchange; what goes wrong here is answered too."""
        head = exchange.head
        assert head is not None, "what was no request is answered by the connection"
        try:
            key = (head.method, head.target)
            target = self.known_routes.get(key) or self._find_route(key)
            if isinstance(target, Call):
                self._calls.answer(exchange, target)
            elif isinstance(target, Page):
                self._pages.answer(exchange, target)
            else:
                if target.status >= 400:
                    self._tell_refused(exchange, CODES[target.status])
                exchange.answer(target)
        except Exception:
            _log.exception("request %s failed", exchange.id)
            self._tell_refused(exchange, Code.INTERNAL)
            exchange.answer(Answer(500, error_body(DukouError(Reason.INTERNAL).what())))

    def _tell_refused(self, exchange: Exchange, code: Code) -> None:
        event = RequestRefused(exchange.version, code, exchange.arrived_s, self._clock(), exchange.executed)
        for observer in self._observers:
            observer(event)

    def _find_route(self, key: tuple[bytes, bytes]) -> Route:
        found = route(*key)
        if len(key[1]) <= KNOWN_TARGET_BYTES:
            if len(self.known_routes) >= KNOWN_ROUTES:
                self.known_routes.clear()
            self.known_routes[key] = found
        return found
