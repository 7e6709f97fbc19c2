"""When the server is ready to answer. Pure."""

from collections.abc import Mapping

from dukou.core.message import Served, Table
from dukou.core.version import State


def server_ready(table: Table) -> bool:
    """Whether everything in the table can be called: some model, and of each model every version that has not ended."""
    return bool(table.models) and all(_all_available(versions) for versions in table.models.values())


def _all_available(versions: Mapping[int, Served]) -> bool:
    """A version on its way out does not count while another one answers."""
    states = {served.state for served in versions.values()}
    return State.AVAILABLE in states and states <= {State.AVAILABLE, State.UNLOADING, State.END}
