"""Copies for a shadow: sent while there is room, dropped and counted otherwise; nobody waits."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dukou.core.event import CopiesSent, Event
from dukou.core.frame import PREFIX_BYTES, Dropped, Frame, body_size, decode
from dukou.core.message import Copy
from dukou.core.model import ModelVersion
from dukou.core.route import Shadow
from dukou.engine.shadow import MOST_WAITING_PARTS, Shadowing

pytestmark = pytest.mark.socket

IRIS = ModelVersion("iris", 1)
SHADOW = ModelVersion("iris", 2)
LIMIT_S = 20.0
BEAT_S = 0.005


class Process:
    """The other end: a listening socket, what it has read, and what observers were told."""

    def __init__(self, address: Path) -> None:
        self.address = str(address)
        self.told: list[CopiesSent] = []
        self.news = asyncio.Event()
        self.listening = self.listen()
        self._read = b""

    def listen(self) -> socket.socket:
        Path(self.address).unlink(missing_ok=True)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.address)
        self.listening.listen()
        self.listening.setblocking(False)
        return self.listening

    async def accept(self) -> socket.socket:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listening)
        return connection

    async def frame(self, connection: socket.socket) -> Frame:
        """The next frame."""
        loop = asyncio.get_running_loop()
        while True:
            if len(self._read) >= PREFIX_BYTES:
                end = PREFIX_BYTES + body_size(self._read[:PREFIX_BYTES])
                if len(self._read) >= end:
                    body, self._read = self._read[PREFIX_BYTES:end], self._read[end:]
                    return decode(body)
            data = await loop.sock_recv(connection, 1 << 20)
            assert data, "the connection was closed"
            self._read += data

    def shadowing(self, share: float = 1.0, **settings: Any) -> Shadowing:
        shadow = Shadow(2, self.address, share)
        loop = asyncio.get_running_loop()
        return Shadowing(shadow, SHADOW, loop, [self.hear], **({"beat_s": BEAT_S} | settings))

    def hear(self, event: Event) -> None:
        assert isinstance(event, CopiesSent)
        assert event.version == SHADOW
        self.told.append(event)
        self.news.set()

    @property
    def sent(self) -> int:
        return sum(event.sent for event in self.told)

    @property
    def dropped(self) -> int:
        return sum(event.dropped for event in self.told)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for observers to be told what makes it true."""
        while not true():
            await self.heard()

    async def heard(self) -> None:
        """Wait until observers are told something."""
        self.news.clear()
        await self.news.wait()


