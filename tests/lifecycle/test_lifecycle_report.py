"""The report of a rollout: complete as JSON, readable as text."""

import json

import msgspec
import pytest

from dukou.core.buckets import FINE_SECONDS
from dukou.core.comparison import BOUNDS, Agreement, Comparison, Differences, Tally
from dukou.lifecycle.measured import Counts, Measured, Outcomes
from dukou.lifecycle.plan import parse
from dukou.lifecycle.report import WIDTH, lines, report
from dukou.lifecycle.rollout import Rollout, Status

LONG = "a value that is far longer than any line should ever have to be " * 3


def counts(requests: int, errors: int, bucket: int) -> Counts:
    latency = [0] * (len(FINE_SECONDS) + 1)
    latency[bucket] = requests - errors
    return Counts(requests - errors, errors, latency)


def differences(*filled: int) -> list[int]:
    found = [0] * (len(BOUNDS) + 1)
    for bucket in filled:
        found[bucket] += 50
    return found


COMPARISON = Comparison(
    rows=4000,
    disagreed=40,
    failed=2,
    copies=900,
    dropped=7,
    labels={"species": Agreement(4000, 3960, {"setosa": {"setosa": 3000, LONG: 30}, "virginica": {"setosa": 10}})},
    numbers={"score": Differences(100, differences(0, 20), differences(0, len(BOUNDS)), float("inf"))},
    slices={"north": Tally(3900, 10), LONG: Tally(100, 30), "empty": Tally()},
    primary_s=[0] * 27 + [900] + [0] * (len(FINE_SECONDS) - 27),
    candidate_s=[0] * 27 + [900] + [0] * (len(FINE_SECONDS) - 27),
)


def rollout(
    plan: str = "shadow,incremental slice_by=region", step: int = 0, status: Status = Status.RUNNING
) -> Rollout:
    """A rollout on which everything was measured."""
    measured = Measured(counts(90_000, 300, 40), counts(1000, 3, 40), COMPARISON, Outcomes(900, 800), Outcomes(100, 80))
    return Rollout(
        3, "iris", 1, 2, parse(plan), step=step, step_s=9.0, started_at=1.7e9, status=status, measured=measured
    )


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("step", range(6))
def test_a_report_is_json_and_lines_at_every_step(step: int, status: Status) -> None:
    """Whatever the state; lines fit, and so does what others have named."""
    said = report(rollout(step=step, status=status))

    told = list(lines(json.loads(json.dumps(said, allow_nan=False))))

    assert max(map(len, told)) <= WIDTH
    assert told[0] == f"iris: version 1 → 2, rollout 3: {status.value}"


def test_a_report_of_nothing_is_one() -> None:
    """Before the first request."""
    told = list(lines(report(Rollout(3, "iris", 1, 2, parse("incremental:5,100")))))

    assert any("waiting for any request of the candidate" in line for line in told)
    assert any("nothing yet" in line for line in told)


def test_steps_tell_where_the_rollout_is() -> None:
    """Those done, the one it is in with its progress, those ahead."""
    steps = report(rollout(step=1))["steps"]

    assert [step["state"] for step in steps] == ["done", "now", *["ahead"] * 4]
    assert (steps[1]["requests"], steps[1]["time_s"], steps[1]["share"]) == (1000, 9.0, 0.01)
    assert {step["state"] for step in report(rollout(step=5, status=Status.PROMOTED))["steps"]} == {"done"}
    assert report(rollout(step=1, status=Status.ROLLED_BACK))["steps"][1]["state"] == "left"


def test_metrics_have_both_sides_with_intervals() -> None:
    """What the verdict is made of, and how much is missing."""
    metrics = {metric["metric"]: metric for metric in report(rollout(step=1))["metrics"]}

    errors = metrics["errors"]
    assert (errors["candidate"]["events"], errors["candidate"]["trials"]) == (3, 1000)
    assert errors["candidate"]["low"] < 0.003 < errors["candidate"]["high"] < 0.02
    assert (errors["outcome"], errors["missing"], errors["margin"]) == ("FINE", 0, 0.02)
    p50 = metrics["p50 latency"]
    assert p50["candidate"]["low_s"] == FINE_SECONDS[39]
    assert p50["candidate"]["high_s"] == p50["primary"]["high_s"] == FINE_SECONDS[40]
    assert metrics["accuracy"]["outcome"] == "UNSURE"


def test_answers_tell_in_what_they_differ() -> None:
    """Labels by the pairs confused, numbers by quantiles, slices worst first."""
    answers = report(rollout())["answers"]

    assert (answers["rows"], answers["agreement"], answers["failed"]) == (4000, 0.99, 2)
    assert answers["low"] < 0.99 < answers["high"]
    assert [pair["rows"] for pair in answers["labels"]["species"]["confused"]] == [30, 10]
    assert answers["numbers"]["score"]["absolute"] == {"p50": 0.0, "p90": BOUNDS[20], "p99": BOUNDS[20]}
    assert answers["numbers"]["score"]["relative"] == {"p50": 0.0, "p90": None, "p99": None}
    assert answers["numbers"]["score"]["largest"] is None
    assert [tally["rows"] for tally in answers["slices"]] == [100, 3900, 0]
    assert answers["slices"][2]["agreement"] is None


def test_lines_tell_what_people_look_for() -> None:
    """The plan and its step, the verdict, the numbers, the pairs confused."""
    told = "\n".join(lines(report(rollout())))

    assert "plan shadow,incremental, since 2023-11-14 22:13:20 UTC" in told
    assert "▶ 1  shadow       100 % copied      4,000 of at least 100 rows, 9 of at least 60 s" in told
    assert "waiting for 51 s more" in told
    assert "disagreement" in told
    assert "4,000 rows compared (900 copies, 7 dropped): 99 % [" in told
    assert "virginica → setosa: 10" in told
    assert "north: 99.74 % [" in told


def test_who_has_to_decide_is_told_how() -> None:
    """A rollout that is held waits for somebody."""
    held = list(lines(report(rollout(status=Status.HELD))))

    assert any("`dukou promote iris` lets it go on" in line for line in held)
    assert not any("`dukou promote" in line for line in lines(report(rollout())))


def test_what_a_line_needs_to_be_read_is_told_below_it() -> None:
    """Intervals always, the number that is missing only where there is one."""
    known = rollout(step=1)
    few = Measured(counts(300, 0, 40), counts(30, 0, 40))

    certain = list(lines(report(known)))
    unsure = list(lines(report(msgspec.structs.replace(known, measured=few))))

    assert certain[-1] == unsure[-2] == "[low-high] holds the true value with 99 %, however often one looks."
    assert unsure[-1] == "+N: not certain; about so many more calls or rows would do."


def test_the_plan_is_told_as_it_was_given() -> None:
    """Where its text is known."""
    given = msgspec.structs.replace(rollout(), plan_text="shadow,incremental:5,100 manual=true")

    assert report(given)["plan"] == "shadow,incremental:5,100 manual=true"
