"""A rollout is watched to its end, and the exit code says how it ended."""

import json
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.admin_server import TOKEN, AdminServer, MemoryModel, MemoryOperations, admin_server
from dukou.cli import rollout
from dukou.cli.deploy import until_answering
from dukou.cli.main import run
from dukou.cli.rollout import MOST_MISSED, Changes, progress, until_over, view
from dukou.cli.terminal import CommandError
from dukou.client.errors import ConnectionFailed
from dukou.control.operations import ModelStatus, VersionStatus
from dukou.core.version import State
from dukou.lifecycle.measured import Counts, Measured
from dukou.lifecycle.plan import parse
from dukou.lifecycle.report import report
from dukou.lifecycle.rollout import Rollout, Status

PLAN = "shadow,incremental:5,100 least_requests=100 least_s=60"


def a_report(**fields: Any) -> dict[str, Any]:
    found = Rollout(1, "iris", 1, 2, parse(PLAN), PLAN, started_at=1000.0)
    return dict(report(msgspec.structs.replace(found, **fields)))


RUNNING = a_report(reason="waiting")
CANARY = a_report(step=1, step_s=30.0, measured=Measured(candidate=Counts(answered=20)))
HELD = a_report(step=1, status=Status.HELD, reason="3 % disagree")
PROMOTED = a_report(step=2, status=Status.PROMOTED, reason="step 3 of 3 is done", ended_at=2000.0)


def asking(*answers: Any) -> Callable[[], Any]:
    """Answers one after the other; exceptions are raised."""
    left = iter(answers)

    def ask() -> Any:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


def test_each_report_is_shown_until_the_rollout_is_over() -> None:
    """With a pause after each but the last, also while a human is waited for."""
    shown: list[Any] = []
    pauses: list[float] = []

    last = until_over(asking(RUNNING, HELD, PROMOTED), shown.append, pauses.append)

    assert last is PROMOTED
    assert shown == [RUNNING, HELD, PROMOTED]
    assert len(pauses) == 2


def test_a_server_that_is_restarted_is_waited_for() -> None:
    """A rollout outlives its server, and so does watching it."""
    away = ConnectionFailed("nobody answers")
    most = [away] * (MOST_MISSED - 1)

    assert until_over(asking(RUNNING, *most, RUNNING, *most, PROMOTED), id, id) is PROMOTED
    with pytest.raises(ConnectionFailed):
        until_over(asking(RUNNING, *most, away), id, id)
    with pytest.raises(ConnectionFailed):
        until_over(asking(away), id, id)


def test_another_rollout_is_not_taken_for_the_one_watched() -> None:
    """How the first one ended is not known then."""
    with pytest.raises(CommandError, match="rollout 1 is over, and 2 has begun"):
        until_over(asking(RUNNING, RUNNING | {"id": 2}), id, id)


def test_a_log_gets_a_line_when_something_changes(capsys: pytest.CaptureFixture[str]) -> None:
    """Not one every second; who is to decide is told how."""
    show = Changes()

    for each in (RUNNING, RUNNING, CANARY, HELD, HELD, PROMOTED):
        show(each)

    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == [
        "RUNNING, step 1 of 3 (shadow, copies of 100 %)",
        "RUNNING, step 2 of 3 (incremental, 5 % of the calls)",
        "HELD, step 2 of 3 (incremental, 5 % of the calls)",
        "dukou promote iris, or dukou rollback iris",
        "PROMOTED",
    ]
    assert lines[-1] == "iris 1 → 2: PROMOTED: step 3 of 3 is done"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (RUNNING, 0.0),
        (CANARY, 0.2),
        (a_report(step=1, step_s=6.0, measured=Measured(candidate=Counts(answered=500))), 0.1),
        (a_report(step=1, step_s=90.0, measured=Measured(candidate=Counts(answered=500))), 1.0),
        (a_report(plan=parse("incremental:100 least_s=0 least_requests=0")), 1.0),
        (PROMOTED, None),
    ],
)
def test_progress_is_that_of_the_slower_need(found: dict[str, Any], expected: float | None) -> None:
    """Both the least requests and the least time have to be reached."""
    assert progress(found) == expected


