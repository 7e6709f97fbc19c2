"""What operators can ask for and what the judge decides: from one state of a model to the next."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dukou.core.errors import DukouError, Reason
from dukou.core.seen import Found, Seen
from dukou.lifecycle import policy, verbs
from dukou.lifecycle.desired import back_to, desired, primary, settle, to_try
from dukou.lifecycle.plan import parse
from dukou.lifecycle.rollout import Decision, Rollout, Status, Verdict
from dukou.lifecycle.verbs import Case, Change
from dukou.lifecycle.wanted import Declared, Overrides, Strategy, Trial

PLAN = "shadow,incremental"
NOW_AT = 1000.0


def case(
    *there: int,
    declared: str = "latest:1",
    plan: str = "",
    rollout: Rollout | None = None,
    errors: dict[int, str] | None = None,
    available: tuple[int, ...] | None = None,
    labels: dict[str, int] | None = None,
    **overrides: Any,
) -> Case:
    """A model with these versions, all AVAILABLE unless said otherwise."""
    return Case(
        Declared("iris", "/models/iris", policy=policy.parse(declared), plan=plan, labels=labels or {}),
        Overrides(**overrides),
        rollout,
        Seen({each: Found(str(each), f"mark {each}", (errors or {}).get(each, "")) for each in there}),
        there if available is None else available,
    )


def rolling(candidate: int = 2, status: Status = Status.RUNNING, step: int = 0) -> Rollout:
    return Rollout(7, "iris", 1, candidate, parse(PLAN), PLAN, step=step, status=status)


def deploy(before: Case, version: int | None = None, plan: str = "", **others: Any) -> Change:
    return verbs.deploy(before, version, plan, others.pop("manual", None), rollout_id=8, now_at=NOW_AT, **others)


def rollout_of(change: Change) -> Rollout:
    assert change.rollout is not None
    return change.rollout


def refused(act: Callable[[], Any]) -> DukouError:
    with pytest.raises(DukouError) as caught:
        act()
    return caught.value


# deploy


def test_deploy_lets_a_version_answer_at_once() -> None:
    """It is chosen from then on, and the one before can be gone back to."""
    change = deploy(case(1, 2, 3), 1)

    assert change == Change(Overrides(serving=1, previous=3, newest=3), None)


def test_deploy_without_a_version_follows_the_policy_again() -> None:
    """Where nothing but the highest version is asked for, later ones are followed, too."""
    change = deploy(case(1, 2, 3, serving=1, previous=3))

    assert change.overrides == Overrides(previous=1, newest=3)


def test_deploy_without_a_version_chooses_the_highest_where_the_policy_would_not() -> None:
    """The policy names others."""
    assert deploy(case(1, 2, 3, declared="1,2")).overrides.serving == 3


def test_deploy_starts_a_rollout_where_there_is_a_plan() -> None:
    """The primary is recorded; nothing else changes until the candidate is promoted."""
    change = deploy(case(1, 2, serving=1), 2, PLAN, manual=True)

    assert change.overrides == Overrides(serving=1, newest=2)
    assert change.rollout == Rollout(8, "iris", 1, 2, parse(PLAN, manual=True), PLAN, started_at=NOW_AT)


def test_deploy_takes_the_declared_plan() -> None:
    """Unless another one is given."""
    declared = deploy(case(1, 2, serving=1, plan=PLAN), 2)
    given = deploy(case(1, 2, serving=1, plan=PLAN), 2, "blue_green")

    assert rollout_of(declared).plan == parse(PLAN)
    assert rollout_of(given).plan == parse("blue_green")


def test_deploy_in_full_unloads_first() -> None:
    """There is nothing to judge, so it is no rollout; the strategy is that of this change only."""
    full = deploy(case(1, 2, serving=1), 2, "full")
    then = deploy(case(1, 2, **msgspec.structs.asdict(full.overrides)), 1)

    assert full == Change(Overrides(serving=2, previous=1, newest=2, strategy=Strategy.RESOURCE_PRESERVING), None)
    assert then.overrides.strategy is None


def test_deploy_by_a_declared_full_plan_is_a_choice() -> None:
    """A later version comes by that plan again, not by the policy alone."""
    change = deploy(case(1, 2, serving=1, plan="full"))

    assert change.overrides.serving == 2


def test_deploy_of_what_is_loaded_beside_the_others() -> None:
    """It is no longer beside them."""
    assert deploy(case(1, 2, loaded=(1,)), 1).overrides.loaded == ()


def test_deploy_loads_a_model_that_was_unloaded() -> None:
    """Whatever its version."""
    assert not deploy(case(1, 2, unloaded=True), 2).overrides.unloaded


def test_deploy_of_a_first_version_needs_no_rollout() -> None:
    """There is none to compare it with."""
    change = deploy(case(1, 2, declared="7", plan=PLAN), 2)

    assert change.overrides.serving == 2
    assert change.rollout is None


@pytest.mark.parametrize(
    ("before", "version", "plan", "words"),
    [
        (case(1, 2), 9, "", "there are: 1, 2"),
        (case(1, 2, barred=(2,)), 2, "", "`dukou promote iris --version 2` lets it answer again"),
        (case(1, 2, errors={2: "a file is missing"}), 2, "", "cannot be served: a file is missing"),
        (case(1, 2), 2, PLAN, "answers already"),
        (case(1, 2, serving=1, rollout=rolling()), 1, "", "`dukou abort iris`"),
        (case(1, 2, 3, serving=1, rollout=rolling()), 3, PLAN, "rollout of version 2 in place of version 1"),
        (case(1, 2, serving=1, rollout=rolling()), 2, "blue_green", "is under way"),
        (case(1, 2, serving=1, available=(2,)), 2, PLAN, "version 1, with which version 2 is to be compared"),
        (case(1, 2, serving=1), 2, "incremental:5,50", "last step has to be 100 %"),
        (case(), None, "", "no version that can be served"),
    ],
)
def test_deploy_refuses(before: Case, version: int | None, plan: str, words: str) -> None:
    """And says why, and what to do instead."""
    assert words in str(refused(lambda: deploy(before, version, plan)))


def test_deploy_refuses_a_candidate_that_cannot_take_the_calls() -> None:
    """It says the differences."""
    error = refused(lambda: deploy(case(1, 2, serving=1), 2, PLAN, unlike=["its input 'X' is FP64, not FP32"]))

    assert error.reason is Reason.PRECONDITION_FAILED
    assert "its input 'X' is FP64, not FP32" in str(error)


def test_deploy_again_changes_nothing() -> None:
    """Neither what answers already nor the rollout that is under way."""
    chosen = case(1, 2, serving=1, previous=2, newest=2, strategy=Strategy.RESOURCE_PRESERVING)
    trying = case(1, 2, serving=1, newest=2, rollout=rolling())

    assert deploy(chosen, 1) == Change(chosen.overrides, None)
    assert deploy(trying, 2, PLAN) == Change(trying.overrides, trying.rollout)


# rollback


def test_rollback_goes_back_and_bars_what_it_left() -> None:
    """Where the policy had chosen, it goes on choosing: a new version is followed."""
    change = verbs.rollback(case(1, 2, 3), now_at=NOW_AT)

    assert change == Change(Overrides(barred=(3,), newest=3), None)
    assert primary(policy_of("latest:1"), change.overrides, case(1, 2, 3).seen) == 2
    assert primary(policy_of("latest:1"), change.overrides, case(1, 2, 3, 4).seen) == 4


def policy_of(text: str) -> Declared:
    return Declared("iris", "/models/iris", policy=policy.parse(text))


def test_rollback_after_a_deploy_goes_to_what_was_before() -> None:
    """Also where that is a higher version; it stays chosen."""
    change = verbs.rollback(case(1, 2, 3, serving=1, previous=3), now_at=NOW_AT)

    assert change.overrides == Overrides(serving=3, barred=(1,), newest=3)


def test_rollback_chooses_where_the_policy_would_go_elsewhere() -> None:
    """The policy names two versions and neither is the one before."""
    change = verbs.rollback(case(1, 2, 3, declared="3,1", serving=None), now_at=NOW_AT)

    assert change.overrides.serving == 2


def test_rollback_unloads_what_was_loaded_beside_and_loads_what_was_unloaded() -> None:
    """What is left is not served, what is gone back to is."""
    beside = verbs.rollback(case(1, 2, declared="7", loaded=(1, 2)), now_at=NOW_AT).overrides
    unloaded = verbs.rollback(case(1, 2, unloaded=True), now_at=NOW_AT).overrides

    assert beside == Overrides(loaded=(1,), barred=(2,), newest=2)
    assert not unloaded.unloaded


def test_a_second_rollback_goes_further_back_and_a_third_explains() -> None:
    """As long as there are lower versions."""
    first = verbs.rollback(case(1, 2, 3, serving=3, previous=2), now_at=NOW_AT).overrides
    second = verbs.rollback(case(1, 2, 3, **msgspec.structs.asdict(first)), now_at=NOW_AT).overrides
    third = refused(lambda: verbs.rollback(case(1, 2, 3, **msgspec.structs.asdict(second)), now_at=NOW_AT))

    assert (first.serving, first.barred) == (2, (3,))
    assert (second.serving, second.barred) == (1, (2, 3))
    assert "no version to go back to from version 1" in str(third)
    assert "`dukou promote iris --version 3` lets one answer again" in str(third)


def test_rollback_during_a_rollout_ends_it() -> None:
    """The candidate is barred, whatever it had; the primary answers."""
    before = case(1, 2, serving=1, previous=2, newest=2, loaded=(2,), rollout=rolling())

    change = verbs.rollback(before, now_at=NOW_AT)

    assert change.overrides == Overrides(serving=1, barred=(2,), newest=2)
    assert (rollout_of(change).status, rollout_of(change).ended_at) == (Status.ROLLED_BACK, NOW_AT)
    assert "operator" in rollout_of(change).reason


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (case(1), "there is no other version in the repository"),
        (case(), "nothing to go back from"),
        (case(1, 2, serving=1), "lets another one answer: there are 2"),
        (case(1, 2, 3, serving=1, barred=(3,)), "lets another one answer: there are 2; barred: 3"),
    ],
)
def test_rollback_refuses_where_there_is_nothing_before(before: Case, words: str) -> None:
    """It says what else could be done."""
    assert words in str(refused(lambda: verbs.rollback(before, now_at=NOW_AT)))


# promote


def test_promote_takes_a_rollout_to_its_next_step() -> None:
    """Also one that is held."""
    change = verbs.promote(case(1, 2, serving=1, rollout=rolling(status=Status.HELD)), None, now_at=NOW_AT)

    assert (rollout_of(change).status, rollout_of(change).step) == (Status.RUNNING, 1)
    assert change.overrides == Overrides(serving=1)


def test_promote_after_the_last_step_is_the_end() -> None:
    """The candidate answers, and the primary can be gone back to."""
    last = len(parse(PLAN).steps) - 1
    change = verbs.promote(case(1, 2, serving=1, rollout=rolling(step=last)), None, now_at=NOW_AT)

    assert change.overrides == Overrides(serving=2, previous=1)
    assert rollout_of(change).status is Status.PROMOTED


def test_promote_by_number_lets_the_candidate_through_at_once() -> None:
    """At any step."""
    change = verbs.promote(case(1, 2, serving=1, rollout=rolling()), 2, now_at=NOW_AT)

    assert change.overrides.serving == 2
    assert rollout_of(change).status is Status.PROMOTED


def test_promote_by_number_lifts_the_bar() -> None:
    """A version that was rolled back answers again, by an operator's word only; the one that answered until then, not
    the one promoted, is the one before."""
    change = verbs.promote(case(1, 2, 3, barred=(3, 1)), 3, now_at=NOW_AT)

    assert change.overrides == Overrides(serving=3, previous=2, barred=(1,), newest=3)


@pytest.mark.parametrize(
    ("before", "version", "words"),
    [
        (case(1, 2), None, "`dukou promote iris --version N`"),
        (case(1, 2, rollout=rolling(status=Status.PROMOTED)), None, "no rollout is under way"),
        (case(1, 2, 3, serving=1, rollout=rolling()), 3, "`dukou abort iris` ends it"),
        (case(1, 2), 3, "there are: 1, 2"),
        (case(1, 2, errors={2: "broken"}, barred=(2,)), 2, "cannot be served: broken"),
        (case(1, serving=1, rollout=rolling()), 2, "there are: 1"),
    ],
)
def test_promote_refuses(before: Case, version: int | None, words: str) -> None:
    """And says what to do instead."""
    assert words in str(refused(lambda: verbs.promote(before, version, now_at=NOW_AT)))


# pause, resume, abort


def test_a_rollout_is_paused_and_resumed() -> None:
    """Its step stays; pausing twice changes nothing more; one that is held can be resumed, too."""
    paused = rollout_of(verbs.pause(case(1, 2, serving=1, rollout=rolling(step=2))))
    again = rollout_of(verbs.pause(case(1, 2, serving=1, rollout=paused)))
    resumed = rollout_of(verbs.resume(case(1, 2, serving=1, rollout=paused)))
    held = rollout_of(verbs.resume(case(1, 2, serving=1, rollout=rolling(status=Status.HELD))))

    assert (paused.status, paused.step) == (Status.PAUSED, 2)
    assert again == paused
    assert (resumed.status, resumed.step) == (Status.RUNNING, 2)
    assert held.status is Status.RUNNING


def test_a_pause_says_why() -> None:
    """As far as whoever paused it did."""
    before = case(1, 2, serving=1, rollout=rolling(step=2))

    assert rollout_of(verbs.pause(before)).reason == "an operator paused it"
    assert rollout_of(verbs.pause(before, why="until Monday")).reason == "an operator paused it: until Monday"


def test_abort_ends_a_rollout_and_bars_nothing() -> None:
    """The primary answers, and the candidate is not tried again by itself."""
    before = case(1, 2, serving=1, newest=2, plan=PLAN, rollout=rolling())
    change = verbs.abort(before, now_at=NOW_AT)

    assert change.overrides == before.overrides
    assert (rollout_of(change).status, rollout_of(change).ended_at) == (Status.ABORTED, NOW_AT)
    assert to_try(before.declared, change.overrides, change.rollout, before.seen) is None


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (verbs.pause, "nothing to pause"),
        (verbs.resume, "nothing to resume"),
        (lambda before: verbs.abort(before, now_at=NOW_AT), "nothing to abort"),
    ],
)
@pytest.mark.parametrize("rollout", [None, rolling(status=Status.ROLLED_BACK)])
def test_without_a_rollout_there_is_nothing_to_do(
    act: Callable[[Case], Change], word: str, rollout: Rollout | None
) -> None:
    """One that is over is none; the refusal says how to start one."""
    error = refused(lambda: act(case(1, 2, rollout=rollout)))

    assert word in str(error)
    assert "--plan" in str(error)


def test_what_runs_is_not_resumed() -> None:
    """It says that nothing is paused."""
    assert "is not paused" in str(refused(lambda: verbs.resume(case(1, 2, serving=1, rollout=rolling()))))


# load, unload, label


def test_load_serves_a_version_beside_the_others() -> None:
    """With its files as they are now."""
    change = verbs.load(case(1, 2), 1)

    assert change.overrides == Overrides(loaded=(1,), accepted={1: "mark 1"})


def test_load_of_what_is_served_accepts_its_files() -> None:
    """It is not loaded beside itself; marks of versions that have gone are forgotten."""
    change = verbs.load(case(1, 2, accepted={2: "an older mark", 5: "gone"}), 2)

    assert change.overrides == Overrides(accepted={2: "mark 2"})


def test_load_of_what_has_failed_is_another_try() -> None:
    """Its error is no reason to refuse."""
    assert verbs.load(case(1, 2, errors={1: "no memory"}), 1).overrides.loaded == (1,)
    assert verbs.load(case(1, 2, errors={2: "no memory"}), 2).overrides.loaded == ()


def test_a_model_is_unloaded_and_loaded_again() -> None:
    """All that the policy wants, as it is now."""
    unloaded = verbs.unload(case(1, 2, declared="all"), None).overrides
    loaded = verbs.load(case(1, 2, declared="all", unloaded=True), None).overrides

    assert unloaded == Overrides(unloaded=True)
    assert loaded == Overrides(accepted={2: "mark 2", 1: "mark 1"})


def test_unload_takes_away_what_was_loaded_beside_and_what_is_kept_for_a_rollback() -> None:
    """Asked again, it changes nothing."""
    beside = verbs.unload(case(1, 2, 3, loaded=(1,)), 1).overrides
    kept = verbs.unload(case(1, 2, 3, serving=3, previous=2), 2).overrides

    assert beside == Overrides()
    assert kept == Overrides(serving=3)
    assert verbs.unload(case(1, 2, 3), 1).overrides == Overrides()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: verbs.load(case(1, 2), 9), "there are: 1, 2"),
        (lambda: verbs.load(case(1, 2, barred=(1,)), 1), "is barred"),
        (lambda: verbs.load(case(1, 2, serving=1, rollout=rolling()), 2), "is under way"),
        (lambda: verbs.unload(case(1, 2), 9), "there are: 1, 2"),
        (lambda: verbs.unload(case(1, 2), 2), "`dukou unload iris` unloads the whole model"),
        (lambda: verbs.unload(case(1, 2, declared="all"), 1), "wanted by the policy all"),
        (lambda: verbs.unload(case(1, 2, serving=1, rollout=rolling()), 2), "is under way"),
        (lambda: verbs.unload(case(1, 2, serving=1, rollout=rolling()), None), "is under way"),
    ],
)
def test_load_and_unload_refuse(act: Callable[[], Change], words: str) -> None:
    """And say why."""
    assert words in str(refused(act))


def test_labels_are_set_moved_and_taken_away() -> None:
    """Those that are declared stay beside what a verb sets."""
    before = case(1, 2, declared="all", labels={"stable": 1})

    assert verbs.label(before, "canary", 2).overrides.labels == {"stable": 1, "canary": 2}
    assert verbs.label(before, "stable", 2).overrides.labels == {"stable": 2}
    assert verbs.label(before, "stable", None).overrides.labels == {}


@pytest.mark.parametrize(
    ("label", "version", "words"),
    [
        ("stable", 9, "there are: 1, 2"),
        ("stable", 2, "Request to assign label to version 2 of model iris"),
        ("a label", 1, "is no label"),
        ("", 1, "is no label"),
        ("canary", None, "there is no label 'canary' to take away; there are: stable"),
    ],
)
def test_label_refuses(label: str, version: int | None, words: str) -> None:
    """TensorFlow Serving's rules: only for what is AVAILABLE."""
    before = case(1, 2, labels={"stable": 1}, available=(1,))

    assert words in str(refused(lambda: verbs.label(before, label, version)))


