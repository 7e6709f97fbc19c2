"""SIGKILL of the supervisor, a worker, a model process or all of them, at every step of a rollout: the same step goes
on after a restart, calls are shared as they were, and what was acknowledged is there, whole."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from app_place import NAME, Place, ask, until
from app_server import LIMIT_S
from test_app_changes import adds

from dukou.client.errors import ConnectionFailed

pytestmark = [pytest.mark.socket, pytest.mark.slow]

PLAN = "shadow,incremental:20,50,100 least_s=3600 manual=true"
"""No step is left but by a promote."""

SLOW = """
import time
from pathlib import Path


class Model:
    inputs = {{"x": ("FP32", [-1])}}
    outputs = {{"y": ("FP32", [-1])}}

    def load(self, context):
        Path({begun!r}).touch()
        while not Path({gate!r}).exists():
            time.sleep(0.01)

    def predict(self, inputs):
        return inputs["x"] + 4
"""


class Traffic:
    """One caller after the other, each with its own connection; `wrong` are answers that should not be."""

    def __init__(self, port: int) -> None:
        self.wrong: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.wait(0.005):
            try:
                ask(self._port)
            except (OSError, HTTPException):
                pass  # nobody is there, or was killed while it answered
            except AssertionError as error:
                self.wrong.append(str(error))

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *exit_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server of a model with two versions, the first of which answers."""
    adds(1.0, tmp_path / "models" / NAME / "1" / "model.onnx")
    place = Place(tmp_path)
    place.verb("deploy", version=1)  # so that another version waits until somebody asks for it
    adds(2.0, place.models / NAME / "2" / "model.onnx")
    yield place
    place.end()


def crash_supervisor(place: Place) -> None:
    """Its workers go when they notice; the successor starts meanwhile."""
    orphans = place.server.tree()[1:]
    place.server.kill()
    place.start()
    _, left = psutil.wait_procs(orphans, LIMIT_S)
    assert left == []


def crash_worker(place: Place) -> None:
    (victim,) = place.server.workers()
    psutil.Process(victim).kill()
    until(lambda: place.server.workers() not in ([], [victim]), "another worker")


def crash_all(place: Place) -> None:
    place.server.kill_all()
    place.audit()
    place.start()


def crash_shadow(place: Place) -> None:
    (victim,) = place.server.model_processes()
    psutil.Process(victim).kill()
    until(lambda: place.server.model_processes() not in ([], [victim]), "another model process")


STEPS = {
    1: ({1: 1.0}, {2: 1.0}),
    2: ({1: 0.8, 2: 0.2}, {}),
    3: ({1: 0.5, 2: 0.5}, {}),
    4: ({2: 1.0}, {}),
}
"""By number: how calls are shared, and copies."""


def is_at(place: Place, where: tuple[int, str, int]) -> None:
    """The rollout is there, and gets to share calls as its step says."""
    shares, shadows = STEPS[where[2]]
    assert place.where() == where
    until(lambda: (place.shares(), place.shadows()) == (shares, shadows), f"shares {shares}, copies {shadows}")
    answers = place.answers(60)
    assert set(answers) == set(shares)
    assert place.where() == where


def await_shares(place: Place, shares: dict[int, float]) -> None:
    until(lambda: place.shares() == shares, f"shares {shares}")


def await_comparisons(place: Place) -> None:
    """Return when more was compared."""
    before = place.compared()
    until(lambda: place.compared() > before, "more compared")


