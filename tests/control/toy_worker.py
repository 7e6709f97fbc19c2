"""A worker whose model is a line of text, for the supervisor's tests: `toy_worker.py LINK_FD LISTEN_FD,...`.

Each connection sends one line: `who` is answered with the process id; `slow` with `taken`, and `done` 0.3 s later;
`never` with `taken` only.
A version is loaded when its folder exists.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from dukou.control.worker import run_worker
from dukou.core.link import Assignment, LoadReport
from dukou.core.version import State


class ToyHost:
    """Loads folders and answers lines."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []
        self.under_way: set[asyncio.Task[None]] = set()

    async def apply(self, assignments: Sequence[Assignment]) -> Sequence[LoadReport]:
        return [
            LoadReport(each.id, State.AVAILABLE)
            if Path(each.folder).exists()
            else LoadReport(each.id, State.END, error=f"{each.id.name}: there is no {Path(each.folder).name}")
            for each in assignments
        ]

    async def serve(self, sockets: Sequence[socket]) -> None:
        self.servers = [await asyncio.start_server(self.answer, sock=each) for each in sockets]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        match await reader.readline():
            case b"slow\n":
                writer.write(b"taken\n")
                await asyncio.sleep(0.3)
                writer.write(b"done\n")
            case b"never\n":
                writer.write(b"taken\n")
                await asyncio.Future()
            case _:
                writer.write(b"%d" % os.getpid())
        writer.close()
        await writer.wait_closed()

    async def drain(self, grace_s: float) -> None:
        for server in self.servers:
            server.close()
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=grace_s)


if __name__ == "__main__":
    link = socket(AF_UNIX, SOCK_STREAM, fileno=int(sys.argv[1]))
    listening = [socket(fileno=int(number)) for number in sys.argv[2].split(",")]
    asyncio.run(run_worker(link, listening, ToyHost(), grace_s=5.0))
