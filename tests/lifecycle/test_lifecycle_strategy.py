"""What loads next, tried in every situation that three versions can be in."""

from collections.abc import Iterator
from functools import cache
from itertools import combinations, product

import pytest

from dukou.core.route import Weight
from dukou.core.version import State
from dukou.lifecycle.strategy import next_action
from dukou.lifecycle.wanted import Next, Now, Strategy, Wanted

VERSIONS = (1, 2, 3)
PRESERVING, FREEING = Strategy.AVAILABILITY_PRESERVING, Strategy.RESOURCE_PRESERVING
START, LOADING, AVAILABLE, UNLOADING, END = State
LOADED = (LOADING, AVAILABLE)

Situation = tuple[tuple[State | None, ...], tuple[Weight, ...], tuple[tuple[str, int], ...]]
"""The states of the three versions, and the weights and labels that are published. Hashable, unlike a Now."""


def all_to(version: int) -> tuple[Weight, ...]:
    return (Weight(version, 1.0),)


def shared(candidate: int, primary: int) -> tuple[Weight, ...]:
    return (Weight(candidate, 0.25), Weight(primary, 0.75))


def now_of(situation: Situation) -> Now:
    states, weights, labels = situation
    known = {version: state for version, state in zip(VERSIONS, states, strict=True) if state is not None}
    return Now(known, weights, dict(labels))


def all_wanted(strategy: Strategy) -> Iterator[Wanted]:
    """Every set of versions, each of them as the primary, alone or beside each candidate."""
    for size in range(len(VERSIONS) + 1):
        for versions in combinations(reversed(VERSIONS), size):
            if not versions:
                yield Wanted(strategy=strategy)
                yield Wanted(strategy=strategy, hold=True)
            for primary in versions:
                labels = {"stable": primary}
                yield Wanted(versions, all_to(primary), labels, strategy=strategy)
                for candidate in set(versions) - {primary}:
                    yield Wanted(versions, shared(candidate, primary), labels, strategy=strategy)


@cache
def all_situations() -> tuple[Situation, ...]:
    """Every state of every version, with what can be published then: nothing, or versions of the table in force."""
    found: list[Situation] = []
    for states in product((None, *State), repeat=len(VERSIONS)):
        held = [version for version, state in zip(VERSIONS, states, strict=True) if state in (*LOADED, START, END)]
        found.append((states, (), ()))
        for primary in held:
            found.append((states, all_to(primary), (("stable", primary),)))
            found += [(states, shared(other, primary), ()) for other in held if other != primary]
    return tuple(found)


def acted(situation: Situation, coming: Next) -> Situation:
    """What the workers make of a table, before anything is loaded or given back."""
    states: list[State | None] = []
    for version, state in zip(VERSIONS, situation[0], strict=True):
        if version in coming.load:
            states.append(state if state in (*LOADED, END) else LOADING)
        elif state in (*LOADED, UNLOADING):
            states.append(UNLOADING)
        else:
            states.append(START if version in coming.announce else None)
    return tuple(states), coming.weights, tuple(sorted(coming.labels.items()))


def outcomes(situation: Situation, wanted: Wanted, *, failing: bool) -> Iterator[Situation]:
    """Everything that can happen next to one version: it is loaded, fails, is given back. Where nothing fails, what has
    failed before is tried again."""
    states, weights, labels = situation
    for place, state in enumerate(states):
        comes: tuple[State | None, ...] = ()
        if state is LOADING:
            comes = (AVAILABLE, END) if failing else (AVAILABLE,)
        elif state is UNLOADING:
            comes = (None,)
        elif state is END and not failing and VERSIONS[place] in wanted.versions:
            comes = (LOADING,)
        for after in comes:
            yield (*states[:place], after, *states[place + 1 :]), weights, labels


