"""How long a bad version goes on answering after `dukou rollback`: from the command to its last answer.

    python bench/rollback.py [--rounds 20] [--connections 64]

A real `dukou serve` with two versions, one of which replaced the other by `dukou promote` and is rolled back by the
command line, as an operator does it, while all connections are busy. Prints a table for bench/RESULTS.md.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

BIN = Path(sys.executable).parent
NAME = "digits"
ASKED = {"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]}
LIMIT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dukou-rollback-") as folder:
        rounds = asyncio.run(measure(Path(folder), options.rounds, options.connections))
    show(rounds)


async def measure(folder: Path, rounds: int, connections: int) -> list[tuple[float, float, int]]:
    """For each round, seconds from the command's start to the last answer of the version rolled back and to the
    command's end, and the requests that failed."""
    make_versions(folder)
    port, admin = free_port(), free_port()
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
    words = ["serve", folder / "models", "--port", port, "--set", f"admin.listen=127.0.0.1:{admin}"]
    words += ["--set", f"models.deployment={{{NAME}={{keep_previous=true}}}}"]
    server = subprocess.Popen([str(word) for word in (BIN / "dukou", *words)], env=environment)

    async def run(*verb: str) -> None:
        process = await asyncio.create_subprocess_exec(
            str(BIN / "dukou"), *verb, "--admin", f"127.0.0.1:{admin}", env=environment, stdout=subprocess.DEVNULL
        )
        if await process.wait():
            raise RuntimeError(f"{' '.join(verb)} failed")

    answers = Answers(port)
    try:
        await answers.begin(connections)
        found = []
        for _ in range(rounds):
            await run("promote", NAME, "--version", "2")
            await answers.until(2)
            failed = answers.failed
            begun_s = time.perf_counter()
            await run("rollback", NAME)
            ended_s = time.perf_counter()
            await asyncio.sleep(0.2)
            found.append((answers.last_s[2] - begun_s, ended_s - begun_s, answers.failed - failed))
    finally:
        await answers.end()
        server.terminate()
        server.wait(LIMIT_S)
    return found


class Answers:
    """Busy connections, and when each version has answered last."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self.last_s: dict[int, float] = {}
        self.failed = 0
        body = json.dumps(ASKED).encode()
        head = f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    async def begin(self, connections: int) -> None:
        """Return when the server answers."""
        until_s = time.perf_counter() + LIMIT_S
        while True:
            with suppress(OSError):
                await self._ask(*await asyncio.open_connection("127.0.0.1", self._port))
                break
            if time.perf_counter() > until_s:
                raise TimeoutError("the server does not start")
            await asyncio.sleep(0.1)
        self._tasks = [asyncio.create_task(self._busy()) for _ in range(connections)]

    async def until(self, version: int) -> None:
        """Return when a version has just answered."""
        begun_s = time.perf_counter()
        while self.last_s.get(version, 0.0) < begun_s:
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _busy(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            version = await self._ask(reader, writer)
            self.last_s[version] = time.perf_counter()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            self.failed += 1
            return 0
        return int(json.loads(body)["model_version"])


def make_versions(folder: Path) -> None:
    """Two logistic regressions on iris."""
    from joblib import dump
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    X, y = load_iris(return_X_y=True)
    for number, strength in ((1, 1.0), (2, 0.1)):
        dump(LogisticRegression(C=strength, max_iter=2000).fit(X, y), folder / "model.joblib")
        command = [BIN / "dukou", "pack", folder / "model.joblib", "--name", NAME, "--version", number]
        words = [str(word) for word in (*command, "--to", folder / "models")]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def show(rounds: list[tuple[float, float, int]]) -> None:
    last, ended, failed = zip(*rounds, strict=True)
    print(f"| {len(rounds)} rollbacks | median | longest |")
    print("|---|---|---|")
    for what, values in (("last answer of the version rolled back", last), ("the command has ended", ended)):
        print(f"| {what} | {statistics.median(values) * 1e3:.0f} ms | {max(values) * 1e3:.0f} ms |")
    print(f"| failed requests | {sum(failed)} | |")


if __name__ == "__main__":
    main()
