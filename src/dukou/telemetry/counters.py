"""Counts that outlive a worker: one memory-mapped file per worker slot, added up per batch, read by anyone.

A block of cells (`dukou.telemetry.layout`) belongs to one version of one model for the life of the server: the
supervisor assigns its number. Block 0 takes the calls for which no version was chosen. A cell has one writer, the
worker in that slot, and is written whole; a worker that takes the place of a dead one goes on with its counts.

No fact is written twice. Every execution is counted in the row of its batch size, which gives executions, rows and
batch sizes; every answered request in the histograms of the kind of call that it was, which give requests and times.
"""

import logging
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias
from zlib import crc32

from dukou.core.buckets import FINE_SECONDS, SECONDS
from dukou.core.clock import Clock, monotonic, wall
from dukou.core.errors import Code
from dukou.core.event import BatchRan, CopiesSent, Event, RequestRefused
from dukou.core.version import ModelVersion
from dukou.telemetry import layout
from dukou.telemetry.layout import MOST_BLOCKS, PREFIX, ROWS

_log = logging.getLogger("dukou")

_CODE_CELL = {code: layout.ERRORS + index for index, code in enumerate(layout.CODES)}

# As names of this module: they are read on the way of every batch, and an attribute of another module takes longer.
_RUNTIME, _LATENCY_SUM, _QUEUE_SUM = layout.RUNTIME, layout.LATENCY_SUM, layout.QUEUE_SUM
_ENTRY_CELLS, _QUEUE = layout.ENTRY_CELLS, layout.QUEUE
_INPUT_SUM, _OUTPUT_SUM, _LAST = layout.INPUT_SUM, layout.OUTPUT_SUM, layout.LAST

_CLOCK_SET_S = 0.5
"""A smaller step of the wall clock leaves past times where they are."""

_Block: TypeAlias = tuple[int, dict[int, int]]
"""A block in use: its first cell, and the cell of each batch size's row."""


