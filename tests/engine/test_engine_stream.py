"""Streams: responses one by one, one ahead; deadlines, cancellation, drain, and what is counted."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from engine_worlds import LOOPS, WAIT_S, iterations, run

from dukou.config import EngineConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.event import BatchRan, Event
from dukou.core.message import Context, InferenceRequest, InferenceResponse
from dukou.core.model import ModelVersion, Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.engine.router import Engine
from dukou.engine.stream import Streamer
from dukou.testing.clock import HandClock
from dukou.testing.models import FunctionModel, manifest, served, table

COUNT = Signature(
    "serving_default",
    (TensorSpec("n", "INT64", (1,)),),
    (TensorSpec("i", "INT64", (1,)), TensorSpec("rest", "INT64", (1,))),
    batched=False,
    streaming=True,
)
VERSION = ModelVersion("count", 1)


def request(n: int, outputs: tuple[str, ...] = ("i",), rows: int = 1, **context: Any) -> InferenceRequest:
    return InferenceRequest(VERSION, COUNT, {"n": np.array([n])}, outputs, rows, Context(**context))


class Counting(FunctionModel):
    """Counts up to n, a response for each number. `on_step` is called, in the thread, before each."""

    def __init__(self, on_step: Callable[[int], None] = lambda number: None, concurrency: int = 1) -> None:
        super().__init__(lambda inputs: {}, concurrency)
        self.on_step = on_step
        self.begun: list[int] = []
        self.made: list[int] = []
        self.closed = threading.Event()

    def stream(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Iterator[Tensors]:
        n = int(inputs["n"][0])
        try:
            for number in range(n):
                self.begun.append(number)
                self.on_step(number)
                self.made.append(number)
                yield {"i": np.array([number]), "rest": np.array([n - number])}
        finally:
            self.closed.set()


def held(gate: threading.Event, begin: int = 0) -> Callable[[int], None]:
    """An `on_step` that waits for `gate` before the number `begin` and those after it."""

    def on_step(number: int) -> None:
        if number >= begin:
            assert gate.wait(WAIT_S)

    return on_step


class World:
    """An engine with one streaming version, a clock set by hand, and what its observers heard."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self.clock = HandClock(100.0)
        self.told: list[Event] = []
        self.pool = ThreadPoolExecutor(4)
        self.engine = Engine(
            EngineConfig(**settings), asyncio.get_running_loop(), self.clock, (self.told.append,), self.pool
        )
        of = manifest("count", 1, (COUNT,))
        streamer = self.engine.streamer_for(of, model)
        assert streamer is not None
        self.streamer: Streamer = streamer

    def numbers(self, n: int, **context: Any) -> AsyncIterator[InferenceResponse]:
        return self.streamer.stream(request(n, **context))


@asynccontextmanager
async def world(model: Any, **settings: Any) -> AsyncIterator[World]:
    made = World(model, **settings)
    try:
        yield made
    finally:
        await asyncio.get_running_loop().run_in_executor(None, made.pool.shutdown)
        await iterations()


def value(response: InferenceResponse) -> int:
    return int(response.outputs["i"][0])


async def wait_for(event: threading.Event) -> None:
    """Return once a thread has set `event`."""
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, WAIT_S)


async def until(holds: Callable[[], bool]) -> None:
    """Return once `holds()`, which what runs meanwhile brings about."""
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0)


