"""The engine's turn in each iteration of the event loop."""

from asyncio import AbstractEventLoop
from collections.abc import Callable


class Tick:
    """Calls what asked for a turn, once, in the next loop iteration, within one budget of model time for all.

    `left_s` is what remains of `budget_s` in this turn, in seconds.
    """

    def __init__(self, loop: AbstractEventLoop, budget_s: float) -> None:
        self._loop = loop
        self.budget_s = budget_s
        self._waiting: list[Callable[[], None]] = []
        self.left_s = budget_s

    def soon(self, turn: Callable[[], None]) -> None:
        """Call `turn` in the next loop iteration, after everything that this one still reads."""
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._run)

    def spend(self, seconds: float) -> None:
        """Take `seconds` from this turn's budget; it may be overdrawn."""
        self.left_s -= seconds

    def _run(self) -> None:
        turns, self._waiting = self._waiting, []
        self.left_s = self.budget_s
        for turn in turns:
            try:
                turn()
            except Exception as problem:
                self._loop.call_exception_handler({"message": "a turn of the engine failed", "exception": problem})
