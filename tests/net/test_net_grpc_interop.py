"""The interoperability tests of gRPC with its own client over a socket, plain and with TLS."""

import asyncio
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from certificates import make_certificate
from http2_memory import ECHO, EchoCodec
from in_memory import PREDICT, HandPlane
from interop import ECHO_INITIAL, ECHO_TRAILING, interop, test_service

from dukou.config import EngineConfig, Http2Config, HttpConfig
from dukou.net import status
from dukou.net.api import Api
from dukou.net.listener import HttpServer
from dukou.net.rpc import Unary
from dukou.net.sockets import bind, close_all, tls_context

pytestmark = pytest.mark.socket

SERVICE = "/grpc.testing.TestService/"
LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Live:
    """A server in a thread of its own, on a port that the system chose."""

    def __init__(
        self, make_loop: Callable[[], asyncio.AbstractEventLoop], certificate: tuple[Path, Path] | None
    ) -> None:
        self.place: tuple[str, int] = ("", 0)
        self.server: HttpServer
        self._tls = tls_context(*map(str, certificate)) if certificate else None
        self._ready = threading.Event()
        self._loop = make_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Live":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def call(self, action: Callable[[], Any]) -> Any:
        """Do something in the server's loop."""

        async def act() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    def drain(self) -> None:
        """Answer what was taken, and close."""
        asyncio.run_coroutine_threadsafe(self.server.drain(), self._loop).result(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        sockets = bind(["127.0.0.1:0"])
        self.place = sockets[0].getsockname()
        plane = HandPlane()
        with ThreadPoolExecutor(2) as pool:
            self.server = HttpServer(
                plane,
                HttpConfig(),
                EngineConfig(),
                metrics=lambda dialect: b"",
                pool=pool,
                http2=Http2Config(max_message_bytes=2_000_000),
                methods=lambda facts, dialect: {ECHO: Unary(Api(EchoCodec(), status.GRPC, 0)), **test_service()},
            )
            await self.server.serve([(one, "") for one in sockets], self._tls)
            self._ready.set()
            await self._stop.wait()
            self.server.close()
            plane.close()
            close_all(sockets)
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["uvloop", "asyncio", "uvloop-tls", "asyncio-tls"])
def live(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Iterator[Live]:
    """A server on each loop, plain and with TLS."""
    make_loop = uvloop.new_event_loop if request.param.startswith("uvloop") else asyncio.new_event_loop
    with Live(make_loop, certificate if request.param.endswith("tls") else None) as live:
        yield live


@pytest.fixture(scope="module")
def channel(live: Live, certificate: tuple[Path, Path]) -> Iterator[grpc.Channel]:
    """A channel of the real client."""
    with connect(live, certificate) as channel:
        yield channel


def connect(live: Live, certificate: tuple[Path, Path]) -> grpc.Channel:
    target = f"{live.place[0]}:{live.place[1]}"
    if live._tls is None:
        return grpc.insecure_channel(target, LARGE)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate[0].read_bytes()), LARGE)


def unary(channel: grpc.Channel, name: str, answer: str, kind: str = "unary_unary") -> Any:
    """A method of the TestService."""
    method = getattr(channel, kind)
    return method(
        SERVICE + name,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=interop(answer).FromString,
    )


def simple(size: int = 0, body: int = 0, code: int = 0, text: str = "") -> Any:
    """A SimpleRequest."""
    request = interop("SimpleRequest")(response_size=size)
    request.payload.body = bytes(body)
    if code:
        request.response_status.code = code
        request.response_status.message = text
    return request


def output(*sizes: int, body: int = 0, interval_us: int = 0) -> Any:
    """A StreamingOutputCallRequest."""
    request = interop("StreamingOutputCallRequest")()
    for size in sizes:
        request.response_parameters.add(size=size, interval_us=interval_us)
    request.payload.body = bytes(body)
    return request


