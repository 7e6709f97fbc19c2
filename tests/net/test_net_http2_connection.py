"""Connections of HTTP/2 with either library behind them: requests, windows, timeouts, abuse, the ways they end."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hpack import Encoder
from http2_memory import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SESSIONS,
    SETTINGS,
    WINDOW_UPDATE,
    Http2World,
    frame,
    message,
    opening,
)
from in_memory import PREDICT, request

from dukou.core.errors import Code
from dukou.core.event import RequestLogged, RequestRefused
from dukou.net.exchange import Answer
from dukou.net.http2 import PREFACE, ErrorCode
from dukou.net.http2_connection import STRAIN_LIMIT

ANY = [pytest.param(session, id=session.__name__) for session in SESSIONS]


@pytest.fixture(params=ANY)
def session(request: pytest.FixtureRequest) -> Any:
    """Each library."""
    return request.param


@pytest.fixture
def world(session: Any) -> Iterator[Http2World]:
    """A server whose models answer at once."""
    with Http2World(session) as world:
        yield world


@pytest.fixture
def slow(session: Any) -> Iterator[Http2World]:
    """A server whose models answer when the test says so."""
    with Http2World(session, by_hand=True) as world:
        yield world


def head(*fields: tuple[str, str], method: str = "POST", path: str = "/predict") -> bytes:
    """A header block that needs no table."""
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
    return Encoder().encode([*pseudo, *fields])


# Requests and answers.


def test_an_ordinary_request_is_answered_as_over_http1(world: Http2World) -> None:
    """The same routes, bodies and ids."""
    client = world.client()

    said = client.get("POST", "/predict", PREDICT, ("x-request-id", "mine"))

    assert (said.status, said.body, said.ended) == (200, b'{"y_pred":[0]}', True)
    assert said.headers["x-request-id"] == "mine"
    assert said.headers["content-type"] == "application/json"
    assert said.headers["content-length"] == "14"
    assert said.headers["date"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_http1_goes_on_on_the_same_port(world: Http2World) -> None:
    """The first bytes decide."""
    client = world.raw(request("GET", "/v2/health/live"))

    assert client.transport.out.startswith(b"HTTP/1.1 200 OK")


def test_a_head_request_has_an_answer_without_a_body(world: Http2World) -> None:
    """The length is that of the body that GET would have."""
    said = world.client().get("HEAD")

    assert (said.status, said.headers["content-length"], said.body, said.ended) == (200, "13", b"", True)


def test_a_page_that_is_not_there_is_404(world: Http2World) -> None:
    """As everywhere."""
    assert world.client().get("GET", "/nowhere").status == 404


def test_answers_come_as_they_are_ready_whatever_the_order_of_requests(slow: Http2World) -> None:
    """No stream waits for another."""
    client = slow.client()
    streams = [client.request("POST", "/predict", PREDICT) for _ in range(3)]
    client.flush()

    slow.turn(slow.plane.runs[1].finish)

    assert [client.said(stream).ended for stream in streams] == [False, True, False]


def test_answers_of_one_turn_go_out_in_one_write(slow: Http2World) -> None:
    """One system call for a batch."""
    client = slow.client()
    for _ in range(20):
        client.request("POST", "/predict", PREDICT)
    client.flush()
    before = client.transport.writes

    slow.turn(lambda: [run.finish() for run in slow.plane.runs])

    client.read()
    assert all(said.ended for said in client.answers.values())
    assert client.transport.writes == before + 1


def test_a_stream_reset_in_the_middle_of_a_batch_does_not_disturb_the_others(slow: Http2World) -> None:
    """Its call is cancelled, theirs are answered."""
    client = slow.client()
    streams = [client.request("POST", "/predict", PREDICT) for _ in range(5)]
    client.flush()
    client.engine.reset_stream(streams[2], ErrorCode.CANCEL)
    client.flush()

    slow.turn(lambda: [run.finish() for run in slow.plane.runs if not run.cancelled])

    assert [run.cancelled for run in slow.plane.runs] == [False, False, True, False, False]
    assert [client.said(stream).ended for stream in streams] == [True, True, False, True, True]


def test_calls_are_cancelled_when_the_connection_is_lost(slow: Http2World) -> None:
    """Nobody waits for them."""
    client = slow.client()
    for _ in range(3):
        client.request("POST", "/predict", PREDICT)
    client.flush()

    client.vanish()

    assert [run.cancelled for run in slow.plane.runs] == [True] * 3
    assert len(slow.server.connections) == 0


def test_a_client_that_half_closes_gets_its_answer(slow: Http2World) -> None:
    """And then the connection is closed."""
    client = slow.client()
    stream = client.request("POST", "/predict", PREDICT)
    client.flush()
    assert client.transport.protocol.eof_received()

    slow.turn(slow.plane.runs[0].finish)

    assert client.said(stream).status == 200
    assert client.transport.closed


def test_repeated_headers_are_joined(world: Http2World) -> None:
    """By commas; the parts of a cookie by semicolons."""
    seen: list[dict[bytes, bytes]] = []
    front = world.server.site("")
    respond = front.respond
    front.respond = lambda exchange: (seen.append(dict(exchange.headers)), respond(exchange))[1]  # type: ignore[func-returns-value]

    world.client().get("GET", "/", None, ("a", "1"), ("a", "2"), ("cookie", "b=1"), ("cookie", "c=2"))

    assert (seen[0][b"a"], seen[0][b"cookie"], seen[0][b"host"]) == (b"1,2", b"b=1; c=2", b"test")


def test_a_request_is_logged(session: Any) -> None:
    """As over HTTP/1.1."""
    with Http2World(session, access_log=True) as world:
        world.client().get("POST", "/predict", PREDICT)

        (logged,) = [event for event in world.events if isinstance(event, RequestLogged)]
        assert (logged.method, logged.path, logged.status) == ("POST", "/predict", 200)
        assert (logged.request_bytes, logged.response_bytes, logged.peer) == (len(PREDICT), 14, "192.0.2.1:5000")


def test_streams_and_connections_end_by_reference_count(session: Any) -> None:
    """They leave no cycles for the collector, which is told to look seldom."""
    with Http2World(session, by_hand=True) as slow:
        client = slow.client()
        for _ in range(2):
            client.request("POST", "/predict", PREDICT)
            client.call(message(b"a"))
        client.flush()
        connection = client.transport.protocol
        refs = [weakref.ref(stream) for stream in connection._streams.values()]

        gc.collect()
        gc.disable()
        slow.turn(lambda: [run.finish() for run in slow.plane.runs[:2]])
        client.vanish()
        slow.plane.close()
        slow.plane.runs.clear()
        refs.append(weakref.ref(connection))
        del client, connection
        gone = [ref() is None for ref in refs]
        gc.enable()

        assert gone == [True] * 5


def test_requests_that_were_never_complete_end_by_reference_count(session: Any) -> None:
    """What came of their bodies goes with the client."""
    with Http2World(session) as world:
        client = world.client()
        client.request("POST", "/predict", PREDICT, end=False)
        client.request("POST", "/predict", end=False)
        client.call(message(b"a" * 100)[:50], end=False)
        client.call(message(b"a"), end=False)
        client.flush()
        refs = [weakref.ref(stream) for stream in client.transport.protocol._streams.values()]

        gc.collect()
        gc.disable()
        client.vanish()
        del client
        gone = [ref() is None for ref in refs]
        gc.enable()

        assert gone == [True] * 4


# Limits.


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("GET", "/" + "a" * 9000), 414, "the request target is longer than 8192 bytes"),
        (("GET", "/", None, *[(f"a{i}", "b") for i in range(120)]), 431, "there are more than 100 header fields"),
        (("GET", "/", None, ("a", "b" * 900)), 431, "the request line and headers take more than 800 bytes"),
        (("POST", "/predict", b"x" * 2000), 413, "the body is larger than 1000 bytes"),
        (("POST", "/predict", None, ("content-length", "2000")), 413, "the body is larger than 1000 bytes"),
    ],
    ids=["target", "fields", "headers", "body", "content-length"],
)
def test_what_is_too_large_is_refused_and_the_connection_goes_on(
    session: Any, arguments: Any, status: int, text: str
) -> None:
    """One stream is not the others' business."""
    limits = {"max_header_bytes": 800} if "bytes" in text and status == 431 else {"max_body_bytes": 1000}
    with Http2World(session, **limits) as world:
        client = world.client()
        stream = client.request(*arguments, end=arguments[-1] != ("content-length", "2000"))
        client.flush()

        said = client.said(stream)
        assert said.status == status
        assert text.encode() in said.body
        assert client.get().status == 200
        assert next(event.code for event in world.events if isinstance(event, RequestRefused)) is not Code.INTERNAL


