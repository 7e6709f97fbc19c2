"""What operators, and callers where they are allowed to, ask of the control plane (`dukou.control.operations`)."""

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from dukou.app.control_plane import ControlPlane, not_found
from dukou.app.following import Following
from dukou.config import ModelsConfig
from dukou.control.operations import Audited, Cause, ModelStatus, Outcome, VersionStatus
from dukou.core.clock import Clock
from dukou.core.errors import DukouError, Reason
from dukou.core.verb import Load, ReloadConfig, ReloadFile, Unload, Verb
from dukou.core.version import ModelVersion, State
from dukou.lifecycle import verbs
from dukou.lifecycle.compatible import differences
from dukou.lifecycle.desired import back_to
from dukou.lifecycle.measured import Outcomes
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.verbs import Change
from dukou.repository.local import is_packed
from dukou.repository.manifest import read_manifest

IN_FORCE_S = 10.0
"""How long a change may take to reach every worker before who asked is told that it has not."""

_BACK = ("rollback", "abort")

_log = logging.getLogger("dukou.control")


class Operating:
    """Operations, and the Control of the workers' callers. `load_timeout_s` is how long a load is waited for."""

    def __init__(
        self,
        plane: ControlPlane,
        following: Following,
        config: ModelsConfig,
        *,
        load_timeout_s: float,
        wall_clock: Clock,
    ) -> None:
        self._plane = plane
        self._following = following
        self._config = config
        self._load_timeout_s = load_timeout_s
        self._wall_clock = wall_clock

    # Operations.

    def status(self, model: str = "") -> Sequence[ModelStatus]:
        """Every model, or the one named. Raises DukouError MODEL_NOT_FOUND."""
        models = self._plane.reconciler.models
        names = [model] if model else [name for name in sorted(models) if models[name].declared is not None]
        return [self._status(name) for name in names]

    async def deploy(self, model: str, version: int | None, plan: str, manual: bool | None, by: Cause) -> ModelStatus:
        """Let `version` answer, by a plan or at once; returns when that is accepted."""
        await self._following.look_until_still()
        case = self._plane.case(model)
        target = version if version is not None else max(case.seen.versions, default=None)
        unlike = self._differences(model, case.primary, target)
        at = self._wall_clock()
        number = self._plane.store.next_rollout_id()
        change = verbs.deploy(case, version, plan, manual, rollout_id=number, now_at=at, unlike=unlike)
        return self._commit("deploy", model, by, change)

    async def rollback(self, model: str, by: Cause) -> ModelStatus:
        """Go back to the version before; returns when every worker does."""
        return await self._now("rollback", model, by, lambda case: verbs.rollback(case, now_at=self._at, why=by.why))

    async def promote(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        """Let the candidate go on, or a version answer everybody."""
        change = verbs.promote(self._plane.case(model), version, now_at=self._at, why=by.why)
        return self._commit("promote", model, by, change)

    async def pause(self, model: str, by: Cause) -> ModelStatus:
        """Stop judging the rollout."""
        return self._commit("pause", model, by, verbs.pause(self._plane.case(model), why=by.why))

    async def resume(self, model: str, by: Cause) -> ModelStatus:
        """Go on judging the rollout."""
        return self._commit("resume", model, by, verbs.resume(self._plane.case(model)))

    async def abort(self, model: str, by: Cause) -> ModelStatus:
        """End the rollout; returns when the primary answers everybody again."""
        return await self._now("abort", model, by, lambda case: verbs.abort(case, now_at=self._at, why=by.why))

    async def load(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        """Load a version or the model, anew where files have changed; returns when it is AVAILABLE or has failed."""
        await self._following.look_until_still()
        change = verbs.load(self._plane.case(model), version)
        self._plane.reconciler.retry(model, version)
        self._commit("load", model, by, change)
        self._plane.reconcile()
        await self._loaded(model, version)
        return self._status(model)

    async def unload(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        """Unload a version or the model; returns when no worker answers it any more."""
        return await self._now("unload", model, by, lambda case: verbs.unload(case, version))

    async def label(self, model: str, label: str, version: int | None, by: Cause) -> ModelStatus:
        """Let a label name a version, or take it away; returns when every worker knows."""
        ahead = self._config.labels_ahead
        return await self._now("label", model, by, lambda case: verbs.label(case, label, version, ahead=ahead))

    def rollout(self, model: str) -> Rollout:
        """The rollout under way, or the last one. Raises DukouError ROLLOUT_NOT_FOUND."""
        rollout = self._plane.model(model).rollout
        if rollout is None:
            raise DukouError(Reason.ROLLOUT_NOT_FOUND, model=model)
        return rollout

    def history(self, model: str, limit: int) -> Sequence[Audited]:
        """What was changed, the latest first."""
        return self._plane.store.history(model, limit)

    async def outcomes(self, model: str, outcomes: Sequence[Outcome], by: Cause) -> int:
        """Take labels that came back; those of versions that are not compared now count for nothing."""
        known = self._plane.model(model)
        rollout = known.rollout
        if rollout is None or not rollout.status.under_way:
            raise DukouError(
                Reason.PRECONDITION_FAILED, model=model, detail="no rollout is under way that labels could be used for"
            )
        primary, candidate = rollout.measured.primary_outcomes, rollout.measured.candidate_outcomes
        taken = 0
        for one in outcomes:
            more = Outcomes(one.count, one.count if one.right else 0)
            if one.version == rollout.primary:
                primary = _both(primary, more)
            elif one.version == rollout.candidate:
                candidate = _both(candidate, more)
            else:
                continue
            taken += one.count
        measured = msgspec.structs.replace(rollout.measured, primary_outcomes=primary, candidate_outcomes=candidate)
        kept = msgspec.structs.replace(rollout, measured=measured)
        self._plane.store.keep(kept)
        known.rollout = kept
        return taken

    # Control.

    async def do(self, verb: Verb, who: str) -> None:
        """Do what a caller of the inference ports asks for, where the settings allow it. Raises DukouError."""
        cause = Cause(who)
        match verb:
            case ReloadFile(model, version):
                before = set(self._plane.reconciler.models)
                await self._following.reload_file(cause)
                await self._loaded(model, version)
                await self._all_gone(before)
            case ReloadConfig(config):
                self._allow(bool(self._config.config_file))
                from dukou.protos import pool

                message = pool.parse("tensorflow.serving.ModelServerConfig", config)
                before = set(self._plane.reconciler.models)
                await self._following.reload(message, cause)
                await self._all_loaded([model.name for model in message.model_config_list.config], before)
            case Load(model):
                self._allow()
                await self.load(model, None, cause)
            case Unload(model):
                self._allow()
                await self.unload(model, None, cause)

    def _allow(self, also: bool = False) -> None:
        if self._config.control != "explicit" and not also:
            raise DukouError(Reason.NOT_SERVING, detail="models.control is not explicit: callers may not change models")

    # How.

    @property
    def _at(self) -> float:
        return self._wall_clock()

    def _commit(self, verb: str, model: str, by: Cause, change: Change) -> ModelStatus:
        self._plane.commit(verb, model, by, change)
        return self._status(model)

    async def _now(self, verb: str, model: str, by: Cause, make: Callable[[verbs.Case], Change]) -> ModelStatus:
        """Commit what `make` says, and return when every worker obeys: going back also waits for what has to be loaded
        to answer instead."""
        self._plane.commit(verb, model, by, make(self._plane.case(model)))
        done = self._plane.arrived if verb in _BACK else self._plane.in_force
        if not await self._plane.until(lambda: done(model), IN_FORCE_S):
            _log.warning("%s: %s is kept, but not in force in every worker after %g s", model, verb, IN_FORCE_S)
        return self._status(model)

    async def _all_loaded(self, names: Sequence[str], before: Collection[str]) -> None:
        """Wait until all that is wanted of these models is AVAILABLE or has failed, and those of `before` that are
        declared no more are gone. Raises DukouError: the first failure."""
        errors = []
        for name in names:
            try:
                await self._loaded(name, None)
            except DukouError as error:
                errors.append(error)
        await self._all_gone(before)
        if errors:
            raise errors[0]

    async def _loaded(self, name: str, version: int | None) -> None:
        """Wait until a version, or all that are wanted of a model, are AVAILABLE. Raises DukouError LOAD_FAILED with
        what went wrong, MODEL_NOT_FOUND, VERSION_NOT_FOUND."""
        reconciler = self._plane.reconciler
        known = self._plane.model(name)
        if version is not None and version not in known.seen.versions:
            served = ", ".join(map(str, sorted(known.seen.versions, reverse=True))) or "none"
            raise DukouError(Reason.VERSION_NOT_FOUND, model=name, version=version, served=served)
        failed: dict[int, str] = {}

        def settled() -> bool:
            if name not in reconciler.models:  # another config has removed it meanwhile
                return True
            failed.clear()
            failed.update(reconciler.last_errors(name))
            aspired = reconciler.aspired(name)
            wanted = aspired if version is None or version not in aspired else (version,)
            available = reconciler.available(name)
            return all(one in available or one in failed for one in wanted) and self._plane.in_force(name)

        await self._plane.until(settled, self._load_timeout_s)
        self._plane.model(name)
        available = reconciler.available(name)
        wanted = (version,) if version is not None else reconciler.aspired(name)
        for one in wanted:
            if one not in available:
                state = reconciler.now(name).states.get(one)
                why = failed.get(one) or f"it is {state.value if state else 'not wanted by the configuration'}"
                raise DukouError(Reason.LOAD_FAILED, model=name, version=one, detail=why)

    async def _all_gone(self, before: Collection[str]) -> None:
        """Wait until no worker answers for the models of `before` that are declared no more."""
        models = self._plane.reconciler.models
        gone = [name for name in before if name in models and models[name].declared is None]
        await self._plane.until(lambda: all(self._plane.in_force(name) for name in gone), IN_FORCE_S)

    def _differences(self, model: str, primary: int | None, candidate: int | None) -> Sequence[str]:
        """Why the candidate cannot take the primary's calls, as far as that is known before it is loaded."""
        if primary is None or candidate is None or primary == candidate:
            return ()
        reconciler = self._plane.reconciler
        asked = reconciler.signatures(ModelVersion(model, primary))
        offered = reconciler.signatures(ModelVersion(model, candidate))
        found = self._plane.model(model).seen.versions.get(candidate)
        if not offered and found is not None and is_packed(Path(found.folder)):
            offered = read_manifest(Path(found.folder)).signatures
        return differences(asked, offered) if asked and offered else ()

    def _status(self, name: str) -> ModelStatus:
        known = self._plane.model(name)
        declared = known.declared
        if declared is None:
            raise not_found(name, self._plane.reconciler.models)
        reconciler = self._plane.reconciler
        case = self._plane.case(name)
        now = reconciler.now(name)
        route = reconciler.table.routes.get(name)
        shares = {one.version: one.share for one in now.weights}
        shadows = {one.version: one.share for one in route.shadows} if route is not None else {}
        whys = self._plane.whys(name)
        numbers = sorted({*known.seen.versions, *now.states, *known.overrides.barred}, reverse=True)
        versions = []
        for number in numbers:
            version = ModelVersion(name, number)
            found = known.seen.versions.get(number)
            shadow = reconciler.shadow_report(version)
            state = now.states.get(number, shadow.state if shadow is not None else State.END)
            versions.append(
                VersionStatus(
                    number,
                    state,
                    why="" if state is State.AVAILABLE else whys.get(number, ""),
                    folder=found.folder if found is not None else "",
                    share=shares.get(number, 0.0),
                    shadow=shadows.get(number, 0.0),
                    labels=tuple(sorted(label for label, at in now.labels.items() if at == number)),
                    barred=number in known.overrides.barred,
                    changed=reconciler.changed(version),
                )
            )
        return ModelStatus(
            name,
            case.primary,
            back_to(declared, known.overrides, case.seen),
            str(declared.policy),
            tuple(versions),
            known.rollout,
            known.overrides.unloaded,
            known.problem,
        )


def _both(one: Outcomes, other: Outcomes) -> Outcomes:
    return Outcomes(one.labelled + other.labelled, one.right + other.right)
