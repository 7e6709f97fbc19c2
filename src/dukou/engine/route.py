"""Which version answers: a pure decision over the table."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Served, Table
from dukou.core.model import ModelRef, State
from dukou.core.route import Route

_MOST_NAMES = 20
"""How many names an error lists; a table may hold thousands."""


def choose(table: Table, ref: ModelRef, key: str, draw: Callable[[], float]) -> Served:
    """The AVAILABLE version that `ref` means: a version, a label, or else whom the model's route gives the call, or,
    without one, the highest version AVAILABLE.

    An empty name means the only model served. `key` keeps its caller on one version of a route while the candidate's
    share grows; without one `draw()` decides, a number from 0 to 1 (1 excluded). Raises DukouError MODEL_NOT_FOUND,
    MODEL_UNNAMED, VERSION_NOT_FOUND, LABEL_NOT_FOUND, MODEL_NOT_READY.
    """
    name = ref.name or (next(iter(table.models)) if len(table.models) == 1 else _only_model(table))
    versions = table.models.get(name)
    if not versions and ref.label is not None:  # TensorFlow Serving looks for the label first
        raise DukouError(Reason.LABEL_NOT_FOUND, model=name, label=ref.label)
    if not versions:
        asked = {} if ref.version is None else {"version": ref.version}
        raise DukouError(Reason.MODEL_NOT_FOUND, model=name, **asked, served=_list(table.models))
    if ref.version is None and ref.label is None:
        if table.routes:
            route = table.routes.get(name)
            if route is not None and route.weights:
                at = position(name, route, key) if key else draw()
                return _routed(versions, route, at)
        for served in versions.values():
            if served.state is State.AVAILABLE:
                return served
        return _ready(next(iter(versions.values())))
    number = ref.version if ref.version is not None else _labelled(table, name, ref.label or "")
    found = versions.get(number)
    if found is None:
        raise DukouError(Reason.VERSION_NOT_FOUND, model=name, version=number, served=_list(versions))
    return _ready(found)


def position(name: str, route: Route, key: str) -> float:
    """Where `key` stands between 0 and 1 (1 excluded): always the same place while the model has the same candidate,
    in every process; another candidate is tried on other callers."""
    text = f"{name}/{route.weights[0].version}/{key}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2.0**48


def primary(table: Table, name: str) -> int | None:
    """The version that most calls of the model go to; None where none is AVAILABLE."""
    versions = table.models.get(name, {})
    available = [number for number, served in versions.items() if served.state is State.AVAILABLE]
    route = table.routes.get(name, Route())
    shares = {weight.version: weight.share for weight in route.weights}
    return max(available, key=lambda number: (shares.get(number, 0.0), number), default=None)


def _routed(versions: Mapping[int, Served], route: Route, at: float) -> Served:
    """The version whose share of the line from 0 to 1 has `at` in it; where that one is not AVAILABLE, the one of the
    route that is and has the largest share. Raises DukouError MODEL_NOT_READY."""
    drawn = None
    for weight in route.weights:
        if weight.share > 0.0:
            drawn = weight
            at -= weight.share
            if at < 0.0:
                break
    found = versions.get(drawn.version) if drawn is not None else None
    if found is not None and found.state is State.AVAILABLE:
        return found
    for weight in sorted(route.weights, key=lambda weight: -weight.share):
        served = versions.get(weight.version)
        if weight.share > 0.0 and served is not None and served.state is State.AVAILABLE:
            return served
    raise _not_ready(found if found is not None else next(iter(versions.values())))


def _only_model(table: Table) -> str:
    names: Mapping[str, object] = table.models
    if len(names) > 1:
        raise DukouError(Reason.MODEL_UNNAMED, served=_list(names))
    return next(iter(names), "")


def _labelled(table: Table, name: str, label: str) -> int:
    version = table.labels.get(name, {}).get(label)
    if version is None:
        raise DukouError(Reason.LABEL_NOT_FOUND, model=name, label=label)
    return version


def _ready(served: Served) -> Served:
    if served.state is not State.AVAILABLE:
        raise _not_ready(served)
    return served


def _not_ready(served: Served) -> DukouError:
    error = served.error
    why = ""
    if error is not None and error.reason is Reason.NOT_SERVING:  # what the operator said of it
        why = f": {error.what()}"
    elif error is not None:
        why = f"; it could not be loaded: {error.what()}"
    facts = {"model": served.id.name, "version": served.id.version, "state": served.state.value}
    return DukouError(Reason.MODEL_NOT_READY, **facts, detail=why)


def _list(names: Iterable[object]) -> str:
    """`a, b, c`, `none`, or the first of many and how many more there are."""
    words = [str(name) for name in names]
    more = len(words) - _MOST_NAMES
    return ", ".join(words[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "") or "none"
