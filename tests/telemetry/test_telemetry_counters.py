"""Counting: every fact ends in the right bucket of the right block, and outlives the process that counted it."""

import math
import os
import subprocess
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import Code
from dukou.core.event import BatchRan, RequestLogged, RequestRefused
from dukou.core.version import ModelVersion
from dukou.telemetry.counters import (
    MOST_BLOCKS,
    ROWS,
    SECONDS,
    Counters,
    Totals,
    clear,
    read_all,
    spread,
)

IRIS = ModelVersion("iris", 1)
WINE = ModelVersion("wine", 2)
BLOCKS = {IRIS: 1, WINE: MOST_BLOCKS - 1}


def batch(
    version: ModelVersion = IRIS, waits_s: tuple[float, ...] = (0.5,), run_s: float = 0.25, rows: int = 1
) -> BatchRan:
    """A batch whose requests had waited so long when it started at t=1000. Sums of powers of two are exact."""
    return BatchRan(version, [1000.0 - wait for wait in waits_s], 1000.0, 1000.0 + run_s, rows, inline=True)


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """The counters of slot 0."""
    each = Counters(tmp_path, 0)
    each.assign(BLOCKS)
    yield each
    each.close()


def nonzero(counts: list[int], bounds: tuple[float, ...]) -> dict[float, int]:
    """Filled buckets by their upper bound."""
    return {bound: count for bound, count in zip((*bounds, math.inf), counts, strict=True) if count}


def test_a_batch_counts_its_requests_rows_and_times(counters: Counters, tmp_path: Path) -> None:
    """Latency runs from arrival to the end, queueing from arrival to the start; rows belong to the execution."""
    counters(batch(waits_s=(0.5, 0.25, 0.03125), run_s=0.25, rows=6))

    iris = read_all(tmp_path).blocks[1]
    assert nonzero(iris.latency.counts, SECONDS) == {1.0: 1, 0.5: 2}
    assert nonzero(iris.queue.counts, SECONDS) == {0.5: 1, 0.25: 1, 0.05: 1}
    assert nonzero(iris.batch.counts, ROWS) == {8: 1}
    assert (iris.latency.total, iris.queue.total, iris.batch.total) == (1.53125, 0.78125, 6)
    assert (iris.latency.count, iris.batch.count, iris.requests) == (3, 1, 3)


def test_a_single_request_is_counted_like_a_batch(counters: Counters, tmp_path: Path) -> None:
    """The shorter way for one request gives what the way for many gives."""
    for _ in range(2):
        counters(batch(IRIS, waits_s=(0.5,), rows=1))
    counters(batch(WINE, waits_s=(0.5, 0.5), rows=2))

    blocks = read_all(tmp_path).blocks
    iris, wine = blocks[1], blocks[MOST_BLOCKS - 1]
    assert (iris.latency, iris.queue) == (wine.latency, wine.queue)


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

    blocks = read_all(tmp_path).blocks
    assert blocks[1].errors == {Code.INTERNAL: 2}
    assert blocks[0].errors == {Code.NOT_FOUND: 1, Code.ABORTED: 1}
    assert blocks[1].requests == 2


def test_an_answer_that_could_not_be_said_is_one_request(counters: Counters, tmp_path: Path) -> None:
    """Its execution is counted and so is its error, but it came once."""
    counters(batch(IRIS, waits_s=(0.5, 0.5)))
    counters(RequestRefused(IRIS, Code.UNIMPLEMENTED, 1.0, 2.0, executed=True))

    iris = read_all(tmp_path).blocks[1]
    assert (iris.requests, iris.latency.count, iris.errors) == (2, 2, {Code.UNIMPLEMENTED: 1})


def test_a_version_that_is_assigned_no_more_is_counted_to_its_end(counters: Counters, tmp_path: Path) -> None:
    """The last batches of an unloaded version are its own, not nobody's."""
    counters.assign({WINE: 2})

    counters(batch(IRIS))

    assert set(read_all(tmp_path).blocks) == {1}


