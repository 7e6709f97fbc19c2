"""Counting: every fact ends in the right bucket of the right block, and outlives the process that counted it."""

import math
import os
import struct
import subprocess
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.buckets import FINE_SECONDS, SECONDS
from dukou.core.entry import ENTRIES, entry
from dukou.core.errors import Code
from dukou.core.event import BatchRan, CopiesSent, RequestLogged, RequestRefused
from dukou.core.version import ModelVersion
from dukou.telemetry import layout
from dukou.telemetry.counters import Counters, clear, spread
from dukou.telemetry.layout import MOST_BLOCKS, MOST_SIZES, ROWS
from dukou.telemetry.totals import Executions, Totals, read_totals
from dukou.testing.clock import HandClock

IRIS = ModelVersion("iris", 1)
WINE = ModelVersion("wine", 2)
BLOCKS = {IRIS: 1, WINE: MOST_BLOCKS - 1}
EVERY = range(MOST_BLOCKS)
PREDICT, MODEL_INFER = entry("predict", "REST"), entry("ModelInfer", "GRPC")


def batch(
    version: ModelVersion = IRIS,
    waits_s: tuple[float, ...] = (0.5,),
    run_s: float = 0.25,
    rows: int = 1,
    entries: tuple[int, ...] = (),
) -> BatchRan:
    """A batch whose requests had waited so long when it started at t=1000. Sums of powers of two are exact.

    Joining took a quarter of the execution, cutting a half.
    """
    arrived_s = [1000.0 - wait for wait in waits_s]
    joined_s, inferred_s = 1000.0 + run_s / 4, 1000.0 + run_s / 2
    return BatchRan(version, arrived_s, 1000.0, 1000.0 + run_s, rows, True, joined_s, inferred_s, entries)


FAILED = BatchRan(IRIS, (), 1000.0, 1000.5, 3, True)


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """The counters of slot 0."""
    each = Counters(tmp_path, 0)
    each.assign(BLOCKS)
    yield each
    each.close()


def bound(seconds: float) -> float:
    """The upper bound of the bucket that takes `seconds`."""
    return min(each for each in SECONDS if each >= seconds)


def nonzero(counts: list[int], bounds: tuple[float, ...]) -> dict[float, int]:
    """Filled buckets by their upper bound."""
    return {bound: count for bound, count in zip((*bounds, math.inf), counts, strict=True) if count}


def test_a_batch_counts_its_requests_rows_and_times(counters: Counters, tmp_path: Path) -> None:
    """Latency runs from arrival to the end, queueing from arrival to the start; rows belong to the execution."""
    counters(batch(waits_s=(0.5, 0.25, 0.03125), run_s=0.25, rows=6))

    iris = read_totals(tmp_path, EVERY).blocks[1]
    assert nonzero(iris.latency.counts, SECONDS) == {bound(0.75): 1, bound(0.5): 1, bound(0.28125): 1}
    assert nonzero(iris.queue.counts, SECONDS) == {bound(0.5): 1, bound(0.25): 1, bound(0.03125): 1}
    assert nonzero(iris.batch.counts, ROWS) == {8: 1}
    assert (iris.latency.total, iris.queue.total, iris.batch.total) == (1.53125, 0.78125, 6)
    assert (iris.latency.count, iris.batch.count, iris.requests) == (3, 1, 3)


def test_a_single_request_is_counted_like_a_batch(counters: Counters, tmp_path: Path) -> None:
    """The shorter way for one request gives what the way for many gives."""
    for _ in range(2):
        counters(batch(IRIS, waits_s=(0.5,), rows=2, entries=(PREDICT,)))
    counters(batch(WINE, waits_s=(0.5, 0.5), rows=2, entries=(PREDICT, PREDICT)))

    blocks = read_totals(tmp_path, EVERY).blocks
    iris, wine = blocks[1], blocks[MOST_BLOCKS - 1]
    assert (iris.entries, iris.queue) == (wine.entries, wine.queue)
    assert (iris.input_s, iris.output_s) == (wine.input_s, wine.output_s) == (0.125, 0.25)
    assert (iris.batch.count, wine.batch.count) == (2, 1)


