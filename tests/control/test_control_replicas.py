"""Model processes kept: started, killed when silent, started again, given up, let go. Every wait is for a report."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from dukou.control.decisions import Record
from dukou.control.replicas import Replica, Replicas
from dukou.control.slot import Patience
from dukou.core.comparison import Comparison
from dukou.core.link import Assignment, LoadReport
from dukou.core.version import ModelVersion, State

pytestmark = pytest.mark.socket

TOY = Path(__file__).with_name("toy_model.py")
LIMIT_S = 30.0
IRIS = ModelVersion("iris", 2)
WINE = ModelVersion("wine", 1)
PATIENCE = Patience()
SHORT = Patience(start_s=20.0, ping_s=0.02, silence_s=0.1, goodbye_s=0.3)


def replica(behaviour: str, version: ModelVersion = IRIS, attempt: int = 0, rows: int = 1) -> Replica:
    """A version that behaves so (see toy_model.py)."""
    return Replica(Assignment(version, f"/models/{behaviour}", 1, attempt=attempt), tolerance=float(rows))


def at_once(record: Record, others: bool) -> float | None:
    """No pauses; given up after three deaths before it was loaded."""
    return None if record.failed_starts >= 3 else 0.0


class Kept:
    """Replicas under test, and what they tell."""

    def __init__(self, patience: Patience, load_timeout_s: float, program: str) -> None:
        self.reports: asyncio.Queue[LoadReport] = asyncio.Queue()
        self.rows: asyncio.Queue[tuple[ModelVersion, int]] = asyncio.Queue()
        self.failed = 0
        self.replicas = Replicas(
            lambda link_fd, address: [program, str(TOY), str(link_fd), address],
            self._report,
            self._compared,
            load_timeout_s=load_timeout_s,
            patience=patience,
            pause_s=at_once,
        )

    def apply(self, *replicas: Replica) -> None:
        self.replicas.apply({each.assignment.id: each for each in replicas})

    def _report(self, version: ModelVersion, report: LoadReport) -> None:
        assert report.id == version
        self.reports.put_nowait(report)

    def _compared(self, version: ModelVersion, comparison: Comparison) -> None:
        self.rows.put_nowait((version, comparison.rows))
        self.failed += comparison.failed

    async def until(self, state: State) -> LoadReport:
        """The next report of this state."""
        while (report := await self.reports.get()).state is not state:
            pass
        return report


@asynccontextmanager
async def running(
    patience: Patience = PATIENCE, load_timeout_s: float = 20.0, program: str = sys.executable
) -> AsyncIterator[Kept]:
    """Replicas that run, and have ended all processes afterwards."""
    kept = Kept(patience, load_timeout_s, program)
    async with asyncio.timeout(LIMIT_S):
        task = asyncio.create_task(kept.replicas.run())
        try:
            yield kept
        finally:
            kept.replicas.stop()
            await task


def pid_of(report: LoadReport) -> int:
    """The process that said so."""
    return int(report.warnings[0])


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_each_version_has_a_process_of_its_own() -> None:
    """What each says is told under its version."""

    async def scenario() -> None:
        async with running() as kept:
            kept.apply(replica("good", rows=3), replica("good", WINE, rows=4))

            first, second = await kept.until(State.AVAILABLE), await kept.until(State.AVAILABLE)

            assert {first.id, second.id} == {IRIS, WINE}
            assert pid_of(first) != pid_of(second)
            assert {await kept.rows.get(), await kept.rows.get()} == {(IRIS, 3), (WINE, 4)}
        assert not is_alive(pid_of(first))

    asyncio.run(scenario())


def test_a_process_that_was_killed_is_told_and_replaced() -> None:
    """LOADING again, with how it ended; then AVAILABLE from another process."""

    async def scenario() -> None:
        async with running() as kept:
            kept.apply(replica("good"))
            before = await kept.until(State.AVAILABLE)

            os.kill(pid_of(before), signal.SIGKILL)

            lost = await kept.until(State.LOADING)
            after = await kept.until(State.AVAILABLE)
            assert "was ended by SIGKILL" in lost.error
            assert pid_of(after) != pid_of(before)

    asyncio.run(scenario())


def test_a_process_that_dies_has_failed_on_a_copy() -> None:
    """It would otherwise be found as good as the copies that it survived."""

    async def scenario() -> None:
        async with running() as kept:
            kept.apply(replica("good"))
            before = await kept.until(State.AVAILABLE)

            os.kill(pid_of(before), signal.SIGKILL)

            await kept.until(State.LOADING)
            assert kept.failed == 1
        assert kept.failed == 1  # being let go of is no failure

    asyncio.run(scenario())


def test_a_version_that_was_available_is_tried_again_however_often_it_dies() -> None:
    """Giving up is for those that never were."""

    async def scenario() -> None:
        async with running() as kept:
            kept.apply(replica("dies"))

            for _ in range(4):
                await kept.until(State.AVAILABLE)
                assert "exited with status 3" in (await kept.until(State.LOADING)).error

    asyncio.run(scenario())


def test_a_version_that_kills_its_process_each_time_is_given_up() -> None:
    """END, with how it ended; it is tried anew when its assignment changes."""

    async def scenario() -> None:
        async with running() as kept:
            kept.apply(replica("crashes"))
            report = await kept.until(State.END)
            assert "ended 3 times before it could serve; the last one was ended by SIGKILL" in report.error

            kept.apply(replica("good", attempt=1))

            assert (await kept.until(State.AVAILABLE)).attempt == 1

    asyncio.run(scenario())


def test_a_version_that_cannot_be_loaded_is_told_and_its_process_let_go() -> None:
    """Not tried again for what was wanted already; tried again as a new attempt."""

    async def scenario() -> None:
        async with running() as kept:
            kept.apply(replica("bad"))
            report = await kept.until(State.END)
            kept.apply(replica("bad"))
            kept.apply(replica("bad", attempt=1))

            again = await kept.until(State.END)

            assert report.error == again.error == "no such thing"
            assert (report.attempt, again.attempt) == (0, 1)
            assert not is_alive(pid_of(report))

    asyncio.run(scenario())


def test_a_silent_process_is_killed_and_replaced() -> None:
    """One that hangs answers no pings."""

    async def scenario() -> None:
        async with running(SHORT) as kept:
            kept.apply(replica("deaf"))
            before = await kept.until(State.AVAILABLE)

            lost = await kept.until(State.LOADING)

            assert "was ended by SIGKILL" in lost.error
            assert pid_of(await kept.until(State.AVAILABLE)) != pid_of(before)
            kept.apply()

    asyncio.run(scenario())


def test_loading_has_a_time_limit_that_signs_of_life_do_not_extend() -> None:
    """END; it is not tried again and again."""

    async def scenario() -> None:
        patience = Patience(start_s=0.1, ping_s=0.02, silence_s=10.0, goodbye_s=1.0)
        async with running(patience, load_timeout_s=0.5) as kept:
            kept.apply(replica("never"))

            report = await kept.until(State.END)

            assert "was not loaded within 0.5 s" in report.error

    asyncio.run(scenario())


def test_what_is_wanted_no_more_is_ended_and_nothing_is_told() -> None:
    """The others stay."""

    async def scenario() -> None:
        async with running() as kept:
            kept.apply(replica("good"), replica("good", WINE))
            pids = {}
            for _ in range(2):
                report = await kept.until(State.AVAILABLE)
                pids[report.id] = pid_of(report)
            kept.apply(replica("good", WINE))
            kept.apply(replica("good", WINE), replica("good", attempt=1))

            await kept.until(State.AVAILABLE)

            assert not is_alive(pids[IRIS])
            assert is_alive(pids[WINE])
            assert kept.reports.empty()

    asyncio.run(scenario())


def test_a_program_that_cannot_be_started_is_given_up() -> None:
    """END says so."""

    async def scenario() -> None:
        async with running(program="/there/is/no/such/program") as kept:
            kept.apply(replica("good"))

            report = await kept.until(State.END)

            assert "cannot be started" in report.error

    asyncio.run(scenario())


def test_what_was_wanted_before_it_ran_is_kept() -> None:
    """The order of a server's start is free."""

    async def scenario() -> None:
        kept = Kept(PATIENCE, 20.0, sys.executable)
        kept.apply(replica("good"))
        async with asyncio.timeout(LIMIT_S):
            task = asyncio.create_task(kept.replicas.run())

            report = await kept.until(State.AVAILABLE)

            kept.replicas.stop()
            await task
            assert report.id == IRIS

    asyncio.run(scenario())


def test_a_supervisor_that_is_cancelled_leaves_no_process() -> None:
    """Whatever it was doing."""

    async def scenario() -> None:
        kept = Kept(PATIENCE, 20.0, sys.executable)
        kept.apply(replica("good"))
        async with asyncio.timeout(LIMIT_S):
            task = asyncio.create_task(kept.replicas.run())
            report = await kept.until(State.AVAILABLE)

            task.cancel()

            with pytest.raises(asyncio.CancelledError):
                await task
            assert not is_alive(pid_of(report))

    asyncio.run(scenario())
