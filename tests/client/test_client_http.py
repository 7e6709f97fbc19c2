"""The clients over real sockets, against a small server of the standard library, and over httpx's own seam."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest

import dukou
from dukou.client import http as client_http
from dukou.client.client import AsyncClient, Client
from dukou.client.errors import BadAnswer, ClientError, ConnectionFailed, NotFound, Overloaded, TimedOut
from dukou.client.http import HttpTransport

METADATA = {
    "name": "sum",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "sum", "datatype": "FP32", "shape": [-1]}],
}


@dataclass
class Script:
    """What the test server does instead of answering, in order, and what it has seen."""

    instead: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    peers: set[Any] = field(default_factory=set)


class SumServer(BaseHTTPRequestHandler):
    """An Open Inference Protocol server of one model that adds up each row."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["content-length"])))

    def answer(self, body: bytes) -> None:
        self.script.seen.append(self.path)
        self.script.peers.add(self.client_address)
        if self.script.instead:
            self.script.instead.pop(0)(self)
        elif self.path == "/v2/models/sum":
            self.say(200, METADATA)
        elif self.path == "/v2/models/sum/ready":
            self.say(200, {})
        elif self.path == "/v2/models/sum/infer":
            (tensor,) = json.loads(body)["inputs"]
            rows = np.array(tensor["data"]).reshape(tensor["shape"])
            output = {"name": "sum", "datatype": "FP32", "shape": [len(rows)], "data": rows.sum(axis=1).tolist()}
            self.say(200, {"model_name": "sum", "model_version": "1", "outputs": [output]})
        elif self.path == "/v2/repository/index":
            self.say(200, [{"name": "sum", "version": "1", "state": "READY", "reason": ""}])
        else:
            self.say(404, {"error": "Request for unknown model"})

    def say(self, status: int, tree: Any, **headers: str) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the test says what matters."""


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    kind = type("Server", (SumServer,), {"script": script})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def busy(handler: BaseHTTPRequestHandler) -> None:
    handler.say(429, {"error": "full"}, Retry_After="0")  # type: ignore[attr-defined]


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.mark.socket
def test_predict_over_http(url: str, script: Script) -> None:
    """The signature is asked once, the connection is kept, the answer is an array."""
    with Client(url, model="sum") as client:
        first = client.predict([[1, 2], [3, 4]])
        second = client.infer({"X": np.ones((1, 2))})

    assert first.tolist() == [3.0, 7.0]
    assert first.dtype == np.float32
    assert second["sum"].tolist() == [2.0]
    assert script.seen == ["/v2/models/sum", "/v2", "/v2/models/sum/infer", "/v2/models/sum/infer"]
    assert len(script.peers) == 1


@pytest.mark.socket
def test_the_other_calls_over_http(url: str) -> None:
    """Metadata, readiness and the list of models are what the server says."""
    with Client(url, "sum") as client, Client(url, "other") as other:
        signature = client.metadata()
        models = client.models()
        ready, not_ready = client.ready(), other.ready()

    assert [spec.name for spec in signature.inputs] == ["X"]
    assert models[0].name == "sum"
    assert (ready, not_ready) == (True, False)


@pytest.mark.socket
def test_the_async_client_does_the_same(url: str) -> None:
    """Every call of Client has its like, awaited; calls run side by side."""

    async def calls() -> tuple[Any, ...]:
        async with AsyncClient(url, "sum") as client:
            sums = await asyncio.gather(*(client.predict([[n, n]]) for n in range(8)))
            outputs = await client.infer([[1, 2]])
            return sums, outputs, await client.metadata(), await client.ready(), await client.models()

    sums, outputs, signature, ready, models = asyncio.run(calls())

    assert [array.tolist() for array in sums] == [[2.0 * n] for n in range(8)]
    assert outputs["sum"].tolist() == [3.0]
    assert signature.inputs[0].name == "X"
    assert ready is True
    assert models[0].version == "1"


@pytest.mark.socket
def test_a_busy_server_and_a_broken_connection_are_tried_again(url: str, script: Script) -> None:
    """The caller sees only the answer."""
    script.instead = [busy, hang_up]

    with Client(url, "sum") as client:
        assert client.predict([[1, 2]]).tolist() == [3.0]

    assert script.seen == ["/v2/models/sum"] * 3 + ["/v2", "/v2/models/sum/infer"]


@pytest.mark.socket
def test_the_async_client_tries_again_too(url: str, script: Script) -> None:
    """The same flow decides."""
    script.instead = [busy, hang_up]

    async def call() -> Any:
        async with AsyncClient(url, "sum") as client:
            return await client.predict([[1, 2]])

    assert asyncio.run(call()).tolist() == [3.0]


@pytest.mark.socket
def test_a_server_that_stays_busy_is_reported(url: str, script: Script) -> None:
    """With the retries used up the refusal is raised, with the server's words."""
    script.instead = [busy, busy]

    with Client(url, "sum", retries=1) as client, pytest.raises(Overloaded, match="full"):
        client.predict([[1, 2]])


