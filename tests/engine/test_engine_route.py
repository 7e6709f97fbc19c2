"""Which version answers."""

import itertools
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Served, Table
from dukou.core.model import ModelRef, State
from dukou.core.route import Route, Weight
from dukou.engine.route import choose, position, primary
from dukou.testing.models import iris_like, manifest, served, table


def no_draw() -> float:
    """Where nothing is left to chance."""
    raise AssertionError("nobody may draw")


SERVED = table(
    iris_like("iris", 4, State.LOADING),
    iris_like("iris", 3),
    iris_like("iris", 1),
    iris_like("taxi", 7),
    iris_like("new", 2, State.START),
    labels={"iris": {"stable": 1, "canary": 3, "next": 4, "lost": 9}},
)


@pytest.mark.parametrize(
    ("ref", "version"),
    [
        (ModelRef("iris"), 3),
        (ModelRef("iris", version=1), 1),
        (ModelRef("iris", label="stable"), 1),
        (ModelRef("iris", label="canary"), 3),
        (ModelRef("iris", version=3, label="stable"), 3),
        (ModelRef("taxi"), 7),
    ],
)
def test_a_version_is_found(ref: ModelRef, version: int) -> None:
    """By number, by label, or the highest that is AVAILABLE; a number says more than a label."""
    found = choose(SERVED, ref, "", no_draw)

    assert (found.id.name, found.id.version) == (ref.name, version)


@pytest.mark.parametrize(
    ("ref", "reason", "facts"),
    [
        (ModelRef("nobody"), Reason.MODEL_NOT_FOUND, {"model": "nobody", "served": "iris, new, taxi"}),
        (ModelRef("nobody", version=2), Reason.MODEL_NOT_FOUND, {"model": "nobody", "version": 2}),
        (ModelRef(""), Reason.MODEL_UNNAMED, {"served": "iris, new, taxi"}),
        (ModelRef("iris", version=2), Reason.VERSION_NOT_FOUND, {"version": 2, "served": "4, 3, 1"}),
        (ModelRef("iris", label="gold"), Reason.LABEL_NOT_FOUND, {"label": "gold"}),
        (ModelRef("taxi", label="stable"), Reason.LABEL_NOT_FOUND, {"model": "taxi"}),
        (ModelRef("iris", label=""), Reason.LABEL_NOT_FOUND, {"label": ""}),
        (ModelRef("iris", label="lost"), Reason.VERSION_NOT_FOUND, {"version": 9}),
        (ModelRef("iris", version=4), Reason.MODEL_NOT_READY, {"version": 4, "state": "LOADING"}),
        (ModelRef("iris", label="next"), Reason.MODEL_NOT_READY, {"version": 4, "state": "LOADING"}),
        (ModelRef("new"), Reason.MODEL_NOT_READY, {"version": 2, "state": "START"}),
    ],
)
def test_what_cannot_be_found_is_named(ref: ModelRef, reason: Reason, facts: dict[str, object]) -> None:
    """Each refusal has its own Reason, and says what there is instead."""
    with pytest.raises(DukouError) as caught:
        choose(SERVED, ref, "", no_draw)

    assert caught.value.reason is reason
    assert caught.value.facts.items() >= facts.items()


@pytest.mark.parametrize("ref", [ModelRef("bad"), ModelRef("bad", version=1)])
def test_a_version_that_was_not_loaded_is_refused_with_what_was_wrong(ref: ModelRef) -> None:
    """The caller need not look for it elsewhere."""
    error = DukouError(Reason.ARTIFACT_UNREADABLE, path="m/config.pbtxt", detail="line 1", model="bad", version=1)
    bad = table(served(manifest("bad"), state=State.END, error=error))

    with pytest.raises(DukouError) as caught:
        choose(bad, ref, "", no_draw)

    assert str(caught.value) == (
        "model 'bad', version 1: this version is END, not AVAILABLE; it could not be loaded: m/config.pbtxt: line 1"
    )


def test_no_name_means_the_only_model() -> None:
    """A server of one model need not be told which."""
    assert choose(table(iris_like("iris", 2)), ModelRef(""), "", no_draw).id.version == 2


def test_an_empty_table_serves_nothing() -> None:
    """Before the first table, and after the last model was removed."""
    for ref in (ModelRef(""), ModelRef("iris")):
        with pytest.raises(DukouError) as caught:
            choose(Table(), ref, "", no_draw)

        assert caught.value.reason is Reason.MODEL_NOT_FOUND
        assert caught.value.facts["served"] == "none"


def test_a_long_list_is_cut_short() -> None:
    """An error's text stays short however many models there are."""
    many = table(*(iris_like(f"m{number:03}") for number in range(300)))

    with pytest.raises(DukouError) as caught:
        choose(many, ModelRef("nobody"), "", no_draw)

    assert str(caught.value).endswith("m018, m019 and 280 more")


def routed(route: Route, *versions: Served) -> Table:
    """A table of one model and its route."""
    return msgspec.structs.replace(table(*versions), routes={"iris": route})


THREE = (iris_like("iris", 1), iris_like("iris", 2), iris_like("iris", 3))
EXACT = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any), st.floats(0.0, 1.0, exclude_max=True))
def test_each_version_has_its_share_of_the_line(parts: list[int], at: float) -> None:
    """A draw falls to the version in whose part of the line it lies, the first named first; never to one without."""
    shares = [part / sum(parts) for part in parts]
    versions = [iris_like("iris", number) for number in range(1, len(parts) + 1)]
    route = Route(tuple(Weight(number, share) for number, share in enumerate(shares, start=1)))

    chosen = choose(routed(route, *versions), ModelRef("iris"), "", lambda: at).id.version

    assert shares[chosen - 1] > 0.0
    before = sum(shares[: chosen - 1])
    assert before - 1e-9 <= at <= before + shares[chosen - 1] + 1e-9


