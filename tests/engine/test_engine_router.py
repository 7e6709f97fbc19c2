"""The engine as a data plane: tables, admission, draining."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from engine_worlds import LOOPS, Told, iterations, run

from dukou.config import EngineConfig
from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.event import Event, Observer
from dukou.core.message import DataPlane, InferenceResponse, Table
from dukou.core.model import ModelRef, State
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors
from dukou.engine.batcher import Batching
from dukou.engine.drive import Slot
from dukou.engine.router import Engine, batching_of
from dukou.testing.models import FunctionModel, iris_model, iris_request, manifest, served, table

SETOSA = [[5.1, 3.5, 1.4, 0.2]]
VIRGINICA = [[6.9, 3.1, 5.4, 2.1]]


@contextmanager
def engine(observers: Sequence[Observer] = (), **settings: Any) -> Iterator[Engine]:
    with ThreadPoolExecutor(2) as pool:
        yield Engine(EngineConfig(**settings), asyncio.get_running_loop(), monotonic, observers, pool)


async def load(into: Engine, version: int = 1, model: LoadedModel | None = None) -> None:
    """Add a version to the engine's table, as a worker does."""
    of = manifest("iris", version)
    stage = into.stage_for(of, model or iris_model())
    await stage.warm()
    others = [one for one in into.table.models.get("iris", {}).values() if one.id.version != version]
    into.swap(table(*others, served(of, stage), generation=into.table.generation + 1))


def call(on: DataPlane, rows: Any, ref: ModelRef = ModelRef("iris"), **start: Any) -> Told:  # noqa: B008
    """What a protocol front does with a call."""
    told = Told()
    chosen = on.choose(ref, "")
    assert chosen.stage is not None
    on.start(chosen.stage.infer(iris_request(rows)), told, **start)
    return told


