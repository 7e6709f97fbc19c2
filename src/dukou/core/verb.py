"""What a caller of the data plane may ask the control plane to do, where the operator allows it."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import msgspec


class ReloadFile(msgspec.Struct, frozen=True, tag=True):
    """Read the model config file again, then wait until this version of the model is AVAILABLE."""

    model: str
    version: int | None = None


class ReloadConfig(msgspec.Struct, frozen=True, tag=True):
    """Serve what this serialised `tensorflow.serving.ModelServerConfig` says instead of the one before."""

    config: bytes


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load a model of the repository, or load it anew; `parameters` are those of the protocol's request."""

    model: str
    parameters: Mapping[str, Any] = {}


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Unload every version of a model."""

    model: str


Verb: TypeAlias = ReloadFile | ReloadConfig | Load | Unload


class Control(Protocol):
    """The control plane as the data plane sees it."""

    async def do(self, verb: Verb, who: str) -> None:
        """Returns when it is done: what should be loaded answers calls. `who` asked, for the audit.

        Raises DukouError: NOT_SUPPORTED or NOT_SERVING where the operator does not allow it, else what went wrong.
        """
