"""What should be served: what is declared, overridden, on trial and seen, and what follows."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.core.route import Weight
from dukou.core.seen import Found, Seen
from dukou.lifecycle import policy
from dukou.lifecycle.desired import as_loaded, back_to, desired, primary, servable, settle, to_try
from dukou.lifecycle.plan import parse
from dukou.lifecycle.rollout import Rollout, Status
from dukou.lifecycle.wanted import Declared, Overrides, Strategy, Trial, Wanted


def see(*versions: int, errors: dict[int, str] | None = None, problem: str = "") -> Seen:
    return Seen({each: Found(str(each), "mark", (errors or {}).get(each, "")) for each in versions}, problem)


def declare(text: str = "latest:1", **others: Any) -> Declared:
    return Declared("iris", "/models/iris", policy=policy.parse(text), **others)


def want(declared: Declared, seen: Seen, trial: Trial | None = None, **overrides: Any) -> Wanted:
    return desired(declared, Overrides(**overrides), trial, seen)


def answering(wanted: Wanted) -> dict[int, float]:
    return {weight.version: weight.share for weight in wanted.weights}


@pytest.mark.parametrize(
    ("text", "versions", "loaded", "answers"),
    [
        ("latest:1", (1, 2, 3), (3,), {3: 1.0}),
        ("latest:2", (1, 2, 3), (3, 2), {3: 1.0}),
        ("all", (1, 2, 3), (3, 2, 1), {3: 1.0}),
        ("1,3", (1, 2, 3), (3, 1), {3: 1.0}),
        ("latest:1", (), (), {}),
    ],
)
def test_without_overrides_the_policy_decides(
    text: str, versions: tuple[int, ...], loaded: tuple[int, ...], answers: dict[int, float]
) -> None:
    """The highest of what it wants answers; nothing seen is nothing wanted."""
    wanted = want(declare(text), see(*versions))

    assert wanted == Wanted(loaded, tuple(Weight(*each) for each in answers.items()))


def test_a_version_with_an_error_is_not_counted() -> None:
    """The policy goes over the others, and the error is told where one would have expected that version."""
    wanted = want(declare(), see(1, 2, 3, errors={3: "a file is missing", 1: "also broken"}))

    assert wanted.versions == (2,)
    assert wanted.absent == {3: "a file is missing"}


def test_a_missing_version_is_told() -> None:
    """One that the policy names, as TensorFlow Serving warns of it."""
    wanted = want(declare("1,7"), see(1, 2))

    assert wanted.versions == (1,)
    assert wanted.absent == {7: "it is not in the repository"}


@pytest.mark.parametrize(
    ("text", "seen", "hold"),
    [
        ("latest:1", see(), False),
        ("latest:1", see(1, errors={1: "broken"}), True),
        ("latest:1", see(problem="no such folder"), True),
        ("latest:1", see(1, 2, errors={1: "broken"}), False),
        ("1", see(1, 2, errors={1: "broken"}), True),
        ("1", see(2, errors={2: "broken"}), False),
    ],
)
def test_faults_hold_what_is_loaded_an_empty_folder_does_not(text: str, seen: Seen, hold: bool) -> None:
    """An emptied folder unloads, as in TensorFlow Serving; a broken or unreadable one does not."""
    assert want(declare(text), seen).hold is hold


def test_a_repository_that_cannot_be_read_changes_nothing() -> None:
    """What was seen before goes on being wanted."""
    assert want(declare(), see(1, 2, problem="gone")).versions == (2,)


@pytest.mark.parametrize(
    ("text", "serving", "loaded"),
    [
        ("latest:1", 1, (1,)),
        ("latest:1", 2, (2,)),
        ("latest:2", 2, (2, 1)),
        ("all", 2, (3, 2, 1)),
        ("3", 2, (3, 2)),
    ],
)
def test_a_version_that_was_chosen_answers(text: str, serving: int, loaded: tuple[int, ...]) -> None:
    """The latest are counted from it downwards; what the policy names besides stays loaded."""
    wanted = want(declare(text), see(1, 2, 3), serving=serving)

    assert answering(wanted) == {serving: 1.0}
    assert wanted.versions == loaded


def test_what_a_chosen_version_keeps_out_is_told() -> None:
    """With what to do about it; where the model has a plan, that it waits for its rollout."""
    chosen = want(declare(), see(1, 2), serving=1)
    planned = want(declare(plan="shadow"), see(1, 2), serving=1)

    broken = want(declare(), see(1, 2, 3, errors={3: "broken"}), serving=1)

    assert "deploy this one" in chosen.absent[2]
    assert "after its rollout" in planned.absent[2]
    assert "deploy this one" in broken.absent[2]
    assert broken.absent[3] == "broken"


@pytest.mark.parametrize(
    ("seen", "answers"),
    [
        (see(1, 2, 3), 2),
        (see(1, 3), 1),
        (see(1, 2, 3, errors={2: "broken"}), 1),
        (see(3), 3),
        (see(), None),
    ],
)
def test_a_chosen_version_that_is_gone_gives_way_to_the_previous_then_to_the_policy(
    seen: Seen, answers: int | None
) -> None:
    """Rather the one known to be good than one that nobody has chosen."""
    assert primary(declare(), Overrides(serving=2, previous=1), seen) == answers


def test_barred_versions_are_not_served() -> None:
    """Neither by the policy nor loaded beside it; the reason is told while they are there."""
    beside = want(declare("all"), see(1, 2, 3), barred=(3, 9), loaded=(3,))
    by_policy = want(declare(), see(1, 2, 3), barred=(3, 9))

    assert beside.versions == (2, 1)
    assert by_policy.versions == (2,)
    for wanted in (beside, by_policy):
        assert wanted.absent == {3: "it was rolled back; `dukou promote iris --version 3` lets it answer again"}


def test_what_was_loaded_is_served_beside_the_policy() -> None:
    """It answers those who name it; where the policy wants nothing, everybody."""
    beside = want(declare(), see(1, 2), loaded=(1,))
    alone = want(declare("7"), see(1, 2), loaded=(1,))

    assert beside.versions == (2, 1)
    assert answering(beside) == {2: 1.0}
    assert answering(alone) == {1: 1.0}


def test_nothing_is_served_while_unloaded() -> None:
    """And that is not a fault that would hold what is loaded."""
    wanted = want(declare("all"), see(1, 2, 3, errors={3: "broken"}), unloaded=True, loaded=(1,))

    assert wanted == Wanted(absent={3: "broken", 2: "unloaded", 1: "unloaded"})


@pytest.mark.parametrize(
    ("declared", "overrides", "kept"),
    [
        (declare(), Overrides(serving=3, previous=1), (3, 1)),
        (declare(), Overrides(serving=3), (3,)),
        (declare(), Overrides(), (3,)),
        (declare(keep_previous=True), Overrides(), (3, 2)),
        (declare(keep_previous=True), Overrides(serving=3, previous=1), (3, 1)),
        (declare(keep_previous=True), Overrides(barred=(2,)), (3, 1)),
        (declare(), Overrides(serving=3, previous=1, barred=(1,)), (3,)),
        (declare(strategy=Strategy.RESOURCE_PRESERVING), Overrides(serving=3, previous=1), (3,)),
        (declare(keep_previous=True), Overrides(strategy=Strategy.RESOURCE_PRESERVING), (3,)),
    ],
)
def test_the_previous_version_is_kept(declared: Declared, overrides: Overrides, kept: tuple[int, ...]) -> None:
    """Where a verb or a rollout has made the change or the declaration says so; never where two do not fit."""
    assert desired(declared, overrides, None, see(1, 2, 3)).versions == kept


@pytest.mark.parametrize(
    ("overrides", "back"),
    [
        (Overrides(), 2),
        (Overrides(serving=2, previous=3), 3),
        (Overrides(serving=2), 1),
        (Overrides(serving=1), None),
        (Overrides(barred=(2,)), 1),
        (Overrides(serving=3, previous=1, barred=(1,)), 2),
        (Overrides(serving=3, previous=9), 2),
        (Overrides(serving=9, previous=2), 1),
    ],
)
def test_a_rollback_goes_to_the_recorded_version_or_to_the_next_lower(overrides: Overrides, back: int | None) -> None:
    """Never to a higher one that nobody has chosen."""
    assert back_to(declare(), overrides, see(1, 2, 3)) == back


@pytest.mark.parametrize(
    ("share", "shadow", "loaded", "weights"),
    [
        (0.0, 0.5, (2,), (Weight(2, 1.0),)),
        (0.25, 0.0, (3, 2), (Weight(3, 0.25), Weight(2, 0.75))),
        (0.25, 1.0, (3, 2), (Weight(3, 0.25), Weight(2, 0.75))),
        (1.0, 0.0, (3, 2), (Weight(3, 1.0), Weight(2, 0.0))),
    ],
)
def test_a_candidate_gets_its_shares(
    share: float, shadow: float, loaded: tuple[int, ...], weights: tuple[Weight, ...]
) -> None:
    """Of calls, with the candidate's weight first, and of copies; it is loaded beside the primary for calls only."""
    wanted = want(declare(), see(1, 2, 3), Trial(2, 3, share, shadow), serving=2)

    assert wanted.versions == loaded
    assert wanted.weights == weights
    assert wanted.shadow == (Weight(3, shadow) if shadow else None)
    assert wanted.absent == {}


