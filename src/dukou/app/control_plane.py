"""The control plane of one server: hears what the workers and the repository tell, keeps what verbs change, publishes
tables. It lives on the supervisor's loop; nothing here is on the path of a request."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from dukou.app.notices import Notices
from dukou.control.operations import Audited, Cause
from dukou.control.store import Store
from dukou.core.clock import Clock
from dukou.core.comparison import Comparison, merge
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Applied, Apply, Assignment, LoadReport
from dukou.core.route import Weight
from dukou.core.seen import Seen
from dukou.core.version import ModelVersion, State
from dukou.lifecycle.compatible import differences
from dukou.lifecycle.desired import as_loaded, settle, to_try
from dukou.lifecycle.reconciler import Model, Reconciler
from dukou.lifecycle.rollout import Decision, Verdict
from dukou.lifecycle.verbs import Case, Change, after, deploy, stranded
from dukou.lifecycle.wanted import Declared, Overrides

JUDGE = "the judge"
POLICY = "the policy"

_log = logging.getLogger("dukou.control")


class ControlPlane:
    """Joins the decisions (a Reconciler), the store and the processes.

    `publish` tells the workers a table and returns its generation, `run_processes` says which versions should be in
    model processes. Every method that changes something raises what the store raises and has then changed nothing.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        store: Store,
        publish: Callable[[Apply], int],
        run_processes: Callable[[Mapping[ModelVersion, Assignment]], None],
        *,
        clock: Clock,
        wall_clock: Clock,
    ) -> None:
        self.reconciler = reconciler
        self.store = store
        self.notices = Notices(_log)
        self._publish = publish
        self._run_processes = run_processes
        self._clock = clock
        self._wall_clock = wall_clock
        self._turned = asyncio.Event()
        self._caused: set[str] = set()  # models whose next change of weights is a verb's or the judge's

    # What is observed.

    def declare(self, declared: Mapping[str, Declared], seen: Mapping[str, Seen]) -> None:
        """These models are declared, and their repositories hold this. Call `reconcile` then."""
        overrides, rollouts = self.store.overrides(), {rollout.model: rollout for rollout in self.store.rollouts()}
        new = set(declared) - set(self.reconciler.models)
        self.reconciler.declare(declared)
        for name in new:
            model = self.reconciler.models[name]
            model.overrides = overrides.get(name, model.overrides)
            model.rollout = rollouts.get(name)
        for name, one in seen.items():
            if name in self.reconciler.models:
                self._tell_gone(name, one)
                self.reconciler.see(name, one)
                self._tell_problems(name)

    def heard(self, applied: Applied) -> None:
        """The workers' merged answer."""
        self.reconciler.heard(applied, self._clock())
        for report in applied.reports:
            if report.error and self.reconciler.is_wanted(report.id):
                self.notices.say((report.id, "load"), report.error)
            for warning in report.warnings:
                self.notices.say((report.id, warning), warning, logging.WARNING)
        self.notices.begin()
        self.reconcile()

    def freed(self, generation: int) -> None:
        """Every worker has let go of what tables before this one had."""
        self.reconciler.freed(generation)
        self.reconcile()

    def shadow_heard(self, version: ModelVersion, report: LoadReport) -> None:
        """A model process tells how it is."""
        self.reconciler.shadow_heard(report)
        if report.error:
            self.notices.say((version, "shadow"), report.error)
        self.reconcile()

    def compared(self, version: ModelVersion, comparison: Comparison) -> None:
        """A model process has compared more answers."""
        model = self.reconciler.models.get(version.name)
        if model is None or model.rollout is None or model.rollout.candidate != version.version:
            return
        if model.rollout.status.under_way:
            measured = model.rollout.measured
            measured = msgspec.structs.replace(measured, comparison=merge(measured.comparison, comparison))
            model.rollout = msgspec.structs.replace(model.rollout, measured=measured)

    # What is done about it.

    def model(self, name: str) -> Model:
        """What is known of a model. Raises DukouError MODEL_NOT_FOUND."""
        model = self.reconciler.models.get(name)
        if model is None or model.declared is None:
            raise not_found(name, self.reconciler.models)
        return model

    def case(self, name: str) -> Case:
        """A model as verbs find it. Raises DukouError MODEL_NOT_FOUND."""
        model = self.model(name)
        assert model.declared is not None
        available = self.reconciler.available(name)
        seen = as_loaded(model.seen, available, self.reconciler.failed(name))
        return Case(model.declared, model.overrides, model.rollout, seen, available)

    def in_force(self, name: str) -> bool:
        """Whether every worker shares a model's calls as it should be."""
        return self.reconciler.in_force(name, self._clock())

    def arrived(self, name: str) -> bool:
        """The same, when all has been loaded that has to be."""
        return self.in_force(name) and self.reconciler.arrived(name, self._clock())

    def whys(self, name: str) -> Mapping[int, str]:
        """Why versions are not AVAILABLE, as far as there is something to say."""
        return self.reconciler.whys(name, self._clock())

    def commit(self, verb: str, name: str, cause: Cause, change: Change) -> None:
        """Keep a change, then act upon it."""
        self._keep(verb, name, cause, change)
        self.reconcile()

    def _keep(self, verb: str, name: str, cause: Cause, change: Change) -> None:
        model = self.reconciler.models[name]
        if change.overrides == model.overrides and change.rollout == model.rollout:
            return
        audited = Audited(self._wall_clock(), cause, verb, name, self._said(name, model), {})
        changed = Model(model.declared, change.overrides, change.rollout, model.seen)
        audited = msgspec.structs.replace(audited, after=self._said(name, changed))
        rollout = change.rollout if change.rollout != model.rollout else None
        self.store.commit(audited, {name: change.overrides}, rollout)
        shared = self.reconciler.wanted(name, self._clock()).weights
        model.overrides, model.rollout = change.overrides, change.rollout
        if self.reconciler.wanted(name, self._clock()).weights != shared:
            self._caused.add(name)
        _log.info("%s: %s by %s%s", name, verb, cause.who, f": {cause.why}" if cause.why else "")

    def note(self, verb: str, name: str, cause: Cause, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Audit a change that is not of overrides: a config file read again, a policy followed. A store that fails
        does not keep the settings from being followed."""
        try:
            self.store.commit(Audited(self._wall_clock(), cause, verb, name, before, after))
        except DukouError as error:
            self.notices.say("audit", f"a change could not be audited: {error}")

    def decided(self, name: str, decision: Decision) -> None:
        """Act upon what was decided about a model's rollout."""
        model = self.reconciler.models[name]
        if model.rollout is None or not model.rollout.status.under_way:
            return
        change = after(model.overrides, model.rollout, decision, self._wall_clock())
        self.commit(_VERBS[decision.verdict], name, Cause(JUDGE, decision.reason), change)

    def reconcile(self) -> None:
        """Publish the next table, if there is one to be published now."""
        for name, model in list(self.reconciler.models.items()):
            if model.declared is not None:
                self._settle(name)
        served = {name: self.reconciler.now(name).weights for name in self.reconciler.models}
        self._caused &= served.keys()
        decided = self.reconciler.decide(self._clock())
        if decided.apply is not None:
            table = msgspec.structs.replace(decided.apply, generation=self.reconciler.table.generation + 1)
            try:
                self.store.publish(table)
            except DukouError as error:
                self.notices.say("store", f"the table in force is not in the store: {error}")
            generation = self._publish(table)
            self.reconciler.sent(msgspec.structs.replace(table, generation=generation))
            for name, weights in served.items():
                if name in self.reconciler.models:
                    self._tell_weights(name, weights)
        self._run_processes(decided.processes)
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def until(self, fits: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `fits` comes true in time; it is asked again whenever something has changed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not fits():
                    await self._turned.wait()
                return True
        return fits()

    def _settle(self, name: str) -> None:
        """What follows, without anybody's asking, from what was observed: the first version of a model with a plan is
        its primary, a new one gets its rollout, and a rollout that cannot go on ends before its candidate has calls."""
        case = self.case(name)
        settled = settle(case.declared, case.overrides, case.seen, case.available)
        if settled != case.overrides:
            self._quietly("serve", name, "the first version of a model with a plan", Change(settled, case.rollout))
            case = self.case(name)
        if why := self._ends_rollout(name, case):
            assert case.rollout is not None
            change = after(case.overrides, case.rollout, Decision(Verdict.ROLL_BACK, why), self._wall_clock())
            self._quietly("roll back", name, why, change, JUDGE)
            return
        target = to_try(case.declared, case.overrides, case.rollout, case.seen)
        if target is None or case.primary not in case.available:
            return
        try:
            number, at = self.store.next_rollout_id(), self._wall_clock()
            change = deploy(case, target, "", None, rollout_id=number, now_at=at)
        except DukouError as error:
            self.notices.say(
                (name, "rollout"), f"version {target} of {name!r} gets no rollout: {error}", logging.WARNING
            )
            return
        self._quietly("deploy", name, f"version {target} has come to the repository", change)

    def _ends_rollout(self, name: str, case: Case) -> str:
        """Why the rollout under way has to end now; "" where it can go on."""
        rollout = case.under_way
        if rollout is None:
            return ""
        candidate, primary = ModelVersion(name, rollout.candidate), ModelVersion(name, rollout.primary)
        offered, asked = self.reconciler.signatures(candidate), self.reconciler.signatures(primary)
        if offered and asked and (unlike := differences(asked, offered)):
            return (
                f"version {rollout.candidate} cannot take the calls of version {rollout.primary}: {'; '.join(unlike)}"
            )
        shadow = self.reconciler.shadow_report(candidate)
        if shadow is not None and shadow.state is State.END:
            return f"version {rollout.candidate} cannot be loaded: {shadow.error}"
        given_up = {
            version.version: error for version in (candidate, primary) if (error := self.reconciler.given_up(version))
        }
        return stranded(case, given_up)

    def _quietly(self, verb: str, name: str, why: str, change: Change, who: str = POLICY) -> None:
        """Commit what nobody has asked for. Should the store fail, it is tried again by and by."""
        try:
            self._keep(verb, name, Cause(who, why), change)
        except DukouError as error:
            self.notices.say((name, "store"), f"{name}: {verb} waits for the store: {error}")

    def _said(self, name: str, model: Model) -> dict[str, Any]:
        """A model's state for the audit: what is not as if nobody had ever changed anything."""
        said: dict[str, Any] = {"calls": _shared(self.reconciler.now(name).weights)}
        overrides: dict[str, Any] = msgspec.to_builtins(model.overrides, str_keys=True)
        usual = msgspec.to_builtins(Overrides(), str_keys=True)
        said |= {field: value for field, value in overrides.items() if value != usual[field]}
        if (rollout := model.rollout) is not None:
            said["rollout"] = {
                "id": rollout.id,
                "candidate": rollout.candidate,
                "step": rollout.step,
                "status": rollout.status.value,
            }
        return said

    def _tell_weights(self, name: str, before: tuple[Weight, ...]) -> None:
        """Say how a model's calls are shared from now on, and audit it where nobody has asked for it."""
        now = self.reconciler.now(name).weights
        if not before or now == before:
            return
        _log.info("%s is answered by %s", name, _shared(now))
        if now:
            self._tell_unlike(ModelVersion(name, before[-1].version), ModelVersion(name, now[-1].version))
        if name in self._caused:
            self._caused.discard(name)
        else:
            self.note("follow", name, Cause(POLICY), {"calls": _shared(before)}, {"calls": _shared(now)})

    def _tell_unlike(self, before: ModelVersion, now: ModelVersion) -> None:
        """Say so where the version that answers now refuses calls that the one before it took."""
        asked, offered = self.reconciler.signatures(before), self.reconciler.signatures(now)
        if before != now and asked and offered and (unlike := differences(asked, offered)):
            text = "model %r: version %d cannot take the calls of version %d, which it replaces: %s"
            _log.warning(text, now.name, now.version, before.version, "; ".join(unlike))

    def _tell_gone(self, name: str, seen: Seen) -> None:
        """Say which versions that serve have left the repository since it was looked at last."""
        before = self.reconciler.models[name].seen.versions
        for number in self.reconciler.available(name):
            if number in before and number not in seen.versions and not seen.problem:
                _log.warning("model %r, version %d is not in the repository any more; it is unloaded", name, number)

    def _tell_problems(self, name: str) -> None:
        model = self.reconciler.models[name]
        if model.problem:
            self.notices.say(
                (name, "problem"), f"model {name!r}: {model.problem}; what is loaded stays", logging.WARNING
            )
        else:
            self.notices.over((name, "problem"))
        for number, found in model.seen.versions.items():
            version = ModelVersion(name, number)
            if self.reconciler.changed(version):
                text = f"model {name!r}, version {number} was changed in place; it is ignored until it is reloaded"
                self.notices.say((version, "changed", found.mark), text, logging.WARNING)
            elif found.error:
                self.notices.say((version, "found"), f"model {name!r}, version {number}: {found.error}")


def _shared(weights: tuple[Weight, ...]) -> str:
    return ", ".join(f"version {one.version}: {one.share:.0%}" for one in weights) or "no version"


_VERBS = {
    Verdict.NEXT: "next step",
    Verdict.PROMOTE: "promote",
    Verdict.HOLD: "hold",
    Verdict.ROLL_BACK: "roll back",
    Verdict.STAY: "stay",
}


def not_found(name: str, models: Mapping[str, Model]) -> DukouError:
    """The refusal of a name that is no model's."""
    known = sorted(one for one, model in models.items() if model.declared is not None)
    return DukouError(Reason.MODEL_NOT_FOUND, model=name, served=", ".join(known) or "none")
