"""The metrics that dukou tells: their names, said once, and their Prometheus text.

The counts come from the workers' files, so any worker answers for all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from dukou.core.model import ModelManifest
from dukou.core.version import ModelVersion
from dukou.telemetry.counters import ROWS, SECONDS, BlockTotals, Histogram, Totals, read_all


class Metric(msgspec.Struct, frozen=True):
    """One metric as people look it up: `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


_VERSION = ("model", "version")

REQUESTS = Metric(
    "dukou_requests_total",
    "counter",
    _VERSION,
    "Calls that came to an end, answered or refused. Empty labels: no version was chosen, or HTTP refused the request.",
)
ERRORS = Metric("dukou_request_errors_total", "counter", (*_VERSION, "code"), "Calls that were refused, by code.")
DURATION = Metric(
    "dukou_request_duration_seconds",
    "histogram",
    _VERSION,
    "From a call's arrival to the end of the execution that answered it.",
)
QUEUE = Metric(
    "dukou_queue_duration_seconds",
    "histogram",
    _VERSION,
    "From a call's arrival to the start of the execution that answered it.",
)
BATCH_ROWS = Metric("dukou_batch_rows", "histogram", _VERSION, "Rows run together in one execution.")
EXECUTIONS = Metric("dukou_executions_total", "counter", _VERSION, "Executions of the model, each for one batch.")
EXECUTED_ROWS = Metric("dukou_rows_total", "counter", _VERSION, "Rows that the model has answered.")
MODEL_INFO = Metric(
    "dukou_model_info",
    "gauge",
    (*_VERSION, "runtime", "form"),
    "1 for each version served: by which runtime, and in which form (compiled or original).",
)
WORKERS = Metric("dukou_workers", "gauge", (), "Worker processes that are running.")
CPU = Metric("dukou_worker_cpu_seconds_total", "counter", ("worker",), "CPU time that a worker process has used.")
MEMORY = Metric("dukou_worker_resident_bytes", "gauge", ("worker",), "Memory that a worker process holds.")

METRICS = (
    *(REQUESTS, ERRORS, DURATION, QUEUE, BATCH_ROWS, EXECUTIONS, EXECUTED_ROWS),
    *(MODEL_INFO, WORKERS, CPU, MEMORY),
)
"""All metrics, in the order of the reference page."""


def render(folder: Path, blocks: Mapping[int, ModelVersion], manifests: Iterable[ModelManifest]) -> bytes:
    """All metrics as Prometheus text, format 0.0.4, in UTF-8.

    `folder` holds the workers' counters, `blocks` says which version a block counts for, and `manifests` are those of
    the versions served. Reads files and asks the system about processes: for a thread, not for the loop.
    """
    from prometheus_client import generate_latest  # 0.1 s to import, so not before somebody asks

    return generate_latest(_Collector(read_all(folder), blocks, manifests))


class _Collector:
    """What prometheus_client asks for the metrics, once."""

    def __init__(self, totals: Totals, blocks: Mapping[int, ModelVersion], manifests: Iterable[ModelManifest]) -> None:
        self._processes = _processes(totals.pids)
        self._manifests = manifests
        self._counted: list[tuple[tuple[str, str], BlockTotals]] = [
            ((version.name, str(version.version)), totals.blocks.get(block) or BlockTotals())
            for block, version in sorted(blocks.items())
        ]
        if nameless := totals.blocks.get(0):
            self._counted.append((("", ""), nameless))

    def collect(self) -> Iterator[Any]:
        counted = self._counted
        yield _family(REQUESTS, ((labels, block.requests) for labels, block in counted))
        yield _family(
            ERRORS, (((*labels, code.value), n) for labels, block in counted for code, n in block.errors.items())
        )
        served = [(labels, block) for labels, block in counted if labels[0]]
        yield _histogram(DURATION, SECONDS, [(labels, block.latency) for labels, block in served])
        yield _histogram(QUEUE, SECONDS, [(labels, block.queue) for labels, block in served])
        yield _histogram(BATCH_ROWS, ROWS, [(labels, block.batch) for labels, block in served])
        yield _family(EXECUTIONS, ((labels, block.batch.count) for labels, block in served))
        yield _family(EXECUTED_ROWS, ((labels, block.batch.total) for labels, block in served))
        yield _family(MODEL_INFO, ((_described(manifest), 1) for manifest in self._manifests))
        yield _family(WORKERS, [((), len(self._processes))])
        yield _family(CPU, (((str(slot),), cpu_s) for slot, (cpu_s, _) in self._processes.items()))
        yield _family(MEMORY, (((str(slot),), resident) for slot, (_, resident) in self._processes.items()))


def _described(manifest: ModelManifest) -> tuple[str, ...]:
    return (manifest.id.name, str(manifest.id.version), manifest.runtime, manifest.evidence.form)


def _family(metric: Metric, samples: Iterable[tuple[Sequence[str], float]]) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, bounds: Sequence[float], samples: Iterable[tuple[Sequence[str], Histogram]]) -> Any:
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    names = [*map(floatToGoString, bounds), "+Inf"]
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, histogram in samples:
        cumulative = accumulate(histogram.counts)
        family.add_metric(labels, list(zip(names, cumulative, strict=True)), histogram.total)
    return family


def _processes(pids: Mapping[int, int]) -> dict[int, tuple[float, int]]:
    """CPU seconds and resident bytes by slot, of those that are running."""
    import psutil

    running = {}
    for slot, pid in pids.items():
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                if process.status() != psutil.STATUS_ZOMBIE:
                    spent = process.cpu_times()
                    running[slot] = (spent.user + spent.system, process.memory_info().rss)
        except psutil.Error:
            continue  # it ended meanwhile
    return running
