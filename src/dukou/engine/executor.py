"""Runs batches of one version: on the loop while this iteration's budget lasts, else in a thread."""

import logging
import math
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from typing import TypeAlias

import msgspec
import numpy as np

from dukou.core.clock import Clock
from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse
from dukou.core.model import ModelManifest, ModelVersion, Signature
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import DTYPES, Tensors
from dukou.engine.batch import cut, has_fixed_rows, join
from dukou.engine.cost import Cost, Placement, placement, worth_joining
from dukou.engine.tick import Tick

_log = logging.getLogger("dukou.engine")

_WARM_RUNS = 3
_WARM_ROWS = 16
_WARM_ENOUGH_S = 0.1
_WARM_MOST_S = 1.0
_BLOCKED_BUDGETS = 10
"""A run that held the loop for more than so many budgets counts whole at once, though it may have been interrupted."""


class Ran(msgspec.Struct):
    """What came of one execution: `answers`, one for each request in order, or else `error`.

    A foreign exception of the model is the `__cause__` of its MODEL_FAILED. `started_s` and `ended_s` bound the time
    that the loop or thread was taken, joining and cutting included; the model itself ran from `joined_s` to
    `inferred_s`, which are 0 after a failure. It was given `inputs` and answered `outputs`.
    """

    answers: Sequence[InferenceResponse] | None
    error: DukouError | None
    started_s: float
    ended_s: float
    inline: bool
    joined_s: float = 0.0
    inferred_s: float = 0.0
    inputs: Tensors = {}
    outputs: Tensors = {}


OnRan: TypeAlias = Callable[[Ran], None]


