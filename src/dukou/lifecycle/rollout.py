"""Where a rollout is and where it goes next: `next_step`, a pure function of the plan and of what was measured."""

from enum import Enum

import msgspec

from dukou.core.comparison import Comparison
from dukou.lifecycle.plan import Plan


class Status(Enum):
    """Of a rollout. RUNNING, PAUSED (by an operator) and HELD (for a human's decision) are under way, the others its
    end."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    HELD = "HELD"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"
    ABORTED = "ABORTED"

    @property
    def under_way(self) -> bool:
        """Whether the candidate is still on trial."""
        return self in (Status.RUNNING, Status.PAUSED, Status.HELD)


class Counts(msgspec.Struct):
    """Requests of one version since the rollout began: answered ones by latency (buckets of
    `dukou.telemetry.layout.FINE_SECONDS`), and those that failed; errors that are the caller's own fault count, too, as
    both versions get the same callers."""

    answered: int = 0
    errors: int = 0
    latency: list[int] = []


class Outcomes(msgspec.Struct):
    """Labels that came back for one version: how many answers, how many of them right."""

    labelled: int = 0
    right: int = 0


class Measured(msgspec.Struct):
    """Everything that a rollout is judged by, added up since it began; `comparison` is of the shadow's answers."""

    primary: Counts = msgspec.field(default_factory=Counts)
    candidate: Counts = msgspec.field(default_factory=Counts)
    comparison: Comparison = msgspec.field(default_factory=Comparison)
    primary_outcomes: Outcomes = msgspec.field(default_factory=Outcomes)
    candidate_outcomes: Outcomes = msgspec.field(default_factory=Outcomes)


class Rollout(msgspec.Struct, frozen=True):
    """One rollout, as the store keeps it.

    `step` is an index into the plan's steps, `step_s` the time spent in it so far and `step_requests` what the
    candidate had answered (or compared) when it began. `started_at` and `ended_at` are Unix times, for people.
    """

    id: int
    model: str
    primary: int
    candidate: int
    plan: Plan
    plan_text: str = ""
    step: int = 0
    step_s: float = 0.0
    step_requests: int = 0
    status: Status = Status.RUNNING
    reason: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    measured: Measured = msgspec.field(default_factory=Measured)


class Verdict(Enum):
    """What to do with a rollout now."""

    STAY = "STAY"
    NEXT = "NEXT"
    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    ROLL_BACK = "ROLL_BACK"


class Decision(msgspec.Struct, frozen=True):
    """A verdict and the sentence that says why: what is still waited for, or what was found."""

    verdict: Verdict
    reason: str
