"""One HTTP/2 stream: a request and its answer. Here is what all streams share, and those of ordinary HTTP."""

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from dukou.config import Http2Config, HttpConfig
from dukou.core.errors import DukouError, Reason
from dukou.net.body import Body
from dukou.net.connections import Connections, Progress
from dukou.net.exchange import Answer, Exchange, Responder, error_body
from dukou.net.http1 import MAX_TARGET_BYTES, Head, HttpError
from dukou.net.http2 import ErrorCode, Fields, Session
from dukou.net.pieces import PieceWriter, discard
from dukou.net.status import CODES

LINGER_S = 2.0
SLOWEST_BODY_BYTES_PER_S = 1000.0
SEND_AHEAD_BYTES = 65_536
"""Of an answer that comes bit by bit: how much may wait for the client before the next piece is asked for."""


class Link(Protocol):
    """The connection as its streams see it."""

    session: Session
    shared: Connections
    settings: Http2Config
    pool: Executor
    read_s: float
    peer: str

    def write_soon(self) -> None:
        """Send what the session has, once in this turn of the event loop."""

    def keep(self, stream_id: int, count: int) -> int:
        """`count` bytes of a body that is not complete are kept; how many of them are not to be given back yet."""

    def let_go(self, stream_id: int) -> None:
        """Nothing is kept of a stream's body any more."""

    def when_taken(self, stream_id: int, on_room: Callable[[], None]) -> None:
        """Call `on_room` once, when the client has taken what was sent on that stream."""


class Stream(ABC):
    """A request on its way to its answer.

    `ended` says that the client has said all, `done` that the whole answer is in the session's hands. What comes of the
    request after that is dropped. `body_bytes` counts what came of its body, `sent_bytes` what the session was given of
    the answer's. What most streams do not change is said by the class: making a stream is part of every request.
    """

    patient = False
    """Whether the client may take its time with the request, as in a conversation."""

    ended = False
    done = False
    body_bytes = 0
    sent_bytes = 0
    moved_s = 0.0
    _done_s = math.inf
    _progress: Progress | None = None  # most streams are gone before they are looked at

    def __init__(self, link: Link, stream_id: int) -> None:
        self.link = link
        self.stream_id = stream_id
        self.arrived_s = link.read_s

    @abstractmethod
    def take(self, data: bytes, end: bool) -> int:
        """More of the request's body; `end` says that it is all. Not called once `done`.

        Returns how many of these bytes are held: the stream sees to it later that they are given back to the client.
        """

    @abstractmethod
    def cancel(self) -> None:
        """The client has gone, or no longer wants an answer."""

    @abstractmethod
    def time_out(self, detail: str) -> None:
        """The body does not come: answer with that."""

    @abstractmethod
    def shut_down(self) -> None:
        """The server ends, and has waited long enough: say so, where nothing has been said."""

    def finish(self) -> None:
        """The whole answer is in the session's hands: have it sent."""
        self.done = True
        self.link.write_soon()

    def sweep(self, now: float) -> None:
        """End what has used up a timeout."""
        link, limits = self.link, self.link.shared.limits
        queued = link.session.queued(self.stream_id)
        if self._progress is None:
            self._progress = Progress()
        if self._progress.stalled_s(now, self.sent_bytes, queued) > limits.write_timeout_s:
            self._reset(ErrorCode.CANCEL)
        elif self.done:
            self._done_s = min(self._done_s, now)
            if not queued and not self.ended and now - self._done_s > LINGER_S:
                self._reset(ErrorCode.NO_ERROR)
        elif not self.ended and not self.patient:
            if now - max(self.arrived_s, self.moved_s) > limits.body_timeout_s:
                self.time_out("the request's body stood still")
            elif now - self.arrived_s > limits.body_timeout_s + self.body_bytes / SLOWEST_BODY_BYTES_PER_S:
                self.time_out("the request's body came too slowly")

    def _reset(self, code: ErrorCode) -> None:
        self.link.session.reset(self.stream_id, code)
        self.link.write_soon()


