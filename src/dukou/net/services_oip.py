"""The Open Inference Protocol over gRPC, with Triton's additions: GRPCInferenceService.

What is told of the server and its models are the pages of its HTTP side, written as messages.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec
import orjson

from dukou.config import PlainConfig
from dukou.core.entry import entry
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.version import ModelRef
from dukou.net import dialects, pages, status
from dukou.net.api import Api
from dukou.net.commands import change
from dukou.net.facts import Facts
from dukou.net.routes import Asked, Show, View
from dukou.net.rpc import GrpcError, Handler, Method, Methods, Rpc, Unary
from dukou.net.services_oip_stream import model_stream_infer
from dukou.protos import pool
from dukou.protos.tree import to_message
from dukou.wire import oip_grpc, oip_repository

SERVICE = "inference.GRPCInferenceService"

Tell: TypeAlias = Callable[[View, Any], Mapping[str, Any]]
"""Makes the tree of a response from a request. Raises DukouError."""
Change: TypeAlias = Callable[[View, Any, Rpc], Awaitable[Mapping[str, Any]]]
"""The same once something is done."""

_MODEL_INFER = entry("ModelInfer", "GRPC")
_INFER = Api(oip_grpc, status.GRPC, ok=0, entry=_MODEL_INFER)
_UNAVAILABLE = (Reason.QUEUE_FULL, Reason.OVERLOADED, Reason.DEADLINE_EXCEEDED)
_TRITON_INFER = Api(
    oip_grpc,
    status.GRPC,
    ok=0,
    reasons=dict.fromkeys(_UNAVAILABLE, status.GRPC[Code.UNAVAILABLE]),
    entry=_MODEL_INFER,
)
"""A full queue and a timeout are "unavailable" there."""

_NEVER_UNKNOWN = ("", "triton")
"""Dialects in which a model that does not exist is one that is not ready."""
_NO_MODEL = ModelRef("")


def methods(facts: Facts, dialect: str) -> Methods:
    """Every method of the service, in the dialects that have it."""
    if dialect == "tensorflow-serving":
        return {}
    view = msgspec.structs.replace(dialects.surface(dialect, facts, PlainConfig()).view, bodies=True)
    found: dict[str, Method] = {
        "ModelInfer": Unary(_TRITON_INFER if dialect == "triton" else _INFER),
        "ModelStreamInfer": partial(model_stream_infer, facts, dialect == "mlserver"),
        **{name: partial(_told, view, name, tell) for name, tell in _TOLD.items()},
        "RepositoryModelLoad": partial(_changed, view, "RepositoryModelLoad", _load),
        "RepositoryModelUnload": partial(_changed, view, "RepositoryModelUnload", _unload),
        **{name: _refusing(f"the server does not support {what}") for name, what in _NOT_SUPPORTED.items()},
    }
    return {f"/{SERVICE}/{name}".encode(): method for name, method in found.items()}


async def _told(view: View, name: str, tell: Tell, rpc: Rpc) -> None:
    """A call of one message each way, `NAMERequest` and `NAMEResponse`."""
    message = await _only_message(rpc)
    try:
        if name in _READS_FILES:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(view.facts.pool, _answer, view, name, tell, message)
        else:
            answer = _answer(view, name, tell, message)
    except DukouError as error:
        raise _error(error) from error.__cause__
    await rpc.send(answer)


async def _changed(view: View, name: str, make: Change, rpc: Rpc) -> None:
    """The same for what the control plane has to do."""
    message = await _only_message(rpc)
    try:
        tree = await make(view, pool.parse(f"inference.{name}Request", message), rpc)
    except DukouError as error:
        raise _error(error) from error.__cause__
    await rpc.send(_response(name, tree))


def _error(error: DukouError) -> GrpcError:
    return GrpcError(status.GRPC[error.code], oip_grpc.refuse(error).decode())


async def _only_message(rpc: Rpc) -> bytes:
    message = await rpc.receive()
    if message is None:
        raise GrpcError(status.GRPC[Code.UNIMPLEMENTED], "no message came for a call that takes one")
    return message


def _answer(view: View, name: str, tell: Tell, message: bytes) -> bytes:
    return _response(name, tell(view, pool.parse(f"inference.{name}Request", message)))


def _response(name: str, tree: Mapping[str, Any]) -> bytes:
    answer: bytes = to_message(tree, f"inference.{name}Response").SerializeToString()
    return answer


def _refusing(detail: str) -> Handler:
    async def refuse(rpc: Rpc) -> None:
        raise GrpcError(status.GRPC[Code.UNIMPLEMENTED], detail)

    return refuse


def _shown(show: Show, view: View, ref: ModelRef = _NO_MODEL) -> Mapping[str, Any]:
    """What a page tells."""
    tree: Mapping[str, Any] = orjson.loads(show(view, Asked(ref, {}, b"")).body)
    return tree


def _named(view: View, request: Any) -> ModelRef:
    """The model that a request means; without a name the only one."""
    name = request.name or view.facts.plane.choose(_NO_MODEL, "").id.name
    return oip_grpc.model_ref(name, request.version)


def _model_ready(view: View, request: Any) -> Mapping[str, Any]:
    try:
        return _shown(pages.model_ready, view, _named(view, request))
    except DukouError as error:
        if error.code is Code.NOT_FOUND and view.dialect in _NEVER_UNKNOWN:
            return {"ready": False}
        raise


def _model_metadata(view: View, request: Any) -> Mapping[str, Any]:
    return _shown(pages.model_metadata, view, _named(view, request))


def _model_config(view: View, request: Any) -> Mapping[str, Any]:
    return {"config": _shown(pages.model_config, view, _named(view, request))}


def _model_statistics(view: View, request: Any) -> Mapping[str, Any]:
    """Of all models where none is named."""
    return _shown(pages.statistics, view, oip_grpc.model_ref(request.name, request.version))


def _index(view: View, request: Any) -> Mapping[str, Any]:
    return {"models": oip_repository.index(view.facts.plane.table, request.ready)}


async def _load(view: View, request: Any, rpc: Rpc) -> Mapping[str, Any]:
    """Where callers load nothing, a model that is served already is loaded in KServe's form."""
    name = _kserve_name(view, request)
    if view.facts.explicit:
        verb = oip_repository.load(request.model_name or name, _parameters(request))
        await change(view.facts, verb, rpc.peer, rpc.metadata)
    elif name:
        view.facts.plane.choose(ModelRef(name), "")
    else:
        raise oip_repository.refuse_control()
    return {} if request.model_name else {"model_name": name, "isLoaded": True}


