"""Plans: what their words say, and what is told of those that make no sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.plan import LEAST_REQUESTS, LEAST_S, Step, parse, to_text


def shares(text: str) -> list[tuple[str, float, float]]:
    """Of each step: its kind, the calls that the candidate answers, the copies it gets."""
    return [(step.kind, step.share, step.shadow) for step in parse(text).steps]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("shadow", [("shadow", 0.0, 1.0)]),
        ("shadow:25", [("shadow", 0.0, 0.25)]),
        ("incremental", [("incremental", share, 0.0) for share in (0.01, 0.05, 0.25, 0.5, 1.0)]),
        ("incremental:0.5,100", [("incremental", 0.005, 0.0), ("incremental", 1.0, 0.0)]),
        ("incremental:100", [("incremental", 1.0, 0.0)]),
        ("blue_green", [("blue_green", 1.0, 0.0)]),
        ("full", [("full", 1.0, 0.0)]),
        ("shadow,blue_green", [("shadow", 0.0, 1.0), ("blue_green", 1.0, 0.0)]),
        ("shadow,incremental:50,100", [("shadow", 0.0, 1.0), ("incremental", 0.5, 0.0), ("incremental", 1.0, 0.0)]),
    ],
)
def test_words_are_steps(text: str, steps: list[tuple[str, float, float]]) -> None:
    """Percentages after `incremental` are its steps, after `shadow` the share that is copied."""
    assert shares(text) == steps


def test_every_step_needs_something_unless_it_is_told() -> None:
    """One value is for all steps, several are for each; a full update is not judged and waits for nothing."""
    plan = parse("shadow,incremental:50,100 least_s=1,2,3 least_requests=7")

    assert [(step.least_requests, step.least_s) for step in plan.steps] == [(7, 1.0), (7, 2.0), (7, 3.0)]
    assert parse("shadow").steps[0] == Step("shadow", 0.0, 1.0, LEAST_REQUESTS, LEAST_S)
    assert parse("full").steps[0] == Step("full", 1.0)


def test_settings_follow_the_words_or_come_beside_them() -> None:
    """Those beside win."""
    plan = parse("shadow max_disagreement=0.02 latency_ratio=3 'slice_by=age group'", manual=True, latency_ratio=4)

    assert (plan.max_disagreement, plan.latency_ratio, plan.slice_by, plan.manual) == (0.02, 4.0, "age group", True)


def test_a_table_says_the_same() -> None:
    """Its steps are a text or a list of words and percentages; its text is a plan again."""
    table = {
        "steps": ["shadow", 5, 100],
        "least_s": [1, 2, 3],
        "least_requests": 9,
        "slice_by": "age group",
        "manual": True,
        "max_disagreement": 0.5,
        "tolerance": 1e-6,
        "error_margin": 0.05,
        "latency_ratio": 1.5,
    }

    plan = parse(to_text(table))

    assert [(step.kind, step.share, step.least_s) for step in plan.steps] == [
        ("shadow", 0.0, 1.0),
        ("incremental", 0.05, 2.0),
        ("incremental", 1.0, 3.0),
    ]
    assert (plan.slice_by, plan.manual, plan.tolerance) == ("age group", True, 1e-6)
    assert parse(to_text({"steps": "shadow, blue_green"})).steps == parse("shadow,blue_green").steps
    assert parse(to_text({})) == parse("shadow,incremental")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a plan is shadow"),
        ("canary", "'canary'"),
        ("5,100", "'5'"),
        ("incremental:5,50", "the last step has to be 100 %, it is 50 %"),
        ("incremental:50,5,100", "5 % comes after 50 %"),
        ("incremental:5,5,100", "5 % comes after 5 %"),
        ("incremental:0,100", "not a percentage"),
        ("incremental:5,101", "not a percentage"),
        ("incremental:nan", "not a percentage"),
        ("incremental:", "not a percentage"),
        ("incremental:" + ",".join(map(str, range(1, 50))) + ",100", "32 is the most"),
        ("blue_green:5,100", "takes no percentages"),
        ("shadow:10,20", "takes one percentage"),
        ("incremental,shadow", "shadow comes first"),
        ("shadow,shadow", "shadow comes first"),
        ("blue_green,incremental", "is too late"),
        ("shadow,incremental,blue_green", "is too late"),
        ("full,shadow", "nothing goes with it"),
        ("shadow 5", "settings such as"),
        ("shadow least=3", "there are: least_requests"),
        ("shadow least_s=-1", "from 0"),
        ("shadow least_s=soon", "not a number"),
        ("shadow least_requests=1.5", "not a whole number"),
        ("shadow least_s=1,2", "2 values for 1 steps"),
        ("shadow manual=maybe", "neither true nor false"),
        ("shadow max_disagreement=2", "from 0.0001 to 1"),
        ("shadow max_disagreement=0", "from 0.0001 to 1"),
        ("shadow latency_ratio=1.1", "from 1.5"),
        ('shadow "', "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_told(text: str, told: str) -> None:
    """What is wrong, and what is possible."""
    with pytest.raises(DukouError) as caught:
        parse(text)

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "table", [{"steps": 5}, {"steps": [True]}, {"steps": []}, {"least_s": [[1]]}, {"step": "full"}]
)
def test_a_table_that_makes_no_sense_is_told(table: dict[str, object]) -> None:
    """As text that does not."""
    with pytest.raises(DukouError) as caught:
        to_text(table)

    assert caught.value.reason is Reason.CONFIG_INVALID


@given(st.text(max_size=30) | st.text("shadow,incremental:0159 =_", max_size=30))
def test_any_text_is_a_plan_or_refused(text: str) -> None:
    """Nothing else is raised, and a plan ends with everybody answered, or with a shadow."""
    try:
        steps = parse(text).steps
    except DukouError as error:
        if error.reason is not Reason.CONFIG_INVALID:
            raise
        return

    assert steps[-1].share == 1.0 or steps[-1].kind == "shadow"
