"""Inference from ordinary asyncio tasks: streams of messages, events and responses.

A task may not step the engine's driver, so the calls here are begun and cancelled by callbacks of the loop. Each call
that fails or is given up is told to the observers once.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from dukou.core.errors import DukouError, Reason
from dukou.core.event import RequestRefused
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Run, Served
from dukou.core.version import ModelRef, ModelVersion
from dukou.net.facts import Facts
from dukou.net.reading import read
from dukou.wire.codec import Codec, Headers, Reply

T = TypeVar("T")

_log = logging.getLogger("dukou.net")


async def infer(  # noqa: PLR0917 - what a codec and a choice need, one by one
    facts: Facts, codec: Codec, ref: ModelRef, headers: Headers, body: bytes, context: Context
) -> tuple[InferenceRequest, InferenceResponse]:
    """The one answer to `body`, and the request it is for, which `codec.encode` needs.

    Admission and `context.deadline_s` hold at every step of it. Raises DukouError.
    """
    call = _Call(facts, context)
    return await call.tell_refusal(call.driven(call.infer(codec, ref, headers, body)))


async def run(facts: Facts, served: Served, request: InferenceRequest) -> InferenceResponse:
    """The one answer of `served`, which has been chosen, to `request`, which it has bound. Raises DukouError."""
    call = _Call(facts, request.context, served.id)
    return await call.tell_refusal(call.driven(call.answer(served, request)))


async def responses(  # noqa: PLR0917
    facts: Facts, codec: Codec, ref: ModelRef, headers: Headers, body: bytes, context: Context
) -> AsyncGenerator[tuple[InferenceRequest, InferenceResponse], None]:
    """The responses to `body`, each with the request they are for: any number of a streaming signature, else one.

    The model makes the next while the caller takes the last. Closing the iterator (`aclose`, or the end of the task
    that iterates) ends the work. Raises DukouError, perhaps after some responses.
    """
    call = _Call(facts, context)
    served, request = await call.tell_refusal(call.read(codec, ref, headers, body))
    if not request.signature.streaming:
        yield request, await call.tell_refusal(call.driven(call.answer(served, request)))
        return
    if served.streamer is None:
        detail = "this version's runtime cannot stream its responses"
        raise call.refused(DukouError(Reason.NOT_SUPPORTED, detail=detail))
    failure: DukouError | None = DukouError(Reason.CANCELLED)
    try:
        async with aclosing(served.streamer.stream(request)) as coming:
            async for response in coming:
                yield request, response
        failure = None
    except Exception as error:
        failure = _ours(error)
        raise failure from error.__cause__
    finally:
        if failure is not None:
            call.refused(failure)


async def encode(facts: Facts, codec: Codec, request: InferenceRequest, response: InferenceResponse) -> Reply:
    """The response as `codec` writes it, in the pool when it is large. Raises DukouError."""
    call = _Call(facts, request.context, response.version, executed=True)
    return await call.tell_refusal(call.write(codec, request, response))


class _Call:
    """One call, and what is known of it when it fails."""

    def __init__(
        self, facts: Facts, context: Context, version: ModelVersion | None = None, *, executed: bool = False
    ) -> None:
        self._facts = facts
        self._context = context
        self.version = version
        self._executed = executed

    async def infer(
        self, codec: Codec, ref: ModelRef, headers: Headers, body: bytes
    ) -> tuple[InferenceRequest, InferenceResponse]:
        served, request = await self.read(codec, ref, headers, body)
        return request, await self.answer(served, request)

    async def read(self, codec: Codec, ref: ModelRef, headers: Headers, body: bytes) -> tuple[Served, InferenceRequest]:
        limit = self._facts.off_loop_bytes
        if len(body) > limit and codec.reading_bytes(headers, body) > limit:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._facts.pool, self._read, codec, ref, headers, body)
        return self._read(codec, ref, headers, body)

    def _read(self, codec: Codec, ref: ModelRef, headers: Headers, body: bytes) -> tuple[Served, InferenceRequest]:
        return read(self._facts.plane, codec, ref, headers, body, self._context, self)

    async def answer(self, served: Served, request: InferenceRequest) -> InferenceResponse:
        assert served.stage is not None, "choose() returns AVAILABLE versions only"
        return await served.stage.infer(request)

    async def write(self, codec: Codec, request: InferenceRequest, response: InferenceResponse) -> Reply:
        if codec.writing_bytes(request, response) > self._facts.off_loop_bytes:
            return await asyncio.get_running_loop().run_in_executor(self._facts.pool, codec.encode, request, response)
        return codec.encode(request, response)

    async def driven(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, run by the data plane. Cancelled with the task that awaits this."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

        def begin() -> None:
            if told.done():
                work.close()
                return
            under_way: Run = self._facts.plane.start(work, done, self._context.deadline_s)
            told.add_done_callback(lambda ended: under_way.cancel() if ended.cancelled() else None)

        def done(value: T | None, error: BaseException | None) -> None:
            if told.done():
                return
            told.set_result((value, error))

        loop.call_soon(begin)
        value, error = await told
        if error is not None:
            del told  # it holds the error, whose traceback will hold this frame
            try:
                raise _ours(error)
            finally:
                del error
        return value  # type: ignore[return-value]

    async def tell_refusal(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns; the observers are told when it fails."""
        try:
            return await work
        except asyncio.CancelledError:
            self.refused(DukouError(Reason.CANCELLED))
            raise
        except Exception as error:
            raise self.refused(_ours(error)) from error.__cause__

    def refused(self, error: DukouError) -> DukouError:
        """`error`, of which the observers have now been told."""
        facts = self._facts
        event = RequestRefused(self.version, error.code, self._context.arrived_s, facts.clock(), self._executed)
        for observer in facts.observers:
            observer(event)
        return error


def _ours(error: BaseException) -> DukouError:
    """A failure in our terms; one that is not yet said so is logged."""
    if isinstance(error, DukouError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return DukouError(Reason.CANCELLED)
    _log.error("a request failed", exc_info=error)
    return DukouError(Reason.INTERNAL)