class Counters:
    """An Observer that adds to the file of one worker slot; it is told by one thread.

    `assign` says which block counts for a version; one without a block counts in block 0. Raises OSError when the file
    cannot be made.
    """

    def __init__(self, folder: Path, slot: int, clock: Clock = monotonic, wall_clock: Clock = wall) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._path = folder / f"{PREFIX}{slot}"
        self._map = _open(self._path)
        self._cells = memoryview(self._map).cast("d")
        self._cells[layout.PID] = os.getpid()
        self._assigned: dict[ModelVersion, int] = {}
        self._begun: dict[int, _Block] = {}  # by number, those that anything was counted in
        self._blocks: dict[ModelVersion | None, _Block] = {}  # the same, by version
        for number in range(MOST_BLOCKS):
            if self._cells[layout.USED + number]:
                self._bury(layout.start_of(number))
        self._set_offset()

    def assign(self, blocks: Mapping[ModelVersion, int]) -> None:
        """From now on, count these versions in these blocks. Those assigned before stay: a version that was unloaded
        may still answer its last batch.

        Raises ValueError for a block number outside 0..MOST_BLOCKS-1.
        """
        if wrong := [block for block in blocks.values() if not 0 <= block < MOST_BLOCKS]:
            raise ValueError(f"block {wrong[0]} is not within 0..{MOST_BLOCKS - 1}")
        self._assigned |= blocks
        for version, block in blocks.items():
            self._blocks.pop(version, None)
            if block and self._cells[layout.USED + block] not in (0.0, _owner(version)):
                self._empty(block, version)

    def running(self, version: ModelVersion) -> Callable[[float], None]:
        """What is to be called with 1 before each execution of a version and with -1 after it: one that ends the worker
        is counted by its successor, as a single INTERNAL error, whoever else was lost with it."""
        start, _ = self._blocks.get(version) or self._begin(version)
        cells, at = self._cells, start + layout.RUNNING

        def mark(more: float) -> None:
            cells[at] += more

        return mark

    def rest(self) -> None:
        """Keep no pages of the file in memory until something is counted again: those of versions that are served no
        more would stay there. What was counted stays in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def sample(self, waiting: Mapping[ModelVersion, int]) -> None:
        """So many requests wait for their execution now. To be told every second or so."""
        self._set_offset()
        for version, count in waiting.items():
            if count or version in self._blocks:
                start, _ = self._blocks.get(version) or self._begin(version)
                self._cells[start + layout.PENDING] = count

    def _empty(self, block: int, owner: ModelVersion) -> None:
        """What another version has left in a block that is `owner`'s now is not told as its own."""
        start = layout.start_of(block) * layout.CELL_BYTES
        self._map[start : start + layout.BLOCK_BYTES] = bytes(layout.BLOCK_BYTES)
        self._cells[layout.USED + block] = 0
        self._begun.pop(block, None)
        for version in [each for each, at in self._assigned.items() if at == block and each != owner]:
            del self._assigned[version]
            self._blocks.pop(version, None)

    def _bury(self, start: int) -> None:
        """A dead worker's requests wait no more, and what it was running has failed."""
        cells = self._cells
        cells[start + layout.PENDING] = 0
        if cells[start + layout.RUNNING] > 0:
            cells[start + _CODE_CELL[Code.INTERNAL]] += cells[start + layout.RUNNING]
            cells[start + layout.CRASHES] += cells[start + layout.RUNNING]
        cells[start + layout.RUNNING] = 0

    def _set_offset(self) -> None:
        """Keep what a monotonic time needs to become Unix time; a clock that is set anew is noticed."""
        offset_s = self._wall_clock() - self._clock()
        if abs(offset_s - self._cells[layout.OFFSET]) > _CLOCK_SET_S:
            self._cells[layout.OFFSET] = offset_s

    def __call__(self, event: Event) -> None:
        """Count a batch, a refusal or copies; other events are not counted."""
        if isinstance(event, BatchRan):
            self._count_batch(event)
        elif isinstance(event, RequestRefused):
            start, _ = self._blocks.get(event.version) or self._begin(event.version)
            cells = self._cells
            cells[start + _CODE_CELL[event.code]] += 1
            cells[start + layout.ERROR_SUM] += event.ended_s - event.arrived_s
            cells[start + layout.UNSAID] += event.executed
        elif isinstance(event, CopiesSent):
            start, _ = self._blocks.get(event.version) or self._begin(event.version)
            self._cells[start + layout.COPIES_SENT] += event.sent
            self._cells[start + layout.COPIES_DROPPED] += event.dropped

    def _count_batch(self, event: BatchRan) -> None:
        """The way of every batch: 1.4 µs for one request, 2 µs more for several. Written out in one function, and with
        floats only, because each call costs 0.1 µs and each sum of unlike numbers 0.02 (bench/counters.py)."""
        try:
            start, sizes = self._blocks[event.version]
        except KeyError:
            start, sizes = self._begin(event.version)
        cells = self._cells
        arrived_s = event.arrived_s
        started_s, joined_s, inferred_s, ended_s = event.started_s, event.joined_s, event.inferred_s, event.ended_s
        cells[start + _LAST] = ended_s
        if inferred_s == 0.0:
            if not arrived_s:
                cells[start + layout.FAILED_RUNS] += 1.0
                return
            joined_s, inferred_s = started_s, ended_s  # nobody has looked when the model itself ran
        input_s = joined_s - started_s
        output_s = ended_s - inferred_s
        rows = event.rows
        try:
            row = sizes[rows]
        except KeyError:
            row = self._row(start, sizes, rows)
        cells[row] += 1.0
        cells[row + 1] += input_s
        cells[row + 2] += inferred_s - joined_s
        cells[row + 3] += output_s
        entries = event.entries
        if len(arrived_s) == 1:
            latency_s = ended_s - arrived_s[0]
            queue_s = started_s - arrived_s[0]
            entry = start + entries[0] * _ENTRY_CELLS if entries else start
            cells[entry + bisect_left(FINE_SECONDS, latency_s)] += 1.0
            cells[entry + _LATENCY_SUM] += latency_s
            cells[entry + _RUNTIME + bisect_left(SECONDS, ended_s - started_s)] += 1.0
            cells[entry + _QUEUE_SUM] += queue_s
            cells[start + _QUEUE + bisect_left(SECONDS, queue_s)] += 1.0
            return
        elif not entries or entries.count(entries[0]) == len(entries):
            self._count_requests(start, entries[0] if entries else 0, arrived_s, started_s, ended_s)
        else:
            groups: dict[int, list[float]] = {}
            for index, time_s in zip(entries, arrived_s, strict=True):
                groups.setdefault(index, []).append(time_s)
            for index, times_s in groups.items():
                self._count_requests(start, index, times_s, started_s, ended_s)
        others = len(arrived_s) - 1
        cells[start + _INPUT_SUM] += others * input_s
        cells[start + _OUTPUT_SUM] += others * output_s

    def _count_requests(
        self, start: int, index: int, arrived_s: Sequence[float], started_s: float, ended_s: float
    ) -> None:
        """Count several requests of one kind, which ran together."""
        if not arrived_s:
            return
        cells = self._cells
        entry = start + index * _ENTRY_CELLS
        oldest_first = sorted(arrived_s)
        arrived_sum = sum(arrived_s)
        spread(oldest_first, ended_s, FINE_SECONDS, cells, entry)
        cells[entry + _LATENCY_SUM] += len(arrived_s) * ended_s - arrived_sum
        cells[entry + _RUNTIME + bisect_left(SECONDS, ended_s - started_s)] += len(arrived_s)
        cells[entry + _QUEUE_SUM] += len(arrived_s) * started_s - arrived_sum
        spread(oldest_first, started_s, SECONDS, cells, start + _QUEUE)

    def _begin(self, version: ModelVersion | None) -> _Block:
        """The block of a version that nothing was counted for since this worker started."""
        number = 0 if version is None else self._assigned.get(version, 0)
        if number not in self._begun and not self._reserve(number):
            number = 0
        begun = self._begun.get(number)
        if begun is None:
            self._cells[layout.USED + number] = _owner(version) if number else 1
            begun = self._begun[number] = layout.start_of(number), self._sizes(layout.start_of(number))
        self._blocks[version] = begun
        return begun

    def _reserve(self, number: int) -> bool:
        """Whether the disk has room for a block."""
        try:
            with self._path.open("r+b") as file:
                _allocate(file, layout.start_of(number) * layout.CELL_BYTES, layout.BLOCK_BYTES)
        except OSError as error:
            _log.error("%s: there is no room to count a version by itself: %s", self._path, error.strerror or error)
            return False
        return True

    def _sizes(self, start: int) -> dict[int, int]:
        """The rows of a block that a worker before this one has begun."""
        sizes = {}
        for index in range(layout.MOST_SIZES):
            row = _row_cell(start, index)
            if not self._cells[row]:
                break
            sizes[int(self._cells[row - 1])] = row
        return sizes

    def _row(self, start: int, sizes: dict[int, int], rows: int) -> int:
        """The row of a batch size that comes first now, or, after MOST_SIZES others, the row of all the rest."""
        if len(sizes) < layout.MOST_SIZES:
            row = sizes[rows] = _row_cell(start, len(sizes))
            self._cells[row - 1] = rows
            return row
        self._cells[start + layout.OTHER_ROWS] += rows
        self._cells[start + layout.OTHER_BUCKETS + bisect_left(ROWS, rows)] += 1
        return start + layout.OTHER_SIZES

    def close(self) -> None:
        """Unmap the file; nothing can be counted any more."""
        self._cells.release()
        self._map.close()


