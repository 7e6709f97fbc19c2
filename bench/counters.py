"""What counting costs on the hot path: microseconds per request, in batches of one and of many.

python bench/counters.py
"""

import tempfile
import timeit
from pathlib import Path

import msgspec

from dukou.core.errors import Code
from dukou.core.event import BatchRan, RequestRefused
from dukou.core.version import ModelVersion
from dukou.telemetry.counters import Counters
from dukou.telemetry.metrics import render

IRIS = ModelVersion("iris", 1)


def batch(size: int, kinds: int = 1) -> BatchRan:
    """Requests that arrived one every 8 µs, started at the end of the tick, took 5 µs: as measured at full load. They
    came by so many kinds of calls."""
    arrived = [1000.0 + 8e-6 * each for each in range(size)]
    entries = [1 + each % kinds for each in range(size)]
    started = arrived[-1] + 20e-6
    return BatchRan(IRIS, arrived, started, started + 5e-6, size, True, started + 1e-6, started + 4e-6, entries)


def main() -> None:
    """Print one line for each size of batch, and one for a refusal."""
    with tempfile.TemporaryDirectory() as folder:
        counters = Counters(Path(folder), 0)
        counters.assign({IRIS: 1})
        for size, kinds in ((1, 1), (2, 1), (8, 1), (64, 1), (64, 2), (256, 1)):
            event = batch(size, kinds)
            each = microseconds(lambda event=event: counters(event)) / size
            print(f"batch of {size:3}, {kinds} kind{'s' if kinds > 1 else ' '}: {each:6.3f} µs per request")
        refused = RequestRefused(IRIS, Code.INVALID_ARGUMENT, 1000.0, 1000.1)
        print(f"refusal:               {microseconds(lambda: counters(refused)):6.3f} µs")
        counters.close()
        for used in (1, 1023):
            print(f"a page of 1023 versions, {used} of them asked: {page_ms(Path(folder), used):.1f} ms")


def page_ms(folder: Path, used: int) -> float:
    """Milliseconds to make /metrics for 1023 versions, of which so many have ever been asked."""
    blocks = {number: ModelVersion(f"model-{number}", 1) for number in range(1, 1024)}
    counters = Counters(folder, 0)
    counters.assign({version: number for number, version in blocks.items()})
    for version in list(blocks.values())[:used]:
        counters(msgspec.structs.replace(batch(64), version=version))
    counters.close()
    return min(timeit.repeat(lambda: render(folder, blocks, []), number=1, repeat=3)) * 1e3


def microseconds(call: object) -> float:
    """The best of several runs, for one call."""
    runs = 20_000
    return min(timeit.repeat(call, number=runs, repeat=7)) / runs * 1e6  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
