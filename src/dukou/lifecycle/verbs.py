"""What operators can ask for, and what the judge decides, as pure functions: from one state of a model to the next.

Each returns the whole new state, or raises a DukouError that says why not and what to do instead. Asked again for what
is so already, a verb changes nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.seen import Seen
from dukou.lifecycle.desired import as_loaded, back_to, desired, primary, servable
from dukou.lifecycle.labels import check_labels
from dukou.lifecycle.plan import FULL, parse
from dukou.lifecycle.policy import wanted
from dukou.lifecycle.rollout import Decision, Rollout, Status, Verdict, advance
from dukou.lifecycle.wanted import Declared, Overrides, Strategy

_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Case(msgspec.Struct, frozen=True):
    """One model as a verb finds it. `rollout` is the last one, under way or over; `available` are the versions that
    every worker has; `seen` is corrected by what loading has shown (`dukou.lifecycle.desired.as_loaded`)."""

    declared: Declared
    overrides: Overrides
    rollout: Rollout | None
    seen: Seen
    available: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.declared.name

    @property
    def primary(self) -> int | None:
        """The version that should answer, a rollout's candidate left aside."""
        return primary(self.declared, self.overrides, self.seen)

    @property
    def under_way(self) -> Rollout | None:
        """The rollout, unless it is over."""
        return self.rollout if self.rollout is not None and self.rollout.status.under_way else None


class Change(msgspec.Struct, frozen=True):
    """What is so from now on: `rollout` is the new one, the one that went on or has ended, or the same as before."""

    overrides: Overrides
    rollout: Rollout | None


def deploy(
    case: Case,
    version: int | None,
    plan: str,
    manual: bool | None,
    *,
    rollout_id: int,
    now_at: float,
    unlike: Sequence[str] = (),
) -> Change:
    """Let `version` answer: by a rollout, where `plan` or else the declaration has one, or at once.

    Without a version it is the highest there is, and without a plan the policy is followed again from then on. A new
    rollout gets `rollout_id`. `unlike` are `dukou.lifecycle.compatible.differences`, where they are known: a candidate
    that has some gets no rollout.
    """
    text = plan or case.declared.plan
    steps = parse(text) if text else None
    target = _to_serve(case, version)
    under_way = case.under_way
    if under_way is not None:
        if under_way.candidate == target and under_way.plan_text == text:
            return Change(case.overrides, under_way)
        raise _rollout_under_way(case, under_way)
    before = case.primary
    if steps is None or before is None or steps.steps[0].kind == FULL:
        strategy = Strategy.RESOURCE_PRESERVING if steps is not None and steps.steps[0].kind == FULL else None
        return Change(_serve(case, target, pin=version is not None, strategy=strategy), case.rollout)
    if target == before:
        raise _refusal(case, f"version {target} answers already, so there is nothing to try; {_others(case, target)}")
    if before not in case.available:
        raise _refusal(
            case,
            f"version {before}, with which version {target} is to be compared, is not AVAILABLE; "
            f"`dukou promote {case.name} --version {target}` lets it answer without a rollout",
        )
    if unlike:
        raise _refusal(
            case,
            f"version {target} cannot take the calls of version {before}: {'; '.join(unlike)}. "
            f"`dukou promote {case.name} --version {target}` lets it answer all the same",
        )
    if manual is not None:
        steps = msgspec.structs.replace(steps, manual=manual)
    overrides = msgspec.structs.replace(case.overrides, serving=before, newest=_newest(case))
    return Change(overrides, Rollout(rollout_id, case.name, before, target, steps, text, started_at=now_at))


