"""HTTP/2 without I/O: bytes to what a client does, commands to bytes (RFC 9113).

libnghttp2 does frames, header compression, flow control and the rules; this is its only door. What it gives for
bytes that break the rules is the same everywhere: the session has ended, and its last bytes say why (GOAWAY).
"""

import logging
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Protocol, TypeAlias

import msgspec
from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    ConnectionProtocolError,
    DataReceived,
    DenialOfServiceError,
    NGH2Error,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    Role,
    Setting,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1
SETTINGS, GOAWAY = 4, 7

_log = logging.getLogger("dukou.net")

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Header fields in order, pseudo-headers first, names in lower case."""


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113 section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class SessionLimits(msgspec.Struct, frozen=True):
    """What a session allows its client: streams at a time, bytes under way, bytes of a request's headers.

    Headers beyond `header_list_bytes` end the session: what wants to answer them needs a smaller limit of its own.
    """

    streams: int
    window_bytes: int
    connection_window_bytes: int
    header_list_bytes: int
    header_count: int
    frame_bytes: int = 16_384


class Client(Protocol):
    """Who is told what the client of a session does. The session may be given commands meanwhile."""

    def on_request(self, stream_id: int, fields: Fields, end: bool) -> None:
        """A stream begins, with the request's headers; `end` says that nothing follows them."""

    def on_data(self, stream_id: int, data: bytes, end: bool) -> None:
        """Bytes of a body, which the client may replace by others when they are given back (`give_back`)."""

    def on_trailers(self, stream_id: int) -> None:
        """The request ends with trailers, which nothing here needs."""

    def on_closed(self, stream_id: int, code: int) -> None:
        """The stream is over: all was said on both sides (`code` is 0), or it was reset."""

    def on_reset(self, stream_id: int) -> None:
        """The client has reset the stream, which is over (`on_closed` follows)."""

    def on_window(self, increment: int) -> None:
        """The client takes `increment` bytes more, of one stream or of all."""

    def on_settings(self) -> None:
        """The client has said its settings."""

    def on_ping(self) -> None:
        """The client has sent a ping, which is answered."""

    def on_pong(self) -> None:
        """The client has answered a ping."""


