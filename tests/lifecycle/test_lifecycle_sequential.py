"""Confidence sequences: intervals that hold at all looks, and what follows from them."""

import random
from itertools import accumulate
from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.lifecycle.sequential import (
    Trials,
    above,
    below,
    exceeds,
    factor,
    factor_quantiles,
    factor_within,
    interval,
    quantile,
    within,
)

counts = (
    st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))).map(lambda pair: Trials(*pair))
)
histograms = st.lists(st.integers(0, 40), min_size=6, max_size=6)


@given(counts, st.sampled_from([0.001, 0.01, 0.1]))
def test_an_interval_holds_what_was_seen_and_shrinks_with_more(counted: Trials, alpha: float) -> None:
    """Its ends are rates; ten times as many of the same are known better."""
    low, high = interval(counted, alpha)
    more_low, more_high = interval(Trials(counted.events * 10, counted.trials * 10), alpha)

    assert 0.0 <= low <= counted.rate <= high <= 1.0
    assert more_high - more_low < high - low


def test_nothing_is_known_of_nothing() -> None:
    """Without trials every rate is possible, and no number of times as many would change that."""
    none = Trials(0, 0)

    assert interval(none, 0.01) == (0.0, 1.0)
    assert not above(none, 0.0, 0.01)
    assert not below(none, 1.0, 0.01)
    assert not exceeds(Trials(9, 9), none, 0.02, 0.01)
    assert not within(none, Trials(0, 1000), 0.02, 0.01)
    assert factor(none, 0.5, 0.01) == factor_within(none, none, 0.02, 0.01) == inf
    assert quantile([0] * 5, 0.5, 0.01) == (-1, 4)


def test_few_errors_are_not_worse_than_whatever_the_primary_has() -> None:
    """A candidate that certainly fails on less than the margin is within it, though nothing is known of the primary."""
    assert within(Trials(0, 1000), Trials(0, 0), 0.02, 0.01)


@given(counts, st.floats(0.001, 0.999))
def test_a_limit_is_passed_where_the_interval_has_passed_it(counted: Trials, limit: float) -> None:
    """The quick way and the interval are one."""
    low, high = interval(counted, 0.01)

    if abs(low - limit) > 1e-6:
        assert above(counted, limit, 0.01) == (low > limit)
    if abs(high - limit) > 1e-6:
        assert below(counted, limit, 0.01) == (high < limit)


def test_an_interval_holds_the_rate_at_all_looks() -> None:
    """Looked at after every single trial, it is ever wrong less often than was allowed: at most 10 % of 400 series."""
    chance = random.Random(1)
    wrong = 0
    for _ in range(400):
        events = 0
        for trials in range(1, 301):
            events += chance.random() < 0.3
            if above(Trials(events, trials), 0.3, 0.1) or below(Trials(events, trials), 0.3, 0.1):
                wrong += 1
                break

    assert 1 <= wrong <= 40


def test_an_interval_of_a_fixed_number_of_looks_would_be_wrong_more_often() -> None:
    """The same series by a normal interval of 90 % at every look: this is what the method is for."""
    chance = random.Random(1)
    wrong = 0
    for _ in range(400):
        events = 0
        for trials in range(1, 301):
            events += chance.random() < 0.3
            if trials > 20 and abs(events / trials - 0.3) > 1.645 * (0.21 / trials) ** 0.5:
                wrong += 1
                break

    assert wrong > 160


@given(counts, counts, st.floats(0.0, 0.3))
def test_both_are_never_found_at_once(candidate: Trials, primary: Trials, margin: float) -> None:
    """What is certainly above the margin is not certainly below it."""
    assert not (exceeds(candidate, primary, margin, 0.01) and within(candidate, primary, margin, 0.01))


@given(counts, counts, st.floats(0.001, 0.3))
def test_as_many_times_as_told_are_enough(candidate: Trials, primary: Trials, margin: float) -> None:
    """About: the estimate leaves out what grows with the logarithm."""
    times = factor_within(candidate, primary, margin, 0.01)

    if within(candidate, primary, margin, 0.01):
        assert times < 1.1
    elif times < 1000:
        many = 4 * round(times)
        more = [Trials(each.events * many, each.trials * many) for each in (candidate, primary)]
        assert within(more[0], more[1], margin, 0.01)
    if candidate.rate >= primary.rate + margin:
        assert times == inf


@pytest.mark.parametrize(("trials", "enough"), [(300, False), (450, True)])
def test_a_candidate_without_errors_needs_some_hundred_requests(trials: int, enough: bool) -> None:
    """What a step costs at a margin of 2 %: beside a primary that is known well."""
    assert within(Trials(0, trials), Trials(0, 99 * trials), 0.02, 0.01) is enough


@given(histograms, st.sampled_from([0.5, 0.9]))
def test_a_quantile_is_between_its_bounds(counted: list[int], share: float) -> None:
    """The quantile of what was seen always is; with a thousand times as many nothing else is possible."""
    low, high = quantile(counted, share, 0.01)
    many_low, many_high = quantile([1000 * count for count in counted], share, 0.01)

    upto = list(accumulate(counted))
    seen = next((index for index, count in enumerate(upto) if count >= share * upto[-1]), 5)
    assert low <= seen
    assert high >= seen or upto[-1] == 0
    assert low <= many_low <= many_high <= high


def test_a_quantile_is_wrong_less_often_than_was_allowed() -> None:
    """Exponential times, looked at after every ten: the median lies above the second of these bounds."""
    chance = random.Random(2)
    bounds = (0.3, 0.6, 0.7, 1.0, 2.0)  # the median is 0.693
    wrong = 0
    for _ in range(300):
        counted = [0] * 6
        for trial in range(1, 401):
            time = chance.expovariate(1.0)
            counted[sum(time > bound for bound in bounds)] += 1
            if trial % 10 == 0:
                low, high = quantile(counted, 0.5, 0.1)
                if low > 1 or high < 2:
                    wrong += 1
                    break

    assert wrong <= 30
    assert exp(-0.6) > 0.5 > exp(-0.7)


@given(histograms, histograms, st.integers(0, 5), st.sampled_from([0.5, 0.9]))
def test_the_quick_way_to_what_quantiles_need_is_the_plain_one(
    candidate: list[int], primary: list[int], further: int, share: float
) -> None:
    """Bounds that cannot do are left out, and no others."""
    upto, primary_upto = list(accumulate(candidate)), list(accumulate(primary))
    total, primary_total = upto.pop(), primary_upto.pop()
    fewest = inf
    if further < 5 and upto[further] > share * total:
        fewest = factor(Trials(upto[further], total), share, 0.005)
    for bound in range(5 - further):
        less, more = Trials(primary_upto[bound], primary_total), Trials(upto[bound + further], total)
        if less.rate < share < more.rate:
            fewest = min(fewest, max(factor(less, share, 0.005), factor(more, share, 0.005)))

    assert factor_quantiles(candidate, primary, share, further, 0.01) == fewest