def test_the_live_view_has_the_report_and_a_bar() -> None:
    """The bar goes with the rollout."""
    from rich.console import Console

    def drawn(found: dict[str, Any]) -> str:
        into = StringIO()
        Console(file=into, width=100, force_terminal=True, color_system="standard").print(view(found))
        return into.getvalue()

    assert "20 of at least 100 requests" in drawn(CANARY)
    assert "━" in drawn(CANARY)
    assert "\x1b[32mPROMOTED\x1b[0m" in drawn(PROMOTED)
    assert "━" not in drawn(PROMOTED)


def status(*versions: VersionStatus, serving: int | None = 1) -> ModelStatus:
    return ModelStatus("iris", serving, None, "latest:1", versions)


def test_a_version_is_waited_for_until_it_answers() -> None:
    """It loads, perhaps after a moment in which nobody has begun."""
    loading = [VersionStatus(2, State.END), VersionStatus(2, State.LOADING), VersionStatus(2, State.AVAILABLE)]
    there = status(VersionStatus(2, State.AVAILABLE), serving=2)

    assert until_answering(asking(*map(status, loading), there), 2, id) is there


@pytest.mark.parametrize("found", [status(VersionStatus(2, State.END, "no such operator")), status()])
def test_a_version_that_will_not_answer_is_not_waited_for(found: ModelStatus) -> None:
    """Why is said."""
    why = found.versions[0].why if found.versions else "gone"

    with pytest.raises(CommandError, match=f"version 2 does not answer: {why}"):
        until_answering(asking(*[found] * 10), 2, id)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminServer]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with admin_server(MemoryOperations(MemoryModel("iris", [1, 2], serving=1))) as server:
        monkeypatch.setenv("DUKOU_ADMIN__LISTEN", server.address)
        monkeypatch.setenv("DUKOU_ADMIN__TOKEN_FILE", str(token))
        yield server


@pytest.mark.socket
def test_a_report_is_shown_once(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody watches: as lines, or as JSON; exit code 0 whatever it says."""
    run(["deploy", "iris", "--plan", PLAN])
    server.operations.measure("iris", 12)
    capsys.readouterr()

    assert run(["rollout", "iris"]) == 0
    text = capsys.readouterr().out
    assert run(["rollout", "iris", "--json"]) == 0

    assert text.startswith("iris: version 1 → 2, rollout 1: RUNNING\n")
    assert "▶ 1  shadow" in text
    assert json.loads(capsys.readouterr().out)["steps"][0]["state"] == "now"


@pytest.mark.socket
@pytest.mark.parametrize(("end", "code"), [(Status.PROMOTED, 0), (Status.ROLLED_BACK, 1), (Status.ABORTED, 1)])
@pytest.mark.parametrize(
    "argv",
    [
        ["deploy", "iris", "--plan", PLAN, "--wait"],
        ["rollout", "iris", "--watch"],
        ["rollout", "iris", "--watch", "--json"],
    ],
)
def test_the_exit_code_says_how_it_ended(
    server: AdminServer, argv: list[str], end: Status, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fit for CI: 0 promoted, 1 not."""
    if argv[0] == "rollout":
        run(["deploy", "iris", "--plan", PLAN])

    def ends(seconds: float) -> None:
        server.operations.end("iris", end, "so it was judged")

    monkeypatch.setattr(rollout.time, "sleep", ends)

    assert run(argv) == code


@pytest.mark.socket
def test_a_terminal_shows_it_live(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a flag, until it is over."""

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    run(["deploy", "iris", "--plan", PLAN])
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(rollout.time, "sleep", lambda seconds: server.operations.end("iris", Status.PROMOTED, "good"))

    assert run(["rollout", "iris"]) == 0

    assert "RUNNING" in terminal.getvalue()
    assert "PROMOTED" in terminal.getvalue()
