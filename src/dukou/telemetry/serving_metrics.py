"""The metrics that TensorFlow Serving's dashboards know, under its names. Times are microseconds."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from dukou.core.entry import ENTRIES
from dukou.core.errors import Code
from dukou.core.version import ModelVersion
from dukou.telemetry.exposition import IN_MICROSECONDS, Metric, Page
from dukou.telemetry.totals import Histogram, read_totals, times

REQUESTS = Metric(
    ":tensorflow:serving:request_count",
    "counter",
    ("model_name", "status"),
    "Calls that came to an end, by the name of their status. An empty model name: no version was chosen.",
)
LATENCY = Metric(
    ":tensorflow:serving:request_latency",
    "histogram",
    ("model_name", "API", "entrypoint"),
    "From arrival to the end of the execution, of answered calls.",
)
RUNTIME = Metric(
    ":tensorflow:serving:runtime_latency",
    "histogram",
    ("model_name", "API", "runtime"),
    "The execution that answered a call, joining and cutting included; counted once for each call.",
)
EXAMPLES = Metric(
    ":tensorflow:serving:request_example_count_total",
    "counter",
    ("model",),
    "Rows that the model has answered, by whichever call.",
)
SERVING_METRICS = (REQUESTS, LATENCY, RUNTIME, EXAMPLES)
"""All of them, in the order of the page."""

RUNTIME_NAME = "dukou"
_STATUSES = {Code.PAYLOAD_TOO_LARGE: "RESOURCE_EXHAUSTED"}  # the others have names that TensorFlow has too


def render_serving(folder: Path, blocks: Mapping[int, ModelVersion]) -> bytes:
    """The page of TensorFlow Serving's monitoring path: Prometheus text without HELP lines, in UTF-8.

    `folder` holds the workers' counters, and `blocks` says which version a block counts for; versions of one model are
    counted together. Reads files: not for the loop.
    """
    totals = read_totals(folder, {0, *blocks})
    requests: dict[tuple[str, ...], int] = defaultdict(int)
    latency: dict[tuple[str, ...], Histogram] = defaultdict(times)
    runtime: dict[tuple[str, ...], Histogram] = defaultdict(times)
    rows: dict[tuple[str, ...], int] = defaultdict(int)
    for number, block in totals.blocks.items():
        name = blocks[number].name if number in blocks else ""
        if block.executed:
            requests[name, "OK"] += max(0, block.executed - block.unsaid)
            rows[name,] += int(block.batch.total)
        for code, count in block.errors.items():
            requests[name, _STATUSES.get(code, code.value)] += count
        for index, entry in block.entries.items():
            kind = ENTRIES[index]
            _merge(latency[name, kind.api, kind.entrypoint], entry.latency)
            _merge(runtime[name, _in_title_case(kind.api), RUNTIME_NAME], entry.runtime)
    latencies = sorted(latency.items(), key=lambda item: item[0])
    runtimes = sorted(runtime.items(), key=lambda item: item[0])
    page = Page(helps=False)
    page.add(REQUESTS, sorted(requests.items()))
    page.add_histogram(LATENCY, IN_MICROSECONDS, latencies)
    page.add_histogram(RUNTIME, IN_MICROSECONDS, runtimes)
    page.add(EXAMPLES, sorted(rows.items()))
    return page.encode()


def _merge(into: Histogram, more: Histogram) -> None:
    into.add(more.counts, more.total)


def _in_title_case(api: str) -> str:
    """The runtime's name of an API: TensorFlow Serving tells `Predict` there for REST and gRPC alike."""
    return api[:1].upper() + api[1:]
