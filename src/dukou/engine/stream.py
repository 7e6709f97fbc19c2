"""Requests of streaming signatures: any number of responses, each made by one step of the model's iterator.

A second shape beside the batcher's: nothing is batched, and what runs here are ordinary asyncio tasks. Steps run in the
pool, at most the model's `concurrency` of them at a time, so that many open streams take turns.
"""

import asyncio
import logging
import math
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor as Pool
from contextlib import AbstractContextManager
from typing import Any

from dukou.core.clock import Clock
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import BatchRan, Observer
from dukou.core.message import InferenceRequest, InferenceResponse
from dukou.core.model import ModelManifest
from dukou.core.runtime import StreamingModel
from dukou.core.tensor import Tensors
from dukou.engine.executor import describe

_log = logging.getLogger("dukou.engine")


class Streamer:
    """Streams the responses of one version (a `dukou.core.message.Streamer`).

    `admitted()` bounds and counts what is under way: a context that raises OVERLOADED or DRAINING. One BatchRan is told
    for each request that ran, however many responses it had, as Triton counts: one execution, and one request that
    succeeded when its last response was taken. Its `inferred_s - joined_s` is the time of all steps together.
    """

    def __init__(
        self,
        manifest: ModelManifest,
        model: StreamingModel,
        max_request_rows: int,
        *,
        admitted: Callable[[], AbstractContextManager[None]],
        pool: Pool,
        loop: AbstractEventLoop,
        clock: Clock,
        observers: Sequence[Observer],
    ) -> None:
        self._version = manifest.id
        self._model = model
        self._max_request_rows = max_request_rows
        self._admitted = admitted
        self._pool = pool
        self._loop = loop
        self._clock = clock
        self._observers = observers
        self._turns = asyncio.Semaphore(max(1, model.concurrency))
        self._closed: asyncio.Future[None] = loop.create_future()
        self._ending: set[asyncio.Task[None]] = set()

    async def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceResponse, None]:
        """The responses as they come; the next is made while the caller takes the last, one ahead at most.

        The deadline holds between the responses and while one is waited for. Closing the generator ends the work: a
        step that runs is let finish in its thread, and the model's iterator is closed after it. Raises DukouError
        BATCH_TOO_LARGE, OVERLOADED, DRAINING, DEADLINE_EXCEEDED, and what the model raises: its own DukouErrors, or
        MODEL_FAILED.
        """
        with self._admitted():
            self._check(request)
            work = _Work(self._model, request, self._clock)
            step = self._loop.create_task(self._step(work))
            finished = False
            try:
                while (outputs := await self._in_time(step, request)) is not None:
                    step = self._loop.create_task(self._step(work))
                    yield InferenceResponse(self._version, outputs)
                finished = True
            finally:
                if not finished:
                    work.abandoned = True
                    ending = self._loop.create_task(self._end(work, step))
                    self._ending.add(ending)
                    ending.add_done_callback(self._ending.discard)
                if work.started_s is not None:
                    self._tell(_execution(work, request, self._clock(), finished))

    def close(self) -> None:
        """Answer DRAINING to every stream that waits for a response, and to those that ask for another."""
        if not self._closed.done():
            self._closed.set_result(None)

    def _check(self, request: InferenceRequest) -> None:
        if request.context.deadline_s <= self._clock():
            raise DukouError(Reason.DEADLINE_EXCEEDED)
        if request.rows > self._max_request_rows:
            raise DukouError(
                Reason.BATCH_TOO_LARGE,
                model=self._version.name,
                version=self._version.version,
                got=request.rows,
                wanted=self._max_request_rows,
            )

    async def _step(self, work: "_Work") -> Tensors | None:
        """The outputs of the next response, None after the last."""
        async with self._turns:
            try:
                return await self._loop.run_in_executor(self._pool, work.step)
            except RuntimeError as error:  # the pool has been shut down
                raise DukouError(Reason.DRAINING) from error

    async def _in_time(self, step: "asyncio.Task[Tensors | None]", request: InferenceRequest) -> Tensors | None:
        """What `step` gives. Raises DEADLINE_EXCEEDED or DRAINING when that comes first; the step goes on."""
        left_s = request.context.deadline_s - self._clock()
        if left_s > 0.0 and not self._closed.done():
            await asyncio.wait(
                (step, self._closed),
                timeout=None if left_s == math.inf else left_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        if self._closed.done():
            raise DukouError(Reason.DRAINING)
        if left_s <= 0.0 or not step.done():
            raise DukouError(Reason.DEADLINE_EXCEEDED)
        try:
            return step.result()
        except DukouError as error:
            if error.code is Code.INTERNAL:
                _log.error(
                    "%s: request %r: %s",
                    describe(self._version),
                    request.context.id,
                    error.what(),
                    exc_info=error.__cause__,
                )
            raise

    async def _end(self, work: "_Work", step: "asyncio.Task[Tensors | None]") -> None:
        """Close the model's iterator once the step under way has come to its end."""
        await asyncio.wait((step,))
        if not step.cancelled():
            step.exception()  # or asyncio complains that nobody asked
        async with self._turns:
            try:
                await self._loop.run_in_executor(self._pool, work.close)
            except RuntimeError:  # the pool has been shut down, and the process ends
                pass

    def _tell(self, event: BatchRan) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception as problem:
                self._loop.call_exception_handler({"message": "an observer failed", "exception": problem})


class _Work:
    """The model's work on one request; `step` and `close` are called in threads, never both at once."""

    def __init__(self, model: StreamingModel, request: InferenceRequest, clock: Clock) -> None:
        self.started_s: float | None = None
        self.ran_s = 0.0
        self.abandoned = False
        self._model = model
        self._request = request
        self._clock = clock
        self._iterator: Iterator[Tensors] | None = None

    def step(self) -> Tensors | None:
        """The next response's outputs, of those asked for; None at the end. Raises DukouError: this is the border
        where a model's exceptions become ours."""
        if self.abandoned:
            return None
        version = self._request.version
        begun_s = self._clock()
        self.started_s = begun_s if self.started_s is None else self.started_s
        try:
            if self._iterator is None:
                request = self._request
                self._iterator = iter(
                    self._model.stream(request.signature.name, request.inputs, request.outputs, request.parameters)
                )
            outputs = next(self._iterator, None)
            return outputs and {name: outputs[name] for name in self._request.outputs if name in outputs}
        except DukouError as error:
            raise error.within(model=version.name, version=version.version) from error.__cause__
        except (Exception, SystemExit, CancelledError) as error:  # a model may not end the server
            raise DukouError(Reason.MODEL_FAILED, model=version.name, version=version.version) from error
        finally:
            self.ran_s += self._clock() - begun_s

    def close(self) -> None:
        """End the iterator, where it has a way to. What it raises is logged."""
        close: Any = getattr(self._iterator, "close", None)
        if close is None:
            return
        try:
            close()
        except (Exception, SystemExit, CancelledError) as error:
            _log.error("%s: its iterator could not be closed", describe(self._request.version), exc_info=error)


def _execution(work: _Work, request: InferenceRequest, ended_s: float, finished: bool) -> BatchRan:
    """The request as one execution; a request that failed or was given up counts as one that answered nobody."""
    assert work.started_s is not None
    if not finished:
        return BatchRan(request.version, (), work.started_s, ended_s, request.rows, inline=False)
    return BatchRan(
        request.version,
        (request.context.arrived_s,),
        work.started_s,
        ended_s,
        request.rows,
        inline=False,
        joined_s=work.started_s,
        inferred_s=work.started_s + work.ran_s,
        entries=(request.context.entry,),
    )
