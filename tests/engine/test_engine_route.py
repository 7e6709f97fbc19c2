"""Which version answers."""

import pytest

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Table
from dukou.core.model import ModelRef, State
from dukou.engine.route import choose
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
