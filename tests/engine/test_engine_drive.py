"""The driver and its slots: every promise of the module, on both event loops."""

import asyncio
import contextvars
import gc
import itertools
from asyncio import CancelledError, InvalidStateError
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from engine_worlds import LOOPS, Told, complaints, iterations, run
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.engine.drive import Driver, Slot, resume_all
from dukou.testing.clock import HandClock

Runner = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(params=list(LOOPS))
def on_loop(request: pytest.FixtureRequest) -> Runner:
    """Runs an async function on each kind of loop in turn."""
    return lambda main: run(request.param, main)


def new_driver() -> Driver:
    return Driver(asyncio.get_running_loop(), monotonic)


async def await_it(slot: Slot[Any]) -> Any:
    return await slot


class TestAnswers:
    """What reaches the caller, and when."""

    def test_a_coroutine_that_never_waits_answers_before_start_returns(self, on_loop: Runner) -> None:
        """Cache hits and refusals cost no loop iteration."""

        async def main() -> None:
            driver, told = new_driver(), Told()

            async def stage() -> int:
                return 7

            driver.start(stage(), told)

            assert (told.value, told.error, told.times, driver.live) == (7, None, 1, 0)

        on_loop(main)

    def test_resuming_a_slot_answers_at_once(self, on_loop: Runner) -> None:
        """Whoever has the answer runs the rest of the coroutine right then."""

        async def main() -> None:
            driver, told, slot = new_driver(), Told(), Slot[int]()
            driver.start(await_it(slot), told)
            assert (told.times, driver.live) == (0, 1)

            assert slot.resume(5) is True

            assert (told.value, told.times, driver.live) == (5, 1, 0)

        on_loop(main)

    def test_an_answer_may_come_before_it_is_awaited(self, on_loop: Runner) -> None:
        """A slot keeps its answer."""

        async def main() -> None:
            driver, told, slot = new_driver(), Told(), Slot[int]()
            slot.resume(5)

            driver.start(await_it(slot), told)

            assert told.value == 5

        on_loop(main)

    def test_an_exception_reaches_the_caller(self, on_loop: Runner) -> None:
        """Raised by the coroutine or given to the slot: the caller is told the very object."""

        async def main() -> None:
            driver, raised, given_ = new_driver(), Told(), Told()
            problem, slot = ValueError("x"), Slot[int]()

            async def stage() -> int:
                raise problem

            driver.start(stage(), raised)
            driver.start(await_it(slot), given_)
            slot.resume(error=problem)

            assert raised.error is problem
            assert given_.error is problem
            assert driver.live == 0

        on_loop(main)

    def test_a_failing_caller_does_not_harm_the_others(self, on_loop: Runner) -> None:
        """A transport that raises because its peer has gone loses its own answer only."""

        async def main() -> None:
            driver, heard, slots = new_driver(), complaints(), [Slot[int]() for _ in range(3)]
            told = [Told(), Told()]

            def peer_gone(value: Any, error: BaseException | None) -> None:
                raise RuntimeError("unable to write; the handler is closed")

            for slot, on_done in zip(slots, (told[0], peer_gone, told[1]), strict=True):
                driver.start(await_it(slot), on_done)
            for slot in slots:
                slot.resume(1)

            assert [one.value for one in told] == [1, 1]
            assert [str(context["exception"]) for context in heard] == ["unable to write; the handler is closed"]
            assert heard[0]["exception"].__context__ is None
            assert driver.live == 0

        on_loop(main)

    def test_a_coroutine_may_wait_many_times(self, on_loop: Runner) -> None:
        """Stages that call a stage twice, as fallback and retry do."""

        async def main() -> None:
            driver, told, slots = new_driver(), Told(), [Slot[int](), Slot[int]()]

            async def stage() -> int:
                return await slots[0] + await slots[1]

            driver.start(stage(), told)
            slots[1].resume(1)
            slots[0].resume(2)

            assert told.value == 3

        on_loop(main)

    def test_a_system_exit_is_told_and_goes_on(self, on_loop: Runner) -> None:
        """The caller hears of it, and so does the program; the driver still works."""

        async def main() -> None:
            driver, told, after = new_driver(), Told(), Told()

            async def stage() -> None:
                raise SystemExit(3)

            async def ok() -> int:
                return 1

            with pytest.raises(SystemExit):
                driver.start(stage(), told)
            driver.start(ok(), after)

            assert isinstance(told.error, SystemExit)
            assert after.value == 1

        on_loop(main)


