"""scripts/bench: dukou and its peers on the same payloads, in one run on one machine; writes bench/RESULTS.md.

The server has one core and wrk the other. Rounds alternate between the servers, so that a machine whose speed drifts
slows all of them alike; every figure is the median over the rounds. CPU per request is user plus system time of the
server's whole process tree, divided by the requests answered.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from payloads import Payload, payloads, wrk_script
from report import Cell, Start, write_report
from servers import BIN, Running, Server, servers

LOAD_CORE = "1"
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Sample:
    """What one round of wrk measured."""

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
        starts = [measure_start(server, folder, options.starts) for server in chosen]
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


def measure_start(server: Server, folder: Path, times: int) -> Start:
    """Seconds from start to the first answer, and memory after it."""
    one_row = payloads()[0]
    seconds, pss, largest = [], [], []
    for _ in range(times):
        running = Running(server, folder, one_row.model, one_row.body)
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
    """Every payload at every connection count, the servers taking turns."""
    running = {}
    samples: dict[tuple[str, int, str], list[Sample]] = {}
    memory: dict[str, tuple[float, float]] = {}
    try:
        for server in chosen:
            running[server.name] = Running(server, folder, work[0].model, work[0].body)
        for payload in work:
            script = wrk_script(payload, folder)
            for connections in payload.connections:
                for turn in range(rounds):
                    for server in chosen:
                        sample = one_round(running[server.name], payload, script, connections, seconds)
                        samples.setdefault((payload.name, connections, server.name), []).append(sample)
                        print(f"{payload.name} c={connections} round {turn + 1}: {server.name}: {sample}", flush=True)
        memory = {name: server.memory_mb() for name, server in running.items()}
    finally:
        for server in running.values():
            server.stop()
    return [summarise(key, taken, memory[key[2]]) for key, taken in samples.items()]


def one_round(running: Running, payload: Payload, script: Path, connections: int, seconds: int) -> Sample:
    url = f"http://127.0.0.1:{running.port}{running.server.paths[payload.model]}"
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    before = running.cpu_s()
    text = subprocess.run(
        [*command, "--latency", "--timeout", "20s", "-s", str(script), url], check=True, capture_output=True, text=True
    ).stdout
    cpu_s = running.cpu_s() - before
    requests = int(found(r"(\d+) requests in", text))
    errors = sum(int(number) for line in re.findall(r"(?:Socket errors|Non-2xx).*", text) for number in numbers(line))
    return Sample(
        float(found(r"Requests/sec:\s+([\d.]+)", text)),
        seconds_of(found(r"50%\s+([\d.]+[a-z]+)", text)),
        seconds_of(found(r"99%\s+([\d.]+[a-z]+)", text)),
        cpu_s / max(requests, 1),
        errors,
    )


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


def summarise(key: tuple[str, int, str], taken: list[Sample], memory: tuple[float, float]) -> Cell:
    median = statistics.median
    return Cell(
        payload=key[0],
        connections=key[1],
        server=key[2],
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
