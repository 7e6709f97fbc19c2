"""What is learned of a model's cost, and where a batch runs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.engine.cost import Cost, Placement, placement, worth_joining


@pytest.mark.parametrize(
    ("cost_s", "budget_left_s", "where"),
    [
        (0.0001, 0.0003, Placement.INLINE),
        (0.0003, 0.0003, Placement.INLINE),
        (0.0004, 0.0003, Placement.THREAD),
        (0.0001, -0.0001, Placement.THREAD),
        (math.inf, 0.0003, Placement.THREAD),
        (0.0001, 0.0, Placement.THREAD),
    ],
)
def test_a_batch_runs_on_the_loop_while_the_budget_pays(cost_s: float, budget_left_s: float, where: Placement) -> None:
    """What does not fit into this iteration, and what is not known, goes to a thread."""
    assert placement(cost_s, budget_left_s) is where


@pytest.mark.parametrize(
    ("request_bytes", "cost_s", "joined"),
    [
        (100, 0.0, True),
        (65_535, 0.0, True),
        (602_112, 19e-6, False),
        (602_112, 130e-6, False),
        (602_112, 1e-3, True),
        (602_112, math.inf, True),
    ],
)
def test_large_requests_are_joined_where_running_costs_more_than_copying(
    request_bytes: int, cost_s: float, joined: bool
) -> None:
    """What is not known yet is joined."""
    assert worth_joining(request_bytes, cost_s) is joined


def test_the_unknown_costs_more_than_any_budget() -> None:
    """So that the first run of a model is never on the loop."""
    assert Cost().estimate(1) == math.inf


@given(
    base=st.floats(1e-6, 1e-3),
    per_row=st.floats(1e-8, 1e-4),
    sizes=st.lists(st.sampled_from([1, 4, 16, 64, 256]), min_size=10, max_size=60).filter(
        lambda sizes: len(set(sizes)) > 2
    ),
)
def test_a_straight_line_is_learned(base: float, per_row: float, sizes: list[int]) -> None:
    """From exact runs of mixed sizes the estimate of a size in between is close."""
    cost = Cost()
    for _ in range(3):
        for rows in sizes:
            cost.observe(rows, base + per_row * rows)

    for rows in (1, 8, 32, 128, 256):
        assert cost.estimate(rows) == pytest.approx(base + per_row * rows, rel=0.25, abs=5e-6)


def test_one_size_says_that_more_rows_cost_more() -> None:
    """Until a second size was seen, a large batch is taken to cost in proportion, not as much as one row."""
    cost = Cost()
    for _ in range(5):
        cost.observe(1, 0.00001)

    assert cost.estimate(1) == pytest.approx(0.00001)
    assert cost.estimate(1000) == pytest.approx(0.01)


def test_an_interruption_is_not_the_models_cost() -> None:
    """One or two runs that another process delayed change nothing."""
    cost = Cost()
    for _ in range(10):
        cost.observe(1, 0.00001)

    cost.observe(1, 0.005)
    cost.observe(1, 0.005)

    assert cost.estimate(1) == pytest.approx(0.00001)


def test_a_model_that_has_become_slow_is_noticed_at_the_third_run() -> None:
    """Slow input, or a slow machine: it leaves the loop soon."""
    cost = Cost()
    for _ in range(100):
        cost.observe(1, 0.00001)

    for _ in range(3):
        cost.observe(1, 0.01)

    assert cost.estimate(1) > 0.0003


def test_a_run_that_cannot_be_doubted_counts_at_once() -> None:
    """Above `doubt_below_s` even one run after many short ones counts whole; short ones win it back."""
    cost = Cost()
    for _ in range(100):
        cost.observe(1, 0.00001, doubt_below_s=0.003)

    cost.observe(1, 0.4, doubt_below_s=0.003)
    assert cost.estimate(1) > 0.03

    for _ in range(30):
        cost.observe(1, 0.00001, doubt_below_s=0.003)
    assert cost.estimate(1) < 0.0001


def test_a_model_that_is_fast_again_comes_back() -> None:
    """A slow start or a busy machine is forgotten within some batches."""
    cost = Cost()
    for _ in range(10):
        cost.observe(1, 0.1)

    for _ in range(30):
        cost.observe(1, 0.00001)

    assert cost.estimate(1) < 0.0003


@given(st.lists(st.tuples(st.integers(0, 100_000), st.floats(0.0, 100.0)), min_size=1, max_size=50))
def test_an_estimate_is_never_negative_and_always_finite(runs: list[tuple[int, float]]) -> None:
    """Whatever was measured."""
    cost = Cost()
    for rows, seconds in runs:
        cost.observe(rows, seconds)

    for rows in (0, 1, 256, 1_000_000):
        assert 0.0 <= cost.estimate(rows) < math.inf
