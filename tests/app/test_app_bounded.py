"""What the supervisor holds does not grow with the number of changes."""

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from control_rig import NAME, OPERATOR, Rig

from dukou.app.judging import Judging
from dukou.app.notices import Notices
from dukou.control.store import Store
from dukou.core.buckets import FINE_SECONDS
from dukou.core.link import Applied, LoadReport
from dukou.core.version import ModelVersion, State
from dukou.lifecycle import verbs
from dukou.lifecycle.measured import Counts
from dukou.lifecycle.policy import Specific
from dukou.lifecycle.rollout import Status
from dukou.lifecycle.wanted import Declared


class Erring:
    """Counters by which the version whose number is `bad` answers nothing but errors."""

    def __init__(self) -> None:
        self.bad = 0
        self._looks = 0

    def counts(self, block: int) -> Counts:
        self._looks += 100
        right = 0 if block == self.bad else self._looks
        latency = [0] * (len(FINE_SECONDS) + 1)
        latency[20] = right
        return Counts(right, self._looks - right, latency)


class Judged(Rig):
    """A control plane with a judge; version N counts in block N."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.counted = Erring()
        self.judging = Judging(self.plane, self.counted, lambda version: version.version, clock=lambda: self.now_s)

    def tick(self) -> None:
        self.now_s += 1.0
        self.judging.tick()
        self.settle()

    def change(self, number: int) -> None:
        """The version `number` comes, the one before the last goes; it is tried, reloaded, fails, and is rolled out."""
        version = ModelVersion(NAME, number)
        self.declare(Declared(NAME, policy=Specific((1,))), *range(max(1, number - 2), number + 1))
        change = verbs.deploy(self.plane.case(NAME), number, "incremental", True, rollout_id=number, now_at=1e9)
        self.plane.commit("deploy", NAME, OPERATOR, change)
        self.settle()
        self.tick()
        failed = LoadReport(version, State.END, f"version {number} has failed", warnings=(f"of {number}",))
        self.plane.heard(Applied(len(self.tables), (failed,)))
        self.settle()
        self.plane.commit("promote", NAME, OPERATOR, verbs.promote(self.plane.case(NAME), number, now_at=1e9))
        self.settle()
        self.tick()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "store.db")) as opened:
        yield opened


def held(owner: object) -> Mapping[str, int]:
    """How many things are in each collection that an object has."""
    found: dict[str, Any] = vars(owner)
    return {name: len(value) for name, value in found.items() if isinstance(value, (dict, set, list))}


def test_what_is_held_does_not_grow_with_changes(store: Store) -> None:
    """After 60 versions no more than after 30."""
    rig = Judged(store)
    rig.plane.notices = Notices(logging.getLogger(__name__), most=20)
    rig.declare(Declared(NAME, policy=Specific((1,))), 1)
    owners = {
        "plane": rig.plane,
        "notices": rig.plane.notices,
        "reconciler": rig.plane.reconciler,
        "judging": rig.judging,
    }

    for number in range(2, 32):
        rig.change(number)
    before = {name: held(owner) for name, owner in owners.items()}
    for number in range(32, 62):
        rig.change(number)
    after = {name: held(owner) for name, owner in owners.items()}

    assert after == before
    assert after["notices"] == {"_said": 20}
    assert sum(after["reconciler"].values()) < 30


def test_a_verdict_waits_for_a_store_that_is_locked(store: Store, tmp_path: Path) -> None:
    """It is neither lost nor half-made."""
    rig = Judged(store)
    rig.declare(Declared(NAME, policy=Specific((1,))), 1, 2)
    rig.deploy(2, "incremental least_s=0")
    rig.counted.bad = 2
    rig.tick()

    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        rig.tick()
        meanwhile = rig.status
        other.execute("ROLLBACK")
    rig.tick()

    assert meanwhile is Status.RUNNING
    assert rig.status is Status.ROLLED_BACK
    assert rig.weights() == {1: 1.0}