def test_a_shadow_is_not_loaded_in_the_workers_by_its_policy() -> None:
    """`all` does not bring what may be slow or crash into the process of the primary."""
    assert want(declare("all"), see(1, 2, 3), Trial(2, 3, shadow=1.0), serving=2, newest=3).versions == (2, 1)


@pytest.mark.parametrize(
    ("seen", "overrides", "loaded"),
    [
        (see(1, 2), {}, (2,)),
        (see(1, 2, 3, errors={3: "broken"}), {}, (2,)),
        (see(1, 2, 3), {"barred": (3,)}, (2,)),
    ],
)
def test_without_its_candidate_a_trial_is_none(seen: Seen, overrides: dict[str, Any], loaded: tuple[int, ...]) -> None:
    """The primary answers everybody until somebody ends the rollout; why is told."""
    wanted = want(declare(), seen, Trial(2, 3, 0.5, 0.5), serving=2, **overrides)

    assert wanted.versions == loaded
    assert answering(wanted) == {2: 1.0}
    assert wanted.shadow is None
    assert 3 in wanted.absent


def test_the_trial_says_who_the_primary_is() -> None:
    """Also where nothing else does."""
    assert answering(want(declare(), see(1, 2, 3), Trial(2, 3, 0.25))) == {3: 0.25, 2: 0.75}