def test_each_batch_size_has_its_executions_and_their_times(counters: Counters, tmp_path: Path) -> None:
    """Sizes are exact, not buckets, and those times belong to executions, however many requests they answered."""
    for rows in (1, 7, 1, 4096):
        counters(batch(rows=rows, run_s=0.25))
    counters(batch(rows=7, waits_s=(0.5, 0.25), run_s=0.5))

    iris = read_totals(tmp_path, EVERY).blocks[1]

    assert iris.sizes == {
        1: Executions(2, 0.125, 0.125, 0.25),
        7: Executions(2, 0.1875, 0.1875, 0.375),
        4096: Executions(1, 0.0625, 0.0625, 0.125),
    }
    assert iris.batch.total == 4112


def test_sizes_beyond_the_table_are_in_the_totals_only(counters: Counters, tmp_path: Path) -> None:
    """The first sizes keep their rows; the file is bounded whatever callers send."""
    for rows in range(1, MOST_SIZES + 11):
        counters(batch(rows=rows))
    counters(batch(rows=1))

    iris = read_totals(tmp_path, EVERY).blocks[1]

    assert set(iris.sizes) == set(range(1, MOST_SIZES + 1))
    assert iris.other_sizes == Executions(10, 0.625, 0.625, 1.25)
    assert iris.batch.count == iris.latency.count == MOST_SIZES + 11
    assert iris.batch.total == sum(range(1, MOST_SIZES + 11)) + 1
    assert iris.input_s == (MOST_SIZES + 11) * 0.0625


def test_a_failed_execution_answers_nobody(counters: Counters, tmp_path: Path) -> None:
    """It is no execution of its batch size, and took no part in any answer."""
    counters(FAILED)

    iris = read_totals(tmp_path, EVERY).blocks[1]
    assert (iris.failed_runs, iris.sizes, iris.batch.count, iris.executed) == (1, {}, 0, 0)


def test_copies_are_counted_for_the_shadow(counters: Counters, tmp_path: Path) -> None:
    """Those that went out and those that were dropped; the shadow has answered no caller by them."""
    counters(CopiesSent(WINE, sent=3, dropped=2))
    counters(CopiesSent(WINE, sent=1, dropped=0))

    wine = read_totals(tmp_path, EVERY).blocks[MOST_BLOCKS - 1]
    assert (wine.copies_sent, wine.copies_dropped, wine.requests) == (4, 2, 0)


def test_an_execution_whose_callers_have_gone_is_one(counters: Counters, tmp_path: Path) -> None:
    """The model ran and its rows count; nobody's time does."""
    counters(batch(waits_s=(), rows=5))

    iris = read_totals(tmp_path, EVERY).blocks[1]
    assert (iris.failed_runs, iris.batch.count, iris.batch.total, iris.executed) == (0, 1, 5, 0)
    assert (iris.input_s, iris.output_s, iris.latency.total) == (0.0, 0.0, 0.0)


def test_requests_are_counted_by_the_call_they_came_by(counters: Counters, tmp_path: Path) -> None:
    """A batch may hold requests of several protocols."""
    counters(batch(waits_s=(0.5,), entries=(PREDICT,)))
    counters(batch(waits_s=(0.5, 0.25), rows=2, entries=(MODEL_INFER, MODEL_INFER)))
    counters(batch(waits_s=(0.5, 0.25, 0.125), rows=3, entries=(MODEL_INFER, PREDICT, MODEL_INFER)))

    iris = read_totals(tmp_path, EVERY).blocks[1]

    assert {index: each.latency.count for index, each in iris.entries.items()} == {PREDICT: 2, MODEL_INFER: 4}
    assert iris.entries[PREDICT].latency.total == 0.75 + 0.5
    assert iris.entries[MODEL_INFER].latency.total == 0.75 + 0.5 + 0.75 + 0.375
    assert nonzero(iris.entries[MODEL_INFER].runtime.counts, SECONDS) == {bound(0.25): 4}
    assert iris.entries[MODEL_INFER].runtime.total == 1.0
    assert iris.queue.count == 6


def test_every_kind_of_call_has_its_own_cells(counters: Counters, tmp_path: Path) -> None:
    """No two kinds share a count, and none runs into what stands behind."""
    for index in range(len(ENTRIES)):
        for _ in range(index + 1):
            counters(batch(waits_s=(2000.0,), run_s=3000.0, entries=(index,)))

    iris = read_totals(tmp_path, EVERY).blocks[1]

    assert {index: each.latency.count for index, each in iris.entries.items()} == {
        index: index + 1 for index in range(len(ENTRIES))
    }
    assert nonzero(iris.queue.counts, SECONDS) == {math.inf: iris.executed}


