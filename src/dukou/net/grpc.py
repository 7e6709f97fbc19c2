"""gRPC calls as streams of HTTP/2: an inference without a task, everything else as a task of its own."""

import asyncio
import logging
import math
import zlib
from collections import deque
from collections.abc import Callable

from dukou.core.errors import DukouError, Reason
from dukou.net import grpc_wire, status
from dukou.net.api import Call
from dukou.net.calls import Calls
from dukou.net.compression import decompress
from dukou.net.exchange import Answer, Exchange
from dukou.net.grpc_wire import HEADERS, HEADERS_GZIP, OK, PREFIX_BYTES, MessageReader, Status
from dukou.net.http1 import Head
from dukou.net.http2 import Fields
from dukou.net.http2_stream import SEND_AHEAD_BYTES, Link, Stream, nothing
from dukou.net.rpc import GrpcError, Handler
from dukou.wire.codec import Headers

COPIED_BYTES = 16_384
"""A message below this goes to the session together with its prefix, which costs a copy; above, after it."""

_log = logging.getLogger("dukou.net")
_CODES = {number: code for code, number in reversed([*status.GRPC.items()])}
_GZIP_LEVEL, _GZIP_WINDOW = 1, 31


class UnaryCall(Stream):
    """One message in, one out: an Exchange whose body is the message, answered by `calls` with `call`.

    Without a `call` it only can be refused.
    """

    _reader: MessageReader | None = None  # of a message that did not come in one piece
    _message: tuple[bool, bytes] | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, link: Link, stream_id: int, head: Head, call: Call | None, calls: Calls) -> None:
        self.link = link
        self.stream_id = stream_id
        self.arrived_s = arrived_s = link.read_s
        self._exchange = Exchange(head, b"", link.shared.id_for(head.headers), arrived_s, self._answer)
        self._call = call
        self._calls = calls

    def set_deadline(self, deadline_s: float) -> None:
        """When the caller gives up. `calls` keeps to it once the message is there; until then a timer does."""
        self._exchange.deadline_s = deadline_s

    def watch(self) -> None:
        """The message is not there yet, all that came together with the head being read."""
        if self._timer is None and self._exchange.run is None and not self.done:
            wait_s = self._exchange.deadline_s - self.link.shared.clock()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self.refuse, _too_late())

    def take(self, data: bytes, end: bool) -> int:
        # Most calls: one frame, one message. The prefix is a flag, 0, and the length, so both are one number.
        length = len(data) - PREFIX_BYTES
        if (
            end
            and self._reader is None
            and 0 <= length <= self.link.settings.max_message_bytes
            and data.startswith(length.to_bytes(PREFIX_BYTES))
        ):
            self.ended = True
            self._begin(data[PREFIX_BYTES:])
            return 0
        try:
            return self._collect(data, end)
        except GrpcError as error:
            self.refuse(error)
            return 0

    def _collect(self, data: bytes, end: bool) -> int:
        self.ended = end
        self.body_bytes += len(data)
        self.moved_s = self.link.read_s
        if self._reader is None:
            self._reader = MessageReader(self.link.settings.max_message_bytes)
        for message in self._reader.feed(data):
            if self._message is not None:
                raise _several()
            self._message = message
        if self._message is not None and not self._reader.between:
            raise _several()
        if not end:
            return self.link.keep(self.stream_id, len(data))
        self.link.let_go(self.stream_id)
        if not self._reader.between:
            raise GrpcError(Status.INTERNAL, "the request ended within a message")
        if self._message is None:
            raise GrpcError(Status.UNIMPLEMENTED, "no message came for a call that takes one")
        compressed, body = self._message
        self._forget()
        if compressed:
            self._exchange.run = _in_pool(self.link, self._decompressed, self._inflate, body)
        else:
            self._begin(body)
        return 0

    def _forget(self) -> None:
        self._reader = self._message = None

    def _inflate(self, message: bytes) -> bytes:
        return inflate(self._exchange.headers, message, self.link.settings.max_message_bytes)

    def _decompressed(self, message: bytes | None, error: BaseException | None) -> None:
        if self.done or self._exchange.said is not None:
            return
        if message is not None:
            self._begin(message)
        else:
            self.refuse(error if isinstance(error, GrpcError) else _failed(self._exchange.id, error))

    def _begin(self, message: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert self._call is not None
        self._exchange.body = message
        try:
            self._calls.answer(self._exchange, self._call)
        except Exception as error:  # a fault of ours, and no reason for the other calls to break off
            self.refuse(_failed(self._exchange.id, error))

    def time_out(self, detail: str) -> None:
        self.refuse(GrpcError(Status.DEADLINE_EXCEEDED, detail))

    def shut_down(self) -> None:
        self.refuse(_shutting_down())

    def refuse(self, error: GrpcError) -> None:
        """End the call with an error of the protocol."""
        self._forget()
        exchange = self._exchange
        if exchange.said is None:
            self.link.shared.on_refused(exchange, _CODES[error.status])
            exchange.answer(Answer(error.status, error.message.encode(), headers=_about(error, exchange.headers)))

    def cancel(self) -> None:
        self.done = True
        if self._timer is not None:
            self._timer.cancel()
        if self._exchange.said is None and self._exchange.run is not None:
            self._exchange.run.cancel()
        self._exchange.on_answer = nothing  # perhaps no answer comes that would let the exchange go

    def _answer(self) -> None:
        """The exchange has its answer."""
        link, exchange = self.link, self._exchange
        answer = exchange.said
        assert answer is not None
        exchange.on_answer = nothing  # they need not hold each other any longer
        if self.done:  # the client has gone
            return
        if not self.ended or self._timer is not None:
            self._clean_up()
        body = answer.body
        if answer.status:
            end = grpc_wire.trailers(answer.status, body.decode("utf-8", "replace"), answer.headers)
            link.session.respond(self.stream_id, [*HEADERS, *end], end=True)
            self._finish(answer)
        elif len(body) > link.settings.compress_above_bytes > 0 and may_compress(link, exchange.headers):
            exchange.run = _in_pool(link, self._compressed, deflate, body)
        elif len(body) < COPIED_BYTES and not answer.headers:  # most answers
            self.sent_bytes = PREFIX_BYTES + len(body)
            link.session.answer(self.stream_id, HEADERS, len(body).to_bytes(PREFIX_BYTES) + body, OK)
            self._finish(answer)
        else:
            self._send(answer, HEADERS, len(body).to_bytes(PREFIX_BYTES), body)

    def _compressed(self, body: bytes | None, error: BaseException | None) -> None:
        answer = self._exchange.said
        assert answer is not None
        if self.done:
            return
        if body is not None:
            self._send(answer, HEADERS_GZIP, grpc_wire.prefix(len(body), compressed=True), body)
        else:
            _failed(self._exchange.id, error)
            self._send(answer, HEADERS, grpc_wire.prefix(len(answer.body)), answer.body)

    def _send(self, answer: Answer, headers: Fields, prefix: bytes, body: bytes) -> None:
        session = self.link.session
        trailers = OK if not answer.headers else grpc_wire.trailers(Status.OK, metadata=answer.headers)
        self.sent_bytes = PREFIX_BYTES + len(body)
        session.respond(self.stream_id, headers)
        session.send(self.stream_id, prefix)
        session.send(self.stream_id, body)
        session.finish(self.stream_id, trailers)
        self._finish(answer)

    def _finish(self, answer: Answer) -> None:
        self.done = True
        link = self.link
        link.write_soon()
        if link.shared.log_to:
            link.shared.log_request(self._exchange, answer, link.peer, self.sent_bytes)

    def _clean_up(self) -> None:
        """What an answer leaves behind that came before the request was complete, or was waited for."""
        self.link.let_go(self.stream_id)
        if self._timer is not None:
            self._timer.cancel()


class TaskCall(Stream):
    """A call whose handler is a task of its own: any number of messages in and out. It is the handler's Rpc."""

    patient = True

    def __init__(self, link: Link, stream_id: int, head: Head, handler: Handler, deadline_s: float) -> None:
        super().__init__(link, stream_id)
        self.id = link.shared.id_for(head.headers)
        self.peer = link.peer
        self.metadata: Headers = head.headers
        self.deadline_s = deadline_s
        self.initial_metadata: list[tuple[bytes, bytes]] = []
        self.trailing_metadata: list[tuple[bytes, bytes]] = []
        self._head = head
        self._reader = MessageReader(link.settings.max_message_bytes)
        self._messages: deque[tuple[bool, bytes]] = deque()
        self._untaken_bytes = 0
        self._begun = False
        self._gzip = may_compress(link, head.headers)
        self._more: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        if deadline_s < math.inf:
            wait_s = max(0.0, deadline_s - link.shared.clock())
            self._timer = self._loop.call_later(wait_s, self._fail, _too_late())
        self._task: asyncio.Task[None] | None = self._loop.create_task(_run(handler, self))
        self._task.add_done_callback(self._ended)

    # What comes of the client.

    def take(self, data: bytes, end: bool) -> int:
        self.ended = end
        try:
            found = self._reader.feed(data)
            if end and not self._reader.between:
                raise GrpcError(Status.INTERNAL, "the request ended within a message")
        except GrpcError as error:
            self._fail(error)
            return 0
        held = len(data) if self._messages else 0  # until the handler has taken what waits
        self._untaken_bytes += held
        self._messages.extend(found)
        if (found or end) and self._more is not None and not self._more.done():
            self._more.set_result(None)
        return held

    def cancel(self) -> None:
        self.done = True
        self._stop()

    def time_out(self, detail: str) -> None:
        self._fail(GrpcError(Status.DEADLINE_EXCEEDED, detail))

    def shut_down(self) -> None:
        self._fail(_shutting_down())

    # What the handler calls.

    async def receive(self) -> bytes | None:
        """The next message, None after the last. Raises GrpcError for what is no message."""
        while not self._messages:
            if self.ended:
                return None
            self._more = self._loop.create_future()
            await self._more
        compressed, message = self._messages.popleft()
        if not self._messages:
            self._give_back()
        if compressed:
            limit = self.link.settings.max_message_bytes
            return await self._loop.run_in_executor(self.link.pool, inflate, self.metadata, message, limit)
        return message

    def _give_back(self) -> None:
        if self._untaken_bytes:
            self.link.session.give_back(self.stream_id, self._untaken_bytes)
            self._untaken_bytes = 0
            self.link.write_soon()

    async def send(self, message: bytes) -> None:
        """Send a message, and wait while the client does not take those before it."""
        compressed = self._gzip and len(message) > self.link.settings.compress_above_bytes
        if compressed:
            message = await self._loop.run_in_executor(self.link.pool, deflate, message)
        if self.done:
            raise GrpcError(Status.CANCELLED, "the call is over")
        link = self.link
        self._begin()
        link.session.send(self.stream_id, grpc_wire.prefix(len(message), compressed) + message)
        self.sent_bytes += PREFIX_BYTES + len(message)
        link.write_soon()
        if link.session.queued(self.stream_id) > SEND_AHEAD_BYTES:
            self._room = self._loop.create_future()
            link.when_taken(self.stream_id, self._on_room)
            await self._room

    def _on_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            headers = HEADERS_GZIP if self._gzip else HEADERS
            self.link.session.respond(self.stream_id, [*headers, *self.initial_metadata])

    # The end.

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """The handler has returned, or raised."""
        self._task = None  # its error's traceback has this call: a cycle with all that the call holds
        error = None if task.cancelled() else task.exception()
        if self.done:
            return
        if task.cancelled():
            self._end(Status.CANCELLED, "the server has given the call up")
        elif error is None:
            self._begin()
            self._end(Status.OK)
        elif isinstance(error, GrpcError):
            self._end(error.status, error.message)
        elif isinstance(error, DukouError):
            self._end(status.GRPC[error.code], str(error))
        else:
            self._fail(_failed(self.id, error))

    def _fail(self, error: GrpcError) -> None:
        """End the call with an error of the protocol or of ours, whatever the handler does."""
        if self.done:
            return
        exchange = Exchange(self._head, b"", self.id, self.arrived_s, nothing)
        self.link.shared.on_refused(exchange, _CODES[error.status])
        self.trailing_metadata.extend(_about(error, self.metadata))
        self._end(error.status, error.message)
        self._stop()

    def _end(self, number: int, message: str = "") -> None:
        end = grpc_wire.trailers(number, message, self.trailing_metadata)
        if self._begun:
            self.link.session.finish(self.stream_id, end)
        else:
            self.link.session.respond(self.stream_id, [*HEADERS, *self.initial_metadata, *end], end=True)
        self._drop()
        self.finish()
        if self.link.shared.log_to:
            exchange = Exchange(self._head, b"", self.id, self.arrived_s, nothing)
            self.link.shared.log_request(exchange, Answer(number), self.link.peer, self.sent_bytes)

    def _stop(self) -> None:
        self._drop()
        if self._task is not None:
            self._task.cancel()

    def _drop(self) -> None:
        self._messages.clear()
        self._give_back()
        if self._timer is not None:
            self._timer.cancel()


async def _run(handler: Handler, call: TaskCall) -> None:
    await handler(call)


def inflate(headers: Headers, message: bytes, limit: int) -> bytes:
    """A message whose compressed flag is set, as it was. Raises GrpcError."""
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding == b"identity":
        raise GrpcError(Status.INTERNAL, "a message says that it is compressed, but grpc-encoding does not say how")
    try:
        return decompress(encoding, message, limit)
    except DukouError as error:
        if error.reason is Reason.BODY_TOO_LARGE:
            detail = f"Received message after decompression larger than max ({limit})"
            raise GrpcError(Status.RESOURCE_EXHAUSTED, detail) from None
        raise GrpcError(Status.INTERNAL, f"a message could not be decompressed: {error.what()}") from None


def deflate(message: bytes) -> bytes:
    """A message compressed with gzip, fast rather than small."""
    stream = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return stream.compress(message) + stream.flush()


def may_compress(link: Link, headers: Headers) -> bool:
    """Whether answers are compressed, and for this client."""
    return link.settings.compress_above_bytes > 0 and grpc_wire.accepts_gzip(headers)


def _in_pool(
    link: Link,
    on_done: Callable[[bytes | None, BaseException | None], None],
    work: Callable[[bytes], bytes],
    data: bytes,
) -> "asyncio.Future[bytes]":
    """Run `work(data)` in the pool and tell its outcome on the loop, unless it is cancelled."""

    def done(future: "asyncio.Future[bytes]") -> None:
        if not future.cancelled():
            error = future.exception()
            on_done(None if error else future.result(), error)

    future = asyncio.get_running_loop().run_in_executor(link.pool, work, data)
    future.add_done_callback(done)
    return future


def _about(error: GrpcError, headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """What else a client is told: which encodings it may use, when it used another."""
    if error.status == Status.UNIMPLEMENTED and b"grpc-encoding" in headers:
        return ((b"grpc-accept-encoding", grpc_wire.ACCEPTED),)
    return ()


def _several() -> GrpcError:
    return GrpcError(Status.UNIMPLEMENTED, "more than one message came for a call that takes one")


def _failed(request_id: str, error: BaseException | None) -> GrpcError:
    """The log gets what went wrong, the client does not."""
    _log.error("request %s failed", request_id, exc_info=error)
    return GrpcError(Status.INTERNAL, DukouError(Reason.INTERNAL).what())


def _too_late() -> GrpcError:
    return GrpcError(Status.DEADLINE_EXCEEDED, "Deadline Exceeded")


def _shutting_down() -> GrpcError:
    return GrpcError(status.GRPC[Reason.DRAINING.code], DukouError(Reason.DRAINING).what())