def test_empty_unary(channel: grpc.Channel) -> None:
    """Nothing for nothing."""
    assert unary(channel, "EmptyCall", "Empty")(interop("Empty")(), timeout=5) == interop("Empty")()


def test_large_unary(channel: grpc.Channel) -> None:
    """Far beyond a frame."""
    answer = unary(channel, "UnaryCall", "SimpleResponse")(simple(314_159, 271_828), timeout=5)

    assert answer.payload.body == bytes(314_159)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_client_compressed_unary(channel: grpc.Channel, compression: grpc.Compression) -> None:
    """Messages that the client compresses."""
    call = unary(channel, "UnaryCall", "SimpleResponse")

    assert len(call(simple(1000, 271_828), timeout=5, compression=compression).payload.body) == 1000
    assert channel.unary_unary(ECHO.decode())(b"x" * 9999, timeout=5, compression=compression) == b"x" * 9999


def test_client_streaming(channel: grpc.Channel) -> None:
    """The sizes that the description of the test gives."""
    sizes = [27_182, 8, 1_828, 45_904]
    requests = []
    for size in sizes:
        requests.append(interop("StreamingInputCallRequest")())
        requests[-1].payload.body = bytes(size)

    call = unary(channel, "StreamingInputCall", "StreamingInputCallResponse", "stream_unary")

    assert call(iter(requests), timeout=5).aggregated_payload_size == 74_922


def test_server_streaming(channel: grpc.Channel) -> None:
    """As many as asked for, in order."""
    call = unary(channel, "StreamingOutputCall", "StreamingOutputCallResponse", "unary_stream")

    answers = call(output(31_415, 9, 2_653, 58_979), timeout=5)

    assert [len(answer.payload.body) for answer in answers] == [31_415, 9, 2_653, 58_979]


def test_ping_pong(channel: grpc.Channel) -> None:
    """Each message waits for the answer to the one before."""
    sizes = [(31_415, 27_182), (9, 8), (2_653, 1_828), (58_979, 45_904)]
    answered = threading.Semaphore(0)

    def ask() -> Iterator[Any]:
        for wanted, body in sizes:
            yield output(wanted, body=body)
            assert answered.acquire(timeout=5)

    seen = []
    for answer in unary(channel, "FullDuplexCall", "StreamingOutputCallResponse", "stream_stream")(ask(), timeout=5):
        seen.append(len(answer.payload.body))
        answered.release()

    assert seen == [wanted for wanted, _ in sizes]


def test_empty_stream(channel: grpc.Channel) -> None:
    """No message either way."""
    call = unary(channel, "FullDuplexCall", "StreamingOutputCallResponse", "stream_stream")

    assert list(call(iter(()), timeout=5)) == []


def test_custom_metadata(channel: grpc.Channel) -> None:
    """Text comes back first, bytes last."""
    trailing = bytes.fromhex("ababab")
    metadata = ((ECHO_INITIAL.decode(), "test_initial_metadata_value"), (ECHO_TRAILING.decode(), trailing))
    _, call = unary(channel, "UnaryCall", "SimpleResponse").with_call(simple(10, 10), metadata=metadata, timeout=5)

    assert (ECHO_INITIAL.decode(), "test_initial_metadata_value") in call.initial_metadata()
    assert (ECHO_TRAILING.decode(), trailing) in call.trailing_metadata()


@pytest.mark.parametrize(
    "text", ["test status message", "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"]
)
def test_status_code_and_message(channel: grpc.Channel, text: str) -> None:
    """Any status, any text, with one message and with many."""
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "UnaryCall", "SimpleResponse")(simple(code=2, text=text), timeout=5)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, text)

    request = output()
    request.response_status.code, request.response_status.message = 2, text
    call = unary(channel, "FullDuplexCall", "StreamingOutputCallResponse", "stream_stream")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([request]), timeout=5))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, text)


