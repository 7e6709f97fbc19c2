"""The data plane of one process, over a socket."""

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from socket import create_server, socket

import grpc
import numpy as np
import pytest

from dukou.app.host import Host
from dukou.config import Config, EngineConfig, ServerConfig
from dukou.core.link import Applied, Apply, Assignment, Freed
from dukou.core.message import Table
from dukou.core.model import ModelRef, ModelVersion, State
from dukou.core.route import Route, Weight
from dukou.core.tensor import Tensors
from dukou.protos import pool as protos
from dukou.testing.models import FunctionModel, manifest, served

pytestmark = pytest.mark.socket

LARGE = b'{"X":[' + b"[1,2,3,4]," * 50_000 + b"[1,2,3]]}"


async def ask(port: int, line: bytes, body: bytes = b"") -> bytes:
    """The status line of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (line, len(body)) + body
    )
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n")[0]


def test_models_that_take_every_thread_hold_up_neither_large_bodies_nor_metrics(tmp_path: Path) -> None:
    """A large body that is wrong is refused, and the metrics are told, while a slow model runs."""
    running, go = threading.Event(), threading.Event()

    def slow(inputs: Tensors) -> Tensors:
        running.set()
        assert go.wait(10)
        return {"label": np.zeros(1, np.int64)}

    async def test() -> tuple[bytes, ...]:
        listen = ServerConfig(listen=("127.0.0.1:0",))
        host = Host(Config(listen, engine=EngineConfig(threads=1)), tmp_path, 0)
        of = manifest()
        stage = host.engine.stage_for(of, FunctionModel(slow))
        host.engine.swap(Table(1, {"iris": {1: served(of, stage, State.AVAILABLE)}}))
        listening = create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        port = listening.getsockname()[1]
        await host.serve([listening])
        async with asyncio.timeout(10):
            asking = asyncio.create_task(ask(port, b"POST /predict", b'{"X":[[1,2,3,4]]}'))
            await asyncio.to_thread(running.wait, 10)
            large, metrics = await asyncio.gather(ask(port, b"POST /predict", LARGE), ask(port, b"GET /metrics"))
            go.set()
            small = await asking
        host.close()
        listening.close()
        return large, metrics, small

    try:
        said = asyncio.run(test())
    finally:
        go.set()

    assert said == (b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK")


async def served_by(host: Host) -> tuple[int, socket]:
    """The port at which a host listens, and the socket to be closed."""
    listening = create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    await host.serve([listening])
    return listening.getsockname()[1], listening


async def whole(port: int, line: bytes, body: bytes = b"") -> tuple[bytes, bytes]:
    """The head of the answer, in lower case, and its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (line, len(body))
    writer.write(head + body)
    answer = await reader.read()
    writer.close()
    before, _, after = answer.partition(b"\r\n\r\n")
    return before.lower(), after


ROW = b"[[5.1,3.5,1.4,0.2]]"
CALLS = {
    b"POST /predict": b'{"X":' + ROW + b"}",
    b"POST /v1/models/iris:predict": b'{"instances":' + ROW + b"}",
    b"POST /v2/models/iris/infer": b'{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP64","data":' + ROW + b"}]}",
}


def test_while_a_full_update_has_no_version_callers_are_told_to_come_again(tmp_path: Path) -> None:
    """503 with Retry-After on every HTTP route, UNAVAILABLE by gRPC, with the reason; not an error of theirs."""
    coming = Assignment(ModelVersion("iris", 2), "/nowhere", 0, wanted=State.START, why="it is loaded next")
    stub = "/inference.GRPCInferenceService/ModelInfer"

    async def test() -> tuple[list[bytes], grpc.StatusCode, str]:
        host = Host(Config(ServerConfig(listen=("127.0.0.1:0",))), tmp_path, 0)
        await host.apply(Apply(1, (coming,)))
        port, listening = await served_by(host)
        async with asyncio.timeout(10):
            heads = [(await whole(port, line, body))[0] for line, body in CALLS.items()]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                message = protos.message("inference.ModelInferRequest")(model_name="iris").SerializeToString()
                try:
                    await channel.unary_unary(stub)(message)
                except grpc.aio.AioRpcError as error:
                    code, details = error.code(), error.details() or ""
        host.close()
        listening.close()
        return heads, code, details

    heads, code, details = asyncio.run(test())

    assert [head for head in heads if not (head.startswith(b"http/1.1 503 ") and b"\r\nretry-after: 1" in head)] == []
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "it is loaded next" in details


def versions(repository: Path, *numbers: int) -> tuple[Assignment, ...]:
    """Versions of one packed folder."""
    folder = str(repository / "iris" / "1")
    return tuple(Assignment(ModelVersion("iris", number), folder, number) for number in numbers)


def test_a_packed_version_is_gone_after_its_last_call_though_its_callers_stay_connected(
    repository: Path, tmp_path: Path
) -> None:
    """Nothing of a request, an answer or an error keeps a version in memory, on HTTP/1.1 as by gRPC."""
    right = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 29\r\n\r\n" + b'{"X": [[5.1, 3.5, 1.4, 0.2]]}'
    wrong = right.replace(b"5.1", b'"a"')
    told: asyncio.Queue[int] = asyncio.Queue()

    async def test() -> bool:
        host = Host(Config(ServerConfig(listen=("127.0.0.1:0",))), tmp_path, 0)
        await host.apply(Apply(1, versions(repository, 1)))
        model = weakref.ref(host.engine.choose(ModelRef("iris"), "").stage)
        port, listening = await served_by(host)
        async with asyncio.timeout(10):
            connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            for reader, writer in connections:
                for request, status in ((right, b"200"), (wrong, b"400"), (right, b"200")):
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.split()[1] == status
                    size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                    await reader.readexactly(int(size.split(b":")[1]))
            gc.disable()
            await host.apply(Apply(2, versions(repository, 2)), lambda said: note(said, told))
            while await told.get() < 2:
                pass
            gone = model() is None
        for _, writer in connections:
            writer.close()
        host.close()
        listening.close()
        return gone

    try:
        assert asyncio.run(test())
    finally:
        gc.enable()


def note(said: Applied | Freed, told: "asyncio.Queue[int]") -> None:
    """Keep what is told to be freed."""
    if isinstance(said, Freed):
        told.put_nowait(said.generation)


def test_routes_and_labels_are_those_of_the_table(repository: Path, tmp_path: Path) -> None:
    """Callers who name no version are shared out; a route that says what is so anyway costs nobody a look."""

    async def test() -> tuple[list[int], Table, Table]:
        host = Host(Config(), tmp_path, 0)
        two = versions(repository, 1, 2)
        shared = Route((Weight(2, 0.0), Weight(1, 1.0)))
        await host.apply(Apply(1, two, {"iris": shared}, {"iris": {"stable": 2}}))
        first = host.engine.table
        labelled = host.engine.choose(ModelRef("iris", label="stable"), "").id.version
        chosen = [host.engine.choose(ModelRef("iris"), "").id.version, labelled]
        await host.apply(Apply(2, two, {"iris": Route((Weight(2, 1.0),))}))
        second = host.engine.table
        host.close()
        return chosen, first, second

    chosen, first, second = asyncio.run(test())

    assert chosen == [1, 2]
    assert set(first.routes) == {"iris"}
    assert (second.routes, second.labels) == ({}, {})
