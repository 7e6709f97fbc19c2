"""From what is observed to tables, one step after the other, with workers that answer as told."""

from collections.abc import Mapping

import msgspec

from dukou.core.link import Applied, Apply, LoadReport
from dukou.core.route import Shadow, Weight
from dukou.core.seen import Found, Seen
from dukou.core.version import ModelVersion, State
from dukou.lifecycle.plan import parse
from dukou.lifecycle.policy import All
from dukou.lifecycle.reconciler import Reconciler
from dukou.lifecycle.retry import Failures
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.wanted import Declared, Overrides, Strategy

NAME = "iris"


class Workers:
    """A reconciler, and workers that load what they are told to, except the versions in `broken`."""

    def __init__(self, declared: Declared, versions: Mapping[int, str], published: Apply | None = None) -> None:
        self.now_s = 0.0
        self.broken: set[int] = set()
        self.tables: list[Apply] = []
        self.reconciler = Reconciler(lambda version: version.version, self.address, Failures(2, 60.0))
        self.reconciler.declare({declared.name: declared})
        self.reconciler.resume(published)
        self.see(versions)

    def address(self, version: ModelVersion) -> str:
        return f"{version.name}-{version.version}.sock"

    def see(self, versions: Mapping[int, str]) -> None:
        """The repository holds these versions, each with its mark."""
        seen = Seen({number: Found(f"/models/{number}", mark) for number, mark in versions.items()})
        self.reconciler.see(NAME, seen)

    def publish(self) -> Apply | None:
        """The next table, sent."""
        decided = self.reconciler.decide(self.now_s)
        if decided.apply is None:
            return None
        table = msgspec.structs.replace(decided.apply, generation=len(self.tables) + 1)
        self.reconciler.sent(table)
        self.tables.append(table)
        return table

    def answer(self, loaded: bool = True) -> None:
        """All workers have the last table in force, and have `loaded` it, or not yet."""
        self.reconciler.heard(Applied(self.tables[-1].generation, tuple(self.reports(loaded))), self.now_s)

    def reports(self, loaded: bool) -> list[LoadReport]:
        found = []
        for one in self.tables[-1].assignments:
            version, attempt = one.id, one.attempt
            if one.wanted is not State.AVAILABLE:
                found.append(LoadReport(version, one.wanted, one.why))
            elif version.version in self.broken:
                found.append(LoadReport(version, State.END, "it is broken", attempt=attempt))
            elif loaded or version.version in self.reconciler.available(NAME):
                found.append(LoadReport(version, State.AVAILABLE, attempt=attempt))
            else:
                found.append(LoadReport(version, State.LOADING, attempt=attempt))
        return found

    def settle(self) -> Apply:
        """Go on until nothing changes any more; the last table."""
        for _ in range(20):
            if self.publish() is None:
                return self.tables[-1]
            self.answer()
            self.reconciler.freed(self.tables[-1].generation)
        raise AssertionError("it never settles")

    def loaded(self) -> list[int]:
        return [one.id.version for one in self.tables[-1].assignments if one.wanted is State.AVAILABLE]

    def weights(self) -> dict[int, float]:
        route = self.tables[-1].routes.get(NAME)
        return {one.version: one.share for one in route.weights} if route is not None else {}


def test_a_new_version_is_loaded_then_answers_then_the_old_one_goes() -> None:
    """Three tables, none of which lacks a version that answers."""
    workers = Workers(Declared(NAME), {1: "a"})
    workers.settle()
    workers.see({1: "a", 2: "b"})

    steps = []
    while workers.publish() is not None:
        steps.append((workers.loaded(), workers.weights()))
        workers.answer()

    assert steps == [([2, 1], {1: 1.0}), ([2, 1], {2: 1.0}), ([2], {2: 1.0})]


def test_nothing_moves_before_every_worker_has_loaded() -> None:
    """While one is LOADING, the old version answers."""
    workers = Workers(Declared(NAME), {1: "a"})
    workers.settle()
    workers.see({1: "a", 2: "b"})
    workers.publish()

    workers.answer(loaded=False)

    assert workers.publish() is None
    assert workers.weights() == {1: 1.0}


