"""The bounds of the buckets that times are counted in, the same wherever two histograms meet."""

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = tuple([1e-5 * 1.8**exponent for exponent in range(33)])
"""Upper bounds of time buckets as they are told, 10 µs to 25 min; one more bucket takes what is longer. They are
TensorFlow Serving's, so that histograms of both can be added up."""

FINER = 3
FINE_SECONDS = tuple(
    [
        SECONDS[each // FINER] if each % FINER == 0 else SECONDS[each // FINER] * 1.8 ** (each % FINER / FINER)
        for each in range(FINER * (len(SECONDS) - 1) + 1)
    ]
)
"""Upper bounds of latencies as they are counted and judged, each 1.22 times the one before: every third is one of
SECONDS, to the bit, so that three buckets add up to one of those."""


def counted(seconds: float) -> list[int]:
    """One time as counts by FINE_SECONDS."""
    counts = [0] * (len(FINE_SECONDS) + 1)
    counts[bisect_left(FINE_SECONDS, seconds)] = 1
    return counts


def coarse(fine: Sequence[float]) -> list[float]:
    """Counts by FINE_SECONDS as counts by SECONDS: the first and the last bucket stay as they are."""
    return [fine[0], *[sum(fine[start : start + FINER]) for start in range(1, len(fine) - 1, FINER)], fine[-1]]
