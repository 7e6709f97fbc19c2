"""What all workers have counted, added up from their files."""

import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from dukou.core.buckets import coarse
from dukou.core.errors import Code
from dukou.telemetry import layout
from dukou.telemetry.layout import CODES, ROWS

_HEADER = struct.Struct(f"{layout.HEADER_CELLS}d")
_BLOCK = struct.Struct(f"{layout.BLOCK_CELLS}d")


class Histogram(msgspec.Struct):
    """How many values fell into each bucket (the last has no upper bound), and the sum of all values."""

    counts: list[int]
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def add(self, counts: Iterable[float], total: float) -> None:
        """Add as many values to each bucket, and their sum."""
        self.counts = [have + int(more) for have, more in zip(self.counts, counts, strict=True)]
        self.total += total


def times() -> Histogram:
    """An empty histogram of seconds."""
    return Histogram([0] * layout.TIME_BUCKETS)


class Executions(msgspec.Struct):
    """So many executions, and for how many seconds they joined inputs, ran the model and cut outputs."""

    count: int = 0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0

    def add(self, cells: Sequence[float]) -> None:
        """Add the cells of a row."""
        self.count += int(cells[layout.RUNS])
        self.input_s += cells[layout.INPUT]
        self.infer_s += cells[layout.INFER]
        self.output_s += cells[layout.OUTPUT]


class EntryTotals(msgspec.Struct):
    """Requests that came by one kind of call: seconds from arrival to the end of the execution that answered each (with
    `fine`, the same by FINE_SECONDS), and seconds of that execution."""

    fine: list[int] = msgspec.field(default_factory=lambda: [0] * layout.FINE_BUCKETS)
    latency: Histogram = msgspec.field(default_factory=times)
    runtime: Histogram = msgspec.field(default_factory=times)


class BlockTotals(msgspec.Struct):
    """What was counted for one version.

    `entries` are the answered requests by kind of call (an index into `dukou.core.entry.ENTRIES`). `queue` is their
    seconds from arrival to the start of the execution. `sizes` are the executions by rows, `other_sizes` those of sizes
    that came after the table was full, whose rows are in `other_rows`. `input_s` and `output_s` are what each answered
    request saw of joining and cutting, added up. `errors` counts refused requests by Code (those that did not occur
    are left out), which took `error_s` in all; `unsaid` are those among them that had been executed, so `entries` has
    them too. `failed_runs` are executions that answered nobody. `last_s` is the Unix time of the last execution.
    `pending` requests waited when a worker last looked. `copies_sent` went to it as a shadow, `copies_dropped` did not.
    `crashes` are executions, among the errors, during which a worker died.
    """

    entries: dict[int, EntryTotals] = {}
    queue: Histogram = msgspec.field(default_factory=times)
    sizes: dict[int, Executions] = {}
    other_sizes: Executions = msgspec.field(default_factory=Executions)
    other_rows: Histogram = msgspec.field(default_factory=lambda: Histogram([0] * layout.ROW_BUCKETS))
    input_s: float = 0.0
    output_s: float = 0.0
    errors: dict[Code, int] = {}
    error_s: float = 0.0
    unsaid: int = 0
    failed_runs: int = 0
    last_s: float = 0.0
    pending: int = 0
    copies_sent: int = 0
    copies_dropped: int = 0
    crashes: int = 0

    @property
    def latency(self) -> Histogram:
        """Seconds from arrival to the end of the execution, of all answered requests."""
        both = times()
        for entry in self.entries.values():
            both.add(entry.latency.counts, entry.latency.total)
        return both

    @property
    def fine(self) -> list[int]:
        """How many answered requests took how long, by FINE_SECONDS."""
        return [sum(counts) for counts in zip(*(entry.fine for entry in self.entries.values()), strict=True)]

    @property
    def batch(self) -> Histogram:
        """Rows per execution, of those that answered."""
        rows = Histogram(list(self.other_rows.counts), self.other_rows.total)
        for size, executions in self.sizes.items():
            rows.counts[bisect_left(ROWS, size)] += executions.count
            rows.total += size * executions.count
        return rows

    @property
    def requests(self) -> int:
        """Calls that came to an end, answered or refused."""
        return self.executed + sum(self.errors.values()) - self.unsaid

    @property
    def executed(self) -> int:
        """Requests that an execution has answered, whether or not the answer could be written."""
        return sum(entry.latency.count for entry in self.entries.values())


