"""The commands for a running server, run as a user types them against a real admin API."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.admin_server import TOKEN, AdminServer, MemoryModel, MemoryOperations, admin_server
from dukou.cli.history import differences
from dukou.cli.main import run
from dukou.cli.status import lines
from dukou.control.operations import ModelStatus, VersionStatus
from dukou.core.errors import DukouError, Reason
from dukou.core.version import State
from dukou.lifecycle.rollout import Status

pytestmark = pytest.mark.socket


@pytest.fixture(scope="module")
def running() -> Iterator[AdminServer]:
    with admin_server(MemoryOperations()) as server:
        yield server


@pytest.fixture
def server(running: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdminServer:
    """The server as the settings find it, with one model as new: version 2 is there, version 1 answers."""
    running.operations.__init__(MemoryModel("iris", [1, 2], serving=1))  # type: ignore[misc]
    token = tmp_path / "token"
    token.write_text(TOKEN)
    monkeypatch.setenv("DUKOU_ADMIN__LISTEN", running.address)
    monkeypatch.setenv("DUKOU_ADMIN__TOKEN_FILE", str(token))
    return running


@pytest.fixture
def iris(server: AdminServer) -> MemoryModel:
    return server.operations.models["iris"]


def test_status_shows_every_model(server: AdminServer, iris: MemoryModel, capsys: pytest.CaptureFixture[str]) -> None:
    """Which version answers, how the calls are shared, labels and what is barred."""
    iris.labels = {"stable": 1}
    iris.barred = {2}

    assert run(["status"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "iris: version 1 answers (policy latest:1)",
        "  version  state      calls  labels",
        "  2        END                       barred until it is promoted",
        "  1        AVAILABLE  100 %  stable",
    ]


def test_what_a_barred_version_needs_is_said_once() -> None:
    """By the server, which knows why."""
    versions = (VersionStatus(2, State.END, "it was rolled back; `dukou promote` ...", barred=True),)

    told = list(lines([ModelStatus("iris", 1, None, "latest:1", versions)]))

    assert told[-1].endswith("  barred; it was rolled back; `dukou promote` ...")


def test_a_failed_load_does_not_name_its_version_again() -> None:
    """Its line does that."""
    versions = (VersionStatus(2, State.END, "model 'iris', version 2: no memory"),)

    told = list(lines([ModelStatus("iris", 1, None, "latest:1", versions)]))

    assert told[-1].split() == ["2", "END", "no", "memory"]


def test_status_shows_a_rollout(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Its step, and who is the candidate; afterwards how it ended."""
    run(["deploy", "iris", "--plan", "shadow,incremental:5,100"])
    run(["status", "iris"])
    shadow = capsys.readouterr().out
    run(["promote", "iris"])
    capsys.readouterr()
    run(["status", "iris"])
    canary = capsys.readouterr().out
    server.operations.end("iris", Status.ROLLED_BACK, "5 % errors")
    run(["status", "iris"])

    assert "iris: rollout 1 → 2 RUNNING at step 1 of 3 (shadow, copies of 100 %) (policy" in shadow
    assert "  2        AVAILABLE                 candidate; gets copies of 100 %" in shadow
    assert "  2        AVAILABLE  5 %            candidate\n  1        AVAILABLE  95 %\n" in canary
    assert "  the last rollout 1 → 2 ROLLED_BACK: 5 % errors\n" in capsys.readouterr().out


