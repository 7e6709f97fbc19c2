"""The HTTP/2 session without I/O, with either library: the same bytes mean the same, whatever they are."""

from typing import Any

import pytest
from hpack import Encoder
from http2_memory import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SESSIONS,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    frames,
    goaways,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.net.http2 import PREFACE, ErrorCode, SessionLimits

ANY = [pytest.param(session, id=session.__name__) for session in SESSIONS]
MOST = 1 << 20
LIMITS = SessionLimits(
    streams=10, window_bytes=65_535, connection_window_bytes=200_000, header_list_bytes=20_000, header_count=100
)
FIELDS = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"test"))
ANSWER = ((b":status", b"200"), (b"content-type", b"text/plain"))


@pytest.fixture(params=ANY)
def library(request: pytest.FixtureRequest) -> Any:
    """Each library."""
    return request.param


class Noted:
    """A Client that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append((name, *arguments))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """What it was told of one kind."""
        return [rest for first, *rest in self.told if first == name]  # type: ignore[misc]


def open_session(library: Any) -> tuple[Any, Noted]:
    """A session whose client has said its preface, and has been answered."""
    client = Noted()
    session = library(LIMITS, client)
    session.receive(PREFACE + frame(SETTINGS))
    session.data_to_send(MOST)
    return session, client


def block() -> bytes:
    """The header block of FIELDS."""
    return Encoder().encode(FIELDS)


def post(stream_id: int, *bodies: bytes) -> bytes:
    """A request with these DATA frames."""
    data = [frame(DATA, END_STREAM if body is bodies[-1] else 0, stream_id, body) for body in bodies]
    return frame(HEADERS, END_HEADERS if bodies else END_HEADERS | END_STREAM, stream_id, block()) + b"".join(data)


def test_a_request_is_told_with_its_fields_and_its_body(library: Any) -> None:
    """In order, the end with the last of them."""
    session, client = open_session(library)

    session.receive(post(1, b"abc", b"def"))

    assert client.named("on_request") == [[1, FIELDS, False]]
    assert client.named("on_data") == [[1, b"abc", False], [1, b"def", True]]


def test_the_first_bytes_are_the_servers_settings(library: Any) -> None:
    """What a client may do."""
    session = library(LIMITS, Noted())

    kind, _, _, payload = frames(session.data_to_send(MOST))[0]

    told = {
        int.from_bytes(payload[i : i + 2]): int.from_bytes(payload[i + 2 : i + 6]) for i in range(0, len(payload), 6)
    }
    assert kind == SETTINGS
    assert (told[3], told[4], told[6]) == (10, 65_535, 20_000)


def test_a_whole_answer_is_headers_data_and_trailers(library: Any) -> None:
    """And then the stream is over."""
    session, client = open_session(library)
    session.receive(post(1))

    session.answer(1, ANSWER, b"body", ((b"grpc-status", b"0"),))

    sent = frames(session.data_to_send(MOST))
    assert next((kind, flags & END_STREAM) for kind, flags, _, _ in sent if kind in (HEADERS, DATA)) == (HEADERS, 0)
    assert b"".join(payload for kind, _, _, payload in sent if kind == DATA) == b"body"
    assert (sent[-1][0], sent[-1][1] & END_STREAM) == (HEADERS, END_STREAM)
    assert client.named("on_closed") == [[1, 0]]


def test_no_more_is_given_out_than_asked_for(library: Any) -> None:
    """So that a transport can say stop."""
    session, _ = open_session(library)
    session.receive(frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4)))
    for stream_id in (1, 3):
        session.receive(post(stream_id))
        session.respond(stream_id, ANSWER)
        session.send(stream_id, bytes(60_000), end=True)

    pieces = []
    while piece := session.data_to_send(10_000):
        pieces.append(piece)

    assert all(len(piece) == 10_000 for piece in pieces[:-1])
    assert sum(len(payload) for kind, _, _, payload in frames(b"".join(pieces)) if kind == DATA) == 120_000


def test_what_the_window_does_not_allow_is_queued(library: Any) -> None:
    """Until the client takes more."""
    session, client = open_session(library)
    session.receive(post(1))
    session.respond(1, ANSWER)
    session.send(1, bytes(100_000), end=True)
    session.data_to_send(MOST)
    assert session.queued(1) == 100_000 - 65_535

    session.receive(frame(WINDOW_UPDATE, 0, 0, (50_000).to_bytes(4)) + frame(WINDOW_UPDATE, 0, 1, (50_000).to_bytes(4)))
    session.data_to_send(MOST)

    assert session.queued(1) == 0
    assert client.named("on_window") == [[50_000], [50_000]]
    assert client.named("on_closed") == [[1, 0]]


def test_window_is_given_back_when_the_data_was_taken(library: Any) -> None:
    """Not before."""
    session, _ = open_session(library)
    session.receive(frame(HEADERS, END_HEADERS, 1, block()))
    for _ in range(3):
        session.receive(frame(DATA, 0, 1, bytes(16_000)))
    assert not [one for one in frames(session.data_to_send(MOST)) if one[0] == WINDOW_UPDATE and one[2] == 1]

    session.give_back(1, 48_000)

    updates = [one for one in frames(session.data_to_send(MOST)) if one[0] == WINDOW_UPDATE and one[2] == 1]
    assert sum(int.from_bytes(payload) for _, _, _, payload in updates) == 48_000


def test_data_of_streams_that_are_over_is_given_back_too(library: Any) -> None:
    """Or a connection would come to a halt after a while."""
    session, _ = open_session(library)
    for stream_id in range(1, 101, 2):
        session.receive(frame(HEADERS, END_HEADERS, stream_id, block()) + frame(DATA, 0, stream_id, bytes(16_000)))
        session.receive(frame(RST_STREAM, 0, stream_id, (8).to_bytes(4)))
        session.give_back(stream_id, 16_000)
        session.data_to_send(MOST)

    assert not session.ended


def test_commands_for_streams_that_are_over_do_nothing(library: Any) -> None:
    """The client was faster."""
    session, client = open_session(library)
    session.receive(post(1) + frame(RST_STREAM, 0, 1, (8).to_bytes(4)))
    assert (client.named("on_reset"), client.named("on_closed")) == ([[1]], [[1, 8]])

    for stream_id in (1, 7):
        session.answer(stream_id, ANSWER, b"body", ())
        session.respond(stream_id, ANSWER)
        session.send(stream_id, b"more", end=True)
        session.finish(stream_id, ((b"a", b"b"),))
        session.reset(stream_id, ErrorCode.CANCEL)
        session.give_back(stream_id, 10)
        assert session.queued(stream_id) == 0

    assert not [one for one in frames(session.data_to_send(MOST)) if one[0] in (HEADERS, DATA)]
    assert not session.ended


def test_trailers_end_a_request(library: Any) -> None:
    """Whatever they say."""
    session, client = open_session(library)
    trailers = Encoder().encode([(b"x", b"y")])

    session.receive(
        frame(HEADERS, END_HEADERS, 1, block())
        + frame(DATA, 0, 1, b"a")
        + frame(HEADERS, END_HEADERS | END_STREAM, 1, trailers)
    )

    assert client.named("on_trailers") == [[1]]


def test_headers_may_be_continued(library: Any) -> None:
    """Within reason."""
    session, client = open_session(library)
    whole = block()

    session.receive(frame(HEADERS, END_STREAM, 1, whole[:5]) + frame(CONTINUATION, END_HEADERS, 1, whole[5:]))

    assert client.named("on_request") == [[1, FIELDS, True]]


def test_pings_are_answered_and_told(library: Any) -> None:
    """Both ways."""
    session, client = open_session(library)
    session.ping()
    session.receive(frame(PING, 0, 0, b"12345678") + frame(PING, 1, 0, bytes(8)))

    assert (PING, 1, 0, b"12345678") in frames(session.data_to_send(MOST))
    assert (client.named("on_ping"), client.named("on_pong")) == ([[]], [[]])


def test_the_end_comes_in_two_steps(library: Any) -> None:
    """A notice; then the last stream, after which none is begun."""
    session, client = open_session(library)
    session.receive(post(1))
    session.announce_end()
    session.receive(post(3))
    session.take_no_more()
    assert goaways(session.data_to_send(MOST)) == [(2**31 - 1, 0), (3, 0)]

    session.receive(post(5))
    for stream_id in (1, 3):
        session.answer(stream_id, ANSWER, b"", ((b"a", b"b"),))
    session.data_to_send(MOST)

    assert [stream_id for stream_id, *_ in client.named("on_request")] == [1, 3]
    assert sorted(stream_id for stream_id, code in client.named("on_closed") if code == 0) == [1, 3]


def test_an_ended_session_says_why_and_reads_no_more(library: Any) -> None:
    """With the error it was ended with."""
    session, client = open_session(library)
    session.end(ErrorCode.ENHANCE_YOUR_CALM)
    session.end(ErrorCode.NO_ERROR)
    session.receive(post(1))

    assert [code for _, code in goaways(session.data_to_send(MOST))] == [ErrorCode.ENHANCE_YOUR_CALM]
    assert session.data_to_send(MOST) == b""
    assert client.named("on_request") == []


def test_the_first_frame_is_settings_also_for_a_client_that_is_none(library: Any) -> None:
    """Or it would complain about us instead."""
    session = library(LIMITS, Noted())
    session.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    kinds = [kind for kind, _, _, _ in frames(session.data_to_send(MOST))]

    assert session.ended
    assert kinds[0] == SETTINGS
    assert GOAWAY in kinds


CONVERSATION = (
    PREFACE
    + frame(SETTINGS)
    + post(1, b"abc", b"", b"def")
    + frame(PING, 0, 0, b"12345678")
    + frame(HEADERS, 0, 3, block()[:7])
    + frame(CONTINUATION, END_HEADERS, 3, block()[7:])
    + frame(WINDOW_UPDATE, 0, 0, (1000).to_bytes(4))
    + frame(99, 1, 5, b"unknown")
    + frame(DATA, 8, 3, b"\3xyz" + bytes(3))
    + frame(RST_STREAM, 0, 3, (8).to_bytes(4))
    + post(5)
)


@pytest.mark.parametrize("library", ANY)
@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 60), max_size=40))
def test_however_the_bytes_are_cut_they_mean_the_same(library: Any, cuts: list[int]) -> None:
    """TCP knows no frames."""
    whole = Noted()
    library(LIMITS, whole).receive(CONVERSATION)
    client = Noted()
    session = library(LIMITS, client)

    data = CONVERSATION
    for cut in cuts:
        session.receive(data[:cut])
        data = data[cut:]
    session.receive(data)

    assert client.told == whole.told
    assert len(client.told) >= 10


@pytest.mark.parametrize("library", ANY)
@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                frame,
                st.integers(0, 12),
                st.integers(0, 255),
                st.integers(0, 9),
                st.one_of(st.binary(max_size=40), st.just(block())),
            ),
        ),
        max_size=12,
    )
)
def test_whatever_comes_is_read_or_ends_the_session(library: Any, pieces: list[bytes]) -> None:
    """Nothing is raised, and the last word is a GOAWAY."""
    session, _ = open_session(library)
    sent = b""
    for piece in pieces:
        session.receive(piece)
        sent += session.data_to_send(MOST)
        session.answer(1, ANSWER, b"body", ((b"a", b"b"),))
    sent += session.data_to_send(MOST)

    if session.ended:
        assert frames(sent)[-1][0] == GOAWAY


@pytest.mark.parametrize("library", ANY)
@settings(max_examples=100, deadline=None)
@given(at=st.integers(24, len(CONVERSATION) - 1), to=st.integers(0, 255))
def test_a_changed_byte_is_read_or_ends_the_session(library: Any, at: int, to: int) -> None:
    """Wherever it is."""
    session = library(LIMITS, Noted())

    session.receive(CONVERSATION[:at] + bytes([to]) + CONVERSATION[at + 1 :])

    session.data_to_send(MOST)