def test_a_refused_request_that_goes_on_is_reset_after_a_while(session: Any) -> None:
    """Without an error, so that the answer counts (RFC 9113 section 8.1)."""
    with Http2World(session, max_body_bytes=1000) as world:
        client = world.client()
        stream = client.request("POST", "/predict", b"x" * 2000, end=False)
        client.flush()
        assert client.said(stream).status == 413

        world.pass_time(4.0)

        assert client.said(stream).reset == ErrorCode.NO_ERROR


def test_large_bodies_come_through_small_windows(session: Any) -> None:
    """Window is given back as the body comes."""
    with Http2World(session, http2={"window_bytes": 65_535}) as world:
        client = world.client()
        stream = client.call(None, end=False)
        left = message(b"x" * 500_000)
        for _ in range(100):
            room = min(client.engine.local_flow_control_window(stream), len(left), 65_535)
            if left:
                client.data(stream, left[:room], end=room == len(left))
            left = left[room:]
            client.flush()
            if not left and client.said(stream).ended:
                break

        assert client.said(stream).messages == [b"x" * 500_000]


def test_a_connection_keeps_no_more_than_one_largest_body_and_the_windows(session: Any) -> None:
    """Beyond that only the oldest body is given window, so that it at least becomes complete."""
    limits: dict[str, Any] = {"window_bytes": 65_535, "max_message_bytes": 100_000, "max_concurrent_streams": 4}
    with Http2World(session, http2=limits, max_body_bytes=100_000) as world:
        client = world.client()
        streams = [client.call(None, end=False) for _ in range(4)]
        client.flush()
        begun = (90_000).to_bytes(5)
        for stream in streams:
            client.data(stream, begun + b"x" * 60_000)
            client.flush()

        windows = [client.engine.local_flow_control_window(stream) for stream in streams]
        assert windows[0] > 30_000
        assert all(window < 10_000 for window in windows[2:])
        waiting = streams
        for _ in range(4):
            first, *waiting = sorted(waiting, key=client.engine.local_flow_control_window, reverse=True)
            client.data(first, b"x" * 30_000, end=True)
            client.flush()
        for _ in range(4):
            client.flush()
        assert [len(client.said(stream).messages[0]) for stream in streams] == [90_000] * 4


