"""Any bytes, in any pieces: nothing is raised, nothing is a server error, answers stay well-formed."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import PREDICT, World, predict, request

from dukou.config import HttpConfig
from dukou.net.http1 import Head, HttpError, RequestReader

ALLOWED_5XX = {501, 503, 505}

PIECES = [
    b"GET / HTTP/1.1\r\n",
    b"POST /predict HTTP/1.1\r\n",
    b"POST /v2/models/iris/infer HTTP/1.0\r\n",
    b"HEAD /v1/models/iris HTTP/1.1\r\n",
    b"PUT /v1/models/%ff/versions/1:predict HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"Accept: application/json;q=\r\n",
    b"X-Request-Id: \xff\r\n",
    b"\r\n",
    b"\n",
    b"5\r\nabcde\r\n",
    b"0\r\n\r\n",
    b"fffffff\r\n",
    b"abcde",
    b"\x00",
    PREDICT,
    predict(),
    predict("Connection: Upgrade", "Upgrade: h2c"),
    request("GET", "/v2/models/iris"),
    request("POST", "/v1/models/iris:predict", b'{"instances": [[1, 2, 3, 4]]}'),
    request("POST", "/v2/models/iris/infer", b'{"inputs": [{}]}'),
]

streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places`."""
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(streams, st.lists(st.integers(0, 2000), max_size=8), st.booleans())
def test_any_bytes_are_answered_or_refused(data: bytes, places: list[int], ends: bool) -> None:
    """However they are cut, and the pieces do not change the answers."""
    with World(max_body_bytes=1000) as world:
        whole = world.client().send(data)
        client = world.client().send(*cut(data, places))
        same = final(whole.transport.out) == final(client.transport.out)
        if ends:
            client.end()
        for _ in range(4):
            world.clock.advance(130.0)
            world.sweep()
        statuses = final(client.transport.out)
        client.connection.connection_lost(None)

    assert all(status < 500 or status in ALLOWED_5XX for status in statuses)
    assert same or b"PRI" in data
    assert client.transport.closed


def final(written: bytes) -> list[int]:
    """The statuses of the final answers in `written`; bodies are skipped by what they never hold."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", written) if status != b"100"]


class Forgetful(dict[bytes, Head]):
    """Remembers no head."""

    def __setitem__(self, key: bytes, value: Head) -> None:
        pass


class Reading:
    """Everything that a reader has read, until it refused."""

    def __init__(self, pieces: list[bytes], known: dict[bytes, Head]) -> None:
        self.requests: list[tuple[Head, bytes]] = []
        self.refused: int | None = None
        reader = RequestReader(HttpConfig(), self, known)
        try:
            for piece in pieces:
                reader.feed(piece)
        except HttpError as refusal:
            self.refused = refusal.status

    def on_expect(self) -> None:
        """Not looked at."""

    def on_request(self, head: Head, body: bytes) -> None:
        """One more."""
        self.requests.append((head, body))


similar_requests = st.builds(
    request,
    st.just("POST"),
    st.just("/a"),
    st.sampled_from([b"12345", b"abcde", b"longer than that", b""]),
    st.sampled_from(["X: 1", "X: 2", "X: 1\r\nConnection: Upgrade\r\nUpgrade: h2c"]),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Requests as they arrive: whole, in two pieces, or with the end of one before the beginning of the next."""
    pieces = [b""]
    for one in draw(st.lists(similar_requests | st.sampled_from(PIECES[-6:]), max_size=10)):
        place = draw(st.sampled_from([0, one.find(b"\r\n\r\n") + 4, len(one) - 2]))
        pieces[-1] += one[:place]
        pieces.append(one[place:])
        if draw(st.booleans()):
            pieces.append(b"")
    return [piece for piece in pieces if piece]


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(conversations())
def test_known_heads_change_nothing(pieces: list[bytes]) -> None:
    """A reader that remembers heads reads what one that does not would read."""
    plain = Reading(pieces, Forgetful())
    known: dict[bytes, Head] = {}

    first, second = Reading(pieces, known), Reading(pieces, known)

    assert (first.requests, first.refused) == (plain.requests, plain.refused)
    assert (second.requests, second.refused) == (plain.requests, plain.refused)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=4))
def test_noise_is_never_a_server_error(data: bytes, places: list[int]) -> None:
    """Bytes without any form."""
    with World() as world:
        client = world.client().send(*cut(data, places))

    assert set(client.statuses) <= {400, 505}
