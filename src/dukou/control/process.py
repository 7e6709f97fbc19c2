"""One worker process: spawned, spoken to over its link, waited for."""

import asyncio
import os
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
            with theirs, interrupt_blocked():
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
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # Process.kill may reap it, and take its status from who waits

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
def interrupt_blocked() -> Iterator[None]:
    """For the start of a child, which inherits the signal mask: with SIGINT blocked from its first instruction, Ctrl-C
    reaches its parent alone, also while it is still importing."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        # Not the mask from before: two spawns may overlap, and the later would restore what the earlier had blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
