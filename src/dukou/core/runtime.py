"""Models in memory: the Protocols of what loads them and what answers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dukou.core.model import ModelManifest
from dukou.core.tensor import Tensors


class LoadedModel(Protocol):
    """A version in memory. `infer` is synchronous and thread-safe for `concurrency` calls at a time."""

    @property
    def concurrency(self) -> int:
        """How many threads may be in `infer` at once."""

    @property
    def holds_gil(self) -> bool:
        """Whether `infer` keeps the interpreter locked while it computes."""

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """The outputs asked for, by name. Raises DukouError; MODEL_REFUSED_INPUT where the values are at fault."""


class StreamingModel(LoadedModel, Protocol):
    """A LoadedModel with signatures that are `streaming`."""

    def stream(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Iterator[Tensors]:
        """The responses to one request, as they come; each holds those of the `outputs` that it has.

        Each step runs in a thread, one step of an iterator at a time and `concurrency` in all; one may run beside an
        `infer` of another signature. Closing the iterator ends the work. Raises what `infer` raises.
        """


class Runtime(Protocol):
    """Turns an artifact into a LoadedModel; one class for each kind of artifact."""

    def load(self, folder: Path, manifest: ModelManifest, *, trust: bool = False) -> LoadedModel:
        """Open `folder / manifest.serving`, whose digest has been verified.

        `trust`: the operator has said that this file may run code while it is opened. Raises DukouError.
        """
