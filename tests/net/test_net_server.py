"""The server on real sockets, with uvloop and with asyncio's own loop."""

import asyncio
import gzip
import http.client
import json
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvloop
from certificates import make_certificate
from in_memory import PREDICT, HandPlane, Said, World, predict, read_answers, request

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelRef
from dukou.net.api import Api, Call
from dukou.net.sockets import bind, close_all, tls_context
from dukou.net.status import HTTP
from dukou.wire.plain import Plain

pytestmark = pytest.mark.socket

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's coroutine on one of the loops, for at most 20 seconds."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def go(test: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await test()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return go


@asynccontextmanager
async def serving(world: World, address: str = "127.0.0.1:0", tls: ssl.SSLContext | None = None) -> AsyncIterator[Any]:
    """Serve, give the address of the socket, and drop everything in the end."""
    sockets = bind([address])
    place = sockets[0].getsockname()
    try:
        await world.server.serve([(one, "") for one in sockets], tls)
        yield place
    finally:
        world.server.close()
        world.plane.close()
        await asyncio.sleep(0)
        close_all(sockets)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something holds; the test's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


async def talk(place: Any, *pieces: bytes, end: bool = True) -> list[Said]:
    """Send, half-close, and read all answers."""
    reader, writer = await asyncio.open_connection(*place)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    if end:
        writer.write_eof()
    data = await reader.read()
    writer.close()
    return read_answers(data)


def test_http_client_keeps_its_connection(run: Run) -> None:
    """The standard library's client, one connection, several requests."""

    def client(place: tuple[str, int]) -> list[tuple[int, bytes]]:
        connection = http.client.HTTPConnection(*place, timeout=5)
        said = []
        for method, target, body in [
            ("GET", "/v2/health/ready", None),
            ("POST", "/predict", PREDICT),
            ("HEAD", "/", None),
            ("POST", "/predict", iter([PREDICT[:9], PREDICT[9:]])),
            ("GET", "/metrics", None),
            ("DELETE", "/predict", None),
            ("OPTIONS", "/predict", None),
        ]:
            connection.request(method, target, body, encode_chunked=not isinstance(body, bytes | None))
            answer = connection.getresponse()
            said.append((answer.status, answer.read()))
        connection.close()
        return said

    async def test() -> None:
        async with serving(world) as place:
            said = await asyncio.to_thread(client, place)
            assert said == [
                (200, b'{"ready":true}'),
                (200, b'{"y_pred":[0]}'),
                (200, b""),
                (200, b'{"y_pred":[0]}'),
                (200, b"dukou_up 1\n"),
                (405, rb'{"error":"Method Not Allowed: POST {\"X\": [[...], ...]}, a list for each row"}'),
                (204, b""),
            ]

    with World() as world:
        run(test)


def test_requests_sends_compressed_and_unfinished_bodies(run: Run) -> None:
    """gzip in, a generator as chunks, and a body that is too large, whose refusal the client sees."""

    def client(place: tuple[str, int]) -> list[int]:
        url = f"http://{place[0]}:{place[1]}/predict"
        with requests.Session() as session:
            return [
                session.post(url, gzip.compress(PREDICT), headers={"Content-Encoding": "gzip"}, timeout=5).status_code,
                session.post(url, iter([PREDICT[:5], PREDICT[5:]]), timeout=5).status_code,
                session.post(url, bytes(3_000_000), timeout=5).status_code,
                session.post(
                    url, gzip.compress(bytes(3_000_000)), headers={"Content-Encoding": "gzip"}, timeout=5
                ).status_code,
                session.post(url, iter([bytes(1_000_000)] * 3), timeout=5).status_code,
            ]

    async def test() -> None:
        async with serving(world) as place:
            assert await asyncio.to_thread(client, place) == [200, 200, 413, 413, 413]

    with World(max_body_bytes=1_000_000) as world:
        run(test)


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    """Though the models are done the other way round."""

    async def test() -> None:
        async with serving(world) as place:
            asking = asyncio.ensure_future(talk(place, *(predict(f"X-Request-Id: {i}") for i in range(5))))
            await until(lambda: len(world.plane.runs) == 5)
            for one in reversed(world.plane.runs):
                one.finish()

            assert [said.headers["x-request-id"] for said in await asking] == ["0", "1", "2", "3", "4"]

    with World(plane=HandPlane(by_hand=True)) as world:
        run(test)


