"""What the engine costs a request: choose, start, batcher, executor, answer; with a model that does nothing.

    python bench/engine.py [--model iris]

Prints microseconds per one-row request, the best of many short rounds, at 64 requests and at one request per loop
iteration, and the same without the engine (the model's own part).
"""

import argparse
import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import uvloop

from dukou.config import EngineConfig
from dukou.core.clock import monotonic
from dukou.core.event import Event
from dukou.core.message import Context, InferenceRequest, InferenceResponse
from dukou.core.model import ModelRef
from dukou.core.tensor import Tensors
from dukou.engine.router import Engine
from dukou.testing.models import FunctionModel, iris_model, iris_request, manifest, served, table

ROUNDS = 100
REQUESTS_PER_ROUND = 64 * 16

LABELS = np.zeros(1024, dtype=np.int64)


def nothing(inputs: Tensors) -> Tensors:
    """The cheapest answer with one label a row."""
    return {"label": LABELS[: len(inputs["X"])]}


class Observed:
    """Counts batches and the requests they answered."""

    def __init__(self) -> None:
        self.batches = 0
        self.answered = 0

    def __call__(self, event: Event) -> None:
        self.batches += 1
        self.answered += len(event.arrived_s)


async def measure(model: FunctionModel, at_once: int) -> tuple[float, float]:
    """Microseconds per request, and requests per batch."""
    loop = asyncio.get_running_loop()
    observed = Observed()
    with ThreadPoolExecutor(1) as pool:
        engine = Engine(EngineConfig(), loop, monotonic, [observed], pool)
        of = manifest()
        stage = engine.stage_for(of, model)
        await stage.warm()
        engine.swap(table(served(of, stage)))
        requests = [
            iris_request(np.ones((1, 4)), context=Context(deadline_s=monotonic() + 1e6)) for _ in range(at_once)
        ]
        best = math.inf
        for _ in range(ROUNDS):
            started = time.perf_counter()
            await answer_all(engine, requests, loop)
            best = min(best, (time.perf_counter() - started) / REQUESTS_PER_ROUND)
        return best * 1e6, observed.answered / observed.batches


async def answer_all(engine: Engine, requests: list[InferenceRequest], loop: asyncio.AbstractEventLoop) -> None:
    """Have one round's requests answered, all of `requests` in each iteration of the loop."""
    ref = ModelRef("iris")
    at_once = len(requests)
    left = REQUESTS_PER_ROUND
    finished = loop.create_future()

    def tick() -> None:
        for request in requests:
            chosen = engine.choose(ref, "")
            engine.start(chosen.stage.infer(request), on_done, request.context.deadline_s)

    def on_done(value: InferenceResponse | None, error: BaseException | None) -> None:
        nonlocal left
        if error is not None:
            raise error
        left -= 1
        if left > 0 and left % at_once == 0:
            loop.call_soon(tick)
        elif left == 0:
            finished.set_result(None)

    tick()
    await finished


def alone(model: FunctionModel, rows: int) -> float:
    """Microseconds of one call of the model for `rows`, without the engine."""
    request: InferenceRequest = iris_request(np.ones((rows, 4)))
    best = math.inf
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(100):
            model.infer("serving_default", request.inputs, request.outputs, {})
        best = min(best, (time.perf_counter() - started) / 100)
    return best * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("nothing", "iris"), default="nothing")
    model = iris_model() if parser.parse_args().model == "iris" else FunctionModel(nothing)
    for at_once in (64, 1):
        each, together = uvloop.run(measure(model, at_once))
        share = alone(model, at_once) / at_once
        print(
            f"{at_once:3} requests per iteration: {each:6.2f} µs per request, of which the model {share:5.2f}"
            f" ({together:.1f} requests per batch)"
        )


if __name__ == "__main__":
    main()
