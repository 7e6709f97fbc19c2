"""The statistics extension: what versions have done, in counts and nanoseconds."""

from collections.abc import Iterable
from typing import Any

import orjson

from dukou.core.statistics import BatchStatistics, Timing, VersionStatistics
from dukou.core.version import ModelVersion

_NONE = Timing()


def model_stats(entries: Iterable[tuple[ModelVersion, VersionStatistics]]) -> bytes:
    """The statistics of versions, in the order in which they come.

    No answer comes from a cache, so its counts are 0; there is nothing to tell of single responses and of memory.
    """
    return orjson.dumps({"model_stats": [_stats(version, statistics) for version, statistics in entries]})


def _stats(version: ModelVersion, said: VersionStatistics) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": str(version.version),
        "last_inference": said.last_inference_ms,
        "inference_count": said.inference_count,
        "execution_count": said.execution_count,
        "inference_stats": {
            "success": _timing(said.success),
            "fail": _timing(said.fail),
            "queue": _timing(said.queue),
            "compute_input": _timing(said.compute_input),
            "compute_infer": _timing(said.compute_infer),
            "compute_output": _timing(said.compute_output),
            "cache_hit": _timing(_NONE),
            "cache_miss": _timing(_NONE),
        },
        "response_stats": {},
        "batch_stats": [_batch(batch) for batch in said.batches],
        "memory_usage": [],
    }


def _batch(said: BatchStatistics) -> dict[str, Any]:
    return {
        "batch_size": said.batch_size,
        "compute_input": _timing(said.compute_input),
        "compute_infer": _timing(said.compute_infer),
        "compute_output": _timing(said.compute_output),
    }


def _timing(said: Timing) -> dict[str, int]:
    return {"count": said.count, "ns": said.ns}