def test_a_version_that_is_served_no_more_is_let_go_of() -> None:
    """Its model is freed with the last reference, and needs no garbage collection: models are large."""

    async def main() -> None:
        with engine() as of:
            model = iris_model()
            gone = weakref.ref(model)
            await load(of, 1, model)
            await call(of, SETOSA).wait()
            del model
            gc.collect()
            gc.disable()
            try:
                assert gone() is not None
                of.swap(Table())
                await iterations()

                assert gone() is None
            finally:
                gc.enable()

    run("asyncio", main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_call_goes_all_the_way(loop: str) -> None:
    """Choose, start, batch, execute, answer; and the observers hear of one batch."""

    async def main() -> None:
        events = list[Event]()
        with engine([events.append]) as of:
            await load(of)
            told = [call(of, rows) for rows in (SETOSA, VIRGINICA, SETOSA + VIRGINICA)]
            assert of.under_way == 3
            for one in told:
                await one.wait()

            assert [one.value.outputs["label"].tolist() for one in told] == [[0], [2], [0, 2]]
            assert of.under_way == 0
            assert [(event.rows, len(event.arrived_s)) for event in events] == [(4, 3)]

    run(loop, main)


def test_a_new_table_is_in_force_at_once() -> None:
    """Calls under way finish on the version chosen for them, new ones go to the new version."""

    async def main() -> None:
        with engine() as of:
            await load(of, 1, FunctionModel(lambda inputs: {"label": inputs["X"][:, 0] * 0 + 1}))
            before = call(of, SETOSA)
            await load(of, 2, FunctionModel(lambda inputs: {"label": inputs["X"][:, 0] * 0 + 2}))
            after = call(of, SETOSA)
            of.swap(Table(generation=9))

            assert (await before.wait()).value.outputs["label"].tolist() == [1]
            assert (await after.wait()).value.outputs["label"].tolist() == [2]
            with pytest.raises(DukouError):
                of.choose(ModelRef("iris"), "")
            assert of.table.generation == 9

    run("asyncio", main)


def test_too_many_requests_are_refused_and_then_taken_again() -> None:
    """OVERLOADED says how many are under way; one that has ended makes room."""

    async def main() -> None:
        with engine(max_requests=2) as of:
            slots, told = [Slot[InferenceResponse]() for _ in range(4)], [Told() for _ in range(4)]

            async def wait_for(slot: Slot[InferenceResponse]) -> InferenceResponse:
                return await slot

            under_way = [of.start(wait_for(slot), one) for slot, one in zip(slots[:3], told, strict=False)]
            under_way[2].cancel()
            assert (told[2].reason, told[2].times) == (Reason.OVERLOADED, 1)
            assert told[2].error.facts == {"got": 2, "wanted": 2}  # type: ignore[union-attr]

            under_way[0].cancel()
            of.start(wait_for(slots[3]), told[3])
            assert (told[3].times, of.under_way) == (0, 2)

    run("asyncio", main)


def test_a_deadline_is_kept() -> None:
    """The caller is answered though the model is not done."""

    async def main() -> None:
        go = threading.Event()

        def model(inputs: Tensors) -> Tensors:
            assert go.wait(20)
            return {"label": inputs["X"][:, 0]}

        with engine() as of:
            stage = of.stage_for(manifest(), FunctionModel(model))
            of.swap(table(served(manifest(), stage)))
            told = await call(of, SETOSA, deadline_s=monotonic() + 0.01).wait()
            go.set()

            assert told.reason is Reason.DEADLINE_EXCEEDED

    run("asyncio", main)


def test_it_can_be_embedded() -> None:
    """`await engine.infer(request)` from ordinary asyncio code."""

    async def main() -> None:
        with engine() as of:
            await load(of)
            responses = await asyncio.gather(of.infer(iris_request(SETOSA)), of.infer(iris_request(VIRGINICA)))

            assert [response.outputs["label"].tolist() for response in responses] == [[0], [2]]
            of.swap(table(served(manifest(), state=State.UNLOADING)))
            with pytest.raises(DukouError) as caught:
                await of.infer(iris_request(SETOSA))
            assert caught.value.reason is Reason.MODEL_NOT_READY

    run("asyncio", main)


def test_embedded_calls_are_admitted_like_others() -> None:
    """They count, and are refused OVERLOADED, together with the calls of the fronts; who has ended makes room."""

    async def main() -> None:
        with engine(max_requests=2) as of:
            await load(of)
            embedded = asyncio.create_task(of.infer(iris_request(SETOSA)))
            await asyncio.sleep(0)
            told = call(of, SETOSA)
            assert of.under_way == 2
            with pytest.raises(DukouError) as caught:
                await of.infer(iris_request(SETOSA))
            refused = call(of, SETOSA)

            assert caught.value.reason is refused.reason is Reason.OVERLOADED
            assert (await embedded).outputs["label"].tolist() == (await told.wait()).value.outputs["label"].tolist()
            assert of.under_way == 0
            assert (await of.infer(iris_request(VIRGINICA))).outputs["label"].tolist() == [2]

    run("asyncio", main)


class TestDraining:
    """The end of a worker."""

    def test_what_is_under_way_finishes_within_the_grace(self) -> None:
        """Draining returns as soon as all have their answers; new calls are refused from the start."""

        async def main() -> None:
            with engine() as of:
                await load(of)
                told = call(of, SETOSA)
                draining = asyncio.create_task(of.drain(15.0))
                await asyncio.sleep(0)
                refused = call(of, SETOSA)
                await draining

                assert told.value.outputs["label"].tolist() == [0]
                assert refused.reason is Reason.DRAINING
                with pytest.raises(DukouError):
                    await of.infer(iris_request(SETOSA))

        run("asyncio", main)

    def test_embedded_calls_have_the_grace_too(self) -> None:
        """They are no runs of the driver, and are waited for all the same."""

        async def main() -> None:
            go, entered = threading.Event(), threading.Event()

            def model(inputs: Tensors) -> Tensors:
                entered.set()
                assert go.wait(20)
                return {"label": inputs["X"][:, 0]}

            with engine() as of:
                stage = of.stage_for(manifest(), FunctionModel(model))
                of.swap(table(served(manifest(), stage)))
                running = asyncio.create_task(of.infer(iris_request([[1, 0, 0, 0]])))
                assert await asyncio.to_thread(entered.wait, 20)
                queued = asyncio.create_task(of.infer(iris_request([[2, 0, 0, 0]])))
                await iterations()
                draining = asyncio.create_task(of.drain(15.0))
                await iterations()
                go.set()
                await draining

                assert [(await one).outputs["label"].tolist() for one in (running, queued)] == [[1.0], [2.0]]

        run("asyncio", main)

    def test_after_the_grace_everybody_is_told(self) -> None:
        """Who runs, who is queued, and who embeds: DRAINING, though the model still works."""

        async def main() -> None:
            go, entered = threading.Event(), threading.Event()

            def model(inputs: Tensors) -> Tensors:
                entered.set()
                assert go.wait(20)
                return {"label": inputs["X"][:, 0]}

            with engine() as of:
                stage = of.stage_for(manifest(), FunctionModel(model))
                of.swap(table(served(manifest(), stage)))
                running = call(of, SETOSA)
                assert await asyncio.to_thread(entered.wait, 20)
                queued = call(of, SETOSA)
                embedded = asyncio.create_task(of.infer(iris_request(SETOSA)))
                await iterations()
                await of.drain(0.0)

                assert (running.reason, queued.reason) == (Reason.DRAINING, Reason.DRAINING)
                with pytest.raises(DukouError):
                    await embedded
                go.set()

        run("asyncio", main)

    def test_stages_are_ended_outside_of_any_task(self) -> None:
        """Whoever awaits the drain is a Task; a stage under the driver must not take it for its own."""

        async def main() -> None:
            with engine() as of:
                seen: list[asyncio.Task[Any] | None] = []

                async def stage() -> InferenceResponse:
                    try:
                        return await Slot[InferenceResponse]()
                    finally:
                        seen.append(asyncio.current_task())

                told = Told()
                of.start(stage(), told)
                await of.drain(0.0)

                assert (told.reason, seen) == (Reason.DRAINING, [None])

        run("asyncio", main)


CONFIG = EngineConfig()


def test_the_settings_of_a_version() -> None:
    """The engine's defaults, and the manifest's evidence on sharing batches."""
    assert batching_of(CONFIG, manifest(independent_rows=True)) == Batching(256, 1_000_000, 16_384, 0.0, together=True)
    assert batching_of(CONFIG, manifest(independent_rows=False)).together is False


def test_a_models_options_win() -> None:
    """Explicit configuration; settings of other parts are left to them."""
    options = {"max_batch_rows": 4, "max_queue_delay_s": 0.5, "independent_rows": True, "intra_op_threads": 2}

    assert batching_of(CONFIG, manifest(independent_rows=False, options=options)) == Batching(
        4, 1_000_000, 16_384, 0.5, together=True
    )


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_rows": 0},
        {"max_batch_rows": True},
        {"max_batch_rows": "8"},
        {"max_request_rows": 0},
        {"max_queue_delay_s": -1},
        {"max_queue_delay_s": 11.0},
        {"max_queue_delay_s": float("nan")},
        {"independent_rows": "yes"},
        {"independent_rows": 1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """CONFIG_INVALID names the option and its value."""
    with pytest.raises(DukouError) as caught:
        batching_of(CONFIG, manifest(options=options))

    ((name, value),) = options.items()
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert f"models.options.iris.{name} is {value!r}" in str(caught.value)
