"""The requests that TensorFlow Serving's users record beside a version are answered before it is AVAILABLE.

They are read as its gRPC calls are; which model and version they were recorded from does not matter, only the signature
that they name. One that fails keeps the version from being served.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceResponse, Served
from dukou.core.model import ModelManifest, ModelRef, State
from dukou.core.runtime import LoadedModel
from dukou.packing.tf_warmup import WARMUPS, read_warmups
from dukou.packing.warmup import ask
from dukou.protos import pool
from dukou.wire import tf_grpc, tf_grpc_examples
from dukou.wire.codec import Codec
from dukou.wire.tf_examples import CLASSIFY, REGRESS

_CODECS: Mapping[str, Codec] = {
    "predict": tf_grpc,
    "classify": tf_grpc_examples.CLASSIFY,
    "regress": tf_grpc_examples.REGRESS,
}


def answer_recorded(folder: Path, manifest: ModelManifest, model: LoadedModel) -> None:
    """Let `model`, of the version in `folder`, answer what was recorded there, if anything was.

    Raises DukouError ARTIFACT_UNREADABLE, naming the record, where one cannot be read, bound or answered.
    """
    served = Served(manifest.id, manifest, State.AVAILABLE)
    for number, log in enumerate(read_warmups(folder), 1):
        try:
            for method, said in _calls(log):
                _answer(method, said, served, model)
        except DukouError as error:
            facts = {name: fact for name, fact in error.facts.items() if name not in {"model", "version"}}
            raise _failed(folder / WARMUPS, number, str(DukouError(error.reason, **facts))) from error
        except (Exception, SystemExit) as error:
            raise _failed(folder / WARMUPS, number, f"the model failed: {type(error).__name__}: {error}") from error


def _answer(method: str, said: Any, served: Served, model: LoadedModel) -> None:
    codec = _CODECS[method]
    said.model_spec.name = served.id.name
    said.model_spec.ClearField("version_choice")
    draft = codec.parse(ModelRef(served.id.name), {}, said.SerializeToString())
    request = codec.bind(draft, served, Context())
    outputs = ask(model, request.signature, request.inputs, request.outputs, request.parameters)
    codec.encode(request, InferenceResponse(served.id, outputs))


def _calls(log: Any) -> Iterator[tuple[str, Any]]:
    """The calls that a PredictionLog holds: which method, and its request. Raises DukouError NOT_SUPPORTED."""
    kind = log.WhichOneof("log_type")
    match kind:
        case "predict_log" | "classify_log" | "regress_log":
            yield kind.removesuffix("_log"), getattr(log, kind).request
        case "multi_inference_log":
            yield from _tasks(log.multi_inference_log.request)
        case _:
            detail = f"it is a {kind}; predict, classify, regress and multi_inference logs are read"
            raise DukouError(Reason.NOT_SUPPORTED, detail=detail if kind else "it has no log_type")


def _tasks(said: Any) -> Iterator[tuple[str, Any]]:
    """The tasks of a MultiInferenceRequest as calls of their own."""
    kinds = {CLASSIFY: ("classify", "ClassificationRequest"), REGRESS: ("regress", "RegressionRequest")}
    for task in said.tasks:
        if task.method_name not in kinds:
            raise DukouError(Reason.NOT_SUPPORTED, detail=f"it has a task {task.method_name!r}")
        method, message = kinds[task.method_name]
        yield method, pool.message(f"tensorflow.serving.{message}")(model_spec=task.model_spec, input=said.input)


def _failed(path: Path, number: int, detail: str) -> DukouError:
    return DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=f"warm-up record {number}: {detail}")
