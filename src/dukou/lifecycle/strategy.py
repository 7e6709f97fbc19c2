"""What loads next: `next_action`, a pure function of what is and what should be. It keeps no memory: asked again in the
same situation it says the same, and at the goal it says what is in force."""

from collections.abc import Collection, Mapping

from dukou.core.link import Apply
from dukou.core.route import Weight
from dukou.core.version import State
from dukou.lifecycle.wanted import Next, Now, Strategy, Wanted

_LOADED = (State.LOADING, State.AVAILABLE)


def next_action(now: Now, wanted: Wanted) -> Next:
    """The next table of one model.

    AVAILABILITY_PRESERVING loads everything wanted at once and drops what is not when neither the table in force nor
    the next one sends calls there, by weight or label; so the last AVAILABLE version stays until another one answers.
    RESOURCE_PRESERVING drops first, and loads when the memory is given back.
    """
    if not wanted.versions and not wanted.hold:
        return Next()
    if wanted.strategy is Strategy.RESOURCE_PRESERVING and wanted.versions:
        return _dropping_first(now, wanted)
    published = {weight.version for weight in now.weights}
    present = {
        version
        for version, state in now.states.items()
        if state in _LOADED or (state is State.END and version in published)  # which failed in some worker only
    }
    weights = _weights(now, wanted, present)
    labels = _labels(now, now.labels if wanted.hold else wanted.labels, present)
    called = published.union({weight.version for weight in weights}, now.labels.values(), labels.values())
    answered = any(now.states.get(weight.version) is State.AVAILABLE for weight in weights)
    kept = {version for version in present if version in called or not answered}
    return Next(_ordered(kept.union(wanted.versions)), (), weights, labels)


def resuming(published: Apply, name: str, wanted: Wanted, good: Collection[int]) -> Next | None:
    """The first table of a model after a restart, until the workers have it: what the one `published` last before it
    had, as far as that is `good`; None where what answered then is not.

    Nobody is answered before that is loaded, so what was only being loaded, to answer calls, comes with the next one.
    """
    route = published.routes.get(name)
    if route is None or not route.weights or not wanted.versions:
        return None
    answering = {weight.version for weight in route.weights}
    coming = {weight.version for weight in wanted.weights} - answering - {*wanted.labels.values()}
    known = {
        one.id.version
        for one in published.assignments
        if one.id.name == name and one.wanted is State.AVAILABLE and one.id.version in good
    }
    if not answering <= known:
        return None
    loaded = known - coming
    labels = {label: number for label, number in published.labels.get(name, {}).items() if number in loaded}
    return Next(_ordered(loaded), _ordered(coming), route.weights, labels)


def _dropping_first(now: Now, wanted: Wanted) -> Next:
    loaded = {version for version, state in now.states.items() if state in _LOADED}
    crowded = State.UNLOADING in now.states.values() or not loaded.issubset(wanted.versions)
    load = {version for version in wanted.versions if version in loaded or not crowded}
    staying = loaded.intersection(wanted.versions)
    announce = _ordered(set(wanted.versions) - load)
    return Next(_ordered(load), announce, _weights(now, wanted, staying), _labels(now, wanted.labels, staying))


def _weights(now: Now, wanted: Wanted, present: Collection[int]) -> tuple[Weight, ...]:
    """Who answers, of the versions that are `present`: those wanted, as soon as they can; until then what is published;
    without that the best that is AVAILABLE.

    A published version that is LOADING is one that a restarted worker has not loaded yet: the others have it, so
    nothing is moved for its sake.
    """
    states = {version: now.states[version] for version in present}
    available = {version for version, state in states.items() if state is State.AVAILABLE}
    published = [weight.version for weight in now.weights]
    good = available.union(version for version in published if states.get(version) is State.LOADING)
    if wanted.weights:
        if all(weight.version in good for weight in wanted.weights):
            return wanted.weights
        if (primary := wanted.weights[-1].version) in good:
            return (Weight(primary, 1.0),)
    if published and good.issuperset(published):
        return now.weights
    if not available:
        return now.weights if published and states.keys() >= set(published) else wanted.weights
    candidates = {weight.version for weight in wanted.weights[:-1]}
    best = max(available, key=lambda version: (version not in candidates, version in wanted.versions, version))
    return (Weight(best, 1.0),)


def _labels(now: Now, wanted: Mapping[str, int], present: Collection[int]) -> Mapping[str, int]:
    """Each label at its version when that is AVAILABLE, until then where it is, as long as that is there."""
    labels = {}
    for label, version in wanted.items():
        published = now.labels.get(label)
        if version in present and now.states[version] is State.AVAILABLE:
            labels[label] = version
        elif published is not None and published in present:
            labels[label] = published
    return labels


def _ordered(versions: Collection[int]) -> tuple[int, ...]:
    return tuple(sorted(versions, reverse=True))
