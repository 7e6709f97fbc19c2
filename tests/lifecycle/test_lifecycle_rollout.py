"""Where a rollout goes: what is waited for, what sends it back, what a human is asked."""

from math import ceil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.buckets import FINE_SECONDS
from dukou.core.comparison import Comparison, Tally
from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.measured import Counts, Measured, Outcomes, add, since
from dukou.lifecycle.plan import parse
from dukou.lifecycle.rollout import Decision, Rollout, Status, Verdict, advance, next_step

FIRST, MIDDLE, LAST = 0, 2, 3  # of incremental:1,5,50,100
SHARES = (0.02, 0.1, 0.4, 0.3, 0.15, 0.02, 0.01)


def counts(requests: int, errors: int = 0, slower: int = 0) -> Counts:
    """Requests whose times are spread over seven buckets; each `slower` is 1.22 times the time."""
    latency = [0] * (len(FINE_SECONDS) + 1)
    answered = requests - errors
    for bucket, share in enumerate(SHARES, 27 + slower):
        latency[bucket] = ceil(answered * share)
    latency[29 + slower] += answered - sum(latency)
    return Counts(answered, errors, latency)


def rollout(
    plan: str = "incremental:1,5,50,100 least_requests=100 least_s=60",
    *,
    step: int = FIRST,
    status: Status = Status.RUNNING,
    reason: str = "",
    step_s: float = 60.0,
    primary: Counts | None = None,
    candidate: Counts | None = None,
    comparison: Comparison | None = None,
    labels: tuple[Outcomes, Outcomes] | None = None,
) -> Rollout:
    """A rollout at a step; of what is not said, so much was measured that it is fine."""
    measured = Measured(
        primary or counts(100_000, 300),
        candidate or counts(10_000, 30),
        comparison or Comparison(10_000, 10, copies=10_000),
        *(labels or (Outcomes(), Outcomes())),
    )
    return Rollout(
        1, "iris", 1, 2, parse(plan), plan, step=step, step_s=step_s, status=status, reason=reason, measured=measured
    )


def verdict(of: Rollout) -> Verdict:
    return next_step(of).verdict


@pytest.mark.parametrize(
    ("plan", "step", "expected"),
    [
        ("incremental:1,5,50,100", FIRST, Verdict.NEXT),
        ("incremental:1,5,50,100", MIDDLE, Verdict.NEXT),
        ("incremental:1,5,50,100", LAST, Verdict.PROMOTE),
        ("blue_green", 0, Verdict.PROMOTE),
        ("shadow", 0, Verdict.PROMOTE),
        ("shadow,blue_green", 0, Verdict.NEXT),
        ("shadow,blue_green", 1, Verdict.PROMOTE),
        ("full", 0, Verdict.PROMOTE),
    ],
)
def test_what_is_known_to_be_fine_goes_on(plan: str, step: int, expected: Verdict) -> None:
    """To the next step, and after the last one it is promoted."""
    assert verdict(rollout(plan, step=step)) is expected


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ({"step_s": 20.0}, "40 s more (20 of 60 s)"),
        ({"candidate": counts(60)}, "40 more requests of the candidate (60 of 100)"),
        ({"candidate": Counts()}, "any request of the candidate, which is to answer 1 % of the calls"),
        (
            {"candidate": counts(200)},
            "errors: 0 % of the candidate's 200 failed, 0.3 % of the primary's 100,000 (about",
        ),
        ({"candidate": counts(1000, 20)}, "errors: 2 % of the candidate's 1,000"),
        ({"candidate": counts(10_000, 30, slower=3)}, "p50 latency: 4.34 ms to 6.43 ms, the primary's 2.41 ms"),
    ],
)
def test_what_is_missing_is_told(missing: dict[str, object], told: str) -> None:
    """It waits, and never without a word."""
    decision = next_step(rollout(**missing))  # type: ignore[arg-type]

    assert decision.verdict is Verdict.STAY
    assert told in decision.reason


def test_a_shadow_that_nothing_reaches_says_so() -> None:
    """Copies may all be dropped."""
    decision = next_step(rollout("shadow,incremental", comparison=Comparison(dropped=9)))

    assert decision.verdict is Verdict.STAY
    assert "no copy has been answered, 9 were dropped" in decision.reason


