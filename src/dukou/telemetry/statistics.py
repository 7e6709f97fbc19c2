"""What each version has done, as the protocols' statistics calls tell it."""

from collections.abc import Mapping
from pathlib import Path

from dukou.core.statistics import BatchStatistics, Timing, VersionStatistics
from dukou.core.version import ModelVersion
from dukou.telemetry.totals import BlockTotals, Executions, read_totals


def read_statistics(folder: Path, blocks: Mapping[int, ModelVersion]) -> Mapping[ModelVersion, VersionStatistics]:
    """The statistics of the versions in `blocks`, of all workers together. Reads files: not for the loop.

    `folder` holds the workers' counters, and `blocks` says which version a block counts for.
    """
    totals = read_totals(folder, blocks)
    return {version: statistics_of(totals.blocks.get(block) or BlockTotals()) for block, version in blocks.items()}


def statistics_of(block: BlockTotals) -> VersionStatistics:
    """One version's counts, said as statistics.

    A request that was executed but whose answer could not be written has failed: the others' times are then taken to
    be the mean of all that were executed.
    """
    executed = block.executed
    answered = max(0, executed - block.unsaid)
    share = answered / executed if executed else 0.0
    latency_s, queue_s = block.latency.total, block.queue.total
    infer_s = latency_s - queue_s - block.input_s - block.output_s
    batch = block.batch

    def timing(seconds: float) -> Timing:
        return Timing(answered, _ns(seconds * share))

    return VersionStatistics(
        last_inference_ms=round(block.last_s * 1e3),
        inference_count=int(batch.total),
        execution_count=batch.count,
        success=timing(latency_s),
        fail=Timing(sum(block.errors.values()), _ns(block.error_s)),
        queue=timing(queue_s),
        compute_input=timing(block.input_s),
        compute_infer=timing(infer_s),
        compute_output=timing(block.output_s),
        batches=tuple([_batch(size, executions) for size, executions in sorted(block.sizes.items())]),
        failures={code.value: count for code, count in block.errors.items()},
    )


def _batch(size: int, executions: Executions) -> BatchStatistics:
    count = executions.count
    return BatchStatistics(
        size,
        compute_input=Timing(count, _ns(executions.input_s)),
        compute_infer=Timing(count, _ns(executions.infer_s)),
        compute_output=Timing(count, _ns(executions.output_s)),
    )


def _ns(seconds: float) -> int:
    """Nanoseconds; rounding may have left a sum of nothing just below zero."""
    return max(0, round(seconds * 1e9))
