"""The clients over gRPC, against grpcio's own server."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dukou.client import grpc as client_grpc
from dukou.client.client import AsyncClient, Client
from dukou.client.errors import BadAnswer, ClientError, ConnectionFailed, NotFound, Overloaded, TimedOut, Unavailable
from dukou.protos import pool

grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.socket

SERVICE = "/inference.GRPCInferenceService/"


class SumService(grpc.GenericRpcHandler):  # type: ignore[misc, name-defined]
    """A server of one model that adds up each row; streamed, it answers each row by itself."""

    def __init__(self) -> None:
        self.instead: list[Callable[[Any], bytes]] = []
        self.seen: list[str] = []
        self.metadata: dict[str, str] = {}
        self.cancelled = threading.Event()

    def service(self, details: Any) -> Any:
        name = details.method.removeprefix(SERVICE)
        self.seen.append(name)
        self.metadata = dict(details.invocation_metadata)
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self.stream)
        answer = getattr(self, name, None)
        return answer and grpc.unary_unary_rpc_method_handler(
            lambda body, context: self.instead.pop(0)(context) if self.instead else answer(body, context)
        )

    def ModelMetadata(self, body: bytes, context: Any) -> bytes:
        if pool.parse("inference.ModelMetadataRequest", body).name != "sum":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        X = {"name": "X", "datatype": "FP32", "shape": [-1, 2]}
        return encoded(
            "ModelMetadataResponse", inputs=[X], outputs=[{"name": "sum", "datatype": "FP32", "shape": [-1]}]
        )

    def ModelInfer(self, body: bytes, context: Any) -> bytes:
        return encoded("ModelInferResponse", **summed(body))

    def ServerReady(self, body: bytes, context: Any) -> bytes:
        return encoded("ServerReadyResponse", ready=True)

    def RepositoryIndex(self, body: bytes, context: Any) -> bytes:
        return encoded("RepositoryIndexResponse", models=[{"name": "sum", "version": "1", "state": "READY"}])

    def stream(self, bodies: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        for body in bodies:
            for _ in range(3):
                yield encoded("ModelStreamInferResponse", infer_response=summed(body))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")


def encoded(name: str, **fields: Any) -> bytes:
    message: bytes = pool.message(f"inference.{name}")(**fields).SerializeToString()
    return message


def summed(body: bytes) -> dict[str, Any]:
    said = pool.parse("inference.ModelInferRequest", body)
    rows = np.frombuffer(said.raw_input_contents[0], np.float32).reshape(said.inputs[0].shape)
    output = {"name": "sum", "datatype": "FP32", "shape": [len(rows)]}
    return {"outputs": [output], "raw_output_contents": [rows.sum(axis=1).tobytes()]}


@pytest.fixture
def service() -> SumService:
    return SumService()


@pytest.fixture
def url(service: SumService) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None).wait(10.0)


def busy(context: Any) -> bytes:
    context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
    raise AssertionError


def test_every_call_over_grpc(url: str, service: SumService) -> None:
    """The same calls as over HTTP, with the same answers; headers go as metadata."""
    with Client(url, "sum", headers={"Authorization": "Bearer k"}) as client:
        first = client.predict([[1, 2], [3, 4]])
        second = client.infer({"X": np.ones((1, 2))}, "sum")
        signature, models, ready = client.metadata(), client.models(), Client(url).ready()

    assert first.tolist() == [3.0, 7.0]
    assert second["sum"].tolist() == [2.0]
    assert signature.inputs[0].name == "X"
    assert (models[0].name, ready) == ("sum", True)
    assert service.seen[:3] == ["ModelMetadata", "ModelInfer", "ModelInfer"]


def test_headers_go_as_metadata(url: str, service: SumService) -> None:
    """Their names in lower case, as gRPC has them."""
    with Client(url, headers={"Authorization": "Bearer k"}) as client:
        client.models()

    assert service.metadata["authorization"] == "Bearer k"


def test_the_async_client_does_the_same(url: str) -> None:
    """Made outside of a loop, used within; calls run side by side."""
    client = AsyncClient(url, "sum")

    async def calls() -> tuple[Any, ...]:
        async with client:
            sums = await asyncio.gather(*(client.predict([[n, n]]) for n in range(8)))
            return sums, await client.metadata(), await client.models()

    sums, signature, models = asyncio.run(calls())

    assert [array.tolist() for array in sums] == [[2.0 * n] for n in range(8)]
    assert signature.outputs[0].name == "sum"
    assert models[0].version == "1"


def test_a_stream_gives_each_response_and_then_its_error(url: str) -> None:
    """What came before the error was good."""
    with Client(url, "sum") as client:
        responses = client.stream([[1, 2]])
        came = [next(responses)["sum"].tolist() for _ in range(3)]
        with pytest.raises(Overloaded, match="enough"):
            next(responses)

    assert came == [[3.0]] * 3


def test_the_async_stream_does_the_same(url: str) -> None:
    """The same responses, and the same error."""

    async def scenario() -> list[Any]:
        async with AsyncClient(url, "sum") as client:
            responses = client.stream([[1, 2]])
            came = [(await anext(responses))["sum"].tolist() for _ in range(3)]
            with pytest.raises(Overloaded, match="enough"):
                await anext(responses)
        return came

    assert asyncio.run(scenario()) == [[3.0]] * 3


def test_a_stream_that_is_closed_is_cancelled_at_the_server(url: str, service: SumService) -> None:
    """The server need not go on for nobody."""
    with Client(url, "sum") as client:
        responses = client.stream([[1, 2]])
        next(responses)
        responses.close()

        assert service.cancelled.wait(10.0)


def test_what_passes_is_tried_again(url: str, service: SumService) -> None:
    """A model that loads is waited for."""
    service.instead = [busy, busy]

    with Client(url, "sum") as client:
        assert client.predict([[1, 2]]).tolist() == [3.0]

    assert service.seen == ["ModelMetadata"] * 3 + ["ModelInfer"]


def test_what_does_not_pass_is_reported(url: str, service: SumService) -> None:
    """With the retries used up the server's own words are raised."""
    service.instead = [busy, busy]

    with Client(url, "sum", retries=1) as client, pytest.raises(Unavailable, match="loading"):
        client.metadata()


