"""TensorFlow Serving's gRPC services: PredictionService and ModelService.

Facts from tensorflow/serving's `apis/*_service.proto`, `servables/tensorflow/multi_inference.cc`,
`servables/tensorflow/get_model_metadata_impl.cc`, `model_servers/get_model_status_impl.cc` and
`model_servers/model_service_impl.cc`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from dukou.core.entry import entry
from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE
from dukou.core.verb import ReloadConfig
from dukou.net import status, streaming
from dukou.net.api import Api
from dukou.net.commands import check_caller
from dukou.net.facts import Facts
from dukou.net.rpc import GrpcError, Methods, Rpc, Unary
from dukou.protos import pool
from dukou.protos.tree import to_message
from dukou.wire import tf_examples, tf_grpc, tf_grpc_examples, tf_metadata, tf_reload
from dukou.wire.tf_says import says

T = TypeVar("T")

PREDICT = Api(tf_grpc, status.GRPC, 0, entry=entry("Predict", "GRPC"))
CLASSIFY = Api(tf_grpc_examples.CLASSIFY, status.GRPC, 0, entry=entry("Classify", "GRPC"))
REGRESS = Api(tf_grpc_examples.REGRESS, status.GRPC, 0, entry=entry("Regress", "GRPC"))

_PACKAGE = "tensorflow.serving"
_MULTI_INFERENCE = entry("MultiInference", "GRPC")
_ANY_URL = "type.googleapis.com/"
_SIGNATURE_DEF = "signature_def"


def methods(facts: Facts, dialect: str) -> Methods:
    """PredictionService and ModelService, in the dialects that have them."""
    if dialect not in ("", "tensorflow-serving"):
        return {}
    services: dict[str, Any] = {
        "PredictionService/Predict": Unary(PREDICT),
        "PredictionService/Classify": Unary(CLASSIFY),
        "PredictionService/Regress": Unary(REGRESS),
        "PredictionService/MultiInference": partial(_multi_inference, facts),
        "PredictionService/GetModelMetadata": _handler("GetModelMetadataRequest", partial(_metadata, facts)),
        "ModelService/GetModelStatus": _handler("GetModelStatusRequest", partial(_status, facts)),
        "ModelService/HandleReloadConfigRequest": partial(_reload, facts),
    }
    return {f"/{_PACKAGE}.{name}".encode(): method for name, method in services.items()}


def _handler(request: str, answer: Callable[[Any], Any]) -> Callable[[Rpc], Awaitable[None]]:
    """A call of one message each way; errors are told in TensorFlow Serving's words."""

    async def handle(rpc: Rpc) -> None:
        body = await rpc.receive()
        try:
            response = answer(pool.parse(f"{_PACKAGE}.{request}", body or b""))
        except DukouError as error:
            raise _told(error) from error.__cause__
        await rpc.send(response.SerializeToString())

    return handle


def _told(error: DukouError) -> GrpcError:
    return GrpcError(status.GRPC[error.code], tf_grpc.refuse(error).decode())


def _metadata(facts: Facts, said: Any) -> Any:
    if not said.HasField("model_spec"):
        raise says("Missing ModelSpec")
    if not said.metadata_field:
        raise says("GetModelMetadataRequest must specify at least one metadata_field")
    for field in said.metadata_field:
        if field != _SIGNATURE_DEF:
            raise says(f"Metadata field {field} is not supported")
    served = facts.plane.choose(tf_grpc.reference(said), "")
    signatures = to_message(tf_metadata.signature_def_map(served), f"{_PACKAGE}.SignatureDefMap")
    response = pool.message(f"{_PACKAGE}.GetModelMetadataResponse")()
    response.model_spec.name = served.id.name
    response.model_spec.version.value = served.id.version
    packed = response.metadata[_SIGNATURE_DEF]
    packed.type_url = _ANY_URL + signatures.DESCRIPTOR.full_name
    packed.value = signatures.SerializeToString()
    return response


def _status(facts: Facts, said: Any) -> Any:
    if not said.HasField("model_spec"):
        raise says("Missing ModelSpec")
    spec = said.model_spec
    # A label is not resolved here: TensorFlow Serving tells of all versions.
    version = spec.version.value if spec.HasField("version") else None
    tree = tf_metadata.model_status(spec.name, facts.plane.table.models.get(spec.name, {}), version)
    return to_message(tree, f"{_PACKAGE}.GetModelStatusResponse")


