"""Rollouts under way: what was measured is added up, and the judge asked where each goes."""

from collections.abc import Callable, Collection

import msgspec

from dukou.app.control_plane import ControlPlane
from dukou.app.measuring import Counted
from dukou.core.clock import Clock
from dukou.core.errors import DukouError
from dukou.core.version import ModelVersion, State
from dukou.lifecycle.measured import Counts, add, since
from dukou.lifecycle.plan import BLUE_GREEN
from dukou.lifecycle.rollout import Rollout, Verdict, next_step

_KEPT_EVERY_S = 2.0


class Judging:
    """Measures and judges; `tick` is to be called every second or so.

    What was measured is kept in the store now and then, so that a restart loses two seconds of evidence at most and
    never changes a verdict: a step that has been left stays left.
    """

    def __init__(
        self, plane: ControlPlane, counted: Counted, block_of: Callable[[ModelVersion], int], *, clock: Clock
    ) -> None:
        self._plane = plane
        self._counted = counted
        self._block_of = block_of
        self._clock = clock
        self._last: dict[tuple[int, int], Counts] = {}  # by rollout and version
        self._ticked_s: dict[int, float] = {}
        self._kept_s: dict[int, float] = {}

    def tick(self) -> None:
        """Measure every rollout under way, and act upon what the judge says. What cannot be read or kept now is tried
        again the next time."""
        under_way = {
            name: model.rollout
            for name, model in self._plane.reconciler.models.items()
            if model.rollout is not None and model.rollout.status.under_way and model.declared is not None
        }
        self._forget({rollout.id for rollout in under_way.values()})
        for name, rollout in under_way.items():
            try:
                self._judge(name, rollout)
            except (DukouError, OSError) as error:
                self._plane.notices.say((name, "judge"), f"{name}: its rollout stays where it is: {error}")

    def _judge(self, name: str, rollout: Rollout) -> None:
        model = self._plane.reconciler.models[name]
        rollout = model.rollout = self._measured(rollout)
        decision = next_step(rollout)
        if decision.verdict is Verdict.STAY:
            model.rollout = msgspec.structs.replace(rollout, reason=decision.reason)
            self._keep(model.rollout)
        else:
            self._plane.decided(name, decision)

    def _forget(self, under_way: Collection[int]) -> None:
        """Let go of rollouts that are over."""
        self._last = {key: counts for key, counts in self._last.items() if key[0] in under_way}
        self._ticked_s = {number: at_s for number, at_s in self._ticked_s.items() if number in under_way}
        self._kept_s = {number: at_s for number, at_s in self._kept_s.items() if number in under_way}

    def _measured(self, rollout: Rollout) -> Rollout:
        """The rollout with what happened since the last look; its step's time goes on only while its candidate can be
        reached."""
        now_s = self._clock()
        passed_s = max(0.0, now_s - self._ticked_s.get(rollout.id, now_s))
        self._ticked_s[rollout.id] = now_s
        measured = msgspec.structs.replace(
            rollout.measured,
            primary=add(rollout.measured.primary, self._more(rollout, rollout.primary)),
            candidate=add(rollout.measured.candidate, self._more(rollout, rollout.candidate)),
        )
        step_s = rollout.step_s + (passed_s if self._on_trial(rollout) else 0.0)
        return msgspec.structs.replace(rollout, measured=measured, step_s=step_s)

    def _more(self, rollout: Rollout, number: int) -> Counts:
        now = self._counted.counts(self._block_of(ModelVersion(rollout.model, number)))
        # The primary of a blue/green rollout answers nobody any more: it is known by what it did before.
        known = rollout.plan.steps[0].kind == BLUE_GREEN and number == rollout.primary
        first = Counts() if known and not rollout.measured.primary.requests else now
        before = self._last.get((rollout.id, number), first)
        self._last[rollout.id, number] = now
        return since(now, before)

    def _on_trial(self, rollout: Rollout) -> bool:
        reconciler = self._plane.reconciler
        version = ModelVersion(rollout.model, rollout.candidate)
        step = rollout.plan.steps[rollout.step]
        if step.share > 0.0:
            weights = {one.version: one.share for one in reconciler.now(rollout.model).weights}
            return reconciler.settled and weights.get(rollout.candidate, 0.0) > 0.0
        report = reconciler.shadow_report(version)
        return report is not None and report.state is State.AVAILABLE

    def _keep(self, rollout: Rollout) -> None:
        now_s = self._clock()
        if now_s - self._kept_s.get(rollout.id, -_KEPT_EVERY_S) < _KEPT_EVERY_S:
            return
        self._kept_s[rollout.id] = now_s
        try:
            self._plane.store.keep(rollout)
        except DukouError:
            pass  # told where a change cannot be kept; what was measured is still here
