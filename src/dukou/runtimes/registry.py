"""Runtimes by name. Ours and other people's come through the same door: an entry point that names a class."""

from importlib import import_module
from typing import Any

from dukou.core.errors import DukouError, Reason
from dukou.core.runtime import Runtime

GROUP = "dukou.runtimes"
BUILT_IN = {
    "onnx": ("dukou.runtimes.onnx", "OnnxRuntime"),
    "python": ("dukou.runtimes.python", "PythonRuntime"),
    "sklearn": ("dukou.runtimes.sklearn", "SklearnRuntime"),
}
"""Known without asking the installed packages, which takes longer than loading a small model."""


def runtime(name: str) -> Runtime:
    """A new Runtime; its framework is imported now, no other is.

    A package adds one by an entry point of the group `dukou.runtimes`: a name, and a class without arguments. Built-in
    names cannot be taken. Raises DukouError RUNTIME_NOT_FOUND, or RUNTIME_UNAVAILABLE when the import fails.
    """
    try:
        made: Runtime = _class(name)()
    except (ImportError, AttributeError) as error:
        raise DukouError(Reason.RUNTIME_UNAVAILABLE, runtime=name, detail=str(error)) from error
    return made


def names() -> tuple[str, ...]:
    """The names of all runtimes that are installed."""
    return tuple(dict.fromkeys((*BUILT_IN, *(point.name for point in _added()))))


def _class(name: str) -> Any:
    if name in BUILT_IN:
        module, of = BUILT_IN[name]
        return getattr(import_module(module), of)
    for point in _added():
        if point.name == name:
            return point.load()
    raise DukouError(Reason.RUNTIME_NOT_FOUND, runtime=name, served=", ".join(names()))


def _added() -> Any:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)
