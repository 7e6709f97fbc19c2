"""Starts the workers, watches them, replaces those that die and drains them in the end. Never on the path of a request.

The order of a worker's life: spawned; told by Apply what to serve; its table judged when it answers Applied; told to
Listen; LISTENING when it says so. All the while it has to answer a Ping now and then, until it is told to Drain.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from logging import getLogger
from socket import socket

import msgspec

from dukou.config import ServerConfig
from dukou.control.decisions import Life, Record, Verdict, judge_table, merge_reports, restart_pause_s
from dukou.control.process import Command, WorkerProcess, ended_how
from dukou.control.slot import Patience, Phase, Slot
from dukou.core.clock import Clock, monotonic
from dukou.core.errors import DukouError
from dukou.core.link import Applied, Apply, Assignment, Drain, Listen, Listening, Message

logger = getLogger(__name__)

_PATIENCE = Patience()


class Ending(msgspec.Struct, frozen=True):
    """Why the supervisor ended: the exit code and, unless it is 0, a message for the person who started it."""

    exit_code: int
    message: str = ""


class Supervisor:
    """Keeps one worker alive in each slot.

    `slots` holds the listening sockets of each worker; the supervisor owns them and closes them when it ends. While a
    worker is being replaced its connections wait in their backlog. `on_ready` is called with each generation of
    assignments once every worker listens and serves it, the reports of all workers merged.
    """

    def __init__(
        self,
        config: ServerConfig,
        slots: Sequence[Sequence[socket]],
        command: Command,
        on_ready: Callable[[Applied], None],
        *,
        clock: Clock = monotonic,
        patience: Patience = _PATIENCE,
        pause_s: Callable[[Record, bool], float | None] = restart_pause_s,
    ) -> None:
        self._grace_s = config.grace_s
        self._load_timeout_s = config.load_timeout_s
        self._slots = [Slot(index, sockets, patience) for index, sockets in enumerate(slots)]
        self._command = command
        self._on_ready = on_ready
        self._clock = clock
        self._patience = patience
        self._pause_s = pause_s
        self._wanted: Apply | None = None
        self._announced_generation = 0
        self._ending: Ending | None = None
        self._ended = asyncio.Event()

    def apply(self, assignments: Sequence[Assignment]) -> None:
        """What all workers should serve from now on. May be called before `run` or later: workers that are spawned
        before it is known spend the time importing."""
        generation = self._wanted.generation + 1 if self._wanted else 1
        self._wanted = Apply(generation, tuple(assignments))
        for slot in self._slots:
            slot.assign(self._wanted, self._load_timeout_s)

    def stop(self) -> None:
        """Drain all workers and end; called again, end at once. What SIGTERM and SIGINT do."""
        if self._ending is None:
            self._end(Ending(0))
        else:
            for slot in self._slots:
                slot.kill()

    async def run(self) -> Ending:
        """Serve until told to stop, or until serving has become impossible. For the main thread: it takes signals."""
        with _signals(self.stop):
            try:
                async with asyncio.TaskGroup() as tasks:
                    keepers = [tasks.create_task(self._keep(slot)) for slot in self._slots]
                    heart = tasks.create_task(self._beat())
                    await self._ended.wait()
                    await self._drain(keepers)
                    for task in (heart, *keepers):
                        task.cancel()
            finally:
                for slot in self._slots:
                    slot.close()
        return self._ending or Ending(0)

    async def _keep(self, slot: Slot) -> None:
        """One worker after the other."""
        while self._ending is None:
            life = await self._attend(slot)
            slot.record = slot.record.after(life)
            others_listen = any(other.listening for other in self._slots if other is not slot)
            pause_s = self._pause_s(slot.record, others_listen)
            if pause_s is None:
                self._give_up(slot, others_listen)
                return
            if self._ending is None:
                logger.warning("worker %d is started again%s", slot.index, f" in {pause_s:g} s" if pause_s else "")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ended.wait()

    def _give_up(self, slot: Slot, others_listen: bool) -> None:
        what = f"worker {slot.index} ended {slot.record.failed_starts} times before it could serve"
        if not others_listen:
            self._end(Ending(1, what))
            return
        logger.error("%s; it is given up and the others go on", what)
        slot.close()  # so that the system gives new connections to the others
        self._slots.remove(slot)
        self._announce()

    async def _attend(self, slot: Slot) -> Life:
        """One worker's life, from its start until its process has ended."""
        started = self._clock()
        try:
            process = await WorkerProcess.spawn(self._command, slot.index, slot.sockets)
        except OSError as error:
            logger.error("worker %d cannot be started: %s", slot.index, error)
            return Life(0.0, listened=False)
        name = f"worker {slot.index} (process {process.pid})"
        try:
            slot.occupy(process)
            if self._ending is not None:
                process.kill()
            if self._wanted is not None:
                slot.assign(self._wanted, self._load_timeout_s)
            async for message in process.channel:
                self._hear(slot, message)
            slot.part()
            await process.wait()
        except DukouError as error:
            logger.error("%s is killed: %s", name, error)
        finally:
            life = Life(self._clock() - started, slot.listening)
            slot.vacate()
            process.kill()
            status = await process.wait()
            await process.channel.close()
        if self._ending is None:
            logger.warning("%s %s", name, ended_how(status))
        return life

    def _hear(self, slot: Slot, message: Message) -> None:
        applied = slot.hear(message)
        if isinstance(message, Listening):
            slot.phase = Phase.LISTENING
        if applied and slot.phase is Phase.LOADING:
            self._judge(slot)
        if applied or isinstance(message, Listening):
            self._announce()

    def _judge(self, slot: Slot) -> None:
        """Act upon the first table of a worker."""
        if self._ending is not None:
            return
        reports = slot.applied.reports
        elsewhere = {version for other in self._slots if other.listening for version in other.available}
        match judge_table(reports, elsewhere, slot.record.failed_starts):
            case Verdict.LISTEN:
                if self._announced_generation == slot.applied.generation:
                    self._log_errors(slot, "serves without what it could not load")
                slot.phase = Phase.OPENING
                slot.send(Listen())
            case Verdict.NOTHING_LOADED if self._announced_generation == 0:
                self._end(Ending(1, "\n".join(report.error for report in reports)))
            case _:
                self._log_errors(slot, "is replaced, it could not load")
                slot.kill()

    def _log_errors(self, slot: Slot, what: str) -> None:
        """Say what `on_ready` is not told: it hears of a generation once."""
        for report in slot.applied.reports:
            if report.error:
                logger.error("worker %d %s: %s", slot.index, what, report.error)

    def _announce(self) -> None:
        """Tell that a generation is served, once every worker does."""
        if self._wanted is None or self._wanted.generation == self._announced_generation:
            return
        generation = self._wanted.generation
        if all(slot.listening and slot.applied.generation == generation for slot in self._slots):
            self._announced_generation = generation
            self._on_ready(Applied(generation, merge_reports([slot.applied.reports for slot in self._slots])))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._patience.ping_s)
            for slot in self._slots:
                if slot.process is not None and not slot.ping():
                    logger.error("worker %d does not answer; it is killed", slot.index)
                    slot.kill()

    def _end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            self._ended.set()

    async def _drain(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Return when every worker has ended, or when their grace is over."""
        for slot in self._slots:
            slot.close()  # once its worker has closed its own too, new connections are refused, not kept waiting
            if slot.phase is Phase.LOADING:
                slot.kill()  # it has accepted nothing
            else:
                slot.send(Drain(self._grace_s))
        _, late = await asyncio.wait(keepers, timeout=self._grace_s + self._patience.goodbye_s)
        if late:
            logger.warning("requests were still under way after %g s; they are lost", self._grace_s)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT stop; SIGHUP does nothing, so the server outlives the terminal that started it."""
    loop = asyncio.get_running_loop()
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGHUP, hangup)