def test_every_step_goes_on_after_every_crash(place: Place) -> None:
    """Shadow, 20, 50 and 100 %, each killed in every way, all at once when it has just been acknowledged; then the
    promotion and the way back."""
    with Traffic(place.port) as traffic:
        place.verb("deploy", version=2, plan=PLAN)
        number = place.rollout()["id"]
        for step in STEPS:
            where = (number, "RUNNING", step)
            crash_all(place)
            is_at(place, where)
            crash_worker(place)
            is_at(place, where)
            crash_supervisor(place)
            is_at(place, where)
            if step == 1:
                await_comparisons(place)
                crash_shadow(place)
                is_at(place, where)
                await_comparisons(place)
            if step == 2:
                place.verb("pause")
                crash_supervisor(place)
                is_at(place, (number, "PAUSED", step))
            place.verb("promote")

        crash_all(place)
        assert place.rollout()["status"] == "PROMOTED"
        assert set(place.answers(5)) == {2}

        place.verb("rollback")
        assert set(place.answers(5)) == {1}
        crash_all(place)
        assert set(place.answers(5)) == {1}
        crash_supervisor(place)
        assert set(place.answers(5)) == {1}
        assert [one.version for one in place.status().versions if one.barred] == [2]

    place.server.kill_all()
    verbs = [one.verb for one in place.audit() if one.verb != "follow"]
    assert verbs == ["rollback", "promote", "promote", "promote", "pause", "promote", "deploy", "deploy"]
    assert traffic.wrong == []


def test_a_rollout_whose_candidate_was_being_loaded_goes_on(place: Place) -> None:
    """Nobody is answered by it before it is AVAILABLE, however often all is killed meanwhile."""
    begun, gate = place.folder / "begun", place.folder / "gate"
    slow = place.models / NAME / "3" / "model.py"
    slow.parent.mkdir()
    slow.write_text(SLOW.format(begun=str(begun), gate=str(gate)))
    place.verb("deploy", version=3, plan="incremental:50,100 least_s=3600 manual=true")
    where = place.where()

    for crash in (crash_all, crash_supervisor):
        until(begun.exists, "a load under way")
        begun.unlink()
        crash(place)
        assert set(place.answers(5)) == {1}
        assert place.where() == where
    until(begun.exists, "a load under way")
    gate.touch()

    until(lambda: place.shares() == {1: 0.5, 3: 0.5}, "half of the calls for the candidate")
    assert set(place.answers(60)) == {1, 4}
    assert place.where() == where


CYCLE: Sequence[tuple[str, dict[str, Any], dict[int, float]]] = (
    ("deploy", {"version": 2, "plan": "incremental:50,100 least_s=3600 manual=true"}, {1: 0.5, 2: 0.5}),
    ("pause", {}, {1: 0.5, 2: 0.5}),
    ("promote", {}, {2: 1.0}),
    ("abort", {}, {1: 1.0}),
)
"""Verbs that come after each other again and again, and how calls are shared then."""


def test_no_acknowledged_change_is_lost_in_a_stream_of_them(place: Place) -> None:
    """While all is killed at any moment: what was answered is there, and at most one more, which nobody has heard of;
    calls are shared as the last one says."""
    done = 0
    for _ in range(3):
        killer = threading.Thread(target=place.server.kill_all)
        until_kill = random.randrange(2, 2 * len(CYCLE))
        with suppress(ConnectionFailed):
            while True:
                verb, body, _ = CYCLE[done % len(CYCLE)]
                place.verb(verb, **body)
                done += 1
                until_kill -= 1
                if until_kill == 0:
                    killer.start()
        killer.join()

        kept = [one.verb for one in reversed(place.audit()) if one.verb != "follow"][1:]
        assert kept == [CYCLE[index % len(CYCLE)][0] for index in range(len(kept))]
        assert done <= len(kept) <= done + 1
        done = len(kept)
        place.start()
        shares = CYCLE[(done - 1) % len(CYCLE)][2]
        await_shares(place, shares)
        assert set(place.answers(40)) == set(shares)


def test_a_server_whose_predecessors_worker_holds_the_port_waits_for_it(place: Place) -> None:
    """The supervisor is killed while its worker can do nothing about it."""
    (worker,) = map(psutil.Process, place.server.workers())
    worker.suspend()
    place.server.kill()
    released = []

    def release(line: str) -> None:
        if "in use" in line:
            released.append(line)
            worker.resume()

    place.start(release)

    assert len(released) == 1
    assert set(place.answers(5)) == {1}
