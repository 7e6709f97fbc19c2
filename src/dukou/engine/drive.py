"""Runs many coroutines without an asyncio Task or Future for each: a request costs about two microseconds here.

A stage is a plain `async def`. Where it must wait for others (for its batch to run) it awaits a Slot; whoever has the
answer calls `slot.resume`, once. A Slot is also the little of a Future that `asyncio.Task` asks for, so the same stages
run under ordinary asyncio.

What a stage may await under the Driver: another stage, a Slot, a Future or a Task of this loop. There is no current
Task there, so third-party code that needs one (`asyncio.timeout`, `TaskGroup`, anyio) is awaited as
`asyncio.create_task(call())`. `start`, `resume` and `cancel` are called from loop callbacks or from driven coroutines,
never from another thread.
"""

import math
from asyncio import AbstractEventLoop, CancelledError, InvalidStateError, TimerHandle, get_running_loop
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context, copy_context
from typing import Any, Generic, Protocol, TypeVar

from dukou.core.clock import Clock
from dukou.core.errors import DukouError, Reason

T = TypeVar("T")


class Waiter(Protocol):
    """Who awaits a Slot."""

    def wake(self) -> None:
        """The slot has its answer."""


class Slot(Generic[T]):
    """One answer to come: awaited by one, given once by another.

    `open` is true until the answer is there or the awaiter has gone: a queue takes open slots only.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_error", "_value", "_waiter", "open")

    def __init__(self) -> None:
        self.open = True
        self._cancelled = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiter: Waiter | None = None
        self._asyncio_future_blocking = False

    def resume(self, value: T | None = None, error: BaseException | None = None) -> bool:
        """Give the answer: `value`, or `error` to be raised where the slot is awaited.

        Returns False, and does nothing, when the awaiter has gone. Raises InvalidStateError for a second answer.
        """
        if not self.open:
            if not self._cancelled:
                raise InvalidStateError("this slot has its answer already")
            return False
        self.open = False
        self._value = value
        self._error = error
        del error  # this frame outlives the call in the error's traceback: a cycle as well
        if self._waiter is not None:
            self._waiter.wake()
        return True

    def cancel(self, msg: object = None) -> bool:
        """The awaiter gives up: CancelledError is raised there. Returns False when the answer came first."""
        if not self.open:
            return False
        self.open = False
        self._cancelled = True
        self._error = CancelledError() if msg is None else CancelledError(msg)
        if self._waiter is not None:
            self._waiter.wake()
        return True

    def result(self) -> T:
        """The value. Raises the error that was given (once), CancelledError, or InvalidStateError without an answer."""
        if self._error is not None:
            raise self._take_error()
        if self.open:
            raise InvalidStateError("this slot has no answer yet")
        return self._value  # type: ignore[return-value]

    def _take_error(self) -> BaseException:
        """Let go of the error, whose traceback will hold this slot: together they would be garbage in a cycle."""
        error, self._error = self._error, None
        assert error is not None
        return error

    def __await__(self) -> Generator[Any, None, T]:
        if self.open:
            if self._waiter is not None:
                raise RuntimeError("this slot is awaited already")
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    # What asyncio.Task asks of a Future that it waits for, beside `result`, `cancel` and `_asyncio_future_blocking`.

    def get_loop(self) -> AbstractEventLoop:
        """The running loop: a slot belongs to whichever loop awaits it."""
        return get_running_loop()

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Have `callback(slot)` called by the loop, soon after the answer."""
        self._waiter = _TaskWaiter(self, callback, context)


class _TaskWaiter:
    """An asyncio.Task that awaits a slot."""

    __slots__ = ("_callback", "_context", "_slot")

    def __init__(self, slot: Slot[Any], callback: Callable[[Any], object], context: Context | None) -> None:
        self._slot = slot
        self._callback = callback
        self._context = context

    def wake(self) -> None:
        get_running_loop().call_soon(self._callback, self._slot, context=self._context)


class Driven(Generic[T]):
    """A coroutine under way in its own copy of the context variables, and whom to tell. Made by `Driver.start`."""

    __slots__ = ("_awaited", "_context", "_coroutine", "_driver", "_on_done", "_raise_next", "deadline_s")

    def __init__(
        self,
        driver: "Driver",
        coroutine: Coroutine[Any, Any, T],
        on_done: Callable[[T | None, BaseException | None], None],
        deadline_s: float,
    ) -> None:
        self.deadline_s = deadline_s
        self._driver = driver
        self._coroutine = coroutine
        self._on_done: Callable[[T | None, BaseException | None], None] | None = on_done
        self._context = copy_context()
        self._awaited: Any = None  # what it waits for; None while it runs, is about to run or has ended
        self._raise_next: BaseException | None = None  # owed to the coroutine

    def cancel(self) -> None:
        """The caller has gone: `on_done` gets CANCELLED at once, then the coroutine gets CancelledError."""
        self.abort(DukouError(Reason.CANCELLED))

    def abort(self, error: BaseException) -> None:
        """Tell the caller `error` at once, then raise CancelledError in the coroutine where it waits.

        What the coroutine does after that is nobody's answer. Does nothing once the caller has been told.
        """
        if self._on_done is None:
            return
        self.deadline_s = math.inf
        self.tell(None, error)
        if self._awaited is None or not self._awaited.cancel():
            self._raise_next = CancelledError()

    def tell(self, value: T | None, error: BaseException | None) -> None:
        """Call `on_done`, unless that has been done. Its own exception goes to the loop's exception handler."""
        on_done = self._on_done
        if on_done is None:
            return
        self._on_done = None
        try:
            on_done(value, error)
        except Exception as problem:
            self._driver.loop.call_exception_handler(
                {"message": "a caller could not take its answer", "exception": problem}
            )

    def wake(self, _: Any = None) -> None:
        """What the coroutine waits for is there: run it on, now or after the one that is running."""
        del _  # an error's traceback will have this frame, and the Future has the error: a cycle with all of the call
        self._driver.ready.append(self)
        self._driver.step()

    def park(self, awaited: Any) -> None:
        """Arrange to be woken by `awaited`, a real Future or a bare yield (the Driver does this for slots)."""
        if awaited is None:  # asyncio.sleep(0)
            self._driver.loop.call_soon(self.wake)
        elif getattr(awaited, "_asyncio_future_blocking", None):
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self.wake)
            self._awaited = awaited
        else:
            self._raise_next = RuntimeError(f"a stage awaited {awaited!r}, which is no slot, Future or Task")
            self.wake()