class TestBatches:
    """Many slots answered at once."""

    def test_every_slot_gets_its_own_value(self, on_loop: Runner) -> None:
        """Awaited by this driver, by another one, by a Task, or not yet."""

        async def main() -> None:
            drivers, slots = [new_driver(), new_driver()], [Slot[int]() for _ in range(6)]
            told = [Told() for _ in range(4)]
            for place in range(4):
                drivers[place % 2].start(await_it(slots[place]), told[place])
            task = asyncio.create_task(await_it(slots[4]))
            await iterations(1)

            resume_all(slots, range(6))

            assert [(one.value, one.times) for one in told] == [(0, 1), (1, 1), (2, 1), (3, 1)]
            assert await task == 4
            assert await slots[5] == 5
            assert [driver.live for driver in drivers] == [0, 0]

        on_loop(main)

    def test_those_who_have_gone_are_passed_over(self, on_loop: Runner) -> None:
        """And the others are told."""

        async def main() -> None:
            driver, slots, told = new_driver(), [Slot[int]() for _ in range(3)], [Told() for _ in range(3)]
            runs = [driver.start(await_it(slot), one) for slot, one in zip(slots, told, strict=True)]
            runs[1].cancel()

            resume_all(slots, range(3))

            assert [one.value for one in told] == [0, None, 2]
            assert (told[1].reason, told[1].times) == (Reason.CANCELLED, 1)

        on_loop(main)

    def test_one_may_cancel_the_next_in_between(self, on_loop: Runner) -> None:
        """An answer that cannot be written closes a connection, whose other call has its answer but not its turn."""

        async def main() -> None:
            driver, slots, told = new_driver(), [Slot[int]() for _ in range(2)], Told()
            driver.start(await_it(slots[0]), lambda value, error: second.cancel())
            second = driver.start(await_it(slots[1]), told)

            resume_all(slots, [1, 2])

            assert (told.value, told.reason, told.times, driver.live) == (None, Reason.CANCELLED, 1, 0)

        on_loop(main)

    def test_a_running_coroutine_may_answer_a_batch(self, on_loop: Runner) -> None:
        """Those who wait run right after it."""

        async def main() -> None:
            driver, slots, order = new_driver(), [Slot[int]() for _ in range(2)], []
            for slot in slots:
                driver.start(await_it(slot), lambda value, error: order.append(value))

            async def stage() -> str:
                resume_all(slots, [1, 2])
                return "stage"

            driver.start(stage(), lambda value, error: order.append(value))

            assert order == ["stage", 1, 2]

        on_loop(main)

    def test_a_system_exit_does_not_strand_the_others(self, on_loop: Runner) -> None:
        """They are told by the loop, if it still turns."""

        async def main() -> None:
            driver, slots, told = new_driver(), [Slot[int]() for _ in range(2)], Told()

            async def stage() -> None:
                await slots[0]
                raise SystemExit(3)

            driver.start(stage(), lambda value, error: None)
            driver.start(await_it(slots[1]), told)
            with pytest.raises(SystemExit):
                resume_all(slots, [1, 2])
            await iterations()

            assert (told.value, told.times, driver.live) == (2, 1, 0)

        on_loop(main)