@pytest.fixture(params=list(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_responses_come_in_order_with_the_outputs_asked_for(loop: str) -> None:
    """Each from the version, and only what the caller wants."""

    async def main() -> None:
        async with world(Counting()) as one:
            got = [response async for response in one.streamer.stream(request(3, ("rest",)))]

            assert [response.outputs["rest"].tolist() for response in got] == [[3], [2], [1]]
            assert all(list(response.outputs) == ["rest"] and response.version == VERSION for response in got)

    run(loop, main)


def test_a_stream_may_have_no_response(loop: str) -> None:
    """It ends, and has run."""

    async def main() -> None:
        async with world(Counting()) as one:
            assert [response async for response in one.numbers(0)] == []
            assert len(one.told) == 1

    run(loop, main)


def test_one_response_is_made_ahead_and_no_more(loop: str) -> None:
    """While the caller is busy with the first, the second is made; the third waits."""

    async def main() -> None:
        model = Counting()
        async with world(model) as one:
            stream = one.numbers(9)
            assert value(await anext(stream)) == 0
            await until(lambda: model.made == [0, 1])
            await iterations(20)
            assert model.made == [0, 1]
            assert value(await anext(stream)) == 1
            await stream.aclose()  # type: ignore[attr-defined]

    run(loop, main)


def test_a_caller_that_goes_ends_the_iterator_after_its_step(loop: str) -> None:
    """The step that runs is let finish, in its thread; nothing is made after it, and admission has room at once."""

    async def main() -> None:
        gate = threading.Event()
        model = Counting(held(gate, 1))
        async with world(model) as one:
            stream = one.numbers(9)
            await anext(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await until(lambda: model.begun == [0, 1])
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

            assert one.engine.under_way == 0
            assert not model.closed.is_set()
            gate.set()
            await wait_for(model.closed)
            assert model.made == [0, 1]

    run(loop, main)


def test_a_deadline_holds_between_responses(loop: str) -> None:
    """By the engine's clock, while the caller is busy as well."""

    async def main() -> None:
        model = Counting()
        async with world(model) as one:
            stream = one.numbers(9, deadline_s=101.0)
            await anext(stream)
            one.clock.advance(1.0)
            with pytest.raises(DukouError) as caught:
                await anext(stream)

            assert caught.value.reason is Reason.DEADLINE_EXCEEDED
            await wait_for(model.closed)

    run(loop, main)


def test_a_deadline_ends_the_wait_for_a_response(loop: str) -> None:
    """The caller is told though the model has not answered."""

    async def main() -> None:
        gate = threading.Event()
        model = Counting(held(gate))
        async with world(model) as one:
            with pytest.raises(DukouError) as caught:
                await anext(one.numbers(9, deadline_s=100.01))
            gate.set()
            await wait_for(model.closed)

            assert caught.value.reason is Reason.DEADLINE_EXCEEDED

    run(loop, main)


def test_a_request_that_comes_too_late_does_not_run(loop: str) -> None:
    """Its deadline has passed before the first step."""

    async def main() -> None:
        model = Counting()
        async with world(model) as one:
            with pytest.raises(DukouError) as caught:
                await anext(one.numbers(9, deadline_s=99.0))

            assert caught.value.reason is Reason.DEADLINE_EXCEEDED
            assert model.made == []
            assert one.told == []

    run(loop, main)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (DukouError(Reason.MODEL_REFUSED_INPUT, detail="odd"), Reason.MODEL_REFUSED_INPUT),
        (ZeroDivisionError("no"), Reason.MODEL_FAILED),
        (SystemExit(3), Reason.MODEL_FAILED),
        (asyncio.CancelledError(), Reason.MODEL_FAILED),
        (StopIteration(), Reason.MODEL_FAILED),
    ],
    ids=repr,
)
def test_what_the_model_raises_comes_after_what_it_gave(loop: str, raised: BaseException, reason: Reason) -> None:
    """Its own DukouErrors with the version's name, all else as MODEL_FAILED."""

    def fail(number: int) -> None:
        if number == 1:
            raise raised

    async def main() -> None:
        async with world(Counting(fail)) as one:
            stream = one.numbers(9)
            assert value(await anext(stream)) == 0
            with pytest.raises(DukouError) as caught:
                await anext(stream)

            assert caught.value.reason is reason
            assert caught.value.facts["model"] == "count"

    run(loop, main)


def test_a_failure_is_logged_and_not_told(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the request's id and the traceback, the caller a sentence."""

    def fail(number: int) -> None:
        raise ZeroDivisionError("a secret")

    async def main() -> None:
        async with world(Counting(fail)) as one:
            with pytest.raises(DukouError) as caught:
                await anext(one.numbers(1, id="r-7"))

            assert "secret" not in str(caught.value)
            assert "r-7" in caplog.text
            assert "ZeroDivisionError: a secret" in caplog.text

    run(loop, main)


def test_steps_of_one_model_take_turns(loop: str) -> None:
    """No more at a time than its concurrency, however many streams are open."""
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def step(number: int) -> None:
        with lock:
            inside.append(number)
            most.append(len(inside))
        with lock:
            inside.pop()

    async def main() -> None:
        async with world(Counting(step, concurrency=2)) as one:

            async def consume() -> list[int]:
                return [value(response) async for response in one.numbers(5)]

            answers = await asyncio.gather(*(consume() for _ in range(6)))

            assert answers == [[0, 1, 2, 3, 4]] * 6
            assert max(most) <= 2

    run(loop, main)


def test_admission_counts_streams(loop: str) -> None:
    """One too many is OVERLOADED; an ended stream makes room."""

    async def main() -> None:
        async with world(Counting(), max_requests=1) as one:
            first = one.numbers(9)
            await anext(first)
            with pytest.raises(DukouError) as caught:
                await anext(one.numbers(1))
            await first.aclose()  # type: ignore[attr-defined]

            assert caught.value.reason is Reason.OVERLOADED
            assert [value(response) async for response in one.numbers(1)] == [0]

    run(loop, main)


def test_a_request_may_not_be_too_large(loop: str) -> None:
    """The bound on rows holds here as well."""

    async def main() -> None:
        async with world(Counting(), max_request_rows=4) as one:
            with pytest.raises(DukouError) as caught:
                await anext(one.streamer.stream(request(1, rows=5)))

            assert caught.value.reason is Reason.BATCH_TOO_LARGE

    run(loop, main)


def test_a_drain_ends_what_is_late(loop: str) -> None:
    """A stream that waits for the model is answered DRAINING, and none begins after it."""

    async def main() -> None:
        gate = threading.Event()
        model = Counting(held(gate, 1))
        async with world(model) as one:
            stream = one.numbers(9)
            await anext(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await until(lambda: model.begun == [0, 1])
            await one.engine.drain(0.0)
            with pytest.raises(DukouError) as caught:
                await waiting
            with pytest.raises(DukouError) as refused:
                await anext(one.numbers(1))
            gate.set()
            await wait_for(model.closed)

            assert caught.value.reason is refused.value.reason is Reason.DRAINING

    run(loop, main)


def test_a_request_that_was_answered_is_one_execution(loop: str) -> None:
    """Triton counts so: one execution and one success, however many responses, told when the last was taken."""

    async def main() -> None:
        model = Counting()
        async with world(model) as one:
            model.on_step = lambda number: one.clock.advance(0.5)
            stream = one.numbers(2, arrived_s=99.0, entry=3)
            async for _ in stream:
                assert one.told == []
            one.clock.advance(1.0)

            (event,) = one.told
            assert isinstance(event, BatchRan)
            assert (event.version, list(event.arrived_s), event.rows, event.inline) == (VERSION, [99.0], 1, False)
            assert list(event.entries) == [3]
            assert (event.started_s, event.joined_s, event.inferred_s, event.ended_s) == (100.0, 100.0, 101.0, 101.0)

    run(loop, main)


def test_a_request_that_was_given_up_answered_nobody(loop: str) -> None:
    """It ran, so it is told; whoever refused or cancelled it counts that."""

    async def main() -> None:
        async with world(Counting()) as one:
            stream = one.numbers(9)
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]

            (event,) = one.told
            assert isinstance(event, BatchRan)
            assert list(event.arrived_s) == []

    run(loop, main)


def test_a_single_answer_cannot_be_asked_of_a_streaming_signature(loop: str) -> None:
    """NOT_SUPPORTED, in the words that Triton's clients look for; the model is not warmed up either."""

    async def main() -> None:
        async with world(Counting()) as one:
            of = manifest("count", 1, (COUNT,))
            stage = one.engine.stage_for(of, Counting())
            await stage.warm()
            one.engine.swap(table(served(of, stage)))
            with pytest.raises(DukouError) as caught:
                await one.engine.infer(request(1))

            assert caught.value.reason is Reason.NOT_SUPPORTED
            assert "doesn't support models with decoupled transaction policy" in str(caught.value)

    run(loop, main)


def test_other_versions_have_no_streamer(loop: str) -> None:
    """Only those with a streaming signature."""

    async def main() -> None:
        async with world(Counting()) as one:
            assert one.engine.streamer_for(manifest(), FunctionModel(lambda inputs: {})) is None

    run(loop, main)
