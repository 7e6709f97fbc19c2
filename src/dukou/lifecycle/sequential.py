"""Confidence sequences: what counts say for certain, however often one looks at them.

All of it is one idea. The likelihood of what was counted, averaged over all rates by Jeffreys' prior, over its
likelihood at one rate is a martingale when that is the true rate, so it ever reaches 1/alpha with probability alpha at
most (Ville 1939; Robbins 1970; as the beta-binomial mixture in Howard, Ramdas, McAuliffe & Sekhon 2021). The rates at
which it has not reached it are an interval that holds the true rate at all looks together. Counts suffice, in whatever
portions they came, over workers and restarts.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import inf, lgamma, log, log1p, pi
from typing import NamedTuple

_LOG_PI = log(pi)
_HALVINGS = 30
"""Of an interval of rates, until its ends are the same for all purposes."""
_ROUGHLY = 12


class Trials(NamedTuple):
    """Of so many trials, how many were events."""

    events: int
    trials: int

    @property
    def rate(self) -> float:
        """The share of events; 0 of no trials."""
        return self.events / self.trials if self.trials else 0.0


def interval(counted: Trials, alpha: float) -> tuple[float, float]:
    """Where the rate is: either end is ever wrong with probability `alpha` together."""
    least = _mixture(counted) + log(alpha)
    return _end(counted, 0.0, least), _end(counted, 1.0, least)


def above(counted: Trials, limit: float, alpha: float) -> bool:
    """Whether the rate is certainly above `limit`; where it is not, ever true with probability `alpha` at most."""
    return counted.rate > limit and factor(counted, limit, alpha) == 1.0


def below(counted: Trials, limit: float, alpha: float) -> bool:
    """Whether the rate is certainly below `limit`; wrong as seldom as `above`."""
    return counted.rate < limit and factor(counted, limit, alpha) == 1.0


def exceeds(candidate: Trials, primary: Trials, margin: float, alpha: float) -> bool:
    """Whether the candidate's rate is certainly above the primary's plus `margin`: where it is not, this is ever true
    with probability `alpha` at most, half of which is spent on either side."""
    if candidate.rate <= primary.rate + margin:
        return False
    return interval(candidate, alpha / 2)[0] > interval(primary, alpha / 2)[1] + margin


def within(candidate: Trials, primary: Trials, margin: float, alpha: float) -> bool:
    """Whether the candidate's rate is certainly below the primary's plus `margin`; wrong as seldom as `exceeds`."""
    if candidate.rate >= primary.rate + margin:
        return False
    return interval(candidate, alpha / 2)[1] < interval(primary, alpha / 2)[0] + margin


def factor_within(candidate: Trials, primary: Trials, margin: float, alpha: float) -> float:
    """How many times as many trials would make `within` true, with the rates as they are; infinite where none would."""
    if candidate.rate >= primary.rate + margin:
        return inf
    low, high = max(0.0, candidate.rate - margin), primary.rate
    for _ in range(_ROUGHLY):  # what parts them best lies where both sides need equally many
        rate = (low + high) / 2
        if factor(candidate, rate + margin, alpha / 2) > factor(primary, rate, alpha / 2):
            low = rate
        else:
            high = rate
    return max(factor(candidate, high + margin, alpha / 2), factor(primary, high, alpha / 2) if high > 0.0 else 1.0)


def factor(counted: Trials, limit: float, alpha: float) -> float:
    """How many times as many trials, with the rate as it is, would take `limit` out of the interval; at least 1."""
    if not 0.0 <= limit <= 1.0:
        return 1.0
    best = _likelihood(counted, counted.rate)
    gain = best - _likelihood(counted, limit)
    return max(1.0, (best - _mixture(counted) - log(alpha)) / gain) if gain > 0.0 else inf


def quantile(counts: Sequence[int], share: float, alpha: float) -> tuple[int, int]:
    """Between which bounds of a histogram a quantile certainly is: above the first and not above the second.

    `counts` are by bucket, the last without an upper bound: -1 is below all bounds, `len(counts) - 1` above all. Either
    end is ever wrong with probability `alpha` together, for all bounds at once: counts up to a higher bound are never
    fewer, so an end can be wrong only where it is at the one bound next to the quantile (Howard & Ramdas 2022).
    """
    upto = list(accumulate(counts))
    total = upto.pop()
    needed = lgamma(total + 1.0) + _LOG_PI - log(alpha)
    less, more = log(share), log1p(-share)

    def side(count: int) -> int:
        others = total - count
        if lgamma(count + 0.5) + lgamma(others + 0.5) - count * less - others * more < needed:
            return 0
        return -1 if count < share * total else 1

    return bisect_left(upto, 0, key=side) - 1, bisect_left(upto, 1, key=side)


def factor_quantiles(
    candidate: Sequence[int], primary: Sequence[int], share: float, further: int, alpha: float
) -> float:
    """How many times as many values would make the candidate's quantile certainly not above the bound that is `further`
    bounds above one that the primary's certainly exceeds; infinite where none would. Values below the lowest bound
    count as that bound: the primary's need not exceed it."""
    upto, primary_upto = list(accumulate(candidate)), list(accumulate(primary))
    total, primary_total = upto.pop(), primary_upto.pop()
    lowest = Trials(upto[further], total) if further < len(upto) else Trials(0, 0)
    fewest = factor(lowest, share, alpha / 2) if lowest.rate > share else inf
    first = max(0, bisect_right(upto, share * total) - further)
    last = min(len(upto) - further, bisect_left(primary_upto, share * primary_total))
    for bound in range(first, last):
        more = factor(Trials(upto[bound + further], total), share, alpha / 2)
        if more < fewest:
            fewest = min(fewest, max(more, factor(Trials(primary_upto[bound], primary_total), share, alpha / 2)))
    return fewest


def _likelihood(counted: Trials, rate: float) -> float:
    """The logarithm of the probability of these trials, in one order."""
    events, others = counted.events, counted.trials - counted.events
    if (events and rate <= 0.0) or (others and rate >= 1.0):
        return -inf
    return (events * log(rate) if events else 0.0) + (others * log1p(-rate) if others else 0.0)


def _mixture(counted: Trials) -> float:
    """The same, averaged over rates by Jeffreys' prior, Beta(1/2, 1/2)."""
    events, trials = counted
    return lgamma(events + 0.5) + lgamma(trials - events + 0.5) - lgamma(trials + 1.0) - _LOG_PI


def _end(counted: Trials, extreme: float, least: float) -> float:
    """The end of an interval towards `extreme`: where the likelihood is `least`."""
    if _likelihood(counted, extreme) > least:
        return extreme
    inside, outside = counted.rate, extreme
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if _likelihood(counted, middle) > least:
            inside = middle
        else:
            outside = middle
    return outside