def test_a_half_closed_client_gets_its_answer_and_a_truncated_body_none(run: Run) -> None:
    """The one waits for the model, the other's request never was one."""

    async def test() -> None:
        async with serving(world) as place:
            asking = asyncio.ensure_future(talk(place, predict()))
            await until(lambda: len(world.plane.runs) == 1)
            world.plane.runs[0].finish()

            assert [said.status for said in await asking] == [200]
            assert await talk(place, predict()[:-3]) == []

    with World(plane=HandPlane(by_hand=True)) as world:
        run(test)


def test_a_client_that_resets_cancels_its_call_and_the_rest_of_the_batch_is_answered(run: Run) -> None:
    """One of three has gone when the batch is done."""

    async def test() -> None:
        async with serving(world) as place:
            asking = [asyncio.ensure_future(talk(place, predict()))]
            await until(lambda: len(world.plane.runs) == 1)
            gone = socket.create_connection(place)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            gone.sendall(predict())
            await until(lambda: len(world.plane.runs) == 2)
            asking.append(asyncio.ensure_future(talk(place, predict())))
            await until(lambda: len(world.plane.runs) == 3)

            gone.close()
            await until(lambda: world.plane.runs[1].cancelled)
            world.plane.runs[0].finish()
            world.plane.runs[2].finish()

            assert [said.status for answers in await asyncio.gather(*asking) for said in answers] == [200, 200]

    with World(plane=HandPlane(by_hand=True)) as world:
        run(test)


@pytest.mark.slow
def test_a_slow_reader_is_cut_off_and_others_go_on(run: Run) -> None:
    """It asks for more than it takes; its requests wait, then its time is up."""

    async def test() -> None:
        async with serving(world) as place:
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(place)
            slow.setblocking(False)
            wanted = request("GET", "/") * 100
            while True:
                try:
                    slow.send(wanted)
                except BlockingIOError:
                    break
                await asyncio.sleep(0.001)
            assert [said.status for said in await talk(place, predict())] == [200]

            world.pass_time(200.0)

            await until(lambda: len(world.server.connections) == 0)
            slow.close()

    with World(write_timeout_s=100.0) as world:
        run(test)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO of a listening socket")
def test_the_backlog_is_kept(run: Run) -> None:
    """Event loops call listen() again, with 100 where nobody says otherwise."""

    async def test() -> None:
        sockets = bind(["127.0.0.1:0"], 300)
        await world.server.serve([(one, "") for one in sockets], None, 300)
        info = sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert int.from_bytes(info[28:32], sys.byteorder) == 300
        world.server.close()
        close_all(sockets)

    with World() as world:
        run(test)


def test_the_sweep_runs_by_itself(run: Run) -> None:
    """A head that does not arrive is answered 408, without anybody asking what time it is."""

    async def test() -> None:
        async with serving(world) as place:
            asking = asyncio.ensure_future(talk(place, b"GET / HT", end=False))

            while not asking.done():
                world.clock.advance(0.01)
                await asyncio.sleep(0.001)

            assert [said.status for said in asking.result()] == [408]

    with World(header_timeout_s=0.1) as world:
        run(test)


