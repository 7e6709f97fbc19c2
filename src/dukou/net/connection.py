"""Connections of HTTP/1.1 on an event loop: answers in order, timeouts, backpressure."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

from dukou.core.errors import DukouError, Reason
from dukou.net.connections import Connections, Progress, peer_of
from dukou.net.exchange import Answer, Exchange, Responder, error_body
from dukou.net.http1 import BETWEEN, BODY, CONTINUE, HEAD, Head, HttpError, RequestReader
from dukou.net.pieces import PieceWriter, discard
from dukou.net.status import CODES

SLICE_BYTES = 65_536
LINGER_S = 2.0
SLOWEST_BODY_BYTES_PER_S = 1000.0

_log = logging.getLogger("dukou.net")


class Connection(asyncio.Protocol):
    """One connection, whose requests `respond` answers.

    Requests run side by side, up to `max_pipelined`; answers go out in the order of requests.
    """

    def __init__(self, shared: Connections, respond: Responder) -> None:
        self._shared = shared
        self._respond = respond
        self._reader = RequestReader(shared.limits, self, shared.known_heads)
        self._transport: asyncio.Transport | None = None
        self._running: deque[Exchange] = deque()
        self._waiting: deque[Exchange] = deque()
        self._pieces: PieceWriter | None = None  # of the first exchange that runs
        self._unread = b""
        self._advancing = False
        self._read_paused = False
        self._write_paused = False
        self._refused = False
        self._ended = False
        self._continue_due = False
        self._peer = ""
        self._read_s = 0.0
        self._begun_s = 0.0
        self._heads_begun = 0
        self._written_bytes = 0
        self._progress = Progress()
        self._linger_until_s = float("inf")

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        if self._shared.opened(self):
            self.begin(cast(asyncio.Transport, transport))
        else:
            cast(asyncio.Transport, transport).abort()

    def begin(self, transport: asyncio.Transport) -> None:
        """Speak on `transport`, which has been counted in."""
        self._read_s = self._shared.clock()
        self._transport = transport
        self._peer = peer_of(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: tell the calls that nobody waits for them."""
        self._transport = None
        self._shared.closed(self)
        self._reader.close()
        self._drop_all()

    def data_received(self, data: bytes) -> None:
        """Read on, slice by slice, so that one read holds no more small requests than fit into a slice."""
        if self._refused or self._transport is None:
            return
        if self._read_paused:
            self._unread += data
            return
        self._read_s = self._shared.clock()
        self._advancing = True
        if len(data) <= SLICE_BYTES:
            self._feed(data)
        else:
            self._feed_slices(data)
        self._advancing = False
        running = self._running
        if (running and running[0].said is not None) or self._waiting or self._continue_due:
            self._advance()

    def eof_received(self) -> bool:
        """The client says no more. It still gets the answers it waits for; half a request is dropped.

        TLS has no half-closed connections in asyncio.
        """
        if self._transport is None:
            return False
        self._ended = True
        return bool(self._running or self._waiting) and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        """The client does not take its answers: read no more of it."""
        self._write_paused = True
        self._pause_reading()
        if self._pieces is not None:
            self._pieces.pause()

    def resume_writing(self) -> None:
        """The client has taken enough."""
        self._write_paused = False
        if self._pieces is not None:
            self._pieces.resume()
        self._advance()

    # What the reader calls.

    def on_expect(self) -> None:
        """The client waits with its body until it is told to go on."""
        self._continue_due = True

    def on_request(self, head: Head, body: bytes) -> None:
        """A request is complete: start it now, or later where enough are under way."""
        self._continue_due = False
        request_id = self._shared.id_for(head.headers)
        exchange = Exchange(head, body, request_id, self._read_s, self._advance, not head.keep_alive, self._peer)
        if self._waiting or self._write_paused or len(self._running) >= self._shared.limits.max_pipelined:
            self._waiting.append(exchange)
            self._pause_reading()
        else:
            self._running.append(exchange)
            self._respond(exchange)

    # Reading.

    def _feed(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
        except HttpError as refusal:
            self._refuse(refusal)
        except Exception:
            _log.exception("reading a request failed")
            self._refuse(HttpError(500, DukouError(Reason.INTERNAL).what()))
        else:
            if reader.phase is not BETWEEN and reader.heads_begun != self._heads_begun:
                self._heads_begun = reader.heads_begun
                self._begun_s = self._read_s

    def _feed_slices(self, data: bytes) -> None:
        for start in range(0, len(data), SLICE_BYTES):
            if self._read_paused:
                self._unread = data[start:]
                return
            if self._refused:
                return
            self._feed(data[start : start + SLICE_BYTES])

    def _refuse(self, refusal: HttpError) -> None:
        """Answer, after those before it, what was no request; then read no more."""
        self._refused = True
        exchange = Exchange(None, b"", self._shared.id_for({}), self._read_s, self._advance, close=True)
        self._waiting.append(exchange)
        exchange.said = Answer(refusal.status, error_body(refusal.detail))
        self._shared.on_refused(exchange, CODES[refusal.status])

    def _pause_reading(self) -> None:
        transport = self._transport
        if not (self._read_paused or self._ended or transport is None or transport.is_closing()):
            self._read_paused = True
            transport.pause_reading()

    def _resume_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._read_paused = False
        if self._unread:
            unread, self._unread = self._unread, b""
            self.data_received(unread)
        if not self._read_paused and not self._ended and not transport.is_closing():
            transport.resume_reading()

    # Answering.

    def _advance(self) -> None:
        """Write the answers whose turn it is, start what waits, read again when nothing does."""
        if self._advancing or self._transport is None:
            return
        self._advancing = True
        while True:
            self._write_answers()
            if not self._waiting or self._write_paused or len(self._running) >= self._shared.limits.max_pipelined:
                break
            exchange = self._waiting.popleft()
            self._running.append(exchange)
            if exchange.said is None:
                self._respond(exchange)
        self._advancing = False
        if self._read_paused and not self._waiting and not self._write_paused:
            self._resume_reading()
        if (self._ended or self._continue_due or self._shared.draining) and not self._running and not self._waiting:
            self._rest()

    def _rest(self) -> None:
        """Nothing is to be answered: let a client that asked send its body, or end."""
        if self._transport is None or self._refused:
            return
        if self._ended:
            self._transport.close()
        elif self._continue_due:
            self._continue_due = False
            self._write(CONTINUE)
        elif self._shared.draining:
            self.close_when_idle()

    def _write_answers(self) -> None:
        if self._pieces is not None:
            return
        running = self._running
        out = []
        close = False
        while running and not close and (answer := running[0].said) is not None:
            exchange = running[0]
            if answer.pieces is not None:
                out.append(self._begin_pieces(exchange, answer, answer.pieces))
                break
            running.popleft()
            close = exchange.close or ((self._ended or self._shared.draining) and self._is_last())
            out.append(self._render(exchange, answer, close))
        if out:
            self._write(out[0] if len(out) == 1 else b"".join(out))
        if close:
            self._end()

    def _begin_pieces(self, exchange: Exchange, answer: Answer, pieces: AsyncIterator[bytes]) -> bytes:
        """The head of an answer that comes bit by bit; the rest follows (RFC 9112 section 7.1).

        HTTP/1.0 has no chunks: there the end of the connection is the end of the answer.
        """
        http10 = exchange.head is not None and exchange.head.http10
        headers = [(b"content-type", answer.content_type), *answer.headers]
        if http10:
            exchange.close = True
        else:
            headers.append((b"transfer-encoding", b"chunked"))
        if exchange.close:
            headers.append((b"connection", b"close"))
        written_bytes = 0

        def write(piece: bytes) -> None:
            nonlocal written_bytes
            written_bytes += len(piece)
            self._write(piece if http10 else b"%x\r\n%b\r\n" % (len(piece), piece))

        def end(complete: bool) -> None:
            self._pieces = None
            if self._shared.log_to:
                self._shared.log_request(exchange, answer, self._peer, written_bytes)
            if not complete:
                self.abort()  # so that the client knows that something is missing
                return
            self._running.popleft()
            if not http10:
                self._write(b"0\r\n\r\n")
            if exchange.close:
                self._end()
            else:
                self._advance()

        self._pieces = PieceWriter(pieces, write, end)
        return self._shared.writer.write(answer.status, b"", b"", exchange.id.encode(), headers)

    def _is_last(self) -> bool:
        """Whether the answer being written is the last one for other reasons than the request's own."""
        if self._running or self._waiting:
            return False
        return self._ended or (self._shared.draining and self._reader.phase is not BODY)

    def _render(self, exchange: Exchange, answer: Answer, close: bool) -> bytes:
        head = exchange.head
        headers = answer.headers
        if close:
            headers = (*headers, (b"connection", b"close"))
        elif head is not None and head.http10:
            headers = (*headers, (b"connection", b"keep-alive"))
        written = self._shared.writer.write(
            answer.status, answer.content_type, answer.body, exchange.id.encode(), headers
        )
        if head is not None and head.method == b"HEAD":
            written = written[: written.index(b"\r\n\r\n") + 4]
        if self._shared.log_to:
            self._shared.log_request(exchange, answer, self._peer, len(answer.body))
        return written

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        self._written_bytes += len(data)
        try:
            transport.write(data)
        except (RuntimeError, OSError):
            # uvloop raises once the peer has gone; the other answers of this batch must go out all the same.
            transport.abort()

    def _end(self) -> None:
        """Close behind the last answer. After a refusal, linger: closing a socket with unread bytes resets it, and the
        client would lose the answer (RFC 9112 section 9.6)."""
        transport = self._transport
        self._drop_all()
        if transport is None or transport.is_closing():
            return
        if not self._refused or self._ended:
            transport.close()
            return
        self._linger_until_s = self._shared.clock() + LINGER_S
        if self._read_paused:
            self._read_paused = False
            transport.resume_reading()
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except (RuntimeError, OSError):
                transport.abort()

    def _drop_all(self) -> None:
        """Nobody takes what is under way: tell the calls."""
        if self._pieces is not None:
            self._pieces.cancel()
            self._pieces = None
            self._running.popleft()
        for exchange in (*self._running, *self._waiting):
            if exchange.said is None:
                if exchange.run is not None:
                    exchange.run.cancel()
            elif exchange.said.pieces is not None:
                discard(exchange.said.pieces)
        self._running.clear()
        self._waiting.clear()

    # Time, and the end.

    def sweep(self, now: float) -> None:
        """Cut the client off if it has used up a timeout."""
        transport, limits = self._transport, self._shared.limits
        if transport is None:
            return
        stalled_s = self._progress.stalled_s(now, self._written_bytes, transport.get_write_buffer_size())
        if now >= self._linger_until_s or stalled_s > limits.write_timeout_s:
            transport.abort()
        elif self._refused:
            return
        elif self._running or self._waiting or self._read_paused:
            # The client waits for us.
            self._read_s = self._begun_s = now
        elif self._reader.phase is HEAD:
            if now - self._begun_s > limits.header_timeout_s:
                self._time_out("the request's head did not arrive in time")
        elif self._reader.phase is BODY:
            allowed_s = limits.body_timeout_s + self._reader.body_bytes / SLOWEST_BODY_BYTES_PER_S
            if now - self._read_s > limits.body_timeout_s:
                self._time_out("the request's body stood still")
            elif now - self._begun_s > allowed_s:
                self._time_out("the request's body came too slowly")
        elif now - self._read_s > limits.idle_timeout_s:
            transport.close()

    def _time_out(self, detail: str) -> None:
        self._refuse(HttpError(408, detail))
        self._advance()

    def close_when_idle(self) -> None:
        """Close now if no request is under way; `Connections.draining` closes it later otherwise.

        Half a head is no request yet: a client that never finishes it would hold a drain for its whole grace.
        """
        idle = not self._running and not self._waiting and self._reader.phase is not BODY
        if idle and not self._refused and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection with whatever is under way; one that closes behind its last answer may send that."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
