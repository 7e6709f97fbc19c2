"""The batcher: every test in both worlds (driver and Tasks) and on both event loops."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from engine_rig import ONE_AT_A_TIME, Double, answer, batcher, request
from engine_worlds import LOOPS, WAIT_S, WORLDS, DriverWorld, TaskWorld, complaints, iterations, run
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.event import BatchRan, Event
from dukou.core.message import Copy
from dukou.core.model import ModelVersion
from dukou.core.tensor import Tensors
from dukou.testing.clock import HandClock
from dukou.testing.models import FunctionModel

World = DriverWorld | TaskWorld
InWorld = Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[(world, loop) for world in WORLDS for loop in LOOPS], ids="-".join)
def in_world(request: pytest.FixtureRequest) -> InWorld:
    """Runs `main(world)` in each world on each loop in turn."""
    world, loop = request.param

    def in_one(main: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        run(loop, lambda: main(WORLDS[world]()))

    return in_one


class Gate:
    """Makes a model wait in its thread until it is let through; counts who is inside."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._open = threading.Semaphore(0)
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, values: list[float]) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self._entered.release()
        assert self._open.acquire(timeout=WAIT_S)
        with self._lock:
            self.inside -= 1

    async def entered(self) -> None:
        """Return when one more call is inside."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=WAIT_S)

    def let(self, count: int = 1) -> None:
        """Let `count` calls through, now or when they come."""
        self._open.release(count)


class TestGathering:
    """Which requests run together."""

    @pytest.mark.parametrize(("cost_s", "runs"), [(0.0, 3), (1e-6, 1)], ids=["light", "heavy"])
    def test_large_requests_share_a_run_where_it_costs_more_than_copying_them(
        self, in_world: InWorld, cost_s: float, runs: int
    ) -> None:
        """128 KB each: a light model answers them in less time than it takes to put them together."""

        async def main(world: World) -> None:
            model = Double()
            rows = 8192
            with batcher(
                model, cost_s=cost_s, max_batch_rows=4 * rows, max_request_rows=rows, max_queue_rows=4 * rows
            ) as stage:
                callers = [world.start(stage.infer(request(*[value] * rows))) for value in (1.0, 2.0, 3.0)]
                told = [await caller.wait() for caller in callers]

            assert len(model.calls) == runs
            assert [one.value.outputs["y"][0, 0] for one in told] == [2.0, 4.0, 6.0]

        in_world(main)

    def test_requests_of_one_iteration_run_as_one_batch(self, in_world: InWorld) -> None:
        """And every caller gets its own rows."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model) as stage:
                callers = [world.start(stage.infer(request(*values))) for values in ([1.0], [2.0, 3.0], [4.0])]
                told = [await caller.wait() for caller in callers]

            assert model.calls == [[1.0, 2.0, 3.0, 4.0]]
            assert [one.value.outputs["y"].tolist() for one in told] == [answer(1.0), answer(2.0, 3.0), answer(4.0)]
            assert {one.value.version for one in told} == {ModelVersion("m", 1)}

        in_world(main)

    def test_batches_are_counted_in_rows(self, in_world: InWorld) -> None:
        """At most max_batch_rows together; a request that is larger alone runs alone."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model, max_batch_rows=3) as stage:
                callers = [
                    world.start(stage.infer(request(*values)))
                    for values in ([1.0], [2.0], [3.0], [4.0, 4.0], [5.0] * 5, [6.0], [7.0, 7.0])
                ]
                for caller in callers:
                    await caller.wait()

            assert model.calls == [[1.0, 2.0, 3.0], [4.0, 4.0], [5.0] * 5, [6.0, 7.0, 7.0]]

        in_world(main)

    def test_what_differs_in_key_runs_apart(self, in_world: InWorld) -> None:
        """Here two values of a parameter."""

        async def main(world: World) -> None:
            model = Double()
            requests = [request(1.0), request(2.0), request(3.0)]
            requests[1].parameters = {"k": 1}
            with batcher(model) as stage:
                callers = [world.start(stage.infer(one)) for one in requests]
                told = [await caller.wait() for caller in callers]

            assert model.calls == [[1.0, 3.0], [2.0]]
            assert [one.value.outputs["y"][0, 0] for one in told] == [2.0, 4.0, 6.0]

        in_world(main)

    def test_without_evidence_each_request_runs_alone(self, in_world: InWorld) -> None:
        """A model whose rows may depend on one another must not leak one caller into another."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model, together=False) as stage:
                callers = [world.start(stage.infer(request(value, value))) for value in (1.0, 2.0)]
                for caller in callers:
                    await caller.wait()

            assert model.calls == [[1.0, 1.0], [2.0, 2.0]]

        in_world(main)

    def test_without_a_row_axis_each_request_runs_alone(self, in_world: InWorld) -> None:
        """Its outputs are not cut either: they may have any shape."""

        async def main(world: World) -> None:
            model = FunctionModel(lambda inputs: {"y": inputs["x"].sum(axis=0)})
            with batcher(model) as stage:
                callers = [
                    world.start(stage.infer(request(value, value, signature=ONE_AT_A_TIME))) for value in (1.0, 2.0)
                ]
                told = [await caller.wait() for caller in callers]

            assert [one.value.outputs["y"].tolist() for one in told] == [[2.0, 0.0], [4.0, 0.0]]

        in_world(main)

    def test_a_long_queue_of_one_kind_does_not_starve_another(self, in_world: InWorld) -> None:
        """What does not fit into a batch goes behind the other groups."""

        async def main(world: World) -> None:
            model = Double()
            other = request(9.0)
            other.parameters = {"k": 1}
            with batcher(model, max_batch_rows=1) as stage:
                callers = [world.start(stage.infer(one)) for one in (request(1.0), request(2.0), request(3.0), other)]
                for caller in callers:
                    await caller.wait()

            assert model.calls == [[1.0], [9.0], [2.0], [3.0]]

        in_world(main)

    def test_a_delay_gathers_more_than_one_iteration(self, in_world: InWorld) -> None:
        """Opt-in: the timer is what ends the wait."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model, max_queue_delay_s=0.03) as stage:
                first = world.start(stage.infer(request(1.0)))
                await iterations(3)
                second = world.start(stage.infer(request(2.0)))
                await iterations(3)
                assert model.calls == []
                await first.wait()
                await second.wait()

            assert model.calls == [[1.0, 2.0]]

        in_world(main)

    def test_a_full_batch_does_not_wait_for_its_delay(self, in_world: InWorld) -> None:
        """The delay of a minute is not waited for."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model, max_queue_delay_s=60.0, max_batch_rows=2) as stage:
                callers = [world.start(stage.infer(request(value))) for value in (1.0, 2.0)]
                for caller in callers:
                    await caller.wait()

            assert model.calls == [[1.0, 2.0]]

        in_world(main)


