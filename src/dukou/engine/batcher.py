"""The Stage of one version: requests gather here, run as batches and take their own rows home."""

import logging
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from dukou.core.clock import Clock
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import BatchRan, Observer
from dukou.core.message import Copy, InferenceRequest, InferenceResponse, Tap
from dukou.core.model import ModelManifest, ModelVersion, Signature
from dukou.engine.batch import batch_key, has_fixed_rows
from dukou.engine.drive import Slot, resume_all
from dukou.engine.executor import Executor, Ran, describe
from dukou.engine.tick import Tick

_log = logging.getLogger("dukou.engine")

_ONE_REQUESTS_FAULT = {Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE, Code.INTERNAL}
"""A batch that failed so may have failed for one request in it, and is run again request by request."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How one version gathers requests. `together`: requests of different callers may share a batch."""

    max_batch_rows: int
    max_request_rows: int
    max_queue_rows: int
    max_queue_delay_s: float
    together: bool


class Waiting(Slot[InferenceResponse]):
    """A request in the queue, under `key`; `key` is None once it has left."""

    __slots__ = ("key", "request")

    request: InferenceRequest
    key: Hashable | None


class Batcher:
    """A Stage that runs all requests of one loop iteration together, where that changes no answer.

    No timer is needed: what the loop reads in one iteration waits for its end, and what arrives while the model is
    busy runs together when it is free. Every request gets its own rows or its own error: a batch that fails is run
    again one request at a time. `tap` is told of what ran, after the answers are out; `mark` is called with 1 before
    each execution and with -1 after it, for whoever wants to know what a process ran when it died.
    """

    def __init__(
        self,
        manifest: ModelManifest,
        executor: Executor,
        batching: Batching,
        *,
        tick: Tick,
        loop: AbstractEventLoop,
        clock: Clock,
        observers: Sequence[Observer],
    ) -> None:
        self._version = manifest.id
        self._fixed_rows = {one.name: has_fixed_rows(one) for one in manifest.signatures.values()}
        self._executor = executor
        self._batching = batching
        self._tick = tick
        self._loop = loop
        self._clock = clock
        self._observers = observers
        self._groups: dict[Hashable, dict[Waiting, None]] = {}  # by batch key; the group that waits longest is first
        self._rows = 0  # in all groups
        self._running = 0  # requests that the executor has
        self._due = False  # a turn has been asked for
        self._timer: TimerHandle | None = None
        self._closed = False
        self.tap: Tap | None = None
        self.mark: Callable[[float], None] | None = None

    @property
    def under_way(self) -> int:
        """Requests waiting or running here."""
        return self._running + self.waiting

    @property
    def version(self) -> ModelVersion:
        """Which version answers here."""
        return self._version

    @property
    def waiting(self) -> int:
        """Requests that wait for their execution."""
        return sum(len(group) for group in self._groups.values())

    async def warm(self) -> None:
        """Let the model set itself up, and learn its cost, before the first caller comes."""
        await self._executor.warm(self._batching.max_batch_rows if self._batching.together else 1)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The answer to `request`.

        Raises DukouError NOT_SUPPORTED for a streaming signature, BATCH_TOO_LARGE, QUEUE_FULL, DRAINING,
        DEADLINE_EXCEEDED, and what the model raises: its own DukouErrors, or MODEL_FAILED.
        """
        batching, signature, rows = self._batching, request.signature, request.rows
        if (
            self._closed
            or signature.streaming
            or rows > batching.max_request_rows
            or (self._rows and self._rows + rows > batching.max_queue_rows)
        ):
            raise self._refusal(signature, rows)
        waiting = Waiting()
        waiting.request = request
        if batching.together and signature.batched:
            self._enqueue(waiting, batch_key(request, self._fixed_rows[signature.name]))
        else:
            self._enqueue(waiting, waiting)
        try:
            return await waiting
        finally:
            if waiting.key is not None:
                self._leave(waiting)

    def close(self) -> None:
        """Take no more requests, and answer DRAINING to those that wait. What runs is finished."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._groups:
            _, group = self._groups.popitem()
            for waiting in group:
                self._rows -= waiting.request.rows
                waiting.key = None
                waiting.resume(error=DukouError(Reason.DRAINING))

    def _refusal(self, signature: Signature, rows: int) -> DukouError:
        if self._closed:
            return DukouError(Reason.DRAINING)
        facts: dict[str, Any] = {"model": self._version.name, "version": self._version.version}
        if signature.streaming:
            detail = "doesn't support models with decoupled transaction policy"
            return DukouError(Reason.NOT_SUPPORTED, **facts, detail=detail)
        most = self._batching.max_request_rows
        if rows > most:
            return DukouError(Reason.BATCH_TOO_LARGE, **facts, got=rows, wanted=most)
        return DukouError(Reason.QUEUE_FULL, **facts, got=self._rows, wanted=self._batching.max_queue_rows)

    def _enqueue(self, waiting: Waiting, key: Hashable) -> None:
        waiting.key = key
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = {waiting: None}
        else:
            group[waiting] = None
        self._rows += waiting.request.rows
        if self._due:
            return
        if self._batching.max_queue_delay_s == 0.0 or self._rows >= self._batching.max_batch_rows:
            self._ask_for_a_turn()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._batching.max_queue_delay_s, self._ask_for_a_turn)

    def _leave(self, waiting: Waiting) -> None:
        """The caller has gone before its turn."""
        group = self._groups[waiting.key]
        del group[waiting]
        if not group:
            del self._groups[waiting.key]
        self._rows -= waiting.request.rows
        waiting.key = None

    def _ask_for_a_turn(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._due:
            self._due = True
            self._tick.soon(self._flush)

    def _flush(self) -> None:
        """Run what waits, batch by batch, while the executor is free; when it is free again it asks for a turn."""
        self._due = False
        while self._groups and self._executor.free:
            batch, rows, late = self._take(self._clock())
            for waiting in late:
                waiting.resume(error=DukouError(Reason.DEADLINE_EXCEEDED))
            if batch:
                self._running += len(batch)
                requests = [waiting.request for waiting in batch]
                mark = self.mark
                if mark is None:
                    self._executor.run(requests, rows, partial(self._finish, batch, rows))
                else:
                    mark(1.0)
                    self._executor.run(requests, rows, partial(self._finish_marked, mark, batch, rows))

    def _take(self, now: float) -> tuple[list[Waiting], int, list[Waiting]]:
        """Out of the group that waits longest: the next batch, its rows, and those whose deadline has passed.

        Callers who have gone are left out. What does not fit goes behind the other groups.
        """
        key = next(iter(self._groups))
        group = self._groups.pop(key)
        batch: list[Waiting] = []
        late: list[Waiting] = []
        rows = 0
        alone = len(group) > 1 and not self._executor.joins(next(iter(group)).request)
        most = 1 if alone else self._batching.max_batch_rows
        for taken, waiting in enumerate(group):
            request = waiting.request
            if batch and rows + request.rows > most:
                for gone in list(islice(group, taken)):
                    del group[gone]
                self._groups[key] = group
                break
            waiting.key = None
            self._rows -= request.rows
            if not waiting.open:
                continue
            if request.context.deadline_s <= now:
                late.append(waiting)
            else:
                rows += request.rows
                batch.append(waiting)
        return batch, rows, late

    def _finish_marked(self, mark: Callable[[float], None], batch: list[Waiting], rows: int, ran: Ran) -> None:
        mark(-1.0)
        self._finish(batch, rows, ran)

    def _finish(self, batch: list[Waiting], rows: int, ran: Ran) -> None:
        """Hand out the answers, or deal with the failure; then let the next batch in."""
        self._running -= len(batch)
        arrived_s: Sequence[float] = ()
        entries: Sequence[int] = ()
        if ran.answers is None:
            assert ran.error is not None
            self._fail(batch, ran.error)
        else:
            if len(batch) == 1:  # a list made by a loop takes 0.15 µs more
                context = batch[0].request.context
                if batch[0].open:
                    arrived_s = (context.arrived_s,)
                    entries = (context.entry,)
            else:
                answered = [waiting.request.context for waiting in batch if waiting.open]
                arrived_s = [context.arrived_s for context in answered]
                entries = [context.entry for context in answered]
            resume_all(batch, ran.answers)
        self._tell(
            BatchRan(
                self._version,
                arrived_s,
                ran.started_s,
                ran.ended_s,
                rows,
                ran.inline,
                ran.joined_s,
                ran.inferred_s,
                entries,
            )
        )
        if self.tap is not None and ran.answers is not None:
            self._copy(self.tap, batch[0].request, rows, ran)
        if not ran.inline and self._groups:
            self._ask_for_a_turn()

    def _fail(self, batch: list[Waiting], error: DukouError) -> None:
        """Queue the requests of a failed batch again, each alone; or answer them with the error, one object each."""
        if len(batch) > 1 and error.code in _ONE_REQUESTS_FAULT:
            _log.warning(
                "%s: %d requests failed together and are run one by one: %s",
                describe(self._version),
                len(batch),
                error.__cause__ or error,
            )
            for waiting in batch:
                if waiting.open:
                    self._enqueue(waiting, waiting)
            return
        for waiting in batch:
            if error.code is Code.INTERNAL:
                _log.error(
                    "%s: request %r: %s",
                    describe(self._version),
                    waiting.request.context.id,
                    error.what(),
                    exc_info=error.__cause__,
                )
            waiting.resume(error=DukouError(error.reason, **error.facts))

    def _copy(self, tap: Tap, first: InferenceRequest, rows: int, ran: Ran) -> None:
        infer_s = ran.inferred_s - ran.joined_s
        try:
            tap(Copy(self._version, first.signature.name, ran.inputs, ran.outputs, rows, first.parameters, infer_s))
        except Exception as problem:
            self._loop.call_exception_handler({"message": "a tap failed", "exception": problem})

    def _tell(self, event: BatchRan) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception as problem:
                self._loop.call_exception_handler({"message": "an observer failed", "exception": problem})