class TestSlot:
    """One awaiter, one answer."""

    def test_a_second_answer_is_refused(self) -> None:
        """Answering twice is a bug of the one who answers, and said so."""
        slot = Slot[int]()
        slot.resume(5)

        with pytest.raises(InvalidStateError, match="answer already"):
            slot.resume(6)

    def test_an_answer_for_one_who_has_gone_does_nothing(self) -> None:
        """A batch may finish after its callers have left."""
        slot = Slot[int]()
        assert slot.cancel() is True

        assert slot.resume(5) is False
        assert slot.cancel() is False

    def test_an_answered_slot_cannot_be_cancelled(self) -> None:
        """The answer was first."""
        slot = Slot[int]()
        slot.resume(5)

        assert slot.cancel() is False
        assert slot.result() == 5

    def test_an_open_slot_has_no_result(self) -> None:
        """As with a Future."""
        with pytest.raises(InvalidStateError, match="no answer yet"):
            Slot[int]().result()

    def test_a_second_awaiter_is_refused(self, on_loop: Runner) -> None:
        """The first one still gets the answer."""

        async def main() -> None:
            driver, first, second, slot = new_driver(), Told(), Told(), Slot[int]()

            driver.start(await_it(slot), first)
            driver.start(await_it(slot), second)
            slot.resume(1)

            assert first.value == 1
            assert isinstance(second.error, RuntimeError)

        on_loop(main)

    def test_tasks_can_await_slots(self, on_loop: Runner) -> None:
        """The same stages run under ordinary asyncio: answers, errors, timeouts."""

        async def main() -> None:
            answered, failed, late = Slot[int](), Slot[int](), Slot[int]()
            loop = asyncio.get_running_loop()
            loop.call_soon(answered.resume, 5)
            loop.call_soon(failed.resume, None, ValueError("x"))

            assert await asyncio.wait_for(await_it(answered), 5) == 5
            with pytest.raises(ValueError, match="x"):
                await failed
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await late
            assert not late.open

        on_loop(main)


