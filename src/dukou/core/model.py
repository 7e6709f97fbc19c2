"""What is served: names, versions, tensor specs, signatures, manifests.

No NumPy here: the supervisor reads manifests.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.version import ModelRef, ModelVersion, State

__all__ = [
    "DATATYPES",
    "DEFAULT_SIGNATURE",
    "Environment",
    "Evidence",
    "ModelManifest",
    "ModelRef",
    "ModelVersion",
    "Repository",
    "Signature",
    "State",
    "TensorSpec",
]

DEFAULT_SIGNATURE = "serving_default"

DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "BF16", "FP32", "FP64", "BYTES"),
)
"""The names of all datatypes; `dukou.core.tensor.DTYPES` has their NumPy dtypes."""


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a tensor must look like: its name, datatype and shape.

    `shape` has -1 for any size and is None when even the rank is unknown; `stated` is then the shape that metadata
    tells, which binds nobody (TensorFlow Serving's signatures are so). `columns` names the entries of the last axis:
    of an input, the columns of the frame that the model was trained on; of an output, its classes. `tensor` is the
    artifact's own name of the tensor where it has another one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None = None
    columns: tuple[str, ...] = ()
    stated: tuple[int, ...] | None = None
    tensor: str = ""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` is allowed."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (-1, came) for want, came in zip(self.shape, shape, strict=True)
        )


class Signature(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Named inputs and outputs.

    `batched`: axis 0 of every input and output is rows (its size there is -1). `method` is `predict`, `classify` or
    `regress`. `streaming`: a request may have any number of responses.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    method: str = "predict"
    batched: bool = True
    streaming: bool = False

    def output_names(self) -> tuple[str, ...]:
        """The names of all outputs, in order."""
        return tuple([spec.name for spec in self.outputs])


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


class Repository(Protocol):
    """Where versions live."""

    def versions(self, model: str) -> Mapping[int, ModelManifest]:
        """Every version of `model` with its manifest. Raises DukouError."""

    def fetch(self, version: ModelVersion) -> Path:
        """The folder of a version, its digests verified. Raises DukouError DIGEST_MISMATCH."""
