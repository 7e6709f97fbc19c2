"""A worker's side of the link: does what the supervisor says and decides nothing."""

import asyncio
import signal
from collections.abc import Sequence
from socket import socket
from typing import Protocol

from dukou.control.channel import Channel
from dukou.core.link import (
    Applied,
    Apply,
    Assignment,
    Drain,
    Listen,
    Listening,
    LoadReport,
    Ping,
    Pong,
)


class DataPlaneHost(Protocol):
    """The data plane of one process, as its worker drives it."""

    async def apply(self, assignments: Sequence[Assignment]) -> Sequence[LoadReport]:
        """Load what is new off the loop, swap to the new table, unload what has gone. One report for each assignment;
        a version that cannot be loaded is a report, not an exception."""

    async def serve(self, sockets: Sequence[socket]) -> None:
        """Accept connections on `sockets`; returns once it does."""

    async def drain(self, grace_s: float) -> None:
        """Accept no more, return when everything taken is answered, or after `grace_s`."""


async def run_worker(link: socket, sockets: Sequence[socket], host: DataPlaneHost, grace_s: float) -> None:
    """Serve until told to drain; return when drained, for the process to exit.

    Connections are accepted only after the first table is applied and the supervisor found it good, so a worker that
    was restarted never refuses what the others serve; until then they wait in the sockets' backlog. SIGTERM to this
    process alone drains it, as does the end of the link: a worker whose supervisor died finishes what it has within
    `grace_s` and exits. (A successor that adopts running workers is not there yet.) SIGINT and SIGHUP, which a terminal
    sends to all its processes, are the supervisor's to act upon.
    """
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    channel = await Channel.open(link)
    worker = _Worker(channel, sockets, host)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.ask_drain, grace_s)
    try:
        await worker.run(grace_s)
    finally:
        await channel.close()


class _Worker:
    def __init__(self, channel: Channel, sockets: Sequence[socket], host: DataPlaneHost) -> None:
        self._channel = channel
        self._sockets = sockets
        self._host = host
        self._wanted: Apply | None = None
        self._wants = asyncio.Event()
        self._grace_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def run(self, grace_s: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            applying = tasks.create_task(self._apply())
            obeying = tasks.create_task(self._obey(grace_s))
            grace_s = await self._grace_s
            applying.cancel()
            # Pings are answered while draining: silence would get this process killed with its answers unsent.
            await self._host.drain(grace_s)
            obeying.cancel()

    def ask_drain(self, grace_s: float) -> None:
        if not self._grace_s.done():
            self._grace_s.set_result(grace_s)

    async def _obey(self, grace_s: float) -> None:
        """Take the supervisor's messages; loading goes on beside it."""
        async for message in self._channel:
            match message:
                case Apply():
                    self._wanted = message
                    self._wants.set()
                case Listen():
                    await self._host.serve(self._sockets)
                    self._channel.send(Listening())
                case Ping():
                    self._channel.send(Pong())
                case Drain():
                    self.ask_drain(message.grace_s)
                case _:
                    pass  # what only a supervisor hears
        self.ask_drain(grace_s)

    async def _apply(self) -> None:
        """One table after the other; of those that came while one was loaded, only the last."""
        while True:
            await self._wants.wait()
            self._wants.clear()
            if wanted := self._wanted:
                reports = await self._host.apply(wanted.assignments)
                self._channel.send(Applied(wanted.generation, tuple(reports)))
