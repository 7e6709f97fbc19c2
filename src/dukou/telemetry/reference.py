"""The reference page of the metrics, written from their table."""

from dukou.telemetry.metrics import METRICS, Metric

_INTRODUCTION = """\
# Metrics

<!-- Written from src/dukou/telemetry/metrics.py; change that and write this page again. -->

`GET /metrics` answers in the Prometheus text format. Every worker answers for all workers together, and a worker that
is replaced loses no counts; counts start from zero when the server starts. Times are seconds.

| Metric | Kind | Labels | Meaning |
|---|---|---|---|
"""


def reference() -> str:
    """The page as Markdown; `docs/reference/metrics.md` is this text."""
    return _INTRODUCTION + "".join(map(_row, METRICS))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"
