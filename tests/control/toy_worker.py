"""A worker whose model is a line of text, for the supervisor's tests: `toy_worker.py LINK_FD LISTEN_FD,...`.

Each connection sends one line: `who` is answered with the process id; `slow` with `taken`, and `done` 0.3 s later;
`never` with `taken` only; `unload NAME` with what becomes of asking the supervisor for that.
A version is loaded when its folder exists; with the option `wait`, when the file that it names exists, too; of one with
`crash` beside it the process dies.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from dukou.control.asking import Asking
from dukou.control.worker import run_worker
from dukou.core.errors import DukouError
from dukou.core.link import Applied, Apply, Assignment, Freed, LoadReport
from dukou.core.verb import Unload
from dukou.core.version import ModelVersion, State


class ToyHost:
    """Loads folders and answers lines."""

    def __init__(self) -> None:
        self.asking = Asking()
        self.wanted = Apply(0, ())
        self.loaded: set[ModelVersion] = set()
        self.servers: list[asyncio.Server] = []
        self.under_way: set[asyncio.Task[None]] = set()

    async def apply(self, wanted: Apply, tell: Callable[[Applied | Freed], None]) -> None:
        self.wanted = wanted
        waits = [each for each in wanted.assignments if "wait" in each.options and each.id not in self.loaded]
        tell(Applied(wanted.generation, self.reports()))
        tell(Freed(wanted.generation))
        for each in waits:
            if "crash" in each.options:
                await asyncio.sleep(0.05)  # the report is on its way
                os._exit(1)
            while not Path(each.options["wait"]).exists():
                await asyncio.sleep(0.01)
            self.loaded.add(each.id)
            tell(Applied(self.wanted.generation, self.reports()))

    def reports(self) -> tuple[LoadReport, ...]:
        return tuple(map(self.report, self.wanted.assignments))

    def report(self, each: Assignment) -> LoadReport:
        if each.wanted is not State.AVAILABLE:
            return LoadReport(each.id, each.wanted, each.why, attempt=each.attempt)
        if not Path(each.folder).exists():
            error = f"{each.id.name}: there is no {Path(each.folder).name}"
            return LoadReport(each.id, State.END, error, attempt=each.attempt)
        loading = "wait" in each.options and each.id not in self.loaded
        return LoadReport(each.id, State.LOADING if loading else State.AVAILABLE, attempt=each.attempt)

    async def serve(self, sockets: Sequence[socket]) -> None:
        self.servers = [await asyncio.start_server(self.answer, sock=each) for each in sockets]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        match line := await reader.readline():
            case b"slow\n":
                writer.write(b"taken\n")
                await asyncio.sleep(0.3)
                writer.write(b"done\n")
            case b"never\n":
                writer.write(b"taken\n")
                await asyncio.Future()
            case _ if line.startswith(b"unload "):
                try:
                    await self.asking.do(Unload(line.split()[1].decode()), "a test")
                    writer.write(b"done")
                except DukouError as error:
                    writer.write(str(error).encode())
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
    toy = ToyHost()
    asyncio.run(run_worker(link, listening, toy, 5.0, toy.asking))