def test_a_label_may_be_ahead_where_that_is_allowed() -> None:
    """A new one; one in use moves to an AVAILABLE version only."""
    before = case(1, 2, labels={"stable": 1}, available=(1,))

    assert verbs.label(before, "canary", 2, ahead=True).overrides.labels == {"stable": 1, "canary": 2}
    refused(lambda: verbs.label(before, "stable", 2, ahead=True))


# The judge.


@pytest.mark.parametrize(
    ("verdict", "overrides", "status"),
    [
        (Verdict.STAY, Overrides(serving=1), Status.RUNNING),
        (Verdict.NEXT, Overrides(serving=1), Status.RUNNING),
        (Verdict.HOLD, Overrides(serving=1), Status.HELD),
        (Verdict.PROMOTE, Overrides(serving=2, previous=1), Status.PROMOTED),
        (Verdict.ROLL_BACK, Overrides(serving=1, barred=(2,)), Status.ROLLED_BACK),
    ],
)
def test_what_the_judge_decides_is_done(verdict: Verdict, overrides: Overrides, status: Status) -> None:
    """Who answers changes only at the end."""
    change = verbs.after(Overrides(serving=1), rolling(), Decision(verdict, "because"), NOW_AT)

    assert change.overrides == overrides
    assert (rollout_of(change).status, rollout_of(change).reason) == (status, "because")


