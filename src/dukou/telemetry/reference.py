"""The reference page of the metrics, written from their tables."""

from collections.abc import Sequence

from dukou.telemetry.exposition import Metric
from dukou.telemetry.metrics import METRICS
from dukou.telemetry.serving_metrics import SERVING_METRICS
from dukou.telemetry.triton_metrics import TRITON_METRICS

_INTRODUCTION = """\
# Metrics

<!-- Written from src/dukou/telemetry/*metrics.py; change those and write this page again. -->

`GET /metrics` answers in the Prometheus text format. Every worker answers for all workers together, and a worker that
is replaced loses no counts; counts start from zero when the server starts. Times are seconds. Histograms of times have
33 bounds, from 10 µs to 25 minutes, each 1.8 times the one before: those of TensorFlow Serving.

"""
_TRITON = """
## Triton's names

On the same page of a listener that speaks the default dialect or Triton's: dashboards made for Triton read it as it is.
Times are whole microseconds. Triton's `nv_cache_*` and `nv_gpu_*` are not there, as there is no response cache and no
GPU.

"""
_SERVING = """
## TensorFlow Serving's names

`GET /monitoring/prometheus/metrics` (the setting `telemetry.serving_metrics_path`) has these and no others. Times are
microseconds. `API` is the verb of the path for REST (`predict`) and the method for gRPC (`Predict`); calls of other
protocols are named by theirs, such as `infer` and `ModelInfer`.

"""


def reference() -> str:
    """The page as Markdown; `docs/reference/metrics.md` is this text."""
    return _INTRODUCTION + _table(METRICS) + _TRITON + _table(TRITON_METRICS) + _SERVING + _table(SERVING_METRICS)


def _table(metrics: Sequence[Metric]) -> str:
    head = "| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n"
    return head + "".join(map(_row, metrics))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"