class HttpStream(Stream):
    """An ordinary HTTP request: an Exchange for `respond`, as on HTTP/1.1."""

    def __init__(self, link: Link, stream_id: int, head: Head, respond: Responder) -> None:
        super().__init__(link, stream_id)
        request_id = link.shared.id_for(head.headers)
        self._exchange = Exchange(head, b"", request_id, link.read_s, self._answer, False, link.peer)
        self._respond = respond
        self._body = Body()
        self._pieces: PieceWriter | None = None

    def take(self, data: bytes, end: bool) -> int:
        self.ended = end
        self._body.add(data)
        self.body_bytes += len(data)
        self.moved_s = self.link.read_s
        most = self.link.shared.limits.max_body_bytes
        if self.body_bytes > most:
            self.refuse(HttpError(413, f"the body is larger than {most} bytes"))
            return 0
        if not end:
            return self.link.keep(self.stream_id, len(data))
        self.link.let_go(self.stream_id)
        self._exchange.body = self._body.take()
        self._respond(self._exchange)
        return 0

    def refuse(self, refusal: HttpError) -> None:
        """Answer what is no request for the responder."""
        self._body.take()
        self.link.shared.on_refused(self._exchange, CODES[refusal.status])
        self._exchange.answer(Answer(refusal.status, error_body(refusal.detail)))

    def time_out(self, detail: str) -> None:
        self.refuse(HttpError(408, detail))

    def shut_down(self) -> None:
        if self._exchange.said is None:
            self.refuse(HttpError(503, DukouError(Reason.DRAINING).what()))

    def cancel(self) -> None:
        if self._pieces is not None:
            self._pieces.cancel()
        elif self._exchange.run is None:  # no answer comes that would let the exchange go
            self._exchange.on_answer = nothing
        elif self._exchange.said is None:
            self._exchange.run.cancel()
        self.done = True

    def _answer(self) -> None:
        answer = self._exchange.said
        assert answer is not None
        self._exchange.on_answer = nothing  # they need not hold each other any longer
        if self.done:  # the client has gone
            if answer.pieces is not None:
                discard(answer.pieces)
            return
        self.link.let_go(self.stream_id)
        head = self._exchange.head
        fields = response_fields(answer, self.link.shared.writer.date, self._exchange.id)
        bodiless = head is not None and head.method == b"HEAD"
        session = self.link.session
        if answer.pieces is not None and not bodiless:
            session.respond(self.stream_id, fields)
            self._begin_pieces(answer, answer.pieces)
            self.link.write_soon()
            return
        if answer.pieces is not None:
            discard(answer.pieces)
        if bodiless or not answer.body:
            session.respond(self.stream_id, fields, end=True)
        else:
            session.respond(self.stream_id, fields)
            session.send(self.stream_id, answer.body, end=True)
            self.sent_bytes = len(answer.body)
        self._finish(answer)

    def _begin_pieces(self, answer: Answer, pieces: AsyncIterator[bytes]) -> None:
        session = self.link.session

        def write(piece: bytes) -> None:
            session.send(self.stream_id, piece)
            self.sent_bytes += len(piece)
            self.link.write_soon()
            if session.queued(self.stream_id) > SEND_AHEAD_BYTES:
                writer.pause()
                self.link.when_taken(self.stream_id, writer.resume)

        def end(complete: bool) -> None:
            self._pieces = None
            if complete:
                session.send(self.stream_id, b"", end=True)
            else:
                session.reset(self.stream_id, ErrorCode.INTERNAL_ERROR)
            self._finish(answer)

        writer = PieceWriter(pieces, write, end)
        self._pieces = writer

    def _finish(self, answer: Answer) -> None:
        self.finish()
        if self.link.shared.log_to:
            self.link.shared.log_request(self._exchange, answer, self.link.peer, self.sent_bytes)


def nothing() -> None:
    """What an exchange calls that nobody waits for."""


def head_of(fields: Fields) -> Head:
    """A request's head from its fields; the library has checked their form."""
    headers = dict(fields)
    if len(headers) != len(fields):
        headers = _joined(fields)
    method = headers.pop(b":method", b"")
    path = headers.pop(b":path", b"")
    headers.pop(b":scheme", None)
    authority = headers.pop(b":authority", None)
    if authority is not None:
        headers[b"host"] = authority
    return Head(method, path, headers)


def check_head(head: Head, fields: Fields, limits: HttpConfig) -> None:
    """Hold a head against the limits. Raises HttpError."""
    if len(head.target) > MAX_TARGET_BYTES:
        raise HttpError(414, f"the request target is longer than {MAX_TARGET_BYTES} bytes")
    if len(fields) > limits.max_headers:
        raise HttpError(431, f"there are more than {limits.max_headers} header fields")
    if header_bytes(fields) > limits.max_header_bytes:
        raise HttpError(431, f"the request line and headers take more than {limits.max_header_bytes} bytes")
    if head.method == b"CONNECT":
        raise HttpError(405, "this server is no proxy")
    length = head.headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > limits.max_body_bytes:
        raise HttpError(413, f"the body is larger than {limits.max_body_bytes} bytes")


def header_bytes(fields: Fields) -> int:
    """The size of a list of fields as text."""
    return sum(len(name) + len(value) for name, value in fields) + 4 * len(fields)


def response_fields(answer: Answer, date: bytes, request_id: str) -> Sequence[tuple[bytes, bytes]]:
    """The header fields of an answer. Without a content type it has no body."""
    fields = [(b":status", b"%d" % answer.status), (b"date", date)]
    if answer.content_type:
        fields.append((b"content-type", answer.content_type))
        if answer.pieces is None:
            fields.append((b"content-length", b"%d" % len(answer.body)))
    fields.append((b"x-request-id", request_id.encode()))
    fields.extend(answer.headers)
    return fields


def _joined(fields: Fields) -> dict[bytes, bytes]:
    """Headers where some came more than once: values by commas, parts of a cookie by semicolons (RFC 9113 8.2.3)."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in headers:
            headers[name] += (b"; " if name == b"cookie" else b",") + value
        else:
            headers[name] = value
    return headers
