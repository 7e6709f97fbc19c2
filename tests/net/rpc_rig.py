"""gRPC methods called without a connection: messages in a list, answers in a list, models in the test's hand."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from dukou.core.event import Event
from dukou.core.message import InferenceRequest, InferenceResponse, OnDone, Served, Table
from dukou.core.model import ModelRef, ModelVersion
from dukou.core.statistics import VersionStatistics
from dukou.core.verb import Control
from dukou.engine.route import choose
from dukou.net.facts import Facts
from dukou.net.rpc import Methods
from dukou.testing.clock import HandClock

T = TypeVar("T")


class ListRpc:
    """A call whose messages are `messages`, and then, until `end`, those that the test gives it with `give`."""

    def __init__(self, messages: Sequence[bytes] = (), metadata: Mapping[bytes, bytes] | None = None) -> None:
        self.id = "rpc-1"
        self.metadata = metadata or {}
        self.peer = "127.0.0.1:5000"
        self.arrived_s = 0.0
        self.deadline_s = math.inf
        self.initial_metadata: list[tuple[bytes, bytes]] = []
        self.trailing_metadata: list[tuple[bytes, bytes]] = []
        self.sent: list[bytes] = []
        self.taken = 0
        self._coming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._is_sending = False
        for message in messages:
            self.give(message)

    def give(self, message: bytes) -> None:
        """The caller sends a message."""
        self._coming.put_nowait(message)

    def end(self) -> None:
        """The caller has said its last."""
        self._coming.put_nowait(None)

    async def receive(self) -> bytes | None:
        """The next message."""
        message = await self._coming.get()
        self.taken += message is not None
        self._changed.set()
        return message

    async def send(self, message: bytes) -> None:
        """Keep the message. Like a connection, takes one at a time."""
        assert not self._is_sending, "two messages were sent at the same time"
        self._is_sending = True
        await asyncio.sleep(0)
        self._is_sending = False
        self.sent.append(message)
        self._changed.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something has become true by a message that was taken or sent."""
        async with asyncio.timeout(5):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()


class TaskPlane:
    """A DataPlane whose calls are ordinary tasks."""

    def __init__(self, of: Table) -> None:
        self.table = of

    def choose(self, ref: ModelRef, key: str) -> Served:
        """The engine's own choice."""
        return choose(self.table, ref, key, lambda: 0.0)

    def start(
        self, call: Coroutine[Any, Any, T], on_done: OnDone[T], deadline_s: float = math.inf
    ) -> "asyncio.Task[T]":
        """Run it as a task."""

        def done(ended: "asyncio.Task[T]") -> None:
            error = asyncio.CancelledError() if ended.cancelled() else ended.exception()
            on_done(None if error else ended.result(), error)

        task = asyncio.get_running_loop().create_task(call)
        task.add_done_callback(done)
        return task


class Gate:
    """A Stage that answers with its inputs when the test opens it for the request's id, or for all."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._open: dict[str, asyncio.Event] = {}

    def open(self, name: str) -> None:
        """Let the request with that id be answered."""
        self._event(name).set()

    def _event(self, name: str) -> asyncio.Event:
        return self._open.setdefault(name, asyncio.Event())

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The inputs, once it may."""
        self.begun.append(request.reply.id)
        await self._event(request.reply.id).wait()
        return InferenceResponse(request.version, request.inputs)


class FunctionStreamer:
    """A Streamer made of a function."""

    def __init__(self, respond: Callable[[InferenceRequest], AsyncIterator[InferenceResponse]]) -> None:
        self._respond = respond

    def stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        """What the function yields."""
        return self._respond(request)


class Service:
    """The methods of a service over one table; `events` are what the observers were told."""

    def __init__(
        self,
        methods: Callable[[Facts, str], Methods],
        table: Table,
        dialect: str = "",
        statistics: Mapping[ModelVersion, VersionStatistics] | None = None,
        *,
        request_timeout_s: float = math.inf,
        control: Control | None = None,
        peer: str = "127.0.0.1:5000",
        **allowed: bool,
    ) -> None:
        self._peer = peer
        self.clock = HandClock(100.0)
        self.events: list[Event] = []
        self.draining = False
        self.facts = Facts(
            plane=TaskPlane(table),
            pool=ThreadPoolExecutor(1),
            statistics=lambda: statistics or {},
            metrics=lambda dialect: b"",
            serving_metrics=lambda: b"",
            is_draining=lambda: self.draining,
            clock=self.clock,
            observers=[self.events.append],
            request_timeout_s=request_timeout_s,
            control=control,
            **allowed,
        )
        self.methods = methods(self.facts, dialect)

    def handler(self, path: str) -> Callable[[Any], Awaitable[None]]:
        """What answers a path, which is no inference."""
        found: Any = self.methods[path.encode()]
        return found  # type: ignore[no-any-return]

    def call(self, path: str, message: bytes) -> bytes:
        """The one answer to one message. Raises GrpcError."""
        rpc = None

        async def run() -> bytes:
            nonlocal rpc
            rpc = ListRpc([message])
            rpc.peer = self._peer
            rpc.end()
            await self.handler(path)(rpc)
            (answer,) = rpc.sent
            return answer

        return asyncio.run(run())
