"""TensorFlow Serving's page, read back by Prometheus' own parser."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dukou.core.entry import entry
from dukou.core.errors import Code
from dukou.core.event import BatchRan, RequestRefused
from dukou.core.version import ModelVersion
from dukou.telemetry.counters import Counters
from dukou.telemetry.serving_metrics import SERVING_METRICS, render_serving

BLOCKS = {1: ModelVersion("half", 1), 2: ModelVersion("half", 123), 3: ModelVersion('wi"ne\\', 1)}
REST, GRPC = entry("predict", "REST"), entry("Predict", "GRPC")


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """The counters of the only worker."""
    each = Counters(tmp_path, 0)
    each.assign({version: block for block, version in BLOCKS.items()})
    yield each
    each.close()


def ran(version: ModelVersion, *entries: int, rows: int = 1) -> BatchRan:
    """A batch of requests that waited 0.5 s and ran 0.25 s."""
    return BatchRan(version, [9.5] * len(entries), 10.0, 10.25, rows, True, 10.0, 10.25, entries)


def scrape(folder: Path) -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """Every sample: its name, the values of its labels in the order of the page, its value."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    text = render_serving(folder, BLOCKS).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name if sample.name in text else sample.name.removesuffix("_total")  # which the parser adds
            samples.setdefault(name, {})[tuple(sample.labels.values())] = sample.value
    return samples


def test_calls_are_counted_by_model_and_status(counters: Counters, tmp_path: Path) -> None:
    """Versions of one model count together; statuses have the names that TensorFlow knows."""
    counters(ran(BLOCKS[1], REST, GRPC))
    counters(ran(BLOCKS[2], GRPC))
    for code in (Code.NOT_FOUND, Code.PAYLOAD_TOO_LARGE):
        counters(RequestRefused(None, code, 1.0, 2.0))
    counters(RequestRefused(BLOCKS[2], Code.INVALID_ARGUMENT, 1.0, 2.0))

    counted = scrape(tmp_path)[":tensorflow:serving:request_count"]

    assert counted == {
        ("", "NOT_FOUND"): 1,
        ("", "RESOURCE_EXHAUSTED"): 1,
        ("half", "OK"): 3,
        ("half", "INVALID_ARGUMENT"): 1,
    }


def test_latency_is_told_in_microseconds_by_api_and_entrypoint(counters: Counters, tmp_path: Path) -> None:
    """`predict` by REST, `Predict` by gRPC; the runtime says `Predict` for both."""
    counters(ran(BLOCKS[1], REST, GRPC, GRPC))

    samples = scrape(tmp_path)

    latency = ":tensorflow:serving:request_latency"
    assert samples[f"{latency}_count"] == {("half", "predict", "REST"): 1, ("half", "Predict", "GRPC"): 2}
    assert samples[f"{latency}_sum"] == {("half", "predict", "REST"): 750_000, ("half", "Predict", "GRPC"): 1_500_000}
    assert samples[":tensorflow:serving:runtime_latency_count"] == {("half", "Predict", "dukou"): 3}
    assert samples[":tensorflow:serving:runtime_latency_sum"] == {("half", "Predict", "dukou"): 750_000}


def test_buckets_are_those_of_tensorflow_serving(counters: Counters, tmp_path: Path) -> None:
    """33 bounds from 10 µs, each 1.8 times the last, in six digits: histograms of both servers can be added up."""
    counters(ran(BLOCKS[1], REST))

    buckets = scrape(tmp_path)[":tensorflow:serving:request_latency_bucket"]

    bounds = [labels[3] for labels in buckets]
    assert bounds[:6] == ["10", "18", "32.4", "58.32", "104.976", "188.957"]
    assert (len(bounds), bounds[20], bounds[32], bounds[33]) == (34, "1.27482e+06", "1.47476e+09", "+Inf")
    assert list(buckets.values()) == [0] * 20 + [1] * 14


def test_rows_are_told_as_examples(counters: Counters, tmp_path: Path) -> None:
    """Under the label name that this one metric has."""
    counters(ran(BLOCKS[3], REST, rows=5))

    assert scrape(tmp_path)[":tensorflow:serving:request_example_count_total"] == {('wi"ne\\',): 5}


def test_the_table_is_what_is_told(counters: Counters, tmp_path: Path) -> None:
    """Names and kinds in the order of the table; no HELP lines, as the original has none."""
    counters(ran(BLOCKS[1], REST))

    text = render_serving(tmp_path, BLOCKS).decode()

    assert re.findall("^# TYPE (.*) (.*)$", text, re.MULTILINE) == [
        (metric.name, metric.kind) for metric in SERVING_METRICS
    ]
    assert "# HELP" not in text


def test_a_server_that_was_never_called_has_an_empty_page(counters: Counters, tmp_path: Path) -> None:
    """As the original, which shows a model after its first call."""
    assert scrape(tmp_path) == {}
