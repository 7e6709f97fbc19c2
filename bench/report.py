"""The benchmark's tables, as Markdown: what was measured, good or bad, and the ratios that the project aims at."""

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NGINX = "nginx `return 200`"
GUNICORN = "Flask + gunicorn, 2 workers"
FLASK = "Flask dev server"


@dataclass(frozen=True)
class Start:
    """Cold starts of one server: seconds to the first answer, memory after it in MB."""

    server: str
    median_s: float
    least_s: float
    most_s: float
    pss_mb: float
    largest_mb: float


@dataclass(frozen=True)
class Cell:
    """One server under one payload at one connection count; medians over the rounds."""

    payload: str
    connections: int
    server: str
    requests_per_s: float
    p50_s: float
    p99_s: float
    cpu_s: float
    errors: int
    pss_mb: float
    largest_mb: float


def write_report(starts: list[Start], cells: list[Cell], rounds: int, seconds: int, output: Path | None) -> None:
    """Print the tables, and write them to `output` if it is given."""
    text = "\n".join(
        [*heading(rounds, seconds), *goals(starts, cells), *load_tables(cells), *start_table(starts, cells)]
    )
    print(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


def heading(rounds: int, seconds: int) -> list[str]:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in described if line.startswith("model name")), "?")
    names = ("dukou", "onnxruntime", "numpy", "uvloop", "httptools", "flask", "gunicorn", "uvicorn", "scikit-learn")
    libraries = ", ".join(f"{name} {installed(name)}" for name in names)
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr.strip()
    return [
        "# Benchmark results",
        "",
        f"Written by `scripts/bench` on {datetime.now(UTC):%Y-%m-%d}. {cpu}, server on one core and wrk on the other; "
        f"Linux {platform.release()}, Python {platform.python_version()}; {libraries}; {nginx}.",
        "",
        f"Medians of {rounds} alternating rounds of {seconds} s. CPU is user + system time of the server's whole "
        "process tree per request. The machine is shared and its speed drifts, so compare columns within this page, "
        "and ratios rather than absolute figures. nginx does no work: given the same POST it returns a constant.",
        "",
    ]


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def goals(starts: list[Start], cells: list[Cell]) -> list[str]:
    """The ratios the project aims at, beside what was measured; absent where a side was not run."""
    by = {(cell.payload, cell.connections, cell.server): cell for cell in cells}
    start = {item.server: item for item in starts}
    rows = []

    def row(what: str, value: float | None, aim: str, reached: bool | None) -> None:
        if value is not None:
            rows.append(f"| {what} | {value:.2f} | {aim} | {'yes' if reached else 'no'} |")

    def ratio(payload: str, connections: int, top: str, bottom: str, what: str) -> float | None:
        above, below = by.get((payload, connections, top)), by.get((payload, connections, bottom))
        return None if above is None or below is None else getattr(above, what) / getattr(below, what)

    value = ratio("one row", 64, "dukou", NGINX, "cpu_s")
    row("one row, 64 connections: CPU of dukou / nginx", value, "<= 1.8", value is not None and value <= 1.8)
    value = ratio("one row", 1, "dukou", NGINX, "p50_s")
    row("one row, 1 connection: p50 of dukou / nginx", value, "<= 1.5", value is not None and value <= 1.5)
    value = ratio("one row", 64, GUNICORN, "dukou", "cpu_s")
    row("one row, 64 connections: CPU of gunicorn + Flask / dukou", value, ">= 20", value is not None and value >= 20)
    value = ratio("1x3x224x224", 8, FLASK, "dukou", "cpu_s")
    row("1x3x224x224, 8 connections: CPU of Flask / dukou", value, ">= 5", value is not None and value >= 5)
    value = ratio("1x3x224x224", 1, FLASK, "dukou", "p50_s")
    row("1x3x224x224, 1 connection: p50 of Flask / dukou", value, ">= 5", value is not None and value >= 5)
    if "dukou" in start:
        ours = start["dukou"]
        row("start of a packed model to its first answer, s", ours.median_s, "<= 0.6", ours.median_s <= 0.6)
        row("resident memory of a worker, MB", ours.largest_mb, "<= 90", ours.largest_mb <= 90)
        row("PSS of the whole tree, MB", ours.pss_mb, "<= 150", ours.pss_mb <= 150)
    return ["## What we aim at", "", "| | measured | aim | reached |", "|---|---|---|---|", *rows, ""]


def load_tables(cells: list[Cell]) -> list[str]:
    lines = []
    for payload, connections in dict.fromkeys((cell.payload, cell.connections) for cell in cells):
        lines += [
            f"## {payload}, {connections} connection{'s' if connections > 1 else ''}",
            "",
            "| server | requests/s | p50 ms | p99 ms | CPU µs / request | errors |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {cell.server} | {cell.requests_per_s:,.0f} | {cell.p50_s * 1e3:.3f} | {cell.p99_s * 1e3:.2f} "
            f"| {cell.cpu_s * 1e6:,.1f} | {cell.errors} |"
            for cell in cells
            if (cell.payload, cell.connections) == (payload, connections)
        ]
        lines.append("")
    return lines


def start_table(starts: list[Start], cells: list[Cell]) -> list[str]:
    after = {cell.server: cell for cell in cells}
    lines = [
        "## Start and memory",
        "",
        "Seconds from starting the command to the first answer (dukou serves packed models). PSS of the process tree "
        "and resident size of its largest process, in MB: after the first answer, and after all the load above.",
        "",
        "| server | start s | (least, most) | PSS MB | largest MB | PSS MB under load | largest MB under load |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for item in starts:
        later = after.get(item.server)
        loaded = f"{later.pss_mb:.0f} | {later.largest_mb:.0f}" if later else "- | -"
        lines.append(
            f"| {item.server} | {item.median_s:.2f} | {item.least_s:.2f}, {item.most_s:.2f} "
            f"| {item.pss_mb:.0f} | {item.largest_mb:.0f} | {loaded} |"
        )
    return [*lines, ""]
