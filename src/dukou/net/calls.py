"""One inference: the request's body to a call of the data plane, its outcome to an answer."""

import asyncio
import logging
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor

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
        self.plane = plane
        self.max_body_bytes = max_body_bytes
        self.pool = pool
        self.clock = clock
        self.off_loop_bytes = engine.decode_off_loop_bytes
        self.timeout_s = engine.request_timeout_s
        self.observers = observers

    def answer(self, exchange: Exchange, call: Call) -> None:
        """Answer `exchange` once, now or later."""
        running = _RunningCall(self, exchange, call)
        if len(exchange.body) > self.off_loop_bytes or b"content-encoding" in exchange.headers:
            running.begin_off_loop()
        else:
            running.begin()


class _RunningCall:
    """One call on its way through parse, choose, bind, the stages and encode."""

    __slots__ = ("_call", "_calls", "_context", "_exchange", "_request", "_version")

    def __init__(self, calls: Calls, exchange: Exchange, call: Call) -> None:
        self._calls = calls
        self._exchange = exchange
        self._call = call
        self._version: ModelVersion | None = None
        self._request: InferenceRequest
        self._context = Context(
            exchange.id,
            exchange.arrived_s,
            exchange.arrived_s + calls.timeout_s,
            "",
            exchange.headers.get(b"traceparent", b"").decode("latin-1"),
        )

    def begin(self) -> None:
        """Everything up to the stages, on the loop."""
        exchange = self._exchange
        codec = self._call.dialect.codec
        try:
            draft = codec.parse(self._call.ref, exchange.headers, exchange.body)
            served = self._choose(draft)
            self._start(served, codec.bind(draft, served, self._context))
        except Exception as error:
            self._fail(error)

    def begin_off_loop(self) -> None:
        """The same, reading the body in the pool. The stages start from a callback: they must not run in a Task."""
        task = asyncio.get_running_loop().create_task(self._read_off_loop())
        self._exchange.run = task
        task.add_done_callback(self._read)

    async def _read_off_loop(self) -> tuple[Served, InferenceRequest]:
        loop = asyncio.get_running_loop()
        codec = self._call.dialect.codec
        draft = await loop.run_in_executor(self._calls.pool, self._parse_encoded)
        served = self._choose(draft)
        return served, await loop.run_in_executor(self._calls.pool, codec.bind, draft, served, self._context)

    def _parse_encoded(self) -> Draft:
        exchange = self._exchange
        encoding = exchange.headers.get(b"content-encoding", b"")
        body = decompress(encoding, exchange.body, self._calls.max_body_bytes)
        return self._call.dialect.codec.parse(self._call.ref, exchange.headers, body)

    def _read(self, task: "asyncio.Task[tuple[Served, InferenceRequest]]") -> None:
        if task.cancelled():
            return
        try:
            self._start(*task.result())
        except Exception as error:
            self._fail(error)

    def _choose(self, draft: Draft) -> Served:
        served = self._calls.plane.choose(draft.ref, draft.route_key)
        self._version = served.id
        return served

    def _start(self, served: Served, request: InferenceRequest) -> None:
        assert served.stage is not None, "choose() returns AVAILABLE versions only"
        self._request = request
        exchange = self._exchange
        run = self._calls.plane.start(served.stage.infer(request), self._done, self._context.deadline_s)
        exchange.run = run

    def _done(self, response: InferenceResponse | None, error: BaseException | None) -> None:
        """The outcome of the stages."""
        if response is None:
            self._fail(error or DukouError(Reason.INTERNAL))
        elif _is_large(response, self._calls.off_loop_bytes):
            encode = self._call.dialect.codec.encode
            future = asyncio.get_running_loop().run_in_executor(self._calls.pool, encode, self._request, response)
            self._exchange.run = future
            future.add_done_callback(self._encoded)
        else:
            try:
                reply = self._call.dialect.codec.encode(self._request, response)
            except Exception as problem:
                self._fail(problem)
            else:
                self._say(reply)

    def _encoded(self, future: "asyncio.Future[Reply]") -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._say(future.result())
        else:
            self._fail(error)

    def _say(self, reply: Reply) -> None:
        self._exchange.answer(Answer(200, reply.body, reply.content_type, reply.headers))

    def _fail(self, error: BaseException) -> None:
        """Answer with an error, tell the observers, and log what only the server may know."""
        exchange = self._exchange
        if isinstance(error, asyncio.CancelledError):
            error = DukouError(Reason.CANCELLED)
        elif not isinstance(error, DukouError):
            known = DukouError(Reason.INTERNAL)
            known.__cause__ = error
            error = known
        if error.code in (Code.INTERNAL, Code.DATA_LOSS):
            _log.error("request %s failed: %s", exchange.id, error, exc_info=error)
        ended_s = self._calls.clock()
        for observer in self._calls.observers:
            observer(RequestRefused(self._version, error.code, exchange.arrived_s, ended_s))
        exchange.answer(self._refuse(error))

    def _refuse(self, error: DukouError) -> Answer:
        try:
            answer = self._call.dialect.refuse(error)
            if error.code is Code.UNIMPLEMENTED and b"content-encoding" in self._exchange.headers:
                answer = msgspec.structs.replace(answer, headers=((b"accept-encoding", b"gzip, deflate"),))
            return answer
        except Exception:
            _log.exception("request %s: its error could not be written", self._exchange.id)
            return self._call.dialect.refuse(DukouError(Reason.INTERNAL))


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
