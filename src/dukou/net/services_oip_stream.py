"""ModelStreamInfer: any number of requests on one stream, answered side by side.

Requests with one response are answered in their order. Those of models that answer with any number of responses wait
for nobody, and nobody waits for them; the responses to one such request are in order.
"""

import asyncio
from contextlib import aclosing

from dukou.core.entry import entry
from dukou.core.errors import DukouError
from dukou.core.message import Context
from dukou.core.version import ModelRef
from dukou.net import status, streaming
from dukou.net.facts import Facts
from dukou.net.rpc import GrpcError, Rpc
from dukou.wire import oip_grpc
from dukou.wire.oip_grpc_stream import StreamedCall

MOST_UNDER_WAY = 32
"""Requests of one stream; the next message is taken when one of them has been answered."""

_IN_THE_MESSAGE = ModelRef("")
_STREAM_INFER = entry("ModelStreamInfer", "GRPC")


async def model_stream_infer(facts: Facts, bare: bool, rpc: Rpc) -> None:
    """Answer a stream's requests until its caller has said the last.

    An error is an answer like others, unless the caller's metadata have `triton_grpc_error: true` or the answers are
    `bare` (`StreamedCall`): then the first error ends the stream. Raises GrpcError.
    """
    errors_end_it = bare or rpc.metadata.get(b"triton_grpc_error") == b"true"
    stream = _Stream(facts, rpc, bare, errors_end_it)
    try:
        async with asyncio.TaskGroup() as tasks:
            await stream.read(tasks)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


class _Turn:
    """A request's place in the order of the answers."""

    def __init__(self, before: "asyncio.Future[None] | None") -> None:
        self._before = before
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def come(self) -> None:
        """Wait for the requests before this one to be answered."""
        if self._before is not None and not self._before.done():
            await asyncio.wait([self._before])  # which, unlike an await, does not cancel it

    def leave(self) -> None:
        """The next request waits for those before this one only."""
        if self._before is None or self._before.done():
            self._end()
        else:
            self._before.add_done_callback(self._end)

    def _end(self, _: object = None) -> None:
        if not self.over.done():
            self.over.set_result(None)


class _Stream:
    """One call of ModelStreamInfer."""

    def __init__(self, facts: Facts, rpc: Rpc, bare: bool, errors_end_it: bool) -> None:
        self._facts = facts
        self._rpc = rpc
        self._bare = bare
        self._errors_end_it = errors_end_it
        self._places = asyncio.Semaphore(MOST_UNDER_WAY)
        self._sending = asyncio.Lock()

    async def read(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to answer each request as it comes."""
        before: asyncio.Future[None] | None = None
        while True:
            await self._places.acquire()
            message = await self._rpc.receive()
            if message is None:
                return
            turn = _Turn(before)
            before = turn.over
            tasks.create_task(self._answer(message, turn))

    async def _answer(self, message: bytes, turn: _Turn) -> None:
        loop = asyncio.get_running_loop()
        call = StreamedCall(bare=self._bare, on_streaming=lambda: loop.call_soon_threadsafe(turn.leave))
        try:
            await self._send_responses(message, call, turn)
            if call.streaming and call.wants_end:
                await self._send(call.end())
        except DukouError as error:
            if not call.streaming:
                await turn.come()
            if self._errors_end_it:
                raise GrpcError(status.GRPC[error.code], oip_grpc.refuse(error).decode()) from error.__cause__
            await self._send(call.refuse(error))
        finally:
            turn.leave()
            self._places.release()

    async def _send_responses(self, message: bytes, call: StreamedCall, turn: _Turn) -> None:
        facts, rpc = self._facts, self._rpc
        context = Context(rpc.id, facts.clock(), self._deadline_s(), entry=_STREAM_INFER)
        coming = streaming.responses(facts, call, _IN_THE_MESSAGE, rpc.metadata, message, context)
        async with aclosing(coming) as responses:
            async for request, response in responses:
                reply = await streaming.encode(facts, call, request, response)
                if not call.streaming:
                    await turn.come()
                await self._send(reply.body)
                request.context.deadline_s = self._deadline_s()

    def _deadline_s(self) -> float:
        """Of the next response."""
        return min(self._rpc.deadline_s, self._facts.clock() + self._facts.request_timeout_s)

    async def _send(self, message: bytes) -> None:
        async with self._sending:
            await self._rpc.send(message)
