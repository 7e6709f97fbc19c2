"""The engine: the table in force, the way to its stages, and the limit on requests under way."""

import asyncio
import math
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Executor as Pool
from contextlib import contextmanager
from random import random
from typing import Any, TypeVar, cast
from weakref import WeakSet

from dukou.config import EngineConfig
from dukou.core.clock import Clock
from dukou.core.errors import DukouError, Reason
from dukou.core.event import Observer
from dukou.core.message import InferenceRequest, InferenceResponse, OnDone, Run, Served, Table, Tap
from dukou.core.model import ModelManifest, ModelRef, ModelVersion
from dukou.core.runtime import LoadedModel, StreamingModel
from dukou.engine.batcher import Batcher, Batching
from dukou.engine.drive import Driver
from dukou.engine.executor import Executor
from dukou.engine.route import choose
from dukou.engine.stream import Streamer
from dukou.engine.tick import Tick

T = TypeVar("T")

_GRAIN_S = 0.01


class Engine:
    """A DataPlane. It reads the table and never decides what to serve; `swap` replaces the table whole.

    All methods but `choose` are called on `loop`; models run there and in `pool`, which is the caller's to shut down.
    """

    def __init__(
        self,
        config: EngineConfig,
        loop: AbstractEventLoop,
        clock: Clock,
        observers: Sequence[Observer],
        pool: Pool,
    ) -> None:
        self._config = config
        self._loop = loop
        self._clock = clock
        self._observers = tuple(observers)
        self._pool = pool
        self._driver = Driver(loop, clock, _GRAIN_S)
        self._tick = Tick(loop, config.tick_budget_s)
        self.table = Table()  # the one in force
        self._batchers: WeakSet[Batcher] = WeakSet()
        self._streamers: WeakSet[Streamer] = WeakSet()
        self._beside = 0  # under way beside the driver: calls of `infer`, and streams
        self._draining = False

    @property
    def under_way(self) -> int:
        """Requests started and not ended."""
        return self._driver.live + self._beside

    def waiting(self) -> Mapping[ModelVersion, int]:
        """How many requests wait for their execution, by version."""
        waiting: dict[ModelVersion, int] = {}
        for batcher in self._batchers:
            waiting[batcher.version] = waiting.get(batcher.version, 0) + batcher.waiting
        return waiting

    def swap(
        self,
        table: Table,
        taps: Mapping[ModelVersion, Tap] = {},
        marks: Mapping[ModelVersion, Callable[[float], None]] = {},
    ) -> None:
        """Put `table` in force; `taps` are told of what these versions answer from now on, and `marks` called around
        their executions. Requests under way finish on the versions chosen for them, untold."""
        for batcher in self._batchers:
            batcher.tap = batcher.mark = None
        for versions in table.models.values() if taps or marks else ():
            for served in versions.values():
                if isinstance(served.stage, Batcher):
                    served.stage.tap, served.stage.mark = taps.get(served.id), marks.get(served.id)
        self.table = table

    def choose(self, ref: ModelRef, key: str) -> Served:
        """The version that answers, AVAILABLE. Raises what `dukou.engine.route.choose` raises."""
        return choose(self.table, ref, key, random)

    def start(self, call: Coroutine[Any, Any, T], on_done: OnDone[T], deadline_s: float = math.inf) -> Run:
        """Run a call's coroutine; `on_done` is called exactly once, perhaps before this returns.

        Admission is here, where every request passes once and nothing that only asks for names or states does: while
        `max_requests` are under way `on_done` gets OVERLOADED, after `drain` has begun it gets DRAINING.
        """
        if self._draining or self._driver.live + self._beside >= self._config.max_requests:
            call.close()
            on_done(None, self._refusal())
            return _REFUSED
        return self._driver.start(call, on_done, deadline_s)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The answer to `request`, from within ordinary asyncio code: the door for programs that embed the engine.

        Admission is as in `start`. A timeout is the caller's (`asyncio.timeout`). Raises DukouError.
        """
        with self._admitted():
            served = choose(self.table, ModelRef(request.version.name, request.version.version), "", random)
            assert served.stage is not None
            return await served.stage.infer(request)

    def stage_for(self, manifest: ModelManifest, model: LoadedModel, own_pool: Pool | None = None) -> Batcher:
        """The stage that serves `model`; call its `warm` before the table names it. With a pool of its own the model
        runs only there, never on the loop.

        Of the manifest's options `max_batch_rows`, `max_request_rows`, `max_queue_delay_s` and
        `independent_rows` are the engine's. Raises DukouError CONFIG_INVALID.
        """
        executor = Executor(
            manifest,
            model,
            tick=self._tick,
            pool=own_pool or self._pool,
            loop=self._loop,
            clock=self._clock,
            may_run_inline=own_pool is None,
        )
        batcher = Batcher(
            manifest,
            executor,
            batching_of(self._config, manifest),
            tick=self._tick,
            loop=self._loop,
            clock=self._clock,
            observers=self._observers,
        )
        self._batchers.add(batcher)
        return batcher

    def streamer_for(
        self, manifest: ModelManifest, model: LoadedModel, own_pool: Pool | None = None
    ) -> Streamer | None:
        """What serves the streaming signatures of `model`; None where it has none. Raises DukouError CONFIG_INVALID."""
        if not any(signature.streaming for signature in manifest.signatures.values()):
            return None
        streamer = Streamer(
            manifest,
            cast(StreamingModel, model),
            batching_of(self._config, manifest).max_request_rows,
            admitted=self._admitted,
            pool=own_pool or self._pool,
            loop=self._loop,
            clock=self._clock,
            observers=self._observers,
        )
        self._streamers.add(streamer)
        return streamer

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests, give those under way `grace_s` seconds to finish, then answer the rest DRAINING.

        Looks every 10 ms whether all have finished: being told would cost every request a check.
        """
        self._draining = True
        until_s = self._clock() + grace_s
        while self.under_way and self._clock() < until_s:
            await asyncio.sleep(_GRAIN_S)
        ended = self._loop.create_future()
        self._loop.call_soon(self._end, ended)  # no stage may be resumed from within the Task that this is
        await ended

    def _end(self, ended: "asyncio.Future[None]") -> None:
        for batcher in list(self._batchers):
            batcher.close()
        for streamer in list(self._streamers):
            streamer.close()
        self._driver.abort_all(Reason.DRAINING)
        if not ended.done():
            ended.set_result(None)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a call that the driver does not run. Raises DukouError OVERLOADED or DRAINING."""
        if self._draining or self.under_way >= self._config.max_requests:
            raise self._refusal()
        self._beside += 1
        try:
            yield
        finally:
            self._beside -= 1

    def _refusal(self) -> DukouError:
        if self._draining:
            return DukouError(Reason.DRAINING)
        return DukouError(Reason.OVERLOADED, got=self.under_way, wanted=self._config.max_requests)


class _Refused:
    """A Run that never was."""

    def cancel(self) -> None:
        pass


_REFUSED = _Refused()


def batching_of(config: EngineConfig, manifest: ModelManifest) -> Batching:
    """How a version's requests are gathered: the manifest's own options, else the engine's settings.

    Requests share a batch on the manifest's evidence that rows are independent, or because `independent_rows` says so.
    Raises DukouError CONFIG_INVALID.
    """

    def option(name: str, default: Any, fits: Callable[[Any], bool], wanted: str) -> Any:
        value = manifest.options.get(name, default)
        if not fits(value):
            raise DukouError(
                Reason.CONFIG_INVALID, detail=f"models.options.{manifest.id.name}.{name} is {value!r}, not {wanted}"
            )
        return value

    return Batching(
        max_batch_rows=option("max_batch_rows", config.max_batch_rows, _is_count, "a whole number of at least 1"),
        max_request_rows=option("max_request_rows", config.max_request_rows, _is_count, "a whole number of at least 1"),
        max_queue_rows=config.max_queue_rows,
        max_queue_delay_s=option("max_queue_delay_s", config.max_queue_delay_s, _is_delay, "seconds from 0 to 10"),
        together=option(
            "independent_rows", manifest.evidence.independent_rows, lambda value: isinstance(value, bool), "a boolean"
        ),
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_delay(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 10.0
