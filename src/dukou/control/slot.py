"""The place of one worker: workers come and go, the slot and its listening sockets stay."""

from collections.abc import Sequence
from enum import Enum
from math import ceil
from socket import socket

import msgspec

from dukou.control.decisions import Record
from dukou.control.process import WorkerProcess
from dukou.core.link import Applied, Apply, Assignment, Freed, LoadReport, Message, Ping
from dukou.core.version import ModelVersion, State


class Patience(msgspec.Struct, frozen=True):
    """How long the supervisor waits for a worker, counted in its own pings: while the whole machine, or the whole group
    of processes, is stopped, nobody's time runs out.

    `start_s`: from its start to its first sign of life; loading comes on top. `ping_s`: from one ping to the next.
    `silence_s`: without an answer to them. `goodbye_s`: to exit after the link has closed.
    """

    start_s: float = 60.0
    ping_s: float = 1.0
    silence_s: float = 10.0
    goodbye_s: float = 2.0


class Phase(Enum):
    """How far a slot's worker has come. From OPENING on it may have accepted connections."""

    LOADING = "LOADING"
    OPENING = "OPENING"
    LISTENING = "LISTENING"


Load = tuple[ModelVersion, int]
"""A version and which attempt at loading it."""


class Slot:
    """One worker's place, and what the supervisor knows of the worker there.

    `freed` is the generation whose predecessors have left nothing in it. `suspects` are loads during which a worker of
    this slot has died: its successors are not told to try the same again.
    """

    def __init__(self, index: int, sockets: Sequence[socket], patience: Patience, load_timeout_s: float) -> None:
        self.index = index
        self.sockets = sockets
        self.record = Record()
        self.freed = 0
        self.suspects: set[Load] = set()
        self._patience = patience
        self._load_timeout_s = load_timeout_s
        self._sent = Apply(0, ())
        self.vacate()

    def vacate(self) -> None:
        """The worker has gone, and all that it had loaded."""
        self.freed = max(self.freed, self._sent.generation)
        self.process: WorkerProcess | None = None
        self.phase = Phase.LOADING
        self.applied = Applied(0, ())
        self._sent = Apply(0, ())
        self._silence_left = 0  # both in pings
        self._loading_left = 0

    def occupy(self, process: WorkerProcess) -> None:
        """A new worker is here."""
        self.process = process
        self._silence_left = self._pings(self._patience.start_s)

    @property
    def listening(self) -> bool:
        """Whether its worker accepts connections."""
        return self.phase is Phase.LISTENING

    @property
    def loading(self) -> bool:
        """Whether its worker has not answered its last table yet, or has not loaded all of it."""
        return self.applied.generation != self._sent.generation or any(
            report.state is State.LOADING for report in self.applied.reports
        )

    @property
    def available(self) -> set[ModelVersion]:
        """The versions its worker has loaded."""
        return {report.id for report in self.applied.reports if report.state is State.AVAILABLE}

    @property
    def loaded(self) -> Sequence[LoadReport]:
        """What its worker tells of the versions that it was to load."""
        wanted = {each.id for each in self._sent.assignments if each.wanted is State.AVAILABLE}
        return [report for report in self.applied.reports if report.id in wanted]

    def send(self, message: Message) -> None:
        """Tell its worker, if there is one."""
        if self.process is not None:
            self.process.channel.send(message)

    def assign(self, wanted: Apply) -> None:
        """Tell its worker what to serve. It gets `load_timeout_s` for each version that its last table had not, and
        nothing for those that it loads already."""
        if self.process is None:
            return
        before = _loads(self._sent)
        left = self._loading_left if self.loading else self._pings(self._patience.start_s)
        self._sent = self._without_suspects(wanted)
        self._loading_left = left + len(_loads(self._sent) - before) * self._pings(self._load_timeout_s)
        self.send(self._sent)

    def hear(self, message: Message) -> bool:
        """Note a sign of life; true when it tells more of the last table."""
        news = isinstance(message, Applied) and self.applied.generation <= message.generation <= self._sent.generation
        if isinstance(message, Applied) and news:
            self.applied = message
            loading = sum(report.state is State.LOADING for report in message.reports)
            most = self._patience.start_s + loading * self._load_timeout_s
            self._loading_left = min(self._loading_left, self._pings(most))
        if isinstance(message, Freed):
            self.freed = max(self.freed, message.generation)
        self._silence_left = self._pings(self._patience.silence_s)
        return news

    def suspect(self) -> None:
        """Its worker died: blame what it was loading, if it had come to serve or, starting, has died so before."""
        if self.listening or (self.record.failed_starts and self.available):
            self.suspects |= {
                (report.id, report.attempt) for report in self.applied.reports if report.state is State.LOADING
            }

    def part(self) -> None:
        """Its worker has closed the link and should exit."""
        self._silence_left = self._loading_left = self._pings(self._patience.goodbye_s)

    def ping(self) -> bool:
        """Ping its worker; false when it has been silent, or loading, for too long.

        Loading has its own time limit, which signs of life do not extend. Before it serves it may be silent meanwhile.
        """
        self._silence_left -= 1
        self.send(Ping())
        if self.loading:
            self._loading_left -= 1
            if self._loading_left < 0 or not self.listening:
                return self._loading_left >= 0
        return self._silence_left >= 0

    def kill(self) -> None:
        """End its worker at once, if there is one."""
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """Close the listening sockets; its worker has its own until it ends."""
        for each in self.sockets:
            each.close()

    def _without_suspects(self, wanted: Apply) -> Apply:
        self.suspects &= _loads(wanted)
        if not self.suspects:
            return wanted
        assignments = tuple([_refused(each) if _load(each) in self.suspects else each for each in wanted.assignments])
        return msgspec.structs.replace(wanted, assignments=assignments)

    def _pings(self, span_s: float) -> int:
        return ceil(span_s / self._patience.ping_s)


def _load(assignment: Assignment) -> Load:
    return assignment.id, assignment.attempt


def _loads(table: Apply) -> set[Load]:
    """What the table wants to be loaded."""
    return {_load(each) for each in table.assignments if each.wanted is State.AVAILABLE}


def _refused(assignment: Assignment) -> Assignment:
    name, version = assignment.id.name, assignment.id.version
    why = f"model {name!r}, version {version}: the worker process ended while it was loading it"
    return msgspec.structs.replace(assignment, wanted=State.END, why=why)
