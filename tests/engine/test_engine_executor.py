"""Where batches run, what is learned from them, and the warm-up."""

import asyncio
import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from engine_rig import ANY_WIDTH, ONE_AT_A_TIME, SIGNATURE, Double, request
from engine_worlds import LOOPS, Told, iterations, run

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest
from dukou.core.model import ModelManifest, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors
from dukou.engine.executor import Executor, Ran, made_up
from dukou.engine.tick import Tick
from dukou.testing.clock import HandClock
from dukou.testing.models import FunctionModel, manifest

OF = manifest("m", 1, (SIGNATURE,))


class Slow:
    """A model that takes `seconds` a call by a hand-set clock, and keeps the threads that it ran in."""

    def __init__(self, clock: HandClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.threads: list[threading.Thread] = []

    def __call__(self, inputs: Tensors) -> Tensors:
        self.threads.append(threading.current_thread())
        self.clock.advance(self.seconds)
        return {"y": inputs["x"]}


@contextmanager
def executor(model: FunctionModel, clock: HandClock, tick: Tick, of: ModelManifest = OF) -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield Executor(of, model, tick=tick, pool=pool, loop=asyncio.get_running_loop(), clock=clock)


async def ran(of: Executor, *values: float) -> Ran:
    told = Told()
    of.run([request(*values)], len(values), lambda result: told(result, None))
    return (await told.wait()).value


def one_row(width: int) -> InferenceRequest:
    """A request for ANY_WIDTH."""
    return InferenceRequest(OF.id, ANY_WIDTH, {"x": np.ones((1, width))}, ("y",), 1, Context())


@pytest.mark.parametrize("loop", LOOPS)
def test_the_first_run_is_in_a_thread_and_the_next_where_it_fits(loop: str) -> None:
    """Unknown cost: thread. Known and within the budget: the loop. Beyond it: thread."""

    async def main() -> None:
        clock = HandClock()
        model, tick = Slow(clock, 0.25), Tick(asyncio.get_running_loop(), 1.0)
        with executor(FunctionModel(model), clock, tick) as of:
            results = [await ran(of, 1.0), await ran(of, 2.0), await ran(of, *range(100))]

        assert [result.inline for result in results] == [False, True, False]
        assert [thread is threading.main_thread() for thread in model.threads] == [False, True, False]
        assert [result.ended_s - result.started_s for result in results] == [0.25] * 3
        assert tick.left_s == 0.75

    run(loop, main)


def test_a_batch_that_the_iteration_cannot_pay_goes_to_a_thread() -> None:
    """The budget is one for all models, and comes back with the next iteration."""

    async def main() -> None:
        clock = HandClock()
        tick = Tick(asyncio.get_running_loop(), 1.0)
        with executor(FunctionModel(Slow(clock, 0.4)), clock, tick) as of:
            of.cost_of(request(1.0)).observe(1, 0.4)
            results = [await ran(of, 1.0) for _ in range(3)]
            tick.soon(lambda: None)
            await iterations()
            results.append(await ran(of, 1.0))

        assert [result.inline for result in results] == [True, True, False, True]

    run("asyncio", main)


def test_rows_of_another_size_have_a_cost_of_their_own() -> None:
    """Where the signature leaves it free: a wide row is never on the loop because narrow ones were cheap."""

    async def main() -> None:
        clock = HandClock()

        def model(inputs: Tensors) -> Tensors:
            clock.advance(1e-7 * inputs["x"].shape[1] ** 2)
            return {"y": inputs["x"]}

        async def inline(width: int) -> bool:
            told = Told()
            of.run([one_row(width)], 1, lambda result: told(result, None))
            return (await told.wait()).value.inline

        tick = Tick(asyncio.get_running_loop(), 100.0)
        with executor(FunctionModel(model), clock, tick, manifest("m", 1, (ANY_WIDTH,))) as of:
            rounds = [[await inline(width) for width in (10, 10, 12, 100, 2000)] for _ in range(4)]

        assert rounds[0] == [False, True, True, False, False]
        assert rounds[1:] == [[True, True, True, True, True]] * 3

    run("asyncio", main)


def test_signatures_have_costs_of_their_own() -> None:
    """One may classify and another explain."""

    async def main() -> None:
        tick, both = Tick(asyncio.get_running_loop(), 1.0), manifest("m", 1, (SIGNATURE, ONE_AT_A_TIME))
        with executor(FunctionModel(Double()), HandClock(), tick, both) as of:
            of.cost_of(request(1.0)).observe(1, 0.1)

            assert of.cost_of(request(1.0)).estimate(1) == 0.1
            assert of.cost_of(request(1.0, signature=ONE_AT_A_TIME)).estimate(1) == math.inf

    run("asyncio", main)


def test_one_run_that_blocked_the_loop_for_long_is_not_repeated() -> None:
    """Ten budgets and more: the next runs are in a thread, until enough of them were short."""

    async def main() -> None:
        clock = HandClock()
        model, tick = Slow(clock, 0.00001), Tick(asyncio.get_running_loop(), 0.0003)
        with executor(FunctionModel(model), clock, tick) as of:
            where = []
            for seconds in [0.00001] * 5 + [0.4] + [0.00001] * 50:
                model.seconds = seconds
                tick.soon(lambda: None)
                await iterations()
                where.append((await ran(of, 1.0)).inline)

        assert where[:6] == [False, True, True, True, True, True]
        assert where[6:12] == [False] * 6
        assert where[-1] is True

    run("asyncio", main)


def test_it_is_free_while_the_model_bears_another_call() -> None:
    """One call inside of one allowed: not free until its answer is back on the loop."""

    async def main() -> None:
        go, told = threading.Event(), Told()

        def model(inputs: Tensors) -> Tensors:
            assert go.wait(20)
            return {"y": inputs["x"]}

        with executor(FunctionModel(model), HandClock(), Tick(asyncio.get_running_loop(), 1.0)) as of:
            assert of.free
            of.run([request(1.0)], 1, lambda result: told(result, None))
            assert not of.free
            go.set()
            await told.wait()
            assert of.free

    run("asyncio", main)


def test_a_failure_teaches_no_cost() -> None:
    """Refusing can be much faster than answering."""

    async def main() -> None:
        model = FunctionModel(Double(lambda values: ValueError("no")))
        with executor(model, HandClock(), Tick(asyncio.get_running_loop(), 1.0)) as of:
            result = await ran(of, 1.0)

            assert of.cost_of(request(1.0)).estimate(1) == math.inf
            assert result.error is not None
            assert result.error.reason is Reason.MODEL_FAILED
            assert isinstance(result.error.__cause__, ValueError)

    run("asyncio", main)


def test_the_models_own_refusal_passes_with_its_facts() -> None:
    """And is told which model it was."""

    async def main() -> None:
        model = FunctionModel(Double(lambda values: DukouError(Reason.MODEL_REFUSED_INPUT, detail="no", row=0)))
        with executor(model, HandClock(), Tick(asyncio.get_running_loop(), 1.0)) as of:
            result = await ran(of, 1.0)

        assert result.error is not None
        assert str(result.error) == "model 'm', version 1, row 0: the model cannot take these values: no"

    run("asyncio", main)


def test_a_loop_that_has_closed_does_not_trouble_the_thread() -> None:
    """A model that answers after the end of the server."""
    go = threading.Event()
    submitted = []

    class Recording(ThreadPoolExecutor):
        def submit(self, *call: Any, **named: Any) -> Future[Any]:
            submitted.append(super().submit(*call, **named))
            return submitted[-1]

    pool = Recording(1)

    def model(inputs: Tensors) -> Tensors:
        assert go.wait(20)
        return {"y": inputs["x"]}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        of = Executor(OF, FunctionModel(model), tick=Tick(loop, 1.0), pool=pool, loop=loop, clock=HandClock())
        of.run([request(1.0)], 1, lambda result: None)

    run("asyncio", main)
    go.set()
    pool.shutdown()

    assert [future.exception() for future in submitted] == [None]


class TestWarming:
    """Before the first caller comes."""

    def test_the_cost_is_known_afterwards(self) -> None:
        """From runs in a thread of one row and of several, for every signature."""

        async def main() -> None:
            clock, shapes = HandClock(), []
            threads = set()

            def model(inputs: Tensors) -> Tensors:
                shapes.append(inputs["x"].shape)
                threads.add(threading.current_thread())
                clock.advance(0.001 + 0.0001 * len(inputs["x"]))
                return {"y": inputs["x"]}

            with executor(FunctionModel(model), clock, Tick(asyncio.get_running_loop(), 1.0)) as of:
                await of.warm()

            assert set(shapes) == {(1, 2), (16, 2)}
            assert threading.main_thread() not in threads
            assert of.cost_of(request(1.0)).estimate(1) == pytest.approx(0.0011)
            assert of.cost_of(request(1.0)).estimate(64) == pytest.approx(0.0074)

        run("asyncio", main)

    def test_the_first_run_sets_up_and_is_not_learned_from(self) -> None:
        """Libraries prepare themselves when they are first called."""

        async def main() -> None:
            clock = HandClock()
            model = Slow(clock, 0.05)

            def first_is_slow(inputs: Tensors) -> Tensors:
                model.seconds = 0.05 if not model.threads else 0.00001
                return model(inputs)

            with executor(FunctionModel(first_is_slow), clock, Tick(asyncio.get_running_loop(), 1.0)) as of:
                await of.warm()

            assert of.cost_of(request(1.0)).estimate(1) == pytest.approx(0.00001)

        run("asyncio", main)

    def test_a_heavy_model_is_run_once(self) -> None:
        """A version must not take minutes to become AVAILABLE."""

        async def main() -> None:
            clock = HandClock()
            model = Slow(clock, 5.0)
            with executor(FunctionModel(model), clock, Tick(asyncio.get_running_loop(), 1.0)) as of:
                await of.warm()

            assert len(model.threads) == 1
            assert of.cost_of(request(1.0)).estimate(1) == 5.0

        run("asyncio", main)

    @pytest.mark.parametrize(
        ("most_rows", "row_s", "sizes"),
        [(1, 0.0, []), (16, 0.0, []), (100, 0.0, [100]), (300, 0.0, [256, 300]), (4096, 0.001, [256])],
    )
    def test_large_batches_are_run_once_and_not_learned_from(
        self, most_rows: int, row_s: float, sizes: list[int]
    ) -> None:
        """Up to the largest that callers can make, or that takes a second; what is known of small ones stays exact."""

        async def main() -> None:
            clock, ran = HandClock(), []

            def model(inputs: Tensors) -> Tensors:
                rows = len(inputs["x"])
                ran.append(rows)
                clock.advance(row_s * rows if rows <= 16 else 100.0)
                return {"y": inputs["x"]}

            with executor(FunctionModel(model), clock, Tick(asyncio.get_running_loop(), 1.0)) as of:
                await of.warm(most_rows)

            assert [rows for rows in ran if rows > 16] == sizes
            assert of.cost_of(request(1.0)).estimate(16) == pytest.approx(16 * row_s)

        run("asyncio", main)

    def test_a_model_that_refuses_made_up_rows_stays_unknown(self, caplog: pytest.LogCaptureFixture) -> None:
        """That is no fault of the model: a line in the log, and its first batch runs in a thread."""

        async def main() -> None:
            model = FunctionModel(Double(lambda values: ValueError("unknown category")))
            with executor(model, HandClock(), Tick(asyncio.get_running_loop(), 1.0)) as of:
                with caplog.at_level("INFO", "dukou.engine"):
                    await of.warm()

                assert of.cost_of(request(1.0)).estimate(1) == math.inf
            assert "unknown category" in caplog.text

        run("asyncio", main)

    def test_rows_of_no_one_size_say_nothing_of_larger_ones(self) -> None:
        """A picture of one pixel is quick; it is run, so that the model is ready, and its cost not that of others."""

        async def main() -> None:
            clock = HandClock()
            tick = Tick(asyncio.get_running_loop(), 1.0)
            with executor(FunctionModel(Slow(clock, 0.00001)), clock, tick, manifest("m", 1, (ANY_WIDTH,))) as of:
                await of.warm()

                assert of.cost_of(one_row(1)).estimate(1) == pytest.approx(0.00001)
                assert of.cost_of(one_row(1000)).estimate(1) == math.inf

        run("asyncio", main)


@pytest.mark.parametrize(
    ("signature", "rows", "shapes"),
    [
        (SIGNATURE, 16, {"x": (16, 2)}),
        (ONE_AT_A_TIME, 1, {"x": (1, 2)}),
        (
            Signature("s", (TensorSpec("a", "BYTES", (-1,)), TensorSpec("b", "INT64", (-1, -1))), ()),
            3,
            {"a": (3,), "b": (3, 1)},
        ),
        (Signature("s", (TensorSpec("a", "FP32", (7, 2)),), (), batched=False), 1, {"a": (7, 2)}),
    ],
)
def test_made_up_inputs_fit_the_signature(signature: Signature, rows: int, shapes: dict[str, tuple[int, ...]]) -> None:
    """Its datatypes and its shapes; text is empty."""
    inputs = made_up(signature, rows)

    assert inputs is not None
    assert {name: array.shape for name, array in inputs.items()} == shapes
    for spec in signature.inputs:
        assert inputs[spec.name].dtype == DTYPES[spec.datatype]
        assert np.all(inputs[spec.name] == ("" if spec.datatype == "BYTES" else 1))


def test_nothing_is_made_up_where_the_rank_is_unknown() -> None:
    """There is no telling what would fit."""
    assert made_up(Signature("s", (TensorSpec("a", "FP32", None),), ()), 1) is None
