"""HTTP/1.1 without I/O: bytes to requests, answers to bytes (RFC 9110, RFC 9112).

llhttp does the grammar and is strict: both Content-Length and Transfer-Encoding, two Content-Lengths, bad chunk sizes,
bare line feeds, folded headers and spaces before a colon are errors here, because proxies in front read them otherwise.
"""

import enum
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any, Protocol

import httptools
import msgspec

from dukou.config import HttpConfig
from dukou.net.status import REASONS
from dukou.wire.codec import Headers

MAX_TARGET_BYTES = 8192
KNOWN_HEADS = 1024
KNOWN_HEAD_BYTES = 1024
LOOSE_PARTS = 1024
KNOWN_STARTS = 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_HTTP2_PREFACE = b"PRI * HTTP/2.0"


class HttpError(Exception):
    """A request that is answered by HTTP itself: `status`, and one sentence for the caller. The connection closes."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class Head(msgspec.Struct, frozen=True):
    """A request's line and headers; `length` is its Content-Length, 0 without one."""

    method: bytes
    target: bytes
    headers: Headers
    length: int = 0
    keep_alive: bool = True
    http10: bool = False
    expects_continue: bool = False


class Receiver(Protocol):
    """Who is told what a RequestReader has read."""

    def on_expect(self) -> None:
        """A head is complete whose client waits for `100 Continue` before it sends the body."""

    def on_request(self, head: Head, body: bytes) -> None:
        """A request is complete."""


class Phase(enum.Enum):
    """Where in a request a reader stands."""

    BETWEEN = 0
    HEAD = 1
    BODY = 2


# Globals, because looking a member up in its class costs 0.2 µs in Python 3.11, several times a request.
BETWEEN, HEAD, BODY = Phase


