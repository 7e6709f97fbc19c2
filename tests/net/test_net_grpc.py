"""gRPC calls with either HTTP/2 library behind them: messages, statuses, deadlines, compression, conversations."""

import asyncio
import gc
import gzip
import weakref
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from http2_memory import SESSIONS, Http2World, message
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import RequestLogged, RequestRefused
from dukou.net.http2 import ErrorCode
from dukou.net.rpc import GrpcError, Rpc

ANY = [pytest.param(session, id=session.__name__) for session in SESSIONS]
TALK = b"/test.Service/Talk"


@pytest.fixture(params=ANY)
def session(request: pytest.FixtureRequest) -> Any:
    """Each library."""
    return request.param


@pytest.fixture
def world(session: Any) -> Iterator[Http2World]:
    """A server whose models answer at once."""
    with Http2World(session) as world:
        yield world


def refused(world: Http2World) -> list[Code]:
    """What was counted as refused."""
    return [event.code for event in world.events if isinstance(event, RequestRefused)]


# Calls with one message each way.


def test_a_call_is_answered_with_headers_message_and_trailers(world: Http2World) -> None:
    """As the protocol says."""
    said = world.client().echo(message(b"hello"))

    assert said.headers == {":status": "200", "content-type": "application/grpc"}
    assert said.messages == [b"hello"]
    assert said.trailers == {"grpc-status": "0"}


def test_an_empty_message_is_a_message(world: Http2World) -> None:
    """It has a prefix."""
    said = world.client().echo(message(b""))

    assert (said.messages, said.grpc_status) == ([b""], 0)


@settings(max_examples=25)
@given(st.binary(max_size=300), st.lists(st.integers(1, 60), max_size=20), st.booleans())
def test_a_message_may_come_in_any_pieces(body: bytes, cuts: list[int], apart: bool) -> None:
    """And the end of the stream with it or after it."""
    with Http2World() as world:
        client = world.client()
        stream = client.call(None, end=False)
        data = message(body)
        for cut in cuts:
            client.data(stream, data[:cut])
            data = data[cut:]
        if apart:
            client.data(stream, data)
            data = b""
        client.data(stream, data, end=True)
        client.flush()

        assert client.said(stream).messages == [body]


def test_large_messages_come_through(world: Http2World) -> None:
    """Far beyond a frame, both ways."""
    client = world.client(initial_window_size=2**20)
    client.engine.increment_flow_control_window(2**20)
    stream = client.call(None, end=False)
    client.flush()
    client.data(stream, message(b"x" * 600_000), end=True)
    client.flush()

    assert client.said(stream).messages == [b"x" * 600_000]


def test_metadata_comes_to_the_codec_as_it_is(world: Http2World) -> None:
    """Binary values still in base64, repeated ones joined."""
    world.client().echo(message(b""), ("x-one-bin", "AAEC"), ("x-two", "a"), ("x-two", "b"))

    assert world.codec.seen[b"x-one-bin"] == b"AAEC"
    assert world.codec.seen[b"x-two"] == b"a,b"
    assert b":path" not in world.codec.seen


def test_a_failed_call_has_trailers_only(world: Http2World) -> None:
    """The codec's words, percent-encoded."""
    world.codec.fail = DukouError(Reason.MALFORMED_REQUEST, detail="größe: 100%")

    said = world.client().echo(message(b""))

    assert (said.grpc_status, said.grpc_message) == (3, "gr%C3%B6%C3%9Fe: 100%25")
    assert (said.headers[":status"], said.body, said.trailers, said.ended) == ("200", b"", {}, True)
    assert refused(world) == [Code.INVALID_ARGUMENT]


def test_an_exception_of_ours_is_internal_and_tells_nothing(
    world: Http2World, caplog: pytest.LogCaptureFixture
) -> None:
    """The log does."""
    world.codec.fail = ValueError("the secret")

    said = world.client().echo(message(b""))

    assert said.grpc_status == 13
    assert "secret" not in said.grpc_message
    assert "the secret" in caplog.text


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 12, "no message came"),
        (message(b"a") + message(b"b"), 12, "more than one message"),
        (message(b"a") + b"\0", 12, "more than one message"),
        (message(b"abc")[:-1], 13, "ended within a message"),
        (b"\0\0", 13, "ended within a message"),
        (message(b"a", flag=2), 13, "neither 0 nor 1"),
        (message(b"a", flag=1), 13, "does not say how"),
        (b"\0\xff\xff\xff\xff", 8, "Received message larger than max (4294967295 vs. 1000)"),
        (message(b"x" * 1001), 8, "Received message larger than max (1001 vs. 1000)"),
    ],
    ids=["none", "two", "rest", "cut", "prefix", "flag", "no encoding", "huge", "large"],
)
def test_what_is_not_one_message_is_refused(session: Any, body: bytes, status: int, text: str) -> None:
    """With the status that the protocol's page of statuses names, and the connection goes on."""
    with Http2World(session, http2={"max_message_bytes": 1000}) as world:
        client = world.client()
        stream = client.call(body)
        client.flush()
        world.until(lambda: client.said(stream).ended)

        said = client.said(stream)
        assert (said.grpc_status, text in said.grpc_message) == (status, True)
        assert client.echo(message(b"next")).messages == [b"next"]
        assert len(refused(world)) == 1


