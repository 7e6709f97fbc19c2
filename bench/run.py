"""scripts/bench: dukou and its peers on the same payloads, in one run on one machine; writes bench/RESULTS.md.

The server has one core and the load the other: wrk for HTTP/1.1, h2load for gRPC. Rounds alternate between the servers,
so that a machine whose speed drifts slows all of them alike; every figure is the median over the rounds. CPU per
request is user plus system time of the server's whole process tree, divided by the requests answered.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from payloads import GRPC, LABELS, Load, Payload, grpc_file, payloads, wrk_script
from report import NGINX, Cell, Start, write_report
from servers import BIN, Running, Server, servers

LOAD_CORE = "1"
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Sample:
    """What one round of wrk or h2load measured."""

    requests_per_s: float
    p50_s: float
    p99_s: float
    cpu_s: float
    errors: int


def main() -> None:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="dukou-bench-"))
    try:
        repository = make_models(folder)
        chosen = [server for server in servers(repository) if not options.only or server.name.startswith(options.only)]
        work = [payload for payload in payloads() if not options.payload or payload.name == options.payload]
        starts = [measure_start(server, folder, work[0], options.starts) for server in chosen]
        cells = measure_load(chosen, work, folder, options.rounds, options.seconds)
        write_report(starts, cells, options.rounds, options.seconds, None if options.only else options.output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds; the median is reported")
    parser.add_argument("--seconds", type=int, default=2, help="length of one round of one server")
    parser.add_argument("--starts", type=int, default=5, help="cold starts of each server")
    parser.add_argument("--only", nargs="*", default=(), type=str, help="servers whose name begins with one of these")
    parser.add_argument("--payload", help="one payload only: 'one row', '256 rows' or '1x3x224x224'")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "RESULTS.md")
    options = parser.parse_args()
    options.only = tuple(options.only)
    return options


def make_models(folder: Path) -> Path:
    """Train, save and pack the models: what the peers load and what dukou serves."""
    subprocess.run([sys.executable, str(Path(__file__).parent / "models.py"), str(folder)], check=True)
    repository = folder / "models"
    for source, name in (("model.joblib", "iris"), ("mean.onnx", "mean")):
        command = [BIN / "dukou", "pack", folder / source, "--name", name, "--version", "1", "--to", repository]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return repository


def measure_start(server: Server, folder: Path, payload: Payload, times: int) -> Start:
    """Seconds from start to the first answer, and memory after it."""
    seconds, pss, largest = [], [], []
    for _ in range(times):
        running = Running(server, folder, payload)
        try:
            seconds.append(running.first_answer_s)
            tree, process = running.memory_mb()
            pss.append(tree)
            largest.append(process)
        finally:
            running.stop()
    median = statistics.median
    return Start(server.name, median(seconds), min(seconds), max(seconds), median(pss), median(largest))


def measure_load(chosen: list[Server], work: list[Payload], folder: Path, rounds: int, seconds: int) -> list[Cell]:
    """Every payload under every load in every format that a server speaks, the servers taking turns."""
    running: dict[str, Running] = {}
    samples: dict[Key, list[Sample]] = {}
    try:
        for server in chosen:
            running[server.name] = Running(server, folder, work[0])
            running[server.name].check(work)
        for payload in work:
            for load in payload.loads:
                for turn in range(rounds):
                    for key in keys(payload, load, chosen):
                        sample = one_round(running[key.server], payload, key, folder, seconds)
                        samples.setdefault(key, []).append(sample)
                        print(f"{payload.name}, {load}, round {turn + 1}: {key.row}: {sample}", flush=True)
        memory = {name: server.memory_mb() for name, server in running.items()}
    finally:
        for server in running.values():
            server.stop()
    return [summarise(key, taken, memory[key.server]) for key, taken in samples.items()]


@dataclass(frozen=True)
class Key:
    """One row of one table."""

    payload: str
    load: Load
    server: str
    format: str

    @property
    def row(self) -> str:
        """How the table names it."""
        if self.server == NGINX:
            return f"{self.server}, HTTP/2" if self.format in GRPC else self.server
        return f"{self.server}, {LABELS[self.format]}" if LABELS[self.format] else self.server


def keys(payload: Payload, load: Load, chosen: list[Server]) -> Iterator[Key]:
    """The rows of a table."""
    for server in chosen:
        for kind in load.formats:
            # over HTTP/2 nginx answers before it has read a body that is larger than a stream's window
            unread = server.name == NGINX and kind in GRPC and len(payload.bodies[kind]) > 65_535
            if kind in server.formats and not unread:
                yield Key(payload.name, load, server.name, kind)


def one_round(running: Running, payload: Payload, key: Key, folder: Path, seconds: int) -> Sample:
    measure = h2load if key.format in GRPC else wrk
    before = running.cpu_s()
    requests, requests_per_s, p50_s, p99_s, errors = measure(running, payload, key, folder, seconds)
    cpu_s = running.cpu_s() - before
    return Sample(requests_per_s, p50_s, p99_s, cpu_s / max(requests, 1), errors)


Measured: TypeAlias = tuple[int, float, float, float, int]
"""Requests, requests a second, median and 99th percentile in seconds, errors."""


def wrk(running: Running, payload: Payload, key: Key, folder: Path, seconds: int) -> Measured:
    """One round of wrk."""
    script = wrk_script(payload, key.format, folder)
    url = f"http://127.0.0.1:{running.ports.http}{running.server.path(payload.model, key.format)}"
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{key.load.connections}", f"-d{seconds}s"]
    text = output([*command, "--latency", "--timeout", "20s", "-s", str(script), url])
    errors = sum(int(number) for line in re.findall(r"(?:Socket errors|Non-2xx).*", text) for number in numbers(line))
    return (
        int(found(r"(\d+) requests in", text)),
        float(found(r"Requests/sec:\s+([\d.]+)", text)),
        seconds_of(found(r"50%\s+([\d.]+[a-z]+)", text)),
        seconds_of(found(r"99%\s+([\d.]+[a-z]+)", text)),
        errors,
    )


def h2load(running: Running, payload: Payload, key: Key, folder: Path, seconds: int) -> Measured:
    """One round of h2load; its log has the time of each request."""
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    url = f"http://127.0.0.1:{running.ports.grpc}{running.server.path(payload.model, key.format)}"
    text = output(
        [
            *("taskset", "-c", LOAD_CORE, "h2load", "-t1", f"-c{key.load.connections}", f"-m{key.load.streams}"),
            *(f"-D{seconds}", f"--data={grpc_file(payload, key.format, folder)}", f"--log-file={log}"),
            *("-w28", "-W28", "-H", "content-type: application/grpc", "-H", "te: trailers", url),
        ]
    )
    lines = log.read_text().splitlines()
    taken_us = sorted(int(line.split("\t")[2]) for line in lines)
    done, failed = (int(found(rf"(\d+) {word}", text)) for word in ("succeeded", "failed"))
    if not taken_us:
        raise RuntimeError(f"h2load had no answers:\n{text}")
    p50_s, p99_s = (taken_us[int(share * (len(taken_us) - 1))] / 1e6 for share in (0.5, 0.99))
    return done, done / seconds, p50_s, p99_s, failed


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk printed no {pattern!r}:\n{text}")
    return match.group(1)


def numbers(line: str) -> list[str]:
    return re.findall(r"\d+", line.replace("Non-2xx or 3xx", ""))


def seconds_of(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    assert match is not None, text
    return float(match.group(1)) * UNITS[match.group(2)]


def summarise(key: Key, taken: list[Sample], memory: tuple[float, float]) -> Cell:
    median = statistics.median
    return Cell(
        payload=key.payload,
        load=str(key.load),
        server=key.row,
        process=key.server,
        requests_per_s=median(sample.requests_per_s for sample in taken),
        p50_s=median(sample.p50_s for sample in taken),
        p99_s=median(sample.p99_s for sample in taken),
        cpu_s=median(sample.cpu_s for sample in taken),
        errors=sum(sample.errors for sample in taken),
        pss_mb=memory[0],
        largest_mb=memory[1],
    )


if __name__ == "__main__":
    main()
