"""The versions that one process holds: loaded in threads beside the loop, in force while a table wants them, and let go
when their last call is answered."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from dukou.app.opening import Opened, bare
from dukou.app.release import Held, in_thread, last_call, release
from dukou.core.clock import Clock, monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Apply, Assignment, LoadReport
from dukou.core.message import Served
from dukou.core.model import ModelVersion, State
from dukou.core.runtime import LoadedModel
from dukou.engine.router import Engine

_MOST_LOADING = 4
"""Versions at a time: those of one table come one after the other, and tables do not wait for each other."""

_TIDY = {"onnx"}
"""Runtimes whose models hold no reference cycles. Others may, so the collector has to look for them."""

_SWITCH_INTERVAL_S = 0.0005
"""How long a loading thread keeps the interpreter while the loop wants it: a tenth of what is usual."""

_log = logging.getLogger("dukou")


Open = Callable[[Assignment], Opened]
"""Opens a version; called in a thread. Raises DukouError."""


class _Entry:
    """A version of the table in force. `held` is what answers its calls, while `report` may tell of a later attempt."""

    def __init__(self, assignment: Assignment, served: Served, report: LoadReport, held: Held | None = None) -> None:
        self.assignment = assignment
        self.served = served
        self.report = report
        self.held = held


class Versions:
    """Follows tables: what is new is loaded, what has gone is let go.

    `changed()` is called when a version has been loaded or has failed to load, `freed(generation)` when nothing is left
    of what tables up to this one dropped. All on the loop.
    """

    def __init__(
        self,
        engine: Engine,
        open_: Open,
        load_timeout_s: float,
        *,
        changed: Callable[[], None],
        freed: Callable[[int], None],
        clock: Clock = monotonic,
    ) -> None:
        self._engine = engine
        self._open = open_
        self._load_timeout_s = load_timeout_s
        self._changed = changed
        self._freed = freed
        self._clock = clock
        self._generation = 0
        self._told_freed = 0
        self._entries: dict[ModelVersion, _Entry] = {}
        self._leaving: dict[object, int] = {}  # what a table dropped and is not gone, and which table that was
        self._loading = 0
        self._usual_s = 0.0
        self._places = asyncio.Semaphore(_MOST_LOADING)
        self._tasks: set[asyncio.Task[None]] = set()

    def served(self) -> dict[str, dict[int, Served]]:
        """The versions by model, names in order, each one's highest first."""
        models: dict[str, dict[int, Served]] = {}
        for version in sorted(self._entries, key=lambda each: (each.name, -each.version)):
            models.setdefault(version.name, {})[version.version] = self._entries[version].served
        return models

    def reports(self) -> tuple[LoadReport, ...]:
        """One for each version of the table."""
        return tuple([entry.report for entry in self._entries.values()])

    def want(self, wanted: Apply) -> Sequence["_Entry"]:
        """Follow this table; returns what `load` is to be called with."""
        self._generation = wanted.generation
        before, self._entries = self._entries, {}
        to_load = []
        for assignment in wanted.assignments:
            entry, is_new = self._entry(assignment, before.pop(assignment.id, None))
            self._entries[assignment.id] = entry
            if is_new:
                to_load.append(entry)
        for entry in before.values():
            self._drop(entry)
        return to_load

    async def load(self, entries: Sequence["_Entry"]) -> None:
        """Load these one after the other; those that the table does not want any more are passed over."""
        for entry in entries:
            async with self._places:
                if self._is_wanted(entry):
                    await self._load(entry)
            self._leaving.pop(entry, None)
            self.tell_freed()

    def tell_freed(self) -> None:
        """Tell up to which table all is gone that was dropped, if that is news."""
        freed = min(self._leaving.values(), default=self._generation + 1) - 1
        if freed > self._told_freed:
            self._told_freed = freed
            self._freed(freed)

    def _entry(self, assignment: Assignment, before: _Entry | None) -> tuple[_Entry, bool]:
        """What stands for `assignment` now, and whether it is still to be loaded."""
        if assignment.wanted is not State.AVAILABLE:
            if before is not None:
                self._drop(before)
            error = DukouError(Reason.NOT_SERVING, detail=assignment.why) if assignment.why else None
            served = Served(assignment.id, bare(assignment.id), assignment.wanted, None, error)
            report = LoadReport(assignment.id, assignment.wanted, assignment.why, attempt=assignment.attempt)
            return _Entry(assignment, served, report), False
        if before is not None and _same_load(before.assignment, assignment):
            before.assignment = assignment
            return before, False
        if before is not None and before.report.state is State.LOADING:
            self._leaving[before] = self._generation  # until its load has ended
        report = LoadReport(assignment.id, State.LOADING, attempt=assignment.attempt)
        if before is not None and before.held is not None:  # it answers until the new one does
            return _Entry(assignment, before.served, report, before.held), True
        return _Entry(assignment, Served(assignment.id, bare(assignment.id), State.LOADING), report), True

    def _is_wanted(self, entry: _Entry) -> bool:
        return self._entries.get(entry.assignment.id) is entry

    async def _load(self, entry: _Entry) -> None:
        assignment = entry.assignment
        version = assignment.id
        begun_s = self._clock()
        try:
            held, served, warnings = await self._hold(assignment)
        except Exception as error:
            self._fail(entry, self._known(error, version), self._clock() - begun_s)
            return
        if not self._is_wanted(entry):
            del served
            self._let_go(held, self._leaving.get(entry, self._generation))
            return
        before, entry.held, entry.served = entry.held, held, served
        entry.report = LoadReport(
            version,
            State.AVAILABLE,
            "",
            warnings,
            self._clock() - begun_s,
            assignment.attempt,
            served.manifest.signatures,
        )
        self._changed()
        if before is not None:
            self._let_go(before, self._generation)

    async def _hold(self, assignment: Assignment) -> tuple[Held, Served, tuple[str, ...]]:
        """The version loaded and warm. Raises whatever goes wrong."""
        async with asyncio.timeout(self._load_timeout_s):
            with self._politely():
                opened = await in_thread(self._open, assignment)
                # What another process answers must never be waited for on the loop, nor by the threads of the others.
                pool = _own_pool(opened.model) if assignment.process else None
                held = Held(opened.model, pool, tidy=opened.manifest.runtime in _TIDY)
                try:
                    held.stage = self._engine.stage_for(opened.manifest, opened.model, pool)
                    held.streamer = self._engine.streamer_for(opened.manifest, opened.model, pool)
                    await held.stage.warm()
                except BaseException:
                    self._let_go(held, self._generation)
                    raise
        served = Served(assignment.id, opened.manifest, State.AVAILABLE, held.stage, None, held.streamer)
        return held, served, opened.warnings

    @contextmanager
    def _politely(self) -> Iterator[None]:
        """While anything is loaded, threads give the interpreter to the loop sooner."""
        if not self._loading:
            self._usual_s = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._loading += 1
        try:
            yield
        finally:
            self._loading -= 1
            if not self._loading:
                sys.setswitchinterval(self._usual_s)

    def _fail(self, entry: _Entry, error: DukouError, load_s: float) -> None:
        assignment = entry.assignment
        if not self._is_wanted(entry):
            return
        state = State.END
        signatures: Mapping[str, Any] = {}
        if entry.held is not None:
            state, signatures = State.AVAILABLE, entry.served.manifest.signatures
        else:
            entry.served = Served(assignment.id, bare(assignment.id), State.END, None, error)
        entry.report = LoadReport(assignment.id, state, str(error), (), load_s, assignment.attempt, signatures)
        self._changed()

    def _known(self, error: Exception, version: ModelVersion) -> DukouError:
        if isinstance(error, TimeoutError):
            detail = f"it was not loaded within {self._load_timeout_s:g} s"
            known = DukouError(Reason.NOT_SERVING, detail=detail)
        else:
            known = error if isinstance(error, DukouError) else DukouError(Reason.INTERNAL)
        known = known.within(model=version.name, version=version.version)
        if known.reason is Reason.INTERNAL:  # the supervisor tells the others, once for all workers
            _log.error("%s", known, exc_info=error)
        return known

    def _drop(self, entry: _Entry) -> None:
        """The table does not want this version any more."""
        held, entry.held = entry.held, None
        entry.served = Served(entry.assignment.id, bare(entry.assignment.id), State.END)
        if held is not None:
            self._let_go(held, self._generation)
        if entry.report.state is State.LOADING:
            self._leaving[entry] = self._generation  # until its load has ended

    def _let_go(self, held: Held, generation: int) -> None:
        self._leaving[held] = generation
        task = asyncio.get_running_loop().create_task(self._end(held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, held: Held) -> None:
        await last_call(held)
        await in_thread(release, held)
        del self._leaving[held]
        self.tell_freed()


def _same_load(one: Assignment, other: Assignment) -> bool:
    """Whether both mean the same files in memory; the block of counters may differ."""
    return (
        one.wanted is other.wanted
        and one.attempt == other.attempt
        and ((one.folder, one.options, one.process) == (other.folder, other.options, other.process))
    )


def _own_pool(model: LoadedModel) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, model.concurrency), thread_name_prefix="dukou-process")
