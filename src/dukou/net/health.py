"""When the server is ready to answer. Pure."""

from collections.abc import Collection

from dukou.core.link import UNLOADED
from dukou.core.message import Served, Table
from dukou.core.version import State


def server_ready(table: Table) -> bool:
    """Whether every model answers: one of its versions is AVAILABLE, whatever happens to the others. Those that were
    unloaded on purpose do not count."""
    return bool(table.models) and all(_ready(versions.values()) for versions in table.models.values())


def _ready(versions: Collection[Served]) -> bool:
    return any(served.state is State.AVAILABLE for served in versions) or all(map(_unloaded, versions))


def _unloaded(served: Served) -> bool:
    error = served.error
    return served.state is State.END and error is not None and error.facts.get("detail") == UNLOADED
