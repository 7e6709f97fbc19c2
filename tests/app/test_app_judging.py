"""Rollouts under way, measured and judged, with counters that say what the test wants."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from control_rig import NAME, OPERATOR, Rig

from dukou.app.judging import Judging
from dukou.control.store import Store
from dukou.core.buckets import FINE_SECONDS
from dukou.core.link import LoadReport
from dukou.core.version import ModelVersion, State
from dukou.lifecycle.measured import Counts
from dukou.lifecycle.policy import Specific
from dukou.lifecycle.rollout import Decision, Rollout, Status, Verdict
from dukou.lifecycle.verbs import pause
from dukou.lifecycle.wanted import Declared

BUCKET = 20


class Told:
    """Counters that were told; version N counts in block N."""

    def __init__(self) -> None:
        self._counts: dict[int, Counts] = {}

    def counts(self, block: int) -> Counts:
        return self._counts.get(block, Counts(latency=[0] * (len(FINE_SECONDS) + 1)))

    def add(self, version: int, answered: int, errors: int = 0, crashes: int = 0) -> None:
        before = self.counts(version)
        latency = list(before.latency)
        latency[BUCKET] += answered
        self._counts[version] = Counts(
            before.answered + answered, before.errors + errors, latency, before.crashes + crashes
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "store.db")) as opened:
        yield opened


class Judged(Rig):
    """A control plane with a judge that ticks once a second."""

    def __init__(self, store: Store, plan: str, before: int = 0) -> None:
        super().__init__(store)
        self.counted = Told()
        if before:
            self.counted.add(1, before)
        self.judging = Judging(self.plane, self.counted, lambda version: version.version, clock=lambda: self.now_s)
        self.declare(Declared(NAME, policy=Specific((1,))), 1, 2)
        self.deploy(2, plan)
        self.tick()

    def tick(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.judging.tick()
        self.settle()

    @property
    def rollout(self) -> Rollout:
        rollout = self.plane.model(NAME).rollout
        assert rollout is not None
        return rollout


def test_what_was_counted_before_the_rollout_counts_for_nothing(store: Store) -> None:
    """Only what comes while it lasts."""
    rig = Judged(store, "incremental:50,100 least_s=1")
    rig.counted.add(1, 70)
    rig.counted.add(2, 60, 1)

    rig.tick()
    rig.counted.add(1, 5)
    rig.tick()

    measured = rig.rollout.measured
    assert (measured.primary.answered, measured.candidate.answered, measured.candidate.errors) == (75, 60, 1)


def test_a_good_candidate_goes_all_the_way(store: Store) -> None:
    """From 50 % to 100 % and to its promotion, as soon as there is enough to say so."""
    rig = Judged(store, "incremental:50,100 least_s=1 least_requests=100")
    steps = []

    for _ in range(60):
        rig.counted.add(1, 400 if rig.weights().get(1) else 0)
        rig.counted.add(2, 400)
        rig.tick()
        steps.append(rig.weights().get(2, 0.0))
        if not rig.rollout.status.under_way:
            break

    assert rig.rollout.status is Status.PROMOTED
    assert steps == sorted(steps)
    assert rig.weights() == {2: 1.0}
    assert rig.plane.model(NAME).overrides.previous == 1


def test_a_bad_candidate_goes_back_and_is_barred(store: Store) -> None:
    """A quarter of its calls fail; the reason has the numbers."""
    rig = Judged(store, "incremental:50,100 least_s=1")
    rig.counted.add(1, 400)
    rig.counted.add(2, 300, 100)

    rig.tick()

    assert rig.rollout.status is Status.ROLLED_BACK
    assert "25 %" in rig.rollout.reason
    assert rig.weights() == {1: 1.0}
    assert rig.plane.model(NAME).overrides.barred == (2,)
    assert store.history(NAME, 1)[0].cause.who == "the judge"


def test_a_candidate_that_turns_bad_goes_back_while_a_human_is_waited_for(store: Store) -> None:
    """HELD is judged, too: it keeps its share of the calls all the while."""
    rig = Judged(store, "incremental:50,100 least_s=1")
    rig.plane.decided(NAME, Decision(Verdict.HOLD, "promote is recommended"))
    rig.tick()
    held = rig.rollout.status
    rig.counted.add(1, 400)
    rig.counted.add(2, 300, 100)

    rig.tick()

    assert held is Status.HELD
    assert rig.rollout.status is Status.ROLLED_BACK


@pytest.mark.parametrize(("primarys", "status"), [(0, Status.ROLLED_BACK), (1, Status.RUNNING)])
def test_a_candidate_that_ends_workers_goes_back_at_the_third(store: Store, primarys: int, status: Status) -> None:
    """Each takes everybody's calls with it, so certainty is not waited for; a machine that ends both is no fault."""
    rig = Judged(store, "incremental:50,100 least_s=1")
    rig.counted.add(1, 4, primarys, primarys)
    seen = []

    for _ in range(3):
        rig.counted.add(2, 2, 1, 1)
        rig.tick()
        seen.append(rig.rollout.status)

    assert seen == [Status.RUNNING, Status.RUNNING, status]


def test_a_paused_rollout_is_measured_and_not_judged(store: Store) -> None:
    """Its shares stay, however bad its candidate."""
    rig = Judged(store, "incremental:50,100 least_s=1")
    rig.plane.commit("pause", NAME, OPERATOR, pause(rig.plane.case(NAME)))
    rig.counted.add(2, 300, 100)

    rig.tick()

    assert rig.rollout.status is Status.PAUSED
    assert rig.rollout.measured.candidate.errors == 100
    assert rig.weights() == {2: 0.5, 1: 0.5}


def test_a_steps_time_goes_on_only_while_its_candidate_can_be_reached(store: Store) -> None:
    """A shadow whose process is not there yet is not on trial."""
    rig = Judged(store, "shadow,incremental least_s=100")

    rig.tick(10.0)
    before = rig.rollout.step_s
    rig.plane.shadow_heard(ModelVersion(NAME, 2), LoadReport(ModelVersion(NAME, 2), State.AVAILABLE))
    rig.settle()
    rig.tick(10.0)

    assert before == 0.0
    assert rig.rollout.step_s == 10.0


def test_a_clock_that_goes_backwards_takes_nothing_away(store: Store) -> None:
    """Neither time nor counts."""
    rig = Judged(store, "incremental:50,100 least_s=100")
    rig.counted.add(2, 10)
    rig.tick(10.0)

    rig.tick(-5.0)

    assert rig.rollout.step_s == 10.0
    assert rig.rollout.measured.candidate.answered == 10


def test_what_was_measured_is_kept_now_and_then(store: Store) -> None:
    """So that a restart loses two seconds of it at most."""
    rig = Judged(store, "incremental:50,100 least_s=100")
    rig.counted.add(2, 10)

    rig.tick()
    rig.tick(2.0)

    (kept,) = store.rollouts()
    assert kept.measured.candidate.answered == 10
    assert kept.step_s == rig.rollout.step_s


def test_the_primary_of_blue_green_is_known_by_what_it_did_before(store: Store) -> None:
    """It answers nobody any more."""
    rig = Judged(store, "blue_green least_s=100", before=500)

    rig.tick()

    assert rig.rollout.measured.primary.answered == 500
    assert rig.weights()[2] == 1.0