def rollback(case: Case, *, now_at: float, why: str = "") -> Change:
    """End the rollout under way, or go back to the version before; what is left behind is barred."""
    if case.under_way is not None:
        reason = why or "an operator rolled it back"
        return after(case.overrides, case.under_way, Decision(Verdict.ROLL_BACK, reason), now_at)
    left, target = case.primary, back_to(case.declared, case.overrides, case.seen)
    if left is None:
        raise _refusal(case, f"no version answers, so there is nothing to go back from; {_others(case, None)}")
    if target is None:
        raise _refusal(case, f"there is no version to go back to from version {left}; {_others(case, left)}")
    barred = msgspec.structs.replace(
        case.overrides,
        serving=None,
        previous=None,
        barred=_with(case.overrides.barred, left),
        loaded=_without(case.overrides.loaded, left),
        newest=_newest(case),
        unloaded=False,
    )
    # The policy goes on where it had chosen what was left, and agrees with where this goes back to.
    follows = case.overrides.serving is None and primary(case.declared, barred, case.seen) == target
    return Change(barred if follows else msgspec.structs.replace(barred, serving=target), case.rollout)


def promote(case: Case, version: int | None, *, now_at: float, why: str = "") -> Change:
    """Without a version: the rollout's candidate goes on to its next step, or answers everybody after the last. With
    one: it answers everybody now, barred before or not."""
    under_way = case.under_way
    if version is None:
        if under_way is None:
            raise _refusal(
                case,
                f"no rollout is under way; `dukou promote {case.name} --version N` lets version N answer everybody now",
            )
        return after(case.overrides, under_way, Decision(Verdict.NEXT, why or "an operator promoted it"), now_at)
    if under_way is not None and under_way.candidate == version:
        _to_serve(case, version)
        return after(case.overrides, under_way, Decision(Verdict.PROMOTE, why or "an operator promoted it"), now_at)
    if under_way is not None:
        raise _rollout_under_way(case, under_way)
    free = msgspec.structs.replace(case.overrides, barred=_without(case.overrides.barred, version))
    target = _to_serve(msgspec.structs.replace(case, overrides=free), version)
    # What answers now is asked of the state before: without its bar the policy might have this one answer already.
    change = _serve(case, target, pin=True, strategy=None)
    return Change(msgspec.structs.replace(change, barred=free.barred), case.rollout)


def pause(case: Case, *, why: str = "") -> Change:
    """Stop judging the rollout; its shares stay."""
    under_way = _needs_rollout(case, "pause")
    if under_way.status is Status.PAUSED:
        return Change(case.overrides, under_way)
    reason = f"an operator paused it: {why}" if why else "an operator paused it"
    return Change(case.overrides, msgspec.structs.replace(under_way, status=Status.PAUSED, reason=reason))


def resume(case: Case) -> Change:
    """Go on judging the rollout."""
    under_way = _needs_rollout(case, "resume")
    if under_way.status is Status.RUNNING:
        raise _refusal(
            case, f"the rollout of version {under_way.candidate} is not paused; `dukou rollout {case.name}` shows it"
        )
    return Change(
        case.overrides, msgspec.structs.replace(under_way, status=Status.RUNNING, reason="an operator resumed it")
    )


def abort(case: Case, *, now_at: float, why: str = "") -> Change:
    """End the rollout; the primary answers everybody again. The candidate is not barred."""
    under_way = _needs_rollout(case, "abort")
    ended = msgspec.structs.replace(
        under_way, status=Status.ABORTED, reason=why or "an operator aborted it", ended_at=now_at
    )
    return Change(case.overrides, ended)


def load(case: Case, version: int | None) -> Change:
    """Serve a version beside the others, or the whole model that was unloaded; from their files as they are now.

    Also one that has failed to load: this is how an operator has it tried again.
    """
    overrides = case.overrides
    if version is None:
        overrides = msgspec.structs.replace(overrides, unloaded=False)
        versions: Iterable[int] = desired(case.declared, overrides, None, case.seen).versions
    else:
        _check_known(case, version)
        if case.under_way is not None and case.under_way.candidate == version:
            raise _rollout_under_way(case, case.under_way)
        versions = (version,)
        overrides = msgspec.structs.replace(overrides, unloaded=False)
        sound = as_loaded(case.seen, (version,), {})
        if version not in desired(case.declared, overrides, None, sound).versions:
            overrides = msgspec.structs.replace(overrides, loaded=_with(overrides.loaded, version))
    return Change(_accepting(case, overrides, versions), case.rollout)


