"""HTTP/1.1 without I/O: what is read, what is refused, what is written."""

import pytest
from in_memory import PREDICT, predict, read_answers, request

from dukou.config import HttpConfig
from dukou.net.http1 import KNOWN_HEADS, Head, HttpError, RequestReader, ResponseWriter


class Reading:
    """A reader and what it has told."""

    def __init__(self, **limits: int) -> None:
        self.requests: list[tuple[Head, bytes]] = []
        self.expects = 0
        self.known: dict[bytes, Head] = {}
        self.reader = RequestReader(HttpConfig(**limits), self, self.known)

    def on_expect(self) -> None:
        self.expects += 1

    def on_request(self, head: Head, body: bytes) -> None:
        self.requests.append((head, body))

    def feed(self, *pieces: bytes) -> "Reading":
        for piece in pieces:
            self.reader.feed(piece)
        return self

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.requests]


CHUNKED = (
    request("POST", "/predict", b"", "Transfer-Encoding: chunked") + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
)


@pytest.mark.parametrize(
    ("data", "bodies"),
    [
        (request("GET", "/"), [b""]),
        (predict(), [PREDICT]),
        (predict() * 3, [PREDICT] * 3),
        (CHUNKED, [b"abcde"]),
        (CHUNKED + predict(), [b"abcde", PREDICT]),
        (b"\r\n\r\n" + predict(), [PREDICT]),
        (request("POST", "/predict", b"", "Content-Length: 0"), [b""]),
        (predict("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"), [PREDICT]),
        (predict("Upgrade: h2c", "Connection: Upgrade") + predict(), [PREDICT, PREDICT]),
        (predict(version="1.0"), [PREDICT]),
    ],
)
def test_requests_are_read_however_they_are_cut(data: bytes, bodies: list[bytes]) -> None:
    """Whole, byte by byte, and cut in two anywhere, the same requests come out."""
    assert Reading().feed(data).bodies == bodies
    assert Reading().feed(*(data[i : i + 1] for i in range(len(data)))).bodies == bodies
    for cut in range(len(data)):
        assert Reading().feed(data[:cut], data[cut:]).bodies == bodies


def test_a_head_says_what_came() -> None:
    """Names in lower case, repeated fields joined, target as it came."""
    data = request("POST", "/predict/a%20b?c=d", b"", "X-A: 1", "x-a:  2 ", "Accept: */*", "Content-Length: 0")

    (head, _) = Reading().feed(data).requests[0]

    assert (head.method, head.target) == (b"POST", b"/predict/a%20b?c=d")
    assert head.headers == {b"host": b"test", b"x-a": b"1,2", b"accept": b"*/*", b"content-length": b"0"}
    assert head.keep_alive
    assert not head.http10