def test_draining_answers_what_was_taken_and_accepts_no_more(run: Run) -> None:
    """It is done when the last connection is closed."""

    async def test() -> None:
        async with serving(world) as place:
            _, idle = await asyncio.open_connection(*place)
            asking = asyncio.ensure_future(talk(place, predict(), end=False))
            await until(lambda: len(world.plane.runs) == 1 and len(world.server.connections) == 2)

            draining = asyncio.ensure_future(world.server.drain())
            await until(lambda: len(world.server.connections) == 1)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*place)
            assert not draining.done()
            world.plane.runs[0].finish()
            await draining

            (said,) = await asking
            assert (said.status, said.headers["connection"]) == (200, "close")
            idle.close()

    with World(plane=HandPlane(by_hand=True)) as world:
        run(test)


def test_answers_given_at_the_end_of_a_grace_period_go_out(run: Run) -> None:
    """The drain is given up, the engine answers what is left, and the server closes in the same breath."""

    async def test() -> None:
        async with serving(world) as place:
            asking = asyncio.ensure_future(talk(place, predict(), end=False))
            await until(lambda: len(world.plane.runs) == 1)
            draining = asyncio.ensure_future(world.server.drain())
            await asyncio.sleep(0)

            draining.cancel()
            world.plane.runs[0].fail(DukouError(Reason.DRAINING))
            world.server.close()

            assert [said.status for said in await asking] == [503]

    with World(plane=HandPlane(by_hand=True)) as world:
        run(test)


def test_a_unix_socket_serves_the_same(run: Run, tmp_path: Path) -> None:
    """And its file stays when the server stops: whoever opened it removes it."""

    async def test() -> None:
        async with serving(world, f"unix:{tmp_path}/s") as place:
            reader, writer = await asyncio.open_unix_connection(place)
            writer.write(predict("Connection: close"))
            assert [said.status for said in read_answers(await reader.read())] == [200]
            writer.close()
            world.server.close()
            await asyncio.sleep(0)
            assert (tmp_path / "s").exists()

    with World() as world:
        run(test)


def test_tls_serves_http_1_1(run: Run, tmp_path: Path) -> None:
    """A client that knows the certificate is answered; the page's commands say https."""
    certificate, key = make_certificate(tmp_path)

    def client(place: tuple[str, int]) -> None:
        url = f"https://{place[0]}:{place[1]}"
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(certificate)
            assert session.post(f"{url}/predict", PREDICT, timeout=5).json() == {"y_pred": [0]}
            assert f"{url}/predict" in session.get(url, timeout=5).text
            big = json.dumps({"X": [[1, 2, 3, 4]] * 100_000}).encode()
            assert len(session.post(f"{url}/predict", big, timeout=5).json()["y_pred"]) == 100_000
            assert session.post(f"{url}/predict", bytes(5_000_000), timeout=5).status_code == 413
        context = ssl.create_default_context(cafile=str(certificate))
        context.set_alpn_protocols(["h2", "http/1.1"])
        with socket.create_connection(place) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
            assert tls.selected_alpn_protocol() == "h2"

    async def test() -> None:
        async with serving(world, tls=tls_context(str(certificate), str(key))) as place:
            await asyncio.to_thread(client, place)

    with World(max_body_bytes=2_000_000) as world:
        run(test)


def test_the_loop_is_free_while_a_large_body_is_read(run: Run) -> None:
    """Reading it happens in the pool: the loop answers others in between."""
    started, go_on = threading.Event(), threading.Event()

    class Waiting:
        """A codec whose parse waits for the test."""

        def __getattr__(self, name: str) -> Any:
            return getattr(Plain(), name)

        def parse(self, *arguments: Any) -> Any:
            started.set()
            assert go_on.wait(10)
            return Plain().parse(*arguments)

    async def test() -> None:
        async with serving(world) as place:
            world.server.front("").known_routes[b"POST", b"/large"] = Call(Api(Waiting(), HTTP), ModelRef(""))
            asking = asyncio.ensure_future(talk(place, request("POST", "/large", PREDICT)))
            await until(started.is_set)

            assert [said.status for said in await talk(place, request("GET", "/v2/health/live"))] == [200]
            go_on.set()
            assert [said.status for said in await asking] == [200]

    with World(decode_off_loop_bytes=1) as world:
        run(test)