class TestCancellation:
    """Callers who have gone."""

    def test_the_caller_is_told_at_once_and_the_stage_after(self, on_loop: Runner) -> None:
        """CANCELLED goes to the caller, then CancelledError to where the stage waits."""

        async def main() -> None:
            driver, slot, order = new_driver(), Slot[int](), []

            async def stage() -> None:
                try:
                    await slot
                except CancelledError:
                    order.append("stage")
                    raise

            under_way = driver.start(stage(), lambda value, error: order.append(error.reason))
            under_way.cancel()
            under_way.cancel()

            assert order == [Reason.CANCELLED, "stage"]
            assert (slot.open, driver.live) == (False, 0)

        on_loop(main)

    def test_a_stage_that_swallows_the_cancellation_answers_nobody(self, on_loop: Runner) -> None:
        """The run lives until the stage ends, and is counted; its caller is told once."""

        async def main() -> None:
            driver, told, slots = new_driver(), Told(), [Slot[int](), Slot[int]()]

            async def stage() -> int:
                try:
                    await slots[0]
                except CancelledError:
                    pass
                return await slots[1]

            driver.start(stage(), told).cancel()
            assert (told.times, driver.live) == (1, 1)
            slots[1].resume(9)

            assert (told.times, told.reason, driver.live) == (1, Reason.CANCELLED, 0)

        on_loop(main)

    def test_cancelling_what_has_ended_does_nothing(self, on_loop: Runner) -> None:
        """A connection that closes after its answer."""

        async def main() -> None:
            driver, told, slot = new_driver(), Told(), Slot[int]()
            under_way = driver.start(await_it(slot), told)
            slot.resume(1)

            under_way.cancel()

            assert (told.times, told.value) == (1, 1)

        on_loop(main)

    def test_a_run_may_be_cancelled_from_within(self, on_loop: Runner) -> None:
        """A stage whose writing closes its own connection gets CancelledError at its next wait."""

        async def main() -> None:
            driver, told, first, second = new_driver(), Told(), Slot[int](), Slot[int]()

            async def stage() -> None:
                await first
                under_way.cancel()
                await second

            under_way = driver.start(stage(), told)
            first.resume(1)

            assert (told.times, told.reason) == (1, Reason.CANCELLED)
            assert (second.open, driver.live) == (False, 0)

        on_loop(main)

    def test_a_run_that_has_not_begun_never_does(self, on_loop: Runner) -> None:
        """Started and cancelled by the same running coroutine: its body is not entered."""

        async def main() -> None:
            driver, told, outer, entered = new_driver(), Told(), Told(), []

            async def inner() -> None:
                entered.append(1)

            async def stage() -> None:
                driver.start(inner(), told).cancel()

            driver.start(stage(), outer)

            assert (told.times, told.reason, entered, driver.live) == (1, Reason.CANCELLED, [], 0)

        on_loop(main)

    def test_cancelled_after_the_answer_and_before_its_turn(self, on_loop: Runner) -> None:
        """The slot is answered while another runs, then that other cancels: told CANCELLED, and the stage ends."""

        async def main() -> None:
            driver, told, outer, slot, seen = new_driver(), Told(), Told(), Slot[int](), []

            async def waiting() -> None:
                try:
                    seen.append(await slot)
                except CancelledError:
                    seen.append("cancelled")
                    raise

            under_way = driver.start(waiting(), told)

            async def stage() -> None:
                slot.resume(1)
                under_way.cancel()

            driver.start(stage(), outer)

            assert (told.times, told.reason, seen, driver.live) == (1, Reason.CANCELLED, ["cancelled"], 0)

        on_loop(main)

    def test_cancelling_a_run_that_awaits_a_task_cancels_the_task(self, on_loop: Runner) -> None:
        """Third-party code in a Task is not left behind."""

        async def main() -> None:
            driver, told, seen = new_driver(), Told(), []

            async def foreign() -> None:
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    seen.append("ended")

            async def stage() -> None:
                await asyncio.create_task(foreign())

            under_way = driver.start(stage(), told)
            await iterations(2)
            under_way.cancel()
            assert told.reason is Reason.CANCELLED
            await iterations()

            assert (seen, driver.live, told.times) == (["ended"], 0, 1)

        on_loop(main)

    def test_cancelled_at_a_bare_yield(self, on_loop: Runner) -> None:
        """`asyncio.sleep(0)` is a wait like another."""

        async def main() -> None:
            driver, told, seen = new_driver(), Told(), []

            async def stage() -> None:
                try:
                    await asyncio.sleep(0)
                    seen.append("went on")
                finally:
                    seen.append("ended")

            driver.start(stage(), told).cancel()
            await iterations()

            assert (seen, driver.live) == (["ended"], 0)

        on_loop(main)

    def test_work_in_a_pool_that_failed_leaves_no_garbage_in_cycles(self, on_loop: Runner) -> None:
        """The error, its traceback and the Future must not hold one another, and a body with them."""

        async def main() -> None:
            driver, loop = new_driver(), asyncio.get_running_loop()

            def fail() -> None:
                raise DukouError(Reason.MALFORMED_REQUEST)

            async def work() -> None:
                await loop.run_in_executor(None, fail)

            ended: list[object] = []
            driver.start(work(), lambda value, error: ended.append(1))  # the pool's own first objects
            gc.collect()
            gc.disable()
            try:
                for _ in range(50):
                    driver.start(work(), lambda value, error: ended.append(1))
                while len(ended) < 51:
                    await asyncio.sleep(0)
                await iterations()

                assert gc.collect() < 50
            finally:
                gc.enable()

        on_loop(main)

    def test_cancelled_requests_leave_no_garbage_in_cycles(self, on_loop: Runner) -> None:
        """A flood of cancellations must not wait for the garbage collector to give its memory back."""

        async def main() -> None:
            driver, slots = new_driver(), [Slot[int]() for _ in range(100)]
            gc.collect()
            gc.disable()
            try:
                for slot in slots[:50]:
                    driver.start(await_it(slot), lambda value, error: None).cancel()
                for slot in slots[50:]:
                    driver.start(await_it(slot), lambda value, error: None)
                    slot.resume(error=DukouError(Reason.DRAINING))
                del slots, slot

                assert gc.collect() < 50
            finally:
                gc.enable()

        on_loop(main)


