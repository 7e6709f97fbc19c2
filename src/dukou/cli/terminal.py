"""The terminal: lines on stderr, a spinner while something takes its time, and how a command gives up."""

import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

FAILED = 1
MISUSED = 2


class CommandError(Exception):
    """A command ends here: shown as a line on stderr. The exit code is 2 where the command line is at fault, else 1."""

    def __init__(self, text: str, exit_code: int = MISUSED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def say(text: str) -> None:
    """A line for people, on stderr. That nobody reads it any more (`2>&1 | head`, a lost terminal) stops no work."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Shows what is being done: a spinner on a terminal, a line for each step elsewhere. Call it with each step.

    A context manager; `close` may be called before, and a step after it opens it again.
    """

    def __init__(self) -> None:
        self._status: Any = None

    def __call__(self, step: str) -> None:
        """Say that `step` begins."""
        if not sys.stderr.isatty():
            say(step)
        elif self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status(step)
            self._status.start()
        else:
            self._status.update(step)

    def close(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
