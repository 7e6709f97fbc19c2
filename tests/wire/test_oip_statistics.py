"""The statistics of versions as JSON."""

import json

from dukou.core.statistics import BatchStatistics, Timing, VersionStatistics
from dukou.core.version import ModelVersion
from dukou.wire.oip_statistics import model_stats

ZERO = {"count": 0, "ns": 0}


def test_counts_and_nanoseconds_have_their_places() -> None:
    """All of them numbers; the version is text."""
    said = VersionStatistics(
        last_inference_ms=1_700_000_000_123,
        inference_count=9,
        execution_count=2,
        success=Timing(3, 30),
        fail=Timing(1, 5),
        queue=Timing(4, 40),
        compute_input=Timing(2, 6),
        compute_infer=Timing(2, 8),
        compute_output=Timing(2, 10),
        batches=(BatchStatistics(4, Timing(1, 1), Timing(1, 2), Timing(1, 3)), BatchStatistics(5)),
    )

    (stats,) = json.loads(model_stats([(ModelVersion("m", 2), said)]))["model_stats"]

    assert stats == {
        "name": "m",
        "version": "2",
        "last_inference": 1_700_000_000_123,
        "inference_count": 9,
        "execution_count": 2,
        "inference_stats": {
            "success": {"count": 3, "ns": 30},
            "fail": {"count": 1, "ns": 5},
            "queue": {"count": 4, "ns": 40},
            "compute_input": {"count": 2, "ns": 6},
            "compute_infer": {"count": 2, "ns": 8},
            "compute_output": {"count": 2, "ns": 10},
            "cache_hit": ZERO,
            "cache_miss": ZERO,
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": 4,
                "compute_input": {"count": 1, "ns": 1},
                "compute_infer": {"count": 1, "ns": 2},
                "compute_output": {"count": 1, "ns": 3},
            },
            {"batch_size": 5, "compute_input": ZERO, "compute_infer": ZERO, "compute_output": ZERO},
        ],
        "memory_usage": [],
    }


def test_versions_come_in_their_order() -> None:
    """None at all is an empty list; numbers of 64 bits stay whole."""
    versions = [ModelVersion("b", 1), ModelVersion("a", 2)]

    said = json.loads(model_stats((version, VersionStatistics(inference_count=2**63)) for version in versions))

    assert [one["name"] for one in said["model_stats"]] == ["b", "a"]
    assert said["model_stats"][0]["inference_count"] == 2**63
    assert json.loads(model_stats([])) == {"model_stats": []}
