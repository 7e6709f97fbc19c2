"""The model repository extension, as far as it tells: which versions there are, in which state."""

from collections.abc import Mapping

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Served, Table
from dukou.core.version import State
from dukou.wire.json_text import read
from dukou.wire.oip_errors import describe

_STATES: Mapping[State, str] = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}


def index(table: Table, only_ready: bool) -> list[dict[str, str]]:
    """Every version with its state and, where it is not what one wants, the reason; or only those that answer.

    By name, then by version.
    """
    return [
        _entry(table.models[name][version])
        for name in sorted(table.models)
        for version in sorted(table.models[name])
        if not only_ready or table.models[name][version].state is State.AVAILABLE
    ]


def _entry(served: Served) -> dict[str, str]:
    entry = {"name": served.id.name, "version": str(served.id.version), "state": _STATES[served.state]}
    if served.error is not None:
        return {**entry, "reason": describe(served.error)}
    return {**entry, "reason": "unloaded"} if served.state is State.END else entry


def parse_index(body: bytes) -> bool:
    """Whether only versions that answer are asked for; an empty body asks for all. Raises DukouError MALFORMED_JSON,
    TOO_DEEP, MALFORMED_REQUEST."""
    if not body.strip():
        return False
    said = read(body)
    ready = said.get("ready", False) if isinstance(said, dict) else None
    if not isinstance(ready, bool):
        raise DukouError(
            Reason.MALFORMED_REQUEST, detail='the body must be empty or {"ready": true} or {"ready": false}'
        )
    return ready


def refuse_control() -> DukouError:
    """The refusal of load and unload where the repository decides what is served."""
    return DukouError(Reason.NOT_SERVING, detail="explicit model load / unload is not allowed if polling is enabled")
