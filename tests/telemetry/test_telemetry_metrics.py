"""The Prometheus text, read back by Prometheus' own parser."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dukou.core.errors import Code
from dukou.core.event import BatchRan, RequestRefused
from dukou.core.model import Evidence, ModelManifest, ModelVersion
from dukou.telemetry.counters import Counters
from dukou.telemetry.metrics import METRICS, render

IRIS = ModelVersion("iris", 3)
WINE = ModelVersion('wi"ne', 1)
BLOCKS = {1: IRIS, 2: WINE}
MANIFEST = ModelManifest(1, IRIS, "onnx", "model.onnx", {}, {}, Evidence("compiled", "why"))


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """The counters of the only worker."""
    each = Counters(tmp_path, 0)
    each.assign({version: block for block, version in BLOCKS.items()})
    yield each
    each.close()


def scrape(folder: Path) -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """Every sample: its name, the values of its labels in the order of their names, its value."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(render(folder, BLOCKS, [MANIFEST]).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = (
                sample.value
            )
    return samples


def test_batches_and_refusals_show_as_counters_and_histograms(counters: Counters, tmp_path: Path) -> None:
    """Errors count as requests too, so that errors by requests is a share."""
    counters(BatchRan(IRIS, [9.5, 9.75], 10.0, 10.25, rows=6, inline=True))
    counters(RequestRefused(IRIS, Code.INTERNAL, 1.0, 2.0))

    samples = scrape(tmp_path)

    key = ("iris", "3")
    assert samples["dukou_requests_total"][key] == 3
    assert samples["dukou_request_errors_total"] == {("INTERNAL", "iris", "3"): 1}
    assert samples["dukou_executions_total"][key] == 1
    assert samples["dukou_rows_total"][key] == 6
    assert samples["dukou_request_duration_seconds_sum"][key] == 1.25
    assert samples["dukou_request_duration_seconds_count"][key] == 2
    assert samples["dukou_queue_duration_seconds_sum"][key] == 0.75
    assert samples["dukou_batch_rows_sum"][key] == 6


def test_buckets_are_cumulative_up_to_infinity(counters: Counters, tmp_path: Path) -> None:
    """What Prometheus' histogram_quantile needs."""
    counters(BatchRan(IRIS, [9.5, 9.75, -90.0], 10.0, 10.0, rows=3, inline=True))

    buckets = scrape(tmp_path)["dukou_request_duration_seconds_bucket"]

    assert [buckets[bound, "iris", "3"] for bound in ("5e-05", "0.1", "0.25", "0.5", "30.0", "+Inf")] == [
        *(0, 0, 1, 2, 2, 3)
    ]


def test_a_version_without_calls_shows_with_zeros(counters: Counters, tmp_path: Path) -> None:
    """A rate can only be taken of a counter that was there before its first call; any name is a label."""
    samples = scrape(tmp_path)

    assert samples["dukou_requests_total"] == {("iris", "3"): 0, ('wi"ne', "1"): 0}
    assert samples["dukou_request_duration_seconds_count"]['wi"ne', "1"] == 0


def test_calls_for_which_no_version_was_chosen_show_with_empty_labels(counters: Counters, tmp_path: Path) -> None:
    """Someone asking for what is not there is seen."""
    counters(RequestRefused(None, Code.NOT_FOUND, 1.0, 2.0))

    samples = scrape(tmp_path)

    assert samples["dukou_requests_total"]["", ""] == 1
    assert samples["dukou_request_errors_total"] == {("NOT_FOUND", "", ""): 1}
    assert ("", "") not in samples["dukou_executions_total"]


def test_the_model_and_the_workers_are_described(counters: Counters, tmp_path: Path) -> None:
    """What serves, and what it costs."""
    samples = scrape(tmp_path)

    assert samples["dukou_model_info"] == {("compiled", "iris", "onnx", "3"): 1}
    assert samples["dukou_workers"] == {(): 1}
    assert samples["dukou_worker_cpu_seconds_total"]["0",] > 0
    assert samples["dukou_worker_resident_bytes"]["0",] > 1_000_000


@pytest.mark.socket
def test_a_worker_that_has_ended_is_not_counted_as_running(counters: Counters, tmp_path: Path) -> None:
    """Its counts stay, its process is gone."""
    program = "import sys; from pathlib import Path; from dukou.telemetry.counters import Counters\n"
    program += "Counters(Path(sys.argv[1]), 1).close()"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=20, check=True)

    samples = scrape(tmp_path)

    assert samples["dukou_workers"] == {(): 1}
    assert set(samples["dukou_worker_resident_bytes"]) == {("0",)}


def test_the_table_of_metrics_is_what_is_told(counters: Counters, tmp_path: Path) -> None:
    """Names, kinds, help and labels in the table are those of the text."""
    counters(BatchRan(IRIS, [9.5], 10.0, 10.25, rows=1, inline=True))
    counters(RequestRefused(IRIS, Code.INTERNAL, 1.0, 2.0))

    text = render(tmp_path, BLOCKS, [MANIFEST]).decode()

    told = set()
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        told.add((name, family.type, family.documentation, frozenset(labels)))
    assert told == {(metric.name, metric.kind, metric.help, frozenset(metric.labels)) for metric in METRICS}


@pytest.mark.socket
def test_what_only_a_scrape_needs_is_imported_by_the_first_scrape() -> None:
    """A worker starts without it."""
    program = "import sys, dukou.telemetry.metrics; print({'prometheus_client', 'psutil'} & set(sys.modules))"

    said = subprocess.run([sys.executable, "-c", program], timeout=20, check=True, capture_output=True, text=True)

    assert said.stdout == "set()\n"