def test_an_unknown_model_is_not_found(url: str) -> None:
    """The server's message comes through."""
    with Client(url, "iris") as client, pytest.raises(NotFound, match=r"unknown model \(gRPC NOT_FOUND\)"):
        client.predict([[1, 2]])


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_server_that_is_too_slow_times_out(url: str, service: SumService, kind: Any) -> None:
    """The call ends in its time, and is not sent again: the model may still be at it."""
    answered = threading.Event()
    service.instead = [lambda context: (answered.wait(10.0), b"")[1]]

    with pytest.raises(TimedOut):
        run(kind(url, "sum", timeout_s=0.05))

    answered.set()
    assert len(service.seen) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_nobody_there_is_said_with_the_address(kind: Any) -> None:
    """A refused connection names where it was refused."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f"cannot be reached.*{port}"):
            run(kind(f"grpc://127.0.0.1:{port}", "sum", retries=0))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_answer_that_is_too_large_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    """It is not taken for an overloaded server, and not asked for again."""
    monkeypatch.setattr(client_grpc, "OPTIONS", [("grpc.max_receive_message_length", 10)])

    with pytest.raises(BadAnswer, match="larger than"):
        run(kind(url, "sum"))


def run(client: Any) -> Any:
    """Ask for metadata by either client."""
    if isinstance(client, Client):
        with client:
            return client.metadata()

    async def call() -> Any:
        async with client:
            return await client.metadata()

    return asyncio.run(call())


@pytest.mark.parametrize(
    "url", ["grpc://", "grpc://x", "grpc://x:port", "grpc://x:1/path", "grpc://me@x:1", "grpcs://x"]
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_is_refused_at_once(url: str, kind: Any) -> None:
    """The message shows what an address looks like."""
    with pytest.raises(ClientError, match="is not an address such as grpc://"):
        kind(url)


def test_without_grpcio_the_client_says_what_to_install() -> None:
    """The extra is named."""
    code = """
import sys
sys.modules["grpc"] = None
import dukou
dukou.Client("http://127.0.0.1:1").close()
try:
    dukou.Client("grpc://127.0.0.1:1")
except Exception as error:
    print(type(error).__name__, error)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == 'ClientError grpc:// needs grpcio: pip install "dukou[grpc]"\n'
