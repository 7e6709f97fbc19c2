"""The control plane over a store on disk, with workers that do as they are told."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from control_rig import NAME, OPERATOR, TAKES_Y, Rig

from dukou.control.store import Store
from dukou.core.comparison import Comparison
from dukou.core.errors import DukouError, Reason
from dukou.core.version import ModelVersion, State
from dukou.lifecycle import verbs
from dukou.lifecycle.policy import Specific
from dukou.lifecycle.rollout import Decision, Status, Verdict
from dukou.lifecycle.wanted import Declared


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "store.db")) as opened:
        yield opened


@pytest.fixture
def rig(store: Store) -> Rig:
    return Rig(store)


def test_a_canary_gets_its_share_and_everything_when_it_is_promoted(rig: Rig) -> None:
    """1 % by the plan's first step, then all of it; the old one stays for a rollback."""
    rig.declare(Declared(NAME, policy=Specific((2,))), 2, 3)

    rig.deploy(3, "incremental")
    shared = rig.weights()
    rig.plane.decided(NAME, Decision(Verdict.PROMOTE, "it is as good"))
    rig.settle()

    assert shared == {3: 0.01, 2: 0.99}
    assert rig.weights() == {3: 1.0}
    assert {one.id.version for one in rig.tables[-1].assignments if one.wanted is State.AVAILABLE} == {2, 3}


def test_a_candidate_that_takes_other_calls_never_gets_one(rig: Rig) -> None:
    """It is rolled back as soon as it is loaded, with the difference as the reason."""
    rig.takes = {2: TAKES_Y}
    rig.declare(Declared(NAME, plan="incremental"), 1)

    rig.declare(Declared(NAME, plan="incremental"), 1, 2)

    rollout = rig.plane.model(NAME).rollout
    assert rollout is not None
    assert rollout.status is Status.ROLLED_BACK
    assert "'Y'" in rollout.reason
    assert all(2 not in {one.version for one in table.routes[NAME].weights} for table in rig.tables)


def test_a_new_version_of_a_model_with_a_plan_gets_its_rollout_by_itself(rig: Rig, store: Store) -> None:
    """And the audit says that nobody asked for it."""
    plan = Declared(NAME, plan="shadow,incremental")
    rig.declare(plan, 1)

    rig.declare(plan, 1, 2)

    assert rig.status is Status.RUNNING
    assert [version.version for version in rig.processes] == [2]
    assert rig.weights() == {1: 1.0}
    assert [(one.verb, one.cause.who) for one in store.history("", 10)] == [
        ("deploy", "the policy"),
        ("serve", "the policy"),
    ]


def test_a_version_that_refuses_its_predecessors_calls_is_said_to(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Without a plan it answers all the same, as the policy says; a version that takes them is not worth a word."""
    rig.takes = {3: TAKES_Y}
    rig.declare(Declared(NAME), 1)
    rig.declare(Declared(NAME), 1, 2)
    silent = [each for each in caplog.records if each.levelname == "WARNING"]

    rig.declare(Declared(NAME), 1, 2, 3)

    (warning,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert not silent
    assert rig.weights() == {3: 1.0}
    assert "version 3 cannot take the calls of version 2, which it replaces: " in warning
    assert "'Y'" in warning or "'X'" in warning


def test_what_the_policy_changes_is_audited(rig: Rig, store: Store) -> None:
    """From which shares to which."""
    rig.declare(Declared(NAME), 1)

    rig.declare(Declared(NAME), 1, 2)

    (change,) = store.history(NAME, 10)
    assert (change.verb, change.before, change.after) == (
        "follow",
        {"calls": "version 1: 100%"},
        {"calls": "version 2: 100%"},
    )


def test_a_verb_that_moves_no_calls_does_not_stand_for_what_the_policy_does_later(rig: Rig, store: Store) -> None:
    """The change of the calls is audited though somebody has just set a label."""
    rig.declare(Declared(NAME), 1)
    rig.plane.commit("label", NAME, OPERATOR, verbs.label(rig.plane.case(NAME), "stable", 1))
    rig.settle()

    rig.declare(Declared(NAME), 1, 2)

    assert [(one.verb, one.cause.who) for one in store.history("", 10)] == [
        ("follow", "the policy"),
        ("label", "an operator"),
    ]


def test_a_wall_clock_that_goes_backwards_changes_no_order(rig: Rig, store: Store) -> None:
    """The history is in the order of what happened, and the last rollout is the last."""
    rig.declare(Declared(NAME, policy=Specific((1,))), 1, 2, 3)

    rig.deploy(2, "incremental")
    rig.at -= 3600.0
    rig.plane.decided(NAME, Decision(Verdict.ROLL_BACK, "it is worse"))
    rig.settle()

    history = store.history(NAME, 10)
    assert [one.verb for one in history] == ["roll back", "deploy"]
    assert history[0].at < history[1].at
    assert rig.status is Status.ROLLED_BACK
    assert rig.weights() == {1: 1.0}


def test_a_verb_that_cannot_be_kept_changes_nothing(rig: Rig, tmp_path: Path) -> None:
    """While another process holds the store; afterwards it works."""
    rig.declare(Declared(NAME), 1)
    rig.declare(Declared(NAME, keep_previous=True), 1, 2)
    tables = len(rig.tables)

    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DukouError) as refused:
            rig.plane.commit("rollback", NAME, OPERATOR, verbs.rollback(rig.plane.case(NAME), now_at=1e9))
        held = len(rig.tables)
        other.execute("ROLLBACK")
    rig.plane.commit("rollback", NAME, OPERATOR, verbs.rollback(rig.plane.case(NAME), now_at=1e9))

    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert held == tables
    assert rig.weights() == {1: 1.0}


def test_a_restart_goes_on_with_the_same_step(rig: Rig, store: Store) -> None:
    """With the shares of the last table, before anything is observed anew."""
    rig.declare(Declared(NAME, plan="incremental:5,50,100"), 1)
    rig.declare(Declared(NAME, plan="incremental:5,50,100"), 1, 2)
    rig.plane.decided(NAME, Decision(Verdict.NEXT, "go on"))
    rig.settle()

    again = Rig(store)
    again.plane.reconciler.resume(store.published())
    again.declare(Declared(NAME, plan="incremental:5,50,100"), 1, 2)

    assert again.tables[0].routes == rig.tables[-1].routes
    assert again.weights() == {2: 0.5, 1: 0.5}
    assert again.status is Status.RUNNING


def test_comparisons_are_added_to_the_rollout_they_belong_to(rig: Rig) -> None:
    """Those of other versions are left out."""
    plan = Declared(NAME, plan="shadow,incremental")
    rig.declare(plan, 1)
    rig.declare(plan, 1, 2)

    for version in (2, 2, 3):
        rig.plane.compared(ModelVersion(NAME, version), Comparison(rows=10, disagreed=1))

    rollout = rig.plane.model(NAME).rollout
    assert rollout is not None
    assert (rollout.measured.comparison.rows, rollout.measured.comparison.disagreed) == (20, 2)


def test_waiting_ends_when_what_is_waited_for_has_come(rig: Rig) -> None:
    """And in time when it does not come."""

    async def test() -> tuple[bool, bool]:
        asyncio.get_running_loop().call_soon(rig.declare, Declared(NAME), 1)
        return await rig.plane.until(lambda: bool(rig.tables), 10.0), await rig.plane.until(lambda: False, 0.01)

    assert asyncio.run(test()) == (True, False)