def test_a_version_that_fails_leaves_the_old_one_and_is_tried_again_later() -> None:
    """After a second, then after two; told why meanwhile."""
    workers = Workers(Declared(NAME), {1: "a"})
    workers.settle()
    workers.broken = {2}
    workers.see({1: "a", 2: "b"})
    workers.settle()
    told = {one.id.version: one.why for one in workers.tables[-1].assignments}
    tried = []
    for now_s in (0.5, 1.5, 2.5, 4.0, 60.0, 600.0):
        workers.now_s = now_s
        if workers.publish() is not None:
            tried.append(now_s)
            workers.answer()
            workers.settle()

    assert told == {1: "", 2: "it is broken"}
    assert workers.weights() == {1: 1.0}
    assert tried == [1.5, 4.0]
    assert workers.reconciler.given_up(ModelVersion(NAME, 2)) == "it is broken"


def test_the_only_version_of_a_model_is_tried_again_too() -> None:
    """Nothing answers in its place, so it does not leave the table; each try is a new attempt, and they end."""
    workers = Workers(Declared(NAME), {1: "a"})
    workers.broken = {1}
    tries = []
    for second in range(20):
        workers.now_s = float(second)
        workers.settle()
        tries.append(next(one.attempt for one in workers.tables[-1].assignments))

    assert tries == [0] + [1] * 2 + [2] * 17

    workers.broken = set()
    workers.reconciler.retry(NAME, None)
    workers.settle()
    assert workers.reconciler.available(NAME) == (1,)


def test_a_version_that_has_failed_is_tried_at_once_when_its_files_change() -> None:
    """Also after it has been given up."""
    workers = Workers(Declared(NAME), {1: "a"})
    workers.settle()
    workers.broken = {2}
    workers.see({1: "a", 2: "b"})
    for workers.now_s in (0.0, 10.0, 20.0, 30.0):
        workers.settle()
    workers.broken = set()

    workers.see({1: "a", 2: "mended"})
    workers.settle()

    assert workers.weights() == {2: 1.0}


def test_a_change_in_place_is_told_and_ignored_until_it_is_accepted() -> None:
    """Then the version is loaded anew, under a higher attempt."""
    workers = Workers(Declared(NAME), {1: "a"})
    workers.settle()
    version = ModelVersion(NAME, 1)

    workers.see({1: "b"})
    ignored = workers.publish()
    changed = workers.reconciler.changed(version)
    workers.reconciler.models[NAME].overrides = Overrides(accepted={1: "b"})
    table = workers.publish()

    assert ignored is None
    assert changed
    assert table is not None
    assert [one.attempt for one in table.assignments] == [1]
    assert not workers.reconciler.changed(version)


def test_a_full_update_unloads_and_waits_before_it_loads() -> None:
    """Callers find a version that is announced meanwhile."""
    declared = Declared(NAME, strategy=Strategy.RESOURCE_PRESERVING)
    workers = Workers(declared, {1: "a"})
    workers.settle()
    workers.see({1: "a", 2: "b"})

    first = workers.publish()
    workers.answer()
    waiting = workers.publish()
    workers.reconciler.freed(len(workers.tables))
    second = workers.publish()

    assert first is not None
    assert [(one.id.version, one.wanted) for one in first.assignments] == [(2, State.START)]
    assert waiting is None
    assert second is not None
    assert [(one.id.version, one.wanted) for one in second.assignments] == [(2, State.AVAILABLE)]


def test_a_shadow_runs_in_a_process_and_gets_copies_once_it_is_available() -> None:
    """The workers never load it, and the primary answers everybody."""
    workers = Workers(Declared(NAME), {1: "a", 2: "b"})
    model = workers.reconciler.models[NAME]
    model.overrides = Overrides(serving=1, newest=2)
    model.rollout = Rollout(1, NAME, 1, 2, parse("shadow,incremental"))
    workers.settle()
    processes = workers.reconciler.decide(0.0).processes
    before = workers.tables[-1].routes[NAME].shadows

    workers.reconciler.shadow_heard(LoadReport(ModelVersion(NAME, 2), State.AVAILABLE))
    workers.settle()

    assert [(one.id.version, one.process) for one in processes.values()] == [(2, "iris-2.sock")]
    assert before == ()
    assert workers.tables[-1].routes[NAME].shadows == (Shadow(2, "iris-2.sock", 1.0),)
    assert workers.loaded() == [1]
    assert workers.weights() == {1: 1.0}


