"""One worker process: spawned, spoken to over its link, waited for."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

import msgspec

from dukou.control.channel import Channel


class WorkerSlot(msgspec.Struct, frozen=True):
    """What a worker's command line has to pass on: the number of its slot and the file descriptors it inherits."""

    index: int
    link_fd: int
    listen_fds: tuple[int, ...]


Command: TypeAlias = Callable[[WorkerSlot], Sequence[str]]
"""Makes the command line that starts the worker of a slot."""


class WorkerProcess:
    """A running worker. Standard output and error are the supervisor's own; standard input is empty."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self._process = process
        self.channel = channel

    @classmethod
    async def spawn(cls, command: Command, index: int, listening: Sequence[socket.socket]) -> "WorkerProcess":
        """Start a worker that inherits the `listening` sockets and one end of a new link. Raises OSError."""
        ours, theirs = socket.socketpair()
        slot = WorkerSlot(index, theirs.fileno(), tuple(each.fileno() for each in listening))
        try:
            with theirs, _interrupt_blocked():
                process = await asyncio.create_subprocess_exec(
                    *command(slot), stdin=asyncio.subprocess.DEVNULL, pass_fds=(slot.link_fd, *slot.listen_fds)
                )
        except BaseException:
            ours.close()
            raise
        try:
            return cls(process, await Channel.open(ours))
        except BaseException:
            process.kill()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended already."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Its exit status, as soon as it has one; minus the signal's number when a signal ended it."""
        return await self._process.wait()


def ended_how(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """A child starts with the signal mask of its parent. With SIGINT blocked from its first instruction, Ctrl-C reaches
    the supervisor alone, also while the worker is still importing."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        # Not the mask from before: two spawns may overlap, and the later would restore what the earlier had blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