def test_without_its_primary_the_candidate_is_served_as_the_policy_says() -> None:
    """Alone, where it is all there is; not at all, where the policy does not want it."""
    alone = want(declare(), see(3), Trial(2, 3, 0.5, 1.0), serving=2)
    unwanted = want(declare("2"), see(3), Trial(2, 3, 0.5, 1.0), serving=2)

    assert answering(alone) == {3: 1.0}
    assert alone.shadow is None
    assert (unwanted.versions, unwanted.weights, unwanted.shadow) == ((), (), None)


def test_what_is_barred_does_not_hide_what_is_broken() -> None:
    """The highest that may be served is broken, so what is loaded stays."""
    wanted = want(declare(), see(1, 2, errors={1: "broken"}), barred=(2,))

    assert wanted.hold
    assert wanted.absent[1] == "broken"


def test_labels_name_versions_that_are_served() -> None:
    """Those that verbs have set replace the declared ones; one whose version is not served is dropped."""
    declared = declare("all", labels={"stable": 1, "old": 7})

    assert want(declared, see(1, 2)).labels == {"stable": 1}
    assert want(declared, see(1, 2), labels={"canary": 2}).labels == {"canary": 2}
    assert want(declared, see(1, 2), labels={}).labels == {}


def test_stickiness_and_strategy_are_passed_on() -> None:
    """The strategy that a verb asked for goes before the declared one."""
    declared = declare(sticky="header:user")

    assert want(declared, see(1)).sticky == "header:user"
    assert want(declared, see(1)).strategy is Strategy.AVAILABILITY_PRESERVING
    assert want(declared, see(1), strategy=Strategy.RESOURCE_PRESERVING).strategy is Strategy.RESOURCE_PRESERVING


def rolled(candidate: int, status: Status) -> Rollout:
    return Rollout(1, "iris", 1, candidate, parse("shadow,incremental"), status=status)


@pytest.mark.parametrize(
    ("declared", "overrides", "rollout", "seen", "tried"),
    [
        (declare(plan="shadow"), Overrides(serving=1), None, see(1, 2, 3), 3),
        (declare(plan="shadow"), Overrides(serving=3), None, see(1, 2, 3), None),
        (declare(plan="shadow"), Overrides(serving=1, newest=3), None, see(1, 2, 3), None),
        (declare(plan="shadow"), Overrides(serving=1, newest=2), None, see(1, 2, 3), 3),
        (declare(plan="shadow"), Overrides(serving=1, barred=(3,)), None, see(1, 2, 3), 2),
        (declare(plan="shadow"), Overrides(serving=1), None, see(1, 2, errors={2: "broken"}), None),
        (declare(plan="shadow"), Overrides(serving=1), rolled(2, Status.HELD), see(1, 2, 3), None),
        (declare(plan="shadow"), Overrides(serving=1), rolled(2, Status.ABORTED), see(1, 2, 3), 3),
        (declare("1", plan="shadow"), Overrides(serving=1), None, see(1, 2), None),
        (declare(plan="shadow"), Overrides(), None, see(1, 2), None),
        (declare(plan="shadow"), Overrides(serving=1, unloaded=True), None, see(1, 2), None),
        (declare(), Overrides(serving=1), None, see(1, 2), None),
    ],
)
def test_a_new_version_gets_a_rollout(
    declared: Declared, overrides: Overrides, rollout: Rollout | None, seen: Seen, tried: int | None
) -> None:
    """Once, where a plan is declared, if the policy wants it and nothing is under way."""
    assert to_try(declared, overrides, rollout, seen) == tried