def reached(wanted: Wanted, *, failing: bool) -> set[Situation]:
    """The situations that nothing leads out of, from every situation and in every order of events.

    Fails where events can go round in circles.
    """
    final: set[Situation] = set()
    done: set[Situation] = set()
    trail: set[Situation] = set()

    def visit(situation: Situation) -> None:
        if situation in done:
            return
        assert situation not in trail, f"{wanted} goes round in circles at {situation}"
        trail.add(situation)
        moved = acted(situation, next_action(now_of(situation), wanted))
        following = [moved] if moved != situation else list(outcomes(situation, wanted, failing=failing))
        if not following:
            final.add(situation)
        for after in following:
            visit(after)
        trail.remove(situation)
        done.add(situation)

    for situation in all_situations():
        visit(situation)
    return final


def available(now: Now) -> set[int]:
    return {version for version, state in now.states.items() if state is AVAILABLE}


@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_goal_is_reached_from_everywhere(strategy: Strategy) -> None:
    """Where loads succeed, in any order, exactly what is wanted is loaded and published in the end; and only then
    nothing is to be done any more."""
    for wanted in all_wanted(strategy):
        if wanted.hold:
            continue
        goal = (
            tuple(AVAILABLE if version in wanted.versions else None for version in VERSIONS),
            wanted.weights,
            tuple(wanted.labels.items()),
        )

        final = reached(wanted, failing=False)

        assert final == {goal}


@pytest.mark.parametrize("strategy", list(Strategy))
def test_it_comes_to_rest_when_loads_fail(strategy: Strategy) -> None:
    """Whatever fails, nothing goes round in circles; and where something wanted is loaded, it answers."""
    for wanted in all_wanted(strategy):
        for situation in reached(wanted, failing=True):
            now = now_of(situation)
            answering = {weight.version for weight in now.weights}
            assert answering <= available(now) or not available(now)
            assert not wanted.versions or answering


def test_the_last_available_version_is_never_dropped() -> None:
    """Under availability-preserving, a version answers in the next table if one is AVAILABLE now, unless nothing is
    wanted."""
    for wanted in all_wanted(PRESERVING):
        for situation in all_situations() if wanted.versions or wanted.hold else ():
            now = now_of(situation)

            coming = next_action(now, wanted)

            assert available(now) & set(coming.load) or not available(now)
            for weight in now.weights:  # what answers goes on until something else does
                stays = weight.version in coming.load or now.states[weight.version] is START
                assert stays or {each.version for each in coming.weights} & available(now)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_no_table_comes_to_name_a_version_that_is_not_available(strategy: Strategy) -> None:
    """Weights and labels move to AVAILABLE versions only, unless there is none; they stay where they are while a
    version is loaded again by a worker; and what they name is in the table."""
    for wanted in all_wanted(strategy):
        for situation in all_situations():
            now = now_of(situation)
            published = {weight.version for weight in now.weights}

            coming = next_action(now, wanted)

            answering = {weight.version for weight in coming.weights}
            kept = {version for version in published if now.states[version] is LOADING}
            assert answering <= available(now) | kept or not available(now) & set(coming.load)
            assert answering <= {*coming.load, *coming.announce}
            for label, version in coming.labels.items():
                assert version in coming.load
                assert version in available(now) or now.labels.get(label) == version
            if coming.weights:
                assert sum(weight.share for weight in coming.weights) == 1.0


def test_resource_preserving_loads_nothing_beside_what_is_to_go() -> None:
    """What is not loaded yet is announced while memory is still taken by what is not wanted, and nothing is kept."""
    for wanted in all_wanted(FREEING):
        for situation in all_situations() if wanted.versions else ():
            now = now_of(situation)
            loaded = {version for version, state in now.states.items() if state in LOADED}
            crowded = loaded - set(wanted.versions) or UNLOADING in now.states.values()

            coming = next_action(now, wanted)

            assert set(coming.load) <= set(wanted.versions)
            assert set(coming.load) <= loaded or not crowded
            assert {*coming.load, *coming.announce} == set(wanted.versions)