def test_the_last_execution_is_told_in_unix_time(tmp_path: Path) -> None:
    """Whoever reads, and whenever: the offset between the clocks is the counting worker's."""
    counters = Counters(tmp_path, 0, HandClock(400.0), HandClock(1_000_000.0))
    counters(batch(run_s=0.5))
    counters.close()

    assert read_totals(tmp_path, [0]).blocks[0].last_s == 1_000_000.0 + 600.5


def test_a_wall_clock_that_is_set_anew_is_followed(tmp_path: Path) -> None:
    """A machine that finds the time of day after its start does not tell 1970 for ever; a small step is no step."""
    wall_clock = HandClock(50.0)
    counters = Counters(tmp_path, 0, HandClock(400.0), wall_clock)
    counters(batch(run_s=0.5))
    for step_s in (1_000_000.0, 0.25):
        wall_clock.advance(step_s)
        counters.sample({})
    counters.close()

    assert read_totals(tmp_path, [0]).blocks[0].last_s == 1_000_050.0 + 600.5


def test_waiting_requests_are_a_gauge(counters: Counters, tmp_path: Path) -> None:
    """Told anew it replaces what was told before; the workers' figures are added up."""
    other = Counters(tmp_path, 1)
    other.assign(BLOCKS)
    other.sample({IRIS: 4})
    for count in (3, 2):
        counters.sample({IRIS: count, WINE: 0})

    totals = read_totals(tmp_path, EVERY)
    other.close()

    assert {number: block.pending for number, block in totals.blocks.items()} == {1: 6}


def test_the_requests_that_waited_for_a_dead_worker_wait_no_more(counters: Counters, tmp_path: Path) -> None:
    """Its successor begins without them."""
    counters.sample({IRIS: 4})

    Counters(tmp_path, 0).close()

    assert read_totals(tmp_path, EVERY).blocks[1].pending == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_block_that_is_given_to_another_version_begins_anew(tmp_path: Path, restarted: bool) -> None:
    """Also when the worker that counted there has gone; what the version before still answers is nobody's."""
    counters = Counters(tmp_path, 0)
    counters.assign({IRIS: 1})
    counters(batch(IRIS, rows=1))
    if restarted:
        counters.close()
        counters = Counters(tmp_path, 0)

    counters.assign({WINE: 1})
    left = read_totals(tmp_path, EVERY).blocks
    counters(batch(WINE, rows=2))
    counters(batch(IRIS, rows=3))
    blocks = read_totals(tmp_path, EVERY).blocks
    counters.close()

    assert left == {}
    assert set(blocks[1].sizes) == {2}
    assert set(blocks[0].sizes) == {3}


def test_what_a_dead_worker_was_running_has_failed(counters: Counters, tmp_path: Path) -> None:
    """Its successor counts one error, once; what had ended before is none."""
    mark = counters.running(IRIS)
    for more in (1, -1, 1):
        mark(more)
    alive = read_totals(tmp_path, EVERY).blocks[1].errors

    for _ in range(2):
        Counters(tmp_path, 0).close()

    assert alive == {}
    dead = read_totals(tmp_path, EVERY).blocks[1]
    assert (dead.errors, dead.crashes) == ({Code.INTERNAL: 1}, 1)


def test_versions_that_share_a_block_share_its_sizes(counters: Counters, tmp_path: Path) -> None:
    """Two versions without a block of their own never write over each other's rows."""
    for version, rows in ((ModelVersion("a", 1), 1), (ModelVersion("b", 1), 2), (ModelVersion("a", 1), 3)):
        counters(batch(version, rows=rows))

    assert set(read_totals(tmp_path, EVERY).blocks[0].sizes) == {1, 2, 3}


def test_a_version_that_gets_its_block_later_counts_there_from_then_on(tmp_path: Path) -> None:
    """What was counted before stays nobody's."""
    counters = Counters(tmp_path, 0)
    counters(batch(IRIS))
    counters.assign(BLOCKS)
    counters(batch(IRIS))
    counters.close()

    blocks = read_totals(tmp_path, EVERY).blocks
    assert {number: block.executed for number, block in blocks.items()} == {0: 1, 1: 1}


