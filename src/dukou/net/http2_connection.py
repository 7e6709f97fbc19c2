"""Connections of HTTP/2 on an event loop: streams, windows, timeouts, what is too much, the ways they end."""

import asyncio
import enum
import logging
import math
import random
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TypeAlias, cast

from dukou.config import Http2Config, HttpConfig
from dukou.core.version import ModelRef
from dukou.net import grpc_wire
from dukou.net.api import Call
from dukou.net.body import KeptBodies
from dukou.net.calls import Calls
from dukou.net.connections import Connections, Progress, peer_of
from dukou.net.exchange import Responder
from dukou.net.grpc import TaskCall, UnaryCall
from dukou.net.grpc_wire import Status
from dukou.net.http1 import Head, HttpError
from dukou.net.http2 import LARGEST_WINDOW, Client, ErrorCode, Fields, Session, SessionLimits
from dukou.net.http2_stream import LINGER_S, SEND_AHEAD_BYTES, HttpStream, Stream, check_head, head_of
from dukou.net.rpc import GrpcError, Handler, Methods, Unary

WRITE_BYTES = 262_144
"""What is taken from the session at a time: the transport says stop between two writes."""
STRAIN_LIMIT = 1000
STRAIN_EASED_PER_S = 100.0
FORGIVEN = 10
"""Pings and small windows that are no strain after something was sent: they are how clients measure and take it."""
SMALL_WINDOW_BYTES = 64

_log = logging.getLogger("dukou.net")

NewSession: TypeAlias = Callable[[SessionLimits, Client], Session]


class Leaving(enum.Enum):
    """How far a connection is on its way to its end."""

    NOT = 0
    ANNOUNCED = 1
    FINAL = 2


class Site:
    """What the listeners of one dialect answer with over HTTP/2: `respond` for HTTP, `methods` for gRPC."""

    def __init__(
        self,
        respond: Responder,
        methods: Methods,
        calls: Calls,
        *,
        settings: Http2Config,
        pool: Executor,
        new_session: NewSession = Session,
    ) -> None:
        self.respond = respond
        self.calls = calls
        self.settings = settings
        self.pool = pool
        self.new_session = new_session
        self.methods: Mapping[bytes, Call | Handler] = {
            path: Call(method.api, ModelRef("")) if isinstance(method, Unary) else method
            for path, method in methods.items()
        }
        self.services = frozenset(path.split(b"/")[1] for path in methods)


def session_limits(http: HttpConfig, http2: Http2Config) -> SessionLimits:
    """What a connection allows its client.

    Its window has room for that of every stream, so that none can hold up another. Headers beyond the limit are to be
    answered, so the session lets more through.
    """
    return SessionLimits(
        streams=http2.max_concurrent_streams,
        window_bytes=http2.window_bytes,
        connection_window_bytes=min(LARGEST_WINDOW, (http2.max_concurrent_streams + 1) * http2.window_bytes),
        header_list_bytes=2 * http.max_header_bytes + 32 * http.max_headers,
        header_count=2 * http.max_headers + 8,
    )