def test_every_code_has_its_own_cell(counters: Counters, tmp_path: Path) -> None:
    """No two Codes share a count."""
    for times, code in enumerate(Code, start=1):
        for _ in range(times):
            counters(RequestRefused(IRIS, code, 1.0, 2.0))

    assert read_all(tmp_path).blocks[1].errors == {code: times for times, code in enumerate(Code, start=1)}


def test_other_events_are_not_counted(counters: Counters, tmp_path: Path) -> None:
    """An Observer is told everything and takes what is its own."""
    counters(RequestLogged("id", "peer", "GET", "/", 200, 0, 0, 0.1))

    assert read_all(tmp_path).blocks == {}


@pytest.mark.parametrize(
    ("rows", "bound"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (2**20, 2**20), (2**20 + 1, math.inf)]
)
def test_a_bucket_takes_what_is_no_larger_than_its_bound(
    counters: Counters, tmp_path: Path, rows: int, bound: float
) -> None:
    """Bounds are inclusive, as Prometheus' `le` says; what is beyond all bounds is counted too."""
    counters(batch(rows=rows))

    assert nonzero(read_all(tmp_path).blocks[1].batch.counts, ROWS) == {bound: 1}


spans = st.integers(0, 2**36).map(lambda ticks: ticks * 2.0**-30)  # exact in floating point, up to 64 s


@given(st.lists(spans, min_size=1, max_size=80))
def test_spreading_a_batch_equals_finding_each_requests_bucket(waits_s: list[float]) -> None:
    """The way over sorted times finds the same buckets as one search for each time."""
    until_s = 128.0
    times = sorted(until_s - wait for wait in waits_s)

    found = list(spread(times, until_s))

    assert Counter(dict(found)) == Counter(bisect_left(SECONDS, wait) for wait in waits_s)
    assert len(dict(found)) == len(found)


@given(st.lists(st.floats(0.0, 100.0) | st.sampled_from(SECONDS), min_size=1, max_size=80), st.floats(0.0, 1e6))
def test_no_request_is_lost_or_counted_twice_whatever_the_rounding(waits_s: list[float], until_s: float) -> None:
    """Times on or next to a bound may round into the neighbour, but each is counted once."""
    times = sorted(until_s - wait for wait in waits_s)

    assert sum(count for _, count in spread(times, until_s)) == len(waits_s)


def test_the_counts_of_all_slots_are_added_up(tmp_path: Path) -> None:
    """Any worker can answer for all of them."""
    workers = [Counters(tmp_path, slot) for slot in range(3)]
    for each in workers:
        each.assign(BLOCKS)
        each(batch(IRIS, waits_s=(0.5, 0.25)))
    workers[1](RequestRefused(WINE, Code.ABORTED, 1.0, 2.0))

    totals = read_all(tmp_path)

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
    successor(batch(IRIS))
    successor.close()

    totals = read_all(tmp_path)
    assert totals.blocks[1].latency.count == 3
    assert totals.pids == {0: os.getpid()}


@pytest.mark.parametrize("bytes_changed", [0, -8], ids=["same size", "other size"])
def test_a_file_of_another_layout_is_neither_read_nor_gone_on_with(tmp_path: Path, bytes_changed: int) -> None:
    """Cells that mean something else are never added to."""
    Counters(tmp_path, 0).close()
    file = tmp_path / "counters-0"
    file.write_bytes(b"\x07" * (file.stat().st_size + bytes_changed))

    before = read_all(tmp_path)
    counters = Counters(tmp_path, 0)
    counters.close()
    after = read_all(tmp_path)

    assert before == Totals({}, {})
    assert after == Totals({}, {0: os.getpid()})


def test_a_cleared_folder_counts_from_nothing(counters: Counters, tmp_path: Path) -> None:
    """A new server's block numbers mean other versions."""
    counters(batch())

    clear(tmp_path)

    assert read_all(tmp_path) == Totals({}, {})


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
