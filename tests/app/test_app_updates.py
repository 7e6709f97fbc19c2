"""The three updates of the source document's section 3.3, by a real server under calls: full, incremental, shadow."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from app_server import LIMIT_S, Server, run

from live import free_ports

pytestmark = [pytest.mark.socket, pytest.mark.slow]

NAME = "times"
MODEL = """
import time

import numpy as np


class Model:
    inputs = {{"x": ("FP64", [-1, 1])}}
    outputs = {{"y": ("FP64", [-1, 1])}}

    def load(self, folder):
        time.sleep({load_s})

    def predict(self, inputs):
        return {{"y": inputs["x"] * {version}}}
"""


def write(folder: Path, version: int, load_s: float = 0.0) -> None:
    """A version that answers with its number times the input; put in place as a whole."""
    made = folder.parent / f".making-{version}"
    made.mkdir(parents=True)
    (made / "model.py").write_text(MODEL.format(version=version, load_s=load_s), encoding="utf-8")
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    shutil.move(made, folder / NAME / str(version))


@contextmanager
def serving(models: Path, deployment: str) -> Iterator[Server]:
    settings = models.parent / "dukou.toml"
    settings.write_text(f"[deployment.{NAME}]\n{deployment}\n", encoding="utf-8")
    admin = {"DUKOU_ADMIN__LISTEN": "127.0.0.1:0", "DUKOU_TELEMETRY__STATE_DIR": str(models.parent / "state")}
    words = (models, "--port", "0", "--trust-python", "--config", settings)
    with Server(*words, environment=admin) as server:
        yield server


def ask(server: Server, **headers: str) -> requests.Response:
    return server.post(f"/v1/models/{NAME}:predict", '{"instances": [[1.0]]}', **headers)


def answer(response: requests.Response) -> float | int:
    """The version that answered, or the status."""
    return response.json()["predictions"][0][0] if response.status_code == 200 else response.status_code


def asked_until(server: Server, last: float) -> tuple[list[float | int], list[requests.Response]]:
    """Ask on and on until version `last` answers; the answers without repetitions, and the refusals."""
    seen: list[float | int] = []
    refused = []
    until_s = time.monotonic() + LIMIT_S
    while not seen or seen[-1] != last:
        response = ask(server)
        if response.status_code != 200:
            refused.append(response)
        if not seen or seen[-1] != answer(response):
            seen.append(answer(response))
        assert time.monotonic() < until_s, seen
    return seen, refused


def test_a_full_update_refuses_calls_between_the_old_and_the_new(tmp_path: Path) -> None:
    """With 503 and Retry-After: never two versions in memory, and no wrong answer."""
    models = tmp_path / "models"
    write(models, 1)

    with serving(models, 'strategy = "resource_preserving"') as server:
        first = answer(ask(server))
        write(models, 2, load_s=0.5)
        seen, refused = asked_until(server, 2.0)

    assert first == 1.0
    assert seen == [1.0, 503, 2.0]
    assert {"retry-after"} <= {name.lower() for response in refused for name in response.headers}


def test_an_update_by_the_policy_refuses_nobody(tmp_path: Path) -> None:
    """The old version answers until the new one does, however long that takes to load."""
    models = tmp_path / "models"
    write(models, 1)

    with serving(models, "") as server:
        first = answer(ask(server))
        write(models, 2, load_s=0.5)
        seen, refused = asked_until(server, 2.0)

    assert first == 1.0
    assert seen == [1.0, 2.0]
    assert refused == []


def test_a_canary_gets_its_share_and_a_caller_stays_with_one_version(tmp_path: Path) -> None:
    """Half of 400 callers, each by its header, and each always the same half."""
    models = tmp_path / "models"
    write(models, 1)
    plan = 'plan = "incremental:50,100 manual=true"\nsticky = "header:x-caller"'

    with serving(models, plan) as server:
        first = answer(ask(server))
        write(models, 2)
        asked_until(server, 2.0)
        twice = [[answer(ask(server, **{"X-Caller": f"caller {n}"})) for n in range(400)] for _ in range(2)]

    assert first == 1.0
    assert twice[0] == twice[1]
    assert 140 < twice[0].count(2.0) < 260
    assert set(twice[0]) == {1.0, 2.0}


def test_a_shadow_is_compared_and_answers_nobody(tmp_path: Path) -> None:
    """Every answer is the primary's, while the shadow's are found to differ on every row; a human is waited for, or, as
    here, the rollout goes back by itself where it may."""
    models = tmp_path / "models"
    write(models, 1)
    plan = 'plan = "shadow,incremental least_s=0.5 least_requests=50 max_disagreement=0.05"'
    answers: list[float | int] = []
    done = threading.Event()

    with serving(models, plan) as server:

        def call() -> None:
            session = requests.Session()
            while not done.is_set():
                url = f"{server.url}/v1/models/{NAME}:predict"
                answers.append(answer(session.post(url, data='{"instances": [[1.0]]}', timeout=LIMIT_S)))

        caller = threading.Thread(target=call)
        caller.start()
        try:
            write(models, 2)
            server.await_line(r"roll back by the judge.*disagreement")
        finally:
            done.set()
            caller.join()

    assert set(answers) == {1.0}
    assert len(answers) > 50
    log = "".join(server.log)
    assert "deploy by the policy" in log


def test_the_history_of_a_server_that_has_ended_is_still_there(tmp_path: Path) -> None:
    """What was changed, in the state folder, for the next server."""
    models = tmp_path / "models"
    write(models, 1)
    token = tmp_path / "token"
    state = {"DUKOU_TELEMETRY__STATE_DIR": str(tmp_path / "state"), "DUKOU_ADMIN__TOKEN_FILE": str(token)}
    said = []

    for label in ("stable", "old"):
        (port,) = free_ports(1)
        environment = {**state, "DUKOU_ADMIN__LISTEN": f"127.0.0.1:{port}"}
        with Server(models, "--port", "0", "--trust-python", environment=environment):
            given = ["--admin", f"127.0.0.1:{port}", "--token-file", token]
            done = run("label", NAME, f"{label}=1", "--why", "to see", *given)
            assert done.returncode == 0, done.stderr
            said.append(json.loads(run("history", NAME, "--json", *given).stdout))

    assert [len(one["changes"]) for one in said] == [1, 2]
    assert {one["cause"]["why"] for one in said[1]["changes"]} == {"to see"}
