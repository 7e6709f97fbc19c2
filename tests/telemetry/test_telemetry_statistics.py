"""What the statistics say agrees with what a real engine has run."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.config import EngineConfig
from dukou.core.clock import monotonic, wall
from dukou.core.errors import Code, DukouError
from dukou.core.event import BatchRan, RequestRefused
from dukou.core.message import Context, InferenceRequest, InferenceResponse
from dukou.core.model import ModelVersion, Signature, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.core.statistics import VersionStatistics
from dukou.core.tensor import Tensors
from dukou.engine.router import Engine
from dukou.telemetry.counters import Counters
from dukou.telemetry.statistics import read_statistics
from dukou.testing.models import FunctionModel, manifest, served, table

ECHO = ModelVersion("echo", 1)
SIGNATURE = Signature("serving_default", (TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))
POISON = -1.0


class Echo:
    """Echoes its input; refuses a batch that holds POISON; keeps how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, inputs: Tensors) -> Tensors:
        self.calls.append(len(inputs["x"]))
        if POISON in inputs["x"]:
            raise ValueError("poison")
        return {"y": inputs["x"]}


class Rig:
    """An engine with one model and its counters; requests go in as the network layer has them go."""

    def __init__(self, folder: Path, model: Callable[[Tensors], Tensors], pool: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._counters = Counters(folder, 0)
        self._counters.assign({ECHO: 1})
        loop = asyncio.get_running_loop()
        self.engine = Engine(EngineConfig(), loop, monotonic, [self._counters], pool)
        of = manifest("echo", 1, (SIGNATURE,))
        loaded: LoadedModel = FunctionModel(model)
        self._stage = self.engine.stage_for(of, loaded)
        self.engine.swap(table(served(of, self._stage)))

    def ask(self, *values: float) -> "asyncio.Task[InferenceResponse | None]":
        """Ask for the echo of `values`; a refusal is told to the counters, as `dukou.net` does."""
        return asyncio.get_running_loop().create_task(self._ask(np.array(values)))

    async def _ask(self, rows: Any) -> InferenceResponse | None:
        context = Context(arrived_s=monotonic())
        request = InferenceRequest(ECHO, SIGNATURE, {"x": rows}, ("y",), len(rows), context)
        try:
            return await self.engine.infer(request)
        except (DukouError, asyncio.CancelledError) as error:
            code = error.code if isinstance(error, DukouError) else Code.CANCELLED
            self._counters(RequestRefused(ECHO, code, context.arrived_s, monotonic()))
            return None

    def statistics(self) -> VersionStatistics:
        """What is told now."""
        return read_statistics(self._folder, {1: ECHO})[ECHO]


def with_rig(folder: Path, model: Callable[[Tensors], Tensors], use: Callable[[Rig], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        with ThreadPoolExecutor(2) as pool:
            return await use(Rig(folder, model, pool))

    return asyncio.run(main())


def check(statistics: VersionStatistics) -> None:
    """What holds whatever was run."""
    computed = (statistics.compute_input, statistics.compute_infer, statistics.compute_output)
    assert {statistics.queue.count, *(timing.count for timing in computed)} == {statistics.success.count}
    assert abs(statistics.queue.ns + sum(timing.ns for timing in computed) - statistics.success.ns) <= 4
    assert sum(statistics.failures.values()) == statistics.fail.count
    if len(statistics.batches) < 128:
        assert sum(batch.compute_infer.count for batch in statistics.batches) == statistics.execution_count
        assert (
            sum(batch.batch_size * batch.compute_infer.count for batch in statistics.batches)
            == statistics.inference_count
        )
    assert [batch.batch_size for batch in statistics.batches] == sorted(
        {each.batch_size for each in statistics.batches}
    )


def test_requests_that_run_together_are_one_execution(tmp_path: Path) -> None:
    """Rows, executions and requests are three counts; each request saw the whole execution."""
    model = Echo()

    async def use(rig: Rig) -> VersionStatistics:
        begun_ms = wall() * 1e3
        await rig.ask(1.0)
        await asyncio.gather(rig.ask(1.0, 2.0), rig.ask(3.0), rig.ask(4.0))
        told = rig.statistics()
        assert begun_ms - 1 <= told.last_inference_ms <= wall() * 1e3 + 1
        return told

    told: VersionStatistics = with_rig(tmp_path, model, use)

    check(told)
    assert model.calls == [1, 4]
    assert (told.inference_count, told.execution_count, told.success.count) == (5, 2, 4)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in told.batches] == [(1, 1), (4, 1)]
    alone, together = told.batches
    assert abs(told.compute_infer.ns - alone.compute_infer.ns - 3 * together.compute_infer.ns) <= 4


def test_a_batch_that_failed_is_counted_by_its_retries(tmp_path: Path) -> None:
    """The requests of a failed batch run again one by one: those answered count, the guilty one failed."""
    model = Echo()

    async def use(rig: Rig) -> VersionStatistics:
        answers = await asyncio.gather(rig.ask(1.0), rig.ask(POISON), rig.ask(2.0, 3.0))
        assert [answer is None for answer in answers] == [False, True, False]
        return rig.statistics()

    told: VersionStatistics = with_rig(tmp_path, model, use)

    check(told)
    assert model.calls == [4, 1, 1, 2]
    assert (told.inference_count, told.execution_count, told.success.count) == (3, 2, 2)
    assert (told.fail.count, told.failures) == (1, {"INTERNAL": 1})
    assert told.fail.ns > 0
    assert [batch.batch_size for batch in told.batches] == [1, 2]


def test_a_caller_who_leaves_the_queue_takes_no_part(tmp_path: Path) -> None:
    """Its rows are never run; it counts as failed."""
    model = Echo()

    async def use(rig: Rig) -> VersionStatistics:
        leaving, staying = rig.ask(1.0, 2.0), rig.ask(3.0)
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait((leaving, staying))
        return rig.statistics()

    told: VersionStatistics = with_rig(tmp_path, model, use)

    check(told)
    assert model.calls == [1]
    assert (told.inference_count, told.success.count, told.failures) == (1, 1, {"CANCELLED": 1})


def test_requests_that_wait_for_a_busy_model_are_pending(tmp_path: Path) -> None:
    """The engine tells how many, by version; those that run are not among them."""
    running, go = threading.Event(), threading.Event()

    def slow(inputs: Tensors) -> Tensors:
        running.set()
        assert go.wait(10)
        return {"y": inputs["x"]}

    async def use(rig: Rig) -> list[int]:
        first = rig.ask(1.0)
        await asyncio.to_thread(running.wait, 10)
        others = [rig.ask(2.0), rig.ask(3.0)]
        await asyncio.sleep(0)
        told = [rig.engine.waiting()[ECHO]]
        go.set()
        await asyncio.gather(first, *others)
        return [*told, rig.engine.waiting()[ECHO]]

    try:
        assert with_rig(tmp_path, slow, use) == [2, 0]
    finally:
        go.set()


@settings(max_examples=25)
@given(st.lists(st.lists(st.sampled_from((POISON, 1.0, 2.0)), min_size=1, max_size=4), min_size=1, max_size=12))
def test_counts_agree_with_what_was_run(tmp_path_factory: pytest.TempPathFactory, asked: list[list[float]]) -> None:
    """Whatever is asked at once: answered and failed requests are all, and rows are those of the answered."""
    model = Echo()

    async def use(rig: Rig) -> tuple[VersionStatistics, list[bool]]:
        answers = await asyncio.gather(*(rig.ask(*rows) for rows in asked))
        return rig.statistics(), [answer is not None for answer in answers]

    told, answered = with_rig(tmp_path_factory.mktemp("counters"), model, use)

    check(told)
    assert (told.success.count, told.fail.count) == (sum(answered), len(asked) - sum(answered))
    assert told.inference_count == sum(len(rows) for rows, was in zip(asked, answered, strict=True) if was)
    assert told.execution_count <= len(model.calls)


def test_an_answer_that_could_not_be_written_is_a_failure(tmp_path: Path) -> None:
    """The model ran, the caller got an error: it is no success, and the others keep their mean times."""
    counters = Counters(tmp_path, 0)
    counters.assign({ECHO: 1})
    counters(BatchRan(ECHO, [9.5, 9.5], 10.0, 10.25, 2, True, 10.0, 10.25))
    counters(RequestRefused(ECHO, Code.UNIMPLEMENTED, 9.5, 10.5, executed=True))
    counters.close()

    told = read_statistics(tmp_path, {1: ECHO})[ECHO]

    check(told)
    assert (told.success.count, told.success.ns, told.fail.count, told.fail.ns) == (1, 750_000_000, 1, 1_000_000_000)
    assert (told.inference_count, told.execution_count) == (2, 1)


def test_a_version_that_was_never_called_has_zeros(tmp_path: Path) -> None:
    """It is told all the same."""
    assert read_statistics(tmp_path, {1: ECHO}) == {ECHO: VersionStatistics()}


def test_the_statistics_of_all_workers_are_added_up(tmp_path: Path) -> None:
    """By batch size too, where each worker has met other sizes first."""
    for slot, sizes in enumerate([(1, 2), (2, 1, 3)]):
        counters = Counters(tmp_path, slot)
        counters.assign({ECHO: 1})
        for rows in sizes:
            counters(BatchRan(ECHO, [9.5], 10.0, 10.25, rows, True, 10.0, 10.25))
        counters.close()

    told = read_statistics(tmp_path, {1: ECHO})[ECHO]

    check(told)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in told.batches] == [(1, 2), (2, 2), (3, 1)]