def test_after_a_restart_the_last_table_is_in_force_first() -> None:
    """What answered before answers again, though the policy wants another version by now."""
    before = Workers(Declared(NAME), {1: "a"})
    table = before.settle()

    after = Workers(Declared(NAME), {1: "a", 2: "b"}, table)
    first = after.publish()
    after.answer()
    last = after.settle()

    assert first is not None
    assert first.routes[NAME].weights == (Weight(1, 1.0),)
    assert last.routes[NAME].weights == (Weight(2, 1.0),)


def test_after_a_restart_nobody_waits_for_what_was_only_being_loaded() -> None:
    """The first table has what answered, the next what is to answer; kept versions and labels' are in the first."""
    declared = Declared(NAME, policy=All(), labels={"canary": 3})
    before = Workers(declared, {1: "a", 2: "b"})
    before.settle()
    before.see({1: "a", 2: "b", 3: "c", 4: "d"})
    table = before.publish()
    assert table is not None
    assert before.loaded() == [4, 3, 2, 1]

    after = Workers(declared, {1: "a", 2: "b", 3: "c", 4: "d"}, table)
    first = after.publish()
    assert first is not None
    loaded_first = after.loaded()
    after.reconciler.freed(1)
    too_early = after.publish()
    after.answer()
    last = after.settle()

    assert loaded_first == [3, 2, 1]
    assert too_early is None
    assert [one.id.version for one in first.assignments if one.wanted is State.START] == [4]
    assert first.routes[NAME].weights == (Weight(2, 1.0),)
    assert last.routes[NAME].weights == (Weight(4, 1.0),)
    assert after.loaded() == [4, 3, 2, 1]


def test_what_was_rolled_back_does_not_answer_again_after_a_restart() -> None:
    """Killed between the change and its table: what is wanted now is loaded at once."""
    before = Workers(Declared(NAME), {1: "a", 2: "b"})
    table = before.settle()
    assert before.weights() == {2: 1.0}

    after = Workers(Declared(NAME), {1: "a", 2: "b"}, table)
    after.reconciler.models[NAME].overrides = Overrides(serving=1, barred=(2,))
    after.publish()

    assert after.loaded() == [1]


def test_a_restart_without_the_versions_of_the_last_table_goes_by_the_policy() -> None:
    """They have gone from the repository."""
    before = Workers(Declared(NAME), {1: "a"})
    table = before.settle()

    after = Workers(Declared(NAME), {2: "b"}, table)
    first = after.publish()

    assert first is not None
    assert first.routes[NAME].weights == (Weight(2, 1.0),)


def test_a_repository_that_cannot_be_read_changes_nothing() -> None:
    """What was seen before still counts."""
    workers = Workers(Declared(NAME), {1: "a"})
    workers.settle()

    workers.reconciler.see(NAME, Seen(problem="the folder is gone"))

    assert workers.publish() is None
    assert workers.reconciler.models[NAME].problem == "the folder is gone"


def test_a_model_that_is_declared_no_more_is_unloaded_and_forgotten() -> None:
    """Once its last version has been given back."""
    workers = Workers(Declared(NAME, policy=All()), {1: "a", 2: "b"})
    workers.settle()
    workers.reconciler.declare({})

    workers.publish()
    still = NAME in workers.reconciler.models
    workers.answer()
    workers.reconciler.freed(len(workers.tables))
    workers.publish()

    assert workers.loaded() == []
    assert still
    assert NAME not in workers.reconciler.models


def test_labels_are_there_with_the_first_table() -> None:
    """No worker answers before it has loaded, so nobody finds a label that leads nowhere."""
    workers = Workers(Declared(NAME, policy=All(), labels={"stable": 1}), {1: "a", 2: "b"})

    table = workers.publish()

    assert table is not None
    assert table.labels == {NAME: {"stable": 1}}