async def _reload(facts: Facts, rpc: Rpc) -> None:
    """What is wrong with a configuration is the status of the call; the response only says that nothing is."""
    body = await rpc.receive()
    try:
        config = pool.parse(f"{_PACKAGE}.ReloadConfigRequest", body or b"").config
        if facts.control is None or not (facts.reloads or facts.explicit):
            raise _not_enabled(facts, config)
        check_caller(rpc.peer, rpc.metadata, only_local=not facts.explicit)
        await facts.control.do(ReloadConfig(config.SerializeToString()), rpc.peer)
    except DukouError as error:
        raise _told(error) from error.__cause__
    response = pool.message(f"{_PACKAGE}.ReloadConfigResponse")()
    response.status.SetInParent()
    await rpc.send(response.SerializeToString())


def _not_enabled(facts: Facts, config: Any) -> DukouError:
    """Why a configuration is not put in force. Raises DukouError where it never could be."""
    tf_reload.check(config, facts.plane.table.models)
    detail = (
        "Reloading the configuration is not enabled on this server: the config is valid, nothing was changed. "
        "It is with --model_config_file FILE, for callers of its own machine, and with --set models.control=explicit, "
        "for all."
    )
    return says(detail, Reason.NOT_SUPPORTED)


class _Task(msgspec.Struct, frozen=True):
    method: str
    request: InferenceRequest


async def _multi_inference(facts: Facts, rpc: Rpc) -> None:
    """All tasks are answered by the version that the first one asks for, at once."""
    body = await rpc.receive() or b""
    deadline_s = min(rpc.deadline_s, rpc.arrived_s + facts.request_timeout_s)
    context = Context(rpc.id, rpc.arrived_s, deadline_s, entry=_MULTI_INFERENCE)

    async def where_it_fits(work: Callable[..., T], *arguments: Any) -> T:
        """Many examples are read, and their many results written, in the pool."""
        if len(body) <= facts.off_loop_bytes:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(facts.pool, work, *arguments)

    try:
        served, tasks = await where_it_fits(_bound, facts, body, context)
        answers = await asyncio.gather(*[streaming.run(facts, served, task.request) for task in tasks])
        response = await where_it_fits(_results, tasks, answers)
    except DukouError as error:
        raise _told(error) from error.__cause__
    await rpc.send(response)


def _bound(facts: Facts, body: bytes, context: Context) -> tuple[Served, list[_Task]]:
    """What is asked for, and the version that answers it. Raises DukouError."""
    said = pool.parse(f"{_PACKAGE}.MultiInferenceRequest", body)
    first = said.tasks[0].model_spec if said.tasks else pool.message(f"{_PACKAGE}.ModelSpec")()
    served = facts.plane.choose(tf_grpc.model_ref(first), "")
    return served, _tasks(said, served, context)


def _tasks(said: Any, served: Served, context: Context) -> list[_Task]:
    examples = tf_grpc_examples.examples_of(said.input)
    tasks = []
    seen = set()
    for task in said.tasks:
        spec = task.model_spec
        if not spec.name:
            raise says("Found ModelSpec with an empty model name.")
        if spec.name != served.id.name:
            raise says("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise says(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        if name not in served.manifest.signatures:
            raise says(f"Requested signature not found in model graph: {name}")
        if task.method_name not in (tf_examples.CLASSIFY, tf_examples.REGRESS):
            detail = f"Unsupported signature method_name: {task.method_name}"
            raise says(detail, Reason.NOT_SUPPORTED)
        tasks.append(_Task(task.method_name, tf_examples.bind(task.method_name, name, examples, served, context)))
    return tasks


def _results(tasks: Sequence[_Task], answers: Sequence[InferenceResponse]) -> bytes:
    """A MultiInferenceResponse. Raises DukouError."""
    response = pool.message(f"{_PACKAGE}.MultiInferenceResponse")()
    for task, answer in zip(tasks, answers, strict=True):
        name, version = answer.version.name, answer.version.version
        result = response.results.add()
        result.model_spec.MergeFromString(tf_grpc.model_spec(name, version, task.request.signature.name))
        kind = "regression_result" if task.method == tf_examples.REGRESS else "classification_result"
        getattr(result, kind).CopyFrom(tf_grpc_examples.result_of(task.method, task.request, answer))
    written: bytes = response.SerializeToString()
    return written
