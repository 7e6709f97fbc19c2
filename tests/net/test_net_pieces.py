"""Answers that come bit by bit, on HTTP/1.1: chunks, backpressure, and ends of every kind."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from in_memory import Client, World, predict, request

from dukou.core.event import RequestLogged
from dukou.net.exchange import Answer


class Source:
    """An iterator in the test's hand: gives what it is told to, and notes what is asked of it."""

    def __init__(self, *ready: bytes) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        for piece in ready:
            self.queue.put_nowait(piece)
        self.asked = 0
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        piece = await self.queue.get()
        if piece is None:
            raise StopAsyncIteration
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        self.closed += 1

    def end(self, *pieces: bytes | Exception) -> None:
        for piece in (*pieces, None):
            self.queue.put_nowait(piece)


def route(world: World, source: Source, target: bytes = b"/pieces") -> None:
    """Answer GETs of `target` with the pieces of `source`."""
    answer = Answer(200, b"", b"text/event-stream", ((b"cache-control", b"no-cache"),), source)
    world.server.front("").known_routes[b"GET", target] = answer


GET = request("GET", "/pieces")


async def settle() -> None:
    """Let the loop do all that can be done."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(test: Callable[[World], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            with World(**options) as world:
                await test(world)

    asyncio.run(bounded())


def split(client: Client) -> tuple[str, bytes]:
    """The head and the body as they were written."""
    head, _, body = client.transport.out.partition(b"\r\n\r\n")
    return head.decode(), body


def test_pieces_are_chunks() -> None:
    """Each goes out as it comes; an empty one is none, for an empty chunk would be the end."""

    async def test(world: World) -> None:
        source = Source(b"data: 1\n\n", b"")
        route(world, source)
        client = world.client().send(GET)
        await settle()
        assert split(client)[1] == b"9\r\ndata: 1\n\n\r\n"
        source.end(b"data: 22\n\n")
        await settle()

        head, body = split(client)
        assert "content-type: text/event-stream" in head
        assert "transfer-encoding: chunked" in head
        assert "cache-control: no-cache" in head
        assert "content-length" not in head
        assert body == b"9\r\ndata: 1\n\n\r\na\r\ndata: 22\n\n\r\n0\r\n\r\n"
        assert source.closed == 1
        assert not client.transport.closed

    run(test)


def test_a_connection_goes_on_after_the_last_piece() -> None:
    """Answers of pipelined requests wait for their turn."""

    async def test(world: World) -> None:
        source = Source()
        route(world, source)
        client = world.client().send(GET + predict() + GET.replace(b"/pieces", b"/v2"))
        await settle()
        assert client.transport.out.count(b"HTTP/1.1") == 1
        source.end(b"x")
        await settle()

        assert client.transport.out.count(b"HTTP/1.1 200") == 3
        assert client.transport.out.index(b"0\r\n\r\n") < client.transport.out.index(b"y_pred")
        client.send(predict())
        assert client.transport.out.count(b"HTTP/1.1 200") == 4

    run(test)


def test_http_1_0_has_no_chunks() -> None:
    """The end of the connection is the end of the answer."""

    async def test(world: World) -> None:
        source = Source(b"one", b"two")
        route(world, source)
        client = world.client().send(request("GET", "/pieces", b"", "Connection: keep-alive", version="1.0"))
        source.end()
        await settle()

        head, body = split(client)
        assert body == b"onetwo"
        assert "transfer-encoding" not in head
        assert "connection: close" in head
        assert client.transport.closed
        assert not client.transport.aborted

    run(test)


def test_a_client_that_wants_to_close_is_closed_after_the_last_piece() -> None:
    """And not before."""

    async def test(world: World) -> None:
        source = Source(b"x")
        route(world, source)
        client = world.client().send(request("GET", "/pieces", b"", "Connection: close"))
        await settle()
        assert not client.transport.closed
        source.end()
        await settle()

        assert split(client)[1].endswith(b"0\r\n\r\n")
        assert client.transport.closed

    run(test)


def test_no_piece_is_asked_for_while_the_client_takes_none() -> None:
    """The model is not driven by a client that does not read."""

    async def test(world: World) -> None:
        source = Source(*[bytes(30_000)] * 10)
        route(world, source)
        client = world.client()
        client.transport.stuck = True
        client.send(GET)
        await settle()
        assert source.asked == 3  # what is above the transport's high-water mark is written, then nothing
        client.transport.take(client.transport.stuck_bytes)
        source.end()
        await settle()

        assert source.asked == 11
        assert split(client)[1].endswith(b"0\r\n\r\n")

    run(test)


def test_a_client_that_takes_nothing_for_too_long_is_cut_off() -> None:
    """The timeout is that of every answer."""

    async def test(world: World) -> None:
        source = Source(*[bytes(30_000)] * 10)
        route(world, source)
        client = world.client()
        client.transport.stuck = True
        client.send(GET)
        await settle()
        world.pass_time(70.0)
        assert client.transport.aborted
        client.vanish()
        await settle()

        assert source.closed == 1

    run(test)


def test_a_model_may_think_for_long() -> None:
    """While the client has taken all there is, it is not at fault."""

    async def test(world: World) -> None:
        source = Source(b"x")
        route(world, source)
        client = world.client().send(GET)
        await settle()
        world.pass_time(400.0)
        source.end(b"y")
        await settle()

        assert split(client)[1] == b"1\r\nx\r\n1\r\ny\r\n0\r\n\r\n"

    run(test)


@pytest.mark.parametrize("begun", [False, True])
def test_the_iterator_is_closed_when_the_client_goes(begun: bool) -> None:
    """Also where nothing was asked of it yet."""

    async def test(world: World) -> None:
        source = Source()
        route(world, source)
        client = world.client().send(GET)
        if begun:
            await settle()
        client.vanish()
        await settle()

        assert (source.asked > 0) is begun
        assert source.closed == 1

    run(test)


def test_an_answer_that_waits_for_its_turn_is_closed_when_the_client_goes() -> None:
    """Pieces that never began."""

    async def test(world: World) -> None:
        first, second = Source(), Source()
        route(world, first)
        route(world, second, b"/second")
        client = world.client().send(GET + GET.replace(b"/pieces", b"/second"))
        await settle()
        client.vanish()
        await settle()

        assert (first.closed, second.closed) == (1, 1)
        assert second.asked == 0

    run(test)


def test_an_iterator_that_fails_breaks_the_answer_off(caplog: pytest.LogCaptureFixture) -> None:
    """Without the last chunk, so that the client knows."""

    async def test(world: World) -> None:
        source = Source(b"x")
        source.end(ZeroDivisionError("secret"))
        route(world, source)
        client = world.client().send(GET)
        await settle()

        assert split(client)[1] == b"1\r\nx\r\n"
        assert client.transport.aborted
        assert source.closed == 1

    with caplog.at_level(logging.ERROR, "dukou.net"):
        run(test)
    assert "secret" in caplog.text


def test_a_drain_waits_for_the_last_piece() -> None:
    """Then the connection closes."""

    async def test(world: World) -> None:
        source = Source(b"x")
        route(world, source)
        client = world.client().send(GET)
        await settle()
        emptied: list[bool] = []
        world.server.connections.drain(lambda: emptied.append(True))
        await settle()
        assert not client.transport.closed
        source.end(b"y")
        await settle()

        assert split(client)[1].endswith(b"1\r\ny\r\n0\r\n\r\n")
        assert client.transport.closed

    run(test)


def test_a_client_that_half_closes_still_gets_everything() -> None:
    """As with other answers."""

    async def test(world: World) -> None:
        source = Source(b"x")
        route(world, source)
        client = world.client().send(GET)
        await settle()
        client.end()
        source.end(b"y")
        await settle()

        assert split(client)[1] == b"1\r\nx\r\n1\r\ny\r\n0\r\n\r\n"
        assert client.transport.closed

    run(test)


def test_the_access_log_counts_all_pieces() -> None:
    """Once, at the end."""

    async def test(world: World) -> None:
        source = Source(b"one", b"three")
        route(world, source)
        world.client().send(GET)
        await settle()
        assert world.events == []
        source.end()
        await settle()

        (event,) = world.events
        assert isinstance(event, RequestLogged)
        assert (event.status, event.response_bytes) == (200, 8)

    run(test, access_log=True)
