"""The data plane of one process, over a socket."""

import asyncio
import threading
from pathlib import Path
from socket import create_server

import numpy as np
import pytest

from dukou.app.host import Host
from dukou.config import Config, EngineConfig, ServerConfig
from dukou.core.message import Table
from dukou.core.model import State
from dukou.core.tensor import Tensors
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
