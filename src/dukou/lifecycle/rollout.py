"""Where a rollout is and where it goes next: `next_step`, a pure function of the plan and of what was measured."""

from collections.abc import Iterator, Sequence
from enum import Enum
from math import ceil, isinf

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.judge import Finding, Outcome, Sample, answer, by_labels, crashed, percent, questions
from dukou.lifecycle.measured import Counts, Measured, copied, since
from dukou.lifecycle.plan import FULL, Plan, Step


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
    """Where the rollout goes now, and the sentence that says why or what is still missing.

    A candidate that is worse goes back from wherever it is, also while a human is waited for; one that is paused is not
    judged.
    """
    as_it_is = Decision(Verdict.STAY, rollout.reason or f"it is {rollout.status.value}")
    if rollout.status not in (Status.RUNNING, Status.HELD):
        return as_it_is
    step = rollout.plan.steps[rollout.step]
    if step.kind == FULL:
        return Decision(Verdict.PROMOTE, "a full update is not judged: the version before is not there any more")
    sample = sample_of(rollout)
    findings = [answer(question) for question in questions(sample)]
    worse = [finding.text for finding in findings if finding.outcome is Outcome.WORSE]
    worse += [why] if (why := crashed(sample)) else []
    if worse:
        return Decision(Verdict.ROLL_BACK, "; ".join(worse))
    if rollout.status is Status.HELD:
        return as_it_is
    unsure = [finding for finding in findings if finding.needed and finding.outcome is Outcome.UNSURE]
    missing = [*_least(rollout, step), *(map(_missing, unsure) if progress(rollout) else ())]
    if missing:
        return Decision(Verdict.STAY, "waiting for " + "; ".join(missing))
    unlike = "; ".join(finding.text for finding in findings if finding.outcome is Outcome.UNLIKE)
    labels = by_labels(sample, findings)
    if unlike and labels is None:
        return Decision(Verdict.HOLD, f"{unlike}: whether that is better or worse is for a human to say")
    if unlike and labels is not None and labels.outcome is not Outcome.FINE:
        return Decision(Verdict.STAY, f"{unlike}: waiting for labels to decide; {_missing(labels)}")
    return _done(rollout, findings)


def _done(rollout: Rollout, findings: Sequence[Finding]) -> Decision:
    number, steps = rollout.step + 1, rollout.plan.steps
    found = "; ".join(finding.text for finding in findings if finding.outcome is Outcome.FINE)
    last = number == len(steps)
    if rollout.plan.manual:
        return Decision(Verdict.HOLD, f"step {number} of {len(steps)} is done, promote is recommended: {found}")
    return Decision(Verdict.PROMOTE if last else Verdict.NEXT, f"step {number} of {len(steps)} is done: {found}")


def sample_of(rollout: Rollout) -> Sample:
    """What the rollout's step is judged by."""
    steps, measured = rollout.plan.steps, rollout.measured
    step = steps[rollout.step]
    after = steps[rollout.step + 1] if rollout.step + 1 < len(steps) else None
    return Sample(
        plan=rollout.plan,
        measured=measured,
        primary=measured.primary if step.share >= 1 else since(measured.primary, rollout.step_primary),
        candidate=since(measured.candidate, rollout.step_candidate),
        share=step.share,
        shadow=step.shadow,
        last=after is None or (after.share >= 1 and step.share > 0),
        compared=step.share >= 1 and any(0 < each.share < 1 for each in steps),
    )


def progress(rollout: Rollout) -> int:
    """Requests that the candidate has had in this step, or rows compared where it is a shadow."""
    measured = rollout.measured
    answers = rollout.plan.steps[rollout.step].share > 0
    return max(0, (measured.candidate.requests if answers else measured.comparison.rows) - rollout.step_requests)


def _least(rollout: Rollout, step: Step) -> Iterator[str]:
    """What the step needs by its plan, whatever is found."""
    had, answers = progress(rollout), step.share > 0
    if not had and answers:
        yield f"any request of the candidate, which is to answer {percent(step.share)} of the calls"
    elif not had:
        dropped = rollout.measured.comparison.dropped
        yield f"any answer of the candidate to compare: no copy has been answered, {dropped:,} were dropped"
    elif had < step.least_requests:
        words = "requests of the candidate" if answers else "compared rows"
        yield f"{step.least_requests - had:,} more {words} ({had:,} of {step.least_requests:,})"
    if rollout.step_s < step.least_s:
        yield f"{step.least_s - rollout.step_s:.0f} s more ({rollout.step_s:.0f} of {step.least_s:g} s)"


def _missing(finding: Finding) -> str:
    if isinf(finding.missing):
        return f"{finding.text} (not fine so far)"
    return f"{finding.text} (about {ceil(finding.missing):,} more {finding.trials} would do)"


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
                step_primary=copied(measured.primary),  # whoever adds up may do it in place
                step_candidate=copied(measured.candidate),
                status=Status.RUNNING,
                reason=decision.reason,
            )
