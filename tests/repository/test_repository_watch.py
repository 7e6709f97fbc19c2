"""When to look again."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dukou.repository import watch
from dukou.repository.watch import SOON_S, _wait_s, changes

FAR_S = 3600.0
ENOUGH_S = 10.0


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(ENOUGH_S):
            await scene()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


async def told(looks: AsyncGenerator[None, None], act: Callable[[], object]) -> None:
    """Returns when a look is due after `act`, which is done over and over until it is: watching may not have begun."""
    waiting = asyncio.ensure_future(anext(looks))
    while not waiting.done():
        act()
        await asyncio.wait([waiting], timeout=0.1)
    await waiting


def test_a_poll_of_0_looks_once() -> None:
    """And ends."""

    async def scene() -> None:
        assert [look async for look in changes(list, 0.0)] == [None]

    run(scene)


def test_what_is_soon_to_be_there_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it should be looked at once."""
    monkeypatch.setattr(watch, "SOON_S", 0.01)
    left = [True, True, False]

    async def scene() -> None:
        assert len([look async for look in changes(list, 0.0, lambda: left.pop(0))]) == 3

    run(scene)


def test_it_looks_regularly_whatever_the_system_tells(tmp_path: Path) -> None:
    """At folders that do not exist, too."""

    async def scene() -> None:
        async with aclosing(changes(lambda: [tmp_path / "nowhere"], 0.01)) as looks:
            for _ in range(4):
                await anext(looks)

    run(scene)


def test_changes_are_told_without_waiting_for_the_next_poll(tmp_path: Path) -> None:
    """Deep ones, and again after the first."""
    (tmp_path / "iris").mkdir()

    async def scene() -> None:
        async with aclosing(changes(lambda: [tmp_path], FAR_S)) as looks:
            await anext(looks)
            for number in range(3):
                await told(looks, (tmp_path / "iris" / str(number)).touch)

    run(scene)


def test_folders_may_come_later_and_be_replaced(tmp_path: Path) -> None:
    """Ones that are asked for later, and one that took another's place, are watched from the next look on."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    folders = [first]

    async def scene() -> None:
        async with aclosing(changes(lambda: folders, FAR_S)) as looks:
            await anext(looks)
            await told(looks, (first / "a").touch)
            second.mkdir()
            folders.append(second)
            await told(looks, (second / "a").touch)
            first.rename(tmp_path / "away")
            first.mkdir()
            await told(looks, (second / "a").touch)
            await told(looks, (first / "a").touch)

    run(scene)


def test_where_the_system_tells_nothing_looking_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No watches left, say; it is told once."""

    def none_left(*folders: Path, **settings: Any) -> Awaitable[None]:
        raise OSError("no watches left")

    monkeypatch.setattr("watchfiles.awatch", none_left)

    async def scene() -> None:
        async with aclosing(changes(lambda: [tmp_path], 0.05)) as looks:
            for _ in range(5):
                await anext(looks)

    with caplog.at_level(logging.WARNING):
        run(scene)

    assert [record.getMessage() for record in caplog.records] == [
        "changes in the repositories are noticed by looking only: no watches left"
    ]


def test_cancelling_leaves_nothing_behind(tmp_path: Path) -> None:
    """Whoever iterates is told so, and no task goes on."""

    async def scene() -> None:
        began = asyncio.Event()

        async def follow() -> None:
            async with aclosing(changes(lambda: [tmp_path], FAR_S)) as looks:
                async for _ in looks:
                    began.set()

        following = asyncio.create_task(follow())
        await began.wait()
        await asyncio.sleep(0)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    run(scene)


def test_a_look_that_takes_long_is_polled_for_more_seldom() -> None:
    """A twentieth of the time at most."""
    waits = [_wait_s(1.0, soon, took_s) for soon, took_s in ((False, 0.01), (False, 0.5), (True, 0.01), (True, 0.5))]

    assert waits == [1.0, 10.0, SOON_S, 10.0]
