"""dukou: from a trained model file to a live service, and from one version to the next without anyone noticing.

`import dukou` loads nothing else; each public name is imported when it is first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it as true; importing `typing` for it would cost more than all the rest
if TYPE_CHECKING:
    from dukou.app.embed import load
    from dukou.client.client import AsyncClient, Client
    from dukou.core.errors import DukouError

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "DukouError", "__version__", "load"]

_HOMES = {
    "AsyncClient": "dukou.client.client",
    "Client": "dukou.client.client",
    "DukouError": "dukou.core.errors",
    "load": "dukou.app.embed",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'dukou' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