@pytest.mark.parametrize(
    ("version", "field", "keep_alive"),
    [
        ("1.1", "X: y", True),
        ("1.1", "Connection: close", False),
        ("1.0", "X: y", False),
        ("1.0", "Connection: keep-alive", True),
    ],
)
def test_a_connection_is_kept_as_the_version_says(version: str, field: str, keep_alive: bool) -> None:
    """HTTP/1.1 keeps it unless asked, HTTP/1.0 only when asked."""
    (head, _) = Reading().feed(request("GET", "/", b"", field, version=version)).requests[0]

    assert (head.keep_alive, head.http10) == (keep_alive, version == "1.0")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (request("GET", "/", b"", "Host: a", "Host: b"), 400),
        (request("GET", "/", b"", "X : y"), 400),
        (request("GET", "/", b"", "X: y\r\n z"), 400),
        (request("GET", "/", b"", "X: \x00"), 400),
        (request("POST", "/", b"", "Content-Length: 3", "Transfer-Encoding: chunked"), 400),
        (request("POST", "/", b"", "Transfer-Encoding: chunked", "Content-Length: 3"), 400),
        (request("POST", "/", b"", "Content-Length: 3", "Content-Length: 4"), 400),
        (request("POST", "/", b"", "Content-Length: 3, 3"), 400),
        (request("POST", "/", b"", "Content-Length: +3"), 400),
        (request("POST", "/", b"", "Content-Length: -3"), 400),
        (request("POST", "/", b"", "Content-Length: 99999999999999999999999"), 400),
        (request("POST", "/", b"", "Content-Length: 0x3"), 400),
        (request("POST", "/", b"", "Content-Length: "), 400),
        (request("POST", "/", b"", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (request("POST", "/", b"", "Transfer-Encoding: chunked, gzip"), 400),
        (request("POST", "/", b"", "Transfer-Encoding:\x0bchunked"), 400),
        (request("POST", "/", b"", "Transfer-Encoding: chunked", version="1.0"), 400),
        (request("POST", "/", b"", "Transfer-Encoding: gzip, chunked"), 501),
        (request("POST", "/", b"", "Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (request("POST", "/", b"", "Transfer-Encoding: chunked") + b"-1\r\n", 400),
        (request("POST", "/", b"", "Transfer-Encoding: chunked") + b"3\r\nabcd\r\n", 400),
        (request("POST", "/", b"", "Transfer-Encoding: chunked") + b"fffffffffffffffff\r\n", 400),
        (request("GET", "/", version="2.0"), 505),
        (request("GET", "/", version="0.9"), 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (request("CONNECT", "host:443"), 405),
        (request("POST", "/", b"", "Expect: a miracle"), 417),
        (request("GET", "/" + "a" * 8192), 414),
        (request("GET", "/", b"", *(f"X-{i}: y" for i in range(100))), 431),
        (request("GET", "/", b"", "X: " + "y" * 70_000), 431),
        (request("POST", "/", b"", "Content-Length: 1001"), 413),
        (
            request("POST", "/", b"x" * 10, "Transfer-Encoding: chunked", length=False)[:-10]
            + b"3e9\r\n"
            + b"x" * 1001,
            413,
        ),
    ],
)
def test_what_is_no_request_or_too_much_is_refused(data: bytes, status: int) -> None:
    """Whole or byte by byte, and before the body where the head says enough."""
    with pytest.raises(HttpError) as whole:
        Reading(max_body_bytes=1000).feed(data)
    with pytest.raises(HttpError) as in_pieces:
        Reading(max_body_bytes=1000).feed(*(data[i : i + 1] for i in range(len(data))))

    assert whole.value.status == status
    if not data.startswith(b"PRI"):
        assert in_pieces.value.status == status


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"GET / HTTP/1.1\r\nX-Endless: ", b"a" * 512),
        (b"GET /", b"a" * 512),
        (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 64),
        (CHUNKED.partition(b"X-T")[0], b"a" * 512),
        (CHUNKED.partition(b"X-T")[0], b"X-T: b\r\n" * 64),
        (request("POST", "/", b"", "Transfer-Encoding: chunked") + b"1;", b"a" * 512),
    ],
)
def test_endless_heads_trailers_and_extensions_are_cut_off(start: bytes, rest: bytes) -> None:
    """What never becomes a request does not fill the memory."""
    reading = Reading(max_header_bytes=4096)

    with pytest.raises(HttpError) as caught:
        reading.feed(start, *[rest] * 32)

    assert caught.value.status in (414, 431)


def test_a_long_body_of_small_chunks_is_read() -> None:
    """Their framing is more than their content, and legal."""
    body = b"ab" * 5000
    chunks = b"".join(b"2\r\n%b\r\n" % body[i : i + 2] for i in range(0, len(body), 2)) + b"0\r\n\r\n"
    reading = Reading(max_header_bytes=256)

    reading.feed(request("POST", "/", b"", "Transfer-Encoding: chunked"), chunks[:20_000], chunks[20_000:])

    assert reading.bodies == [body]


def test_a_client_that_waits_for_100_is_noticed() -> None:
    """Only in HTTP/1.1: the older version has no interim answers."""
    reading = Reading()

    reading.feed(request("POST", "/", b"", "Expect: 100-continue", "Content-Length: 3"))
    assert reading.expects == 1
    reading.feed(b"abc", request("POST", "/", b"abc", "Expect: 100-continue", version="1.0"))

    assert reading.expects == 1
    assert reading.bodies == [b"abc", b"abc"]


