"""Starts the workers, watches them, replaces those that die and drains them in the end. Never on the path of a request.

The order of a worker's life: spawned; told by Apply what to serve; its table judged when it answers Applied; told to
Listen; LISTENING when it says so. All the while it has to answer a Ping now and then, until it is told to Drain.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from logging import getLogger
from socket import socket

import msgspec

from dukou.config import ServerConfig
from dukou.control.asking import told
from dukou.control.channel import Channel
from dukou.control.decisions import Life, Record, Verdict, judge_table, merge_reports, restart_pause_s
from dukou.control.process import Command, WorkerProcess, ended_how
from dukou.control.slot import Patience, Phase, Slot
from dukou.core.clock import Clock, monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Applied, Apply, Ask, Assignment, Drain, Freed, Listen, Listening, Message
from dukou.core.route import Route
from dukou.core.verb import Verb

logger = getLogger(__name__)

_PATIENCE = Patience()


class Ending(msgspec.Struct, frozen=True):
    """Why the supervisor ended: the exit code and, unless it is 0, a message for the person who started it."""

    exit_code: int
    message: str = ""


class Supervisor:
    """Keeps one worker alive in each slot.

    `slots` holds the listening sockets of each worker; the supervisor owns them and closes them when it ends. While a
    worker is being replaced its connections wait in their backlog.

    `on_applied` is told the reports of all workers merged, whenever they have changed and every worker that serves has
    the last table in force: for the first time when all of them listen, so nothing is LOADING then. What a worker that
    is being replaced had counts on until its successor serves. `on_freed` is told each generation whose predecessors
    have left nothing in any worker. `on_ask` does what a worker's caller asks for; its DukouErrors are told there.
    """

    def __init__(
        self,
        config: ServerConfig,
        slots: Sequence[Sequence[socket]],
        command: Command,
        on_applied: Callable[[Applied], None],
        *,
        on_freed: Callable[[int], None] = lambda generation: None,
        on_ask: Callable[[Verb, str], Awaitable[None]] | None = None,
        clock: Clock = monotonic,
        patience: Patience = _PATIENCE,
        pause_s: Callable[[Record, bool], float | None] = restart_pause_s,
    ) -> None:
        self._grace_s = config.grace_s
        self._slots = [Slot(index, sockets, patience, config.load_timeout_s) for index, sockets in enumerate(slots)]
        self._command = command
        self._on_applied = on_applied
        self._on_freed = on_freed
        self._on_ask = on_ask
        self._clock = clock
        self._patience = patience
        self._pause_s = pause_s
        self._wanted: Apply | None = None
        self._announced = Applied(0, ())
        self._freed = 0
        self._asks: set[asyncio.Task[None]] = set()
        self._ending: Ending | None = None
        self._ended = asyncio.Event()

    def apply(
        self,
        assignments: Sequence[Assignment],
        routes: Mapping[str, Route] = {},
        labels: Mapping[str, Mapping[str, int]] = {},
    ) -> int:
        """What all workers should serve from now on; returns the table's generation, one more than the last.

        May be called before `run` or at any time later: a table waits for nothing that the one before is loading, and
        workers that are spawned before there is one spend the time importing.
        """
        generation = self._wanted.generation + 1 if self._wanted else 1
        self._wanted = Apply(generation, tuple(assignments), routes, labels)
        for slot in self._slots:
            slot.assign(self._wanted)
        return generation

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
                    for task in (heart, *keepers, *self._asks):
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
        self._tell_freed()

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
                slot.assign(self._wanted)
            async for message in process.channel:
                self._hear(slot, message)
            slot.part()
            await process.wait()
        except DukouError as error:
            logger.error("%s is killed: %s", name, error)
        finally:
            life = Life(self._clock() - started, slot.listening)
            if self._ending is None:
                slot.suspect()
            slot.vacate()
            self._tell_freed()
            process.kill()
            status = await process.wait()
            await process.channel.close()
        if self._ending is None:
            logger.warning("%s %s", name, ended_how(status))
        return life

    def _hear(self, slot: Slot, message: Message) -> None:
        news = slot.hear(message)
        match message:
            case Listening():
                slot.phase = Phase.LISTENING
            case Freed():
                self._tell_freed()
            case Ask():
                assert slot.process is not None
                task = asyncio.create_task(self._do(message, slot.process.channel))
                self._asks.add(task)
                task.add_done_callback(self._asks.discard)
        if news and slot.phase is Phase.LOADING and not slot.loading:
            self._judge(slot)
        if news or isinstance(message, Listening):
            self._announce()

    async def _do(self, ask: Ask, channel: Channel) -> None:
        """Do what a worker's caller asks for, and tell the worker what became of it."""
        try:
            if self._on_ask is None:
                raise DukouError(Reason.NOT_SUPPORTED, detail="this server does not take such calls")
            await self._on_ask(ask.verb, ask.who)
        except Exception as error:
            channel.send(told(ask.number, error))
        else:
            channel.send(told(ask.number))

    def _judge(self, slot: Slot) -> None:
        """Act upon the first table of a worker, all of it loaded or failed."""
        if self._ending is not None:
            return
        elsewhere = {version for other in self._slots if other.listening for version in other.available}
        match judge_table(slot.loaded, elsewhere, slot.record.failed_starts):
            case Verdict.LISTEN:
                if self._announced.generation == slot.applied.generation:
                    self._log_errors(slot, "serves without what it could not load")
                slot.phase = Phase.OPENING
                slot.send(Listen())
            case Verdict.NOTHING_LOADED if self._announced.generation == 0:
                self._end(Ending(1, "\n".join(report.error for report in slot.loaded)))
            case _:
                self._log_errors(slot, "is replaced, it could not load")
                slot.kill()

    def _log_errors(self, slot: Slot, what: str) -> None:
        """Say it where `on_applied` may not: the others may have it, or it was told of the predecessor."""
        for report in slot.loaded:
            if report.error:
                logger.error("worker %d %s: %s", slot.index, what, report.error)

    def _announce(self) -> None:
        """Tell what all workers together have, once each has the last table in force, if that is news."""
        serving = [slot for slot in self._slots if slot.listening]
        everywhere = len(serving) == len(self._slots) or self._announced.generation > 0
        if self._wanted is None or not serving or not everywhere:
            return
        generation = self._wanted.generation
        if any(slot.applied.generation != generation for slot in serving):
            return
        merged = Applied(generation, merge_reports([slot.applied.reports for slot in serving]))
        if merged != self._announced:
            self._announced = merged
            self._on_applied(merged)

    def _tell_freed(self) -> None:
        """Tell the generation before which nothing is left in any worker, if that is news."""
        freed = min((slot.freed for slot in self._slots), default=0)
        if freed > self._freed:
            self._freed = freed
            self._on_freed(freed)

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