class RequestReader:
    """Bytes in, requests out, within the limits of HttpConfig.

    `known` remembers the heads that clients send again and again, byte for byte, so that they are not parsed again: one
    dict for all connections of a server, bounded here. It saves 4 of 9 µs a request (bench/http_front.py).
    `heads_begun` counts requests that did not come in one piece, `body_bytes` is what has come of a body.
    """

    def __init__(self, limits: HttpConfig, receiver: Receiver, known: dict[bytes, Head]) -> None:
        self.phase = BETWEEN
        self.heads_begun = 0
        self.body_bytes = 0
        self._limits = limits
        self._receiver = receiver
        self._known = known
        self._parser: Any = httptools.HttpRequestParser(self)
        self._raw_head = b""
        self._head: Head
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._joined = bytearray()
        self._fed_bytes = 0
        self._slice_bytes = 0
        self._missing_bytes = 0  # of the body of a known head
        self._upgrading = False

    def feed(self, data: bytes) -> None:
        """Read on. Raises HttpError, after which this reader must not be fed again."""
        if self._missing_bytes:
            self._feed_body(data)
            return
        if self.phase is BETWEEN:
            end = data.find(b"\r\n\r\n") + 4
            raw = data[:end] if end >= 4 else b""
            head = self._known.get(raw)
            if head is not None:
                missing = head.length - len(data) + end
                if missing == 0:
                    self._receiver.on_request(head, data[end:])
                    return
                if missing > 0:
                    self._begin_body(head)
                    self._feed_body(data[end:])
                    return
            self._raw_head = raw
        self._parse(data)

    def _begin_body(self, head: Head) -> None:
        """A head is known and all that follows it, so far, is of its body: read that without llhttp."""
        self.phase = BODY
        self.heads_begun += 1
        self._head = head
        self.body_bytes = 0
        self._missing_bytes = head.length

    def _feed_body(self, data: bytes) -> None:
        missing = self._missing_bytes
        if data:
            self.on_body(data[:missing])
        self._missing_bytes = max(missing - len(data), 0)
        if not self._missing_bytes:
            self.on_message_complete()
            if len(data) > missing:
                self._parse(data[missing:])

    def _parse(self, data: bytes) -> None:
        before = self.phase
        fields = self._fields
        self._slice_bytes = len(data)
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserCallbackError as error:
                raise error.__context__ or error from None
            except httptools.HttpParserError as error:
                if data.startswith(_HTTP2_PREFACE):
                    raise HttpError(505, "this begins like HTTP/2, but is not its preface") from None
                raise HttpError(400, f"this is not HTTP/1.1: {error}") from None
        if self._fields is fields and self.phase is before and before is not BETWEEN:
            self._fed_bytes += len(data)
            self._check_overhead()

    def close(self) -> None:
        """Let go of the parser and the receiver, which refer back to this reader; it must not be fed again."""
        del self._parser, self._receiver

    def _check_overhead(self) -> None:
        """Bound what is neither head nor body nor kept by a callback: half a header, trailers, chunk extensions."""
        most = self._limits.max_header_bytes
        if self.phase is BODY:
            # The framing of one-byte chunks is five bytes each, and clients may frame like that.
            most += 8 * self.body_bytes
            if self._fed_bytes - self.body_bytes > most:
                raise HttpError(431, f"trailers and chunk extensions take more than {most} bytes")
        elif self._fed_bytes > most:
            raise HttpError(431, f"the request line and headers take more than {most} bytes")

    def _head_without_upgrade(self) -> bytes:
        """The head, for a new parser to read as if it had not asked for another protocol (RFC 9110 section 7.8).

        llhttp stops behind such a head, and Java's HttpClient sends `Upgrade: h2c` with the body of its first POST.
        """
        self._upgrading = False
        method, version = self._parser.get_method(), self._parser.get_http_version().encode("ascii")
        fields = [field for field in self._fields if field[0].lower() != b"upgrade"]
        lines = [b"%b %b HTTP/%b" % (method, self._target, version), *(b"%b: %b" % field for field in fields)]
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # What llhttp calls.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.phase = HEAD
        self.heads_begun += 1
        self._target = b""
        self._fields = []
        self._fed_bytes = 0
        self.body_bytes = 0

    def on_url(self, part: bytes) -> None:
        """A piece of the request target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or one trailer field, which nothing here needs."""
        if self.phase is HEAD:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete: check it, and tell the receiver."""
        if self._parser.should_upgrade():
            if self._parser.get_method() == b"CONNECT":
                raise HttpError(405, "this server is no proxy")
            self._upgrading = True
            return
        self._check_size()
        self._head = head = self._make_head()
        raw, self._raw_head = self._raw_head, b""
        if _worth_remembering(raw, head):
            if len(self._known) >= KNOWN_HEADS:
                self._known.clear()
            self._known[raw] = head
        self.phase = BODY
        self._fed_bytes = 0
        if head.expects_continue:
            self._receiver.on_expect()

    def on_body(self, part: bytes) -> None:
        """A piece of the body, chunk framing taken off."""
        self.body_bytes += len(part)
        if self.body_bytes > self._limits.max_body_bytes:
            raise HttpError(413, f"the body is larger than {self._limits.max_body_bytes} bytes")
        self._parts.append(part)
        if len(self._parts) >= LOOSE_PARTS:
            # A body of two-byte chunks would take thirty times its size as a list.
            self._joined += b"".join(self._parts)
            self._parts.clear()

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._upgrading:
            return
        self.phase = BETWEEN
        parts = self._parts
        if self._joined:
            body = b"".join((self._joined, *parts))
            self._joined = bytearray()
        else:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._receiver.on_request(self._head, body)

    def _check_size(self) -> None:
        limits = self._limits
        if len(self._target) > MAX_TARGET_BYTES:
            raise HttpError(414, f"the request target is longer than {MAX_TARGET_BYTES} bytes")
        if len(self._fields) > limits.max_headers:
            raise HttpError(431, f"there are more than {limits.max_headers} header fields")
        if self._fed_bytes + self._slice_bytes > limits.max_header_bytes:
            size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)
            if size > limits.max_header_bytes:
                raise HttpError(431, f"the request line and headers take more than {limits.max_header_bytes} bytes")

    def _make_head(self) -> Head:
        headers: dict[bytes, bytes] = {}
        for field, padded in self._fields:
            name = field.lower()
            value = padded.rstrip(b" \t")
            if name in headers:
                if name == b"host":
                    raise HttpError(400, "there are two Host headers")
                headers[name] += b"," + value
            else:
                headers[name] = value
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise HttpError(505, f"HTTP/{version} is not spoken here")
        http10 = version == "1.0"
        if http10 and b"transfer-encoding" in headers:
            raise HttpError(400, "HTTP/1.0 has no Transfer-Encoding")
        if not http10 and b"host" not in headers:
            raise HttpError(400, "HTTP/1.1 requires a Host header")
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise HttpError(501, "of the transfer encodings only chunked is understood")
        length = int(headers.get(b"content-length", b"0"))
        if length > self._limits.max_body_bytes:
            raise HttpError(413, f"the body is larger than {self._limits.max_body_bytes} bytes")
        expect = b"" if http10 else headers.get(b"expect", b"").lower()
        if expect not in (b"", b"100-continue"):
            raise HttpError(417, "of the expectations only 100-continue is understood")
        keep_alive = self._parser.should_keep_alive()
        return Head(self._parser.get_method(), self._target, headers, length, keep_alive, http10, bool(expect))


def _worth_remembering(raw: bytes, head: Head) -> bool:
    """Whether `raw` is all of `head` and the same bytes are likely to come again and to mean the same."""
    if not (0 < len(raw) <= KNOWN_HEAD_BYTES) or not head.keep_alive or head.http10:
        return False
    headers = head.headers
    if b"traceparent" in headers or b"x-request-id" in headers or b"transfer-encoding" in headers:
        return False
    return not head.expects_continue and raw.startswith(b"%b %b HTTP/1.1\r\n" % (head.method, head.target))


class ResponseWriter:
    """Answers to bytes. The start of each kind of answer is made once a second, when the date changes.

    Kinds differ by their length too, which saves 0.2 µs an answer; they are kept in a dict that is bounded here. `date`
    is the value of the Date header.
    """

    def __init__(self) -> None:
        self.date = b""
        self._starts: dict[tuple[int, bytes, int], bytes] = {}

    def set_date(self, wall_s: float) -> None:
        """The time for the Date header, seconds since 1970."""
        date = formatdate(wall_s, usegmt=True).encode("ascii")
        if date != self.date:
            self.date = date
            self._starts.clear()

    def write(
        self,
        status: int,
        content_type: bytes,
        body: bytes,
        request_id: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """One answer. Without a content type it has no body (204)."""
        key = status, content_type, len(body)
        start = self._starts.get(key) or self._start(key)
        if headers:
            extra = b"".join([b"\r\n%b: %b" % header for header in headers])
            return b"".join((start, request_id, extra, b"\r\n\r\n", body))
        return b"".join((start, request_id, b"\r\n\r\n", body))

    def _start(self, key: tuple[int, bytes, int]) -> bytes:
        """An answer up to the value of its request id."""
        status, content_type, length = key
        start = b"HTTP/1.1 %d %b\r\ndate: %b\r\n" % (status, REASONS.get(status, b""), self.date)
        if content_type:
            start += b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, length)
        start += b"x-request-id: "
        if len(self._starts) >= KNOWN_STARTS:
            self._starts.clear()
        self._starts[key] = start
        return start