async def _unload(view: View, request: Any, rpc: Rpc) -> Mapping[str, Any]:
    name = _kserve_name(view, request)
    if not view.facts.explicit:
        if name:
            view.facts.plane.choose(ModelRef(name), "")
        raise oip_repository.refuse_control()
    verb = oip_repository.unload(request.model_name or name, _parameters(request))
    await change(view.facts, verb, rpc.peer, rpc.metadata)
    return {} if request.model_name else {"model_name": name, "isUnloaded": True}


def _kserve_name(view: View, request: Any) -> str:
    """The model's name where the request has KServe's form, with the name in field 1; else empty."""
    if request.model_name:
        return ""
    first: str = request.repository_name
    known = view.dialect == "kserve" or view.facts.explicit or first in view.facts.plane.table.models
    return first if known else ""


def _parameters(request: Any) -> Mapping[str, Any]:
    return {
        name: getattr(said, said.WhichOneof("parameter_choice") or "string_param")
        for name, said in request.parameters.items()
    }


_TOLD: Mapping[str, Tell] = {
    "ServerLive": lambda view, request: {"live": True},
    "ServerReady": lambda view, request: _shown(pages.ready, view),
    "ServerMetadata": lambda view, request: _shown(pages.server_metadata, view),
    "ModelReady": _model_ready,
    "ModelMetadata": _model_metadata,
    "ModelConfig": _model_config,
    "ModelStatistics": _model_statistics,
    "RepositoryIndex": _index,
}
_READS_FILES = frozenset({"ModelStatistics"})
_NOT_SUPPORTED: Mapping[str, str] = {
    **{
        f"{kind}SharedMemory{verb}": "shared memory"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    },
    "TraceSetting": "trace settings",
    "LogSettings": "changes of its log settings",
}
