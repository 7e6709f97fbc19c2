"""The HTTP server of one process: sockets in, calls of the data plane out."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

from dukou.config import EngineConfig, Http2Config, HttpConfig, ModelsConfig, PlainConfig
from dukou.core.clock import Clock, monotonic
from dukou.core.clock import wall as wall_clock
from dukou.core.errors import Code
from dukou.core.event import Observer, RequestRefused
from dukou.core.message import DataPlane
from dukou.core.statistics import VersionStatistics
from dukou.core.verb import Control
from dukou.core.version import ModelVersion
from dukou.net.calls import Calls
from dukou.net.connections import Connections
from dukou.net.exchange import Exchange
from dukou.net.facts import Facts
from dukou.net.front import Front
from dukou.net.http2 import Session
from dukou.net.http2_connection import NewSession, Site
from dukou.net.rpc import Methods
from dukou.net.services import methods as all_methods
from dukou.net.sniff import FirstBytes

# The file belongs to whoever opened the socket: the other workers go on accepting there.
_KEEP_SOCKET_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class HttpServer:
    """Serves `plane` over HTTP/1.1, HTTP/2 and gRPC, all on the same sockets.

    `metrics(dialect)` makes the body of /metrics, `serving_metrics()` that of TensorFlow Serving's path, `statistics()`
    what the models have done; they run in `pool`, where large bodies are read and large answers written: a pool of its
    own, or models would hold them up. `plain` is the simple route. `observers` are told of what is refused and, with
    `access_log`, of every request. `methods(facts, dialect)` are the gRPC methods, `new_session` makes the HTTP/2
    session of a connection. `control` is the control plane, as far as `models` lets callers use it.
    """

    def __init__(
        self,
        plane: DataPlane,
        http: HttpConfig,
        engine: EngineConfig,
        *,
        metrics: Callable[[str], bytes],
        pool: Executor,
        serving_metrics: Callable[[], bytes] = lambda: b"",
        serving_metrics_path: str = "",
        statistics: Callable[[], Mapping[ModelVersion, VersionStatistics]] = dict,
        plain: PlainConfig | None = None,
        clock: Clock = monotonic,
        wall: Clock = wall_clock,
        observers: Sequence[Observer] = (),
        access_log: bool = False,
        http2: Http2Config | None = None,
        methods: Callable[[Facts, str], Methods] = all_methods,
        new_session: NewSession = Session,
        control: Control | None = None,
        models: ModelsConfig | None = None,
    ) -> None:
        self._http = http
        self._http2 = http2 or Http2Config()
        self._methods = methods
        self._new_session = new_session
        self._plain = plain or PlainConfig()
        self._serving_metrics_path = serving_metrics_path
        self._clock = clock
        self._observers = observers
        self._calls = Calls(plane, engine, http.max_body_bytes, pool=pool, on_refused=self._tell_refused)
        self._facts = Facts(
            plane,
            pool,
            statistics,
            metrics,
            serving_metrics,
            lambda: self.connections.draining,
            clock,
            observers,
            engine.decode_off_loop_bytes,
            lambda: self._scheme,
            engine.request_timeout_s,
            control,
            reloads=control is not None and models is not None and bool(models.config_file),
            explicit=control is not None and models is not None and models.control == "explicit",
        )
        self._fronts: dict[str, Front] = {}
        self._sites: dict[str, Site] = {}
        self.connections = Connections(
            http,
            self._tell_refused,
            clock=clock,
            wall=wall,
            log_to=observers if access_log else (),
        )
        self._scheme = "http"
        self._servers: list[asyncio.AbstractServer] = []
        self._next_sweep: asyncio.Handle | None = None

    def protocol(self, dialect: str = "") -> FirstBytes:
        """What speaks on a connection that is about to be made to a listener of that dialect."""
        return FirstBytes(self.connections, self.site(dialect))

    def front(self, dialect: str) -> Front:
        """What answers HTTP on the listeners of a dialect."""
        found = self._fronts.get(dialect)
        if found is None:
            found = self._fronts[dialect] = Front(
                dialect,
                self._facts,
                self._calls,
                self._plain,
                self._tell_refused,
                cors=self._http.cors,
                serving_metrics_path=self._serving_metrics_path,
            )
        return found

    def site(self, dialect: str) -> Site:
        """What answers on the listeners of a dialect: its front, and its gRPC methods."""
        found = self._sites.get(dialect)
        if found is None:
            found = self._sites[dialect] = Site(
                self.front(dialect).respond,
                self._methods(self._facts, dialect),
                self._calls,
                settings=self._http2,
                pool=self._facts.pool,
                new_session=self._new_session,
            )
        return found

    async def serve(
        self,
        listeners: Sequence[tuple[socket.socket, str]],
        tls: ssl.SSLContext | None = None,
        backlog: int = 2048,
    ) -> None:
        """Accept connections on listening sockets, each with its dialect ("" for all in one); returns once it does.

        `backlog` is that of the sockets: event loops call listen() again and would cut it to 100.
        """
        loop = asyncio.get_running_loop()
        timeout_s = self._http.header_timeout_s if tls else None
        if tls:
            self._scheme = "https"
        for one, dialect in listeners:
            create: Any = loop.create_server
            if one.family == socket.AF_UNIX:
                create = partial(loop.create_unix_server, **_KEEP_SOCKET_FILE)
            self._servers.append(
                await create(
                    partial(self.protocol, dialect),
                    sock=one,
                    backlog=backlog,
                    ssl=tls,
                    ssl_handshake_timeout=timeout_s,
                )
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

    def _tell_refused(self, exchange: Exchange, code: Code) -> None:
        event = RequestRefused(exchange.version, code, exchange.arrived_s, self._clock(), exchange.executed)
        for observer in self._observers:
            observer(event)