class TestDeadlines:
    """One sweep for all of them."""

    def test_a_call_past_its_deadline_is_told_and_cancelled(self, on_loop: Runner) -> None:
        """Whatever it awaits, a slot or a Task; one that has time left goes on."""

        async def main() -> None:
            clock = HandClock()
            driver = Driver(asyncio.get_running_loop(), clock, grain_s=0.001)
            slots, never = [Slot[int](), Slot[int]()], asyncio.get_running_loop().create_future()
            late, on_time, foreign = Told(), Told(), Told()

            async def stage() -> None:
                await never

            driver.start(await_it(slots[0]), late, 5.0)
            driver.start(await_it(slots[1]), on_time, 6.0)
            driver.start(stage(), foreign, 5.0)
            clock.advance(5.0)
            await late.wait()
            await foreign.wait()

            assert late.reason is foreign.reason is Reason.DEADLINE_EXCEEDED
            assert (slots[0].open, never.cancelled(), on_time.times) == (False, True, 0)
            slots[1].resume(1)
            assert (on_time.value, late.times) == (1, 1)

        on_loop(main)

    def test_an_earlier_deadline_that_comes_later_is_seen(self, on_loop: Runner) -> None:
        """The sweep's shortcut follows the earliest deadline, not the first."""

        async def main() -> None:
            clock = HandClock()
            driver = Driver(asyncio.get_running_loop(), clock, grain_s=0.001)
            told = [Told(), Told(), Told()]
            for one, deadline_s in zip(told, (30.0, 10.0, 20.0), strict=True):
                driver.start(await_it(Slot[int]()), one, deadline_s)

            for one, now in ((told[1], 10.0), (told[2], 20.0), (told[0], 30.0)):
                clock.advance(now - clock())
                await one.wait()

            assert [one.times for one in told] == [1, 1, 1]
            assert driver.live == 0

        on_loop(main)

    def test_the_timer_goes_when_nothing_has_a_deadline(self, on_loop: Runner) -> None:
        """An idle server sleeps."""

        async def main() -> None:
            driver = Driver(asyncio.get_running_loop(), HandClock(), grain_s=0.001)
            slot = Slot[int]()
            driver.start(await_it(slot), Told(), 5.0)
            assert driver.watching
            slot.resume(1)

            while driver.watching:  # bounded by the run's own time limit
                await asyncio.sleep(0.001)

            driver.start(await_it(Slot[int]()), Told())
            assert not driver.watching

        on_loop(main)

    def test_an_expired_run_that_lingers_is_not_told_again(self, on_loop: Runner) -> None:
        """A stage that swallows the cancellation keeps its place, and the others their deadlines."""

        async def main() -> None:
            clock = HandClock()
            driver = Driver(asyncio.get_running_loop(), clock, grain_s=0.001)
            lingering, other = Told(), Told()

            async def stage() -> None:
                for _ in range(2):
                    try:
                        await Slot[int]()
                    except CancelledError:
                        pass

            driver.start(stage(), lingering, 1.0)
            driver.start(await_it(Slot[int]()), other, 2.0)
            clock.advance(1.0)
            await lingering.wait()
            clock.advance(1.0)
            await other.wait()

            assert (lingering.times, other.times, driver.live) == (1, 1, 1)
            assert not driver.watching

        on_loop(main)

    def test_all_can_be_aborted_for_one_reason(self, on_loop: Runner) -> None:
        """At the end of a shutdown's grace every caller gets an answer."""

        async def main() -> None:
            driver, told = new_driver(), [Told(), Told()]
            for one in told:
                driver.start(await_it(Slot[int]()), one)

            driver.abort_all(Reason.DRAINING)

            assert [one.reason for one in told] == [Reason.DRAINING, Reason.DRAINING]
            assert told[0].error is not told[1].error
            assert driver.live == 0

        on_loop(main)


