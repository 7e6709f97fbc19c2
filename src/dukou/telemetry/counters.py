"""Counts that outlive a worker: one memory-mapped file per worker slot, added up per batch, read by anyone.

A file is a header and MOST_BLOCKS blocks of equal size, sparse on disk. A block belongs to one version of one model for
the life of the server (the supervisor assigns its number); block 0 takes the calls for which no version was chosen. A
cell is 8 bytes, an unsigned integer or a float, and has one writer: the worker in that slot. A worker that takes the
place of a dead one goes on with its counts.

Every answered request is counted in two histograms and every execution in one, so totals are sums over buckets and no
cell is written twice for the same fact.
"""

import mmap
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path

import msgspec

from dukou.core.errors import Code
from dukou.core.event import BatchRan, Event, RequestRefused
from dukou.core.version import ModelVersion

SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the latency and queue buckets; one more bucket takes what is longer."""

ROWS = tuple(2**exponent for exponent in range(21))
"""Upper bounds of the batch size buckets, in rows; one more bucket takes what is larger."""

CODES = tuple(Code)
"""Errors are counted by Code, in this order."""

MOST_BLOCKS = 1024

# Cells of a block, in order. The layout number changes with anything here, so that a file of another layout is not
# taken for one of this.
_LAYOUT = 2
_LATENCY = 0
_QUEUE = _LATENCY + len(SECONDS) + 1
_BATCH = _QUEUE + len(SECONDS) + 1
_ERRORS = _BATCH + len(ROWS) + 1
_ROW_COUNT = _ERRORS + len(CODES)
_LATENCY_SUM = _ROW_COUNT + 1
_QUEUE_SUM = _LATENCY_SUM + 1
_UNSAID = _QUEUE_SUM + 1
_BLOCK_CELLS = _UNSAID + 1

_CELL_BYTES = 8
_HEADER_CELLS = 2  # layout number, process id
_CODE_CELL = {code: _ERRORS + index for index, code in enumerate(CODES)}
_NOTHING = bytes(_BLOCK_CELLS * _CELL_BYTES)
_FILE_BYTES = (_HEADER_CELLS + MOST_BLOCKS * _BLOCK_CELLS) * _CELL_BYTES
_PREFIX = "counters-"


class Histogram(msgspec.Struct):
    """How many values fell into each bucket (the last has no upper bound), and the sum of all values."""

    counts: list[int]
    total: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class BlockTotals(msgspec.Struct):
    """What was counted for one version.

    `latency` and `queue` are seconds, from a request's arrival to the end and to the start of its execution; `batch`
    are rows per execution. `errors` counts refused calls by Code; Codes that did not occur are left out. `unsaid` are
    those among them that had been executed, so `latency` has them too.
    """

    latency: Histogram = msgspec.field(default_factory=lambda: Histogram([0] * (len(SECONDS) + 1), 0.0))
    queue: Histogram = msgspec.field(default_factory=lambda: Histogram([0] * (len(SECONDS) + 1), 0.0))
    batch: Histogram = msgspec.field(default_factory=lambda: Histogram([0] * (len(ROWS) + 1), 0.0))
    errors: dict[Code, int] = {}
    unsaid: int = 0

    @property
    def requests(self) -> int:
        """Calls that came to an end, answered or refused."""
        return self.latency.count + sum(self.errors.values()) - self.unsaid


class Totals(msgspec.Struct):
    """The counts of all workers together by block, and the process id of each slot's worker (perhaps a dead one)."""

    blocks: dict[int, BlockTotals]
    pids: dict[int, int]


