"""Rollouts under way are measured and judged, over a store on disk and counters that a test sets."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from test_app_control_plane import NAME, OPERATOR, Rig

from dukou.app.judging import Judging
from dukou.app.measuring import Counted
from dukou.control.store import Store
from dukou.core.errors import Code
from dukou.core.event import BatchRan, RequestRefused
from dukou.core.version import ModelVersion
from dukou.lifecycle import verbs
from dukou.lifecycle.rollout import Decision, Status, Verdict
from dukou.lifecycle.wanted import Declared
from dukou.telemetry.counters import Counters

PLAN = Declared(NAME, plan="incremental:50,100")


class Judged:
    """A rollout of version 2 in place of version 1, half of the calls each."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.rig = Rig(store)
        self.judging = Judging(
            self.rig.plane, Counted(folder), lambda version: version.version, clock=lambda: self.rig.now_s
        )
        self.counters = Counters(folder, 0)
        self.counters.assign({ModelVersion(NAME, number): number for number in (1, 2)})
        self.rig.declare(PLAN, 1)
        self.rig.declare(PLAN, 1, 2)
        self.judging.tick()

    def answer(self, version: int, requests: int) -> None:
        for _ in range(requests):
            self.counters(BatchRan(ModelVersion(NAME, version), [0.0], 0.0, 0.001, 1, True, 0.0, 0.001, (1,)))

    def fail(self, version: int, requests: int) -> None:
        for _ in range(requests):
            self.counters(RequestRefused(ModelVersion(NAME, version), Code.INTERNAL, 0.0, 0.001))

    def look(self) -> Status:
        self.rig.now_s += 1.0
        self.judging.tick()
        self.rig.settle()
        return self.rig.status


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[Judged]:
    with closing(Store.open(tmp_path / "store.db")) as store:
        found = Judged(store, tmp_path)
        yield found
        found.counters.close()


def test_a_candidate_that_turns_bad_goes_back_while_a_human_is_waited_for(judged: Judged) -> None:
    """HELD is still judged: it keeps its share of the calls all the while."""
    judged.rig.plane.decided(NAME, Decision(Verdict.HOLD, "promote is recommended"))
    held = judged.look()
    judged.answer(1, 100)
    judged.fail(2, 100)

    status = judged.look()

    assert held is Status.HELD
    assert status is Status.ROLLED_BACK


def test_a_rollout_that_is_paused_is_measured_and_not_judged(judged: Judged) -> None:
    """Until it is resumed."""
    judged.rig.plane.commit("pause", NAME, OPERATOR, verbs.pause(judged.rig.plane.case(NAME)))
    judged.answer(1, 100)
    judged.fail(2, 100)

    paused = judged.look()
    judged.rig.plane.commit("resume", NAME, OPERATOR, verbs.resume(judged.rig.plane.case(NAME)))
    resumed = judged.look()

    assert paused is Status.PAUSED
    assert resumed is Status.ROLLED_BACK