def test_nothing_is_decided_about_a_rollout_that_is_over() -> None:
    """A late verdict bars nobody."""
    over = rolling(status=Status.ABORTED)

    error = refused(lambda: verbs.after(Overrides(serving=1), over, Decision(Verdict.ROLL_BACK, "late"), NOW_AT))

    assert error.reason is Reason.PRECONDITION_FAILED


@pytest.mark.parametrize(
    ("before", "given_up", "why"),
    [
        (case(1, 2, serving=1, rollout=rolling()), {}, ""),
        (case(1, 2, serving=1, rollout=rolling(), available=(1,)), {2: "no memory"}, "version 2 cannot be loaded: no"),
        (case(1, 2, serving=1, rollout=rolling()), {2: "no memory"}, ""),
        (case(1, serving=1, rollout=rolling()), {}, "version 2 is no longer in the repository"),
        (case(2, serving=1, rollout=rolling()), {}, "version 1 is no longer in the repository"),
        (case(1, serving=1, rollout=rolling(status=Status.ABORTED)), {}, ""),
        (case(1), {}, ""),
    ],
)
def test_a_rollout_that_lost_one_of_its_versions_is_stranded(before: Case, given_up: dict[int, str], why: str) -> None:
    """It is said which, and why."""
    assert verbs.stranded(before, given_up).startswith(why)
    assert bool(verbs.stranded(before, given_up)) is bool(why)


