"""A server whose sockets and models are in the test's hand: bytes in, bytes out, no event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dukou.config import EngineConfig, HttpConfig, ModelsConfig, PlainConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.event import Event
from dukou.core.message import OnDone, Served, Table
from dukou.core.model import ModelRef
from dukou.core.verb import Control
from dukou.engine.route import choose
from dukou.net.listener import HttpServer
from dukou.testing.clock import HandClock
from dukou.testing.models import iris_like, table

PREDICT = b'{"X": [[5.1, 3.5, 1.4, 0.2]]}'


class HandRun:
    """A call under way that the test finishes."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], on_done: OnDone[Any], deadline_s: float) -> None:
        self.coroutine = coroutine
        self._on_done: OnDone[Any] | None = on_done
        self.deadline_s = deadline_s
        self.cancelled = False

    def finish(self) -> None:
        """Let the call run to its answer, or to its next wait for the pool, after which it goes on by itself."""
        try:
            future = self.coroutine.send(None)
        except StopIteration as end:
            self._tell(end.value, None)
        except Exception as error:
            self._tell(None, error)
        else:
            future._asyncio_future_blocking = False
            future.add_done_callback(lambda _: self.finish() if self._on_done is not None else None)

    def fail(self, error: BaseException) -> None:
        """Answer with an error instead."""
        self.coroutine.close()
        self._tell(None, error)

    def _tell(self, answer: Any, error: BaseException | None) -> None:
        on_done, self._on_done = self._on_done, None
        assert on_done is not None, "the caller was told already"
        on_done(answer, error)

    def cancel(self) -> None:
        """The caller has gone."""
        self.cancelled = True
        self.fail(DukouError(Reason.CANCELLED))


class HandPlane:
    """A DataPlane whose calls are finished at once, or, with `by_hand`, by the test."""

    def __init__(self, of: Table | None = None, by_hand: bool = False) -> None:
        self.table = of if of is not None else table(iris_like())
        self.by_hand = by_hand
        self.runs: list[HandRun] = []

    def choose(self, ref: ModelRef, key: str) -> Served:
        """The engine's own choice."""
        return choose(self.table, ref, key, lambda: 0.0)

    def start(self, call: Coroutine[Any, Any, Any], on_done: OnDone[Any], deadline_s: float = float("inf")) -> HandRun:
        """Run now or later."""
        run = HandRun(call, on_done, deadline_s)
        self.runs.append(run)
        if not self.by_hand:
            run.finish()
        return run

    def close(self) -> None:
        """Close what was never finished."""
        for run in self.runs:
            run.coroutine.close()


class MemoryTransport(asyncio.Transport):
    """What a socket's transport does, without the socket. The client takes everything at once unless it is `stuck`."""

    def __init__(self, *, can_half_close: bool = True, peer: object = ("192.0.2.1", 5000)) -> None:
        super().__init__()
        self._peer = peer
        self.protocol: Any
        self.out = b""
        self.writes = 0
        self.stuck_bytes = 0
        self.stuck = False
        self.high_water = 65_536
        self.reading = True
        self.half_closed = False
        self.closed = False
        self.aborted = False
        self.gone = False
        self._can_half_close = can_half_close

    def set_protocol(self, protocol: Any) -> None:
        """Have another protocol called from now on."""
        self.protocol = protocol

    def write(self, data: Any) -> None:
        """Take an answer, or raise as uvloop does once the peer has gone."""
        if self.gone:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        self.out += data
        self.writes += 1
        if self.stuck:
            self.stuck_bytes += len(data)
            if self.stuck_bytes > self.high_water:
                self.protocol.pause_writing()

    def take(self, count: int) -> None:
        """The client takes `count` bytes of what is stuck."""
        self.stuck_bytes -= count
        if self.stuck_bytes == 0:
            self.stuck = False
            self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes not taken yet."""
        return self.stuck_bytes

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        assert not self.is_closing()
        self.reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        assert not self.is_closing()
        self.reading = True

    def can_write_eof(self) -> bool:
        """TLS cannot."""
        return self._can_half_close

    def write_eof(self) -> None:
        """Half-close."""
        self.half_closed = True

    def close(self) -> None:
        """Close once everything is taken."""
        self.closed = True

    def abort(self) -> None:
        """Close now."""
        self.aborted = self.closed = True

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The peer."""
        return self._peer if name == "peername" else default