class TestLeaving:
    """Callers who have gone or whose time is up."""

    def test_a_cancelled_request_is_not_joined(self, in_world: InWorld) -> None:
        """The model never sees its rows; the others are answered."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model) as stage:
                callers = [world.start(stage.infer(request(value))) for value in (1.0, 2.0, 3.0)]
                await asyncio.sleep(0) if isinstance(world, TaskWorld) else None
                callers[1].cancel()
                told = [await caller.wait() for caller in callers]

                assert model.calls == [[1.0, 3.0]]
                assert [one.reason for one in told] == [None, Reason.CANCELLED, None]
                assert stage.under_way == 0

        in_world(main)

    def test_a_late_request_is_not_joined(self, in_world: InWorld) -> None:
        """It is told DEADLINE_EXCEEDED; work nobody waits for is not done."""

        async def main(world: World) -> None:
            model, clock = Double(), HandClock(100.0)
            with batcher(model, clock=clock) as stage:
                callers = [
                    world.start(stage.infer(request(value, deadline_s=deadline_s)))
                    for value, deadline_s in ((1.0, 101.0), (2.0, 100.0), (3.0, float("inf")))
                ]
                told = [await caller.wait() for caller in callers]

            assert model.calls == [[1.0, 3.0]]
            assert [one.reason for one in told] == [None, Reason.DEADLINE_EXCEEDED, None]

        in_world(main)

    def test_a_full_queue_refuses(self, in_world: InWorld) -> None:
        """QUEUE_FULL names the model and both numbers; who waits already is answered."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model, max_queue_rows=3) as stage:
                callers = [world.start(stage.infer(request(*values))) for values in ([1.0, 1.0], [2.0, 2.0], [3.0])]
                told = [await caller.wait() for caller in callers]

            assert [one.reason for one in told] == [None, Reason.QUEUE_FULL, None]
            assert told[1].error.facts == {"model": "m", "version": 1, "got": 2, "wanted": 3}

        in_world(main)

    def test_a_request_that_is_too_large_is_refused(self, in_world: InWorld) -> None:
        """However many rows a batch or the queue may hold."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model, max_request_rows=3) as stage:
                told = [await world.start(stage.infer(request(*range(rows)))).wait() for rows in (3, 4)]

            assert [one.reason for one in told] == [None, Reason.BATCH_TOO_LARGE]
            assert told[1].error.facts == {"model": "m", "version": 1, "got": 4, "wanted": 3}

        in_world(main)

    def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(self, in_world: InWorld) -> None:
        """How large one request may be is another setting."""

        async def main(world: World) -> None:
            with batcher(Double(), max_queue_rows=3) as stage:
                told = await world.start(stage.infer(request(*range(10)))).wait()

            assert told.value.outputs["y"].tolist() == answer(*range(10))

        in_world(main)

    def test_callers_who_leave_give_their_room_back(self, in_world: InWorld) -> None:
        """While the model is busy, a thousand calls that come and go fill neither queue nor memory."""

        async def main(world: World) -> None:
            gate = Gate()
            model = Double(gate)
            with batcher(model, cost_s=None, max_queue_rows=2) as stage:
                first = world.start(stage.infer(request(0.0)))
                await gate.entered()
                for _ in range(1000):
                    caller = world.start(stage.infer(request(1.0, 1.0)))
                    await asyncio.sleep(0) if isinstance(world, TaskWorld) else None
                    caller.cancel()
                    await caller.wait()
                assert stage.under_way == 1
                last = world.start(stage.infer(request(2.0, 3.0)))
                gate.let(2)

                assert (await first.wait()).error is None
                assert (await last.wait()).value.outputs["y"].tolist() == answer(2.0, 3.0)
                assert model.calls == [[0.0], [2.0, 3.0]]

        in_world(main)

    def test_a_caller_may_leave_while_its_batch_runs(self, in_world: InWorld) -> None:
        """Its rows are thrown away, its neighbours get theirs."""

        async def main(world: World) -> None:
            gate = Gate()
            with batcher(Double(gate), cost_s=None) as stage:
                callers = [world.start(stage.infer(request(value))) for value in (1.0, 2.0)]
                await gate.entered()
                callers[0].cancel()
                assert (await callers[0].wait()).reason is Reason.CANCELLED
                gate.let()
                told = await callers[1].wait()

                assert told.value.outputs["y"].tolist() == answer(2.0)
                assert (stage.under_way, callers[0].told.times) == (0, 1)

        in_world(main)

    @pytest.mark.parametrize("cost_s", [0.0, None], ids=["inline", "thread"])
    @pytest.mark.parametrize("turns", range(6))
    def test_a_caller_may_leave_at_any_moment(self, in_world: InWorld, turns: int, cost_s: float | None) -> None:
        """Cancelled after any number of loop iterations: told once, and its neighbours get their own rows."""

        async def main(world: World) -> None:
            with batcher(Double(), cost_s=cost_s) as stage:
                callers = [world.start(stage.infer(request(value))) for value in (1.0, 2.0, 3.0)]
                await iterations(turns)
                callers[1].cancel()
                told = [await caller.wait() for caller in callers]
                await iterations()

                assert told[0].value.outputs["y"].tolist() == answer(1.0)
                assert told[2].value.outputs["y"].tolist() == answer(3.0)
                assert told[1].reason is Reason.CANCELLED or told[1].value.outputs["y"].tolist() == answer(2.0)
                assert [one.times for one in told] == [1, 1, 1]
                assert stage.under_way == 0

        in_world(main)

    def test_closing_answers_what_is_queued(self, in_world: InWorld) -> None:
        """DRAINING for those who wait and those who come; what runs is finished."""

        async def main(world: World) -> None:
            gate = Gate()
            with batcher(Double(gate), cost_s=None) as stage:
                running = world.start(stage.infer(request(1.0)))
                await gate.entered()
                queued = [world.start(stage.infer(request(value))) for value in (2.0, 3.0)]
                await iterations()
                stage.close()
                late = world.start(stage.infer(request(4.0)))
                told = [await caller.wait() for caller in (*queued, late)]
                gate.let()

                assert [one.reason for one in told] == [Reason.DRAINING] * 3
                assert len({id(one.error) for one in told}) == 3
                assert (await running.wait()).value.outputs["y"].tolist() == answer(1.0)
                assert stage.under_way == 0

        in_world(main)

    def test_closing_forgets_the_delay(self, in_world: InWorld) -> None:
        """Nothing of a closed batcher is left on the loop."""

        async def main(world: World) -> None:
            model = Double()
            with batcher(model, max_queue_delay_s=0.001) as stage:
                caller = world.start(stage.infer(request(1.0)))
                await iterations(1)
                stage.close()
                assert (await caller.wait()).reason is Reason.DRAINING
                assert stage._timer is None

            assert model.calls == []

        in_world(main)


class TestFailing:
    """Errors reach whom they belong to."""

    def test_a_failing_request_does_not_fail_its_neighbours(self, in_world: InWorld) -> None:
        """The batch is run again request by request."""

        async def main(world: World) -> None:
            def refuse(values: list[float]) -> BaseException | None:
                return DukouError(Reason.MODEL_REFUSED_INPUT, detail="negative") if min(values) < 0 else None

            with batcher(Double(refuse)) as stage:
                callers = [world.start(stage.infer(request(value))) for value in (1.0, -2.0, 3.0)]
                told = [await caller.wait() for caller in callers]

                assert [one.reason for one in told] == [None, Reason.MODEL_REFUSED_INPUT, None]
                assert told[1].error.facts == {"model": "m", "version": 1, "detail": "negative"}
                assert told[2].value.outputs["y"].tolist() == answer(3.0)
                assert stage.under_way == 0

        in_world(main)

    def test_a_foreign_exception_becomes_model_failed(
        self, in_world: InWorld, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The caller learns nothing of the model's own text; the log has it, with the request's id."""

        async def main(world: World) -> None:
            caplog.clear()
            with batcher(Double(lambda values: ValueError("secret"))) as stage:
                callers = [world.start(stage.infer(request(1.0, id=f"request-{number}"))) for number in range(2)]
                told = [await caller.wait() for caller in callers]

            assert [one.reason for one in told] == [Reason.MODEL_FAILED] * 2
            assert told[0].error is not told[1].error
            assert "secret" not in "".join(str(one.error) + repr(one.error.facts) for one in told)
            errors = [record for record in caplog.records if record.levelno == logging.ERROR]
            assert ["'request-0'" in errors[0].getMessage(), "'request-1'" in errors[1].getMessage()] == [True, True]
            assert all("secret" in str(record.exc_info[1]) for record in errors)

        in_world(main)

    @pytest.mark.parametrize("problem", [SystemExit(1), asyncio.CancelledError(), MemoryError(), StopIteration(1)])
    def test_a_model_cannot_end_the_server(self, in_world: InWorld, problem: BaseException) -> None:
        """Whatever it raises is its failure; the next request is answered."""

        async def main(world: World) -> None:
            with batcher(Double(lambda values: problem if values == [1.0] else None)) as stage:
                failed = await world.start(stage.infer(request(1.0))).wait()
                answered = await world.start(stage.infer(request(2.0))).wait()

            assert failed.reason is Reason.MODEL_FAILED
            assert answered.error is None

        in_world(main)

    def test_a_model_that_is_away_is_not_asked_again(self, in_world: InWorld) -> None:
        """UNAVAILABLE is no one request's fault: all are told, one object each."""

        async def main(world: World) -> None:
            model = Double(lambda values: DukouError(Reason.DRAINING))
            with batcher(model) as stage:
                callers = [world.start(stage.infer(request(value))) for value in (1.0, 2.0)]
                told = [await caller.wait() for caller in callers]

            assert model.calls == [[1.0, 2.0]]
            assert [one.reason for one in told] == [Reason.DRAINING] * 2
            assert told[0].error is not told[1].error

        in_world(main)

    def test_outputs_that_are_not_rows_are_not_split(self, in_world: InWorld) -> None:
        """Each request runs alone then; one whose own rows do not come back is refused."""

        async def main(world: World) -> None:
            model = FunctionModel(lambda inputs: {"y": inputs["x"].sum(axis=0, keepdims=True)})
            with batcher(model) as stage:
                callers = [world.start(stage.infer(request(*values))) for values in ([1.0], [2.0], [3.0, 4.0])]
                told = [await caller.wait() for caller in callers]

            assert [one.reason for one in told] == [None, None, Reason.OUTPUT_NOT_ROWS]
            assert [one.value.outputs["y"].tolist() for one in told[:2]] == [[[1.0, 0.0]], [[2.0, 0.0]]]
            assert told[2].error.facts["got"] == [1, 2]

        in_world(main)

    def test_a_missing_output_is_the_models_failure(self, in_world: InWorld) -> None:
        """A KeyError does not reach the caller."""

        async def main(world: World) -> None:
            with batcher(FunctionModel(lambda inputs: {})) as stage:
                told = await world.start(stage.infer(request(1.0))).wait()

            assert told.reason is Reason.MODEL_FAILED

        in_world(main)

    def test_a_pool_that_was_shut_down_answers_draining(self, in_world: InWorld) -> None:
        """At the very end of a shutdown nobody is left waiting."""

        async def main(world: World) -> None:
            with batcher(Double(), cost_s=None) as stage:
                pass

            told = await world.start(stage.infer(request(1.0))).wait()
            assert told.reason is Reason.DRAINING

        in_world(main)