def test_connections_of_both_protocols_share_one_limit(session: Any) -> None:
    """One more is closed at once."""
    with Http2World(session, max_connections=2) as world:
        world.client()
        world.raw(request("GET", "/v2/health/live"))

        assert world.raw().transport.aborted


# Windows and slow readers.


def test_an_answer_waits_for_the_clients_window(world: Http2World) -> None:
    """And goes on when there is more of it."""
    client = world.client(initial_window_size=1000)
    client.acknowledge = lambda amount, stream_id: None  # type: ignore[method-assign]
    stream = client.call(message(b"x" * 5000))
    client.flush()
    assert (len(client.said(stream).body), client.said(stream).ended) == (1000, False)

    client.engine.increment_flow_control_window(10_000, stream)
    client.flush()

    assert (client.said(stream).messages, client.said(stream).ended) == ([b"x" * 5000], True)


def test_a_client_that_takes_nothing_of_an_answer_loses_that_stream(session: Any) -> None:
    """The others go on."""
    with Http2World(session, write_timeout_s=10.0) as world:
        client = world.client(initial_window_size=1000)
        client.acknowledge = lambda amount, stream_id: None  # type: ignore[method-assign]
        stream = client.call(message(b"x" * 5000))
        client.flush()

        world.pass_time(15.0)

        assert client.said(stream).reset == ErrorCode.CANCEL
        assert client.get().status == 200