class Session:
    """One HTTP/2 connection of a server. Commands for streams that are over do nothing.

    `client` is told what happens from within `receive` and `data_to_send`. `ended` is true when the rules were broken
    or `end` was called: nothing is read any more, `data_to_send` has the last bytes, then the connection is to be
    closed.
    """

    def __init__(self, limits: SessionLimits, client: Client) -> None:
        self.ended = False
        self._client = client
        self._failed = False
        self._last_words = b""
        self._last_stream_id = 0
        self._spoken = False
        self._engine = Connection(
            Role.SERVER,
            Configuration(
                auto_window_update=False,
                max_inbound_header_list_size=limits.header_list_bytes,
                max_inbound_header_count=limits.header_count,
                # Frames of 16 KB carry a list that large; the rest is for clients that cut theirs smaller.
                max_continuations=limits.header_list_bytes // 16_384 + 8,
                # Who resets too often is found by the connection, so that it ends alike with every library.
                stream_reset_rate_limit=(1_000_000, 1_000_000),
            ),
        )
        self._engine.initiate_connection(settings(limits))
        self._engine.set_local_window_size(limits.connection_window_bytes)

    def receive(self, data: bytes) -> None:
        """Read on, and tell the client's doings. Does nothing once the session has ended."""
        if self.ended:
            return
        try:
            self._engine.receive_data(data)
        except Exception as error:
            self._fail(error)
        else:
            self._tell()

    def data_to_send(self, most: int) -> bytes:
        """At most `most` bytes for the client; fewer when that is all there is, or all that its windows allow."""
        if self._failed:
            last, self._last_words = self._last_words, b""
            return last
        try:
            data = self._engine.data_to_send(most)
        except Exception as error:
            self._fail(error)
            return self.data_to_send(most)
        self._spoken = True
        self._tell()
        return data

    def respond(self, stream_id: int, fields: Fields, end: bool = False) -> None:
        """Begin the answer; with `end` that is all of it."""
        try:
            self._engine.send_response(stream_id, fields, end_stream=end)
        except NGH2Error:
            pass

    def send(self, stream_id: int, data: bytes, end: bool = False) -> None:
        """Go on with the answer's body."""
        try:
            self._engine.send_data(stream_id, data, end_stream=end)
        except NGH2Error:
            pass

    def finish(self, stream_id: int, trailers: Fields) -> None:
        """End the answer with trailers."""
        try:
            self._engine.send_trailers(stream_id, trailers)
        except NGH2Error:
            pass

    def answer(self, stream_id: int, fields: Fields, body: bytes, trailers: Fields) -> None:
        """A whole answer at once."""
        engine = self._engine
        try:
            engine.send_response(stream_id, fields)
            engine.send_data(stream_id, body)
            engine.send_trailers(stream_id, trailers)
        except NGH2Error:
            pass

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream at once."""
        try:
            self._engine.reset_stream(stream_id, code)
        except NGH2Error:
            pass

    def give_back(self, stream_id: int, amount: int) -> None:
        """`amount` bytes of a stream's data were taken: the client may send as many more.

        Due for all data, also of a stream that is over by now: its bytes count against the connection's window.
        """
        try:
            self._engine.acknowledge_received_data(amount, stream_id)
        except (NGH2Error, ValueError):
            pass

    def queued(self, stream_id: int) -> int:
        """How many bytes of a stream's answer wait for the client's windows, or to be sent."""
        return 0 if self._failed else self._engine.queued_body_size(stream_id)

    def ping(self) -> None:
        """Ask the client for a sign of life."""
        if not self.ended:
            self._engine.ping()

    def announce_end(self) -> None:
        """Tell the client that this connection will take no more requests soon (RFC 9113 section 6.8)."""
        if not self.ended:
            self._engine.send_shutdown_notice()

    def take_no_more(self) -> None:
        """Take no more requests: the client learns which was the last. Those under way go on."""
        if not self.ended:
            self._engine.send_goaway(ErrorCode.NO_ERROR)

    def end(self, code: ErrorCode) -> None:
        """End the session, streams and all."""
        if not self.ended:
            self.ended = True
            self._engine.terminate_connection(code)

    def close(self) -> None:
        """The connection is lost: let go of the client, which refers to this session; nothing is to be read or sent."""
        self.ended = self._failed = True
        del self._client

    def _tell(self) -> None:
        client = self._client
        event: Any
        for event in self._engine.events():
            if self.ended:
                return
            kind = type(event)
            if kind is DataReceived:
                client.on_data(event.stream_id, event.data, event.end_stream)
            elif kind is RequestReceived:
                self._last_stream_id = stream_id = event.stream_id
                client.on_request(stream_id, event.headers, event.end_stream)
            elif kind is StreamClosed:
                client.on_closed(event.stream_id, event.error_code)
            elif kind is WindowUpdated:
                client.on_window(event.increment)
            elif kind is TrailersReceived:
                client.on_trailers(event.stream_id)
            elif kind is StreamReset:
                client.on_reset(event.stream_id)
            elif kind is PingReceived:
                client.on_ping()
            elif kind is PingAcknowledged:
                client.on_pong()
            elif kind is SettingsReceived:
                client.on_settings()
            elif kind is ConnectionClosed:
                self.ended = True

    def _fail(self, error: Exception) -> None:
        """The library has given up, and cannot say so to the client."""
        code = next((code for kind, code in _BLAME if isinstance(error, kind)), ErrorCode.INTERNAL_ERROR)
        if code is ErrorCode.INTERNAL_ERROR:
            _log.error("HTTP/2 failed", exc_info=error)
        before = b"" if self._spoken else frame(SETTINGS, 0, 0, b"")  # the first frame, whatever comes
        self._last_words = before + goaway(self._last_stream_id, code)
        self._failed = self.ended = True


_BLAME: tuple[tuple[type[Exception], ErrorCode], ...] = (
    (DenialOfServiceError, ErrorCode.ENHANCE_YOUR_CALM),
    (ConnectionProtocolError, ErrorCode.PROTOCOL_ERROR),
)


def settings(limits: SessionLimits) -> Mapping[int, int]:
    """What a server tells its clients first."""
    return {
        Setting.MAX_CONCURRENT_STREAMS: limits.streams,
        Setting.INITIAL_WINDOW_SIZE: limits.window_bytes,
        Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        Setting.MAX_FRAME_SIZE: limits.frame_bytes,
    }


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame (RFC 9113 section 4.1)."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3), kind, flags, stream_id.to_bytes(4), payload)


def goaway(last_stream_id: int, code: ErrorCode) -> bytes:
    """The frame that ends a connection: which stream was the last that may have been looked at, and why."""
    return frame(GOAWAY, 0, 0, last_stream_id.to_bytes(4) + code.to_bytes(4))
