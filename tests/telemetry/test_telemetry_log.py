"""Logs: lines that nobody can forge, written seldom, never more than fit."""

import logging
import os
from collections.abc import Iterator
from threading import Event as Flag

import pytest

from dukou.config import TelemetryConfig
from dukou.core.errors import Code
from dukou.core.event import RequestLogged, RequestRefused
from dukou.telemetry.log import AccessLog, LineFormatter, LineHandler, Lines, access_line, configure, write_stderr

LIMIT_S = 10.0


def logged(path: str = "/v1/models/iris:predict", name: str = "abc") -> RequestLogged:
    """One exchange."""
    return RequestLogged(name, "127.0.0.1:40000", "POST", path, 200, 45, 17, 0.000312)


def at_zero() -> float:
    """A clock that stands at the epoch."""
    return 0.0


class Written:
    """What was written, call by call; the first call waits until it is let go when `held`."""

    def __init__(self, held: bool = False) -> None:
        self.calls: list[str] = []
        self.entered = Flag()
        self.go = Flag()
        if not held:
            self.go.set()

    def __call__(self, text: str) -> None:
        self.entered.set()
        assert self.go.wait(LIMIT_S)
        self.calls.append(text)


def test_an_exchange_is_one_line() -> None:
    """Time, peer, request, status, bytes in, bytes out, seconds, id."""
    assert access_line(1.5, logged()) == (
        '1970-01-01T00:00:01.500Z 127.0.0.1:40000 "POST /v1/models/iris:predict" 200 45 17 0.000312 abc\n'
    )


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a\nb", "/a\\x0ab"),
        ("/a\r\x1b[31m", "/a\\x0d\\x1b[31m"),
        ('/" 200 0', '/\\" 200 0'),
        ("/\\x0a", "/\\\\x0a"),
        ("/\u2028\x85", "/\\x2028\\x85"),
        ("/é", "/é"),
        ("/" + "a" * 2000, "/" + "a" * 1023 + "..."),
    ],
)
def test_a_path_cannot_forge_a_line_or_fill_the_disk(path: str, shown: str) -> None:
    """What a caller chose is escaped, and cut."""
    line = access_line(0.0, logged(path))

    assert line.startswith(f'1970-01-01T00:00:00.000Z 127.0.0.1:40000 "POST {shown}" 200 ')
    assert len(line.splitlines()) == 1


def test_lines_that_came_while_it_wrote_are_written_together() -> None:
    """One write takes all that wait."""
    written = Written(held=True)
    lines = Lines(written, at_zero, pause_s=0.0)
    log = AccessLog(lines, at_zero)
    log(logged(name="first"))
    assert written.entered.wait(LIMIT_S)

    for name in ("second", "third"):
        log(logged(name=name))
    written.go.set()
    lines.close(LIMIT_S)

    assert [[line.split()[-1] for line in call.splitlines()] for call in written.calls] == [
        ["first"],
        ["second", "third"],
    ]


def test_what_does_not_fit_is_told_as_a_number() -> None:
    """A log that is too slow costs lines, not memory: those of requests and all others."""
    written = Written(held=True)
    lines = Lines(written, at_zero, pause_s=0.0, most_waiting=2)
    log = AccessLog(lines, at_zero)
    handler = LineHandler(lines)
    log(logged(name="first"))
    assert written.entered.wait(LIMIT_S)

    for name in ("second", "third", "fourth"):
        log(logged(name=name))
    handler.handle(logging.LogRecord("dukou.net", logging.ERROR, "", 0, "fifth", (), None))
    written.go.set()
    lines.close(LIMIT_S)

    said = "".join(written.calls).splitlines()
    assert [line.split()[-1] for line in said[:3]] == ["first", "second", "third"]
    assert said[3:] == ["1970-01-01T00:00:00.000Z 2 lines are lost: the log is written too slowly"]


def test_a_log_whose_reader_stands_still_holds_up_nobody() -> None:
    """Neither who logs nor the end of the process: the pipe is full and nobody reads."""
    reader, writer = os.pipe()
    lines = Lines(lambda text: os.write(writer, text.encode()), at_zero, pause_s=0.0)
    handler = LineHandler(lines)

    for _ in range(100):
        handler.handle(logging.LogRecord("dukou.net", logging.ERROR, "", 0, "x" * 10_000, (), None))
    lines.close(0.01)

    os.close(reader)  # now the write ends
    lines.close(LIMIT_S)
    os.close(writer)


def test_a_record_is_written_as_it_was_when_it_came() -> None:
    """Its arguments may change before the thread writes it."""
    written = Written()
    lines = Lines(written, at_zero)
    names = ["a"]

    LineHandler(lines).handle(logging.LogRecord("dukou.net", logging.ERROR, "", 0, "%s", (names,), None))
    names.append("b")
    lines.close(LIMIT_S)

    assert written.calls == ["['a']\n"]


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """The reader of the pipe has gone; serving goes on."""

    def broken(text: str) -> None:
        raise BrokenPipeError

    lines = Lines(broken, at_zero, pause_s=0.0)

    AccessLog(lines, at_zero)(logged())
    AccessLog(lines, at_zero)(logged())
    lines.close(LIMIT_S)


def test_other_events_are_passed_over() -> None:
    """An Observer is told everything and takes what is its own."""
    written = Written()
    lines = Lines(written, at_zero)

    AccessLog(lines, at_zero)(RequestRefused(None, Code.NOT_FOUND, 1.0, 2.0))
    lines.close(LIMIT_S)

    assert written.calls == []


def test_standard_error_is_written_whole(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever it holds."""
    write_stderr("é\udcff\n")

    assert capfd.readouterr().err == "é\\udcff\n"


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    """The test run's own handlers come back."""
    root, ours = logging.getLogger(), logging.getLogger("dukou")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.mark.usefixtures("_logging_as_before")
def test_our_own_logs_show_from_the_level_that_is_set_others_from_warnings() -> None:
    """A library's chatter is not ours."""
    written = Written()
    lines = Lines(written, at_zero)

    configure(TelemetryConfig(log_level="info"), lines)
    logging.getLogger("dukou.control").info("started")
    logging.getLogger("dukou.control").debug("detail")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("trouble")
    lines.close(LIMIT_S)

    assert [line.split(maxsplit=1)[1] for line in "".join(written.calls).splitlines()] == [
        "INFO dukou.control: started",
        "WARNING library: trouble",
    ]


def test_a_log_line_has_its_time_and_cannot_be_forged() -> None:
    """A newline in a fact stays in its line."""
    record = logging.LogRecord("dukou.net", logging.WARNING, "", 0, "came: %s", ("a\n2026 INFO all is well",), None)
    record.created = 0.25

    line = LineFormatter().format(record)

    assert line == "1970-01-01T00:00:00.250Z WARNING dukou.net: came: a\\x0a2026 INFO all is well"
