"""One inference: the request's body to a call of the data plane, its outcome to an answer."""

import asyncio
import logging
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

import msgspec

from dukou.config import EngineConfig
from dukou.core.clock import Clock
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import Observer, RequestRefused
from dukou.core.message import Context, DataPlane, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.version import ModelVersion
from dukou.net.exchange import Answer, Exchange
from dukou.net.routes import Call
from dukou.wire.codec import Reply

JSON_BYTES_PER_NUMBER = 10
MOST_GZIP_MEMBERS = 16

_log = logging.getLogger("dukou.net")
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15


class Calls:
    """Answers exchanges by calls of `plane`.

    Small bodies are read on the loop. Bodies above `decode_off_loop_bytes`, compressed bodies and large answers are
    worked on in `pool`, so that nobody else waits for them.
    """

    def __init__(
        self,
        plane: DataPlane,
        engine: EngineConfig,
        max_body_bytes: int,
        *,
        pool: Executor,
        clock: Clock,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._plane = plane
        self._max_body_bytes = max_body_bytes
        self._pool = pool
        self._clock = clock
        self._off_loop_bytes = engine.decode_off_loop_bytes
        self._timeout_s = engine.request_timeout_s
        self._observers = observers

    def answer(self, exchange: Exchange, call: Call) -> None:
        """Answer `exchange` once, now or later."""
        headers = exchange.headers
        arrived_s = exchange.arrived_s
        context = Context(exchange.id, arrived_s, arrived_s + self._timeout_s)
        if b"traceparent" in headers:
            context.traceparent = headers[b"traceparent"].decode("latin-1")
        if len(exchange.body) > self._off_loop_bytes or b"content-encoding" in headers:
            self._read_off_loop(exchange, call, context)
            return
        codec = call.dialect.codec
        version = None
        try:
            draft = codec.parse(call.ref, headers, exchange.body)
            served = self._plane.choose(draft.ref, draft.route_key)
            version = served.id
            self._start(exchange, call, served, codec.bind(draft, served, context))
        except Exception as error:
            self._fail(exchange, call, version, error)

    def _start(self, exchange: Exchange, call: Call, served: Served, request: InferenceRequest) -> None:
        assert served.stage is not None, "choose() returns AVAILABLE versions only"
        on_done = partial(self._done, exchange, call, request)
        exchange.run = self._plane.start(served.stage.infer(request), on_done, request.context.deadline_s)

    def _done(
        self,
        exchange: Exchange,
        call: Call,
        request: InferenceRequest,
        response: InferenceResponse | None,
        error: BaseException | None,
    ) -> None:
        """The outcome of the stages."""
        if response is None:
            self._fail(exchange, call, request.version, error or DukouError(Reason.INTERNAL))
        elif _is_large(response, self._off_loop_bytes):
            encode = call.dialect.codec.encode
            future = asyncio.get_running_loop().run_in_executor(self._pool, encode, request, response)
            exchange.run = future
            future.add_done_callback(partial(self._encoded, exchange, call, request))
        else:
            try:
                reply = call.dialect.codec.encode(request, response)
            except Exception as problem:
                self._fail(exchange, call, request.version, problem)
            else:
                exchange.answer(Answer(200, reply.body, reply.content_type, reply.headers))

    def _encoded(
        self, exchange: Exchange, call: Call, request: InferenceRequest, future: "asyncio.Future[Reply]"
    ) -> None:
        """A large answer has been written in the pool."""
        if future.cancelled():
            return
        try:
            reply = future.result()
        except Exception as error:
            self._fail(exchange, call, request.version, error)
        else:
            exchange.answer(Answer(200, reply.body, reply.content_type, reply.headers))

    def _read_off_loop(self, exchange: Exchange, call: Call, context: Context) -> None:
        """Read the body in the pool. The stages start from a callback, as they must not run inside a Task."""
        coroutine = self._parse_and_bind(exchange, call, context)
        task = asyncio.get_running_loop().create_task(coroutine)
        exchange.run = task
        task.add_done_callback(partial(self._read, exchange, call))

    async def _parse_and_bind(
        self, exchange: Exchange, call: Call, context: Context
    ) -> tuple[Served, InferenceRequest | Exception]:
        loop = asyncio.get_running_loop()
        draft = await loop.run_in_executor(self._pool, self._decompress_and_parse, exchange, call)
        served = self._plane.choose(draft.ref, draft.route_key)
        try:
            return served, await loop.run_in_executor(self._pool, call.dialect.codec.bind, draft, served, context)
        except Exception as error:
            return served, error

    def _decompress_and_parse(self, exchange: Exchange, call: Call) -> Draft:
        headers = exchange.headers
        body = decompress(headers.get(b"content-encoding", b""), exchange.body, self._max_body_bytes)
        return call.dialect.codec.parse(call.ref, headers, body)

    def _read(
        self, exchange: Exchange, call: Call, task: "asyncio.Task[tuple[Served, InferenceRequest | Exception]]"
    ) -> None:
        """A large body has been read in the pool."""
        if task.cancelled():
            return
        version = None
        try:
            served, request = task.result()
            version = served.id
            if isinstance(request, Exception):
                raise request
            self._start(exchange, call, served, request)
        except Exception as error:
            self._fail(exchange, call, version, error)

    def _fail(self, exchange: Exchange, call: Call, version: ModelVersion | None, error: BaseException) -> None:
        """Answer with an error, tell the observers, and log what only the server may know."""
        if isinstance(error, asyncio.CancelledError):
            error = DukouError(Reason.CANCELLED)
        elif not isinstance(error, DukouError):
            known = DukouError(Reason.INTERNAL)
            known.__cause__ = error
            error = known
        if error.code in (Code.INTERNAL, Code.DATA_LOSS):
            _log.error("request %s failed: %s", exchange.id, error, exc_info=error)
        ended_s = self._clock()
        for observer in self._observers:
            observer(RequestRefused(version, error.code, exchange.arrived_s, ended_s))
        exchange.answer(_refusal(exchange, call, error))


def _refusal(exchange: Exchange, call: Call, error: DukouError) -> Answer:
    try:
        answer = call.dialect.refuse(error)
    except Exception:
        _log.exception("request %s: its error could not be written", exchange.id)
        return call.dialect.refuse(DukouError(Reason.INTERNAL))
    if error.code is Code.UNIMPLEMENTED and b"content-encoding" in exchange.headers:
        return msgspec.structs.replace(answer, headers=((b"accept-encoding", b"gzip, deflate"),))
    return answer


def _is_large(response: InferenceResponse, limit_bytes: int) -> bool:
    """Whether the answer is more than `limit_bytes` of JSON, guessed at ten bytes a number."""
    numbers = 0
    for array in response.outputs.values():
        numbers += array.size
    return numbers * JSON_BYTES_PER_NUMBER > limit_bytes


def decompress(encoding: bytes, body: bytes, max_bytes: int) -> bytes:
    """`body` without its Content-Encoding: gzip, deflate (zlib's format, or raw as some clients send it), identity.

    Never makes more than `max_bytes`. Raises DukouError BODY_TOO_LARGE as soon as there would be more,
    MALFORMED_REQUEST for damaged data, NOT_SUPPORTED for other encodings.
    """
    coding = encoding.strip().lower()
    if coding in (b"", b"identity"):
        return body
    if coding in (b"gzip", b"x-gzip"):
        return _inflate(body, _GZIP, max_bytes)
    if coding == b"deflate":
        is_zlib = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
        return _inflate(body, _ZLIB if is_zlib else _RAW_DEFLATE, max_bytes)
    text = coding[:40].decode("latin-1")
    raise DukouError(
        Reason.NOT_SUPPORTED, detail=f"the content encoding {text!r} is not supported; use gzip or deflate"
    )


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> bytes:
    """All members of `body` (gzip allows several, RFC 1952 section 2.2)."""
    parts = []
    room = max_bytes
    rest = body
    try:
        for _ in range(MOST_GZIP_MEMBERS):
            if not rest:
                break
            stream = zlib.decompressobj(window_bits)
            parts.append(stream.decompress(rest, room + 1))
            room -= len(parts[-1])
            if room < 0:
                raise DukouError(Reason.BODY_TOO_LARGE, wanted=max_bytes)
            if not stream.eof:
                raise DukouError(Reason.MALFORMED_REQUEST, detail="the compressed body ends too early")
            rest = stream.unused_data
        else:
            raise DukouError(
                Reason.MALFORMED_REQUEST, detail=f"the compressed body has more than {MOST_GZIP_MEMBERS} parts"
            )
    except zlib.error as error:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=f"the compressed body is damaged: {error}") from None
    return b"".join(parts)
