"""An answer that comes bit by bit: each piece goes out when the client has taken enough of those before."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

_log = logging.getLogger("dukou.net")


class PieceWriter:
    """Hands the pieces of an answer to `write`, one by one, and closes their iterator whatever happens.

    Between `pause` and `resume` no piece is asked for. `on_end` is told once that no more come: True after the last
    one, False where the iterator failed, which is logged.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], write: Callable[[bytes], None], on_end: Callable[[bool], None]
    ) -> None:
        self._pieces = pieces
        self._write = write
        self._on_end = on_end
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._begun = False
        self._cancelled = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    def pause(self) -> None:
        """The client takes no more for now."""
        self._may_write.clear()

    def resume(self) -> None:
        """The client has taken enough."""
        self._may_write.set()

    def cancel(self) -> None:
        """The client has gone: close the iterator, tell nobody."""
        self._cancelled = True
        if self._begun:  # a task that is cancelled before its first step closes nothing
            self._task.cancel()

    async def _run(self) -> None:
        self._begun = True
        complete = False
        try:
            complete = await self._write_all()
        except Exception:
            _log.exception("an answer broke off")
        finally:
            close: Any = getattr(self._pieces, "aclose", None)
            if close is not None:
                await close()
        if not self._cancelled:
            self._on_end(complete)

    async def _write_all(self) -> bool:
        if not self._cancelled:
            async for piece in self._pieces:
                if piece:
                    self._write(piece)
                await self._may_write.wait()
        return True


def discard(pieces: AsyncIterator[bytes]) -> None:
    """Close an iterator from which nothing will be taken."""
    PieceWriter(pieces, lambda _: None, lambda _: None).cancel()