def spread(
    oldest_first: Sequence[float], until_s: float, bounds: Sequence[float], cells: "memoryview[float]", first: int
) -> None:
    """Count the spans from each time to `until_s` in the buckets of `bounds`, whose cells begin at `first`.

    The requests of a batch arrived within moments of each other, so they share few buckets: finding where a bucket ends
    among the sorted times costs less than finding the bucket of each time.
    """
    bucket = bisect_left(bounds, until_s - oldest_first[0])
    count = len(oldest_first)
    position = 0
    while bucket:
        after = bisect_left(oldest_first, until_s - bounds[bucket - 1], position)
        if after > position:
            cells[first + bucket] += after - position
            if after == count:
                return
            position = after
        bucket -= 1
    cells[first] += count - position


def clear(folder: Path) -> None:
    """Remove the counts of an earlier server, whose block numbers meant other versions."""
    for path in folder.glob(f"{PREFIX}*"):
        path.unlink(missing_ok=True)


def _owner(version: ModelVersion | None) -> float:
    """What tells in the header whose block it is; never 0."""
    return 1.0 + crc32(str(version).encode())


def _row_cell(start: int, index: int) -> int:
    """The first count of a batch size's row; the size stands before it."""
    return start + layout.SIZES + index * layout.SIZE_CELLS + 1


def _allocate(file: BinaryIO, start: int, size: int) -> None:
    """Have the disk keep room for these bytes: a process that writes to a mapped page for which there is none is ended
    by SIGBUS. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, size)


def _open(path: Path) -> mmap.mmap:
    with path.open("a+b") as file:
        file.seek(0)
        head = file.read(layout.CELL_BYTES)
        if head != struct.pack("d", layout.LAYOUT) or file.seek(0, os.SEEK_END) != layout.FILE_BYTES:
            file.truncate(0)
            file.truncate(layout.FILE_BYTES)
            _allocate(file, 0, layout.start_of(1) * layout.CELL_BYTES)
        mapped = mmap.mmap(file.fileno(), layout.FILE_BYTES)
    mapped[: layout.CELL_BYTES] = struct.pack("d", layout.LAYOUT)
    return mapped
