"""What a new version goes through before it answers everybody: a chain of steps, each with what it needs to be left."""

import msgspec


class Step(msgspec.Struct, frozen=True):
    """One step: the candidate answers `share` of the calls and gets copies of `shadow` of the primary's (both 0 to 1).

    `kind` is the word of the plan it came from: `shadow`, `incremental`, `blue_green` or `full`. The step lasts at
    least `least_s` seconds and `least_requests` requests of the candidate (compared rows, where it is a shadow).
    """

    kind: str
    share: float = 0.0
    shadow: float = 0.0
    least_requests: int = 0
    least_s: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """The steps and how they are judged.

    `manual`: no step is left without a `promote`. `max_disagreement`: rows on which both versions may disagree before
    the rollout goes back; None leaves that to a human. `slice_by` names an input by whose values answers are compared
    as well, `tolerance` is how far numbers may differ, relatively, and still agree. `error_margin` and
    `latency_ratio` are how much worse the candidate may be.
    """

    steps: tuple[Step, ...]
    manual: bool = False
    max_disagreement: float | None = None
    slice_by: str = ""
    tolerance: float = 1e-3
    error_margin: float = 0.02
    latency_ratio: float = 2.0