def test_a_head_that_came_before_is_not_parsed_again() -> None:
    """The same bytes give the same Head, whatever the body is."""
    reading = Reading().feed(predict(), predict(), predict(body=PREDICT.replace(b"5", b"6")))

    first, second, third = (head for head, _ in reading.requests)

    assert first is second is third
    assert reading.bodies[2] == PREDICT.replace(b"5", b"6")


@pytest.mark.parametrize("after", [b"", predict(), predict()[:40], CHUNKED])
def test_a_known_head_may_come_without_its_body(after: bytes) -> None:
    """Many clients send the two apart; cut anywhere, the same requests come out, whatever follows."""
    data = predict() + after

    for cut in range(len(data)):
        reading = Reading().feed(predict(), data[:cut], data[cut:])

        assert reading.bodies == Reading().feed(predict() + data).bodies
        assert reading.bodies[:2] == [PREDICT, PREDICT]


def test_a_request_behind_a_known_one_is_not_taken_for_it() -> None:
    """The body of the known head came apart, with another request for the same target behind it."""
    other = predict("X-Other: 1")
    reading = Reading().feed(predict(), predict()[:-9], predict()[-9:] + other, predict(), other)

    assert [b"x-other" in head.headers for head, _ in reading.requests] == [False, False, True, False, True]


def test_an_upgrade_that_is_not_made_keeps_the_version_that_came() -> None:
    """HTTP/1.0 stays HTTP/1.0: its connection ends with the answer unless it asked to keep it."""
    reading = Reading().feed(request("GET", "/", b"", "Connection: Upgrade", "Upgrade: h2c", version="1.0"))

    ((head, _),) = reading.requests
    assert (head.http10, head.keep_alive) == (True, False)


def test_many_requests_for_an_upgrade_are_read_without_recursion() -> None:
    """More than Python's stack is deep."""
    data = request("GET", "/", b"", "Connection: Upgrade", "Upgrade: h2c") * 900

    assert len(Reading().feed(data).requests) == 900


@pytest.mark.parametrize(
    "data",
    [
        predict("Traceparent: 00-1-1-1"),
        predict("X-Request-Id: 1"),
        predict("Connection: close"),
        predict("Expect: 100-continue"),
        predict("X-Long: " + "y" * 2000),
        predict(version="1.0"),
        b"\r\n\r\n" + predict(),
        CHUNKED,
    ],
)
def test_heads_that_will_not_come_again_are_not_remembered(data: bytes) -> None:
    """Nor those whose body has no length, nor bytes that are no head."""
    assert Reading().feed(data).known == {}


def test_known_heads_are_bounded() -> None:
    """Forgetting all is cheaper than knowing which to forget."""
    reading = Reading()

    for i in range(KNOWN_HEADS + 10):
        reading.feed(request("GET", f"/{i}"))

    assert len(reading.known) == 10


def test_an_answer_is_written_whole() -> None:
    """Date, content type, length, request id, extra fields, body."""
    writer = ResponseWriter()
    writer.set_date(1_700_000_000.0)

    written = writer.write(200, b"application/json", b"{}", b"abc", ((b"x-a", b"1"),))

    (said,) = read_answers(written)
    assert (said.status, said.body) == (200, b"{}")
    assert said.headers == {
        "date": "Tue, 14 Nov 2023 22:13:20 GMT",
        "content-type": "application/json",
        "content-length": "2",
        "x-request-id": "abc",
        "x-a": "1",
    }


def test_the_date_moves_on() -> None:
    """What was precomputed does not keep an old date."""
    writer = ResponseWriter()
    writer.set_date(1_700_000_000.0)
    writer.write(200, b"application/json", b"{}", b"abc")

    writer.set_date(1_700_000_001.0)

    assert b"22:13:21 GMT" in writer.write(200, b"application/json", b"{}", b"abc")


def test_an_answer_without_content_has_no_length() -> None:
    """204 must not have one (RFC 9110 section 8.6)."""
    written = ResponseWriter().write(204, b"", b"", b"abc")

    assert b"content-length" not in written
    assert written.endswith(b"\r\n\r\n")