def test_nothing_wanted_drops_everything() -> None:
    """An emptied folder is an order to unload."""
    now = Now({1: AVAILABLE}, all_to(1), {"stable": 1})

    assert next_action(now, Wanted()) == Next()


def test_faults_drop_nothing() -> None:
    """Where nothing can be served because of faults, what is loaded stays, with its labels."""
    now = Now({1: AVAILABLE}, all_to(1), {"stable": 1})

    assert next_action(now, Wanted(hold=True)) == Next((1,), (), all_to(1), {"stable": 1})


def test_what_failed_in_one_worker_goes_on_in_the_others() -> None:
    """A version that answers and is said to have failed stays until what is wanted instead is AVAILABLE."""
    wanted = Wanted((1,), all_to(1))

    waiting = next_action(Now({2: END, 1: LOADING}, all_to(2)), wanted)
    moved = next_action(Now({2: END, 1: AVAILABLE}, all_to(2)), wanted)

    assert waiting == Next((2, 1), (), all_to(2))
    assert moved.weights == all_to(1)


def test_a_version_loaded_beside_does_not_answer_while_a_new_one_is_loaded() -> None:
    """Calls stay with the old version until the new one is AVAILABLE, though another one would be."""
    now = Now({1: AVAILABLE, 2: AVAILABLE, 3: LOADING}, all_to(1))

    coming = next_action(now, Wanted((3, 2), all_to(3)))

    assert coming.weights == all_to(1)
    assert coming.load == (3, 2, 1)


def test_a_restarted_worker_moves_no_calls() -> None:
    """While one worker loads the primary again, its candidate does not take over everybody's calls."""
    now = Now({1: LOADING, 2: AVAILABLE}, shared(2, 1))

    assert next_action(now, Wanted((2, 1), shared(2, 1))).weights == shared(2, 1)


def test_without_its_primary_a_candidate_answers_only_where_nothing_else_can() -> None:
    """Another version that is loaded goes before it."""
    wanted = Wanted((3, 2, 1), shared(3, 2))

    beside = next_action(Now({1: AVAILABLE, 2: END, 3: AVAILABLE}, shared(3, 2)), wanted)
    alone = next_action(Now({1: END, 2: END, 3: AVAILABLE}, shared(3, 2)), wanted)

    assert beside.weights == all_to(1)
    assert alone.weights == all_to(3)


def test_the_primary_answers_everybody_while_its_candidate_is_loaded() -> None:
    """Also where another version has answered until now."""
    now = Now({1: AVAILABLE, 2: AVAILABLE, 3: LOADING}, all_to(1))

    assert next_action(now, Wanted((3, 2), shared(3, 2))).weights == all_to(2)


def test_of_what_is_available_what_is_wanted_answers_first() -> None:
    """A higher version that is on its way out does not."""
    now = Now({1: AVAILABLE, 2: AVAILABLE, 3: LOADING})

    assert next_action(now, Wanted((3, 1), all_to(3))).weights == all_to(1)


def test_a_label_moves_when_its_version_is_available() -> None:
    """Until then it stays, and so does the version that it names; that one goes in the table after."""
    wanted = Wanted((2,), all_to(2), {"stable": 2})
    before = Now({1: AVAILABLE, 2: LOADING}, all_to(2), {"stable": 1})
    loaded = Now({1: AVAILABLE, 2: AVAILABLE}, all_to(2), {"stable": 1})

    waiting, moved = next_action(before, wanted), next_action(loaded, wanted)
    gone = next_action(Now(loaded.states, moved.weights, moved.labels), wanted)

    assert waiting == Next((2, 1), (), all_to(2), {"stable": 1})
    assert moved == Next((2, 1), (), all_to(2), {"stable": 2})
    assert gone == Next((2,), (), all_to(2), {"stable": 2})
