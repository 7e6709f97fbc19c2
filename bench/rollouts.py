"""Whole rollouts by simulation: how often the judge is wrong, and how much traffic it needs.

python bench/rollouts.py [ROLLOUTS [PART OF A WORLD'S NAME]]

What callers do is drawn at random, with fixed seeds; each look is the real `next_step`. Exits with 1 where an upper
95 % bound is above what the project promises.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import erf, exp, lgamma, log, log1p, sqrt
from multiprocessing import get_context
from statistics import median

import msgspec
import numpy as np

from dukou.core.buckets import FINE_SECONDS, SECONDS
from dukou.core.comparison import Comparison, Tally
from dukou.lifecycle.measured import Counts, Outcomes
from dukou.lifecycle.plan import parse
from dukou.lifecycle.rollout import Rollout, Status, advance, next_step

ROLLOUTS = 2000
FALSE_ROLLBACK, FALSE_PROMOTION = 0.05, 0.01
CALLS_PER_S = 1000.0


@dataclass(frozen=True)
class Side:
    """What a version does: errors, a log-normal latency, wrong labels."""

    errors: float = 0.003
    median_s: float = 0.004
    sigma: float = 0.5
    wrong: float = 0.05


@dataclass(frozen=True)
class World:
    """Two versions and their callers. `disagreed` rows differ, `failed` ones the shadow fails on; `labelled` is the
    share of answers whose label comes back. `growth` is by how much the traffic of a step grows from look to look;
    whoever is undecided after `most_calls` stays so."""

    name: str
    plan: str = "shadow,incremental"
    primary: Side = Side()
    candidate: Side = Side()
    disagreed: float = 0.001
    failed: float = 0.0
    labelled: float = 0.0
    slices: Sequence[float] = field(default_factory=lambda: tuple([0.5**each for each in range(1, 8)] + [0.5**7]))
    growth: float = 1.2
    most_calls: int = 5_000_000
    bad: bool = False


@dataclass(frozen=True)
class End:
    """How one rollout ended: its status, the calls of all versions by step, labels that came back, the last reason."""

    status: Status
    calls: tuple[int, ...]
    labels: int
    looks: int
    reason: str


ALLOWED = Side(errors=0.023, median_s=0.008)
SLOWER = Side(median_s=0.012)
FAILING = Side(errors=0.05)
WRONG = Side(wrong=0.07)
EQUAL = World("equal")
WORLDS = (
    EQUAL,
    World("equal, callers' own errors 5 %", primary=Side(errors=0.05), candidate=Side(errors=0.05)),
    World("equal, labels of 20 %", labelled=0.2),
    World("equal, disagreement up to 2 % allowed", "shadow,incremental max_disagreement=0.02", disagreed=0.01),
    World("equal, blue/green", "blue_green"),
    World("equal, looked at more often", growth=1.05),
    World("as much worse as allowed", candidate=ALLOWED),
    World("5 % errors", candidate=FAILING, bad=True),
    World("5 % errors, blue/green", "blue_green", candidate=FAILING, bad=True),
    World("3 x latency", candidate=SLOWER, bad=True),
    World("2 % wrong labels, labels of 20 %", candidate=WRONG, disagreed=0.02, labelled=0.2, bad=True),
    World("2 % wrong labels, no shadow", "incremental", candidate=WRONG, labelled=0.2, bad=True),
)


def simulate(world: World, seed: int) -> End:
    """One rollout from its first look to its end."""
    chance = np.random.default_rng(seed)
    rollout = Rollout(1, "simulated", 1, 2, parse(world.plan, least_s=0))
    steps = rollout.plan.steps
    calls = [0] * len(steps)
    looks = 0
    if steps[0].kind == "blue_green":
        rollout = _with(rollout, primary=_counts(chance, world.primary, 20_000))
    while rollout.status is Status.RUNNING and sum(calls) < world.most_calls:
        step = rollout.step
        more = max(20, int(calls[step] * (world.growth - 1)))
        calls[step] += more
        looks += 1
        rollout = _look(chance, world, rollout, more)
        rollout = advance(rollout, next_step(rollout), 0.0)
    labels = rollout.measured.candidate_outcomes.labelled + rollout.measured.primary_outcomes.labelled
    return End(rollout.status, tuple(calls), labels, looks, rollout.reason)


def _look(chance: np.random.Generator, world: World, rollout: Rollout, calls: int) -> Rollout:
    """The rollout after so many more calls."""
    step, measured = rollout.plan.steps[rollout.step], rollout.measured
    to_candidate = int(chance.binomial(calls, step.share))
    copied = calls if step.shadow else 0
    rollout = _with(
        rollout,
        primary=_sum(measured.primary, _counts(chance, world.primary, calls - to_candidate)),
        candidate=_sum(measured.candidate, _counts(chance, world.candidate, to_candidate)),
        comparison=_compared(chance, world, measured.comparison, copied),
        primary_outcomes=_labels(chance, measured.primary_outcomes, world, world.primary, calls - to_candidate),
        candidate_outcomes=_labels(chance, measured.candidate_outcomes, world, world.candidate, to_candidate + copied),
    )
    return msgspec.structs.replace(rollout, step_s=rollout.step_s + calls / CALLS_PER_S)


def _with(rollout: Rollout, **measured: object) -> Rollout:
    return msgspec.structs.replace(rollout, measured=msgspec.structs.replace(rollout.measured, **measured))


def _counts(chance: np.random.Generator, side: Side, calls: int) -> Counts:
    errors = int(chance.binomial(calls, side.errors))
    return Counts(calls - errors, errors, _times(chance, side, FINE_SECONDS, calls - errors))


_SHARES: dict[tuple[Side, int], np.ndarray] = {}


def _times(chance: np.random.Generator, side: Side, bounds: Sequence[float], count: int) -> list[int]:
    shares = _SHARES.get((side, len(bounds)))
    if shares is None:
        upto = [0.5 + erf((log(bound) - log(side.median_s)) / side.sigma / sqrt(2)) / 2 for bound in bounds]
        shares = _SHARES[side, len(bounds)] = np.diff([0.0, *upto, 1.0])
    return chance.multinomial(count, shares).tolist()


def _sum(counts: Counts, more: Counts) -> Counts:
    latency = np.add(counts.latency, more.latency).tolist() if counts.latency else more.latency
    return Counts(counts.answered + more.answered, counts.errors + more.errors, latency)


def _compared(chance: np.random.Generator, world: World, before: Comparison, rows: int) -> Comparison:
    if not rows:
        return before
    by_slice = chance.multinomial(rows, world.slices)
    disagreed = chance.binomial(by_slice, world.disagreed)
    slices = {}
    for value, (had, differed) in enumerate(zip(by_slice.tolist(), disagreed.tolist(), strict=True)):
        tally = before.slices.get(str(value), Tally())
        slices[str(value)] = Tally(tally.rows + had, tally.disagreed + differed)
    times = [_times(chance, side, SECONDS, rows) for side in (world.primary, world.candidate)]
    return Comparison(
        rows=before.rows + rows,
        copies=before.copies + rows,
        disagreed=before.disagreed + int(disagreed.sum()),
        failed=before.failed + int(chance.binomial(rows, world.failed)),
        slices=slices,
        primary_s=np.add(before.primary_s or 0, times[0]).tolist(),
        candidate_s=np.add(before.candidate_s or 0, times[1]).tolist(),
    )


def _labels(chance: np.random.Generator, before: Outcomes, world: World, side: Side, answers: int) -> Outcomes:
    if not world.labelled:
        return before
    labelled = int(chance.binomial(answers, world.labelled))
    return Outcomes(before.labelled + labelled, before.right + int(chance.binomial(labelled, 1 - side.wrong)))


def upper_bound(events: int, trials: int, alpha: float = 0.05) -> float:
    """The rate that is not exceeded with confidence 1 - alpha (Clopper & Pearson 1934, one-sided)."""
    if events >= trials:
        return 1.0
    low, high = events / trials, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        low, high = (rate, high) if _at_most(events, trials, rate) > alpha else (low, rate)
    return high


def _at_most(events: int, trials: int, rate: float) -> float:
    def each(count: int) -> float:
        ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
        return exp(ways + count * log(rate) + (trials - count) * log1p(-rate)) if rate > 0 else float(count == 0)

    return sum(each(count) for count in range(events + 1))


def wrong(world: World, ends: Sequence[End]) -> tuple[int, float, float]:
    """How many ends are wrong, the upper 95 % bound of their rate, and what it may be."""
    status, most = (Status.PROMOTED, FALSE_PROMOTION) if world.bad else (Status.ROLLED_BACK, FALSE_ROLLBACK)
    count = sum(end.status is status for end in ends)
    return count, upper_bound(count, len(ends)), most


def run(world: World, rollouts: int, spread: Callable[..., Sequence[End]]) -> Sequence[End]:
    """So many rollouts of a world, each with a seed of its own."""
    return spread(partial(simulate, world), range(rollouts))


def main(rollouts: int, part: str) -> int:
    """Print the tables; returns the exit code."""
    kept = True
    of_equal: Sequence[End] = ()
    print(f"{rollouts:,} rollouts each. Calls are of both versions together, until the end, least times aside.\n")
    print("| world | promoted | rolled back | held | undecided | wrong, upper 95 % | calls, median | p95 | looks |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with get_context("spawn").Pool() as pool:
        for world in (world for world in WORLDS if part in world.name):
            ends = run(world, rollouts, partial(pool.map, chunksize=10))
            of_equal = ends if world is EQUAL else of_equal
            _, bound, most = wrong(world, ends)
            kept = kept and bound <= most
            told = [sum(end.status is status for end in ends) for status in (Status.PROMOTED, Status.ROLLED_BACK)]
            told += [sum(end.status is status for end in ends) for status in (Status.HELD, Status.RUNNING)]
            calls = [sum(end.calls) for end in ends]
            print(
                f"| {world.name} | {' | '.join(f'{each:,}' for each in told)} | {100 * bound:.2f} % of {100 * most:g} "
                f"| {median(calls):,.0f} | {np.quantile(calls, 0.95):,.0f} | {median(end.looks for end in ends):.0f} |",
                flush=True,
            )
    if of_equal:
        _print_steps(EQUAL, of_equal)
    return 0 if kept else 1


def _print_steps(world: World, ends: Sequence[End]) -> None:
    print("\nWhat each step of an equal candidate costs:\n")
    print("| step | calls, median | p95 |")
    print("|---|---:|---:|")
    promoted = [end.calls for end in ends if end.status is Status.PROMOTED]
    for index, step in enumerate(parse(world.plan).steps):
        calls = [each[index] for each in promoted]
        share = f"{100 * (step.share or step.shadow):g} %"
        print(f"| {step.kind} {share} | {median(calls):,.0f} | {np.quantile(calls, 0.95):,.0f} |")


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:] or [ROLLOUTS])[0]), "".join(sys.argv[2:3])))