def unload(case: Case, version: int | None) -> Change:
    """Stop serving a version that was loaded beside the others, or the whole model."""
    overrides = case.overrides
    under_way = case.under_way
    if version is None:
        if under_way is not None:
            raise _rollout_under_way(case, under_way)
        return Change(msgspec.structs.replace(overrides, unloaded=True), case.rollout)
    if under_way is not None and version == under_way.candidate:
        raise _rollout_under_way(case, under_way)
    if version not in case.seen.versions and version not in overrides.loaded:
        raise _no_such_version(case, version)
    less = msgspec.structs.replace(
        overrides,
        loaded=_without(overrides.loaded, version),
        previous=None if overrides.previous == version else overrides.previous,
    )
    if not overrides.unloaded:
        if version == case.primary:
            raise _refusal(
                case,
                f"version {version} answers calls; {_others(case, version)}, and "
                f"`dukou unload {case.name}` unloads the whole model",
            )
        if version in desired(case.declared, less, None, case.seen).versions:
            raise _refusal(
                case,
                f"version {version} is wanted by the policy {case.declared.policy}; change `version_policy` or, where "
                "it is kept for a rollback, `keep_previous`",
            )
    return Change(less, case.rollout)


def label(case: Case, label: str, version: int | None, *, ahead: bool = False) -> Change:
    """Let a label name a version, None to take it away. `ahead` is the setting `models.labels_ahead`."""
    labels = dict(case.declared.labels if case.overrides.labels is None else case.overrides.labels)
    if version is None:
        if label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise _refusal(case, f"there is no label {label!r} to take away; there are: {known}")
        del labels[label]
    else:
        if not _LABEL.fullmatch(label):
            raise _refusal(case, f"{label!r} is no label; those have 1 to 64 letters, digits and _ . -")
        if version not in case.seen.versions:
            raise _no_such_version(case, version)
        check_labels(case.name, {label: version}, labels, case.available, ahead=ahead)
        labels[label] = version
    return Change(msgspec.structs.replace(case.overrides, labels=labels), case.rollout)


def after(overrides: Overrides, rollout: Rollout, decision: Decision, now_at: float) -> Change:
    """What a decision about a rollout under way changes: a candidate that is promoted answers and can be rolled back,
    one that is rolled back is barred. Raises DukouError PRECONDITION_FAILED when the rollout is over."""
    went = advance(rollout, decision, now_at)
    match went.status:
        case Status.PROMOTED:
            overrides = msgspec.structs.replace(
                overrides,
                serving=rollout.candidate,
                previous=rollout.primary,
                strategy=None,
            )
        case Status.ROLLED_BACK:
            overrides = msgspec.structs.replace(
                overrides,
                serving=rollout.primary,
                previous=None if overrides.previous == rollout.candidate else overrides.previous,
                barred=_with(overrides.barred, rollout.candidate),
                loaded=_without(overrides.loaded, rollout.candidate),
            )
    return Change(overrides, went)


def stranded(case: Case, given_up: Mapping[int, str]) -> str:
    """Why the rollout under way cannot go on, "" where it can: its candidate or its primary has gone, or is one of
    those that are not tried any more because they cannot be loaded."""
    under_way = case.under_way
    if under_way is None or case.seen.problem:
        return ""
    for version in (under_way.candidate, under_way.primary):
        if version not in case.seen.versions:
            return f"version {version} is no longer in the repository"
        if version in given_up and version not in case.available:
            return f"version {version} cannot be loaded: {given_up[version]}"
    return ""