def test_a_model_with_a_plan_serves_its_first_version_and_then_changes_by_rollouts_only() -> None:
    """What answers is recorded once it does; a later version waits."""
    declared = declare(plan="shadow")
    unsettled = settle(declared, Overrides(), see(1, 2), ())
    settled = settle(declared, unsettled, see(1, 2), (2,))

    assert unsettled == Overrides()
    assert settled == Overrides(serving=2, newest=2)
    assert settle(declared, settled, see(1, 2, 3), (3, 2)) is settled
    assert desired(declared, settled, None, see(1, 2, 3)).versions == (2,)
    assert to_try(declared, settled, None, see(1, 2, 3)) == 3


def test_a_version_that_waits_for_its_rollout_is_not_loaded_even_where_all_are() -> None:
    """Only once it was tried."""
    declared = declare("all", plan="shadow")

    assert want(declared, see(1, 2, 3), serving=2, newest=2).versions == (2, 1)
    assert want(declared, see(1, 2, 3), serving=2, newest=3).versions == (3, 2, 1)


def test_without_a_plan_nothing_is_settled() -> None:
    """The policy goes on deciding."""
    assert settle(declare(), Overrides(), see(1), (1,)) == Overrides()


def test_loading_corrects_what_is_seen() -> None:
    """A loaded version that was changed in place has no error; one that failed to load has."""
    seen = see(1, 2, 3, errors={1: "its digest is wrong", 3: "its digest is wrong"})

    corrected = as_loaded(seen, (1,), {1: "failed before", 2: "no memory", 3: "failed before", 9: "gone"})

    assert {version: found.error for version, found in corrected.versions.items()} == {
        1: "",
        2: "no memory",
        3: "its digest is wrong",
    }


versions = st.integers(1, 4)
overridden = st.builds(
    Overrides,
    serving=st.none() | versions,
    previous=st.none() | versions,
    barred=st.lists(versions, max_size=3).map(tuple),
    loaded=st.lists(versions, max_size=2).map(tuple),
    unloaded=st.booleans(),
    labels=st.none() | st.dictionaries(st.sampled_from(["stable", "canary"]), versions),
    newest=st.integers(0, 4),
    strategy=st.none() | st.sampled_from(Strategy),
)
declarations = st.builds(
    declare,
    st.sampled_from(["latest:1", "latest:2", "all", "1,3"]),
    plan=st.sampled_from(["", "shadow"]),
    keep_previous=st.booleans(),
    labels=st.dictionaries(st.sampled_from(["stable", "canary"]), versions),
)
trials = st.none() | st.builds(Trial, versions, versions, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0]))
sights = st.builds(
    lambda there, broken: see(*there, errors=dict.fromkeys(broken, "broken")), st.sets(versions), st.sets(versions)
)


@settings(max_examples=200, deadline=None)
@given(declarations, overridden, trials, sights)
def test_whatever_is_asked_what_is_wanted_is_sound(
    declared: Declared, overrides: Overrides, trial: Trial | None, seen: Seen
) -> None:
    """Only servable versions are wanted; something answers wherever something is wanted; nothing is both wanted and
    absent; shares add up; every reason is a sentence."""
    wanted = desired(declared, overrides, trial, seen)

    good = servable(overrides, seen)
    assert set(wanted.versions) <= good
    assert list(wanted.versions) == sorted(wanted.versions, reverse=True)
    assert bool(wanted.weights) is bool(wanted.versions)
    assert {weight.version for weight in wanted.weights} <= set(wanted.versions)
    assert not wanted.weights or sum(weight.share for weight in wanted.weights) == 1.0
    assert set(wanted.labels.values()) <= set(wanted.versions)
    assert not set(wanted.absent) & set(wanted.versions)
    assert all(wanted.absent.values())
    assert wanted.shadow is None or (wanted.shadow.version in good and wanted.shadow.version not in wanted.absent)
    assert not (wanted.hold and wanted.versions)