class Http2Connection(asyncio.Protocol):
    """One connection. It is the session's Client and its streams' Link.

    What a client does that costs us and brings nothing (resets, pings, settings, empty frames, broken requests) adds to
    a strain that time and answered requests ease; beyond STRAIN_LIMIT the connection ends.
    """

    def __init__(self, shared: Connections, site: Site) -> None:
        self.shared = shared
        self.settings = site.settings
        self.pool = site.pool
        self.read_s = 0.0
        self.peer = ""
        self._site = site
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        self._waiting: dict[int, Callable[[], None]] = {}
        self._hurried: list[UnaryCall] = []
        self._kept = KeptBodies(max(shared.limits.max_body_bytes, site.settings.max_message_bytes))
        # Of the last inference without a deadline: clients send the same again and again, and it need not be looked at
        # again, which saves 1.5 of 10 µs a call (bench/http2_front.py).
        self._last_fields: Fields = ()
        self._last_call: tuple[Head, Call]
        self._write_due = False
        self._write_paused = False
        self._settled = False
        self._half_closed = False
        self._forgiven = FORGIVEN
        self._strain = 0.0
        self._strain_s = 0.0
        self._idle_s = 0.0
        self._written_bytes = 0
        self._progress = Progress()
        self._linger_until_s = math.inf
        self._finished = False
        self._leaving = Leaving.NOT
        self._left_s = 0.0
        self._old_s = math.inf
        self._ping_s = math.inf  # of the ping that is not answered yet
        self.session = site.new_session(session_limits(shared.limits, site.settings), self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        if self.shared.opened(self):
            self.begin(cast(asyncio.Transport, transport))
        else:
            cast(asyncio.Transport, transport).abort()

    def begin(self, transport: asyncio.Transport) -> None:
        """Speak on `transport`, which has been counted in."""
        self._transport = transport
        self.peer = peer_of(transport)
        self.read_s = self._idle_s = self._strain_s = self.shared.clock()
        if self.settings.max_connection_age_s > 0.0:
            # A tenth more or less, so that clients that came together do not come back together.
            self._old_s = self.read_s + self.settings.max_connection_age_s * random.uniform(0.9, 1.1)
        self.write_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: tell the calls that nobody waits for them."""
        self._transport = None
        self._cancel_all()
        self.session.close()
        self.shared.closed(self)

    def data_received(self, data: bytes) -> None:
        """Read on; what there is to say goes out when all that was read with it has been looked at."""
        self.read_s = self.shared.clock()
        try:
            self.session.receive(data)
        except Exception:
            _log.exception("reading HTTP/2 failed")
            self.session.end(ErrorCode.INTERNAL_ERROR)
        if self._hurried:
            for call in self._hurried:
                call.watch()
            self._hurried.clear()
        self._flush_soon()

    def eof_received(self) -> bool:
        """The client says no more; it still gets the answers it waits for."""
        transport = self._transport
        if transport is None:
            return False
        self._half_closed = True
        return bool(self._streams) and not self.session.ended and transport.can_write_eof()

    def pause_writing(self) -> None:
        """The client does not take its answers: the session keeps them."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The client has taken enough."""
        self._write_paused = False
        self.write_soon()

    # What the session tells.

    def on_request(self, stream_id: int, fields: Fields, end: bool) -> None:
        """A request begins."""
        if fields == self._last_fields:
            head, call = self._last_call
            self._streams[stream_id] = UnaryCall(self, stream_id, head, call, self._site.calls)
        else:
            head = head_of(fields)
            if head.method == b"POST" and grpc_wire.is_grpc(head.headers):
                self._open_call(stream_id, head, fields)
            else:
                self._open_request(stream_id, head, fields)
        if end:
            self._end_request(self._streams[stream_id])

    def on_data(self, stream_id: int, data: bytes, end: bool) -> None:
        """More of a request."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self.session.give_back(stream_id, len(data))
            return
        if not data and not end:
            self._add_strain()
        if stream.done:
            stream.ended = end
            held = 0
        else:
            held = stream.take(data, end)
        if held < len(data):
            self.session.give_back(stream_id, len(data) - held)

    def on_trailers(self, stream_id: int) -> None:
        """A request has ended."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._end_request(stream)

    def on_closed(self, stream_id: int, code: int) -> None:
        """A stream is over."""
        stream = self._streams.pop(stream_id, None)
        if code == 0:
            if self._strain > 0.0:
                self._strain -= 1.0
        elif stream is None:
            self._add_strain()
        if stream is None:
            return
        if not self._streams:
            self._idle_s = self.read_s
        if self._waiting:
            self._waiting.pop(stream_id, None)
        if not stream.done:
            self.let_go(stream_id)
            stream.cancel()

    def on_reset(self, stream_id: int) -> None:
        """The client wants no answer."""
        self._add_strain()

    def on_window(self, increment: int) -> None:
        """The client takes more."""
        if increment < SMALL_WINDOW_BYTES:
            self._forgive()

    def on_settings(self) -> None:
        """The client has said its settings: it does speak HTTP/2."""
        self._settled = True
        self._add_strain()

    def on_ping(self) -> None:
        """The client wants a sign of life."""
        self._forgive()

    def on_pong(self) -> None:
        """The client lives, and has read what was sent before the ping."""
        self._ping_s = math.inf
        if self._leaving is Leaving.ANNOUNCED:
            self._take_no_more()

    # What streams ask for.

    def write_soon(self) -> None:
        """Send what the session has, once in this turn of the event loop: one write for all answers of a batch."""
        self._forgiven = FORGIVEN
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._write_due:
            self._write_due = True
            self._loop.call_soon(self._write)

    def keep(self, stream_id: int, count: int) -> int:
        """`count` bytes of a body that is not complete are kept; how many of them are not to be given back yet."""
        return self._kept.add(stream_id, count)

    def let_go(self, stream_id: int) -> None:
        """Nothing is kept of a stream's body any more."""
        for other_id, count in self._kept.drop(stream_id):
            self.session.give_back(other_id, count)
            self.write_soon()

    def when_taken(self, stream_id: int, on_room: Callable[[], None]) -> None:
        """Call `on_room` once, when the client has taken what was sent on that stream."""
        self._waiting[stream_id] = on_room

    # Requests.

    def _open_request(self, stream_id: int, head: Head, fields: Fields) -> None:
        stream = self._streams[stream_id] = HttpStream(self, stream_id, head, self._site.respond)
        try:
            check_head(head, fields, self.shared.limits)
            if grpc_wire.is_grpc(head.headers):
                raise HttpError(405, "a gRPC call is a POST")
            if head.target in self._site.methods:
                raise HttpError(415, "a gRPC method wants the content type application/grpc")
        except HttpError as refusal:
            stream.refuse(refusal)

    def _open_call(self, stream_id: int, head: Head, fields: Fields) -> None:
        site = self._site
        method = site.methods.get(head.target)
        try:
            check_call(head, fields, self.shared.limits)
            deadline_s = grpc_wire.deadline(head.headers, self.read_s)
            if method is None:
                raise grpc_wire.unimplemented(head.target, site.services)
        except GrpcError as error:
            refused = self._streams[stream_id] = UnaryCall(self, stream_id, head, None, site.calls)
            refused.refuse(error)
            return
        if not isinstance(method, Call):
            self._streams[stream_id] = TaskCall(self, stream_id, head, method, deadline_s)
            return
        call = self._streams[stream_id] = UnaryCall(self, stream_id, head, method, site.calls)
        if deadline_s < math.inf:
            call.set_deadline(deadline_s)
            self._hurried.append(call)
        else:
            self._last_fields, self._last_call = fields, (head, method)

    def _end_request(self, stream: Stream) -> None:
        if stream.done:
            stream.ended = True
        else:
            stream.take(b"", True)

    # Time, and the end.

    def sweep(self, now: float) -> None:
        """Cut the client off if it has used up a timeout."""
        transport, limits = self._transport, self.shared.limits
        if transport is None:
            return
        stalled_s = self._progress.stalled_s(now, self._written_bytes, transport.get_write_buffer_size())
        if now >= self._linger_until_s or stalled_s > limits.write_timeout_s:
            transport.abort()
            return
        if self.session.ended or self._finished:
            return
        for stream in list(self._streams.values()):
            stream.sweep(now)
        self._sweep_keepalive(now, transport)
        self._sweep_age(now)
        idle_s = limits.idle_timeout_s if self._settled else limits.header_timeout_s
        if not self._streams and now - self._idle_s > idle_s:
            self._take_no_more()

    def _sweep_keepalive(self, now: float, transport: asyncio.Transport) -> None:
        settings = self.settings
        if self._ping_s < math.inf:
            if now - self._ping_s > settings.keepalive_timeout_s:
                transport.abort()
        elif 0.0 < settings.keepalive_s < now - self.read_s:
            self._ping(now)

    def _sweep_age(self, now: float) -> None:
        if self._leaving is Leaving.NOT:
            if now > self._old_s:
                self.close_when_idle()
        elif now > self._left_s + self.settings.max_connection_age_grace_s and self._old_s < math.inf:
            self.session.end(ErrorCode.NO_ERROR)
            self.write_soon()
        elif self._leaving is Leaving.ANNOUNCED and now > self._left_s + LINGER_S:
            self._take_no_more()

    def close_when_idle(self) -> None:
        """Ask the client to connect anew, take no more requests, close after the last answer.

        First a notice; when the client has answered a ping it knows of it, and which request was the last is final.
        """
        if self._transport is None or self._leaving is not Leaving.NOT:
            return
        self._left_s = self.shared.clock()
        if not self._settled:
            self._take_no_more()
            return
        self._leaving = Leaving.ANNOUNCED
        self.session.announce_end()
        self._ping(self._left_s)

    def _take_no_more(self) -> None:
        self._leaving = Leaving.FINAL
        self.session.take_no_more()
        self.write_soon()

    def _ping(self, now: float) -> None:
        if self._ping_s == math.inf:
            self._ping_s = now
            self.session.ping()
        self.write_soon()

    def abort(self) -> None:
        """Drop the connection; what is under way is told that the server ends, if the client takes it at once."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        for stream in list(self._streams.values()):
            if not stream.done:
                stream.shut_down()
        self._write()
        if transport.get_write_buffer_size() == 0 and not transport.is_closing():
            transport.close()
        else:
            transport.abort()

    def _write(self) -> None:
        self._write_due = False
        transport, session = self._transport, self.session
        if transport is None or self._finished:
            return
        while not self._write_paused:
            data = session.data_to_send(WRITE_BYTES)
            if data:
                self._written_bytes += len(data)
                try:
                    transport.write(data)
                except (RuntimeError, OSError):  # uvloop raises once the peer has gone
                    transport.abort()
                    return
            if len(data) < WRITE_BYTES:
                break
        if self._waiting:
            self._tell_taken()
        if session.ended:
            self._cancel_all()
        last = self._leaving is Leaving.FINAL or self._half_closed
        if (session.ended or (last and not self._streams)) and not self._write_paused:
            self._finish(transport)

    def _finish(self, transport: asyncio.Transport) -> None:
        """Close behind the last bytes. Where the transport allows, wait for the client to close too: a socket that is
        closed with unread bytes is reset, and the client would lose what it has not read."""
        self._finished = True
        if self._half_closed or not transport.can_write_eof():
            transport.close()
            return
        self._linger_until_s = self.shared.clock() + LINGER_S
        try:
            transport.write_eof()
        except (RuntimeError, OSError):
            transport.abort()

    def _tell_taken(self) -> None:
        for stream_id, on_room in list(self._waiting.items()):
            if self.session.queued(stream_id) <= SEND_AHEAD_BYTES:
                del self._waiting[stream_id]
                on_room()

    def _cancel_all(self) -> None:
        streams = list(self._streams.values())
        self._streams.clear()
        self._waiting.clear()
        for stream in streams:
            if not stream.done:
                stream.cancel()

    def _forgive(self) -> None:
        if self._forgiven:
            self._forgiven -= 1
        else:
            self._add_strain()

    def _add_strain(self) -> None:
        eased = (self.read_s - self._strain_s) * STRAIN_EASED_PER_S
        self._strain = max(0.0, self._strain - eased) + 1.0
        self._strain_s = self.read_s
        if self._strain > STRAIN_LIMIT:
            self.session.end(ErrorCode.ENHANCE_YOUR_CALM)


def check_call(head: Head, fields: Fields, limits: HttpConfig) -> None:
    """Hold a call's metadata against the limits, and against what is understood. Raises GrpcError."""
    headers = head.headers
    if len(fields) > limits.max_headers or len(b"".join(headers)) + len(b"".join(headers.values())) > (
        limits.max_header_bytes
    ):
        raise GrpcError(Status.RESOURCE_EXHAUSTED, f"the metadata takes more than {limits.max_header_bytes} bytes")
    if b"grpc-encoding" in headers:
        grpc_wire.request_encoding(headers)
