"""What is served: names, versions, signatures, manifests, and the Protocols of runtimes and repositories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.tensor import Tensors, TensorSpec
from dukou.core.version import ModelRef, ModelVersion, State

__all__ = [
    "DEFAULT_SIGNATURE",
    "Environment",
    "Evidence",
    "LoadedModel",
    "ModelManifest",
    "ModelRef",
    "ModelVersion",
    "Repository",
    "Runtime",
    "Signature",
    "State",
]

DEFAULT_SIGNATURE = "serving_default"


class Signature(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Named inputs and outputs. `batched`: axis 0 of every input and output is rows (its size there is -1)."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    method: str = "predict"
    batched: bool = True

    def output_names(self) -> tuple[str, ...]:
        """The names of all outputs, in order."""
        return tuple(spec.name for spec in self.outputs)


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Why the form that serves may serve, and whether rows of different callers may share a batch.

    `form` is "compiled" or "original". `source` says where the rows of the comparison came from: "data" (given with
    --data), "derived" (from the fitted state), "none" (a float64 graph that needs none) or "" (nothing was compared).
    `reason` is a sentence for people. `independent_rows` is true only after rows answered together equalled the same
    rows answered singly; `independence` is the sentence about that.
    """

    form: str
    reason: str
    source: str = ""
    rows: int = 0
    max_abs_difference: float = 0.0
    max_rel_difference: float = 0.0
    label_differences: int = 0
    independent_rows: bool = False
    independence: str = ""


class Environment(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where the version was packed."""

    python: str = ""
    platform: str = ""
    cpu: str = ""
    libraries: Mapping[str, str] = {}


class ModelManifest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the repository says of a version; the content of `manifest.toml`.

    `runtime` names the runtime that serves ("onnx", "sklearn") and `serving` the file it opens, relative to the
    manifest. `digests` maps every file of the version (relative path) to its SHA-256 in hex; the file named by
    `original`, where there is one, is the artifact as it was trained.
    """

    format: int
    id: ModelVersion
    runtime: str
    serving: str
    signatures: Mapping[str, Signature]
    digests: Mapping[str, str]
    evidence: Evidence
    original: str = ""
    options: Mapping[str, Any] = {}
    environment: Environment = Environment()
    metrics: Mapping[str, float] = {}
    lineage: Mapping[str, str] = {}

    def signature(self, name: str) -> Signature:
        """The signature called `name`, "" for the default one. Raises DukouError SIGNATURE_NOT_FOUND."""
        found = self.signatures.get(name or DEFAULT_SIGNATURE)
        if found is None:
            raise DukouError(
                Reason.SIGNATURE_NOT_FOUND,
                model=self.id.name,
                version=self.id.version,
                signature=name or DEFAULT_SIGNATURE,
                served=", ".join(self.signatures),
            )
        return found


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


class Runtime(Protocol):
    """Turns an artifact into a LoadedModel; one class for each kind of artifact."""

    def load(self, folder: Path, manifest: ModelManifest, *, trust: bool = False) -> LoadedModel:
        """Open `folder / manifest.serving`, whose digest has been verified.

        `trust`: the operator has said that this file may run code while it is opened. Raises DukouError.
        """


class Repository(Protocol):
    """Where versions live."""

    def versions(self, model: str) -> Mapping[int, ModelManifest]:
        """Every version of `model` with its manifest. Raises DukouError."""

    def fetch(self, version: ModelVersion) -> Path:
        """The folder of a version, its digests verified. Raises DukouError DIGEST_MISMATCH."""
