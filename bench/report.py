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
GRPCIO = "grpcio, 8 threads, ModelInfer"
TRITON = "Triton, Python backend"
ROW, IMAGE = "one row", "1x3x224x224"
ONE, EIGHT, SIXTY_FOUR, STREAMS = "1 connection", "8 connections", "64 connections", "8 connections x 8 streams"


@dataclass(frozen=True)
class Goal:
    """A ratio that the project aims at: `what` of one row over that of another, at most or at least `aim`."""

    top: tuple[str, str, str]
    bottom: tuple[str, str, str]
    what: str
    aim: float
    most: bool = True

    def said(self) -> str:
        """One line; the other table is named where it is another."""
        said = {"cpu_s": "CPU", "p50_s": "p50"}[self.what]
        elsewhere = "" if self.top[:2] == self.bottom[:2] else f" ({self.bottom[1]})"
        return f"{self.top[0]}, {self.top[1]}: {said} of {self.top[2]} / {self.bottom[2]}{elsewhere}"


GOALS = (
    Goal((ROW, SIXTY_FOUR, "dukou"), (ROW, SIXTY_FOUR, NGINX), "cpu_s", 1.8),
    Goal((ROW, ONE, "dukou"), (ROW, ONE, NGINX), "p50_s", 1.5),
    Goal((ROW, SIXTY_FOUR, GUNICORN), (ROW, SIXTY_FOUR, "dukou"), "cpu_s", 20, most=False),
    Goal((IMAGE, EIGHT, FLASK), (IMAGE, EIGHT, "dukou"), "cpu_s", 5, most=False),
    Goal((IMAGE, ONE, FLASK), (IMAGE, ONE, "dukou"), "p50_s", 5, most=False),
    Goal((ROW, STREAMS, "dukou, ModelInfer"), (ROW, SIXTY_FOUR, NGINX), "cpu_s", 2.4),
    Goal((ROW, STREAMS, GRPCIO), (ROW, STREAMS, "dukou, ModelInfer"), "cpu_s", 8, most=False),
    Goal((ROW, STREAMS, "dukou, Predict"), (ROW, STREAMS, "dukou, ModelInfer"), "cpu_s", 1.3),
    Goal((ROW, SIXTY_FOUR, f"{TRITON}, OIP JSON"), (ROW, SIXTY_FOUR, "dukou, OIP JSON"), "cpu_s", 4, most=False),
    Goal((ROW, STREAMS, f"{TRITON}, ModelInfer"), (ROW, STREAMS, "dukou, ModelInfer"), "cpu_s", 4, most=False),
    Goal((IMAGE, EIGHT, "dukou, OIP JSON"), (IMAGE, EIGHT, "dukou, OIP binary"), "cpu_s", 2, most=False),
    Goal((IMAGE, EIGHT, "dukou, ModelInfer"), (IMAGE, EIGHT, GRPCIO), "cpu_s", 0.8),
    Goal((IMAGE, ONE, f"{TRITON}, OIP JSON"), (IMAGE, ONE, "dukou, OIP JSON"), "p50_s", 3, most=False),
)


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
    """One server under one payload and load; medians over the rounds."""

    payload: str
    load: str
    server: str
    process: str
    requests_per_s: float
    p50_s: float
    p99_s: float
    cpu_s: float
    errors: int
    pss_mb: float
    largest_mb: float


OF_CHANGES = "<!-- What follows is written by scripts/bench-changes. -->"


def write_report(starts: list[Start], cells: list[Cell], rounds: int, seconds: int, output: Path | None) -> None:
    """Print the tables, and write them to `output` if it is given."""
    text = "\n".join(
        [*heading(rounds, seconds), *goals(starts, cells), *load_tables(cells), *start_table(starts, cells)]
    )
    print(text)
    if output is not None:
        kept = output.read_text(encoding="utf-8").partition(OF_CHANGES)[1:] if output.exists() else ()
        output.write_text("\n".join((text, *filter(None, ["".join(kept)]))).rstrip() + "\n", encoding="utf-8")


def heading(rounds: int, seconds: int) -> list[str]:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in described if line.startswith("model name")), "?")
    names = (
        "dukou",
        "onnxruntime",
        "numpy",
        "uvloop",
        "httptools",
        "flask",
        "gunicorn",
        "uvicorn",
        "grpcio",
        "scikit-learn",
    )
    libraries = ", ".join(f"{name} {installed(name)}" for name in names)
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr.strip()
    return [
        "# Benchmark results",
        "",
        f"Written by `scripts/bench` on {datetime.now(UTC):%Y-%m-%d}. {cpu}, server on one core "
        "and the load on the other (wrk for HTTP/1.1, h2load for gRPC); "
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
    by = {(cell.payload, cell.load, cell.server): cell for cell in cells}
    start = {item.server: item for item in starts}
    rows = []

    def row(what: str, value: float | None, aim: str, reached: bool | None) -> None:
        if value is not None:
            rows.append(f"| {what} | {value:.2f} | {aim} | {'yes' if reached else 'no'} |")

    def ratio(top: tuple[str, str, str], bottom: tuple[str, str, str], what: str) -> float | None:
        above, below = by.get(top), by.get(bottom)
        return None if above is None or below is None else getattr(above, what) / getattr(below, what)

    for goal in GOALS:
        value = ratio(goal.top, goal.bottom, goal.what)
        reached = value is not None and (value <= goal.aim if goal.most else value >= goal.aim)
        row(goal.said(), value, f"{'<=' if goal.most else '>='} {goal.aim:g}", reached)
    binary = by.get((IMAGE, EIGHT, "dukou, OIP binary"))
    if binary is not None:
        row(f"{IMAGE}, {EIGHT}: CPU of dukou, OIP binary, µs", binary.cpu_s * 1e6, "<= 250", binary.cpu_s <= 250e-6)
    if "dukou" in start:
        ours = start["dukou"]
        row("start of a packed model to its first answer, s", ours.median_s, "<= 0.6", ours.median_s <= 0.6)
        row("resident memory of a worker, MB", ours.largest_mb, "<= 90", ours.largest_mb <= 90)
        row("PSS of the whole tree, MB", ours.pss_mb, "<= 150", ours.pss_mb <= 150)
    return ["## What we aim at", "", "| | measured | aim | reached |", "|---|---|---|---|", *rows, ""]


def load_tables(cells: list[Cell]) -> list[str]:
    """One table for each payload and load. nginx is the one over HTTP/1.1, with as many requests at once."""
    lines = []
    for payload, load in dict.fromkeys((cell.payload, cell.load) for cell in cells):
        nginx = {cell.load: cell.cpu_s for cell in cells if (cell.payload, cell.server) == (payload, NGINX)}
        unit = nginx.get(load) or nginx.get(SIXTY_FOUR)
        lines += [
            f"## {payload}, {load}",
            "",
            "| server | requests/s | p50 ms | p99 ms | CPU µs / request | x nginx | errors |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {cell.server} | {cell.requests_per_s:,.0f} | {cell.p50_s * 1e3:.3f} | {cell.p99_s * 1e3:.2f} "
            f"| {cell.cpu_s * 1e6:,.1f} | {f'{cell.cpu_s / unit:.1f}' if unit else '-'} | {cell.errors} |"
            for cell in cells
            if (cell.payload, cell.load) == (payload, load)
        ]
        lines.append("")
    return lines


def start_table(starts: list[Start], cells: list[Cell]) -> list[str]:
    after = {cell.process: cell for cell in cells}
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