def test_a_client_that_reads_nothing_loses_the_connection(session: Any) -> None:
    """What waits for it is bounded in time, and in size: no more is taken from the session than the transport wants."""
    with Http2World(session, write_timeout_s=10.0) as world:
        client = world.client(initial_window_size=2**30)
        client.engine.increment_flow_control_window(2**30)
        client.flush()
        client.transport.stuck = True
        for _ in range(20):
            client.call(message(b"x" * 60_000))
        client.flush()
        assert client.transport.stuck_bytes < 600_000

        world.pass_time(15.0)

        assert client.transport.aborted


def test_answers_go_on_when_the_transport_is_free_again(world: Http2World) -> None:
    """What the session kept goes out then."""
    client = world.client(initial_window_size=2**30)
    client.engine.increment_flow_control_window(2**30)
    client.flush()
    client.transport.stuck = True
    streams = [client.call(message(b"x" * 60_000)) for _ in range(20)]
    client.flush()

    for _ in range(10):
        if client.transport.stuck_bytes:
            world.turn(lambda: client.transport.take(client.transport.stuck_bytes))

    assert all(client.said(stream).messages == [b"x" * 60_000] for stream in streams)


async def numbers(closed: list[bool], count: int) -> AsyncIterator[bytes]:
    """Pieces of 40,000 bytes."""
    try:
        for i in range(count):
            yield b"%d" % (i % 10) * 40_000
            await asyncio.sleep(0)
    finally:
        closed.append(True)


def test_an_answer_may_come_bit_by_bit(world: Http2World) -> None:
    """Without a length, and no faster than the client takes it."""
    closed: list[bool] = []
    taken = []

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in numbers(closed, 10):
            taken.append(len(piece))
            yield piece

    world.server.site("").respond = lambda exchange: exchange.answer(Answer(200, pieces=pieces()))
    client = world.client(initial_window_size=50_000)
    acknowledge = client.acknowledge
    client.acknowledge = lambda amount, stream_id: None  # type: ignore[method-assign]
    stream = client.request()
    client.flush()
    world.turn()
    assert len(taken) < 6

    client.acknowledge = acknowledge  # type: ignore[method-assign]
    client.engine.increment_flow_control_window(400_000, stream)
    client.engine.increment_flow_control_window(400_000)
    for _ in range(20):
        client.flush()
        world.turn()

    said = client.said(stream)
    assert (len(said.body), said.ended, closed) == (400_000, True, [True])
    assert "content-length" not in said.headers


def test_the_pieces_of_an_answer_end_when_the_client_resets_the_stream(world: Http2World) -> None:
    """Their iterator is closed."""
    closed: list[bool] = []
    world.server.site("").respond = lambda exchange: exchange.answer(Answer(200, pieces=numbers(closed, 1000)))
    client = world.client()
    stream = client.request()
    client.flush()

    client.engine.reset_stream(stream, ErrorCode.CANCEL)
    client.flush()
    world.turn()

    assert closed == [True]