Scenario = Callable[[Process], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario with the other end."""

    def run_one(scenario: Scenario) -> None:
        async def all_of_it() -> None:
            async with asyncio.timeout(LIMIT_S):
                process = Process(tmp_path / "m.sock")
                try:
                    await scenario(process)
                finally:
                    process.listening.close()

        asyncio.run(all_of_it())

    return run_one


def copy_of(number: int, width: int = 4) -> Copy:
    """A copy of one row, `width` floats."""
    inputs = {"X": np.full((1, width), number, np.float32)}
    return Copy(IRIS, "serving_default", inputs, {"y": np.array([number])}, 1, {}, 1e-5)


def test_copies_arrive_whole_and_in_order(run: Callable[[Scenario], None]) -> None:
    """Small ones and large ones; observers are told how many."""

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing()
        connection = await process.accept()

        for number, width in enumerate([4, 5000, 200_000, 4]):
            shadowing(copy_of(number, width))

        came = [await process.frame(connection) for _ in range(4)]
        assert [copy.outputs["y"].tolist() for copy in came if isinstance(copy, Copy)] == [[0], [1], [2], [3]]
        assert isinstance(came[2], Copy)
        assert came[2].inputs["X"].tolist() == [[2.0] * 200_000]
        await process.until(lambda: process.sent == 4)
        shadowing.close()
        connection.close()
        assert process.dropped == 0

    run(scenario)


def test_a_process_that_does_not_read_costs_a_bounded_buffer(run: Callable[[Scenario], None]) -> None:
    """What does not fit is dropped, at once; what fitted arrives when it reads again, and it is told what did not."""

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing(most_bytes=1_000_000)
        connection = await process.accept()
        for number in range(100):
            shadowing(copy_of(number, 25_000))
        await process.until(lambda: process.dropped > 0)
        shadowing(copy_of(100))

        seen, dropped = 0, 0
        while dropped == 0:
            frame = await process.frame(connection)
            if isinstance(frame, Dropped):
                dropped = frame.copies
            else:
                seen += 1

        await process.until(lambda: process.sent >= seen)
        shadowing.close()
        connection.close()
        assert 9 <= seen < 20
        assert process.sent + process.dropped == 101
        assert dropped == 101 - seen or dropped == 100 - seen

    run(scenario)


def test_small_copies_that_wait_are_bounded_by_their_number(run: Callable[[Scenario], None]) -> None:
    """They take more memory than they hold; none of those that were taken is lost or out of order."""

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing()
        connection = await process.accept()
        for number in range(MOST_WAITING_PARTS):
            shadowing(copy_of(number))
        await process.until(lambda: process.dropped > 0)
        kept = MOST_WAITING_PARTS - process.dropped

        numbers = [await process.frame(connection) for _ in range(kept)]

        said = [copy.outputs["y"].tolist()[0] for copy in numbers if isinstance(copy, Copy)]
        assert 0 < kept < MOST_WAITING_PARTS
        assert said == list(range(kept))
        shadowing.close()
        connection.close()

    run(scenario)


def test_a_process_that_is_not_there_costs_nothing_but_the_count(run: Callable[[Scenario], None]) -> None:
    """Copies are dropped until it listens; then they arrive."""

    async def scenario(process: Process) -> None:
        process.listening.close()
        shadowing = process.shadowing()
        shadowing(copy_of(1))
        await process.until(lambda: process.dropped == 1)

        process.listen()
        connection = await process.accept()
        while process.sent == 0:
            shadowing(copy_of(2))
            await process.heard()

        shadowing.close()
        came = [await process.frame(connection) for _ in range(2)]
        connection.close()
        assert {type(frame) for frame in came} == {Copy, Dropped}

    run(scenario)


def test_after_a_crash_copies_go_to_the_process_that_came_instead(run: Callable[[Scenario], None]) -> None:
    """What was on its way is lost, and nobody hears of it but the observers."""

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing()
        first = await process.accept()
        shadowing(copy_of(1))
        assert isinstance(await process.frame(first), Copy)

        first.close()
        connecting = asyncio.create_task(process.accept())
        while not connecting.done():
            shadowing(copy_of(2))
            await process.heard()
        second = await connecting
        shadowing(copy_of(3))

        while not isinstance(came := await process.frame(second), Copy):
            pass
        shadowing.close()
        second.close()
        assert came.outputs["y"].tolist() in ([2], [3])
        assert process.dropped > 0

    run(scenario)


def test_a_share_of_the_copies_is_sent(run: Callable[[Scenario], None]) -> None:
    """By a draw for each; what is left out is not counted as dropped."""
    draws = iter([0.1, 0.9, 0.5, 0.49])

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing(0.5, draw=lambda: next(draws))
        connection = await process.accept()

        for number in range(4):
            shadowing(copy_of(number))

        came = [await process.frame(connection) for _ in range(2)]
        await process.until(lambda: process.sent == 2)
        shadowing.close()
        connection.close()
        assert [copy.outputs["y"].tolist() for copy in came if isinstance(copy, Copy)] == [[0], [3]]
        assert process.dropped == 0

    run(scenario)


def test_a_copy_larger_than_all_room_is_dropped(run: Callable[[Scenario], None]) -> None:
    """The next one is sent."""

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing(most_bytes=10_000)
        connection = await process.accept()

        shadowing(copy_of(1, 5000))
        shadowing(copy_of(2))

        came = await process.frame(connection)
        await process.until(lambda: process.sent + process.dropped == 2)
        shadowing.close()
        connection.close()
        assert isinstance(came, Copy)
        assert came.outputs["y"].tolist() == [2]

    run(scenario)


def test_what_no_frame_can_hold_is_dropped(run: Callable[[Scenario], None]) -> None:
    """A tap never raises."""

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing()
        copy = copy_of(1)
        copy.outputs = {"y": np.zeros(1, np.complex128)}

        shadowing(copy)

        await process.until(lambda: process.dropped == 1)
        shadowing.close()

    run(scenario)


def test_a_closed_one_tells_what_it_dropped_and_takes_no_more(run: Callable[[Scenario], None]) -> None:
    """A late copy does no harm."""

    async def scenario(process: Process) -> None:
        shadowing = process.shadowing(beat_s=60.0)
        shadowing(copy_of(1))

        shadowing.close()
        shadowing(copy_of(2))

        assert process.told == [CopiesSent(SHADOW, 0, 1)]

    run(scenario)


def test_an_observer_that_fails_is_told_of_and_the_others_hear(run: Callable[[Scenario], None]) -> None:
    """As everywhere."""

    async def scenario(process: Process) -> None:
        problems: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context["exception"]))

        def fail(event: Event) -> None:
            raise ValueError("mine")

        shadowing = Shadowing(Shadow(2, "/not/there"), SHADOW, loop, [fail, process.hear], beat_s=BEAT_S)
        shadowing(copy_of(1))

        await process.until(lambda: process.dropped == 1)
        shadowing.close()
        assert [str(each) for each in problems] == ["mine"]

    run(scenario)
