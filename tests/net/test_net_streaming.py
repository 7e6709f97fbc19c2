"""Inference from ordinary tasks, through a real engine: answers, refusals that are counted once, cancellation."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
import uvloop

from dukou.config import EngineConfig
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import BatchRan, Event, RequestRefused
from dukou.core.message import Context, InferenceRequest, InferenceResponse
from dukou.core.model import ModelRef, Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.engine.router import Engine
from dukou.net import streaming
from dukou.net.facts import Facts
from dukou.testing.clock import HandClock
from dukou.testing.models import FunctionModel, iris_model, manifest, served, table
from dukou.wire import oip_http
from dukou.wire.codec import Codec

WAIT_S = 20.0
IRIS = ModelRef("iris")
COUNT = ModelRef("count")
CODEC: Codec = oip_http

COUNTING = Signature(
    "serving_default",
    (TensorSpec("n", "INT64", (1,)),),
    (TensorSpec("i", "INT64", (1,)),),
    batched=False,
    streaming=True,
)


def asking(name: str, datatype: str, *values: float) -> bytes:
    shape = [1, len(values)] if datatype == "FP32" else [len(values)]
    tensor = {"name": name, "datatype": datatype, "shape": shape, "data": values}
    return orjson.dumps({"inputs": [tensor]})


ROW = asking("X", "FP32", 5.1, 3.5, 1.4, 0.2)


class Counting(FunctionModel):
    """Counts up to n, unless something is wrong with a number."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        super().__init__(lambda inputs: {})
        self.closed = threading.Event()
        self._on_step = on_step

    def stream(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Iterator[Tensors]:
        try:
            for number in range(int(inputs["n"][0])):
                self._on_step(number)
                yield {"i": np.array([number])}
        finally:
            self.closed.set()


class World:
    """An engine with an iris and a counting model, the facts about it, and what the observers heard."""

    def __init__(self, iris: Any, on_step: Callable[[int], None], pool: ThreadPoolExecutor, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        self.clock = HandClock(10.0)
        self.told: list[Event] = []
        observers = (self.told.append,)
        self.engine = Engine(EngineConfig(**settings), loop, self.clock, observers, pool)
        self.counting = Counting(on_step)
        of, other = manifest(), manifest("count", 1, (COUNTING,))
        counted = msgspec.structs.replace(
            served(other, self.engine.stage_for(other, self.counting)),
            streamer=self.engine.streamer_for(other, self.counting),
        )
        self.engine.swap(table(served(of, self.engine.stage_for(of, iris)), counted))
        self.facts = Facts(
            self.engine, pool, dict, lambda _: b"", lambda: b"", lambda: False, self.clock, observers, 1000
        )

    def refusals(self) -> list[tuple[str | None, Code, bool]]:
        """Which model, which code, whether it had answered."""
        return [
            (event.version and event.version.name, event.code, event.executed)
            for event in self.told
            if isinstance(event, RequestRefused)
        ]


@asynccontextmanager
async def world(
    iris: Any = None, on_step: Callable[[int], None] = lambda number: None, **settings: Any
) -> AsyncIterator[World]:
    with ThreadPoolExecutor(4) as pool:
        yield World(iris or iris_model(), on_step, pool, **settings)
        await asyncio.sleep(0)


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Runs a test's coroutine on each kind of loop, for a bounded time."""

    def bounded(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(main(), WAIT_S))

    return bounded


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def context(**more: Any) -> Context:
    return Context("id", 9.0, **more)


def test_a_task_gets_one_answer(run: Run) -> None:
    """With the request that `encode` needs."""

    async def main() -> None:
        async with world() as one:
            request, response = await streaming.infer(one.facts, CODEC, IRIS, {}, ROW, context())
            reply = await streaming.encode(one.facts, CODEC, request, response)

            assert orjson.loads(reply.body)["outputs"][0]["data"] == [0]
            assert one.refusals() == []

    run(main)


def test_many_tasks_share_batches(run: Run) -> None:
    """They come to the engine as any other request."""

    async def main() -> None:
        async with world(tick_budget_s=0.0) as one:
            calls = [streaming.infer(one.facts, CODEC, IRIS, {}, ROW, context()) for _ in range(20)]
            await asyncio.gather(*calls)

            assert max(event.rows for event in one.told if isinstance(event, BatchRan)) > 1

    run(main)


def test_a_bound_request_is_run(run: Run) -> None:
    """What has been chosen and bound already."""

    async def main() -> None:
        async with world() as one:
            version = one.engine.choose(IRIS, "")
            request = CODEC.bind(CODEC.parse(IRIS, {}, ROW), version, context())
            response = await streaming.run(one.facts, version, request)

            assert response.outputs["label"].tolist() == [0]

    run(main)


@pytest.mark.parametrize(
    ("ref", "body", "reason", "counted"),
    [
        (IRIS, b"{", Reason.MALFORMED_JSON, None),
        (ModelRef("lily"), ROW, Reason.MODEL_NOT_FOUND, None),
        (IRIS, asking("X", "FP32", 1.0), Reason.WRONG_WIDTH, "iris"),
        (COUNT, asking("n", "INT64", 3), Reason.NOT_SUPPORTED, "count"),
    ],
)
def test_a_refusal_is_raised_and_counted_once(
    run: Run, ref: ModelRef, body: bytes, reason: Reason, counted: str | None
) -> None:
    """With the version, once it is chosen."""

    async def main() -> None:
        async with world() as one:
            with pytest.raises(DukouError) as caught:
                await streaming.infer(one.facts, CODEC, ref, {}, body, context())

            assert caught.value.reason is reason
            assert one.refusals() == [(counted, reason.code, False)]

    run(main)


@pytest.mark.parametrize(
    ("ref", "body"),
    [(IRIS, asking("X", "FP32", 1.0)), (COUNT, asking("n", "INT64", 3))],
    ids=["by the codec", "by a stage"],
)
def test_a_refused_call_leaves_no_cycle(run: Run, ref: ModelRef, body: bytes) -> None:
    """What it held is given back at once: the collector is told to look seldom."""

    async def refused(one: World) -> "weakref.ref[DukouError]":
        try:
            await streaming.infer(one.facts, CODEC, ref, {}, body, context())
        except DukouError as error:
            return weakref.ref(error)
        raise AssertionError("it was answered")

    async def main() -> None:
        async with world() as one:
            gc.disable()
            error = await refused(one)
            await asyncio.sleep(0)
            gone = error() is None
            gc.enable()

            assert gone

    run(main)


def test_a_foreign_exception_is_ours_when_it_arrives(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """INTERNAL, and the log knows the rest."""

    class Broken:
        @staticmethod
        def parse(*_: Any) -> Any:
            raise ZeroDivisionError("secret")

    async def main() -> None:
        async with world() as one:
            broken: Any = Broken
            with pytest.raises(DukouError) as caught:
                await streaming.infer(one.facts, broken, IRIS, {}, ROW, context())

            assert caught.value.reason is Reason.INTERNAL
            assert "secret" not in str(caught.value)
            assert "secret" in caplog.text

    run(main)


def test_a_cancelled_task_leaves_the_queue(run: Run) -> None:
    """Its request is not run, and counts as cancelled."""

    async def main() -> None:
        gate, begun = threading.Event(), threading.Event()
        calls: list[int] = []

        def slow(inputs: Tensors) -> Tensors:
            calls.append(len(inputs["X"]))
            begun.set()
            assert gate.wait(WAIT_S)
            return {"label": np.zeros(len(inputs["X"]), np.int64), "probabilities": np.zeros((len(inputs["X"]), 3))}

        async with world(FunctionModel(slow)) as one:

            async def ask() -> None:
                await streaming.infer(one.facts, CODEC, IRIS, {}, ROW, context())

            first = asyncio.ensure_future(ask())
            assert await asyncio.get_running_loop().run_in_executor(None, begun.wait, WAIT_S)
            second = asyncio.ensure_future(ask())
            while one.engine.under_way < 2:
                await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            while one.engine.under_way > 1:
                await asyncio.sleep(0)
            gate.set()
            await first

            assert calls == [1]
            assert one.refusals() == [("iris", Code.CANCELLED, False)]

    run(main)


def test_a_task_that_was_cancelled_before_it_began_does_nothing(run: Run) -> None:
    """The engine never hears of it."""

    async def main() -> None:
        async with world() as one:
            task = asyncio.ensure_future(streaming.infer(one.facts, CODEC, IRIS, {}, ROW, context()))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)

            assert one.refusals() == [(None, Code.CANCELLED, False)]
            assert not [event for event in one.told if isinstance(event, BatchRan)]

    run(main)


def test_responses_are_those_of_the_stream(run: Run) -> None:
    """In order, each with its request."""

    async def main() -> None:
        async with world() as one:
            body = asking("n", "INT64", 3)
            got = [pair async for pair in streaming.responses(one.facts, CODEC, COUNT, {}, body, context())]

            assert [response.outputs["i"].tolist() for _, response in got] == [[0], [1], [2]]
            assert len({id(request) for request, _ in got}) == 1
            assert one.refusals() == []

    run(main)


def test_other_signatures_have_one_response(run: Run) -> None:
    """A stream of one."""

    async def main() -> None:
        async with world() as one:
            got = [pair async for pair in streaming.responses(one.facts, CODEC, IRIS, {}, ROW, context())]

            assert [response.outputs["label"].tolist() for _, response in got] == [[0]]

    run(main)


def test_an_error_may_come_after_responses(run: Run) -> None:
    """It is raised where the next one was awaited, and counted."""

    def fail(number: int) -> None:
        if number == 2:
            raise ValueError("no")

    async def main() -> None:
        async with world(on_step=fail) as one:
            seen: list[int] = []

            async def consume() -> None:
                body = asking("n", "INT64", 9)
                async for _, response in streaming.responses(one.facts, CODEC, COUNT, {}, body, context()):
                    seen.append(int(response.outputs["i"][0]))

            with pytest.raises(DukouError) as caught:
                await consume()

            assert seen == [0, 1]
            assert caught.value.reason is Reason.MODEL_FAILED
            assert one.refusals() == [("count", Code.INTERNAL, False)]

    run(main)


def test_closing_the_responses_ends_the_work(run: Run) -> None:
    """As a client that goes does."""

    async def main() -> None:
        async with world() as one:
            coming = streaming.responses(one.facts, CODEC, COUNT, {}, asking("n", "INT64", 10**6), context())
            await anext(coming)
            await coming.aclose()
            assert await asyncio.get_running_loop().run_in_executor(None, one.counting.closed.wait, WAIT_S)

            assert one.refusals() == [("count", Code.CANCELLED, False)]
            assert one.engine.under_way == 0

    run(main)


def test_a_deadline_is_the_streams_own(run: Run) -> None:
    """DEADLINE_EXCEEDED once, between two responses."""

    async def main() -> None:
        async with world() as one:
            coming = streaming.responses(one.facts, CODEC, COUNT, {}, asking("n", "INT64", 9), context(deadline_s=12.0))
            await anext(coming)
            one.clock.advance(3.0)
            with pytest.raises(DukouError) as caught:
                await anext(coming)

            assert caught.value.reason is Reason.DEADLINE_EXCEEDED
            assert one.refusals() == [("count", Code.DEADLINE_EXCEEDED, False)]

    run(main)


class Told:
    """A codec that remembers in which thread it worked."""

    def __init__(self, writes: int) -> None:
        self.threads: list[str] = []
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(oip_http, name)

    def parse(self, *arguments: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        return oip_http.parse(*arguments)

    def encode(self, *arguments: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        return oip_http.encode(*arguments)

    def reading_bytes(self, headers: Any, body: bytes) -> int:
        return len(body)

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        return self._writes


@pytest.mark.parametrize(("padding", "writes", "off"), [(0, 10, False), (2000, 2000, True)])
def test_large_bodies_are_read_and_written_in_the_pool(run: Run, padding: int, writes: int, off: bool) -> None:
    """And small ones where they are: a thread costs more than they do."""

    async def main() -> None:
        async with world() as one:
            codec = Told(writes)
            request, response = await streaming.infer(one.facts, codec, IRIS, {}, ROW + b" " * padding, context())
            await streaming.encode(one.facts, codec, request, response)

            here = threading.current_thread().name
            assert [name != here for name in codec.threads] == [off, off]

    run(main)


def test_what_cannot_be_written_was_executed(run: Run) -> None:
    """So that the counts do not count it twice."""

    class Mute(Told):
        def encode(self, *arguments: Any) -> Any:
            raise DukouError(Reason.NOT_SUPPORTED, detail="cannot be said")

    async def main() -> None:
        async with world() as one:
            request, response = await streaming.infer(one.facts, CODEC, IRIS, {}, ROW, context())
            with pytest.raises(DukouError, match="cannot be said"):
                await streaming.encode(one.facts, Mute(1), request, response)

            assert one.refusals() == [("iris", Code.UNIMPLEMENTED, True)]

    run(main)


def test_a_runtime_without_streams_is_refused(run: Run) -> None:
    """A manifest may promise what its runtime cannot do."""

    async def main() -> None:
        async with world() as one:
            other = manifest("count", 1, (COUNTING,))
            one.engine.swap(table(served(other, one.engine.stage_for(other, iris_model()))))
            with pytest.raises(DukouError, match="cannot stream") as caught:
                await anext(streaming.responses(one.facts, CODEC, COUNT, {}, asking("n", "INT64", 9), context()))

            assert caught.value.reason is Reason.NOT_SUPPORTED
            assert one.refusals() == [("count", Code.UNIMPLEMENTED, False)]

    run(main)
