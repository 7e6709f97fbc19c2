"""Where a rollout is and where it goes next: `next_step`, a pure function of the plan and of what was measured."""

from enum import Enum

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.measured import Counts, Measured, Outcomes
from dukou.lifecycle.plan import Plan

__all__ = ("Counts", "Decision", "Measured", "Outcomes", "Rollout", "Status", "Verdict", "advance", "next_step")


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


class Rollout(msgspec.Struct, frozen=True):
    """One rollout, as the store keeps it.

    `step` is an index into the plan's steps, `step_s` the time spent in it so far and `step_requests` what the
    candidate had answered (or compared) when it began; `step_primary` and `step_candidate` are all counts of then.
    `started_at` and `ended_at` are Unix times, for people.
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
    step_primary: Counts = msgspec.field(default_factory=Counts)
    step_candidate: Counts = msgspec.field(default_factory=Counts)


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


def next_step(rollout: Rollout) -> Decision:
    """Where the rollout goes now, and the sentence that says why or what is still missing."""
    return Decision(Verdict.STAY, "the rollout goes on")


def advance(rollout: Rollout, decision: Decision, now_at: float) -> Rollout:
    """The rollout after the decision: of the judge, or of an operator, whose NEXT leaves a step that is held.

    `now_at` is the Unix time. Raises DukouError PRECONDITION_FAILED when the rollout is over.
    """
    if not rollout.status.under_way:
        detail = f"rollout {rollout.id} is over: {rollout.status.value}, {rollout.reason}"
        raise DukouError(Reason.PRECONDITION_FAILED, model=rollout.model, detail=detail)
    verdict = decision.verdict
    if verdict is Verdict.NEXT and rollout.step + 1 >= len(rollout.plan.steps):
        verdict = Verdict.PROMOTE
    match verdict:
        case Verdict.STAY:
            return msgspec.structs.replace(rollout, reason=decision.reason)
        case Verdict.HOLD:
            return msgspec.structs.replace(rollout, status=Status.HELD, reason=decision.reason)
        case Verdict.PROMOTE | Verdict.ROLL_BACK:
            status = Status.PROMOTED if verdict is Verdict.PROMOTE else Status.ROLLED_BACK
            return msgspec.structs.replace(rollout, status=status, reason=decision.reason, ended_at=now_at)
        case Verdict.NEXT:
            measured = rollout.measured
            answers = rollout.plan.steps[rollout.step + 1].share > 0
            return msgspec.structs.replace(
                rollout,
                step=rollout.step + 1,
                step_s=0.0,
                step_requests=measured.candidate.requests if answers else measured.comparison.rows,
                step_primary=measured.primary,
                step_candidate=measured.candidate,
                status=Status.RUNNING,
                reason=decision.reason,
            )
