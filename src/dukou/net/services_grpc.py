"""gRPC's own services: health checking and server reflection (v1 and v1alpha).

Health: https://github.com/grpc/grpc/blob/master/doc/health-checking.md. Reflection:
https://github.com/grpc/grpc/blob/master/doc/server-reflection.md.
"""

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Table
from dukou.core.version import State
from dukou.net.facts import Facts
from dukou.net.health import server_ready
from dukou.net.rpc import GrpcError, Methods, Rpc
from dukou.protos import pool

WATCH_GRAIN_S = 0.25
"""How often a Watch looks. Tables are plain values that tell nobody when they are replaced; a look costs 1 µs."""

HEALTH = "grpc.health.v1.Health"
REFLECTIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
SHORT_NAMES = {
    "PredictionService": "tensorflow.serving.PredictionService",
    "ModelService": "tensorflow.serving.ModelService",
}
"""The names under which TensorFlow Serving tells the health of its services."""

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
_INVALID_ARGUMENT, _NOT_FOUND = 3, 5


def methods(facts: Facts, services: Collection[str], *, grain_s: float = WATCH_GRAIN_S) -> Methods:
    """Health and reflection of a server that has `services` (full names) beside them."""
    names = sorted({*services, HEALTH, *(f"{package}.ServerReflection" for package in REFLECTIONS)})
    known = {"", *names, *(short for short, full in SHORT_NAMES.items() if full in names)}
    health = partial(serving_status, services=known)
    return {
        f"/{HEALTH}/Check".encode(): partial(_check, facts, health),
        f"/{HEALTH}/Watch".encode(): partial(_watch, facts, health, grain_s),
        **{
            f"/{package}.ServerReflection/ServerReflectionInfo".encode(): partial(_reflect, package, names)
            for package in REFLECTIONS
        },
    }


def serving_status(table: Table, draining: bool, service: str, *, services: Collection[str]) -> int:
    """SERVING, NOT_SERVING or SERVICE_UNKNOWN, of one of `services` or of a model by its name.

    A service serves when the whole server is ready, a model when one of its versions is AVAILABLE; nothing does while
    the server drains. Pure.
    """
    if service in services:
        ready = server_ready(table)
    elif service in table.models:
        ready = any(served.state is State.AVAILABLE for served in table.models[service].values())
    else:
        return SERVICE_UNKNOWN
    return SERVING if ready and not draining else NOT_SERVING


async def _check(facts: Facts, health: Callable[[Table, bool, str], int], rpc: Rpc) -> None:
    service = await _asked_service(rpc)
    status = health(facts.plane.table, facts.is_draining(), service)
    if status == SERVICE_UNKNOWN:
        raise GrpcError(_NOT_FOUND, "unknown service")
    await rpc.send(_health(status))


async def _watch(facts: Facts, health: Callable[[Table, bool, str], int], grain_s: float, rpc: Rpc) -> None:
    """The status now, then each change; ends with the server, or with the caller (the task is cancelled)."""
    service = await _asked_service(rpc)
    told = None
    while True:
        draining = facts.is_draining()
        status = health(facts.plane.table, draining, service)
        if status != told:
            await rpc.send(_health(status))
            told = status
        if draining:
            raise DukouError(Reason.DRAINING)
        await asyncio.sleep(grain_s)


async def _asked_service(rpc: Rpc) -> str:
    service: str = pool.parse(f"{HEALTH.rpartition('.')[0]}.HealthCheckRequest", await _one(rpc)).service
    return service


async def _one(rpc: Rpc) -> bytes:
    message = await rpc.receive()
    if message is None:
        raise GrpcError(_INVALID_ARGUMENT, "the call ended without a request")
    return message


def _health(status: int) -> bytes:
    answer: bytes = pool.message("grpc.health.v1.HealthCheckResponse")(status=status).SerializeToString()
    return answer


async def _reflect(package: str, services: Collection[str], rpc: Rpc) -> None:
    while (message := await rpc.receive()) is not None:
        await rpc.send(reflection(package, services, message))


def reflection(package: str, services: Collection[str], message: bytes) -> bytes:
    """The ServerReflectionResponse to a ServerReflectionRequest of `package`. Raises DukouError for what is none."""
    request = pool.parse(f"{package}.ServerReflectionRequest", message)
    response = pool.message(f"{package}.ServerReflectionResponse")(valid_host=request.host, original_request=request)
    kind = request.WhichOneof("message_request")
    try:
        match kind:
            case "list_services":
                for name in services:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                response.file_descriptor_response.file_descriptor_proto.extend(_with_imports(request.file_by_filename))
            case "file_containing_symbol":
                files = _with_imports(_file_of(request.file_containing_symbol))
                response.file_descriptor_response.file_descriptor_proto.extend(files)
            case "all_extension_numbers_of_type":
                name = pool.pool().FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
                response.all_extension_numbers_response.base_type_name = name
            case "file_containing_extension":
                raise KeyError  # proto3 messages have none
            case _:
                _refuse(response, _INVALID_ARGUMENT, "the request asks for nothing")
    except KeyError:
        _refuse(response, _NOT_FOUND, "not found")
    answer: bytes = response.SerializeToString()
    return answer


def _refuse(response: Any, code: int, text: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = text


def _file_of(symbol: str) -> str:
    try:
        name: str = pool.pool().FindFileContainingSymbol(symbol).name
    except KeyError:
        name = pool.pool().FindMethodByName(symbol).containing_service.file.name
    return name


def _with_imports(name: str) -> list[bytes]:
    """The file, then all that it imports, since clients need them together. Raises KeyError."""
    names = [name]
    for known in names:
        names += [imported for imported in pool.files()[known].dependency if imported not in names]
    return [pool.files()[known].SerializeToString() for known in names]
