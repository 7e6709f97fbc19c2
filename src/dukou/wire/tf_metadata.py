"""What TensorFlow Serving tells of a model, as trees of plain values: the JSON of its REST API, and the messages of its
gRPC API, of which that JSON is the form (https://protobuf.dev/programming-guides/json/): 64-bit integers are texts."""

from collections.abc import Mapping
from typing import Any

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Served
from dukou.core.model import TensorSpec
from dukou.wire.tf_examples import method_name
from dukou.wire.tf_kinds import KINDS


def model_status(model: str, versions: Mapping[int, Served], version: int | None) -> dict[str, Any]:
    """A GetModelStatusResponse: the states of `versions` (or of one of them), highest version first; one that failed to
    load carries its error.

    Raises DukouError MODEL_NOT_FOUND where there are none, VERSION_NOT_FOUND where `version` is not among them.
    """
    if not versions:
        text = f"Could not find any versions of model {model}"
        raise DukouError(Reason.MODEL_NOT_FOUND, model=model, served="", text=text)
    if version is not None and version not in versions:
        text = f"Could not find version {version} of model {model}"
        served = ", ".join(map(str, versions))
        raise DukouError(Reason.VERSION_NOT_FOUND, model=model, version=version, served=served, text=text)
    shown = sorted(versions, reverse=True) if version is None else [version]
    return {"model_version_status": [_status(versions[number]) for number in shown]}


def _status(served: Served) -> dict[str, Any]:
    error = served.error
    if error is None:
        status = {"error_code": "OK", "error_message": ""}
    else:
        code = Code.RESOURCE_EXHAUSTED if error.code is Code.PAYLOAD_TOO_LARGE else error.code
        status = {"error_code": code.value, "error_message": str(error)}
    return {"version": str(served.id.version), "state": served.state.value, "status": status}


def model_metadata(served: Served) -> dict[str, Any]:
    """The answer to GET .../metadata: the version that would answer, and its signatures."""
    return {
        "model_spec": {"name": served.id.name, "signature_name": "", "version": str(served.id.version)},
        "metadata": {"signature_def": signature_def_map(served)},
    }


def signature_def_map(served: Served) -> dict[str, Any]:
    """A SignatureDefMap: the signatures of a version."""
    return {
        "signature_def": {
            name: {
                "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
                "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
                "method_name": method_name(signature),
                "defaults": {},
            }
            for name, signature in served.manifest.signatures.items()
        }
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    shape = spec.stated if spec.shape is None else spec.shape
    return {
        "dtype": KINDS[spec.datatype].proto_name,
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in shape or ()],
            "unknown_rank": shape is None,
        },
        "name": spec.tensor or f"{spec.name}:0",
    }
