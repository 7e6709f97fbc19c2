"""A thread that writes what others hand in: whoever hands in never waits for a file."""

from collections.abc import Callable
from threading import Event as Flag
from threading import Thread


class Writer:
    """Calls `write` in a thread of its own soon after each `wake`, at most every `pause_s`, so that much that comes
    together makes one write; at the close once more, and then `end`. Neither may raise."""

    def __init__(
        self, write: Callable[[], None], name: str, pause_s: float, *, end: Callable[[], None] = lambda: None
    ) -> None:
        self._write = write
        self._end = end
        self._pause_s = pause_s
        self._some = Flag()
        self._closing = Flag()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to write."""
        if not self._some.is_set():
            self._some.set()

    def close(self, patience_s: float) -> None:
        """Write what is left and end, or leave the thread behind where a file stands still for `patience_s`."""
        self._closing.set()
        self._some.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._some.clear()
            self._write()
            self._closing.wait(self._pause_s)
        self._write()
        self._end()
