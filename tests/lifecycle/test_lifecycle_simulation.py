"""Whole rollouts, drawn at random with fixed seeds: how often the judge is wrong. `bench/rollouts.py` has many more."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dukou.lifecycle.rollout import Status

PLAN = "shadow,incremental:10,50,100"
BENCH = Path(__file__).parents[2] / "bench" / "rollouts.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The simulation, which is a benchmark, too."""
    spec = importlib.util.spec_from_file_location("bench_rollouts", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ends(bench: ModuleType, rollouts: int, **world: Any) -> list[Any]:
    """How so many rollouts of a world ended."""
    simulated = bench.World("tested", **({"plan": PLAN, "growth": 1.4} | world))
    return [bench.simulate(simulated, seed) for seed in range(rollouts)]


def upper_bound(bench: ModuleType, found: list[Any], status: Status) -> float:
    """Of the rate of this end, with 95 % confidence."""
    bound: float = bench.upper_bound(sum(end.status is status for end in found), len(found))
    return bound


@pytest.mark.slow
def test_an_equal_candidate_is_rarely_rolled_back_and_soon_promoted(bench: ModuleType) -> None:
    """Over all looks, metrics, slices and steps; by less traffic than a small site has in an hour."""
    found = ends(bench, 100)

    assert upper_bound(bench, found, Status.ROLLED_BACK) <= 0.05
    assert all(end.status is Status.PROMOTED for end in found)
    assert sorted(sum(end.calls) for end in found)[50] < 50_000


@pytest.mark.slow
def test_one_that_is_as_much_worse_as_allowed_is_rarely_rolled_back(bench: ModuleType) -> None:
    """At the very border of two metrics, where a wrong rollback is likeliest."""
    found = ends(bench, 200, plan="incremental:50,100", candidate=bench.ALLOWED, most_calls=100_000)

    assert upper_bound(bench, found, Status.ROLLED_BACK) <= 0.05
    assert upper_bound(bench, found, Status.PROMOTED) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("what", ["5 % errors", "3 x latency", "2 % wrong labels"])
def test_a_bad_candidate_is_rolled_back_and_hardly_ever_promoted(bench: ModuleType, what: str) -> None:
    """300 rollouts without one that is promoted are enough for a bound of 1 %."""
    worlds: dict[str, dict[str, Any]] = {
        "5 % errors": {"candidate": bench.FAILING},
        "3 x latency": {"candidate": bench.SLOWER},
        "2 % wrong labels": {"candidate": bench.WRONG, "disagreed": 0.02, "labelled": 0.5},
    }

    found = ends(bench, 300, **worlds[what])

    assert upper_bound(bench, found, Status.PROMOTED) <= 0.01
    assert sum(end.status is Status.ROLLED_BACK for end in found) >= 0.99 * len(found)


@pytest.mark.parametrize(("events", "trials", "bound"), [(0, 300, 0.00994), (5, 100, 0.10225), (100, 100, 1.0)])
def test_the_bound_is_clopper_and_pearsons(bench: ModuleType, events: int, trials: int, bound: float) -> None:
    """By published tables."""
    assert bench.upper_bound(events, trials) == pytest.approx(bound, rel=1e-3)


def test_the_same_seed_is_the_same_rollout(bench: ModuleType) -> None:
    """A failure can be looked at again."""
    world = bench.World("tested", plan="blue_green", growth=2.0)

    assert bench.simulate(world, 3) == bench.simulate(world, 3)