def test_an_unreadable_repository_strands_nothing() -> None:
    """What is there cannot be known."""
    before = msgspec.structs.replace(case(1, serving=1, rollout=rolling()), seen=Seen(problem="gone"))

    assert verbs.stranded(before, {}) == ""


class Operating(RuleBasedStateMachine):
    """Anybody asks for anything, in any order, while versions come and go, break, and the judge decides."""

    numbers = st.integers(1, 5)

    def __init__(self) -> None:
        super().__init__()
        self.case = case(1, 2)
        self.rollouts = 0

    def act(self, act: Callable[[Case], Change]) -> None:
        """What is asked for is done, or refused in a whole sentence."""
        refusal = None
        try:
            change = act(self.case)
        except DukouError as error:
            refusal = error
        if refusal is None:
            self.case = msgspec.structs.replace(self.case, overrides=change.overrides, rollout=change.rollout)
        else:
            assert refusal.reason in (Reason.PRECONDITION_FAILED, Reason.VERSION_NOT_FOUND)
            assert not {"?", "None"} & set(str(refusal).split())

    @rule(text=st.sampled_from(["latest:1", "latest:2", "all", "1,3"]), plan=st.sampled_from(["", "full", PLAN]))
    def declare(self, text: str, plan: str) -> None:
        self.case = msgspec.structs.replace(self.case, declared=case(declared=text, plan=plan).declared)

    @rule(there=st.sets(numbers), broken=st.sets(numbers), available=st.sets(numbers))
    def look(self, there: set[int], broken: set[int], available: set[int]) -> None:
        seen = case(*there, errors=dict.fromkeys(broken, "broken")).seen
        self.case = msgspec.structs.replace(self.case, seen=seen, available=tuple(available & there))

    @rule(version=st.none() | numbers, plan=st.sampled_from(["", "full", "blue_green", PLAN]))
    def deploy(self, version: int | None, plan: str) -> None:
        self.rollouts += 1
        self.act(lambda now: verbs.deploy(now, version, plan, None, rollout_id=self.rollouts, now_at=NOW_AT))

    @rule()
    def rollback(self) -> None:
        left = self.case.under_way.candidate if self.case.under_way else self.case.primary
        before = self.case
        self.act(lambda now: verbs.rollback(now, now_at=NOW_AT))
        if self.case is not before:
            assert left in self.case.overrides.barred
            assert self.case.primary != left
            assert self.case.primary is not None or before.under_way

    @rule(version=st.none() | numbers)
    def promote(self, version: int | None) -> None:
        before = self.case
        self.act(lambda now: verbs.promote(now, version, now_at=NOW_AT))
        if self.case is not before and version is not None:
            assert self.case.primary == version

    @rule(act=st.sampled_from([verbs.pause, verbs.resume]))
    def interrupt(self, act: Callable[[Case], Change]) -> None:
        self.act(act)

    @rule()
    def abort(self) -> None:
        before = self.case
        self.act(lambda now: verbs.abort(now, now_at=NOW_AT))
        if self.case is not before:
            assert self.case.overrides == before.overrides

    @rule(act=st.sampled_from([verbs.load, verbs.unload]), version=st.none() | numbers)
    def load(self, act: Callable[[Case, int | None], Change], version: int | None) -> None:
        self.act(lambda now: act(now, version))

    @rule(name=st.sampled_from(["stable", "canary"]), version=st.none() | numbers, ahead=st.booleans())
    def label(self, name: str, version: int | None, ahead: bool) -> None:
        self.act(lambda now: verbs.label(now, name, version, ahead=ahead))

    @rule(verdict=st.sampled_from(Verdict))
    def judge(self, verdict: Verdict) -> None:
        rollout = self.case.under_way
        if rollout is not None:
            self.act(lambda now: verbs.after(now.overrides, rollout, Decision(verdict, "because"), NOW_AT))

    @rule()
    def settle(self) -> None:
        settled = settle(self.case.declared, self.case.overrides, self.case.seen, self.case.available)
        self.case = msgspec.structs.replace(self.case, overrides=settled)

    @rule()
    def try_new(self) -> None:
        """What the reconciler does: a new version gets its rollout, and not a second one."""
        version = to_try(self.case.declared, self.case.overrides, self.case.rollout, self.case.seen)
        if version is not None:
            before = self.case
            self.deploy(version, "")
            if self.case is not before:
                assert to_try(self.case.declared, self.case.overrides, None, self.case.seen) is None

    @invariant()
    def what_was_chosen_is_not_barred(self) -> None:
        overrides = self.case.overrides
        assert overrides.serving not in overrides.barred
        assert overrides.serving is None or overrides.serving != overrides.previous
        assert not set(overrides.loaded) & set(overrides.barred)
        for versions in (overrides.barred, overrides.loaded):
            assert len(set(versions)) == len(versions)

    @invariant()
    def a_rollout_under_way_is_between_what_answers_and_a_candidate_that_may(self) -> None:
        rollout = self.case.under_way
        if rollout is not None:
            assert rollout.primary == self.case.overrides.serving
            assert rollout.candidate != rollout.primary
            assert rollout.candidate not in self.case.overrides.barred

    @invariant()
    def something_is_wanted_where_something_can_be_served(self) -> None:
        rollout = self.case.under_way
        trial = Trial(rollout.primary, rollout.candidate, 0.5) if rollout is not None else None
        wanted = desired(self.case.declared, self.case.overrides, trial, self.case.seen)
        assert bool(wanted.weights) is bool(wanted.versions)
        assert not set(wanted.versions) & set(self.case.overrides.barred)
        assert self.case.primary is None or self.case.overrides.unloaded or self.case.primary in wanted.versions

    @invariant()
    def the_way_back_is_another_version(self) -> None:
        back = back_to(self.case.declared, self.case.overrides, self.case.seen)
        assert back is None or (back != self.case.primary and back not in self.case.overrides.barred)

    @invariant()
    def it_can_be_kept(self) -> None:
        """As JSON, without losing anything."""
        overrides, rollout = self.case.overrides, self.case.rollout
        assert msgspec.json.decode(msgspec.json.encode(overrides), type=Overrides) == overrides
        assert rollout is None or msgspec.json.decode(msgspec.json.encode(rollout), type=Rollout) == rollout


TestOperating = Operating.TestCase
TestOperating.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
