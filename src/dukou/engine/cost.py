"""How long a batch will take, learned from those that ran, and where it may run. No clock, no loop."""

import math
from enum import Enum


class Placement(Enum):
    """Where a batch runs."""

    INLINE = "on the loop"
    THREAD = "in a thread"


def placement(cost_s: float, budget_left_s: float) -> Placement:
    """On the loop while what is left of this iteration's budget pays for it, else in a thread."""
    return Placement.INLINE if cost_s <= budget_left_s else Placement.THREAD


LARGE_BYTES = 65_536
"""Requests below this are joined without a thought: a run costs some 10 µs, copying so much as well."""
COPY_S_PER_BYTE = 1.7e-10
"""Joining eight inputs of 602 KB took 819 µs, most of it for fresh memory (bench/run.py, 1x3x224x224)."""


def worth_joining(request_bytes: int, cost_s: float) -> bool:
    """Whether requests of so many bytes gain by sharing a run, when one costs `cost_s`.

    What is learned of shared runs holds the copying too, hence twice: a model that takes less than its inputs' copying
    runs alone, whichever way it ran before.
    """
    return request_bytes < LARGE_BYTES or cost_s > 2.0 * request_bytes * COPY_S_PER_BYTE


class Cost:
    """The cost of running rows of one kind, estimated as a + b·rows.

    A straight line through the latest runs, older ones counting less and less. Interruptions (another process, the
    interpreter lock) only ever lengthen a run: so a longer one counts only as far as the two before it were longer too,
    and shorter ones count more. Until batches of different sizes have been seen, cost is taken to be in proportion to
    rows beyond the size that is known.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._rows = 0.0  # means, variance and covariance of the latest runs
        self._seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0
        self._slope: float | None = None
        self._excess = (1.0, 1.0)  # the last two runs, as multiples of what was expected of them

    def estimate(self, rows: int) -> float:
        """Seconds that a batch of `rows` will take; infinite before the first run."""
        if not self._seen:
            return math.inf
        if self._slope is None:
            return self._seconds * max(1.0, rows / max(self._rows, 1.0))
        return max(0.0, self._seconds + self._slope * (rows - self._rows))

    def observe(self, rows: int, seconds: float, doubt_below_s: float = math.inf) -> None:
        """Learn from a run of `rows` that took `seconds`: a longer one than `doubt_below_s` counts whole at once."""
        expected = self.estimate(rows)
        if 0.0 < expected < math.inf:
            excess = seconds / expected
            if excess > 1.0 and seconds < doubt_below_s:
                seconds = min(seconds, expected * max(1.0, min(self._excess)))
            self._excess = (self._excess[1], excess)
        self._seen += 1
        gain = max(1.0 / self._seen, 0.3 if seconds < expected else 0.1)
        off_rows = rows - self._rows
        off_seconds = seconds - self._seconds
        self._rows += gain * off_rows
        self._seconds += gain * off_seconds
        self._variance = (1.0 - gain) * (self._variance + gain * off_rows * off_rows)
        self._covariance = (1.0 - gain) * (self._covariance + gain * off_rows * off_seconds)
        if self._variance >= 0.25:  # below, all batches are of one size and say nothing about the slope
            self._slope = max(0.0, self._covariance / self._variance)
