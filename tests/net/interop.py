"""The TestService of gRPC's interoperability tests, on our own calls."""

import asyncio
import contextlib
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from dukou.net.rpc import GrpcError, Method, Rpc

HERE = Path(__file__).parent
ECHO_INITIAL = b"x-grpc-test-echo-initial"
ECHO_TRAILING = b"x-grpc-test-echo-trailing-bin"


@cache
def _pool() -> Any:
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interop.binpb"
        with contextlib.redirect_stderr(None):
            assert protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={path}", "interop.proto"]) == 0
        files = FileDescriptorSet.FromString(path.read_bytes()).file
    pool: Any = DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@cache
def interop(name: str) -> Any:
    """A message class of the test's own protocol file."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"grpc.testing.{name}"))


def test_service() -> dict[bytes, Method]:
    """The methods by path. `UnimplementedCall` is not among them."""
    found: dict[bytes, Method] = {}
    for method in (empty_call, unary_call, streaming_input_call, streaming_output_call, full_duplex_call):
        name = "".join(word.capitalize() for word in method.__name__.split("_"))
        found[f"/grpc.testing.TestService/{name}".encode()] = method
    return found


test_service.__test__ = False  # type: ignore[attr-defined]


def _echo_metadata(rpc: Rpc) -> None:
    if ECHO_INITIAL in rpc.metadata:
        rpc.initial_metadata.append((ECHO_INITIAL, rpc.metadata[ECHO_INITIAL]))
    if ECHO_TRAILING in rpc.metadata:
        rpc.trailing_metadata.append((ECHO_TRAILING, rpc.metadata[ECHO_TRAILING]))


def _raise_status(request: Any) -> None:
    if request.HasField("response_status") and request.response_status.code:
        raise GrpcError(request.response_status.code, request.response_status.message)


async def empty_call(rpc: Rpc) -> None:
    """One empty message for one."""
    await rpc.receive()
    _echo_metadata(rpc)
    await rpc.send(b"")


async def unary_call(rpc: Rpc) -> None:
    """A payload as large as asked for, or the status asked for."""
    body = await rpc.receive()
    assert body is not None
    request = interop("SimpleRequest").FromString(body)
    _echo_metadata(rpc)
    _raise_status(request)
    response = interop("SimpleResponse")()
    response.payload.body = bytes(request.response_size)
    await rpc.send(response.SerializeToString())


async def streaming_input_call(rpc: Rpc) -> None:
    """How much came in all."""
    total = 0
    while (body := await rpc.receive()) is not None:
        total += len(interop("StreamingInputCallRequest").FromString(body).payload.body)
    await rpc.send(interop("StreamingInputCallResponse")(aggregated_payload_size=total).SerializeToString())


async def streaming_output_call(rpc: Rpc) -> None:
    """A message for each that was asked for."""
    body = await rpc.receive()
    assert body is not None
    await _answer(rpc, body)


async def full_duplex_call(rpc: Rpc) -> None:
    """The messages that each message asks for, as it comes."""
    _echo_metadata(rpc)
    while (body := await rpc.receive()) is not None:
        await _answer(rpc, body)


async def _answer(rpc: Rpc, body: bytes) -> None:
    request = interop("StreamingOutputCallRequest").FromString(body)
    _raise_status(request)
    for wanted in request.response_parameters:
        await asyncio.sleep(wanted.interval_us / 1e6)
        response = interop("StreamingOutputCallResponse")()
        response.payload.body = bytes(wanted.size)
        await rpc.send(response.SerializeToString())
