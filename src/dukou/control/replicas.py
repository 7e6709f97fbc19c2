"""Keeps model processes: one for each version that is to have one, started again when it dies."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from logging import getLogger
from math import ceil
from typing import TypeAlias

import msgspec

from dukou.control.decisions import Life, Record, restart_pause_s
from dukou.control.process import WorkerProcess, ended_how
from dukou.control.slot import Patience
from dukou.core.clock import Clock, monotonic
from dukou.core.comparison import Comparison
from dukou.core.errors import DukouError
from dukou.core.link import Applied, Apply, Assignment, CompareBy, Compared, Drain, LoadReport, Message, Ping
from dukou.core.version import ModelVersion, State

logger = getLogger(__name__)

_PATIENCE = Patience()


class Replica(msgspec.Struct, frozen=True):
    """A version for a model process that listens at `assignment.process`, and how its answers are compared."""

    assignment: Assignment
    slice_by: str = ""
    tolerance: float = 1e-3


ReplicaCommand: TypeAlias = Callable[[int, str], Sequence[str]]
"""Makes the command line of a model process, from the number of its link's file descriptor and its address."""

OnReport: TypeAlias = Callable[[ModelVersion, LoadReport], None]
PauseS: TypeAlias = Callable[[Record, bool], float | None]
OnCompared: TypeAlias = Callable[[ModelVersion, Comparison], None]


