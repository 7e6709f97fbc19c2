"""When to look at repositories again: when the system tells of a change, and every so often all the same.

The system tells nothing of what other machines do on a network file system, and of nothing where its watches are used
up: looking regularly is what can be relied on, being told only makes it quick.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from dukou.core.clock import Clock, monotonic

GATHER_S = 0.05
"""Changes seldom come alone: those that follow within this time are told together."""

PAUSE_S = 0.2
"""Least time between two looks, however much changes."""

SOON_S = 0.5
"""Time between looks at what is arriving."""

MOST_LOOKING = 0.05
"""Share of the time that looking may take where nothing is told: a large repository is polled more seldom."""

_STEP_MS = 50

Identity: TypeAlias = tuple[Path, int, int]
"""A folder, its device and inode: a folder that took another's place has to be watched anew."""

_log = logging.getLogger("dukou")


async def changes(
    folders: Callable[[], Iterable[Path]],
    poll_s: float,
    soon: Callable[[], bool] = lambda: False,
    clock: Clock = monotonic,
) -> AsyncGenerator[None, None]:
    """Yields at once, then whenever something below the `folders` may have changed, at the latest after `poll_s`.

    `folders` is asked each time, so it may tell of others; those that do not exist are waited for. With a `poll_s` of 0
    it ends after the first look. While something is `soon` to be there (a version is arriving) it yields every SOON_S.
    What is done after a yield is taken to be the look, and has MOST_LOOKING of the time between two polls.
    Close it (`contextlib.aclosing`) or cancel whoever iterates: then nothing stays behind.
    """
    began_s = clock()
    yield
    changed = asyncio.Event()
    watched: frozenset[Identity] = frozenset()
    watching: asyncio.Task[None] | None = None
    try:
        while (wait_s := _wait_s(poll_s, soon(), clock() - began_s)) > 0:
            there = await asyncio.to_thread(_identify, tuple(folders()))
            if there != watched:
                await _end(watching)
                watched = there
                watching = asyncio.create_task(_watch([path for path, _, _ in there], changed)) if there else None
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await asyncio.sleep(min(PAUSE_S, wait_s))
                    await changed.wait()
                    await asyncio.sleep(GATHER_S)
            changed.clear()
            began_s = clock()
            yield
    finally:
        await _end(watching)


def _wait_s(poll_s: float, soon: bool, took_s: float) -> float:
    """How long until the next look, after one that took so long; 0 for ever."""
    if soon:
        poll_s = min(poll_s, SOON_S) if poll_s > 0 else SOON_S
    return max(poll_s, took_s / MOST_LOOKING) if poll_s > 0 else 0.0


def _identify(folders: Iterable[Path]) -> frozenset[Identity]:
    """Those of the folders that exist."""
    found = set()
    for folder in folders:
        with suppress(OSError):
            status = folder.stat()
            found.add((folder, status.st_dev, status.st_ino))
    return frozenset(found)


async def _watch(folders: list[Path], changed: asyncio.Event) -> None:
    """Sets `changed` whenever the system tells of one; ends where it cannot tell."""
    try:
        from watchfiles import awatch

        async for _ in awatch(
            *folders, watch_filter=None, step=_STEP_MS, debounce=_STEP_MS, ignore_permission_denied=True
        ):
            changed.set()
    except Exception as error:  # no inotify watches left, a file system without them, a folder that has just gone
        _log.warning("changes in the repositories are noticed by looking only: %s", error)


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