@given(st.text(), EXACT, EXACT)
def test_a_caller_who_was_moved_stays_while_the_share_grows(key: str, one: float, other: float) -> None:
    """Whoever the candidate answers at a share, it answers at every larger one; and nobody draws."""
    small, large = sorted((one, other))
    key = key or "someone"

    def answers(share: float) -> int:
        route = Route((Weight(3, share), Weight(1, 1.0 - share)), "header:user")
        return choose(routed(route, *THREE), ModelRef("iris"), key, no_draw).id.version

    assert answers(small) == answers(small)
    assert answers(small) != 3 or answers(large) == 3
    assert answers(0.0) == 1
    assert answers(1.0) == 3


def test_keys_are_spread_evenly() -> None:
    """Of 20,000 callers whose names differ in a digit, each hundredth of the line has 200, within five deviations."""
    route = Route((Weight(3, 0.5), Weight(1, 0.5)))
    counts = Counter(int(100 * position("iris", route, f"user-{number}")) for number in range(20_000))

    assert len(counts) == 100
    assert max(abs(count - 200) for count in counts.values()) < 5 * (200 * 0.99) ** 0.5


def test_shares_of_draws_are_exact_within_statistics() -> None:
    """Of 100,000 draws a share of 1 % gets 1,000, within five deviations."""
    draw = random.Random(7).random
    given_table = routed(Route((Weight(3, 0.01), Weight(1, 0.99))), *THREE)

    chosen = Counter(choose(given_table, ModelRef("iris"), "", draw).id.version for _ in range(100_000))

    assert abs(chosen[3] - 1000) < 5 * (1000 * 0.99) ** 0.5
    assert chosen[1] + chosen[3] == 100_000


def test_another_candidate_is_tried_on_other_callers() -> None:
    """The same few are not the first to meet every new version."""
    keys = [f"user-{number}" for number in range(1000)]
    first = {key for key in keys if position("iris", Route((Weight(3, 0.1), Weight(1, 0.9))), key) < 0.1}
    second = {key for key in keys if position("iris", Route((Weight(4, 0.1), Weight(1, 0.9))), key) < 0.1}

    assert len(first & second) < 30 < min(len(first), len(second))


STATES = (State.START, State.LOADING, State.AVAILABLE, State.UNLOADING, State.END, None)


@pytest.mark.parametrize("at", [0.0, 0.4, 0.7])
@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.0), (0.2, 0.3, 0.5), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)])
def test_whoever_is_drawn_an_available_version_of_the_route_answers(shares: tuple[float, ...], at: float) -> None:
    """Every combination of states: a version without a share never answers, one that is AVAILABLE with one does."""
    weights = tuple(Weight(number, share) for number, share in zip((3, 2, 1), shares, strict=True))
    for states in itertools.product(STATES, repeat=3):
        held = {number: state for number, state in zip((3, 2, 1), states, strict=True) if state is not None}
        if not held:
            continue
        versions = [iris_like("iris", number, state) for number, state in held.items()]
        able = {one.version for one in weights if one.share > 0.0 and held.get(one.version) is State.AVAILABLE}

        if able:
            assert choose(routed(Route(weights), *versions), ModelRef("iris"), "", lambda: at).id.version in able
        else:
            with pytest.raises(DukouError) as caught:
                choose(routed(Route(weights), *versions), ModelRef("iris"), "", lambda: at)
            assert caught.value.reason is Reason.MODEL_NOT_READY


def test_a_route_is_not_for_who_names_a_version_or_a_label() -> None:
    """They get what they name, whatever its share."""
    of = msgspec.structs.replace(routed(Route((Weight(3, 1.0),)), *THREE), labels={"iris": {"stable": 1}})

    assert choose(of, ModelRef("iris", version=2), "k", no_draw).id.version == 2
    assert choose(of, ModelRef("iris", label="stable"), "k", no_draw).id.version == 1


@pytest.mark.parametrize(
    ("route", "version"),
    [
        (Route(), 3),
        (Route((Weight(3, 0.1), Weight(1, 0.9))), 1),
        (Route((Weight(3, 0.0), Weight(1, 1.0))), 1),
        (Route((Weight(9, 0.9), Weight(1, 0.1))), 1),
    ],
)
def test_the_primary_is_whom_most_calls_go_to(route: Route, version: int) -> None:
    """Of the versions that are AVAILABLE."""
    assert primary(routed(route, *THREE), "iris") == version


def test_without_an_available_version_there_is_no_primary() -> None:
    """Nor of a model that is not there."""
    of = table(iris_like("iris", 1, State.LOADING))

    assert primary(of, "iris") is None
    assert primary(of, "nobody") is None


def test_what_the_operator_says_of_a_version_is_told() -> None:
    """A version that is not loaded on purpose has no error."""
    error = DukouError(Reason.NOT_SERVING, detail="it was rolled back")
    of = table(served(manifest("iris"), state=State.END, error=error))

    with pytest.raises(DukouError, match="END, not AVAILABLE: it was rolled back"):
        choose(of, ModelRef("iris", version=1), "", no_draw)