class Replicas:
    """Model processes as they are wanted.

    `on_report` is told what becomes of each: LOADING, AVAILABLE, LOADING again with the reason when its process has
    died, END when the version cannot be loaded or its process dies each time before it is. After END it is tried again
    when its assignment changes. `on_compared` is told what its copies have shown, to be added to what was known.

    A process is given `load_timeout_s` to load, and is killed when it answers no ping for as long as a worker may.
    """

    def __init__(
        self,
        command: ReplicaCommand,
        on_report: OnReport,
        on_compared: OnCompared,
        *,
        load_timeout_s: float = 300.0,
        clock: Clock = monotonic,
        patience: Patience = _PATIENCE,
        pause_s: PauseS = restart_pause_s,
    ) -> None:
        self._keeper_of = partial(
            _Keeper,
            command=command,
            on_report=on_report,
            on_compared=on_compared,
            load_timeout_s=load_timeout_s,
            clock=clock,
            patience=patience,
            pause_s=pause_s,
        )
        self._wanted: Mapping[ModelVersion, Replica] = {}
        self._keepers: dict[ModelVersion, _Keeper] = {}
        self._changed = asyncio.Event()
        self._stopped = False

    def apply(self, wanted: Mapping[ModelVersion, Replica]) -> None:
        """Keep exactly these. May be called before `run` and at any time later."""
        self._wanted = dict(wanted)
        self._changed.set()

    def stop(self) -> None:
        """End all of them: let go of when the workers have ended, whose calls they may still answer."""
        self._stopped = True
        self._changed.set()

    async def run(self) -> None:
        """Keep them until told to stop; returns when every process has ended."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopped:
                await self._changed.wait()
                self._changed.clear()
                self._follow(tasks)

    def _follow(self, tasks: asyncio.TaskGroup) -> None:
        """Start and end keepers. A version whose assignment has changed waits until its process before has ended."""
        wanted = {} if self._stopped else self._wanted
        for version, keeper in list(self._keepers.items()):
            replica = wanted.get(version)
            if keeper.over:
                del self._keepers[version]
            elif replica is None or replica.assignment != keeper.replica.assignment:
                keeper.end()
            else:
                keeper.compare_by(replica)
        for version, replica in wanted.items():
            if version not in self._keepers:
                self._keepers[version] = self._keeper_of(replica)
                tasks.create_task(self._keep(self._keepers[version]))

    async def _keep(self, keeper: "_Keeper") -> None:
        await keeper.run()
        keeper.over = True
        self._changed.set()


class _Keeper:
    """Keeps the process of one replica until told to end. `over`: there is none any more, and there will be none."""

    def __init__(
        self,
        replica: Replica,
        *,
        command: ReplicaCommand,
        on_report: OnReport,
        on_compared: OnCompared,
        load_timeout_s: float,
        clock: Clock,
        patience: Patience,
        pause_s: PauseS,
    ) -> None:
        self.replica = replica
        self.over = False
        self._name = f"model {replica.assignment.id.name!r}, version {replica.assignment.id.version}"
        self._command = command
        self._on_report = on_report
        self._on_compared = on_compared
        self._load_timeout_s = load_timeout_s
        self._clock = clock
        self._patience = patience
        self._pause_s = pause_s
        self._process: WorkerProcess | None = None
        self._record = Record()
        self._available = False  # in the process that there is
        self._failed = False
        self._pings_left = 0
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Let the process finish what it has, and start no other."""
        if not self._ending.is_set():
            self._ending.set()
            self._dismiss()

    def compare_by(self, replica: Replica) -> None:
        """Compare as `replica` says from now on."""
        if (replica.slice_by, replica.tolerance) != (self.replica.slice_by, self.replica.tolerance):
            self.replica = replica
            self._send(CompareBy(replica.slice_by, replica.tolerance))

    async def run(self) -> None:
        """One process after the other."""
        heart = asyncio.create_task(self._beat())
        try:
            while not self._ending.is_set() and not self._failed:
                await self._live()
            await self._ending.wait()
        finally:
            heart.cancel()

    async def _live(self) -> None:
        """One process, and the pause after it."""
        life, how = await self._attend()
        self._record = self._record.after(life)
        if self._ending.is_set() or self._failed:
            return
        if life.listened:  # it had taken copies, and did not survive one of them
            self._on_compared(self.replica.assignment.id, Comparison(rows=1, disagreed=1, failed=1))
        pause_s = self._pause_s(self._record, False)
        if pause_s is None:
            times = self._record.failed_starts
            self._fail(f"its process ended {times} times before it could serve; the last one {how}")
            return
        self._report(State.LOADING, f"{self._name}: its process {how}, and is started again")
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._ending.wait()

    async def _attend(self) -> tuple[Life, str]:
        """One process's life, until it has ended, and how that was."""
        begun_s = self._clock()
        self._available = False
        address = self.replica.assignment.process
        try:
            process = await WorkerProcess.spawn(lambda slot: self._command(slot.link_fd, address), 0, [])
        except OSError as error:
            return Life(0.0, listened=False), f"cannot be started: {error}"
        self._process = process
        self._allow(self._patience.start_s + self._load_timeout_s)
        try:
            if self._ending.is_set():
                process.kill()
            self._send(CompareBy(self.replica.slice_by, self.replica.tolerance))
            self._send(Apply(1, (self.replica.assignment,)))
            async for message in process.channel:
                self._hear(message)
            self._allow(self._patience.goodbye_s)
            await process.wait()
        except DukouError as error:
            logger.error("%s: its process (%d) is killed: %s", self._name, process.pid, error)
        finally:
            life = Life(self._clock() - begun_s, self._available)
            self._process = None
            process.kill()
            status = await process.wait()
            await process.channel.close()
        if not self._ending.is_set() and not self._failed:
            logger.warning("%s: its process (%d) %s", self._name, process.pid, ended_how(status))
        return life, ended_how(status)

    def _hear(self, message: Message) -> None:
        match message:
            case Applied(reports=(report, *_)):
                self._available = report.state is State.AVAILABLE
                self._on_report(report.id, report)
                if report.state is State.END:
                    self._failed = True
                    self._dismiss()
            case Compared():
                self._on_compared(message.id, message.comparison)
            case _:
                pass
        # Loading has its own time limit, which signs of life do not extend; so has the farewell.
        if self._available and not self._ending.is_set():
            self._allow(self._patience.silence_s)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._patience.ping_s)
            if self._process is None:
                continue
            self._pings_left -= 1
            self._send(Ping())
            if self._pings_left >= 0:
                continue
            if not self._available and not self._ending.is_set() and not self._failed:
                self._fail(f"it was not loaded within {self._load_timeout_s:g} s")
            elif not self._ending.is_set():
                logger.error("%s: its process (%d) does not answer; it is killed", self._name, self._process.pid)
            self._process.kill()

    def _fail(self, why: str) -> None:
        self._failed = True
        logger.error("%s: %s", self._name, why)
        self._report(State.END, f"{self._name}: {why}")

    def _dismiss(self) -> None:
        """Tell the process to go, and wait for it no longer than a moment."""
        self._send(Drain(self._patience.goodbye_s))
        self._allow(self._patience.goodbye_s)

    def _report(self, state: State, error: str) -> None:
        assignment = self.replica.assignment
        self._on_report(assignment.id, LoadReport(assignment.id, state, error, attempt=assignment.attempt))

    def _send(self, message: Message) -> None:
        if self._process is not None:
            self._process.channel.send(message)

    def _allow(self, span_s: float) -> None:
        self._pings_left = ceil(span_s / self._patience.ping_s)
