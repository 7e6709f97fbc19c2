"""Copies of what a version answers, sent to the model process of its shadow."""

import random
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from socket import AF_UNIX, SOCK_STREAM, socket

from dukou.core.errors import DukouError
from dukou.core.event import CopiesSent, Observer
from dukou.core.frame import Dropped, Part, encode_copy, encode_dropped
from dukou.core.message import Copy
from dukou.core.model import ModelVersion
from dukou.core.route import Shadow

MOST_BYTES = 32 * 1024 * 1024
"""What waits for a shadow that is slow, beside what the system keeps for its socket."""

_GATHERED_S = 0.005
"""A write to a socket takes as long as encoding ten small copies, so it is shared by all of so much time."""

_BEAT_S = 1.0
_MOST_PARTS = 512
"""The system takes 1024 in one write."""

MOST_WAITING_PARTS = 32_768
"""Small copies, two parts each, would take more memory for the parts than for what they hold, and be old."""


class Shadowing:
    """A Tap that sends copies to the process at `shadow.address`. It never blocks and keeps at most `most_bytes`:
    whatever the process cannot take, and everything while it is away, is dropped and counted.

    Observers are told of `version`, the shadow, once a second. Called on `loop`, as is everything here.
    """

    def __init__(
        self,
        shadow: Shadow,
        version: ModelVersion,
        loop: AbstractEventLoop,
        observers: Sequence[Observer] = (),
        *,
        draw: Callable[[], float] = random.random,
        most_bytes: int = MOST_BYTES,
        beat_s: float = _BEAT_S,
    ) -> None:
        self._address = shadow.address
        self._share = shadow.share
        self._version = version
        self._loop = loop
        self._observers = observers
        self._draw = draw
        self._most_bytes = most_bytes
        self._beat_s = beat_s
        self._socket: socket | None = None
        self._parts: deque[Part] = deque()  # of whole frames, but for what of the first is sent already
        self._bytes = 0  # in all parts
        self._queued = 0  # copies, whole or in part, in them
        self._due: TimerHandle | None = None  # when what is gathered is to be written
        self._blocked = False  # written again as soon as there is room
        self._full = False  # nothing is encoded, to be dropped, before something was written
        self._sent = self._dropped = 0  # since the observers were told
        self._untold = 0  # dropped since the process was told
        self._beating: TimerHandle | None = None
        self._beat()

    def __call__(self, copy: Copy) -> None:
        """Send a copy of this execution, or of none in as many as the share leaves out."""
        if self._share < 1.0 and self._draw() >= self._share:
            return
        if self._socket is None or self._full:
            self._drop(1)
            return
        try:
            parts = encode_copy(copy)
        except DukouError:  # what no frame can hold, no shadow can be asked
            self._drop(1)
            return
        size = 0
        for part in parts:
            size += len(part)
        if self._bytes + size > self._most_bytes or len(self._parts) >= MOST_WAITING_PARTS:
            self._full = self._bytes > 0
            self._drop(1)
            return
        self._parts += parts
        self._bytes += size
        self._queued += 1
        if self._due is None and not self._blocked:
            self._due = self._loop.call_later(_GATHERED_S, self._write)

    def close(self) -> None:
        """Send nothing more; what waits is dropped."""
        self._disconnect()
        if self._beating is not None:
            self._beating.cancel()
        self._tell()

    def _write(self) -> None:
        """Write what is gathered; the rest of what the socket does not take at once when it has room again."""
        self._due = None
        assert self._socket is not None
        if self._untold:
            told = encode_dropped(Dropped(self._untold))
            self._untold = 0
            self._parts += told
            self._bytes += sum(map(len, told))
        try:
            written = self._socket.sendmsg(list(islice(self._parts, _MOST_PARTS)))
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:
            self._disconnect()
            return
        if written:
            self._full = False
        self._bytes -= written
        if self._bytes:
            _take(self._parts, written)
        else:
            self._parts.clear()
            self._sent += self._queued
            self._queued = 0
        blocked = self._bytes > 0
        if blocked and not self._blocked:
            self._loop.add_writer(self._socket, self._write)
        elif self._blocked and not blocked:
            self._loop.remove_writer(self._socket)
        self._blocked = blocked

    def _beat(self) -> None:
        self._beating = self._loop.call_later(self._beat_s, self._beat)
        if self._socket is None:
            self._connect()
        self._tell()

    def _connect(self) -> None:
        connecting = socket(AF_UNIX, SOCK_STREAM)
        connecting.setblocking(False)
        try:
            connecting.connect(self._address)  # at once or not at all, as it stays within the machine
        except OSError:
            connecting.close()
        else:
            self._socket = connecting

    def _disconnect(self) -> None:
        if self._socket is None:
            return
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._blocked:
            self._loop.remove_writer(self._socket)
            self._blocked = False
        self._socket.close()
        self._socket = None
        self._drop(self._queued)
        self._parts.clear()
        self._bytes, self._queued, self._full = 0, 0, False

    def _drop(self, copies: int) -> None:
        self._dropped += copies
        self._untold += copies

    def _tell(self) -> None:
        if not self._sent and not self._dropped:
            return
        event = CopiesSent(self._version, self._sent, self._dropped)
        self._sent = self._dropped = 0
        for observer in self._observers:
            try:
                observer(event)
            except Exception as problem:
                self._loop.call_exception_handler({"message": "an observer failed", "exception": problem})


def _take(parts: deque[Part], written: int) -> None:
    """Take the first `written` bytes off: however much waits, it takes as long as what was written has pieces."""
    while written:
        part = parts.popleft()
        if written < len(part):
            parts.appendleft(memoryview(part)[written:])
            return
        written -= len(part)
