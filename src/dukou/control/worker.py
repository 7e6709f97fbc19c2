"""A worker's side of the link: does what the supervisor says and decides nothing."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from socket import socket
from typing import Protocol

from dukou.control.asking import Asking
from dukou.control.channel import Channel
from dukou.core.link import Applied, Apply, Drain, Freed, Listen, Listening, Ping, Pong, Told


class DataPlaneHost(Protocol):
    """The data plane of one process, as its worker drives it."""

    async def apply(self, wanted: Apply, tell: Callable[[Applied | Freed], None]) -> None:
        """Put the table in force, before anything is waited for, and `tell` so: what is still to be loaded is LOADING
        meanwhile, and told again whenever a report has changed. When what this table and those before it dropped is
        gone, `tell` Freed. Returns after the last of this.

        Called again before it has returned: tables do not wait for each other. A version that cannot be loaded is a
        report, not an exception.
        """

    async def serve(self, sockets: Sequence[socket]) -> None:
        """Accept connections on `sockets`; returns once it does."""

    async def drain(self, grace_s: float) -> None:
        """Accept no more, return when everything taken is answered, or after `grace_s`."""


async def run_worker(
    link: socket, sockets: Sequence[socket], host: DataPlaneHost, grace_s: float, asking: Asking | None = None
) -> None:
    """Serve until told to drain; return when drained, for the process to exit. `asking` is what callers of the data
    plane may ask of the supervisor by.

    Connections are accepted only after the first table is loaded and the supervisor found it good, so a worker that
    was restarted never refuses what the others serve; until then they wait in the sockets' backlog. SIGTERM to this
    process alone drains it, as does the end of the link: a worker whose supervisor died finishes what it has within
    `grace_s` and exits. SIGINT and SIGHUP, which a terminal sends to all its processes, are the supervisor's to act
    upon.
    """
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    channel = await Channel.open(link)
    asking = asking or Asking()
    asking.connect(channel.send)
    worker = _Worker(channel, sockets, host, asking)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.ask_drain, grace_s)
    try:
        await worker.run(grace_s)
    finally:
        asking.close()
        await channel.close()


class _Worker:
    def __init__(self, channel: Channel, sockets: Sequence[socket], host: DataPlaneHost, asking: Asking) -> None:
        self._channel = channel
        self._sockets = sockets
        self._host = host
        self._asking = asking
        self._applying: set[asyncio.Task[None]] = set()
        self._grace_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def run(self, grace_s: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            obeying = tasks.create_task(self._obey(grace_s, tasks))
            grace_s = await self._grace_s
            for applying in self._applying:
                applying.cancel()
            # Pings are answered while draining: silence would get this process killed with its answers unsent.
            await self._host.drain(grace_s)
            obeying.cancel()

    def ask_drain(self, grace_s: float) -> None:
        if not self._grace_s.done():
            self._grace_s.set_result(grace_s)

    async def _obey(self, grace_s: float, tasks: asyncio.TaskGroup) -> None:
        """Take the supervisor's messages; loading goes on beside it."""
        async for message in self._channel:
            match message:
                case Apply() if not self._grace_s.done():
                    applying = tasks.create_task(self._host.apply(message, self._channel.send))
                    self._applying.add(applying)
                    applying.add_done_callback(self._applying.discard)
                case Listen():
                    await self._host.serve(self._sockets)
                    self._channel.send(Listening())
                case Ping():
                    self._channel.send(Pong())
                case Told():
                    self._asking.hear(message)
                case Drain():
                    self.ask_drain(message.grace_s)
                case _:
                    pass  # what only a supervisor hears
        self._asking.close()
        self.ask_drain(grace_s)
