"""Which version answers: a pure decision over the table."""

from collections.abc import Iterable, Mapping

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Served, Table
from dukou.core.model import ModelRef, State

_MOST_NAMES = 20
"""How many names an error lists; a table may hold thousands."""


def choose(table: Table, ref: ModelRef, route_key: str) -> Served:
    """The AVAILABLE version that `ref` means: a version, a label, or else the highest one AVAILABLE.

    An empty name means the only model served. `route_key` is what keeps one caller on one version where a model has
    weighted routes; tables have none so far. Raises DukouError MODEL_NOT_FOUND, MODEL_UNNAMED, VERSION_NOT_FOUND,
    LABEL_NOT_FOUND, MODEL_NOT_READY.
    """
    name = ref.name or (next(iter(table.models)) if len(table.models) == 1 else _only_model(table))
    versions = table.models.get(name)
    if not versions and ref.label is not None:  # TensorFlow Serving looks for the label first
        raise DukouError(Reason.LABEL_NOT_FOUND, model=name, label=ref.label)
    if not versions:
        asked = {} if ref.version is None else {"version": ref.version}
        raise DukouError(Reason.MODEL_NOT_FOUND, model=name, **asked, served=_list(table.models))
    if ref.version is None and ref.label is None:
        for served in versions.values():
            if served.state is State.AVAILABLE:
                return served
        return _ready(next(iter(versions.values())))
    number = ref.version if ref.version is not None else _labelled(table, name, ref.label or "")
    found = versions.get(number)
    if found is None:
        raise DukouError(Reason.VERSION_NOT_FOUND, model=name, version=number, served=_list(versions))
    return _ready(found)


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
        why = "" if served.error is None else f"; it could not be loaded: {served.error.what()}"
        raise DukouError(
            Reason.MODEL_NOT_READY,
            model=served.id.name,
            version=served.id.version,
            state=served.state.value,
            detail=why,
        )
    return served


def _list(names: Iterable[object]) -> str:
    """`a, b, c`, `none`, or the first of many and how many more there are."""
    words = [str(name) for name in names]
    more = len(words) - _MOST_NAMES
    return ", ".join(words[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "") or "none"