@dataclass
class Said:
    """An answer as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection to a server in memory."""

    def __init__(self, server: HttpServer, dialect: str = "", **options: Any) -> None:
        self.transport = MemoryTransport(**options)
        self.transport.protocol = server.protocol(dialect)
        self.transport.protocol.connection_made(self.transport)

    @property
    def connection(self) -> Any:
        """The protocol that speaks on this connection by now."""
        return self.transport.protocol

    def send(self, *pieces: bytes) -> "Client":
        """Let the server receive `pieces`, one by one, as long as its transport is open."""
        for piece in pieces:
            if not self.transport.closed:
                self.connection.data_received(piece)
        return self

    def end(self) -> "Client":
        """Half-close the client's side; the loop closes the transport where the protocol does not keep it."""
        if not self.connection.eof_received():
            self.transport.close()
        return self

    def vanish(self) -> "Client":
        """The connection is reset."""
        self.transport.gone = True
        self.connection.connection_lost(ConnectionResetError())
        return self

    def answers(self, *, of_head: bool = False) -> list[Said]:
        """The final answers so far; `of_head`: they have no bodies."""
        return read_answers(self.transport.out, of_head)

    @property
    def statuses(self) -> list[int]:
        """The status of each answer so far."""
        return [said.status for said in self.answers()]


def read_answers(data: bytes, of_head: bool = False) -> list[Said]:
    """The answers in `data`, which must be whole; interim ones (100) are in it too."""
    found = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"half an answer: {head!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, number, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines)
        length = 0 if of_head else int(headers.get("content-length", "0"))
        assert len(data) >= length, "half a body"
        found.append(Said(int(number), headers, data[:length]))
        data = data[length:]
    return found


def request(
    method: str = "POST",
    target: str = "/predict",
    body: bytes = b"",
    *fields: str,
    version: str = "1.1",
    length: bool = True,
) -> bytes:
    """The bytes of a request; `length` adds Content-Length to one with a body."""
    host = () if any(field.startswith("Host:") for field in fields) else ("Host: test",)
    lines = [f"{method} {target} HTTP/{version}", *host, *fields]
    if body and length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def predict(*fields: str, body: bytes = PREDICT, **options: Any) -> bytes:
    """The bytes of a small inference."""
    return request("POST", "/predict", body, *fields, **options)


class World:
    """A server with everything it is given in reach."""

    def __init__(
        self,
        *,
        plane: Any = None,
        clock: HandClock | None = None,
        pool: Executor | None = None,
        metrics: Callable[[str], bytes] = lambda dialect: b"dukou_up 1\n",
        plain: PlainConfig | None = None,
        access_log: bool = False,
        decode_off_loop_bytes: int = 131_072,
        control: Control | None = None,
        models: ModelsConfig | None = None,
        **limits: Any,
    ) -> None:
        self.plane = plane or HandPlane()
        self.clock = clock or HandClock(1000.0)
        self.wall = HandClock(1_700_000_000.0)
        self.events: list[Event] = []
        self.pool = pool or ThreadPoolExecutor(1)
        self.server = HttpServer(
            self.plane,
            HttpConfig(**limits),
            EngineConfig(decode_off_loop_bytes=decode_off_loop_bytes),
            metrics=metrics,
            serving_metrics=lambda: b":tensorflow:serving:request_count 1\n",
            serving_metrics_path="/monitoring/prometheus/metrics",
            plain=plain,
            pool=self.pool,
            clock=self.clock,
            wall=self.wall,
            observers=[self.events.append],
            access_log=access_log,
            control=control,
            models=models,
        )

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self.plane, HandPlane):
            self.plane.close()
        self.pool.shutdown()

    def client(self, dialect: str = "", **options: Any) -> Client:
        """A new connection, to a listener of that dialect."""
        return Client(self.server, dialect, **options)

    def pass_time(self, seconds: float) -> None:
        """Let time pass as it does: with sweeps in between."""
        step = self.server.connections.sweep_s
        while seconds > 0.0:
            self.clock.advance(min(step, seconds))
            self.wall.advance(min(step, seconds))
            self.sweep()
            seconds -= step

    def sweep(self) -> int:
        """Look at every connection's times; how often the loop may turn in between."""
        return sum(1 for _ in self.server.connections.sweep())