class TestTheRest:
    """Recursion, contexts, and what else may be awaited."""

    def test_a_long_chain_does_not_recurse(self, on_loop: Runner) -> None:
        """Each coroutine resumes the next: twenty thousand deep."""

        async def main() -> None:
            count = 20_000
            driver, slots, ended = new_driver(), [Slot[int]() for _ in range(count + 1)], []

            async def link(index: int) -> None:
                await slots[index]
                slots[index + 1].resume(1)

            for index in range(count):
                driver.start(link(index), lambda value, error: ended.append(error))
            slots[0].resume(1)

            assert ended == [None] * count

        on_loop(main)

    def test_a_caller_that_starts_the_next_call_does_not_recurse(self, on_loop: Runner) -> None:
        """Pipelined requests answered from a cache: each answer starts the next call."""

        async def main() -> None:
            driver, left, finished = new_driver(), itertools.count(), []

            async def stage() -> int:
                return next(left)

            def on_done(value: int | None, error: BaseException | None) -> None:
                if value == 20_000:
                    finished.append(value)
                else:
                    driver.start(stage(), on_done)

            driver.start(stage(), on_done)

            assert (finished, driver.live) == ([20_000], 0)

        on_loop(main)

    def test_each_run_has_its_own_context_variables(self, on_loop: Runner) -> None:
        """What one call sets no other sees, nor does the one who started it."""

        async def main() -> None:
            driver, variable, told = new_driver(), contextvars.ContextVar("variable", default=0), []
            slots = [Slot[None]() for _ in range(3)]

            async def stage(number: int) -> int:
                variable.set(number)
                await slots[number]
                return variable.get()

            for number in range(3):
                driver.start(stage(number), lambda value, error: told.append(value))
            for slot in reversed(slots):
                slot.resume()

            assert (told, variable.get()) == ([2, 1, 0], 0)

        on_loop(main)

    def test_real_futures_and_tasks_can_be_awaited(self, on_loop: Runner) -> None:
        """sleep, to_thread, gather, a Task with asyncio.timeout in it."""

        async def main() -> None:
            driver, told = new_driver(), Told()

            async def foreign() -> int:
                async with asyncio.timeout(5):
                    await asyncio.sleep(0.001)
                return 8

            async def stage() -> int:
                await asyncio.sleep(0)
                await asyncio.sleep(0.001)
                total = await asyncio.to_thread(lambda: 1)
                total += sum(await asyncio.gather(asyncio.sleep(0.001, 2), asyncio.sleep(0, 4)))
                return total + await asyncio.create_task(foreign())

            driver.start(stage(), told)
            await told.wait()

            assert (told.value, told.error) == (15, None)

        on_loop(main)

    def test_awaiting_anything_else_fails_the_call(self, on_loop: Runner) -> None:
        """RuntimeError where it is awaited, so that `finally` runs, and the caller is told."""

        async def main() -> None:
            driver, told, seen = new_driver(), Told(), []

            class Odd:
                def __await__(self) -> Any:
                    yield "what is this"

            async def stage() -> None:
                try:
                    await Odd()
                finally:
                    seen.append("ended")

            driver.start(stage(), told)

            assert isinstance(told.error, RuntimeError)
            assert "what is this" in str(told.error)
            assert (seen, driver.live) == (["ended"], 0)

        on_loop(main)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["resume", "fail", "cancel", "turn"]), st.integers(0, 5)),
        max_size=25,
    ),
    swallows=st.booleans(),
)
def test_every_caller_is_told_exactly_once_whatever_happens(actions: list[tuple[str, int]], swallows: bool) -> None:
    """Any order of answers, failures and cancellations; runs that wait three times and pass answers to one another."""

    async def main() -> None:
        driver = new_driver()
        slots = [[Slot[int]() for _ in range(3)] for _ in range(6)]
        told = [Told() for _ in range(6)]

        async def stage(number: int) -> int:
            total = 0
            for place in range(3):
                try:
                    total += await slots[number][place]
                except CancelledError:
                    if not swallows:
                        raise
                if place == 1:
                    following = slots[(number + 1) % 6][2]
                    if following.open:
                        following.resume(100)
            return total

        runs = [driver.start(stage(number), told[number]) for number in range(6)]
        for action, number in actions:
            open_slots = [slot for slot in slots[number] if slot.open]
            if action == "cancel":
                runs[number].cancel()
            elif action == "turn":
                await asyncio.sleep(0)
            elif open_slots:
                open_slots[0].resume(1, ValueError("x") if action == "fail" else None)
            assert all(one.times <= 1 for one in told)
        for under_way in runs:
            under_way.cancel()
        for slot in itertools.chain.from_iterable(slots):
            if slot.open:
                slot.resume(0)

        assert [one.times for one in told] == [1] * 6
        assert driver.live == 0

    run("asyncio", main)
