"""One inference: the request's body to a call of the data plane, its outcome to an answer."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import msgspec

from dukou.config import EngineConfig
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, DataPlane, InferenceRequest, Served
from dukou.net.api import Call
from dukou.net.exchange import Answer, Exchange, OnRefused
from dukou.net.reading import read

T = TypeVar("T")

MOST_TEXT_PER_BYTE = 64
"""Of an array; seldom more, names of outputs included: what is small even so is not looked at further."""

_log = logging.getLogger("dukou.net")


class Calls:
    """Answers exchanges by calls of `plane`.

    A call is one coroutine from its body to its answer, so what bounds calls (admission, the deadline, the end of a
    drain, a client that goes) holds at every step of it. Small bodies and answers are read and written on the loop;
    large ones and compressed bodies in `pool`, which no model may occupy. `on_refused` is told of calls that fail.
    """

    def __init__(
        self, plane: DataPlane, engine: EngineConfig, max_body_bytes: int, *, pool: Executor, on_refused: OnRefused
    ) -> None:
        self._plane = plane
        self.max_body_bytes = max_body_bytes
        self._pool = pool
        self._off_loop_bytes = engine.decode_off_loop_bytes
        self.timeout_s = engine.request_timeout_s
        self._on_refused = on_refused

    def answer(self, exchange: Exchange, call: Call) -> None:
        """Answer `exchange` once, now or later."""
        own_s, latest_s = exchange.deadline_s, exchange.arrived_s + self.timeout_s
        deadline_s = own_s if own_s < latest_s else latest_s  # min() takes 0.1 µs more
        exchange.run = self._plane.start(
            self._call(exchange, call, deadline_s),
            lambda answer, error: self._done(exchange, call, answer, error),  # partial takes 0.15 µs more
            deadline_s,
        )

    async def _call(self, exchange: Exchange, call: Call, deadline_s: float) -> Answer:
        """The answer to a call. Raises DukouError, and whatever a codec or stage fails with."""
        assert exchange.head is not None
        headers = exchange.head.headers
        api = call.api
        context = Context(exchange.id, exchange.arrived_s, deadline_s)
        context.entry = api.entry
        if b"traceparent" in headers:
            context.traceparent = headers[b"traceparent"].decode("latin-1")
        codec = api.codec
        limit = self._off_loop_bytes
        body = exchange.body
        if b"content-encoding" in headers or (len(body) > limit and codec.reading_bytes(headers, body) > limit):
            served, request = await self._in_pool(self._read_large, exchange, call, context)
        else:
            served, request = read(self._plane, codec, call.ref, headers, body, context, exchange)
        assert served.stage is not None, "choose() returns AVAILABLE versions only"
        response = await served.stage.infer(request)
        exchange.executed = True
        if response.array_bytes * MOST_TEXT_PER_BYTE > limit and codec.writing_bytes(request, response) > limit:
            reply = await self._in_pool(codec.encode, request, response)
        else:
            reply = codec.encode(request, response)
        return Answer(api.ok, reply.body, reply.content_type, reply.headers + api.headers)

    def _read_large(self, exchange: Exchange, call: Call, context: Context) -> tuple[Served, InferenceRequest]:
        """As `read`; a compressed body is decompressed before."""
        headers, body = exchange.headers, exchange.body
        if b"content-encoding" in headers:
            body = call.api.decompress(headers[b"content-encoding"], body, self.max_body_bytes)
        return read(self._plane, call.api.codec, call.ref, headers, body, context, exchange)

    def _in_pool(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def _done(self, exchange: Exchange, call: Call, answer: Answer | None, error: BaseException | None) -> None:
        """The outcome of a call. A failure that is not yet said in our terms is said, and logged, here."""
        if answer is not None:
            exchange.answer(answer)
            return
        if isinstance(error, asyncio.CancelledError):
            error = DukouError(Reason.CANCELLED)
        elif not isinstance(error, DukouError):
            _log.error("request %s failed", exchange.id, exc_info=error)
            error = DukouError(Reason.INTERNAL)
        self._on_refused(exchange, error.code)
        exchange.answer(_refusal(exchange, call, error))


def _refusal(exchange: Exchange, call: Call, error: DukouError) -> Answer:
    try:
        answer = call.api.refuse(error)
    except Exception:
        _log.exception("request %s: its error could not be written", exchange.id)
        return call.api.refuse(DukouError(Reason.INTERNAL))
    if error.code is Code.UNIMPLEMENTED and b"content-encoding" in exchange.headers:
        return msgspec.structs.replace(answer, headers=(*answer.headers, (b"accept-encoding", b"gzip, deflate")))
    return answer