class TestThreads:
    """Batches that are too expensive for the loop."""

    def test_what_comes_while_the_model_is_busy_runs_together(self, in_world: InWorld) -> None:
        """The thread that is free again takes whatever waits."""

        async def main(world: World) -> None:
            gate = Gate()
            model = Double(gate)
            with batcher(model, cost_s=None) as stage:
                callers = [world.start(stage.infer(request(1.0)))]
                await gate.entered()
                for value in (2.0, 3.0, 4.0):
                    callers.append(world.start(stage.infer(request(value))))
                    await iterations(2)
                gate.let(2)
                told = [await caller.wait() for caller in callers]

            assert model.calls == [[1.0], [2.0, 3.0, 4.0]]
            assert [one.value.outputs["y"].tolist() for one in told] == [answer(float(v)) for v in (1, 2, 3, 4)]

        in_world(main)

    def test_no_more_threads_than_the_model_bears(self, in_world: InWorld) -> None:
        """`concurrency` bounds the calls at a time, also of requests that never share a batch."""

        async def main(world: World) -> None:
            gate = Gate()
            with batcher(FunctionModel(Double(gate), concurrency=2), cost_s=None, together=False) as stage:
                callers = [world.start(stage.infer(request(float(value)))) for value in range(6)]
                await gate.entered()
                await gate.entered()
                await iterations()
                assert gate.inside == 2
                gate.let(6)
                told = [await caller.wait() for caller in callers]

            assert gate.most == 2
            assert [one.value.outputs["y"][0, 0] for one in told] == [2.0 * value for value in range(6)]

        in_world(main)

    def test_a_busy_model_is_not_entered_from_the_loop(self, in_world: InWorld) -> None:
        """However cheap the next batch would be: its concurrency is used up."""

        async def main(world: World) -> None:
            gate, clock = Gate(), HandClock()
            model = Double(lambda values: gate(values) if len(values) > 1 else None)  # type: ignore[func-returns-value]
            with batcher(model, budget_s=0.5, clock=clock, cost_s=0.4) as stage:
                large = world.start(stage.infer(request(1.0, 2.0)))
                await gate.entered()
                small = world.start(stage.infer(request(3.0)))
                await iterations()
                assert model.calls == [[1.0, 2.0]]
                gate.let()
                await large.wait()
                await small.wait()

            assert (gate.most, model.calls) == (1, [[1.0, 2.0], [3.0]])

        in_world(main)


