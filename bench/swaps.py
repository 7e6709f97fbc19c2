"""What callers notice of version swaps: 200 of them under 64 busy keep-alive connections, through the control plane's
supervisor and a real worker. Prints a table for bench/RESULTS.md.

    python bench/swaps.py [--swaps 200] [--windows 10] [--trees 100]

The worker has one core, wrk the other. Windows with swaps and without take turns; each is one run of wrk. A swap is
what an incremental update ends with: the next version is loaded beside the one that answers, gets all calls when it is
AVAILABLE, and the one before is dropped and freed. Loop lag is how much later than asked a timer of one millisecond
fires in the worker, the longest of each window; beside it the same in CPU time of the worker, which leaves out what
other processes on its core take.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil
import uvloop

from dukou.app.host import Host
from dukou.app.program import SETTINGS
from dukou.app.release import keep_one_heap
from dukou.config import Config, ServerConfig
from dukou.control.process import WorkerSlot
from dukou.control.supervisor import Supervisor
from dukou.control.worker import run_worker
from dukou.core.clock import monotonic
from dukou.core.link import Applied, Assignment
from dukou.core.version import ModelVersion, State

BIN = Path(sys.executable).parent
WORKER_CORE, LOAD_CORE = "0", "1"
CONNECTIONS = 64
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
LAGS, LAG_BUCKET_S, LAG_BUCKETS = "lags", 0.01, 200_000
PROBE_S = 0.001
LIMIT_S = 60.0
NAME = "digits"


@dataclass(frozen=True)
class Window:
    """One run of wrk: its answers, and the longest lag of the worker's loop meanwhile."""

    swaps: int
    requests: int
    failed: int
    p50_s: float
    p99_s: float
    lag_s: float
    cpu_lag_s: float


def main() -> None:
    options = arguments()
    if options.worker:
        keep_one_heap()
        uvloop.run(work(*options.worker))
        return
    folder = Path(tempfile.mkdtemp(prefix="dukou-swaps-"))
    try:
        versions = make_versions(folder, options.trees, options.swaps)
        windows, memory = asyncio.run(measure(folder, versions, options))
        report(windows, memory, versions[0])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--windows", type=int, default=10, help="of each kind")
    parser.add_argument("--seconds", type=int, default=4, help="length of a window")
    parser.add_argument("--trees", type=int, default=100, help="size of the forest that is served")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_versions(folder: Path, trees: int, swaps: int) -> list[Path]:
    """A forest on digits, packed once; every version is a copy of its own."""
    from joblib import dump
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    X, y = load_digits(return_X_y=True)
    dump(RandomForestClassifier(trees, random_state=0).fit(X, y), folder / "model.joblib")
    command = [BIN / "dukou", "pack", folder / "model.joblib", "--name", NAME, "--version", "1", "--to", folder]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    first = folder / NAME / "1"
    return [first, *(Path(shutil.copytree(first, folder / NAME / str(number))) for number in range(2, swaps + 2))]


async def measure(
    folder: Path, versions: Sequence[Path], options: argparse.Namespace
) -> tuple[list[Window], dict[int, int]]:
    """The windows, and the worker's resident memory in bytes after some swaps."""
    state = folder / "state"
    state.mkdir()
    (state / SETTINGS).write_bytes(msgspec.json.encode(Config()))
    np.memmap(state / LAGS, np.float64, "w+", shape=(LAG_BUCKETS, 2))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    swapping = Swapping(versions)
    supervisor = Supervisor(
        ServerConfig(), [[listening]], lambda slot: command(state, slot), swapping.heard, on_freed=swapping.freed
    )
    swapping.supervisor = supervisor
    running = asyncio.create_task(supervisor.run())
    windows = []
    memory: dict[int, int] = {}
    try:
        async with asyncio.timeout(LIMIT_S):
            await swapping.begin()
        (worker,) = psutil.Process().children()
        script = wrk_script(folder)
        await window(port, script, state, 2)  # to warm up
        each = options.swaps // options.windows
        for turn in range(options.windows):
            windows.append(await window(port, script, state, options.seconds))
            pause_s = options.seconds * 0.9 / each
            swaps = asyncio.create_task(swapping.swap(each, pause_s, worker, memory))
            windows.append(await window(port, script, state, options.seconds, each))
            await swaps
            print(f"{turn + 1}: {windows[-2]}\n   {windows[-1]}", file=sys.stderr, flush=True)
    finally:
        supervisor.stop()
        await running
    return windows, memory