def test_pieces_that_fail_reset_the_stream(world: Http2World, caplog: pytest.LogCaptureFixture) -> None:
    """A cut answer must not look whole."""

    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("no more")

    world.server.site("").respond = lambda exchange: exchange.answer(Answer(200, pieces=failing()))
    client = world.client()
    stream = client.request()
    client.flush()
    world.turn()

    assert (client.said(stream).reset, client.said(stream).ended) == (ErrorCode.INTERNAL_ERROR, False)
    assert "no more" in caplog.text


# Time.


def test_an_idle_connection_is_closed_with_a_word(session: Any) -> None:
    """GOAWAY without an error, so that clients know what was not looked at."""
    with Http2World(session, idle_timeout_s=30.0) as world:
        client = world.client()
        client.get()

        world.pass_time(29.0)
        assert not client.over
        world.pass_time(3.0)

        assert client.over
        assert client.goaways[-1] == (1, ErrorCode.NO_ERROR)


def test_pings_alone_keep_no_connection_open(session: Any) -> None:
    """Only requests do."""
    with Http2World(session, idle_timeout_s=30.0) as world:
        client = world.client()
        for _ in range(8):
            client.engine.ping(b"12345678")
            client.flush()
            world.pass_time(5.0)

        assert client.over


def test_a_call_under_way_keeps_its_connection_open(session: Any) -> None:
    """However long it takes."""
    with Http2World(session, by_hand=True, idle_timeout_s=30.0) as world:
        client = world.client()
        client.call(message(b"a"))
        client.flush()

        world.pass_time(100.0)

        assert not client.over


@pytest.mark.parametrize("pieces", [[], [b"PRI"], [PREFACE[:20]], [PREFACE]], ids=["none", "few", "most", "preface"])
def test_a_client_that_says_too_little_is_cut_off(session: Any, pieces: list[bytes]) -> None:
    """Before its settings it is nobody."""
    with Http2World(session, header_timeout_s=5.0, idle_timeout_s=8.0) as world:
        client = world.raw(*pieces)
        world.pass_time(3.0)
        assert not client.over

        world.pass_time(8.0)

        assert client.over


def test_a_body_that_stands_still_is_timed_out(session: Any) -> None:
    """With 408, and the connection goes on."""
    with Http2World(session, body_timeout_s=10.0) as world:
        client = world.client()
        stream = client.request("POST", "/predict", b"{", end=False)
        client.flush()

        world.pass_time(12.0)

        assert client.said(stream).status == 408
        assert client.get().status == 200


def test_a_body_that_comes_too_slowly_is_timed_out(session: Any) -> None:
    """A byte now and then does not hold a stream for ever."""
    with Http2World(session, body_timeout_s=10.0) as world:
        client = world.client()
        stream = client.request("POST", "/predict", b"{", end=False)
        client.flush()
        for _ in range(4):
            world.pass_time(5.0)
            if not client.said(stream).ended:
                client.data(stream, b" ")
                client.flush()

        assert client.said(stream).status == 408


def test_a_quiet_connection_is_pinged_and_closed_without_an_answer(session: Any) -> None:
    """Where keep-alive is on."""
    settings = {"keepalive_s": 10.0, "keepalive_timeout_s": 5.0}
    with Http2World(session, by_hand=True, http2=settings) as world:
        client = world.client()
        client.call(message(b"a"))
        client.flush()
        world.pass_time(12.0)
        assert [one[:2] for one in client.frames if one[0] == PING] == [(PING, 0)]
        client.flush()
        client.flush()
        world.pass_time(8.0)
        assert not client.over

        world.pass_time(12.0)

        assert client.transport.aborted


# The end.