class Executor:
    """Calls one LoadedModel, in at most its `concurrency` threads at a time, and learns what a batch costs.

    `may_run_inline` is false for a model that may make the loop wait whatever it cost so far.
    """

    def __init__(
        self,
        manifest: ModelManifest,
        model: LoadedModel,
        *,
        tick: Tick,
        pool: Pool,
        loop: AbstractEventLoop,
        clock: Clock,
        may_run_inline: bool = True,
    ) -> None:
        self._version = manifest.id
        self._signatures = tuple(manifest.signatures.values())
        self._fixed_rows = {one.name: has_fixed_rows(one) for one in self._signatures}
        self._warms = manifest.options.get("warm", True) is not False
        self._may_run_inline = may_run_inline
        self._costs: dict[tuple[str, int], Cost] = {}
        self._model = model
        self._tick = tick
        self._pool = pool
        self._loop = loop
        self._clock = clock
        self._concurrency = max(1, model.concurrency)
        self._in_threads = 0

    @property
    def free(self) -> bool:
        """Whether another batch may start now."""
        return self._in_threads < self._concurrency

    def run(self, requests: Sequence[InferenceRequest], rows: int, on_ran: OnRan) -> None:
        """Run `requests`, `rows` in all, as one batch; call it only while `free`.

        `on_ran` is called once: before this returns when the batch ran on the loop, else from the loop later.
        """
        cost = self.cost_of(requests[0])
        if self._may_run_inline and placement(cost.estimate(rows), self._tick.left_s) is Placement.INLINE:
            ran = self._execute(requests, inline=True)
            self._tick.spend(ran.ended_s - ran.started_s)
            _learn(cost, rows, ran, self._tick.budget_s * _BLOCKED_BUDGETS)
            on_ran(ran)
            return
        self._in_threads += 1
        try:
            self._pool.submit(self._in_thread, requests, rows, cost, on_ran)
        except RuntimeError:  # the pool has been shut down
            self._in_threads -= 1
            now = self._clock()
            on_ran(Ran(None, DukouError(Reason.DRAINING), now, now, inline=False))

    def joins(self, request: InferenceRequest) -> bool:
        """Whether requests like this one gain by sharing a run; copying large inputs together may cost more."""
        request_bytes = 0
        for array in request.inputs.values():
            request_bytes += array.nbytes
        return worth_joining(request_bytes, self.cost_of(request).estimate(request.rows))

    def cost_of(self, request: InferenceRequest) -> Cost:
        """What is known of requests like this one.

        Each signature has its own cost; where it leaves the size of a row free, each doubling of that size has, so that
        what short rows taught is never taken to hold for long ones.
        """
        name = request.signature.name
        key = (name, 0 if self._fixed_rows.get(name) else _row_size(request).bit_length())
        cost = self._costs.get(key)
        if cost is None:
            cost = self._costs[key] = Cost()
        return cost

    async def warm(self, most_rows: int = _WARM_ROWS) -> None:
        """Run made-up rows of each signature in a thread: whatever is set up on first use is, and costs are known.

        Batches have one row, 16, 256 and so on up to `most_rows`, as far as one is likely to take less than a second.

        A model that cannot take such rows starts with its cost unknown: in a thread. So does one with the option
        `warm = false`, which is asked nothing that no caller asked.
        """
        if not self._warms:
            return
        for signature in self._signatures:
            if signature.streaming:
                continue
            runs = await self._loop.run_in_executor(self._pool, self._warm, signature, most_rows)
            for request, seconds in runs:
                self.cost_of(request).observe(request.rows, seconds)

    def _in_thread(self, requests: Sequence[InferenceRequest], rows: int, cost: Cost, on_ran: OnRan) -> None:
        ran = self._execute(requests, inline=False)
        try:
            self._loop.call_soon_threadsafe(self._back, rows, ran, cost, on_ran)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _back(self, rows: int, ran: Ran, cost: Cost, on_ran: OnRan) -> None:
        self._in_threads -= 1
        _learn(cost, rows, ran)
        on_ran(ran)

    def _execute(self, requests: Sequence[InferenceRequest], inline: bool) -> Ran:
        """Join, infer, cut. Never raises: this is the border where a model's exceptions become ours."""
        first = requests[0]
        answers: Sequence[InferenceResponse] | None = None
        failure: DukouError | None = None
        clock = self._clock
        started_s = clock()
        joined_s = inferred_s = 0.0
        try:
            inputs = join(requests)
            joined_s = clock()
            outputs = self._model.infer(first.signature.name, inputs, first.outputs, first.parameters)
            inferred_s = clock()
            outputs = {name: outputs[name] for name in first.outputs}
            if first.signature.batched:
                answers = cut(self._version, outputs, [request.rows for request in requests])
            else:
                answers = [InferenceResponse(self._version, outputs)]
        except DukouError as error:
            failure = error.within(model=self._version.name, version=self._version.version)
        except (Exception, SystemExit, CancelledError) as error:  # a model may not end the server, nor leave us waiting
            failure = DukouError(Reason.MODEL_FAILED, model=self._version.name, version=self._version.version)
            failure.__cause__ = error
        if answers is None:
            return Ran(None, failure, started_s, clock(), inline)
        return Ran(answers, None, started_s, clock(), inline, joined_s, inferred_s, inputs, outputs)

    def _warm(self, signature: Signature, most_rows: int) -> list[tuple[InferenceRequest, float]]:
        """Runs worth learning from and their seconds; the first run of all may have set things up and is not."""
        runs: list[tuple[InferenceRequest, float]] = []
        for rows in (1, _WARM_ROWS) if signature.batched else (1,):
            inputs = made_up(signature, rows)
            if inputs is None:
                return []
            request = InferenceRequest(self._version, signature, inputs, signature.output_names(), rows, Context())
            for attempt in range(_WARM_RUNS):
                started_s = self._clock()
                try:
                    self._model.infer(signature.name, inputs, request.outputs, request.parameters)
                except (Exception, SystemExit) as error:
                    _log.info("%s: not warmed up, it refused made-up rows: %r", describe(self._version), error)
                    return []
                seconds = self._clock() - started_s
                if attempt or rows > 1 or seconds > _WARM_ENOUGH_S:
                    runs.append((request, seconds))
                if seconds > _WARM_ENOUGH_S:
                    return runs
        if signature.batched:
            self._warm_large(signature, most_rows, seconds / _WARM_ROWS)
        return runs

    def _warm_large(self, signature: Signature, most_rows: int, row_s: float) -> None:
        """Large batches, a row of a small one having taken `row_s`: once, for the memory that they need.

        Nothing is learned of them, so that what is known of small ones stays exact.
        """
        rows = _WARM_ROWS
        while rows < most_rows:
            rows = min(rows * _WARM_ROWS, most_rows)
            if rows * row_s > _WARM_MOST_S:
                return
            try:
                self._model.infer(signature.name, made_up(signature, rows) or {}, signature.output_names(), {})
            except (Exception, SystemExit) as error:
                _log.info("%s: not warmed up for %d rows: %r", describe(self._version), rows, error)
                return


def _learn(cost: Cost, rows: int, ran: Ran, doubt_below_s: float = math.inf) -> None:
    if ran.error is None:  # failing can be much faster than answering
        cost.observe(rows, ran.ended_s - ran.started_s, doubt_below_s)


def _row_size(request: InferenceRequest) -> int:
    """How many elements one row has, in all inputs together."""
    return sum(array.size for array in request.inputs.values()) // max(request.rows, 1)


def describe(version: ModelVersion) -> str:
    """How the log names a version."""
    return f"model {version.name!r}, version {version.version}"


def made_up(signature: Signature, rows: int) -> Tensors | None:
    """Inputs of ones (empty text for BYTES) that fit `signature`, every free size 1; None where a rank is unknown."""
    inputs = {}
    for spec in signature.inputs:
        if spec.shape is None:
            return None
        shape = [1 if size == -1 else size for size in spec.shape]
        if signature.batched:
            shape[0] = rows
        inputs[spec.name] = np.full(shape, "" if spec.datatype == "BYTES" else 1, dtype=DTYPES[spec.datatype])
    return inputs