def test_refusals_are_counted_by_code_and_without_a_version_in_block_0(counters: Counters, tmp_path: Path) -> None:
    """A call that named no served model still shows; a version without a block counts there too."""
    stranger = ModelVersion("stranger", 1)
    for version, code in [
        (IRIS, Code.INTERNAL),
        (IRIS, Code.INTERNAL),
        (None, Code.NOT_FOUND),
        (stranger, Code.ABORTED),
    ]:
        counters(RequestRefused(version, code, 1.0, 2.0))

    blocks = read_totals(tmp_path, EVERY).blocks
    assert blocks[1].errors == {Code.INTERNAL: 2}
    assert blocks[0].errors == {Code.NOT_FOUND: 1, Code.ABORTED: 1}
    assert blocks[1].requests == 2
    assert (blocks[0].error_s, blocks[1].error_s) == (2.0, 2.0)


def test_an_answer_that_could_not_be_said_is_one_request(counters: Counters, tmp_path: Path) -> None:
    """Its execution is counted and so is its error, but it came once."""
    counters(batch(IRIS, waits_s=(0.5, 0.5)))
    counters(RequestRefused(IRIS, Code.UNIMPLEMENTED, 1.0, 2.0, executed=True))

    iris = read_totals(tmp_path, EVERY).blocks[1]
    assert (iris.requests, iris.latency.count, iris.errors) == (2, 2, {Code.UNIMPLEMENTED: 1})


def test_a_version_that_is_assigned_no_more_is_counted_to_its_end(counters: Counters, tmp_path: Path) -> None:
    """The last batches of an unloaded version are its own, not nobody's."""
    counters.assign({WINE: 2})

    counters(batch(IRIS))

    assert set(read_totals(tmp_path, EVERY).blocks) == {1}


def test_every_code_has_its_own_cell(counters: Counters, tmp_path: Path) -> None:
    """No two Codes share a count."""
    for times, code in enumerate(Code, start=1):
        for _ in range(times):
            counters(RequestRefused(IRIS, code, 1.0, 2.0))

    assert read_totals(tmp_path, EVERY).blocks[1].errors == {code: times for times, code in enumerate(Code, start=1)}


def test_other_events_are_not_counted(counters: Counters, tmp_path: Path) -> None:
    """An Observer is told everything and takes what is its own."""
    counters(RequestLogged("id", "peer", "GET", "/", 200, 0, 0, 0.1))

    assert read_totals(tmp_path, EVERY).blocks == {}


@pytest.mark.parametrize(
    ("rows", "limit"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (2**20, 2**20), (2**20 + 1, math.inf)]
)
def test_a_bucket_takes_what_is_no_larger_than_its_bound(
    counters: Counters, tmp_path: Path, rows: int, limit: float
) -> None:
    """Bounds are inclusive, as Prometheus' `le` says; what is beyond all bounds is counted too."""
    counters(batch(rows=rows))

    assert nonzero(read_totals(tmp_path, EVERY).blocks[1].batch.counts, ROWS) == {limit: 1}


spans = st.integers(0, 2**36).map(lambda ticks: ticks * 2.0**-30)  # exact in floating point, up to 64 s


@given(st.lists(spans, min_size=1, max_size=80))
def test_spreading_a_batch_equals_finding_each_requests_bucket(waits_s: list[float]) -> None:
    """The way over sorted times finds the same buckets as one search for each time."""
    until_s = 128.0
    times = sorted(until_s - wait for wait in waits_s)

    cells = memoryview(array("d", [0.0] * (2 + len(FINE_SECONDS) + 1)))
    spread(times, until_s, FINE_SECONDS, cells, 2)

    expected = Counter(2 + bisect_left(FINE_SECONDS, wait) for wait in waits_s)
    assert {index: count for index, count in enumerate(cells) if count} == expected


@given(st.lists(st.floats(0.0, 100.0) | st.sampled_from(SECONDS), min_size=1, max_size=80), st.floats(0.0, 1e6))
def test_no_request_is_lost_or_counted_twice_whatever_the_rounding(waits_s: list[float], until_s: float) -> None:
    """Times on or next to a bound may round into the neighbour, but each is counted once."""
    times = sorted(until_s - wait for wait in waits_s)

    cells = memoryview(array("d", [0.0] * (len(SECONDS) + 1)))
    spread(times, until_s, SECONDS, cells, 0)

    assert sum(cells) == len(waits_s)