def test_a_message_too_large_is_refused_before_it_has_come(session: Any) -> None:
    """By its prefix."""
    with Http2World(session, http2={"max_message_bytes": 1000}) as world:
        client = world.client()
        stream = client.call(b"\0\0\1\0\0", end=False)
        client.flush()

        assert client.said(stream).grpc_status == 8


def test_trailers_end_a_request_too(world: Http2World) -> None:
    """Some clients send them."""
    client = world.client()
    stream = client.call(message(b"a"), end=False)
    client.engine.send_headers(stream, [("x-checksum", "1")], end_stream=True)
    client.flush()

    assert client.said(stream).messages == [b"a"]


def test_an_unknown_method_is_unimplemented(world: Http2World) -> None:
    """Whatever comes after the headers."""
    client = world.client()

    said = client.echo(message(b"x" * 1000), path=b"/test.Service/Nothing")

    assert (said.grpc_status, said.grpc_message) == (12, "unknown method Nothing for service test.Service")
    assert client.echo(message(b"a"), path=b"/other.Service/Echo").grpc_message == "unknown service other.Service"
    assert refused(world) == [Code.UNIMPLEMENTED] * 2


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("POST", "application/json", 415),
        ("POST", "application/grpc-web", 415),
        ("POST", "application/grpc+json", 415),
        ("GET", "application/grpc", 405),
        ("PUT", "application/grpc", 405),
    ],
)
def test_what_is_no_call_is_told_in_http(world: Http2World, method: str, content_type: str, status: int) -> None:
    """Such a client reads no gRPC status."""
    said = world.client().get(method, "/test.Service/Echo", b"", ("content-type", content_type))

    assert said.status == status


def test_metadata_beyond_the_limit_is_resource_exhausted(session: Any) -> None:
    """And the connection goes on."""
    with Http2World(session, max_header_bytes=1000) as world:
        client = world.client()

        assert client.echo(message(b""), ("a", "b" * 1200)).grpc_status == 8
        assert client.echo(message(b"a")).messages == [b"a"]


def test_a_known_head_is_not_known_for_long_when_it_differs(world: Http2World) -> None:
    """Heads are remembered byte for byte: another one is another call."""
    client = world.client()
    for i in range(5):
        client.echo(message(b""), ("x-i", str(i % 2)))
        assert world.codec.seen[b"x-i"] == b"%d" % (i % 2)

    assert client.echo(message(b""), ("grpc-timeout", "x")).grpc_status == 13


def test_calls_are_logged(session: Any) -> None:
    """With gRPC's status."""
    with Http2World(session, access_log=True, methods={TALK: silent}) as world:
        client = world.client()
        client.echo(message(b"abc"))
        client.echo(message(b"abc"), path=TALK)

        logged = [event for event in world.events if isinstance(event, RequestLogged)]
        assert [(one.path, one.status) for one in logged] == [("/test.Service/Echo", 0), ("/test.Service/Talk", 0)]
        assert (logged[0].request_bytes, logged[0].response_bytes) == (3, 8)


# Deadlines and cancellation.


@pytest.mark.parametrize("value", ["1", "1s", "123456789S", "-1S", ""])
def test_a_malformed_timeout_is_refused(world: Http2World, value: str) -> None:
    """As other servers do."""
    said = world.client().echo(message(b""), ("grpc-timeout", value))

    assert (said.grpc_status, "malformed grpc-timeout" in said.grpc_message) == (13, True)


def test_the_deadline_is_the_callers(session: Any) -> None:
    """The data plane is told when to give up."""
    with Http2World(session, by_hand=True) as world:
        client = world.client()
        client.echo(message(b""), ("grpc-timeout", "1500m"))
        client.echo(message(b""))

        assert [run.deadline_s - world.clock() for run in world.plane.runs] == pytest.approx([1.5, 30.0])