class Swapping:
    """Goes from version to version, as a reconciler would."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.supervisor: Supervisor
        self._folders = folders
        self._now = 0
        self._applied = Applied(0, ())
        self._freed = 0
        self._news = asyncio.Condition()
        self._woken: set[asyncio.Task[None]] = set()

    def heard(self, applied: Applied) -> None:
        self._applied = applied
        self._wake()

    def freed(self, generation: int) -> None:
        self._freed = generation
        self._wake()

    async def begin(self) -> None:
        """Serve the first version."""
        self.supervisor.apply([self._assignment(0)])
        await self._available(0)

    async def swap(self, times: int, pause_s: float, worker: psutil.Process, memory: dict[int, int]) -> None:
        """Swap so often, one every `pause_s` seconds or as fast as it goes; note the memory after each."""
        due_s = monotonic()
        for _ in range(times):
            due_s += pause_s
            await asyncio.sleep(max(0.0, due_s - monotonic()))
            after = self._now + 1
            self.supervisor.apply([self._assignment(after), self._assignment(self._now)])
            await self._available(after)
            generation = self.supervisor.apply([self._assignment(after)])
            await self._gone(generation)
            self._now = after
            memory[after] = worker.memory_info().rss

    def _assignment(self, index: int) -> Assignment:
        return Assignment(ModelVersion(NAME, index + 1), str(self._folders[index]), index % 1000 + 1)

    async def _available(self, index: int) -> None:
        version = ModelVersion(NAME, index + 1)
        await self._until(
            lambda: any(one.id == version and one.state is State.AVAILABLE for one in self._applied.reports)
        )

    async def _gone(self, generation: int) -> None:
        await self._until(lambda: self._freed >= generation)

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S), self._news:
            await self._news.wait_for(reached)

    def _wake(self) -> None:
        async def wake() -> None:
            async with self._news:
                self._news.notify_all()

        task = asyncio.create_task(wake())
        self._woken.add(task)
        task.add_done_callback(self._woken.discard)


def command(state: Path, slot: WorkerSlot) -> list[str]:
    words = [str(state), str(slot.link_fd), ",".join(map(str, slot.listen_fds))]
    return ["taskset", "-c", WORKER_CORE, sys.executable, __file__, "--worker", *words]


async def work(state: str, link_fd: str, listen_fds: str) -> None:
    """A worker as `dukou _worker` is, with a probe beside it."""
    config = msgspec.json.decode((Path(state) / SETTINGS).read_bytes(), type=Config)
    host = Host(config, Path(state), 0)
    sockets = [socket.socket(fileno=int(number)) for number in listen_fds.split(",")]
    lags = np.memmap(Path(state) / LAGS, np.float64, "r+", shape=(LAG_BUCKETS, 2))
    loop = asyncio.get_running_loop()

    def probe(due_s: float, cpu_before_s: float) -> None:
        now, cpu_s = monotonic(), time.process_time()
        bucket = int(now / LAG_BUCKET_S) % LAG_BUCKETS
        lag_s = now - due_s
        np.maximum(lags[bucket], (lag_s, min(lag_s, cpu_s - cpu_before_s)), out=lags[bucket])
        loop.call_later(PROBE_S, probe, now + PROBE_S, cpu_s)

    probe(monotonic(), time.process_time())
    try:
        await run_worker(socket.socket(fileno=int(link_fd)), sockets, host, config.server.grace_s)
    finally:
        host.close()


def wrk_script(folder: Path) -> Path:
    body = json.dumps({"X": [[float(number % 17) for number in range(64)]]})
    path = folder / "digits.lua"
    path.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = {json.dumps(body)}\n'
    )
    return path


async def window(port: int, script: Path, state: Path, seconds: int, swaps: int = 0) -> Window:
    words = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    begun_s = monotonic()
    process = await asyncio.create_subprocess_exec(
        *words, "-s", str(script), f"http://127.0.0.1:{port}/predict", stdout=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[0].decode()
    lags = np.memmap(state / LAGS, np.float64, "r", shape=(LAG_BUCKETS, 2))
    buckets = np.arange(int(begun_s / LAG_BUCKET_S), int(monotonic() / LAG_BUCKET_S)) % LAG_BUCKETS
    failed = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", said)))
    failed += sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", said)))
    requests = re.search(r"(\d+) requests in", said)
    assert requests is not None, said
    longest = lags[buckets].max(axis=0).tolist()
    return Window(swaps, int(requests.group(1)), failed, latency(said, 50), latency(said, 99), *longest)


def latency(said: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", said, re.MULTILINE)
    assert found is not None, said
    return float(found.group(1)) * UNITS[found.group(2)]


def report(windows: Sequence[Window], memory: dict[int, int], folder: Path) -> None:
    quiet = [one for one in windows if not one.swaps]
    swapped = [one for one in windows if one.swaps]
    size = sum(path.stat().st_size for path in folder.iterdir())
    swaps = sum(one.swaps for one in swapped)
    print(
        f"{swaps} swaps of a model of {size / 1e6:.1f} MB under {CONNECTIONS} connections that are never idle; "
        f"{len(quiet)} windows with swaps and {len(swapped)} without, in turns.\n"
    )
    print("| Windows | Requests | Failed | p50, median | p99, median | Loop lag, median and longest | In CPU time |")
    print("|---|---|---|---|---|---|---|")
    for name, of in (("without swaps", quiet), ("with swaps", swapped)):
        lags, cpu_lags = [one.lag_s * 1e3 for one in of], [one.cpu_lag_s * 1e3 for one in of]
        print(
            f"| {name} | {sum(one.requests for one in of)} | {sum(one.failed for one in of)} "
            f"| {statistics.median(one.p50_s for one in of) * 1e3:.2f} ms "
            f"| {statistics.median(one.p99_s for one in of) * 1e3:.2f} ms "
            f"| {statistics.median(lags):.1f} ms, {max(lags):.1f} ms "
            f"| {statistics.median(cpu_lags):.1f} ms, {max(cpu_lags):.1f} ms |"
        )
    last = max(memory)
    first = min(5, last)
    print(
        f"\nResident memory of the worker: {memory[first] / 1e6:.1f} MB after swap {first}, "
        f"{memory[last] / 1e6:.1f} MB after swap {last} ({memory[last] / memory[first] - 1:+.1%})."
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
