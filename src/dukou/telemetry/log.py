"""Logs for people: one line for each thing that happened, on standard error, times in UTC."""

import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from dukou.config import TelemetryConfig
from dukou.core.clock import Clock, wall
from dukou.core.event import Event, RequestLogged
from dukou.telemetry.writer import Writer

_LONGEST_PATH = 1024
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}


def configure(config: TelemetryConfig, lines: "Lines") -> None:
    """Send this process's logs to `lines`; what libraries log only from warnings on. For main programs."""
    handler = LineHandler(lines)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("dukou").setLevel(config.log_level.upper())


class Lines:
    """Lines on their way to a file that may be slow: whoever has one hands it in and never waits.

    A thread calls `write` at most every `pause_s`, so a terminal or pipe that stands still does not hold up the loop.
    What comes while `most_waiting` lines wait is lost, and the log says how many those were.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        clock: Clock = wall,
        *,
        pause_s: float = 0.05,
        most_waiting: int = 10_000,
    ) -> None:
        self._write = write
        self._clock = clock
        self._most_waiting = most_waiting
        self._waiting: deque[Callable[[], str]] = deque()
        self._lost = 0
        self._writer = Writer(self._write_waiting, "log", pause_s)

    def room(self) -> bool:
        """Whether there is room for one more; otherwise that one is counted as lost."""
        if len(self._waiting) < self._most_waiting:
            return True
        self._lost += 1
        return False

    def put(self, make: Callable[[], str]) -> None:
        """Take what makes a line, its newline included; the thread makes it. To be asked for `room` before."""
        self._waiting.append(make)
        self._writer.wake()

    def close(self, patience_s: float = 1.0) -> None:
        """Write what is left and end the thread, or leave it behind where nobody reads for `patience_s` seconds."""
        self._writer.close(patience_s)

    def _write_waiting(self) -> None:
        lines = [self._waiting.popleft()() for _ in range(len(self._waiting))]
        lost, self._lost = self._lost, 0
        if lost:
            lines.append(f"{_stamp(self._clock())} {lost} lines are lost: the log is written too slowly\n")
        if lines:
            with suppress(OSError, ValueError):  # a log that cannot be written is no reason to stop serving
                self._write("".join(lines))


def write_stderr(text: str) -> None:
    """Write to file descriptor 2, past `sys.stderr`: its lock, held by a write that stands still, would keep the
    process from ending. Raises OSError."""
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(2, data) :]


class LineHandler(logging.Handler):
    """Hands log records to `lines`. They are formatted at once: their arguments may change."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        if not self._lines.room():
            return
        try:
            text = self.format(record) + "\n"
        except Exception:  # a record that does not fit its arguments
            self.handleError(record)
        else:
            self._lines.put(lambda: text)


class LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z WARNING dukou.control.supervisor: text`, control characters escaped: what came from
    outside cannot forge a second line. A traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """When it happened, to the millisecond."""
        return _stamp(record.created)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without its traceback."""
        record.message = record.message.translate(_CONTROLS)
        return super().formatMessage(record)


class AccessLog:
    """An Observer that writes a line for each RequestLogged."""

    def __init__(self, lines: Lines, clock: Clock = wall) -> None:
        self._lines = lines
        self._clock = clock

    def __call__(self, event: Event) -> None:
        """Take one event; those of other kinds are passed over."""
        if isinstance(event, RequestLogged) and self._lines.room():
            self._lines.put(partial(access_line, self._clock(), event))


def access_line(at_s: float, event: RequestLogged) -> str:
    r"""`2026-01-31T12:00:00.000Z 127.0.0.1:40000 "POST /v1/models/iris:predict" 200 45 17 0.000312 id` and a newline:
    bytes in, bytes out, seconds. Control characters and quotes are escaped and long paths are cut."""
    path = event.path if len(event.path) <= _LONGEST_PATH else event.path[:_LONGEST_PATH] + "..."
    said = f"{event.method} {path}".replace("\\", "\\\\").replace('"', '\\"').translate(_CONTROLS)
    name = event.id.translate(_CONTROLS)
    return (
        f'{_stamp(at_s)} {event.peer} "{said}" {event.status} '
        f"{event.request_bytes} {event.response_bytes} {event.duration_s:.6f} {name}\n"
    )


def _stamp(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