def test_a_message_that_does_not_come_is_no_excuse(world: Http2World) -> None:
    """The deadline holds while the request is on its way."""
    client = world.client()
    streams = [client.call(body, ("grpc-timeout", "20m"), end=False) for body in (None, b"\0\0\0")]
    client.flush()

    world.until(lambda: all(client.said(stream).ended for stream in streams))

    assert [client.said(stream).grpc_status for stream in streams] == [4, 4]
    assert refused(world) == [Code.DEADLINE_EXCEEDED] * 2


def test_a_deadline_kept_leaves_no_trace(session: Any) -> None:
    """A message that came in two reads is answered in time; nothing happens later."""
    with Http2World(session) as world:
        client = world.client()
        stream = client.call(b"\0", ("grpc-timeout", "10S"), end=False)
        client.flush()
        client.data(stream, b"\0\0\0\1a", end=True)
        client.flush()

        assert client.said(stream).messages == [b"a"]
        assert refused(world) == []


def test_a_call_that_the_client_resets_is_cancelled(session: Any) -> None:
    """Work that waits is dropped, the others go on."""
    with Http2World(session, by_hand=True) as world:
        client = world.client()
        streams = [client.call(message(b"%d" % i)) for i in range(3)]
        client.flush()
        client.engine.reset_stream(streams[1], ErrorCode.CANCEL)
        client.flush()
        world.turn(lambda: [run.finish() for run in world.plane.runs if not run.cancelled])

        assert [run.cancelled for run in world.plane.runs] == [False, True, False]
        assert [client.said(stream).messages for stream in streams] == [[b"0"], [], [b"2"]]
        assert refused(world) == [Code.CANCELLED]


# Compression.


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)], ids=["gzip", "deflate"]
)
def test_compressed_messages_are_read(world: Http2World, encoding: str, pack: Any) -> None:
    """Where the flag says so; others of the same call need not be."""
    client = world.client()
    packed = client.call(message(pack(b"hello"), flag=1), ("grpc-encoding", encoding))
    client.flush()
    world.until(lambda: client.said(packed).ended)

    assert client.said(packed).messages == [b"hello"]
    assert client.echo(message(b"plain"), ("grpc-encoding", encoding)).messages == [b"plain"]


def test_an_unknown_encoding_is_unimplemented_and_the_known_ones_are_named(world: Http2World) -> None:
    """So that the client can do better."""
    said = world.client().echo(message(b"x", flag=1), ("grpc-encoding", "snappy"))

    assert said.grpc_status == 12
    assert said.headers["grpc-accept-encoding"] == "identity, deflate, gzip"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"no gzip at all", 13), (gzip.compress(b"abc")[:-4], 13), (gzip.compress(bytes(10_000_000)), 8)],
    ids=["garbage", "cut", "bomb"],
)
def test_what_does_not_unpack_is_refused(session: Any, body: bytes, status: int) -> None:
    """A bomb as soon as it is larger than a message may be."""
    with Http2World(session, http2={"max_message_bytes": 100_000}) as world:
        client = world.client()
        stream = client.call(message(body, flag=1), ("grpc-encoding", "gzip"))
        client.flush()
        world.until(lambda: client.said(stream).ended)

        assert client.said(stream).grpc_status == status


def test_large_answers_are_compressed_for_clients_that_read_gzip(session: Any) -> None:
    """Where the settings say so."""
    with Http2World(session, http2={"compress_above_bytes": 1000}) as world:
        client = world.client()
        accepts = ("grpc-accept-encoding", "identity, gzip")
        large, small, other = (
            client.call(message(b"x" * 5000), accepts),
            client.call(message(b"x" * 500), accepts),
            client.call(message(b"x" * 5000)),
        )
        client.flush()
        world.until(lambda: all(client.said(stream).ended for stream in (large, small, other)))

        said = client.said(large)
        assert said.headers["grpc-encoding"] == "gzip"
        assert (said.body[0], gzip.decompress(said.messages[0])) == (1, b"x" * 5000)
        assert [client.said(stream).body[0] for stream in (small, other)] == [0, 0]


# Conversations: a task for each call.


async def silent(rpc: Rpc) -> None:
    """Takes what comes and answers with nothing."""
    while await rpc.receive() is not None:
        pass


async def talk(rpc: Rpc) -> None:
    """Answers each message at once."""
    rpc.initial_metadata.append((b"x-begin", b"1"))
    while (body := await rpc.receive()) is not None:
        await rpc.send(body.upper())
    rpc.trailing_metadata.append((b"x-end-bin", b"AAE"))