@pytest.mark.parametrize("step", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("status", [Status.RUNNING, Status.HELD])
@pytest.mark.parametrize(
    ("worse", "told"),
    [
        ({"candidate": counts(2000, 120)}, "errors: 6 % of the candidate's 2,000 failed, 0.3 % of the primary's"),
        ({"candidate": counts(3000, 9, slower=6)}, "p50 latency"),
        ({"labels": (Outcomes(50_000, 47_500), Outcomes(50_000, 46_000))}, "accuracy: 8 % of the candidate's 50,000"),
    ],
)
def test_what_is_worse_goes_back_from_every_step(
    step: int, status: Status, worse: dict[str, object], told: str
) -> None:
    """At once: neither a least time nor a human is waited for."""
    decision = next_step(rollout(step=step, status=status, step_s=0.0, **worse))  # type: ignore[arg-type]

    assert decision.verdict is Verdict.ROLL_BACK
    assert told in decision.reason


def test_a_slow_tail_goes_back_although_the_median_is_fine() -> None:
    """2 % of answers that take ten times as long."""
    tail = counts(50_000)
    tail.latency[45] += 1000

    decision = next_step(rollout(candidate=tail))

    assert decision.verdict is Verdict.ROLL_BACK
    assert decision.reason.startswith("p99 latency")


@pytest.mark.parametrize(
    ("bucket", "expected"), [(0, Verdict.NEXT), (3, Verdict.NEXT), (4, Verdict.STAY), (5, Verdict.ROLL_BACK)]
)
def test_times_below_all_bounds_count_as_the_lowest(bucket: int, expected: Verdict) -> None:
    """A primary that answers within 10 µs: a candidate within 18 µs is not twice as slow for anybody."""
    fast, other = Counts(10_000, 0, [0] * 98), Counts(10_000, 0, [0] * 98)
    fast.latency[0] = other.latency[bucket] = 10_000

    assert verdict(rollout(primary=fast, candidate=other)) is expected


def test_the_tail_has_to_be_known_before_everybody_is_answered() -> None:
    """The first steps go on without; the last one below 100 % says how many requests are missing."""
    few = counts(700)

    assert verdict(rollout(candidate=few)) is Verdict.NEXT
    decision = next_step(rollout(step=MIDDLE, candidate=few))
    assert decision.verdict is Verdict.STAY
    assert "p99 latency" in decision.reason
    assert "more requests would do" in decision.reason


def test_each_step_is_judged_by_its_own_requests() -> None:
    """Errors that everybody had before the share grew are no difference between the versions."""
    before, after = rollout(), rollout(step=1)
    night = msgspec.structs.replace(
        after,
        step_primary=counts(1_000_000, 0),
        step_candidate=counts(10_000, 0),
        measured=Measured(
            add(counts(1_000_000, 0), counts(20_000, 2000)), add(counts(10_000, 0), counts(10_000, 1000)), Comparison()
        ),
    )

    pooled = msgspec.structs.replace(night, step_primary=Counts(), step_candidate=Counts())

    assert verdict(before) is Verdict.NEXT
    assert verdict(night) is not Verdict.ROLL_BACK
    assert verdict(pooled) is Verdict.ROLL_BACK


def test_everybodys_answers_are_judged_by_what_the_primary_did_before() -> None:
    """At 100 % it gets no calls any more, and none count towards it."""
    steady = rollout(step=LAST, primary=counts(100_000, 5000), candidate=counts(10_000, 500))
    steady = msgspec.structs.replace(steady, step_primary=steady.measured.primary)

    assert verdict(steady) is Verdict.PROMOTE


@pytest.mark.parametrize(("errors", "expected"), [(1, Verdict.PROMOTE), (100, Verdict.ROLL_BACK)])
def test_without_anything_before_only_errors_are_judged(errors: int, expected: Verdict) -> None:
    """Blue/green for a primary that nobody has called."""
    assert verdict(rollout("blue_green", primary=Counts(), candidate=counts(1000, errors))) is expected


@pytest.mark.parametrize(
    ("plan", "disagreed", "expected"),
    [
        ("shadow", 10, Verdict.PROMOTE),
        ("shadow", 100, Verdict.STAY),
        ("shadow", 300, Verdict.HOLD),
        ("shadow max_disagreement=0.05", 300, Verdict.PROMOTE),
        ("shadow max_disagreement=0.05", 500, Verdict.STAY),
        ("shadow max_disagreement=0.05", 800, Verdict.ROLL_BACK),
    ],
)
def test_disagreement_is_for_a_human_unless_the_plan_says_how_much(
    plan: str, disagreed: int, expected: Verdict
) -> None:
    """Of 10,000 rows: an improved model disagrees, too."""
    assert verdict(rollout(plan, comparison=Comparison(10_000, disagreed, copies=1))) is expected


@pytest.mark.parametrize(
    ("primary", "candidate", "expected"),
    [
        (Outcomes(40_000, 38_000), Outcomes(40_000, 38_200), Verdict.NEXT),
        (Outcomes(400, 380), Outcomes(400, 380), Verdict.STAY),
        (Outcomes(40_000, 38_000), Outcomes(40_000, 36_500), Verdict.ROLL_BACK),
        (Outcomes(40_000, 38_000), Outcomes(), Verdict.HOLD),
        (Outcomes(), Outcomes(), Verdict.HOLD),
    ],
)
def test_labels_decide_about_disagreement(primary: Outcomes, candidate: Outcomes, expected: Verdict) -> None:
    """3 % of the rows differ: better, worse or not known yet; without labels of both a human says."""
    differing = Comparison(10_000, 300, copies=1)

    assert verdict(rollout("shadow,incremental", comparison=differing, labels=(primary, candidate))) is expected


@pytest.mark.parametrize(
    ("labels", "agreed", "expected"),
    [
        ((Outcomes(400, 380), Outcomes(400, 380)), 9_800, Verdict.STAY),
        ((Outcomes(400, 380), Outcomes(400, 380)), 9_990, Verdict.NEXT),
        ((Outcomes(60_000, 57_000), Outcomes(60_000, 57_000)), 9_800, Verdict.NEXT),
    ],
)
def test_labels_have_to_prove_accuracy_before_everybody_is_answered(
    labels: tuple[Outcomes, Outcomes], agreed: int, expected: Verdict
) -> None:
    """Unless both versions said the same: then one cannot be much worse than the other."""
    compared = Comparison(10_000, 10_000 - agreed, copies=1)

    assert verdict(rollout(step=MIDDLE, comparison=compared, labels=labels)) is expected
    assert verdict(rollout(step=FIRST, comparison=compared, labels=labels)) is Verdict.NEXT


def test_a_slice_that_differs_is_found_where_the_whole_agrees() -> None:
    """A slice of 200 rows among 100,000; named, with its numbers."""
    compared = Comparison(100_000, 110, copies=1, slices={"old": Tally(200, 100), "young": Tally(99_800, 10)})

    held = next_step(rollout("shadow slice_by=age", comparison=compared))
    back = next_step(rollout("shadow slice_by=age max_disagreement=0.01", comparison=compared))

    assert (held.verdict, back.verdict) == (Verdict.HOLD, Verdict.ROLL_BACK)
    assert "disagreement where age is old: 50 % of 200 compared rows differed" in held.reason
    assert "young" not in held.reason


def test_rows_that_a_shadow_fails_on_send_it_back() -> None:
    """It has answered nobody, and would fail for them."""
    failing = Comparison(1000, 60, failed=60, copies=1)

    decision = next_step(rollout("shadow,incremental", comparison=failing))

    assert decision.verdict is Verdict.ROLL_BACK
    assert "failed rows: 6 % of 1,000 compared rows failed" in decision.reason


@pytest.mark.parametrize(("plan", "expected"), [("shadow", Verdict.HOLD), ("shadow,incremental:50,100", Verdict.NEXT)])
def test_times_of_a_shadow_send_nothing_back(plan: str, expected: Verdict) -> None:
    """It runs beside the others and not in their place: callers' times decide, or, where none follow, a human."""
    compared = Comparison(9000, 1, copies=9000)
    compared.primary_s, compared.candidate_s = [0] * (len(FINE_SECONDS) + 1), [0] * (len(FINE_SECONDS) + 1)
    compared.primary_s[30], compared.candidate_s[42] = 9000, 9000

    assert verdict(rollout(plan, comparison=compared)) is expected


def test_by_hand_no_step_is_left_without_a_word() -> None:
    """It is recommended; what is worse goes back all the same."""
    done = rollout("incremental:1,100 manual=true")

    held = next_step(done)

    assert held.verdict is Verdict.HOLD
    assert "promote is recommended" in held.reason
    assert verdict(rollout("incremental:1,100 manual=true", candidate=counts(2000, 120))) is Verdict.ROLL_BACK
    after = advance(advance(done, held, 1.0), Decision(Verdict.NEXT, "go"), 2.0)
    assert (after.step, after.status) == (1, Status.RUNNING)


@pytest.mark.parametrize("status", [Status.PAUSED, Status.PROMOTED, Status.ROLLED_BACK, Status.ABORTED])
def test_who_is_not_running_is_not_judged(status: Status) -> None:
    """Neither one that is paused nor one that is over."""
    decision = next_step(rollout(status=status, reason="as it was", candidate=counts(2000, 2000)))

    assert decision == Decision(Verdict.STAY, "as it was")


def test_one_that_is_held_stays_held() -> None:
    """With the reason that it is held for."""
    held = rollout(status=Status.HELD, reason="say yes")

    assert next_step(held) == Decision(Verdict.STAY, "say yes")


def test_a_step_begins_with_nothing() -> None:
    """Its time, its requests and what it is judged by."""
    first = rollout()

    second = advance(first, next_step(first), 7.0)

    assert (second.step, second.step_s, second.step_requests, second.status) == (1, 0.0, 10_000, Status.RUNNING)
    assert (second.step_primary, second.step_candidate) == (first.measured.primary, first.measured.candidate)
    assert "any request of the candidate" in next_step(second).reason


def test_a_shadow_begins_with_what_was_compared() -> None:
    """Its progress is rows, not requests."""
    first = rollout("incremental:100")
    shadow = msgspec.structs.replace(first, plan=parse("shadow"), measured=Measured(comparison=Comparison(60, 0)))

    assert "40 more compared rows (60 of 100)" in next_step(shadow).reason


@pytest.mark.parametrize(
    ("verdict_", "status", "ended"),
    [
        (Verdict.STAY, Status.RUNNING, 0.0),
        (Verdict.HOLD, Status.HELD, 0.0),
        (Verdict.PROMOTE, Status.PROMOTED, 7.0),
        (Verdict.ROLL_BACK, Status.ROLLED_BACK, 7.0),
    ],
)
def test_a_verdict_is_followed(verdict_: Verdict, status: Status, ended: float) -> None:
    """The reason is kept with it."""
    after = advance(rollout(), Decision(verdict_, "so"), 7.0)

    assert (after.status, after.reason, after.ended_at, after.step) == (status, "so", ended, FIRST)


def test_after_the_last_step_comes_the_end() -> None:
    """An operator who lets it go on there promotes it."""
    after = advance(rollout(step=LAST, status=Status.HELD), Decision(Verdict.NEXT, "go"), 7.0)

    assert (after.status, after.step) == (Status.PROMOTED, LAST)


def test_what_is_over_goes_nowhere() -> None:
    """Whatever is asked."""
    with pytest.raises(DukouError) as caught:
        advance(rollout(status=Status.PROMOTED), Decision(Verdict.NEXT, ""), 7.0)

    assert caught.value.reason is Reason.PRECONDITION_FAILED


def test_counting_up_in_place_does_not_move_a_steps_base() -> None:
    """Whoever measures may add to what it holds."""
    first = rollout()
    second = advance(first, Decision(Verdict.NEXT, ""), 0.0)

    first.measured.candidate.errors += 5
    first.measured.candidate.latency[0] += 5

    assert (second.step_candidate.errors, second.step_candidate.latency[0]) == (30, 0)


small = st.integers(0, 50)
some_counts = st.builds(Counts, small, small, st.just([]) | st.lists(small, min_size=98, max_size=98))


@given(some_counts, some_counts)
def test_what_was_added_came_since(before: Counts, more: Counts) -> None:
    """Also where one of both has no times yet."""
    after = add(before, more)

    found = since(after, before)

    assert (found.answered, found.errors) == (more.answered, more.errors)
    assert sum(found.latency) == sum(more.latency)


def test_counts_that_fell_began_anew() -> None:
    """A server that was started again counts from zero."""
    assert since(counts(5), counts(10)) == counts(5)


some_rollouts = st.builds(
    rollout,
    st.sampled_from(["shadow,incremental", "incremental:5,100", "blue_green", "shadow slice_by=a", "full"]),
    step_s=st.floats(0, 100),
    primary=st.builds(counts, st.integers(50, 5000), st.integers(0, 50), st.integers(0, 9)),
    candidate=st.builds(counts, st.integers(50, 5000), st.integers(0, 50), st.integers(0, 9)),
    comparison=st.builds(
        Comparison,
        st.integers(500, 5000),
        st.integers(0, 500),
        st.integers(0, 500),
        slices=st.dictionaries(st.text(max_size=3), st.builds(Tally, st.integers(9, 99), st.integers(0, 9))),
    ),
    labels=st.tuples(*[st.builds(Outcomes, st.integers(100, 999), st.integers(0, 100))] * 2),
    status=st.sampled_from(Status),
)


@given(some_rollouts)
def test_whatever_was_measured_has_a_verdict_with_a_reason(some: Rollout) -> None:
    """And while it is under way, the verdict can be followed to an end within as many steps as there are."""
    decision = next_step(some)

    assert decision.reason
    if some.status.under_way:
        assert advance(some, decision, 1.0).step <= some.step + 1