class TestObserving:
    """What observers are told."""

    def test_every_execution_is_told_once(self, in_world: InWorld) -> None:
        """Arrivals of the requests answered, rows of the batch, and when it ran."""

        async def main(world: World) -> None:
            clock, events = HandClock(10.0), list[Event]()

            def model(inputs: Tensors) -> Tensors:
                clock.advance(0.25)
                return {"y": inputs["x"]}

            with batcher(model, clock=clock, observers=[events.append]) as stage:
                callers = [
                    world.start(stage.infer(request(*values, arrived_s=arrived_s, entry=entry)))
                    for values, arrived_s, entry in (([1.0], 9.0, 1), ([2.0, 3.0], 9.5, 4))
                ]
                for caller in callers:
                    await caller.wait()

            assert events == [
                BatchRan(ModelVersion("m", 1), [9.0, 9.5], 10.0, 10.25, 3, True, 10.0, 10.25, [1, 4]),
            ]

        in_world(main)

    def test_a_failed_execution_answered_nobody(self, in_world: InWorld) -> None:
        """Its time is told, with no arrivals."""

        async def main(world: World) -> None:
            events = list[Event]()
            with batcher(Double(lambda values: ValueError()), observers=[events.append]) as stage:
                await world.start(stage.infer(request(1.0))).wait()

            assert [(event.arrived_s, event.rows, event.inferred_s) for event in events] == [((), 1, 0.0)]

        in_world(main)

    def test_a_failing_observer_harms_nobody(self, in_world: InWorld) -> None:
        """It is said to the loop's exception handler; answers and other observers go on."""

        async def main(world: World) -> None:
            events, heard = list[Event](), complaints()

            def broken(event: Event) -> None:
                raise RuntimeError("disk full")

            with batcher(Double(), observers=[broken, events.append]) as stage:
                told = await world.start(stage.infer(request(1.0))).wait()

            assert told.error is None
            assert len(events) == 1
            assert [str(context["exception"]) for context in heard] == ["disk full"]

        in_world(main)