def test_status_for_machines(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """One model as an object, all of them under `models`."""
    run(["status", "iris", "--json"])
    one = json.loads(capsys.readouterr().out)
    run(["status", "--json"])

    assert one["name"] == "iris"
    assert json.loads(capsys.readouterr().out) == {"models": [one]}


def test_a_server_without_models(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Something is said all the same."""
    server.operations.models.clear()

    assert run(["status"]) == 0

    assert capsys.readouterr().out == "no models\n"


def test_a_version_is_deployed_and_rolled_back(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The highest without a number; what holds now is said, and the history has who, why and what."""
    assert run(["deploy", "iris", "--wait", "--why", "June data"]) == 0
    assert run(["rollback", "iris"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert run(["history", "iris"]) == 0

    assert said == ["iris: version 2 answers; a rollback goes to 1"] * 2 + ["iris: version 1 answers"]
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  rollback iris  by \S+@\S+ \(token\)", lines[0])
    assert lines[1] == "    serving: nothing → 1"
    assert "deploy iris" in lines[2]
    assert lines[3:] == ["    why: June data", "    serving: nothing → 2"]


def test_a_rollout_is_begun_paused_resumed_and_aborted(
    server: AdminServer, iris: MemoryModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb says how far the rollout is."""
    run(["deploy", "iris", "--version", "2", "--plan", "incremental:50,100", "--manual"])
    assert iris.rollout is not None
    assert iris.rollout.plan.manual
    for verb in ("pause", "resume", "promote", "abort"):
        assert run([verb, "iris"]) == 0

    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "iris: rollout 1 → 2 RUNNING at step 1 of 2 (incremental, 50 % of the calls)",
        "iris: rollout 1 → 2 PAUSED at step 1 of 2 (incremental, 50 % of the calls)",
        "iris: rollout 1 → 2 RUNNING at step 1 of 2 (incremental, 50 % of the calls)",
        "iris: rollout 1 → 2 RUNNING at step 2 of 2 (incremental, 100 % of the calls)",
        "iris: version 1 answers",
    ]
    assert err == "`dukou rollout iris` shows how it does\n"


def test_a_version_is_loaded_and_unloaded(
    server: AdminServer, iris: MemoryModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a model as a whole."""
    assert run(["load", "iris", "--version", "2"]) == 0
    assert "  2        AVAILABLE\n" in capsys.readouterr().out
    assert run(["unload", "iris", "--version", "2"]) == 0
    assert "  2        END\n" in capsys.readouterr().out
    assert run(["unload", "iris"]) == 0

    assert capsys.readouterr().out.startswith("iris: unloaded (policy latest:1)\n")
    assert iris.unloaded


def test_labels_are_put_and_taken_away(
    server: AdminServer, iris: MemoryModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several at once."""
    assert run(["label", "iris", "stable=1", "canary=2"]) == 0
    assert iris.labels == {"stable": 1, "canary": 2}

    assert run(["label", "iris", "canary="]) == 0

    assert iris.labels == {"stable": 1}
    assert "stable" in capsys.readouterr().out


def test_the_history_for_machines(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """As the API has it, as many as asked for."""
    for _ in range(3):
        run(["load", "iris"])
    capsys.readouterr()

    run(["history", "--limit", "2", "--json"])

    assert [each["id"] for each in json.loads(capsys.readouterr().out)["changes"]] == [3, 2]


def test_what_has_changed_is_told_in_words() -> None:
    """Lists, tables and rollouts as people write them."""
    rollout = {"id": 3, "candidate": 2, "step": 0, "status": "RUNNING"}
    before = {"barred": [3], "labels": {"stable": 1}, "serving": 1}
    after = {"barred": [2, 3], "labels": {}, "serving": 1, "rollout": rollout, "calls": "version 1: 100%"}

    assert list(differences(before, after)) == [
        "barred: 3 → 2, 3",
        'labels: {"stable": 1} → nothing',
        "rollout: nothing → number 3 of version 2, step 1, RUNNING",
        "calls: nothing → version 1: 100%",
    ]


def test_nothing_was_changed_yet(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty history is no empty page."""
    assert run(["history"]) == 0

    assert capsys.readouterr().out == "nothing was changed\n"


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["status", "irsi"], 1, "there is no such model; served are: iris; did you mean iris?"),
        (["rollback", "irsi"], 1, "did you mean iris?"),
        (["status", "wine"], 1, "there is no such model; served are: iris\n"),
        (["deploy", "iris", "--version", "9"], 1, "version 9: there is no such version; there are: [1, 2]"),
        (["deploy", "iris", "--plan", "shadow,5"], 1, "'5' in 'shadow,5'"),
        (["rollback", "iris"], 1, "there is no version to go back to\n"),
        (["rollout", "iris"], 1, "there has been no rollout\n"),
        (["status", "--token-file", "/nowhere/token"], 1, "A server makes it when it starts: is `dukou serve` running"),
        (["status", "--admin", "127.0.0.1:1"], 1, "nobody answers at 127.0.0.1:1: is `dukou serve` running"),
        (["status", "--admin", "nonsense"], 1, "admin.listen (--admin)"),
        (["label", "iris"], 2, "say which label names which version"),
        (["label", "iris", "stable"], 2, "write it as LABEL=VERSION"),
        (["label", "iris", "stable=two"], 2, "write it as LABEL=VERSION"),
    ],
)
def test_what_went_wrong_is_one_line_and_says_what_to_do(
    server: AdminServer, argv: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with the exit code."""
    assert run(argv) == code

    out, err = capsys.readouterr()
    assert (out, err.startswith("dukou: ")) == ("", True)
    assert text in err
    assert len(err.splitlines()) == 1


def test_a_wrong_token_is_traced_to_its_file(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another server's token, most likely."""
    other = tmp_path / "other"
    other.write_text("the-token-of-another-server")

    assert run(["status", "--token-file", str(other)]) == 1

    assert capsys.readouterr().err == (f"dukou: that is not this server's token; it was read from {other}\n")


def test_a_store_that_cannot_be_written_is_passed_on(server: AdminServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The server's own words say which file it is."""
    server.operations.broken = DukouError(Reason.STORE_UNAVAILABLE, path="/state/store.db", detail="it is locked")

    assert run(["status"]) == 1

    assert "the store /state/store.db: it is locked; nothing was changed\n" in capsys.readouterr().err


def test_the_settings_file_of_the_server_is_enough(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its address and token are in there."""
    monkeypatch.delenv("DUKOU_ADMIN__LISTEN")
    monkeypatch.delenv("DUKOU_ADMIN__TOKEN_FILE")
    settings = tmp_path / "dukou.toml"
    settings.write_text(f'[admin]\nlisten = "{server.address}"\ntoken_file = "{tmp_path / "token"}"\n')

    assert run(["status", "--config", str(settings)]) == 0

    assert capsys.readouterr().out.startswith("iris: ")