class Totals(msgspec.Struct):
    """The counts of all workers together by block, and the process id of each slot's worker (perhaps a dead one)."""

    blocks: dict[int, BlockTotals]
    pids: dict[int, int]


def read_totals(folder: Path, blocks: Iterable[int]) -> Totals:
    """The counts of `blocks` in every slot's file in `folder`, added up; blocks without counts are left out.

    A file of another layout is left out. A worker may be counting meanwhile: each cell is right, two cells of one
    moment may differ by a batch.
    """
    wanted = sorted(set(blocks))
    totals = Totals({}, {})
    for path in sorted(folder.glob(f"{layout.PREFIX}*")):
        try:
            with path.open("rb") as file:
                _read(file.fileno(), int(path.name.removeprefix(layout.PREFIX)), wanted, totals)
        except FileNotFoundError:  # an earlier server's, cleared away meanwhile
            continue
    return totals


def _read(descriptor: int, slot: int, wanted: Iterable[int], totals: Totals) -> None:
    head = os.pread(descriptor, _HEADER.size, 0)
    if os.fstat(descriptor).st_size != layout.FILE_BYTES or len(head) != _HEADER.size:
        return
    header = _HEADER.unpack(head)
    if header[0] != layout.LAYOUT:
        return
    totals.pids[slot] = int(header[layout.PID])
    for number in wanted:
        if header[layout.USED + number]:
            data = os.pread(descriptor, _BLOCK.size, layout.start_of(number) * layout.CELL_BYTES)
            if len(data) == _BLOCK.size:
                into = totals.blocks.setdefault(number, BlockTotals())
                _add(into, _BLOCK.unpack(data), header[layout.OFFSET])


def _add(into: BlockTotals, cells: tuple[float, ...], offset_s: float) -> None:
    for index in range(layout.QUEUE // layout.ENTRY_CELLS):
        _add_entry(into, index, cells[index * layout.ENTRY_CELLS : (index + 1) * layout.ENTRY_CELLS])
    queue_s = sum(cells[layout.QUEUE_SUM : layout.QUEUE : layout.ENTRY_CELLS])
    into.queue.add(cells[layout.QUEUE : layout.QUEUE + layout.TIME_BUCKETS], queue_s)
    into.input_s += cells[layout.INPUT_SUM]
    into.output_s += cells[layout.OUTPUT_SUM]
    for row in range(layout.SIZES, layout.OTHER_SIZES, layout.SIZE_CELLS):
        if not cells[row + 1]:
            break
        executions = into.sizes.setdefault(int(cells[row]), Executions())
        executions.add(cells[row + 1 : row + layout.SIZE_CELLS])
        into.input_s += cells[row + 1 + layout.INPUT]
        into.output_s += cells[row + 1 + layout.OUTPUT]
    other = cells[layout.OTHER_SIZES : layout.OTHER_ROWS]
    into.other_sizes.add(other)
    into.input_s += other[layout.INPUT]
    into.output_s += other[layout.OUTPUT]
    into.other_rows.add(cells[layout.OTHER_BUCKETS :], cells[layout.OTHER_ROWS])
    for code, count in zip(CODES, cells[layout.ERRORS : layout.ERROR_SUM], strict=True):
        if count:
            into.errors[code] = into.errors.get(code, 0) + int(count)
    into.error_s += cells[layout.ERROR_SUM]
    into.unsaid += int(cells[layout.UNSAID])
    into.failed_runs += int(cells[layout.FAILED_RUNS])
    into.pending += int(cells[layout.PENDING])
    into.copies_sent += int(cells[layout.COPIES_SENT])
    into.copies_dropped += int(cells[layout.COPIES_DROPPED])
    into.crashes += int(cells[layout.CRASHES])
    if cells[layout.LAST]:
        into.last_s = max(into.last_s, cells[layout.LAST] + offset_s)


def _add_entry(into: BlockTotals, index: int, cells: tuple[float, ...]) -> None:
    latency = cells[layout.LATENCY : layout.RUNTIME]
    if not any(latency):
        return
    entry = into.entries.setdefault(index, EntryTotals())
    entry.fine = [have + int(more) for have, more in zip(entry.fine, latency, strict=True)]
    entry.latency.add(coarse(latency), cells[layout.LATENCY_SUM])
    runtime_s = cells[layout.LATENCY_SUM] - cells[layout.QUEUE_SUM]
    entry.runtime.add(cells[layout.RUNTIME : layout.LATENCY_SUM], runtime_s)
