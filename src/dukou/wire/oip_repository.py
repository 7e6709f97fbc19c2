"""The model repository extension: which versions there are, in which state; what a load or an unload asks for."""

from collections.abc import Mapping
from typing import Any

from dukou.core.errors import DukouError, Reason
from dukou.core.link import UNLOADED
from dukou.core.message import Served, Table
from dukou.core.verb import Load, Unload
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
    return {**entry, "reason": UNLOADED} if served.state is State.END else entry


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


def parse_parameters(body: bytes) -> Mapping[str, Any]:
    """The parameters of a load or unload; an empty body has none. Raises DukouError MALFORMED_JSON, TOO_DEEP,
    MALFORMED_REQUEST."""
    if not body.strip():
        return {}
    said = read(body)
    parameters = said.get("parameters", {}) if isinstance(said, dict) else None
    if not isinstance(parameters, dict):
        raise DukouError(Reason.MALFORMED_REQUEST, detail='the body must be empty or {"parameters": {...}}')
    return parameters


def load(model: str, parameters: Mapping[str, Any]) -> Load:
    """The verb of a load. Raises DukouError NOT_SUPPORTED, MALFORMED_REQUEST for parameters that ask for more."""
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            what = "another config" if name == "config" else "files of the request"
            raise DukouError(
                Reason.NOT_SUPPORTED,
                text=f"failed to load '{model}', the server loads what its repository holds, not {what} ({name})",
            )
        raise DukouError(Reason.MALFORMED_REQUEST, text=f"failed to load '{model}', unknown parameter '{name}'")
    return Load(model)


def unload(model: str, parameters: Mapping[str, Any]) -> Unload:
    """The verb of an unload. No model here depends on another, so `unload_dependents` changes nothing.

    Raises DukouError MALFORMED_REQUEST.
    """
    for name, value in parameters.items():
        if name != "unload_dependents":
            raise DukouError(Reason.MALFORMED_REQUEST, text=f"failed to unload '{model}', unknown parameter '{name}'")
        if not isinstance(value, bool):
            raise DukouError(
                Reason.MALFORMED_REQUEST,
                text=f"failed to unload '{model}', 'unload_dependents' is {value!r:.80}, neither true nor false",
            )
    return Unload(model)


def failed(verb: Load | Unload, error: DukouError) -> DukouError:
    """`error`, which a load or an unload has ended with, in the words that clients look for."""
    what = "load" if isinstance(verb, Load) else "unload"
    why = describe(error).removeprefix(f"{error.where()}: ")
    text = f"failed to {what} '{verb.model}', {why}"
    return DukouError(error.reason, **(error.facts | {"text": text}))
