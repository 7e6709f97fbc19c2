"""The Prometheus text, read back by Prometheus' own parser."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dukou.core.errors import Code
from dukou.core.event import BatchRan, CopiesSent, RequestRefused
from dukou.core.model import Evidence, ModelManifest, ModelVersion
from dukou.telemetry.counters import Counters
from dukou.telemetry.layout import SECONDS
from dukou.telemetry.metrics import METRICS, render
from dukou.telemetry.triton_metrics import TRITON_METRICS

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


def scrape(folder: Path, dialect: str = "") -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """Every sample: its name, the values of its labels in the order of their names, its value."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    text = render(folder, BLOCKS, [MANIFEST], dialect).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name if sample.name in text else sample.name.removesuffix("_total")  # which the parser adds
            samples.setdefault(name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
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

    cumulative = [buckets[f"{bound:g}", "iris", "3"] for bound in SECONDS] + [buckets["+Inf", "iris", "3"]]
    assert cumulative == [sum(wait <= bound for wait in (0.5, 0.25, 100.0)) for bound in SECONDS] + [3]


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


def test_copies_show_for_shadows_only(counters: Counters, tmp_path: Path) -> None:
    """What was sent and what was dropped; a version that was no shadow has neither."""
    counters(BatchRan(IRIS, [9.5], 10.0, 10.25, rows=1, inline=True))
    before = scrape(tmp_path)
    counters(CopiesSent(IRIS, 2, 1))
    after = scrape(tmp_path)

    assert "dukou_shadow_copies_total" not in before
    assert after["dukou_shadow_copies_total"] == {("iris", "3"): 2}
    assert after["dukou_shadow_copies_dropped_total"] == {("iris", "3"): 1}


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
    counters(CopiesSent(IRIS, 2, 1))

    text = render(tmp_path, BLOCKS, [MANIFEST]).decode()

    told = set()
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if f"# TYPE {family.name}_total" in text else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        told.add((name, family.type, family.documentation, frozenset(labels)))
    assert told == {
        (metric.name, metric.kind, metric.help, frozenset(metric.labels)) for metric in (*METRICS, *TRITON_METRICS)
    }


def test_tritons_dashboards_find_their_names_and_units(counters: Counters, tmp_path: Path) -> None:
    """Counts of requests, rows and executions; microseconds, which each request of a batch spent."""
    counters(BatchRan(IRIS, [9.5, 9.75], 10.0, 10.25, 6, True, 10.0625, 10.125))
    counters.sample({IRIS: 7})

    samples = scrape(tmp_path, "triton")

    key = ("iris", "3")
    assert {name: values[key] for name, values in samples.items() if name.startswith("nv_") and key in values} == {
        "nv_inference_request_success": 2,
        "nv_inference_count": 6,
        "nv_inference_exec_count": 1,
        "nv_inference_request_duration_us": 1_250_000,
        "nv_inference_queue_duration_us": 750_000,
        "nv_inference_compute_input_duration_us": 125_000,
        "nv_inference_compute_infer_duration_us": 125_000,
        "nv_inference_compute_output_duration_us": 250_000,
        "nv_inference_pending_request_count": 7,
    }
    assert 0 <= samples["nv_cpu_utilization"][()] <= 1
    assert 0 < samples["nv_cpu_memory_used_bytes"][()] <= samples["nv_cpu_memory_total_bytes"][()]


def test_failures_show_by_tritons_reasons(counters: Counters, tmp_path: Path) -> None:
    """Each Code has one of the four; those that did not occur show with zeros, as a rate needs."""
    for code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL, Code.INVALID_ARGUMENT):
        counters(RequestRefused(IRIS, code, 1.0, 2.0))

    failures = scrape(tmp_path, "triton")["nv_inference_request_failure"]

    reasons = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    assert [failures["iris", reason, "3"] for reason in reasons] == [2, 1, 1, 1]
    assert [failures['wi"ne', reason, "1"] for reason in reasons] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("dialect", "shown"), [("", True), ("triton", True), ("tensorflow-serving", False), ("kserve", False)]
)
def test_tritons_names_are_on_the_default_page_and_on_tritons(tmp_path: Path, dialect: str, shown: bool) -> None:
    """A dashboard moves with the address; who has chosen another dialect is not shown them."""
    text = render(tmp_path, BLOCKS, [MANIFEST], dialect).decode()

    assert ("nv_inference_count" in text) is shown
    assert "dukou_requests_total" in text


@pytest.mark.socket
def test_what_only_a_scrape_needs_is_imported_by_the_first_scrape() -> None:
    """A worker starts without it."""
    program = "import sys, dukou.telemetry.metrics; print({'psutil'} & set(sys.modules))"

    said = subprocess.run([sys.executable, "-c", program], timeout=20, check=True, capture_output=True, text=True)

    assert said.stdout == "set()\n"
