"""What should be served of a model: `desired`, a pure function of what is declared, overridden, on trial and seen.

The order of precedence: what is barred or has an error is never served; a rollout under way says who answers, else the
version that a verb has chosen, else the version before that one, else the highest that the policy wants.
"""

from collections.abc import Collection, Mapping

import msgspec

from dukou.core.route import Weight
from dukou.core.seen import Seen
from dukou.lifecycle.policy import Latest, missing, wanted
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.wanted import Declared, Overrides, Strategy, Trial, Wanted


def desired(declared: Declared, overrides: Overrides, trial: Trial | None, seen: Seen) -> Wanted:
    """What should be loaded and who should answer.

    Weights are always explicit where a version is wanted: one that is loaded first in one worker gets no calls before
    all have it. Where the repository cannot be read (`seen.problem`), `seen.versions` should be what was there before.
    """
    strategy = overrides.strategy or declared.strategy
    labels = declared.labels if overrides.labels is None else overrides.labels
    if overrides.unloaded:
        loaded = desired(declared, msgspec.structs.replace(overrides, unloaded=False), None, seen)
        return Wanted(strategy=strategy, absent={**loaded.absent, **dict.fromkeys(loaded.versions, "unloaded")})
    good = servable(overrides, seen)
    answers = primary(declared, overrides, seen)
    if trial is not None and trial.primary in good:
        answers = trial.primary
    beside = trial if trial is not None and trial.candidate in good and answers not in (None, trial.candidate) else None
    versions = {answers, *_policy_picks(declared, overrides, answers, good), *overrides.loaded}
    if strategy is Strategy.AVAILABILITY_PRESERVING:
        versions.add(overrides.previous)
        versions.add(back_to(declared, overrides, seen) if declared.keep_previous else None)
    if beside is not None:
        versions.discard(beside.candidate)
        versions.add(beside.candidate if beside.share > 0.0 else None)
    picked = tuple(sorted(good.intersection(versions), reverse=True))
    shadow = Weight(beside.candidate, beside.shadow) if beside is not None and beside.shadow > 0.0 else None
    aspired = _aspired(declared, overrides, trial, seen)
    absent = aspired.union(seen.versions.keys() & overrides.barred) - set(picked)
    if shadow is not None:
        absent -= {shadow.version}
    return Wanted(
        versions=picked,
        weights=_weights(answers, beside),
        labels={label: version for label, version in labels.items() if version in picked},
        shadow=shadow,
        sticky=declared.sticky,
        strategy=strategy,
        absent={version: _why_absent(version, declared, overrides, seen) for version in sorted(absent, reverse=True)},
        hold=not picked and bool(seen.problem or any(_error(seen, version) for version in aspired)),
    )


def servable(overrides: Overrides, seen: Seen) -> frozenset[int]:
    """The versions that may be served: without an error and not barred."""
    return frozenset(
        version for version, found in seen.versions.items() if not found.error and version not in overrides.barred
    )


def primary(declared: Declared, overrides: Overrides, seen: Seen) -> int | None:
    """The version that should answer calls that name none, rollouts left aside; None where nothing can be served."""
    good = servable(overrides, seen)
    if overrides.serving is not None:
        for version in (overrides.serving, overrides.previous):
            if version in good:
                return version
    picks = wanted(declared.policy, good) or good.intersection(overrides.loaded)
    return max(picks, default=None)


def back_to(declared: Declared, overrides: Overrides, seen: Seen) -> int | None:
    """The version that a rollback goes to: the one recorded as the previous, else the highest below the primary."""
    good = servable(overrides, seen)
    answers = primary(declared, overrides, seen)
    if overrides.previous in good and overrides.previous != answers:
        return overrides.previous
    return max((version for version in good if answers is not None and version < answers), default=None)


def to_try(declared: Declared, overrides: Overrides, rollout: Rollout | None, seen: Seen) -> int | None:
    """The version that should get a rollout by the declared plan now: the highest that the policy wants, if it is newer
    than what answers and than all that was there when that was chosen. None too while a rollout is under way."""
    under_way = rollout is not None and rollout.status.under_way
    if not declared.plan or overrides.serving is None or overrides.unloaded or under_way:
        return None
    highest = max(wanted(declared.policy, servable(overrides, seen)), default=0)
    return highest if highest > max(overrides.serving, overrides.newest) else None


def settle(declared: Declared, overrides: Overrides, seen: Seen, available: Collection[int]) -> Overrides:
    """The overrides, with what answers recorded as soon as a model with a declared plan is served for the first time:
    from then on it changes by rollouts only. Otherwise the same ones."""
    answers = primary(declared, overrides, seen)
    if not declared.plan or overrides.serving is not None or overrides.unloaded or answers not in available:
        return overrides
    return msgspec.structs.replace(overrides, serving=answers, newest=max(servable(overrides, seen)))


def as_loaded(seen: Seen, loaded: Collection[int], failed: Mapping[int, str]) -> Seen:
    """What is seen, corrected by what loading has shown.

    A version that is `loaded` (AVAILABLE, or LOADING) has no error: a change of its files in place is ignored until it
    is reloaded. One that has `failed` to load, and is not to be tried now, has one: the policy goes over the others.
    """
    versions = dict(seen.versions)
    for version, found in seen.versions.items():
        error = "" if version in loaded else found.error or failed.get(version, "")
        if error != found.error:
            versions[version] = msgspec.structs.replace(found, error=error)
    return msgspec.structs.replace(seen, versions=versions)


def _policy_picks(
    declared: Declared, overrides: Overrides, answers: int | None, good: frozenset[int]
) -> tuple[int, ...]:
    """What the policy wants, given who answers: the latest are counted from there downwards, and versions that wait for
    their rollout are not among them."""
    if answers is None:
        return ()
    if isinstance(declared.policy, Latest):
        return wanted(declared.policy, (version for version in good if version <= answers))
    if declared.plan and overrides.serving is not None:
        known = max(overrides.serving, overrides.newest)
        return wanted(declared.policy, (version for version in good if version <= known))
    return wanted(declared.policy, good)


def _weights(answers: int | None, trial: Trial | None) -> tuple[Weight, ...]:
    """The candidate first, the primary last, even where it answers nobody: it is the one to fall back to."""
    if answers is None:
        return ()
    if trial is None or trial.share == 0.0:
        return (Weight(answers, 1.0),)
    return (Weight(trial.candidate, trial.share), Weight(answers, 1.0 - trial.share))


def _aspired(declared: Declared, overrides: Overrides, trial: Trial | None, seen: Seen) -> frozenset[int]:
    """The versions that one could expect: those that the policy would want if nothing was wrong, and those named."""
    there = seen.versions.keys() - set(overrides.barred)
    policy = {*wanted(declared.policy, there), *wanted(declared.policy, servable(overrides, seen))}
    named = {*overrides.loaded, *([] if overrides.serving is None else [overrides.serving])}
    if trial is not None:
        named |= {trial.primary, trial.candidate}
    return frozenset(policy.union(named, missing(declared.policy, seen.versions)))


def _why_absent(version: int, declared: Declared, overrides: Overrides, seen: Seen) -> str:
    if version not in seen.versions:
        return "it is not in the repository"
    if version in overrides.barred:
        return f"it was rolled back; `dukou promote {declared.name} --version {version}` lets it answer again"
    if error := _error(seen, version):
        return error
    if declared.plan:
        return f"version {overrides.serving} answers; a newer one is served after its rollout"
    return f"version {overrides.serving} answers since it was chosen; deploy this one to have it served"


def _error(seen: Seen, version: int) -> str:
    return seen.versions[version].error if version in seen.versions else ""
