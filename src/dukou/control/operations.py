"""What an operator can ask of a running server, and what is told: the door between the admin API and the control plane.

Every change is in the store, with its cause, before it is acknowledged.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dukou.core.version import State
from dukou.lifecycle.rollout import Rollout


class Cause(msgspec.Struct, frozen=True):
    """Who asked for a change, and why: for the audit."""

    who: str
    why: str = ""


class VersionStatus(msgspec.Struct, frozen=True):
    """One version: `share` of the calls that name no version, `shadow` of them copied to it, and `why` it is not
    AVAILABLE. `changed`: its files are not those that were loaded."""

    version: int
    state: State
    why: str = ""
    folder: str = ""
    share: float = 0.0
    shadow: float = 0.0
    labels: tuple[str, ...] = ()
    barred: bool = False
    changed: bool = False


class ModelStatus(msgspec.Struct, frozen=True):
    """One model: `serving` is the version that answers, `previous` the one that a rollback goes back to."""

    name: str
    serving: int | None
    previous: int | None
    policy: str
    versions: tuple[VersionStatus, ...]
    rollout: Rollout | None = None
    unloaded: bool = False
    problem: str = ""


class Audited(msgspec.Struct, frozen=True):
    """One change: when (Unix time), its cause, which verb, and the state of its model before and after."""

    at: float
    cause: Cause
    verb: str
    model: str
    before: Mapping[str, Any] = {}
    after: Mapping[str, Any] = {}
    id: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """A label that came back: an answer of this version was right, or not. `count` of the same at once."""

    version: int
    right: bool
    count: int = 1


class Operations(Protocol):
    """All of these raise DukouError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, PRECONDITION_FAILED (it cannot be done now,
    and why), CONFIG_INVALID (a plan that is none)."""

    def status(self, model: str = "") -> Sequence[ModelStatus]:
        """Every model, or the one named."""

    async def deploy(self, model: str, version: int | None, plan: str, manual: bool | None, by: Cause) -> ModelStatus:
        """Let `version` (the highest if None) answer: by `plan`, or the declared one if it is empty, or at once."""

    async def rollback(self, model: str, by: Cause) -> ModelStatus:
        """Go back to the version before. Returns when every worker does; the version left is barred."""

    async def promote(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        """Let the rollout's candidate go on to its next step, or, with a version, answer everybody now."""

    async def pause(self, model: str, by: Cause) -> ModelStatus:
        """Stop judging the rollout; its shares stay."""

    async def resume(self, model: str, by: Cause) -> ModelStatus:
        """Go on judging it."""

    async def abort(self, model: str, by: Cause) -> ModelStatus:
        """End the rollout; the primary answers everybody again. The candidate is not barred."""

    async def load(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        """Load a version beside the others, or, where it is loaded, anew from files that have changed."""

    async def unload(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        """Unload a version that was loaded by `load`, or the whole model."""

    async def label(self, model: str, label: str, version: int | None, by: Cause) -> ModelStatus:
        """Let a label name a version; None takes it away."""

    def rollout(self, model: str) -> Rollout:
        """The rollout under way, or the last one."""

    def history(self, model: str, limit: int) -> Sequence[Audited]:
        """What was changed, the latest first."""

    async def outcomes(self, model: str, outcomes: Sequence[Outcome], by: Cause) -> int:
        """Take labels that came back for the rollout under way; returns how many answers they are about."""