def test_the_counts_of_all_slots_are_added_up(tmp_path: Path) -> None:
    """Any worker can answer for all of them."""
    workers = [Counters(tmp_path, slot) for slot in range(3)]
    for each in workers:
        each.assign(BLOCKS)
        each(batch(IRIS, waits_s=(0.5, 0.25)))
    workers[1](RequestRefused(WINE, Code.ABORTED, 1.0, 2.0))

    totals = read_totals(tmp_path, EVERY)

    assert totals.blocks[1].latency.count == 6
    assert totals.blocks[MOST_BLOCKS - 1].errors == {Code.ABORTED: 1}
    assert totals.pids == {0: os.getpid(), 1: os.getpid(), 2: os.getpid()}
    for each in workers:
        each.close()


@pytest.mark.socket
def test_a_successor_goes_on_with_the_counts_of_a_killed_worker(tmp_path: Path) -> None:
    """Counts are in the file the moment they are made: SIGKILL loses none."""
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from dukou.core.event import BatchRan; from dukou.core.version import ModelVersion\n"
        "from dukou.telemetry.counters import Counters\n"
        "iris = ModelVersion('iris', 1); counters = Counters(Path(sys.argv[1]), 0); counters.assign({iris: 1})\n"
        "counters(BatchRan(iris, [1.0, 2.0], 3.0, 4.0, 2, True)); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=20, check=False)

    successor = Counters(tmp_path, 0)
    successor.assign(BLOCKS)
    successor(batch(IRIS, rows=5))
    successor(batch(IRIS, rows=2))
    successor.close()

    totals = read_totals(tmp_path, EVERY)
    assert totals.blocks[1].latency.count == 4
    assert {size: each.count for size, each in totals.blocks[1].sizes.items()} == {2: 2, 5: 1}
    assert totals.pids == {0: os.getpid()}


@pytest.mark.parametrize(
    "content",
    [b"\x07" * layout.FILE_BYTES, b"\x07" * (layout.FILE_BYTES - 8), struct.pack("QQ", 2, 99) + bytes(700_000), b""],
    ids=["same size", "other size", "layout 2", "just made"],
)
def test_a_file_of_another_layout_is_neither_read_nor_gone_on_with(tmp_path: Path, content: bytes) -> None:
    """Cells that mean something else are never added to."""
    (tmp_path / "counters-0").write_bytes(content)

    before = read_totals(tmp_path, EVERY)
    counters = Counters(tmp_path, 0)
    counters.close()
    after = read_totals(tmp_path, EVERY)

    assert before == Totals({}, {})
    assert after == Totals({}, {0: os.getpid()})


def test_only_the_blocks_asked_for_are_read(counters: Counters, tmp_path: Path) -> None:
    """A page about two models reads two blocks."""
    counters(batch(IRIS))
    counters(batch(WINE))

    assert set(read_totals(tmp_path, [0, 1]).blocks) == {1}


def test_a_cleared_folder_counts_from_nothing(counters: Counters, tmp_path: Path) -> None:
    """A new server's block numbers mean other versions."""
    counters(batch())

    clear(tmp_path)

    assert read_totals(tmp_path, EVERY) == Totals({}, {})


@pytest.mark.parametrize("block", [-1, MOST_BLOCKS])
def test_a_block_outside_the_file_is_refused(counters: Counters, block: int) -> None:
    """The number of blocks is bounded."""
    with pytest.raises(ValueError, match=str(block)):
        counters.assign({IRIS: block})


def test_the_file_is_sparse(counters: Counters, tmp_path: Path) -> None:
    """Blocks that nobody counts in take no room on the disk."""
    counters(batch())

    status = (tmp_path / "counters-0").stat()
    assert status.st_blocks * 512 < status.st_size / 10


def test_what_was_counted_stays_while_its_pages_rest(tmp_path: Path) -> None:
    """Memory is given back, not counts; and counting goes on."""
    counters = Counters(tmp_path, 0)
    refused = RequestRefused(None, Code.NOT_FOUND, 0.0, 1.0)
    counters(refused)

    counters.rest()
    counters(refused)

    assert read_totals(tmp_path, [0]).blocks[0].errors == {Code.NOT_FOUND: 2}
    counters.close()
