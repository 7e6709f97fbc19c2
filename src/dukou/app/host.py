"""The data plane of one process, put together: engine, runtimes, HTTP, counters."""

import asyncio
import gc
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import socket

import msgspec

from dukou.app.plan import read_labels
from dukou.config import Config, ModelsConfig
from dukou.config.load import nearest
from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.event import Observer
from dukou.core.link import Assignment, LoadReport
from dukou.core.message import Served, Table
from dukou.core.model import Evidence, ModelManifest, ModelVersion, State
from dukou.core.runtime import LoadedModel
from dukou.core.statistics import VersionStatistics
from dukou.engine.router import Engine
from dukou.net.listener import HttpServer
from dukou.net.sockets import tls_context
from dukou.repository.integrity import files_to_serve, verify
from dukou.repository.local import is_packed
from dukou.repository.manifest import read_manifest
from dukou.runtimes.options import OPTIONS
from dukou.runtimes.registry import runtime
from dukou.telemetry.counters import Counters
from dukou.telemetry.statistics import read_statistics

_GC_THRESHOLD = 10_000
_SAMPLED_EVERY_S = 1.0
_BODY_THREADS = 2
"""For large bodies and answers and /metrics; more would only take turns, as parsers hold the interpreter."""

_log = logging.getLogger("dukou")


class Host:
    """A DataPlaneHost (`dukou.control.worker`): loads versions, swaps tables, serves sockets, drains.

    `state` is the folder of the counters that all workers share, `slot` this process's place among them,
    `dialects` those of the sockets that `serve` will get; without them, each has the default.
    """

    def __init__(
        self,
        config: Config,
        state: Path,
        slot: int,
        observers: Sequence[Observer] = (),
        dialects: Sequence[str] = (),
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
        )
        self._assigned: dict[ModelVersion, Assignment] = {}
        self._sampling: asyncio.TimerHandle | None = None

    async def apply(self, assignments: Sequence[Assignment]) -> Sequence[LoadReport]:
        """Load what is new, then put the whole table in force; one report for each assignment."""
        self._counters.assign({assignment.id: assignment.block for assignment in assignments})
        table = self.engine.table
        reports = []
        models: dict[str, dict[int, Served]] = {}
        for assignment in sorted(assignments, key=lambda one: one.id.version, reverse=True):
            version = assignment.id
            served = table.models.get(version.name, {}).get(version.version)
            if served is None or self._assigned.get(version) != assignment:
                served, report = await self._load(assignment)
            else:
                report = LoadReport(version, served.state, str(served.error or ""))
            models.setdefault(version.name, {})[version.version] = served
            reports.append(report)
        self._assigned = {assignment.id: assignment for assignment in assignments}
        labels = read_labels(self._config.models.labels, self._assigned)
        self.engine.swap(Table(table.generation + 1, dict(sorted(models.items())), labels))
        # What has been loaded stays, and a request's objects end by reference count: the collector has little to find.
        # Looking less often saves 1 of 15 µs a request (bench/request_path.py).
        gc.unfreeze()  # or what an unloaded version left would stay for ever
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        return reports

    async def serve(self, sockets: Sequence[socket]) -> None:
        """Accept connections on `sockets`; returns once it does."""
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
        self.server.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._body_pool.shutdown(wait=False, cancel_futures=True)

    async def _load(self, assignment: Assignment) -> tuple[Served, LoadReport]:
        begun_s = monotonic()
        version = assignment.id
        manifest = _unreadable(version)
        try:
            manifest, model, warnings = await self._loop.run_in_executor(
                self._pool, open_version, assignment, self._config.models
            )
            stage = self.engine.stage_for(manifest, model)
            streamer = self.engine.streamer_for(manifest, model)
            await stage.warm()
        except Exception as error:
            known = error if isinstance(error, DukouError) else DukouError(Reason.INTERNAL)
            known = known.within(model=version.name, version=version.version)
            if not isinstance(error, DukouError):  # the supervisor tells the others, once for all workers
                _log.error("%s", known, exc_info=error)
            served = Served(version, manifest, State.END, None, known)
            return served, LoadReport(version, State.END, str(known), (), monotonic() - begun_s)
        report = LoadReport(version, State.AVAILABLE, "", warnings, monotonic() - begun_s)
        return Served(version, manifest, State.AVAILABLE, stage, None, streamer), report

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
        return {assignment.block: version for version, assignment in self._assigned.items()}


def open_version(assignment: Assignment, models: ModelsConfig) -> tuple[ModelManifest, LoadedModel, tuple[str, ...]]:
    """A version in memory: its manifest (called as assigned, the operator's options over its own), its model, and
    warnings about libraries and settings that have no effect.

    Of a packed version only the files that serve are opened, after checking their digests. Raises DukouError.
    """
    folder, version = Path(assignment.folder), assignment.id
    if not is_packed(folder):
        from dukou.packing.adopt import adopt

        adopted = adopt(folder, version, trust_python=models.trust_python)
        manifest = _with_options(adopted.manifest, assignment)
        return manifest, adopted.load(manifest), (*adopted.warnings, *_unread_options(assignment, manifest.runtime))
    manifest = _with_options(msgspec.structs.replace(read_manifest(folder), id=version), assignment)
    verify(folder, manifest, files_to_serve(manifest))
    trust = models.trust_python if manifest.runtime == "python" else models.trust_pickle
    model = runtime(manifest.runtime).load(folder, manifest, trust=trust)
    warnings = _unread_options(assignment, manifest.runtime)
    if manifest.runtime == "sklearn":
        from dukou.packing.environment import library_versions
        from dukou.runtimes.sklearn import differences

        warnings = (*warnings, *differences(manifest, library_versions()))
    return manifest, model, warnings


def _with_options(manifest: ModelManifest, assignment: Assignment) -> ModelManifest:
    return msgspec.structs.replace(manifest, options={**manifest.options, **assignment.options})


def _unread_options(assignment: Assignment, kind: str) -> tuple[str, ...]:
    """A warning for each option that nothing reads; a Python model may have options of its own."""
    if kind == "python":
        return ()
    return tuple(
        f"models.options.{assignment.id.name}.{name}: there is no such option{nearest(name, OPTIONS)}"
        for name in assignment.options
        if name not in OPTIONS
    )


def _unreadable(version: ModelVersion) -> ModelManifest:
    """What stands in the table for a version whose manifest could not be read."""
    return ModelManifest(0, version, "", "", {}, {}, Evidence("", ""))
