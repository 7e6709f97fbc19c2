"""What rollouts are judged by, read from the counters of workers."""

import subprocess
import sys
from pathlib import Path

from dukou.app.measuring import Counted
from dukou.core.buckets import FINE_SECONDS
from dukou.core.entry import ENTRIES
from dukou.core.errors import Code
from dukou.core.event import BatchRan, RequestRefused
from dukou.core.version import ModelVersion
from dukou.lifecycle.measured import since
from dukou.telemetry.counters import Counters

IRIS = ModelVersion("iris", 2)


def answered(counters: Counters, latency_s: float, requests: int = 1) -> None:
    """Requests of every kind of call, each answered after so long."""
    for index in range(len(ENTRIES)):
        arrived_s = [1000.0 - latency_s] * requests
        counters(BatchRan(IRIS, arrived_s, 1000.0, 1000.0, requests, True, 1000.0, 1000.0, [index] * requests))


def test_requests_of_all_workers_and_kinds_are_added_up(tmp_path: Path) -> None:
    """Each by its latency, in fine buckets; a refused one is an error, also where the answer could not be written."""
    for slot in range(2):
        counters = Counters(tmp_path, slot)
        counters.assign({IRIS: 7})
        answered(counters, 0.25)
        answered(counters, 0.26, requests=3)
        counters(RequestRefused(IRIS, Code.INVALID_ARGUMENT, 1.0, 2.0))
        counters(RequestRefused(IRIS, Code.CANCELLED, 1.0, 2.0, executed=True))
        counters.close()

    found = Counted(tmp_path).counts(7)

    kinds = len(ENTRIES)
    assert (found.answered, found.errors) == (2 * (4 * kinds - 1), 4)
    below = next(index for index, bound in enumerate(FINE_SECONDS) if bound >= 0.25)
    above = next(index for index, bound in enumerate(FINE_SECONDS) if bound >= 0.26)
    assert sum(found.latency) == 2 * 4 * kinds
    assert sum(found.latency[below : above + 1]) == 2 * 4 * kinds


def test_what_nobody_has_counted_is_nothing(tmp_path: Path) -> None:
    """Neither a server without workers nor a block of a version that was never asked is an error."""
    assert Counted(tmp_path).counts(3).requests == 0
    Counters(tmp_path, 0).close()
    assert Counted(tmp_path).counts(3).requests == 0


def test_what_came_since_is_told_apart(tmp_path: Path) -> None:
    """A base taken before is left out, bucket by bucket."""
    counters = Counters(tmp_path, 0)
    counters.assign({IRIS: 1})
    counted = Counted(tmp_path)
    answered(counters, 0.25)
    base = counted.counts(1)

    answered(counters, 8.0)
    counters(RequestRefused(IRIS, Code.INTERNAL, 1.0, 2.0))
    more = since(counted.counts(1), base)

    assert (more.answered, more.errors, sum(more.latency)) == (len(ENTRIES), 1, len(ENTRIES))
    assert next(bound for bound, count in zip(FINE_SECONDS, more.latency, strict=False) if count) >= 8.0
    counters.close()


def test_measuring_needs_no_numpy() -> None:
    """The supervisor measures and judges, and is light."""
    program = "import sys, dukou.app.measuring, dukou.lifecycle.rollout, dukou.lifecycle.report\n"
    program += "assert 'numpy' not in sys.modules"

    subprocess.run([sys.executable, "-c", program], timeout=30, check=True)