class Counters:
    """An Observer that adds to the file of one worker slot; it is told by one thread.

    `assign` says which block counts for a version; one without a block counts in block 0. Raises OSError when the file
    cannot be made.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self._map = _open(folder / f"{_PREFIX}{slot}")
        cells = memoryview(self._map)
        self._counts = cells.cast("Q")
        self._sums = cells.cast("d")
        self._counts[0] = _LAYOUT
        self._counts[1] = os.getpid()
        self._starts: dict[ModelVersion | None, int] = {}

    def assign(self, blocks: Mapping[ModelVersion, int]) -> None:
        """From now on, count these versions in these blocks. Those assigned before stay: a version that was unloaded
        may still answer its last batch.

        Raises ValueError for a block number outside 0..MOST_BLOCKS-1.
        """
        if wrong := [block for block in blocks.values() if not 0 <= block < MOST_BLOCKS]:
            raise ValueError(f"block {wrong[0]} is not within 0..{MOST_BLOCKS - 1}")
        self._starts |= {version: _start(block) for version, block in blocks.items()}

    def __call__(self, event: Event) -> None:
        """Count a batch or a refusal; other events are not counted."""
        if isinstance(event, BatchRan):
            self._count_batch(event)
        elif isinstance(event, RequestRefused):
            start = self._starts.get(event.version, _HEADER_CELLS)
            self._counts[start + _CODE_CELL[event.code]] += 1
            self._counts[start + _UNSAID] += event.executed

    def _count_batch(self, event: BatchRan) -> None:
        start = self._starts.get(event.version, _HEADER_CELLS)
        counts = self._counts
        sums = self._sums
        arrived = event.arrived_s
        rows = event.rows
        counts[start + _BATCH + bisect_left(ROWS, rows)] += 1
        counts[start + _ROW_COUNT] += rows
        if len(arrived) == 1:  # 1.0 µs; the way of many would take twice that
            latency_s = event.ended_s - arrived[0]
            queue_s = event.started_s - arrived[0]
            counts[start + _LATENCY + bisect_left(SECONDS, latency_s)] += 1
            counts[start + _QUEUE + bisect_left(SECONDS, queue_s)] += 1
            sums[start + _LATENCY_SUM] += latency_s
            sums[start + _QUEUE_SUM] += queue_s
            return
        oldest_first = sorted(arrived)
        arrived_sum = sum(arrived)
        sums[start + _LATENCY_SUM] += len(arrived) * event.ended_s - arrived_sum
        sums[start + _QUEUE_SUM] += len(arrived) * event.started_s - arrived_sum
        for bucket, count in spread(oldest_first, event.ended_s):
            counts[start + _LATENCY + bucket] += count
        for bucket, count in spread(oldest_first, event.started_s):
            counts[start + _QUEUE + bucket] += count

    def close(self) -> None:
        """Unmap the file; nothing can be counted any more."""
        self._counts.release()
        self._sums.release()
        self._map.close()


def spread(oldest_first: Sequence[float], until_s: float) -> Iterator[tuple[int, int]]:
    """How many of the spans from each time to `until_s` fall into which bucket of SECONDS: (bucket, count), ....

    The requests of a batch arrived within moments of each other, so they share a bucket or two: finding where a bucket
    ends among the sorted times costs less than finding the bucket of each time.
    """
    position = 0
    while position < len(oldest_first):
        bucket = bisect_left(SECONDS, until_s - oldest_first[position])
        if bucket == 0:
            after = len(oldest_first)
        else:
            after = bisect_left(oldest_first, until_s - SECONDS[bucket - 1], position + 1)
        yield bucket, after - position
        position = after


def clear(folder: Path) -> None:
    """Remove the counts of an earlier server, whose block numbers meant other versions."""
    for path in folder.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)


def read_all(folder: Path) -> Totals:
    """The counts of every slot's file in `folder`, added up. A file of another layout is left out.

    A worker may be counting meanwhile: each cell is right, two cells of one moment may differ by a batch.
    """
    totals = Totals({}, {})
    for path in sorted(folder.glob(f"{_PREFIX}*")):
        data = path.read_bytes()
        cells = memoryview(data)
        if len(data) != _FILE_BYTES or cells.cast("Q")[0] != _LAYOUT:
            continue
        totals.pids[int(path.name.removeprefix(_PREFIX))] = cells.cast("Q")[1]
        written = len(data.rstrip(b"\0")) - _start(0) * _CELL_BYTES
        for block in range(ceil(written / (_BLOCK_CELLS * _CELL_BYTES))):
            first = _start(block) * _CELL_BYTES
            piece = cells[first : first + _BLOCK_CELLS * _CELL_BYTES]
            if piece != _NOTHING:
                _add(totals.blocks, block, piece)
    return totals


def _add(blocks: dict[int, BlockTotals], block: int, piece: memoryview) -> None:
    counts = piece.cast("Q").tolist()
    sums = piece.cast("d")
    into = blocks.setdefault(block, BlockTotals())
    _add_histogram(into.latency, counts[_LATENCY:_QUEUE], sums[_LATENCY_SUM])
    _add_histogram(into.queue, counts[_QUEUE:_BATCH], sums[_QUEUE_SUM])
    _add_histogram(into.batch, counts[_BATCH:_ERRORS], counts[_ROW_COUNT])
    into.unsaid += counts[_UNSAID]
    for code, count in zip(CODES, counts[_ERRORS:_ROW_COUNT], strict=True):
        if count:
            into.errors[code] = into.errors.get(code, 0) + count


def _add_histogram(into: Histogram, counts: Sequence[int], total: float) -> None:
    into.counts = [a + b for a, b in zip(into.counts, counts, strict=True)]
    into.total += total


def _start(block: int) -> int:
    return _HEADER_CELLS + block * _BLOCK_CELLS


def _open(path: Path) -> mmap.mmap:
    with path.open("a+b") as file:
        file.seek(0)
        layout = int.from_bytes(file.read(_CELL_BYTES), sys.byteorder)
        if layout != _LAYOUT or file.seek(0, os.SEEK_END) != _FILE_BYTES:
            file.truncate(0)
            file.truncate(_FILE_BYTES)
        return mmap.mmap(file.fileno(), _FILE_BYTES)