REFUSED, FAILING = -1.0, -2.0

calls = st.tuples(
    st.just("call"),
    st.lists(st.sampled_from([1.0, 2.0, 3.0, REFUSED, FAILING]) | st.floats(0.0, 1e6), min_size=1, max_size=4),
    st.sampled_from([None, "a", "b"]),
)
actions = st.lists(
    calls | st.tuples(st.just("cancel"), st.integers(0, 30)) | st.tuples(st.just("turn"), st.integers(1, 3)),
    max_size=30,
)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("world", WORLDS)
@settings(max_examples=40, deadline=None)
@given(
    actions=actions,
    inline=st.booleans(),
    together=st.booleans(),
    concurrency=st.integers(1, 3),
    max_batch_rows=st.integers(1, 6),
)
def test_every_caller_gets_exactly_its_own(
    *,
    loop: str,
    world: str,
    actions: list[tuple[Any, ...]],
    inline: bool,
    together: bool,
    concurrency: int,
    max_batch_rows: int,
) -> None:
    """Whatever is batched with whatever, in any order, with failures and cancellations at any moment."""

    def model(inputs: Tensors) -> Tensors:
        values = inputs["x"][:, 0]
        if np.any(values == FAILING):
            raise ValueError("this value breaks the model")
        if np.any(values == REFUSED):
            raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="no")
        return {"y": inputs["x"] * 2.0}

    def expected(values: list[float]) -> Reason | None:
        if FAILING in values:
            return Reason.MODEL_FAILED
        return Reason.MODEL_REFUSED_INPUT if REFUSED in values else None

    async def main() -> None:
        within = WORLDS[world]()
        callers, asked, cancelled = [], [], set()
        with batcher(
            FunctionModel(model, concurrency),
            cost_s=0.0 if inline else None,
            together=together,
            max_batch_rows=max_batch_rows,
        ) as stage:
            for name, what, *rest in actions:
                if name == "call":
                    one = request(*what)
                    one.parameters = {} if rest[0] is None else {"k": rest[0]}
                    asked.append(what)
                    callers.append(within.start(stage.infer(one)))
                elif name == "turn":
                    await iterations(what)
                elif what < len(callers):
                    cancelled.add(what)
                    callers[what].cancel()
            told = [await caller.wait() for caller in callers]
            await iterations()

            for number, (one, values) in enumerate(zip(told, asked, strict=True)):
                assert one.times == 1
                if number in cancelled and one.reason is Reason.CANCELLED:
                    continue
                assert one.reason is expected(values)
                if one.reason is None:
                    assert one.value.outputs["y"].tolist() == answer(*values)
            while stage.under_way:  # batches of callers who have gone; bounded by the run's own time limit
                await asyncio.sleep(0.001)
            assert stage._groups == {}
            assert stage._rows == 0

    logging.getLogger("dukou.engine").setLevel(logging.CRITICAL)
    try:
        run(loop, main)
    finally:
        logging.getLogger("dukou.engine").setLevel(logging.NOTSET)


