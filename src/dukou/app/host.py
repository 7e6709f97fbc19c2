"""The data plane of one process, put together: engine, runtimes, HTTP, counters."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import socket

from dukou.app.opening import open_assigned
from dukou.app.release import settle
from dukou.app.taps import Taps, make_capture
from dukou.app.versions import Versions
from dukou.config import Config
from dukou.core.clock import monotonic
from dukou.core.event import Observer
from dukou.core.link import Applied, Apply, Freed
from dukou.core.message import Served, Table
from dukou.core.model import ModelVersion
from dukou.core.route import Route, Shadow
from dukou.core.statistics import VersionStatistics
from dukou.core.verb import Control
from dukou.core.version import State
from dukou.engine.router import Engine
from dukou.engine.shadow import Shadowing
from dukou.net.listener import HttpServer
from dukou.net.sockets import tls_context
from dukou.telemetry.counters import Counters
from dukou.telemetry.statistics import read_statistics

_SAMPLED_EVERY_S = 1.0
_BODY_THREADS = 2
"""For large bodies and answers and /metrics; more would only take turns, as parsers hold the interpreter."""

_log = logging.getLogger("dukou")


def _nobody(_: Applied | Freed) -> None:
    """For whoever does not ask."""


class Host:
    """A DataPlaneHost (`dukou.control.worker`): follows tables, serves sockets, drains.

    `state` is the folder of the counters that all workers share, `slot` this process's place among them,
    `dialects` those of the sockets that `serve` will get; without them, each has the default. `control` is what callers
    may ask of the control plane by.
    """

    def __init__(
        self,
        config: Config,
        state: Path,
        slot: int,
        observers: Sequence[Observer] = (),
        dialects: Sequence[str] = (),
        *,
        control: Control | None = None,
    ) -> None:
        self._config = config
        self._dialects = dialects
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(config.engine.threads or os.cpu_count() or 1, thread_name_prefix="dukou")
        self._body_pool = ThreadPoolExecutor(_BODY_THREADS, thread_name_prefix="dukou-bodies")
        self._counters = Counters(state, slot)
        watching: tuple[Observer, ...] = (self._counters, *observers)
        self.engine = Engine(config.engine, self._loop, monotonic, watching, self._pool)
        self.server = HttpServer(
            self.engine,
            config.http,
            config.engine,
            metrics=self._metrics,
            serving_metrics=self._serving_metrics,
            serving_metrics_path=config.telemetry.serving_metrics_path,
            statistics=self._statistics,
            plain=config.plain,
            http2=config.http2,
            pool=self._body_pool,
            observers=watching,
            access_log=config.telemetry.access_log,
            control=control,
            models=config.models,
        )
        self._observers = watching
        self._versions = Versions(
            self.engine,
            lambda assignment: open_assigned(assignment, config.models),
            config.server.load_timeout_s,
            changed=self._tell_changed,
            freed=self._tell_freed,
        )
        self._taps = Taps(self._shadowing, make_capture(config.capture, state, slot))
        self._wanted = Apply(0, ())
        self._tell: Callable[[Applied | Freed], None] = _nobody
        self._sampling: asyncio.TimerHandle | None = None

    async def apply(self, wanted: Apply, tell: Callable[[Applied | Freed], None] = _nobody) -> None:
        """Put the table in force at once, load what is new in it, and `tell` of both; returns when all is loaded."""
        self._wanted = wanted
        self._tell = tell
        self._counters.assign({each.id: each.block for each in wanted.assignments if each.block})
        to_load = self._versions.want(wanted)
        self._tell_changed()
        self._versions.tell_freed()
        await self._versions.load(to_load)

    async def serve(self, sockets: Sequence[socket]) -> None:
        """Accept connections on `sockets`; returns once it does."""
        settle()
        server = self._config.server
        tls = tls_context(server.tls_certificate, server.tls_key) if server.tls_certificate else None
        dialects = self._dialects or [""] * len(sockets)
        await self.server.serve(list(zip(sockets, dialects, strict=True)), tls, server.backlog)
        self._sample()

    async def drain(self, grace_s: float) -> None:
        """Accept no more, answer what was taken; after `grace_s` seconds the rest is answered DRAINING."""
        try:
            async with asyncio.timeout(grace_s):
                await self.server.drain()
        except TimeoutError:
            if late := self.engine.under_way:
                _log.warning("%d requests were not answered within the grace of %g s", late, grace_s)
            await self.engine.drain(0.0)
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        if self._sampling is not None:
            self._sampling.cancel()
        self._taps.close()
        self.server.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._body_pool.shutdown(wait=False, cancel_futures=True)

    def _tell_changed(self) -> None:
        """Put in force what is loaded by now, and tell."""
        wanted = self._wanted
        models = self._versions.served()
        routes = {name: route for name, route in wanted.routes.items() if not _needless(route, models.get(name, {}))}
        table = Table(self.engine.table.generation + 1, models, wanted.labels, routes)
        on_trial = [
            ModelVersion(name, weight.version)
            for name, route in wanted.routes.items()
            if len(route.weights) > 1
            for weight in route.weights
        ]
        marks = {version: self._counters.running(version) for version in on_trial}
        self.engine.swap(table, self._taps.follow(table, wanted.routes), marks)
        self._tell(Applied(wanted.generation, self._versions.reports()))

    def _tell_freed(self, generation: int) -> None:
        self._counters.rest()
        self._tell(Freed(generation))

    def _shadowing(self, version: ModelVersion, shadow: Shadow) -> Shadowing:
        return Shadowing(shadow, ModelVersion(version.name, shadow.version), self._loop, self._observers)

    def _sample(self) -> None:
        """Count how many requests wait now, and again in a while."""
        self._counters.sample(self.engine.waiting())
        self._sampling = self._loop.call_later(_SAMPLED_EVERY_S, self._sample)

    def _metrics(self, dialect: str) -> bytes:
        from dukou.telemetry.metrics import render

        table = self.engine.table
        manifests = [served.manifest for versions in table.models.values() for served in versions.values()]
        return render(self._state, self._blocks(), manifests, dialect)

    def _serving_metrics(self) -> bytes:
        from dukou.telemetry.serving_metrics import render_serving

        return render_serving(self._state, self._blocks())

    def _statistics(self) -> Mapping[ModelVersion, VersionStatistics]:
        return read_statistics(self._state, self._blocks())

    def _blocks(self) -> Mapping[int, ModelVersion]:
        return {each.block: each.id for each in self._wanted.assignments if each.block}


def _needless(route: Route, versions: Mapping[int, Served]) -> bool:
    """Whether calls go where they would without this route: all of them to the highest version AVAILABLE."""
    highest = next((number for number, served in versions.items() if served.state is State.AVAILABLE), None)
    return [weight.version for weight in route.weights if weight.share > 0.0] in ([], [highest])
