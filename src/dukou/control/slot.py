"""The place of one worker: workers come and go, the slot and its listening sockets stay."""

from collections.abc import Sequence
from enum import Enum
from math import ceil
from socket import socket

import msgspec

from dukou.control.decisions import Record
from dukou.control.process import WorkerProcess
from dukou.core.link import Applied, Apply, Message, Ping
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


class Slot:
    """One worker's place, and what the supervisor knows of the worker there."""

    def __init__(self, index: int, sockets: Sequence[socket], patience: Patience) -> None:
        self.index = index
        self.sockets = sockets
        self.record = Record()
        self._patience = patience
        self.vacate()

    def vacate(self) -> None:
        """The worker has gone."""
        self.process: WorkerProcess | None = None
        self.phase = Phase.LOADING
        self.applied = Applied(0, ())
        self._sent_generation = 0
        self._pings_left = 0

    def occupy(self, process: WorkerProcess) -> None:
        """A new worker is here."""
        self.process = process
        self._allow(self._patience.start_s)

    @property
    def listening(self) -> bool:
        """Whether its worker accepts connections."""
        return self.phase is Phase.LISTENING

    @property
    def available(self) -> set[ModelVersion]:
        """The versions its worker has loaded."""
        return {report.id for report in self.applied.reports if report.state is State.AVAILABLE}

    def send(self, message: Message) -> None:
        """Tell its worker, if there is one."""
        if self.process is not None:
            self.process.channel.send(message)

    def assign(self, wanted: Apply, load_timeout_s: float) -> None:
        """Tell its worker what to serve. It gets `load_timeout_s` for each version."""
        self.send(wanted)
        self._sent_generation = wanted.generation
        self._allow(self._patience.start_s + load_timeout_s * len(wanted.assignments))

    def hear(self, message: Message) -> bool:
        """Note a sign of life; true when it is the answer to the last assignment."""
        answered = isinstance(message, Applied) and message.generation == self._sent_generation
        if isinstance(message, Applied) and answered:
            self.applied = message
        # Loading has its own time limit, which signs of life do not extend.
        if self.applied.generation == self._sent_generation:
            self._allow(self._patience.silence_s)
        return answered

    def part(self) -> None:
        """Its worker has closed the link and should exit."""
        self._allow(self._patience.goodbye_s)

    def ping(self) -> bool:
        """Ping its worker; false when it has been silent for too long."""
        self._pings_left -= 1
        self.send(Ping())
        return self._pings_left >= 0

    def kill(self) -> None:
        """End its worker at once, if there is one."""
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """Close the listening sockets; its worker has its own until it ends."""
        for each in self.sockets:
            each.close()

    def _allow(self, span_s: float) -> None:
        self._pings_left = ceil(span_s / self._patience.ping_s)