class Driver:
    """Steps coroutines and tells each one's caller exactly once.

    Deadlines are looked at every `grain_s` seconds, by one timer that exists only while a run has a deadline.
    """

    def __init__(self, loop: AbstractEventLoop, clock: Clock, grain_s: float = 0.01) -> None:
        self.loop = loop
        self._clock = clock
        self._grain_s = grain_s
        self._runs: set[Driven[Any]] = set()
        self.ready: deque[Driven[Any]] = deque()
        self._stepping = False
        self._earliest_s = math.inf  # no live run has an earlier deadline; infinite exactly when there is no timer
        self._timer: TimerHandle | None = None

    @property
    def live(self) -> int:
        """How many coroutines have been started and have not ended."""
        return len(self._runs)

    @property
    def watching(self) -> bool:
        """Whether there is a timer for deadlines."""
        return self._timer is not None

    def start(
        self,
        coroutine: Coroutine[Any, Any, T],
        on_done: Callable[[T | None, BaseException | None], None],
        deadline_s: float = math.inf,
    ) -> Driven[T]:
        """Run `coroutine`; `on_done(value, error)` is called exactly once, perhaps before this returns.

        After `deadline_s` (on the driver's clock) the caller is told DEADLINE_EXCEEDED.
        """
        run = Driven(self, coroutine, on_done, deadline_s)
        self._runs.add(run)
        if deadline_s < self._earliest_s:
            self._earliest_s = deadline_s
            if self._timer is None:
                self._timer = self.loop.call_later(self._grain_s, self._sweep)
        self.ready.append(run)
        if not self._stepping:
            self.step()
        return run

    def step(self) -> None:
        """Run each coroutine of `ready` to its next wait, and those that join them meanwhile.

        Does nothing while a coroutine runs: they come right after it, so nothing recurses. The way of every request,
        twice: written out in one function because a call more costs 0.1 µs.
        """
        if self._stepping:
            return
        self._stepping = True
        ready = self.ready
        try:
            while ready:
                run = ready.popleft()
                returned = False
                try:
                    run._awaited = None
                    owed = run._raise_next
                    if owed is None:
                        awaited = run._context.run(run._coroutine.send, None)
                    else:
                        run._raise_next = None
                        awaited = run._context.run(run._coroutine.throw, owed)
                except StopIteration as end:
                    returned, value = True, end.value
                except (KeyboardInterrupt, SystemExit) as error:
                    self._finish(run, None, error)
                    raise
                except BaseException as error:
                    self._finish(run, None, error)
                else:
                    if isinstance(awaited, Slot):
                        awaited._waiter = run
                        run._awaited = awaited
                    else:
                        run.park(awaited)
                    if run._raise_next is not None and run._awaited is not None and run._awaited.cancel():
                        run._raise_next = None  # it was cancelled while it ran
                if returned:  # told out here, or a failing caller's traceback would show the answer
                    self._runs.discard(run)
                    run.tell(value, None)
        finally:
            self._stepping = False
            if ready:  # the program ends, and those who were to run after are told all the same
                self.loop.call_soon(self.step)

    def _finish(self, run: Driven[Any], value: Any, error: BaseException | None) -> None:
        """The coroutine of `run` has ended: forget it and tell its caller."""
        self._runs.discard(run)
        run.tell(value, error)

    def abort_all(self, reason: Reason) -> None:
        """Tell every caller that `reason` is why there will be no answer, and cancel the coroutines."""
        for run in list(self._runs):
            run.abort(DukouError(reason))

    def _sweep(self) -> None:
        """Abort the runs whose deadline has passed; look at all of them only when one must be among them."""
        now = self._clock()
        if now >= self._earliest_s:
            for run in [run for run in self._runs if run.deadline_s <= now]:
                run.abort(DukouError(Reason.DEADLINE_EXCEEDED))
            self._earliest_s = min((run.deadline_s for run in self._runs), default=math.inf)
        elif not self._runs:
            self._earliest_s = math.inf
        if self._earliest_s < math.inf:
            self._timer = self.loop.call_later(self._grain_s, self._sweep)
        else:
            self._timer = None


def resume_all(slots: Sequence[Slot[T]], values: Sequence[T]) -> None:
    """Give each open slot its value, and only then run those who await them. A slot that is not open is passed over.

    What `resume` does, for a batch, and 0.3 µs a request cheaper (bench/request_path.py).
    """
    driver: Driver | None = None
    for slot, value in zip(slots, values, strict=True):
        if not slot.open:
            continue
        slot.open = False
        slot._value = value
        waiter = slot._waiter
        if isinstance(waiter, Driven):
            if driver is not None and driver is not waiter._driver:
                driver.step()
            driver = waiter._driver
            driver.ready.append(waiter)
        elif waiter is not None:
            waiter.wake()
    if driver is not None:
        driver.step()
