"""What a rollout is judged by: counts that are added up while it lasts."""

import msgspec

from dukou.core.comparison import Comparison


class Counts(msgspec.Struct):
    """Requests of one version since the rollout began: answered ones by latency (buckets of
    `dukou.core.buckets.FINE_SECONDS`), and those that failed; errors that are the caller's own fault count, too, as
    both versions get the same callers. `crashes` are those errors with which a worker died."""

    answered: int = 0
    errors: int = 0
    latency: list[int] = []
    crashes: int = 0

    @property
    def requests(self) -> int:
        """Answered or failed."""
        return self.answered + self.errors


class Outcomes(msgspec.Struct):
    """Labels that came back for one version: how many answers, how many of them right."""

    labelled: int = 0
    right: int = 0


class Measured(msgspec.Struct):
    """Everything that a rollout is judged by, added up since it began; `comparison` is of the shadow's answers.

    Where a plan is `blue_green`, the primary answers nobody any more while the candidate is judged: its counts are then
    those of before.
    """

    primary: Counts = msgspec.field(default_factory=Counts)
    candidate: Counts = msgspec.field(default_factory=Counts)
    comparison: Comparison = msgspec.field(default_factory=Comparison)
    primary_outcomes: Outcomes = msgspec.field(default_factory=Outcomes)
    candidate_outcomes: Outcomes = msgspec.field(default_factory=Outcomes)


def since(now: Counts, base: Counts) -> Counts:
    """What came after `base`. A count never falls: where it has, counting began anew, and all of it came after."""
    if now.requests < base.requests:
        return now
    latency = now.latency
    if base.latency:
        latency = [max(0, new - old) for new, old in zip(now.latency, base.latency, strict=True)]
    return Counts(now.answered - base.answered, now.errors - base.errors, latency, now.crashes - base.crashes)


def add(counts: Counts, more: Counts) -> Counts:
    """Both together."""
    latency = counts.latency or more.latency
    if counts.latency and more.latency:
        latency = [one + other for one, other in zip(counts.latency, more.latency, strict=True)]
    crashes = counts.crashes + more.crashes
    return Counts(counts.answered + more.answered, counts.errors + more.errors, latency, crashes)


def copied(counts: Counts) -> Counts:
    """The same counts, which stay when the others go on."""
    return Counts(counts.answered, counts.errors, [*counts.latency], counts.crashes)