@pytest.mark.parametrize(
    "path", ["/grpc.testing.TestService/UnimplementedCall", "/grpc.testing.UnimplementedService/Call"]
)
def test_unimplemented(channel: grpc.Channel, path: str) -> None:
    """Neither the method nor the service."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=5)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_cancel_after_begin(channel: grpc.Channel) -> None:
    """Before any message."""
    waiting = threading.Event()
    call = unary(channel, "StreamingInputCall", "StreamingInputCallResponse", "stream_unary").future(
        iter(waiting.wait, 1)
    )

    call.cancel()
    waiting.set()

    assert call.code() is grpc.StatusCode.CANCELLED


def test_cancel_after_first_response(live: Live, channel: grpc.Channel) -> None:
    """The handler's task ends with it."""
    waiting = threading.Event()

    def ask() -> Iterator[Any]:
        yield output(31_415, body=27_182)
        waiting.wait(5)

    call = unary(channel, "FullDuplexCall", "StreamingOutputCallResponse", "stream_stream")(ask(), timeout=5)
    assert len(next(call).payload.body) == 31_415

    call.cancel()
    waiting.set()

    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is grpc.StatusCode.CANCELLED


def test_timeout_on_sleeping_server(channel: grpc.Channel) -> None:
    """The deadline is the caller's."""
    call = unary(channel, "FullDuplexCall", "StreamingOutputCallResponse", "stream_stream")

    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([output(10, interval_us=5_000_000)]), timeout=0.05))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_many_calls_at_once(channel: grpc.Channel) -> None:
    """Each gets its own answer."""
    echo = channel.unary_unary(ECHO.decode())

    calls = [echo.future(b"%d" % i, timeout=10) for i in range(500)]

    assert [call.result() for call in calls] == [b"%d" % i for i in range(500)]


def test_a_message_beyond_the_limit(channel: grpc.Channel) -> None:
    """Before all of it has come."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(ECHO.decode())(bytes(5_000_000), timeout=5)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "Received message larger than max (5000000 vs. 2000000)"


def test_curl_speaks_http2(live: Live, certificate: tuple[Path, Path]) -> None:
    """By prior knowledge, or by ALPN under TLS; and HTTP/1.1 on the same port."""
    host, port = live.place
    how = ["--http2-prior-knowledge"] if live._tls is None else ["--cacert", str(certificate[0])]
    url = f"{'http' if live._tls is None else 'https'}://{host}:{port}/predict"

    for version, options in (("2", how), ("1.1", ["--http1.1", *how[live._tls is None :]])):
        said = subprocess.run(
            ["curl", "-sS", *options, "-w", " %{http_version} %{http_code}", "--data-binary", PREDICT, url],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        assert said.stdout == f'{{"y_pred":[0]}} {version} 200'


def test_a_large_body_over_http2(live: Live, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """Beyond every window."""
    host, port = live.place
    how = ["--http2-prior-knowledge"] if live._tls is None else ["--cacert", str(certificate[0])]
    body = tmp_path / "body"
    body.write_bytes(b'{"X": [[5.1, 3.5, 1.4, 0.2]]' + b" " * 5_000_000 + b"}")
    url = f"{'http' if live._tls is None else 'https'}://{host}:{port}/predict"

    said = subprocess.run(
        ["curl", "-sS", *how, "--data-binary", f"@{body}", url], capture_output=True, text=True, timeout=20, check=True
    )

    assert said.stdout == '{"y_pred":[0]}'


def test_a_drain_loses_no_call(certificate: tuple[Path, Path]) -> None:
    """Calls that come while the server goes are answered, or told to try elsewhere: none hangs, none breaks."""
    with Live(uvloop.new_event_loop, None) as live, connect(live, certificate) as channel:
        echo = channel.unary_unary(ECHO.decode())
        assert echo(b"a", timeout=5) == b"a"
        calls = [echo.future(b"x" * 1000, timeout=5) for _ in range(300)]

        live.drain()

        outcomes = {call.code() for call in calls}
        assert outcomes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert grpc.StatusCode.OK in outcomes
        assert live.call(lambda: len(live.server.connections)) == 0