def world_of(handler: Any, session: Any, **options: Any) -> Http2World:
    """A server with one such method."""
    return Http2World(session, methods={TALK: handler}, **options)


def test_a_conversation_goes_both_ways_at_once(session: Any) -> None:
    """Message by message, with metadata before and after."""
    with world_of(talk, session) as world:
        client = world.client()
        stream = client.call(message(b"a"), path=TALK, end=False)
        client.flush()
        assert client.said(stream).messages == [b"A"]
        assert client.said(stream).headers["x-begin"] == "1"

        client.data(stream, message(b"b") + message(b"c"), end=True)
        client.flush()

        said = client.said(stream)
        assert said.messages == [b"A", b"B", b"C"]
        assert said.trailers == {"grpc-status": "0", "x-end-bin": "AAE"}


def test_a_conversation_without_an_answer_has_headers_and_trailers(session: Any) -> None:
    """It went well, after all."""
    with world_of(silent, session) as world:
        said = world.client().echo(message(b"a"), path=TALK)

        assert (said.status, said.body, said.grpc_status, said.ended) == (200, b"", 0, True)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (GrpcError(5, "no such thing"), 5, "no such thing"),
        (DukouError(Reason.DRAINING), 14, "the server is shutting down"),
        (ValueError("the secret"), 13, "the server failed"),
        (asyncio.CancelledError(), 1, "given the call up"),
    ],
    ids=["grpc", "ours", "foreign", "cancelled"],
)
def test_what_a_handler_raises_is_the_status(session: Any, error: BaseException, status: int, text: str) -> None:
    """What is not meant for the client is only said to be internal."""

    async def failing(rpc: Rpc) -> None:
        raise error

    with world_of(failing, session) as world:
        client = world.client()
        said = client.echo(message(b"a"), path=TALK)

        assert (said.grpc_status, text in said.grpc_message) == (status, True)
        assert "secret" not in said.grpc_message
        assert said.trailers == {}


def test_a_call_that_failed_leaves_no_cycle(session: Any) -> None:
    """What it held is given back at once: the collector is told to look seldom."""
    calls = []

    async def failing(rpc: Rpc) -> None:
        calls.append(weakref.ref(rpc))
        raise GrpcError(5, "no such thing")

    with world_of(failing, session) as world:
        gc.collect()
        gc.disable()
        try:
            world.client().echo(message(b"a"), path=TALK)
            world.turn(lambda: None)
            gone = [call() is None for call in calls]
        finally:
            gc.enable()

        assert gone == [True]


def test_an_error_after_the_first_message_is_in_the_trailers(session: Any) -> None:
    """The headers have gone."""

    async def failing(rpc: Rpc) -> None:
        await rpc.send(b"first")
        raise GrpcError(10, "enough")

    with world_of(failing, session) as world:
        said = world.client().echo(message(b"a"), path=TALK)

        assert (said.messages, said.trailers) == ([b"first"], {"grpc-status": "10", "grpc-message": "enough"})


@pytest.mark.parametrize("path", [TALK, b"/test.Service/Echo"], ids=["conversation", "unary"])
def test_a_call_that_a_drain_no_longer_waits_for_is_told_so(session: Any, path: bytes) -> None:
    """A client that gets a status may go to another server at once."""
    with world_of(talk, session) as world:
        client = world.client()
        stream = client.call(message(b"a"), path=path, end=False)
        client.flush()

        world.turn(world.server.connections.abort)

        said = client.said(stream)
        assert (said.grpc_status, said.grpc_message) == (14, "the server is shutting down")
        assert client.transport.closed


@pytest.mark.parametrize(
    ("body", "status"),
    [(message(b"abc")[:-1], 13), (message(b"a", flag=7), 13), (b"\0\0\1\0\0", 8)],
    ids=["cut", "flag", "large"],
)
def test_what_is_no_message_ends_a_conversation(session: Any, body: bytes, status: int) -> None:
    """Whatever the handler waits for."""
    with world_of(talk, session, http2={"max_message_bytes": 1000}) as world:
        said = world.client().echo(body, path=TALK)

        assert said.grpc_status == status
        assert len(refused(world)) == 1


def test_a_handler_that_hangs_is_cut_off_at_the_deadline(session: Any) -> None:
    """Its task is cancelled."""
    ended = []

    async def hanging(rpc: Rpc) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with world_of(hanging, session) as world:
        client = world.client()
        stream = client.call(message(b"a"), ("grpc-timeout", "20m"), path=TALK)
        client.flush()
        world.until(lambda: client.said(stream).ended)
        world.turn()

        assert client.said(stream).grpc_status == 4
        assert ended == [True]