def _serve(case: Case, target: int, *, pin: bool, strategy: Strategy | None) -> Overrides:
    """The overrides that let `target` answer at once; not pinned, if the policy alone says the same."""
    before = case.primary
    follows = not pin and not case.declared.plan and max(wanted(case.declared.policy, _good(case)), default=0) == target
    return msgspec.structs.replace(
        case.overrides,
        serving=None if follows else target,
        previous=case.overrides.previous if before in (target, None) else before,
        loaded=_without(case.overrides.loaded, target),
        unloaded=False,
        newest=_newest(case),
        strategy=case.overrides.strategy if before == target else strategy,
    )


def _accepting(case: Case, overrides: Overrides, versions: Iterable[int]) -> Overrides:
    """With the marks of these versions accepted, and those of versions that have gone forgotten."""
    found = case.seen.versions
    accepted = {version: mark for version, mark in overrides.accepted.items() if version in found}
    accepted |= {version: found[version].mark for version in versions}
    return msgspec.structs.replace(overrides, accepted=accepted)


def _to_serve(case: Case, version: int | None) -> int:
    """`version`, or the highest, if it can be served. Raises DukouError saying why it cannot."""
    if version is None:
        highest = max(_good(case), default=None)
        if highest is None:
            raise _refusal(case, f"there is no version that can be served; {_others(case, None)}")
        return highest
    _check_known(case, version)
    if error := case.seen.versions[version].error:
        raise _refusal(case, f"version {version} cannot be served: {error}")
    return version


def _check_known(case: Case, version: int) -> None:
    """That the repository has a version, and that it is not barred."""
    if version not in case.seen.versions:
        raise _no_such_version(case, version)
    if version in case.overrides.barred:
        raise _refusal(
            case,
            f"version {version} was rolled back and is barred; "
            f"`dukou promote {case.name} --version {version}` lets it answer again",
        )


def _needs_rollout(case: Case, verb: str) -> Rollout:
    if case.under_way is None:
        raise _refusal(
            case,
            f"no rollout is under way, so there is nothing to {verb}; "
            f"`dukou deploy {case.name} --version N --plan shadow,incremental` starts one",
        )
    return case.under_way


def _rollout_under_way(case: Case, rollout: Rollout) -> DukouError:
    return _refusal(
        case,
        f"the rollout of version {rollout.candidate} in place of version {rollout.primary} is under way; "
        f"`dukou abort {case.name}` ends it, `dukou promote {case.name} --version {rollout.candidate}` lets it through",
    )


def _no_such_version(case: Case, version: int) -> DukouError:
    known = ", ".join(map(str, sorted(case.seen.versions))) or "none"
    return DukouError(Reason.VERSION_NOT_FOUND, model=case.name, version=version, served=known)


def _others(case: Case, version: int | None) -> str:
    """What else there is, and how to get it."""
    good = sorted(_good(case) - {version})
    barred = sorted(set(case.overrides.barred) & set(case.seen.versions))
    if good:
        there = ", ".join(map(str, good)) + (f"; barred: {', '.join(map(str, barred))}" if barred else "")
        return f"`dukou promote {case.name} --version N` lets another one answer: there are {there}"
    if barred:
        return (
            "all others are barred since they were rolled back; "
            f"`dukou promote {case.name} --version {barred[-1]}` lets one answer again"
        )
    return "there is no other version in the repository"


def _good(case: Case) -> frozenset[int]:
    return servable(case.overrides, case.seen)


def _newest(case: Case) -> int:
    return max((number for number, found in case.seen.versions.items() if not found.error), default=0)


def _refusal(case: Case, detail: str) -> DukouError:
    return DukouError(Reason.PRECONDITION_FAILED, model=case.name, detail=detail)


def _with(versions: tuple[int, ...], version: int) -> tuple[int, ...]:
    return tuple(sorted({*versions, version}))


def _without(versions: tuple[int, ...], version: int) -> tuple[int, ...]:
    return tuple(each for each in versions if each != version)
