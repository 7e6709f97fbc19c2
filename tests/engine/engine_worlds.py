"""The two worlds that stages run in, on the two event loops: what the engine's tests share."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.engine.drive import Driver

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
WAIT_S = 20.0


def run(loop: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `main()` on a new loop of the kind named, for at most WAIT_S seconds."""

    async def bounded() -> Any:
        return await asyncio.wait_for(main(), WAIT_S)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(bounded())


class Told:
    """An `on_done` that keeps what it was told, and can be waited for."""

    def __init__(self) -> None:
        self.times = 0
        self.value: Any = None
        self.error: BaseException | None = None
        self._heard = asyncio.get_running_loop().create_future()

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.times += 1
        self.value, self.error = value, error
        if not self._heard.done():
            self._heard.set_result(None)

    async def wait(self) -> "Told":
        """Return once told."""
        await asyncio.wait_for(asyncio.shield(self._heard), WAIT_S)
        return self

    @property
    def reason(self) -> Reason | None:
        """The Reason of the error, where there is one."""
        return self.error.reason if isinstance(self.error, DukouError) else None


class Caller:
    """One call under way in either world."""

    def __init__(self, told: Told, cancel: Callable[[], Any]) -> None:
        self.told = told
        self.cancel = cancel

    async def wait(self) -> Told:
        """What the caller was told; the error of a cancelled call is CANCELLED in both worlds."""
        return await self.told.wait()


class DriverWorld:
    """Calls run by a Driver."""

    def __init__(self) -> None:
        self.driver = Driver(asyncio.get_running_loop(), monotonic)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Caller:
        """Run `coroutine` under the driver."""
        told = Told()
        return Caller(told, self.driver.start(coroutine, told).cancel)


class TaskWorld:
    """Calls run by asyncio Tasks."""

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Caller:
        """Run `coroutine` in a Task."""
        told = Told()

        def done(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                told(None, DukouError(Reason.CANCELLED))
            elif task.exception() is not None:
                told(None, task.exception())
            else:
                told(task.result(), None)

        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(done)
        return Caller(told, task.cancel)


WORLDS = {"driver": DriverWorld, "tasks": TaskWorld}


async def iterations(count: int = 5) -> None:
    """Let the loop turn `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


def complaints() -> list[dict[str, Any]]:
    """What the running loop's exception handler is told from now on."""
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    return heard