def test_a_drain_says_goodbye_answers_what_is_under_way_and_closes(slow: Http2World) -> None:
    """First a notice, then the last stream, then the end: no call is lost on the way."""
    client = slow.client()
    stream = client.request("POST", "/predict", PREDICT)
    client.flush()
    empty: list[bool] = []

    slow.turn(lambda: slow.server.connections.drain(lambda: empty.append(True)))
    assert client.goaways == [(2**31 - 1, ErrorCode.NO_ERROR)]
    client.flush()  # answers the ping
    client.flush()
    assert client.goaways[-1] == (stream, ErrorCode.NO_ERROR)
    assert not client.over
    slow.turn(slow.plane.runs[0].finish)

    assert client.said(stream).status == 200
    assert client.over
    client.vanish()
    assert empty == [True]


def test_a_call_that_crosses_the_notice_is_answered(slow: Http2World) -> None:
    """The client had not heard it yet."""
    client = slow.client()
    slow.turn(lambda: slow.server.connections.drain(lambda: None))
    stream = client.request("POST", "/predict", PREDICT)
    data = client.engine.data_to_send()

    client.send(data)
    slow.turn(slow.plane.runs[0].finish)

    assert client.said(stream).status == 200


def test_a_drain_does_not_wait_for_a_client_that_answers_no_ping(world: Http2World) -> None:
    """A few seconds, no more."""
    client = world.client()
    world.turn(lambda: world.server.connections.drain(lambda: None))
    assert not client.over

    world.pass_time(4.0)

    assert client.over


def test_an_old_connection_is_asked_to_go_and_ended_after_its_grace(session: Any) -> None:
    """A tenth earlier or later than set."""
    settings = {"max_connection_age_s": 100.0, "max_connection_age_grace_s": 60.0}
    with Http2World(session, by_hand=True, http2=settings) as world:
        client = world.client()
        client.call(message(b"a"))
        client.flush()
        world.pass_time(89.0)
        assert client.goaways == []

        world.pass_time(25.0)
        assert client.goaways[0] == (2**31 - 1, ErrorCode.NO_ERROR)
        assert not world.plane.runs[0].cancelled
        world.pass_time(65.0)

        assert client.over
        assert world.plane.runs[0].cancelled


def test_abort_sends_what_is_ready(slow: Http2World) -> None:
    """As after the grace of a drain: the answers say why there is no better one."""
    client = slow.client()
    stream = client.request("POST", "/predict", PREDICT)
    client.flush()

    def end() -> None:
        slow.plane.runs[0].finish()
        slow.server.connections.abort()

    slow.turn(end)

    assert client.said(stream).status == 200
    assert client.transport.closed


# Abuse.


def requests(count: int, then: bytes = b"", encoder: Encoder | None = None) -> bytes:
    """Whole requests with the first ids."""
    block = head()
    return b"".join(frame(HEADERS, END_HEADERS, 2 * i + 1, block) + then for i in range(count))


def resets(count: int) -> bytes:
    """Requests that are reset at once."""
    block = head()
    cancel = ErrorCode.CANCEL.to_bytes(4)
    return b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, i, block) + frame(RST_STREAM, 0, i, cancel)
        for i in range(1, 2 * count, 2)
    )