@pytest.mark.parametrize("how", ["reset", "lost", "drop"])
def test_a_handlers_task_is_cancelled_when_its_caller_goes(session: Any, how: str) -> None:
    """By a reset, with the connection, or when the server drops it."""
    ended = []

    async def waiting(rpc: Rpc) -> None:
        try:
            await rpc.receive()
            await rpc.receive()
        finally:
            ended.append(True)

    with world_of(waiting, session) as world:
        client = world.client()
        stream = client.call(message(b"a"), path=TALK, end=False)
        client.flush()
        if how == "reset":
            client.engine.reset_stream(stream, ErrorCode.CANCEL)
            client.flush()
        elif how == "lost":
            client.vanish()
        else:
            world.turn(world.server.connections.abort)
            client.vanish()
        world.turn()

        assert ended == [True]


def test_a_handler_that_takes_nothing_holds_the_client_back(session: Any) -> None:
    """At most a window waits for it; what it takes is given back."""
    go = asyncio.Event()
    taken: list[int] = []

    async def slow(rpc: Rpc) -> None:
        await go.wait()
        while (body := await rpc.receive()) is not None:
            taken.append(len(body))

    with world_of(slow, session, http2={"window_bytes": 65_535}) as world:
        client = world.client()
        stream = client.call(message(b"x" * 10_000), path=TALK, end=False)
        client.flush()
        for _ in range(4):
            client.data(stream, message(b"x" * 10_000))
            client.flush()
        before = client.engine.local_flow_control_window(stream)

        world.turn(go.set)
        client.flush()

        assert before < 30_000
        assert client.engine.local_flow_control_window(stream) > 45_000
        assert taken == [10_000] * 5


def test_a_message_larger_than_the_window_still_comes(session: Any) -> None:
    """Half a message holds nobody back, or it would never be whole."""
    with world_of(talk, session, http2={"window_bytes": 65_535}) as world:
        client = world.client(initial_window_size=2**20)
        client.engine.increment_flow_control_window(2**20)
        stream = client.call(None, path=TALK, end=False)
        client.flush()
        left = message(b"x" * 300_000)
        for _ in range(30):
            room = min(client.engine.local_flow_control_window(stream), len(left))
            if left:
                client.data(stream, left[:room], end=room == len(left))
            left = left[room:]
            client.flush()

        assert client.said(stream).messages == [b"X" * 300_000]


def test_a_client_that_takes_nothing_holds_the_handler_back(session: Any) -> None:
    """Some messages ahead, no more."""
    sent: list[int] = []

    async def eager(rpc: Rpc) -> None:
        for i in range(100):
            await rpc.send(b"x" * 10_000)
            sent.append(i)

    with world_of(eager, session) as world:
        client = world.client(initial_window_size=20_000)
        acknowledge = client.acknowledge
        client.acknowledge = lambda amount, stream_id: None  # type: ignore[method-assign]
        stream = client.call(message(b""), path=TALK)
        client.flush()
        assert len(sent) < 12

        client.acknowledge = acknowledge  # type: ignore[method-assign]
        client.engine.increment_flow_control_window(2**20, stream)
        client.engine.increment_flow_control_window(2**20)
        for _ in range(40):
            client.flush()
            world.turn()

        assert len(sent) == 100
        assert len(client.said(stream).messages) == 100


def test_compressed_messages_of_a_conversation_are_read_and_written(session: Any) -> None:
    """Each by its own flag."""
    with world_of(talk, session, http2={"compress_above_bytes": 100}) as world:
        client = world.client()
        body = message(gzip.compress(b"x" * 500), flag=1) + message(b"y")
        fields = (("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip"))
        stream = client.call(body, *fields, path=TALK)
        client.flush()
        world.until(lambda: client.said(stream).ended)

        said = client.said(stream)
        assert said.headers["grpc-encoding"] == "gzip"
        assert (gzip.decompress(said.messages[0]), said.messages[1]) == (b"X" * 500, b"Y")


def test_a_quiet_conversation_is_not_timed_out(session: Any) -> None:
    """Watching means waiting."""
    with world_of(talk, session, body_timeout_s=5.0, idle_timeout_s=5.0) as world:
        client = world.client()
        stream = client.call(message(b"a"), path=TALK, end=False)
        client.flush()

        world.pass_time(60.0)
        client.data(stream, message(b"b"), end=True)
        client.flush()

        assert client.said(stream).messages == [b"A", b"B"]
