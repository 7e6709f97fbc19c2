"""What a shadow costs the primary's worker: CPU time of a one-row request, the shadow at 100 %, hung, crashed, or none.

    python bench/shadow.py VERSION_FOLDER [--sockets] [--rounds 9]

This process is the worker; the shadow runs in a model process of its own, kept as a server keeps it. Without --sockets
64 connections of an in-memory transport ask at once, so that all rounds run the same batches; with --sockets wrk asks
by 64 real connections, and shares the other core with the shadow. The ways take turns, so that a machine whose speed
drifts slows all of them alike; the median over the rounds is printed, and the median of the differences within a round.
"""

import argparse
import asyncio
import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket
from typing import Any

import msgspec
import psutil
import uvloop

from dukou.app.host import Host
from dukou.app.program import SETTINGS, program
from dukou.config import Config
from dukou.control.replicas import Replica, Replicas
from dukou.control.slot import Patience
from dukou.core.comparison import Comparison, merge
from dukou.core.event import CopiesSent, Event
from dukou.core.link import Apply, Assignment
from dukou.core.route import Route, Shadow
from dukou.core.version import ModelVersion, State

PRIMARY, SHADOW = ModelVersion("iris", 1), ModelVersion("iris", 2)
BODY = b'{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}'
PATH = "/v2/models/iris/infer"
CONNECTIONS = 64
WAYS = ("no shadow", "shadow", "hung shadow", "crashed shadow")
AIM_US = 3.0
FOR_EVER = Patience(silence_s=1e6)


class Sink(asyncio.Transport):
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 200"), data
        self.answers += 1

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


Load = Callable[[float], Awaitable[int]]
"""Asks for so many seconds (wrk for whole ones); returns how many requests were answered."""


def in_memory(host: Host) -> Load:
    """64 connections that ask all at once, again and again."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:8501\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    sinks = []
    for _ in range(CONNECTIONS):
        sink = Sink()
        sink.protocol = host.server.protocol()
        sink.protocol.connection_made(sink)
        sinks.append(sink)

    async def load(seconds: float) -> int:
        until_s = time.monotonic() + seconds
        turns = 0
        while time.monotonic() < until_s:
            wanted = sinks[-1].answers + 1
            for sink in sinks:
                sink.protocol.data_received(request)
            while sinks[-1].answers < wanted:
                await asyncio.sleep(0)
            turns += 1
        return turns * CONNECTIONS

    return load


async def by_sockets(host: Host, folder: Path) -> Load:
    """wrk on the other core."""
    listening = socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    port = listening.getsockname()[1]
    await host.serve([listening])
    script = folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{BODY.decode()}'\nwrk.headers['Content-Type'] = 'application/json'\n"
    )
    url = f"http://127.0.0.1:{port}{PATH}"

    async def load(seconds: float) -> int:
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
        process = await asyncio.create_subprocess_exec(
            "taskset", "-c", "1", *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        text = output.decode()
        found = re.search(r"(\d+) requests in", text)
        assert "Non-2xx" not in text, text
        assert found is not None, text
        return int(found.group(1))

    return load


class Shadows:
    """The model processes of the three ways with a shadow, each at its address."""

    def __init__(self, folder: Path, version: Path) -> None:
        self.compared = Comparison()
        self._addresses = {way: str(folder / f"{way.split()[0]}.sock") for way in WAYS[1:]}
        self._ready: asyncio.Queue[State] = asyncio.Queue()
        self._assignment = Assignment(SHADOW, str(version), 2)
        self._kept = {way: self._replicas(folder) for way in self._addresses}

    def _replicas(self, folder: Path) -> Replicas:
        return Replicas(
            lambda link_fd, address: ["taskset", "-c", "1", *program("_model", str(folder), str(link_fd), address)],
            lambda _, report: self._ready.put_nowait(report.state),
            self._add,
            patience=FOR_EVER,
            pause_s=lambda record, others: 1e6,
        )

    def _add(self, version: ModelVersion, comparison: Comparison) -> None:
        self.compared = merge(self.compared, comparison)

    def route(self, way: str) -> Route:
        """The route that sends copies there."""
        address = self._addresses.get(way)
        return Route() if address is None else Route(shadows=(Shadow(SHADOW.version, address),))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All of them started; one stopped, one killed."""
        tasks = []
        for way, replicas in self._kept.items():
            assignment = msgspec.structs.replace(self._assignment, process=self._addresses[way])
            replicas.apply({SHADOW: Replica(assignment)})
            tasks.append(asyncio.create_task(replicas.run()))
        try:
            available = 0
            while available < len(tasks):
                state = await self._ready.get()
                assert state is not State.END
                available += state is State.AVAILABLE
            self._signal("hung shadow", signal.SIGSTOP)
            self._signal("crashed shadow", signal.SIGKILL)
            yield
        finally:
            self._signal("hung shadow", signal.SIGCONT)
            for replicas in self._kept.values():
                replicas.stop()
            await asyncio.gather(*tasks)

    def _signal(self, way: str, number: signal.Signals) -> None:
        for child in psutil.Process().children():
            if self._addresses[way] in child.cmdline():
                child.send_signal(number)


