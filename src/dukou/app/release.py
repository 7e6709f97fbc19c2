"""A version in memory, and how its memory is given back: after the last call, off the loop."""

import asyncio
import ctypes
import gc
import logging
import os
import sys
import weakref
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Thread, get_native_id
from typing import Any, TypeVar

from dukou.core.runtime import LoadedModel
from dukou.engine.batcher import Batcher
from dukou.engine.stream import Streamer

T = TypeVar("T")

_GC_THRESHOLD = 10_000
_NICE = 5
_M_ARENA_MAX = -8  # of malloc.h

_log = logging.getLogger("dukou")


class Held:
    """A loaded version and what serves it. `pool` is its own, where it has one. `tidy`: nothing in it refers to itself
    in a circle, so that it ends when nobody refers to it."""

    __slots__ = ("model", "pool", "stage", "streamer", "tidy")

    def __init__(self, model: LoadedModel, pool: ThreadPoolExecutor | None, tidy: bool) -> None:
        self.model: LoadedModel | None = model
        self.pool = pool
        self.tidy = tidy
        self.stage: Batcher | None = None
        self.streamer: Streamer | None = None


async def last_call(held: Held) -> None:
    """Let go of what serves the version, and return when nobody else has it any more.

    Whoever has chosen it refers to it until the answer is there: a call that waits in a queue or a pool, a batch that
    runs, an open stream. So nothing needs to be counted on the way of a request.
    """
    loop = asyncio.get_running_loop()
    gone = [_gone(part, loop) for part in (held.stage, held.streamer) if part is not None]
    held.stage = held.streamer = None
    if gone:
        await asyncio.wait(gone)


def release(held: Held) -> None:
    """End the model and give its memory back to the system. For a thread: destructors of large models take a while."""
    close: Callable[[], None] | None = getattr(held.model, "close", None)
    if close is not None:
        try:
            close()
        except Exception:
            _log.exception("a model could not be closed")
    del close  # which refers to the model
    held.model = None
    if held.pool is not None:
        held.pool.shutdown(wait=False, cancel_futures=True)
    if not held.tidy:
        gc.unfreeze()  # or what was there when serving began would stay for ever
        gc.collect()
        gc.freeze()
    _trim()


def keep_one_heap() -> None:
    """Before the first thread: have glibc keep one heap for all threads, not eight for each CPU. Versions are loaded
    and let go in threads, and what one heap has free serves no other: 200 swaps of a model of 4 MB then keep 3 % more,
    not 12 % (bench/swaps.py)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Before the loop serves: have the collector pass over all that is there by now, and look less often.

    What is loaded stays for long, and a request's objects end by reference count: there is little to find. It saves
    1 of 15 µs a request (bench/request_path.py). Collecting everything takes 30 to 80 ms, so this is done once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """What `work(*arguments)` returns, in a thread of its own: one that hangs takes no place from others, and does not
    keep the process from ending. Raises what it raises."""
    loop = asyncio.get_running_loop()
    done: Future[T] = loop.create_future()
    Thread(target=_work, args=(loop, done, partial(work, *arguments)), name="dukou-version", daemon=True).start()
    return await done


def _work(loop: AbstractEventLoop, done: "Future[T]", work: Callable[[], T]) -> None:
    _let_others_first()
    try:
        tell = partial(done.set_result, work())
    except BaseException as error:
        tell = partial(done.set_exception, error)
    _soon(loop, lambda: None if done.done() else tell())


def _let_others_first() -> None:
    """Give this thread less of the processor than the loop, where both have one core. On Linux threads have a priority
    of their own. bench/swaps.py: the loop's longest lag while versions are loaded."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICE)


def _gone(part: object, loop: AbstractEventLoop) -> "Future[None]":
    """Done when `part` is no more, in whichever thread that happens."""
    gone: Future[None] = loop.create_future()
    weakref.finalize(part, _soon, loop, partial(gone.set_result, None)).atexit = False
    return gone


def _soon(loop: AbstractEventLoop, tell: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:  # the loop is closed: the process ends
        pass


def _trim() -> None:
    """Without this glibc keeps for later what was freed: 200 swaps of a model of 4 MB kept 180 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
