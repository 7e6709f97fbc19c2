"""`dukou replay` from end to end: real model processes, real files, exit codes."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from threading import Event as Flag
from typing import Any

import numpy as np
import psutil
import pytest
from app_server import Server

from dukou.app.replay import Ask, plan_of
from dukou.cli.main import run
from dukou.config import CaptureConfig
from dukou.core.message import Copy
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion
from dukou.lifecycle.wanted import Declared
from dukou.telemetry.capture import Capture
from dukou.telemetry.recording import captured
from dukou.testing.models import manifest

CALLS = 100
live = [pytest.mark.socket, pytest.mark.slow]

CODE = """
import os, signal

class Model:
    inputs = {{"{input}": ("FP32", [-1, 2])}}
    outputs = {{"label": ("INT64", [-1])}}
    independent_rows = True

    def predict(self, inputs):
        x = inputs["{input}"]
        first = x[:, 0]
        {body}
        return {{"label": label}}
"""
VERSIONS = {
    1: "label = (first > 0).astype('int64')",
    2: "label = (first >= 0.00001).astype('int64')",
    3: "label = ((first > 0) & (first < 0.8)).astype('int64')",
    4: "label = (first > 0).astype('int64')\n        if (first > 0.9).any(): raise ValueError('too large')",
    5: "if (first > 0.9).any(): os.kill(os.getpid(), signal.SIGKILL)\n        label = (first > 0).astype('int64')",
    6: "label = (first > 0).astype('int64')",
    7: "syntax error",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions of `sign`: 2 is as good as 1, 3 is wrong in a tenth of the rows, 4 fails there, 5 crashes there, 6 has
    another input, 7 cannot be loaded."""
    root = tmp_path_factory.mktemp("replay") / "models"
    for number, body in VERSIONS.items():
        folder = root / "sign" / str(number)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(CODE.format(input="y" if number == 6 else "x", body=body))
    return root


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand rows in a CSV, with the right answers beside them."""
    draw = random.Random(5)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    firsts = [draw.uniform(-1, 1) for _ in range(1000)]
    path.write_text("x[0],x[1],right\n" + "".join(f"{first},0,{int(first > 0)}\n" for first in firsts))
    return path


def replay(repository: Path, version: int, *more: str | Path) -> list[str]:
    argv = ["replay", "--model", "sign", "--version", str(version), "--repository", str(repository), "--trust-python"]
    return [*argv, *map(str, more)]


class TestLive:
    """With model processes."""

    pytestmark = live

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            ("2 --labels right", (0, "accuracy: 0 % of the candidate's 1,000 were wrong")),
            ("3", (1, "differed, certainly more than 1 %")),
            ("3 --labels right --max-disagreement 0.2", (1, "percentage points worse")),
            ("4", (1, "first failure: model 'sign', version 4: the model failed")),
            ("2 --limit 50", (3, "too few rows to say")),
        ],
    )
    def test_the_exit_code_says_what_was_found(
        self, words: str, found: tuple[int, str], repository: Path, rows: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Agrees or is no worse, disagrees or fails, undecided. Nothing is left running."""
        version, *more = words.split()
        code, said = found

        came = run(replay(repository, int(version), "--primary", "1", "--against", rows, *more))

        printed = capsys.readouterr()
        assert came == code, printed
        assert said in printed.out.replace("\n", " ")
        assert psutil.Process().children() == []

    @pytest.mark.parametrize(
        ("version", "said"),
        [
            (5, "its model process cannot be asked: it has ended"),
            (6, "it cannot take the calls of version 1: it wants an input 'y', which callers do not send"),
            (7, "invalid syntax"),
        ],
    )
    def test_a_candidate_that_cannot_serve_fails(
        self, version: int, said: str, repository: Path, rows: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """It crashes, takes other calls, or cannot be loaded: 1, and the reason."""
        code = run(replay(repository, version, "--primary", "1", "--against", rows))

        assert code == 1
        assert said in capfd.readouterr().err

    def test_a_file_that_does_not_fit_is_misuse(
        self, repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """2, and what is wrong with it; what else can be is tested without processes."""
        (tmp_path / "rows.csv").write_text("x[0],z\n1,2\n")

        code = run(replay(repository, 2, "--primary", "1", "--against", tmp_path / "rows.csv"))

        assert code == 2
        assert "column x[1] is missing" in capfd.readouterr().err

    def test_what_a_server_has_recorded_is_replayed_while_it_serves(
        self, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Recorded by a live server, replayed beside it against the version that answered, as JSON."""
        state = tmp_path / "state"
        settings = tmp_path / "dukou.toml"
        settings.write_text(f'[telemetry]\nstate_dir = "{state}"\n')
        served = [repository, "--trust-python", "--version-policy", "1", "--port", "0", "--config", settings]
        draw = random.Random(6)
        with Server(*served, "--set", "capture.share=1", "--set", "admin.listen=") as server:
            for _ in range(CALLS):
                values = [[draw.uniform(-1, 1), 0.0] for _ in range(10)]
                server.post("/v1/models/sign:predict", json.dumps({"instances": values})).raise_for_status()
            wait_for(CALLS, state / "capture")

            codes = [run(replay(repository, version, "--config", settings, "--json")) for version in (2, 3)]
            answer = server.post("/v1/models/sign:predict", b'{"instances": [[1, 0]]}').json()

        agreed, disagreed = json_objects(capsys.readouterr().out)
        assert codes == [0, 1]
        assert (agreed["finding"], agreed["primary"], agreed["candidate"], agreed["calls"]) == ("AGREES", 1, 2, CALLS)
        assert (disagreed["finding"], disagreed["answers"]["rows"]) == ("DISAGREES", CALLS * 10)
        assert answer == {"predictions": [1]}

    def test_recorded_answers_stand_for_a_version_that_has_gone(
        self, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Its number is told, and that it was not asked; there are no times of it."""
        capture = Capture(CaptureConfig(share=1.0), tmp_path, 0, most_waiting=1000)
        tap = capture.tap(manifest("sign", 99))
        draw = np.random.default_rng(7)
        for _ in range(250):
            x = draw.uniform(-1, 1, (4, 2)).astype(np.float32)
            tap(
                Copy(
                    ModelVersion("sign", 99), DEFAULT_SIGNATURE, {"x": x}, {"label": (x[:, 0] > 0).astype(np.int64)}, 4
                )
            )
        capture.close()

        code = run(replay(repository, 2, "--captured", tmp_path, "--json"))

        (said,) = json_objects(capsys.readouterr().out)
        assert code == 0
        assert (said["primary"], said["answers"]["rows"]) == (99, 1000)
        assert said["notes"] == [
            "version 99 is not there any more: the candidate is compared with its recorded answers"
        ]
        assert not any("time" in metric["metric"] for metric in said["metrics"])


def json_objects(text: str) -> list[Any]:
    """Those printed one after the other."""
    found = []
    decoder = json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def wait_for(count: int, folder: Path) -> None:
    """Until the writer of a live server has written so many records."""
    pause = Flag()
    for _ in range(1000):
        if (folder / "sign").exists() and len(list(captured(folder, "sign", print))) >= count:
            return
        pause.wait(0.01)
    raise AssertionError(f"{folder} never had {count} records")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--version", "2"], "say where the versions are: --repository FOLDER"),
        (
            ["--version", "9", "--against", "ROWS"],
            "model 'sign', version 9: there is no such version; there are: 7, 6, 5",
        ),
        (["--version", "2", "--primary", "2", "--against", "ROWS"], "version 2 would be compared with itself"),
        (["--version", "2", "--primary", "9", "--against", "ROWS"], "version 9: there is no such version"),
        (["--version", "2", "--max-disagreement", "-1"], "max_disagreement = -1.0; it is from 0.0001 to 1"),
        (["--version", "2", "--against", "nowhere.csv"], "--against nowhere.csv: there is no such file"),
        (["--version", "2", "--limit", "0"], "--limit is 0; it is at least 1"),
        (["--version", "2", "--captured", "."], "nothing of 'sign' was recorded there"),
        (["--version", "2", "--model", "sing"], "served are: sign"),
        (["--version", "2", "--latency-ratio", "1"], "latency_ratio"),
        (["--version", "two"], "two"),
    ],
)
def test_what_cannot_be_replayed_as_asked_is_misuse(
    argv: Sequence[str], said: str, repository: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2, before anything is loaded."""
    words = [str(rows) if word == "ROWS" else word for word in argv]
    where = [] if said.startswith("say where") else ["--repository", str(repository)]
    model = [] if "--model" in argv else ["--model", "sign"]

    code = run(["replay", *model, *where, *words])

    assert code == 2
    assert said in capsys.readouterr().err


def test_the_declared_plan_says_how_answers_are_judged() -> None:
    """What the command line says wins; times are judged only where it says how."""
    declared = Declared(
        "m", plan="shadow,incremental least_requests=7 max_disagreement=0.5 slice_by=region tolerance=0.1"
    )

    plan = plan_of(declared, Ask("m", 2, "captured", tolerance=0.2))
    timed = plan_of(declared, Ask("m", 2, "captured", latency_ratio=3.0))

    assert (plan.max_disagreement, plan.slice_by, plan.tolerance) == (0.5, "region", 0.2)
    assert [(step.kind, step.shadow, step.least_requests, step.least_s) for step in plan.steps[:1]] == [
        ("shadow", 1.0, 7, 0.0)
    ]
    assert (len(plan.steps), len(timed.steps), timed.latency_ratio) == (2, 1, 3.0)