@pytest.mark.socket
def test_an_unknown_model_is_not_found(url: str) -> None:
    """The server's message comes through."""
    with Client(url, "iris") as client, pytest.raises(NotFound, match=r"unknown model \(HTTP 404\)"):
        client.predict([[1, 2]])


@pytest.mark.socket
def test_nobody_there_is_said_with_the_address() -> None:
    """A refused connection names where it was refused."""
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with Client(url, "sum", retries=0) as client, pytest.raises(ConnectionFailed, match=url):
            client.ready()


@pytest.mark.socket
def test_a_server_that_is_too_slow_times_out(url: str, script: Script) -> None:
    """The call ends in its time, and is not sent again."""
    answered = threading.Event()
    script.instead = [lambda handler: (answered.wait(10.0), hang_up(handler))[1]]

    with Client(url, "sum", timeout_s=0.05) as client, pytest.raises(TimedOut):
        client.metadata()

    answered.set()
    assert len(script.seen) == 1


@pytest.mark.socket
def test_an_answer_that_trickles_times_out_as_a_whole(url: str, script: Script) -> None:
    """Each byte comes in time, all of them do not."""
    stop = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        hang_up(handler)
        while not stop.wait(0.01):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    script.instead = [trickle]

    with Client(url, "sum", timeout_s=0.2) as client, pytest.raises(TimedOut):
        client.metadata()

    stop.set()


def by(answer: Callable[[httpx.Request], httpx.Response]) -> HttpTransport:
    return HttpTransport("http://x", transport=httpx.MockTransport(answer))


def sums(request: httpx.Request) -> httpx.Response:
    """A transport that answers as the sum server does, with what it was sent in the model's name."""
    return httpx.Response(200, json={**METADATA, "name": str(request.url)})


def test_an_answer_that_is_too_large_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops at the limit."""
    monkeypatch.setattr(client_http, "MAX_ANSWER_BYTES", 10)

    with (
        Client("http://x", "sum", transport=by(sums)) as client,
        pytest.raises(BadAnswer, match="10"),
    ):
        client.metadata()


@pytest.mark.parametrize("url", ["http://x/gateway", "http://x/gateway/"])
def test_an_address_may_have_a_path(url: str) -> None:
    """A server behind a gateway keeps the gateway's prefix."""
    seen = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append((str(request.url), request.headers["authorization"]))
        return sums(request)

    over = HttpTransport(url, {"authorization": "Bearer k"}, httpx.MockTransport(note))
    with Client(url, "sum", transport=over) as client:
        client.metadata()

    assert seen == [("http://x/gateway/v2/models/sum", "Bearer k")]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8501", "localhost:8501", "ftp://x", "http://", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    """The message shows what an address looks like."""
    with pytest.raises(ClientError, match="is not an address"):
        Client(url)


def test_the_public_names_are_the_clients() -> None:
    """`from dukou import Client` is the same class."""
    assert dukou.Client is Client
    assert dukou.AsyncClient is AsyncClient
