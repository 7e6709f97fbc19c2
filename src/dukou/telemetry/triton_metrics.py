"""The metrics that Triton's dashboards know, under its names. Times are whole microseconds."""

from collections.abc import Callable, Sequence

from dukou.core.errors import Code
from dukou.core.statistics import VersionStatistics
from dukou.core.version import ModelVersion
from dukou.telemetry.exposition import Metric, Page

_VERSION = ("model", "version")

SUCCESS = Metric("nv_inference_request_success", "counter", _VERSION, "Requests that were answered.")
FAILURE = Metric(
    "nv_inference_request_failure",
    "counter",
    ("model", "reason", "version"),
    "Requests that failed: REJECTED (no room, not in time), CANCELED, BACKEND (the model or server failed) or OTHER.",
)
COUNT = Metric("nv_inference_count", "counter", _VERSION, "Rows that the model has answered.")
EXECUTIONS = Metric("nv_inference_exec_count", "counter", _VERSION, "Executions of the model, each for one batch.")
DURATIONS: Sequence[tuple[Metric, Callable[[VersionStatistics], int]]] = (
    (
        Metric(
            "nv_inference_request_duration_us",
            "counter",
            _VERSION,
            "From arrival to the end of the execution, of all answered requests together.",
        ),
        lambda version: version.success.ns,
    ),
    (
        Metric(
            "nv_inference_queue_duration_us",
            "counter",
            _VERSION,
            "From arrival to the start of the execution, of all answered requests together.",
        ),
        lambda version: version.queue.ns,
    ),
    (
        Metric(
            "nv_inference_compute_input_duration_us",
            "counter",
            _VERSION,
            "Joining the inputs of a batch, once for each request in it.",
        ),
        lambda version: version.compute_input.ns,
    ),
    (
        Metric(
            "nv_inference_compute_infer_duration_us",
            "counter",
            _VERSION,
            "Running the model, once for each request in the batch.",
        ),
        lambda version: version.compute_infer.ns,
    ),
    (
        Metric(
            "nv_inference_compute_output_duration_us",
            "counter",
            _VERSION,
            "Cutting the outputs of a batch, once for each request in it.",
        ),
        lambda version: version.compute_output.ns,
    ),
)
PENDING = Metric(
    "nv_inference_pending_request_count",
    "gauge",
    _VERSION,
    "Requests that wait for their execution, as the workers saw it within the last second.",
)
CPU = Metric(
    "nv_cpu_utilization", "gauge", (), "Share of the machine's CPU time in use since the last time this was asked."
)
MEMORY_TOTAL = Metric("nv_cpu_memory_total_bytes", "gauge", (), "The machine's memory.")
MEMORY_USED = Metric("nv_cpu_memory_used_bytes", "gauge", (), "How much of the machine's memory is in use.")

TRITON_METRICS = (
    *(SUCCESS, FAILURE, COUNT, EXECUTIONS),
    *(metric for metric, _ in DURATIONS),
    *(PENDING, CPU, MEMORY_TOTAL, MEMORY_USED),
)
"""All of them, in the order of the page."""

REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_REASONS = {
    Code.RESOURCE_EXHAUSTED: "REJECTED",
    Code.UNAVAILABLE: "REJECTED",
    Code.DEADLINE_EXCEEDED: "REJECTED",
    Code.CANCELLED: "CANCELED",
    Code.INTERNAL: "BACKEND",
}


def write(page: Page, versions: Sequence[tuple[ModelVersion, VersionStatistics, int]]) -> None:
    """Add what each version has done, and how many of its requests wait now, and the machine's own figures."""
    import psutil

    labelled = [((version.name, str(version.version)), done, pending) for version, done, pending in versions]
    page.add(SUCCESS, ((labels, done.success.count) for labels, done, _ in labelled))
    page.add(
        FAILURE,
        (
            ((name, reason, number), count)
            for (name, number), done, _ in labelled
            for reason, count in _failures_by_reason(done).items()
        ),
    )
    page.add(COUNT, ((labels, done.inference_count) for labels, done, _ in labelled))
    page.add(EXECUTIONS, ((labels, done.execution_count) for labels, done, _ in labelled))
    for metric, ns_of in DURATIONS:
        page.add(metric, [(labels, ns_of(done) // 1000) for labels, done, _ in labelled])
    page.add(PENDING, ((labels, pending) for labels, _, pending in labelled))
    memory = psutil.virtual_memory()
    page.add(CPU, [((), psutil.cpu_percent() / 100)])
    page.add(MEMORY_TOTAL, [((), memory.total)])
    page.add(MEMORY_USED, [((), memory.total - memory.available)])


def _failures_by_reason(done: VersionStatistics) -> dict[str, int]:
    counts = dict.fromkeys(REASONS, 0)
    for name, count in done.failures.items():
        counts[_REASONS.get(Code(name), "OTHER")] += count
    return counts
