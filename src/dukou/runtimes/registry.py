"""Runtimes by name. Ours and other people's come through the same door: an entry point that names a class."""

from importlib.metadata import EntryPoint, entry_points

from dukou.core.errors import DukouError, Reason
from dukou.core.runtime import Runtime

GROUP = "dukou.runtimes"
BUILT_IN = (
    EntryPoint("onnx", "dukou.runtimes.onnx:OnnxRuntime", GROUP),
    EntryPoint("sklearn", "dukou.runtimes.sklearn:SklearnRuntime", GROUP),
)
"""Known without asking the installed packages, which takes longer than loading a small model."""


def runtime(name: str) -> Runtime:
    """A new Runtime; its framework is imported now, no other is.

    A package adds one by an entry point of the group `dukou.runtimes`: a name, and a class without arguments. Built-in
    names cannot be taken. Raises DukouError RUNTIME_NOT_FOUND, or RUNTIME_UNAVAILABLE when the import fails.
    """
    point = next((point for point in _points(name) if point.name == name), None)
    if point is None:
        raise DukouError(Reason.RUNTIME_NOT_FOUND, runtime=name, served=", ".join(names()))
    try:
        made: Runtime = point.load()()
    except (ImportError, AttributeError) as error:
        raise DukouError(Reason.RUNTIME_UNAVAILABLE, runtime=name, detail=str(error)) from error
    return made


def names() -> tuple[str, ...]:
    """The names of all runtimes that are installed."""
    return tuple(dict.fromkeys(point.name for point in (*BUILT_IN, *entry_points(group=GROUP))))


def _points(name: str) -> tuple[EntryPoint, ...]:
    if any(point.name == name for point in BUILT_IN):
        return BUILT_IN
    return tuple(entry_points(group=GROUP))
