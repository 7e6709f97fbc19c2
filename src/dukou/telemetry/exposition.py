"""The Prometheus text format, version 0.0.4, written by hand: Triton's counters have no `_total` and TensorFlow
Serving's names begin with a colon, which the official client refuses to write."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec

from dukou.core.buckets import SECONDS
from dukou.telemetry.layout import ROWS
from dukou.telemetry.totals import Histogram

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Metric(msgspec.Struct, frozen=True):
    """One metric as people look it up: `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


class Buckets(msgspec.Struct, frozen=True):
    """The upper bounds of a histogram as the text has them, and how many of the page's units a value is."""

    bounds: tuple[str, ...]
    scale: float = 1.0


def buckets(bounds: Sequence[float], scale: float = 1.0) -> Buckets:
    """Buckets whose bounds are shown times `scale`, with six digits."""
    return Buckets((*(f"{bound * scale:g}" for bound in bounds), "+Inf"), scale)


IN_SECONDS = buckets(SECONDS)
IN_MICROSECONDS = buckets(SECONDS, 1e6)
IN_ROWS = buckets(ROWS)


class Page:
    """A page of metrics, written from top to bottom. With `helps`, each metric's meaning is told."""

    def __init__(self, helps: bool = True) -> None:
        self._helps = helps
        self._lines: list[str] = []

    def add(self, metric: Metric, samples: Iterable[tuple[Sequence[str], float]]) -> None:
        """A counter or gauge: the values of its labels and its own, for each sample."""
        self._head(metric)
        for values, number in samples:
            self._lines.append(f"{metric.name}{_braces(_labels(metric, values))} {_number(number)}")

    def add_histogram(self, metric: Metric, shown: Buckets, samples: Iterable[tuple[Sequence[str], Histogram]]) -> None:
        """A histogram: the values of its labels and its counts, for each sample."""
        self._head(metric)
        for values, histogram in samples:
            labels = _labels(metric, values)
            before = f"{metric.name}_bucket{{{labels}," if labels else f"{metric.name}_bucket{{"
            counts = list(accumulate(histogram.counts))
            for bound, count in zip(shown.bounds, counts, strict=True):
                self._lines.append(f'{before}le="{bound}"}} {count}')
            self._lines.append(f"{metric.name}_sum{_braces(labels)} {_number(histogram.total * shown.scale)}")
            self._lines.append(f"{metric.name}_count{_braces(labels)} {counts[-1]}")

    def encode(self) -> bytes:
        """The page so far, in UTF-8."""
        return "".join(f"{line}\n" for line in self._lines).encode("utf-8", "backslashreplace")

    def _head(self, metric: Metric) -> None:
        if self._helps:
            self._lines.append(f"# HELP {metric.name} {metric.help}")
        self._lines.append(f"# TYPE {metric.name} {metric.kind}")


def _labels(metric: Metric, values: Sequence[str]) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(metric.labels, values, strict=True))


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _number(number: float) -> str:
    """Whole numbers without a point: what is counted was counted one by one."""
    return str(int(number)) if number == int(number) else repr(number)
