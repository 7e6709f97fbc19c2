"""The metrics that dukou tells: their names, said once, and the page of them.

The counts come from the workers' files, so any worker answers for all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dukou.core.model import ModelManifest
from dukou.core.version import ModelVersion
from dukou.telemetry import triton_metrics
from dukou.telemetry.exposition import IN_ROWS, IN_SECONDS, Metric, Page
from dukou.telemetry.statistics import statistics_of
from dukou.telemetry.totals import BlockTotals, read_totals

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
BATCH_ROWS = Metric("dukou_batch_rows", "histogram", _VERSION, "Rows run together in one execution that answered.")
EXECUTIONS = Metric(
    "dukou_executions_total", "counter", _VERSION, "Executions of the model, each for one batch, failed ones too."
)
EXECUTED_ROWS = Metric("dukou_rows_total", "counter", _VERSION, "Rows that the model has answered.")
COPIES = Metric(
    "dukou_shadow_copies_total", "counter", _VERSION, "Copies of answered executions sent to the version as a shadow."
)
DROPPED = Metric(
    "dukou_shadow_copies_dropped_total",
    "counter",
    _VERSION,
    "Copies that were not sent, as the shadow was busy or away: they cost the primary nothing.",
)
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
    *(COPIES, DROPPED),
    *(MODEL_INFO, WORKERS, CPU, MEMORY),
)
"""All metrics, in the order of the reference page."""


def render(
    folder: Path, blocks: Mapping[int, ModelVersion], manifests: Iterable[ModelManifest], dialect: str = ""
) -> bytes:
    """All metrics as Prometheus text, format 0.0.4, in UTF-8.

    `folder` holds the workers' counters, `blocks` says which version a block counts for, and `manifests` are those of
    the versions served. The default dialect and Triton's have Triton's names too. Reads files and asks the system about
    processes: for a thread, not for the loop.
    """
    totals = read_totals(folder, {0, *blocks})
    served = [(version, totals.blocks.get(number) or BlockTotals()) for number, version in sorted(blocks.items())]
    page = Page()
    _write(page, served, totals.blocks.get(0), manifests)
    _write_processes(page, _processes(totals.pids))
    if dialect in ("", "triton"):
        triton_metrics.write(page, [(version, statistics_of(block), block.pending) for version, block in served])
    return page.encode()


def _write(
    page: Page,
    served: Sequence[tuple[ModelVersion, BlockTotals]],
    nameless: BlockTotals | None,
    manifests: Iterable[ModelManifest],
) -> None:
    counted = [((version.name, str(version.version)), block) for version, block in served]
    asked = counted if nameless is None else [*counted, (("", ""), nameless)]
    page.add(REQUESTS, ((labels, block.requests) for labels, block in asked))
    page.add(ERRORS, (((*labels, code.value), n) for labels, block in asked for code, n in block.errors.items()))
    page.add_histogram(DURATION, IN_SECONDS, ((labels, block.latency) for labels, block in counted))
    page.add_histogram(QUEUE, IN_SECONDS, ((labels, block.queue) for labels, block in counted))
    batches = [(labels, block.batch, block.failed_runs) for labels, block in counted]
    page.add_histogram(BATCH_ROWS, IN_ROWS, ((labels, batch) for labels, batch, _ in batches))
    page.add(EXECUTIONS, ((labels, batch.count + failed) for labels, batch, failed in batches))
    page.add(EXECUTED_ROWS, ((labels, batch.total) for labels, batch, _ in batches))
    shadows = [(labels, block) for labels, block in counted if block.copies_sent or block.copies_dropped]
    page.add(COPIES, ((labels, block.copies_sent) for labels, block in shadows))
    page.add(DROPPED, ((labels, block.copies_dropped) for labels, block in shadows))
    page.add(MODEL_INFO, ((_described(manifest), 1) for manifest in manifests))


def _write_processes(page: Page, running: Mapping[int, tuple[float, int]]) -> None:
    page.add(WORKERS, [((), len(running))])
    page.add(CPU, (((str(slot),), cpu_s) for slot, (cpu_s, _) in running.items()))
    page.add(MEMORY, (((str(slot),), resident) for slot, (_, resident) in running.items()))


def _described(manifest: ModelManifest) -> tuple[str, ...]:
    return (manifest.id.name, str(manifest.id.version), manifest.runtime, manifest.evidence.form)


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
