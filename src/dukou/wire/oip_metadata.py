"""What a server says of itself and its models in the Open Inference Protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dukou.core.message import Served
from dukou.core.model import ModelManifest, TensorSpec


def server_metadata(name: str, version: str, extensions: Sequence[str]) -> bytes:
    """What the server is, and the extensions of the protocol that it speaks."""
    return orjson.dumps({"name": name, "version": version, "extensions": list(extensions)})


def model_metadata(model: str, versions: Mapping[int, Served], served: Served) -> bytes:
    """The tensors of `served`'s default signature, with all `versions` of the model.

    A shape whose rank is unknown is written as it is `stated`, else as `[-1]`. Raises DukouError SIGNATURE_NOT_FOUND.
    """
    signature = served.manifest.signature("")
    return orjson.dumps(
        {
            "name": model,
            "versions": [str(number) for number in sorted(versions)],
            "platform": platform(served.manifest),
            "inputs": [_described(spec) for spec in signature.inputs],
            "outputs": [_described(spec) for spec in signature.outputs],
        }
    )


def platform(manifest: ModelManifest) -> str:
    """What runs the model, by the name that Triton has for it; else the runtime's own."""
    return _PLATFORMS.get(manifest.runtime, manifest.runtime)


_PLATFORMS = {"onnx": "onnxruntime_onnx"}

BACKENDS = {"onnx": "onnxruntime"}
"""Runtimes to Triton's names of what runs them, where those differ."""


def stated_shape(spec: TensorSpec) -> Sequence[int]:
    """The shape that metadata tells."""
    if spec.shape is not None:
        return spec.shape
    return (-1,) if spec.stated is None else spec.stated


def _described(spec: TensorSpec) -> dict[str, Any]:
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": stated_shape(spec)}
    # Beyond the protocol: without the names a client could only send a frame's columns in whatever order they have.
    return {**tensor, "columns": spec.columns} if spec.columns else tensor
