"""What the numbers of a rollout say, metric by metric: better known worse, known fine, or not known yet. Pure.

A wrong rollback and a wrong promotion each have a budget of error; how it is split is said in docs/design/rollouts.md.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from math import ceil, floor, inf, isinf, log
from typing import TypeAlias

import msgspec

from dukou.core.buckets import FINE_SECONDS
from dukou.core.comparison import MOST_SLICES
from dukou.lifecycle import sequential
from dukou.lifecycle.measured import Counts, Measured, Outcomes
from dukou.lifecycle.plan import Plan
from dukou.lifecycle.sequential import Trials

FALSE_ROLLBACK = 0.05
"""Probability, at most, that a candidate no worse than allowed is ever rolled back."""

FALSE_PROMOTION = 0.01
"""Probability, at most, that one that is worse than allowed on a metric is found fine on it. Not split: whatever else
is found, a bad candidate has to be found fine on that very metric."""

_METRICS = 7
_SHARE = FALSE_ROLLBACK / _METRICS
"""Of each of: errors, p50, p99 (split again over the steps), accuracy, rows failed on, disagreement, slices."""

ANSWERS_MARGIN = 0.01
"""Rows on which both may disagree without a human being asked, and answers that may be wrong more often."""

ACCURACY = "accuracy"
SLICE = "disagreement where"
MOST_CRASHES = 2
"""Of workers, with the candidate: each costs all callers, not one, so that the next is not waited for to be certain."""

BASELINE = 100
"""With fewer requests of the primary before all calls moved, errors of the candidate are judged by themselves."""


class Outcome(Enum):
    """What a metric is found to be. UNLIKE is for a human to judge; NOTED is told and decides nothing."""

    FINE = "FINE"
    UNSURE = "UNSURE"
    WORSE = "WORSE"
    UNLIKE = "UNLIKE"
    NOTED = "NOTED"


class Rates(msgspec.Struct, frozen=True):
    """Whether the candidate's rate of events is above the primary's by more than `margin`; without a primary, above
    `margin` itself. `trials` and `events` are words. `bounding` are trials whose rate the difference cannot exceed."""

    metric: str
    candidate: Trials
    primary: Trials | None
    margin: float
    alpha: float
    trials: str
    events: str
    needed: bool = True
    above: Outcome = Outcome.WORSE
    bounding: Trials | None = None


class Times(msgspec.Struct, frozen=True):
    """Whether a quantile (`share`) of the candidate's times is above the primary's by more than `ratio` times. Both are
    counts by FINE_SECONDS. `trials` is the word for what took the times."""

    metric: str
    candidate: Sequence[int]
    primary: Sequence[int]
    share: float
    ratio: float
    alpha: float
    trials: str = "requests"
    needed: bool = True
    above: Outcome = Outcome.WORSE


Question: TypeAlias = Rates | Times


class Finding(msgspec.Struct, frozen=True):
    """What came out for a metric, as a sentence with the numbers. `needed`: the step is not left while it is UNSURE.
    `missing` is about how many more trials of the candidate would show that it is fine; infinite if none would."""

    metric: str
    outcome: Outcome
    text: str
    needed: bool
    missing: float = 0.0
    trials: str = "requests"


class Sample(msgspec.Struct, frozen=True):
    """What one step is judged by. The candidate's counts are the step's own, so that a rate that drifts while shares
    grow does not look like a difference; the primary's too, but where it answers nobody any more they are those of
    before. `last`: what is left leads to everybody, or to the end. `compared`: it was compared under load before."""

    plan: Plan
    measured: Measured
    primary: Counts
    candidate: Counts
    share: float
    shadow: float
    last: bool
    compared: bool


def questions(sample: Sample) -> Iterator[Question]:
    """What has to be asked of a step."""
    if sample.share > 0:
        yield from _of_requests(sample)
    if sample.shadow > 0:
        yield from _of_comparison(sample)
    measured = sample.measured
    if measured.candidate_outcomes.labelled or measured.primary_outcomes.labelled:
        rows = measured.comparison.rows
        yield Rates(
            ACCURACY,
            _wrong(measured.candidate_outcomes),
            _wrong(measured.primary_outcomes),
            ANSWERS_MARGIN,
            _SHARE,
            "labelled answers",
            "were wrong",
            needed=sample.last,
            bounding=Trials(measured.comparison.disagreed, rows) if rows else None,
        )


def _of_requests(sample: Sample) -> Iterator[Question]:
    plan, primary, candidate = sample.plan, sample.primary, sample.candidate
    alpha = _SHARE / len(plan.steps)
    everybody = sample.share >= 1
    alone = everybody and primary.requests < BASELINE
    yield Rates(
        "errors",
        Trials(candidate.errors, candidate.requests),
        None if alone else Trials(primary.errors, primary.requests),
        plan.error_margin,
        alpha,
        "requests",
        "failed",
    )
    if everybody and primary.answered < BASELINE:
        return
    for metric, share in (("p50 latency", 0.5), ("p99 latency", 0.99)):
        needed = share == 0.5 or (sample.last and not sample.compared)
        yield Times(
            metric,
            candidate.latency or _NOTHING,
            primary.latency or _NOTHING,
            share,
            plan.latency_ratio,
            alpha,
            needed=needed,
        )


def _of_comparison(sample: Sample) -> Iterator[Question]:
    plan, comparison = sample.plan, sample.measured.comparison
    failed = Trials(comparison.failed, comparison.rows)
    yield Rates("failed rows", failed, None, plan.error_margin, _SHARE, "compared rows", "failed")
    unlike = Outcome.UNLIKE if plan.max_disagreement is None else Outcome.WORSE
    most = ANSWERS_MARGIN if plan.max_disagreement is None else plan.max_disagreement
    disagreed = Trials(comparison.disagreed, comparison.rows)
    yield Rates("disagreement", disagreed, None, most, _SHARE, "compared rows", "differed", above=unlike)
    for value, tally in comparison.slices.items():
        yield Rates(
            f"{SLICE} {plan.slice_by} is {value}",
            Trials(tally.disagreed, tally.rows),
            None,
            most,
            _SHARE / (MOST_SLICES + 1),
            "compared rows",
            "differed",
            needed=False,
            above=unlike,
        )
    if comparison.candidate_s and comparison.primary_s:
        for metric, share in (("p50 model time", 0.5), ("p99 model time", 0.99)):
            yield Times(
                metric,
                comparison.candidate_s,
                comparison.primary_s,
                share,
                plan.latency_ratio,
                _SHARE,
                "compared batches",
                needed=sample.last,
                above=Outcome.UNLIKE if sample.last else Outcome.NOTED,
            )


def answer(question: Question) -> Finding:
    """What the numbers say to it now."""
    return _of_rates(question) if isinstance(question, Rates) else _of_times(question)


def crashed(sample: Sample) -> str:
    """Why a candidate goes back that has ended workers, which its primary has not; "" where it stays."""
    crashes = sample.candidate.crashes
    if crashes <= MOST_CRASHES or sample.primary.crashes:
        return ""
    return f"crashes: {crashes} workers ended while the candidate ran, none while the primary did"


def by_labels(sample: Sample, findings: Sequence[Finding]) -> Finding | None:
    """What labels say of answers that differ; None where none came back for both versions."""
    measured = sample.measured
    if not (measured.candidate_outcomes.labelled and measured.primary_outcomes.labelled):
        return None
    return next(finding for finding in findings if finding.metric == ACCURACY)


def _of_rates(asked: Rates) -> Finding:
    return _alone(asked) if asked.primary is None else _beside(asked, asked.primary)


def _alone(asked: Rates) -> Finding:
    candidate, margin = asked.candidate, asked.margin
    text = f"{asked.metric}: {percent(candidate.rate)} of {candidate.trials:,} {asked.trials} {asked.events}"
    if sequential.above(candidate, margin, asked.alpha):
        return _found(asked, asked.above, f"{text}, certainly more than {percent(margin)}")
    if sequential.below(candidate, margin, FALSE_PROMOTION):
        return _found(asked, Outcome.FINE, f"{text}, certainly less than {percent(margin)}")
    missing = sequential.factor(candidate, margin, FALSE_PROMOTION) if candidate.rate < margin else inf
    return _unsure(asked, text, missing, candidate.trials)


def _beside(asked: Rates, primary: Trials) -> Finding:
    candidate, margin, bounding = asked.candidate, asked.margin, asked.bounding
    text = f"{asked.metric}: {percent(candidate.rate)} of the candidate's {candidate.trials:,} {asked.events}"
    text += f", {percent(primary.rate)} of the primary's {primary.trials:,}"
    points = f"{100 * margin:.3g} percentage points worse"
    if sequential.exceeds(candidate, primary, margin, asked.alpha):
        return _found(asked, asked.above, f"{text}, certainly more than {points}")
    alpha = FALSE_PROMOTION if bounding is None else FALSE_PROMOTION / 2
    bounded = bounding is not None and sequential.below(bounding, margin, alpha)
    if bounded or sequential.within(candidate, primary, margin, alpha):
        return _found(asked, Outcome.FINE, f"{text}, certainly not {points}")
    return _unsure(asked, text, sequential.factor_within(candidate, primary, margin, alpha), candidate.trials)


def _of_times(asked: Times) -> Finding:
    buckets = log(asked.ratio) / log(FINE_SECONDS[1] / FINE_SECONDS[0])
    low, high = sequential.quantile(asked.candidate, asked.share, asked.alpha / 2)
    primary_low, primary_high = sequential.quantile(asked.primary, asked.share, asked.alpha / 2)
    text = f"{asked.metric}: {span(low, high)}, the primary's {span(primary_low, primary_high)}"
    if low >= primary_high + ceil(buckets - 1e-9):
        return _found(asked, asked.above, f"{text}, certainly more than {asked.ratio:g} times as long")
    further = floor(buckets + 1e-9)
    missing = sequential.factor_quantiles(asked.candidate, asked.primary, asked.share, further, FALSE_PROMOTION)
    if missing == 1:
        return _found(asked, Outcome.FINE, f"{text}, certainly not {asked.ratio:g} times as long")
    return _unsure(asked, text, missing, sum(asked.candidate))


def _found(asked: Question, outcome: Outcome, text: str) -> Finding:
    return Finding(asked.metric, outcome, text, asked.needed, 0.0 if outcome is Outcome.FINE else inf, asked.trials)


def _unsure(asked: Question, text: str, missing: float, trials: int) -> Finding:
    more = inf if isinf(missing) else (missing - 1) * trials
    return Finding(asked.metric, Outcome.UNSURE, text, asked.needed, more, asked.trials)


def _wrong(outcomes: Outcomes) -> Trials:
    return Trials(outcomes.labelled - outcomes.right, outcomes.labelled)


def percent(rate: float) -> str:
    """A rate for people."""
    return f"{100 * rate:.3g} %"


def seconds(time_s: float) -> str:
    """A time for people, in the unit that fits."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if time_s >= scale:
            return f"{time_s / scale:.3g} {unit}"
    return f"{time_s * 1e6:.3g} µs"


def span(low: int, high: int) -> str:
    """Between two of FINE_SECONDS, by index, as `dukou.lifecycle.sequential.quantile` gives them."""
    if high >= len(FINE_SECONDS):
        return f"above {seconds(FINE_SECONDS[low])}" if low >= 0 else "unknown"
    upper = seconds(FINE_SECONDS[high])
    return f"{seconds(FINE_SECONDS[low])} to {upper}" if low >= 0 else f"up to {upper}"


_NOTHING = [0] * (len(FINE_SECONDS) + 1)