BEGUN = frame(HEADERS, END_HEADERS, 1, head())
CALM = {ErrorCode.ENHANCE_YOUR_CALM}
PROTOCOL = {ErrorCode.PROTOCOL_ERROR}
ABUSES: dict[str, tuple[bytes, set[ErrorCode]]] = {
    "rapid reset": (resets(STRAIN_LIMIT + 100), CALM),
    "pings": (frame(PING, 0, 0, bytes(8)) * (STRAIN_LIMIT + 100), CALM),
    "settings": (frame(SETTINGS) * (STRAIN_LIMIT + 100), CALM),
    "empty data": (BEGUN + frame(DATA, 0, 1) * (STRAIN_LIMIT + 100), CALM),
    "tiny windows": (frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4)) * (STRAIN_LIMIT + 100), CALM),
    "continuations": (
        frame(HEADERS, 0, 1, head()) + frame(CONTINUATION, 0, 1) * 500,
        CALM | PROTOCOL,
    ),
    "header bomb": (
        frame(HEADERS, END_HEADERS, 1, Encoder().encode([("a", "b" * 3500)] + [("a", "b" * 3500)] * 300)),
        CALM | PROTOCOL,
    ),
    "window overflow": (frame(WINDOW_UPDATE, 0, 0, (2**31 - 1).to_bytes(4)), {ErrorCode.FLOW_CONTROL_ERROR}),
    "no window": (BEGUN + frame(DATA, 0, 1, bytes(16_384)) * 80, {ErrorCode.FLOW_CONTROL_ERROR}),
    "frame too large": (BEGUN + frame(DATA, 0, 1, bytes(17_000)), {ErrorCode.FRAME_SIZE_ERROR}),
    "ping of 7 bytes": (frame(PING, 0, 0, bytes(7)), {ErrorCode.FRAME_SIZE_ERROR}),
    "data of no stream": (frame(DATA, 0, 1, b"a"), PROTOCOL),
    "even stream": (frame(HEADERS, END_HEADERS, 2, head()), PROTOCOL),
    "stream zero": (frame(HEADERS, END_HEADERS, 0, head()), PROTOCOL),
    "push": (frame(5, END_HEADERS, 1, (2).to_bytes(4) + head()), PROTOCOL),
    "broken headers": (frame(HEADERS, END_HEADERS, 1, b"\xff" * 40), {ErrorCode.COMPRESSION_ERROR, *PROTOCOL}),
    "interrupted headers": (frame(HEADERS, 0, 1, head()) + frame(PING, 0, 0, bytes(8)), PROTOCOL),
    "settings of 5 bytes": (frame(SETTINGS, 0, 0, bytes(5)), {ErrorCode.FRAME_SIZE_ERROR}),
    "ack with bytes": (frame(SETTINGS, ACK, 0, bytes(6)), {ErrorCode.FRAME_SIZE_ERROR, *PROTOCOL}),
    "bad window setting": (
        frame(SETTINGS, 0, 0, (4).to_bytes(2) + (2**31).to_bytes(4)),
        {ErrorCode.FLOW_CONTROL_ERROR, *PROTOCOL},
    ),
}


@pytest.mark.parametrize("name", ABUSES)
def test_abuse_ends_the_connection_with_the_right_error(slow: Http2World, name: str) -> None:
    """And its calls are cancelled, the memory is let go, the others never notice."""
    data, allowed = ABUSES[name]
    other = slow.client()
    stream = other.call(message(b"a"))
    other.flush()

    client = slow.raw(*opening(data))

    assert client.over, client.frames[-3:]
    assert client.goaways[-1][1] in allowed
    assert [run.cancelled for run in slow.plane.runs[1:]] == [True] * len(slow.plane.runs[1:])
    client.vanish()
    assert len(slow.server.connections) == 1
    slow.turn(slow.plane.runs[0].finish)
    assert other.said(stream).messages == [b"a"]


def test_abuse_spread_over_time_is_life(session: Any) -> None:
    """Some resets and pings a second are what busy clients do."""
    with Http2World(session) as world:
        client = world.client()
        for _ in range(30):
            for _ in range(50):
                stream = client.request("POST", "/predict", b"{", end=False)
                client.engine.reset_stream(stream, ErrorCode.CANCEL)
            client.flush()
            world.pass_time(1.0)

        assert client.get().status == 200


