"""One version's batcher and executor around a function, for the engine's tests."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from dukou.core.clock import Clock
from dukou.core.event import Observer
from dukou.core.message import Context, InferenceRequest
from dukou.core.model import ModelVersion, Signature, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors
from dukou.engine.batcher import Batcher, Batching
from dukou.engine.executor import Executor
from dukou.engine.tick import Tick
from dukou.testing.clock import HandClock
from dukou.testing.models import FunctionModel, manifest

SIGNATURE = Signature("serving_default", (TensorSpec("x", "FP64", (-1, 2)),), (TensorSpec("y", "FP64", (-1, 2)),))
ONE_AT_A_TIME = Signature("one", SIGNATURE.inputs, SIGNATURE.outputs, batched=False)
ANY_WIDTH = Signature("wide", (TensorSpec("x", "FP64", (-1, -1)),), SIGNATURE.outputs)

BATCHING = Batching(max_batch_rows=8, max_request_rows=100, max_queue_rows=64, max_queue_delay_s=0.0, together=True)


def request(*values: float, signature: Signature = SIGNATURE, **context: Any) -> InferenceRequest:
    """A request of one row `[value, 0]` for each of `values`."""
    rows = np.array([[value, 0.0] for value in values]).reshape(-1, 2)
    return InferenceRequest(ModelVersion("m", 1), signature, {"x": rows}, ("y",), len(rows), Context(**context))


def answer(*values: float) -> list[list[float]]:
    """What `double` answers to `request(*values)`."""
    return [[2.0 * value, 0.0] for value in values]


class Double:
    """A model function that doubles, and keeps which values it was given in each call."""

    def __init__(self, refuse: Callable[[list[float]], BaseException | None] = lambda values: None) -> None:
        self.calls: list[list[float]] = []
        self._refuse = refuse

    def __call__(self, inputs: Tensors) -> Tensors:
        values = inputs["x"][:, 0].tolist()
        self.calls.append(values)
        problem = self._refuse(values)
        if problem is not None:
            raise problem
        return {"y": inputs["x"] * 2.0}


@contextmanager
def batcher(
    model: LoadedModel | Callable[[Tensors], Tensors],
    *,
    budget_s: float = 1.0,
    clock: Clock | None = None,
    observers: Sequence[Observer] = (),
    cost_s: float | None = 0.0,
    **batching: Any,
) -> Iterator[Batcher]:
    """A batcher of the running loop. One row has cost `cost_s` so far; None: the model has not run."""
    loop = asyncio.get_running_loop()
    loaded: LoadedModel = FunctionModel(model) if callable(model) else model
    clock = clock or HandClock()
    tick = Tick(loop, budget_s)
    of = manifest("m", 1, (SIGNATURE, ONE_AT_A_TIME))
    with ThreadPoolExecutor(4) as pool:
        executor = Executor(of, loaded, tick=tick, pool=pool, loop=loop, clock=clock)
        if cost_s is not None:
            for signature in (SIGNATURE, ONE_AT_A_TIME):
                executor.cost_of(request(1.0, signature=signature)).observe(1, cost_s)
        settings = replace(BATCHING, **batching)
        yield Batcher(of, executor, settings, tick=tick, loop=loop, clock=clock, observers=observers)