@pytest.mark.parametrize("cost_s", [0.0, None], ids=["inline", "thread"])
def test_a_tap_is_told_of_each_batch_after_its_answers(cost_s: float | None) -> None:
    """Once for each execution, with what was joined and all that came of it; never of one that failed."""
    copies: list[Copy] = []
    answered: list[int] = []

    async def main() -> None:
        world = DriverWorld()
        model = Double(lambda values: ValueError("no") if values == [7.0] else None)
        with batcher(model, cost_s=cost_s) as stage:

            def tap(copy: Copy) -> None:
                copies.append(copy)
                answered.append(sum(caller.told.times for caller in callers))

            stage.tap = tap
            callers = [world.start(stage.infer(request(*values))) for values in ([1.0], [2.0, 3.0])]
            for caller in callers:
                await caller.wait()
            await world.start(stage.infer(request(7.0))).wait()
            stage.tap = None
            await world.start(stage.infer(request(4.0))).wait()

    run("uvloop", main)

    (copy,) = copies
    assert (copy.version, copy.signature, copy.rows) == (ModelVersion("m", 1), "serving_default", 3)
    assert copy.inputs["x"][:, 0].tolist() == [1.0, 2.0, 3.0]
    assert copy.outputs["y"][:, 0].tolist() == [2.0, 4.0, 6.0]
    assert answered == [2]


@pytest.mark.parametrize("cost_s", [None, 1e-6])
def test_what_runs_is_marked(cost_s: float | None) -> None:
    """One more while the model runs, none when it has ended, in a thread as on the loop."""
    running: list[float] = [0.0]
    seen: list[float] = []

    async def main() -> None:
        world = DriverWorld()
        with batcher(Double(lambda values: seen.append(running[0])), cost_s=cost_s) as stage:

            def mark(more: float) -> None:
                running[0] += more

            stage.mark = mark
            await world.start(stage.infer(request(1.0))).wait()

    run("uvloop", main)

    assert set(seen) == {1.0}
    assert running == [0.0]


def test_a_tap_that_fails_costs_nobody_their_answer() -> None:
    """It is a defect, told to the loop's exception handler."""
    heard: list[dict[str, Any]] = []

    async def main() -> list[list[float]]:
        told = complaints()
        with batcher(Double()) as stage:
            stage.tap = lambda copy: 1 / 0
            said = (await DriverWorld().start(stage.infer(request(1.0))).wait()).value
        heard[:] = told
        return said.outputs["y"].tolist()  # type: ignore[no-any-return]

    assert run("uvloop", main) == answer(1.0)
    assert [each["message"] for each in heard] == ["a tap failed"]