async def measure(options: argparse.Namespace) -> None:
    copies: list[CopiesSent] = []

    def watch(event: Event) -> None:
        if isinstance(event, CopiesSent):
            copies.append(event)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / SETTINGS).write_bytes(msgspec.json.encode(Config()))
        host = Host(Config(), folder, 0, (watch,))
        shadows = Shadows(folder, options.version)
        load = await by_sockets(host, folder) if options.sockets else in_memory(host)
        assignment = Assignment(PRIMARY, str(options.version), 1)
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        sent: dict[str, tuple[int, int]] = {}
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        async with shadows.running():
            for turn in range(options.rounds + 1):  # the first one warms up
                for way in WAYS:
                    await host.apply(Apply(turn + 1, (assignment,), {PRIMARY.name: shadows.route(way)}))
                    await load(0.1)
                    copies.clear()
                    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
                    requests = await load(options.seconds)
                    cpu_s = time.process_time() - begun_cpu_s
                    if turn:
                        taken[way].append(cpu_s / requests * 1e6)
                        rates[way].append(requests / (time.monotonic() - begun_s))
                    await host.apply(Apply(turn + 1, (assignment,)))  # closes the tap, which tells the rest
                    sent[way] = sum(event.sent for event in copies), sum(event.dropped for event in copies)
            await asyncio.sleep(2.0)  # what is on its way is compared and told
        host.close()
    report(taken, rates, sent, shadows.compared)


def report(
    taken: dict[str, list[float]], rates: dict[str, list[float]], sent: dict[str, tuple[int, int]], compared: Comparison
) -> None:
    """The table."""
    print("| | CPU a request, µs | more than without, µs | requests/s | copies sent, dropped in a round |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        more = statistics.median(
            [with_it - without for with_it, without in zip(taken[way], taken[WAYS[0]], strict=True)]
        )
        note = "" if way == WAYS[0] else f"{more:+.2f}"
        rate = statistics.median(rates[way])
        row = (way, f"{statistics.median(taken[way]):.2f}", note, f"{rate:,.0f}", f"{sent[way][0]:,}, {sent[way][1]:,}")
        print(f"| {' | '.join(row)} |")
    print(f"\n{compared.copies:,} copies of {compared.rows:,} rows compared, {compared.disagreed:,} rows disagreed")
    print(f"aim: at most {AIM_US:g} µs more")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", type=Path, help="a packed version of iris")
    parser.add_argument("--sockets", action="store_true", help="by wrk and real connections")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one round of one way")
    options = parser.parse_args(argv)
    os.sched_setaffinity(0, {0})
    uvloop.run(measure(options))


if __name__ == "__main__":
    main()