def test_a_preface_that_is_none_is_told_in_http1(world: Http2World) -> None:
    """The client may be anything."""
    client = world.raw(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")

    assert client.transport.out.startswith(b"HTTP/1.1 505 ")


def test_more_streams_than_allowed_are_refused(session: Any) -> None:
    """A client that knows the limit has broken it; one that could not know it yet may try again."""
    with Http2World(session, by_hand=True, http2={"max_concurrent_streams": 3}) as world:
        client = world.raw(*opening(requests(6)))

        refused = [one for one in client.frames if one[0] == RST_STREAM]
        assert [one[3] for one in refused] == [ErrorCode.REFUSED_STREAM.to_bytes(4)] * 3 or client.goaways


@pytest.mark.parametrize(
    "fields",
    [(("A", "b"),), (("connection", "close"),), (("te", "gzip"),), (("transfer-encoding", "chunked"),)],
    ids=str,
)
def test_headers_that_http2_forbids_end_the_stream_at_least(world: Http2World, fields: Any) -> None:
    """They are how requests are smuggled."""
    client = world.raw(*opening(frame(HEADERS, END_HEADERS | END_STREAM, 1, head(*fields))))

    kinds = {one[0] for one in client.frames}
    assert RST_STREAM in kinds or GOAWAY in kinds
    assert HEADERS not in kinds


def test_priorities_and_unknown_frames_are_passed_over(world: Http2World) -> None:
    """As RFC 9113 says of both."""
    client = world.raw(*opening(frame(PRIORITY, 0, 1, bytes([0, 0, 0, 0, 5])), frame(99, 7, 0, b"what")))

    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head(method="GET", path="/v2/health/live")))

    assert not client.goaways
    assert HEADERS in {one[0] for one in client.frames}


def test_a_fault_of_ours_ends_the_connection_and_is_logged(world: Http2World, caplog: pytest.LogCaptureFixture) -> None:
    """With INTERNAL_ERROR, not with silence."""

    def fail(*_: object) -> None:
        raise ValueError("a bug")

    client = world.client()
    client.transport.protocol.on_data = fail
    client.call(message(b"a"))
    client.flush()

    assert client.goaways[-1][1] == ErrorCode.INTERNAL_ERROR
    assert "a bug" in caplog.text


@pytest.mark.parametrize("how", ["answered", "refused", "reset", "talk", "unread"])
def test_the_connections_window_is_given_back_whatever_becomes_of_the_data(session: Any, how: str) -> None:
    """Otherwise every long connection would come to a halt one day."""

    async def deaf(rpc: Any) -> None:
        await asyncio.Event().wait()

    async def listening(rpc: Any) -> None:
        while await rpc.receive() is not None:
            pass

    settings = {"window_bytes": 65_535, "max_concurrent_streams": 2, "max_message_bytes": 40_000}
    methods = {b"/test.Service/Deaf": deaf, b"/test.Service/Listening": listening}
    with Http2World(session, http2=settings, methods=methods) as world:
        client = world.client()
        for _ in range(30):
            body = message(b"x" * 30_000)
            if how == "answered":
                client.call(body)
            elif how == "refused":
                client.call(message(b"x" * 50_000))
            elif how == "reset":
                stream = client.call(body, end=False)
                client.engine.reset_stream(stream, ErrorCode.CANCEL)
            elif how == "talk":
                client.call(body + body, path=b"/test.Service/Listening")
            else:
                stream = client.call(body + body, path=b"/test.Service/Deaf")
                client.flush()
                client.engine.reset_stream(stream, ErrorCode.CANCEL)
            client.flush()
            client.flush()

        assert not client.goaways
        assert client.engine.outbound_flow_control_window > 60_000


def test_pings_for_what_was_sent_are_no_strain(session: Any) -> None:
    """Clients measure their connection with them, as often as data comes."""

    async def eager(rpc: Any) -> None:
        while await rpc.receive() is not None:
            await rpc.send(b"x" * 100)

    with Http2World(session, methods={b"/test.Service/Eager": eager}) as world:
        client = world.client()
        stream = client.call(None, path=b"/test.Service/Eager", end=False)
        client.flush()
        for _ in range(STRAIN_LIMIT // 5 + 100):
            client.data(stream, message(b"next"))
            for _ in range(5):
                client.engine.ping(b"12345678")
            client.flush()

        assert not client.goaways
        assert not client.over
