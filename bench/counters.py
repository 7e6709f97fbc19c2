"""What counting costs on the hot path: microseconds per request, in batches of one and of many.

python bench/counters.py
"""

import tempfile
import timeit
from pathlib import Path

from dukou.core.errors import Code
from dukou.core.event import BatchRan, RequestRefused
from dukou.core.version import ModelVersion
from dukou.telemetry.counters import Counters

IRIS = ModelVersion("iris", 1)


def batch(size: int) -> BatchRan:
    """Requests that arrived one every 8 µs, started at the end of the tick, took 5 µs: as measured at full load."""
    arrived = [1000.0 + 8e-6 * each for each in range(size)]
    started = arrived[-1] + 20e-6
    return BatchRan(IRIS, arrived, started, started + 5e-6, rows=size, inline=True)


def main() -> None:
    """Print one line for each size of batch, and one for a refusal."""
    with tempfile.TemporaryDirectory() as folder:
        counters = Counters(Path(folder), 0)
        counters.assign({IRIS: 1})
        for size in (1, 2, 8, 64, 256):
            event = batch(size)
            print(f"batch of {size:3}: {microseconds(lambda event=event: counters(event)) / size:6.3f} µs per request")
        refused = RequestRefused(IRIS, Code.INVALID_ARGUMENT, 1000.0, 1000.1)
        print(f"refusal:      {microseconds(lambda: counters(refused)):6.3f} µs")
        counters.close()


def microseconds(call: object) -> float:
    """The best of several runs, for one call."""
    runs = 20_000
    return min(timeit.repeat(call, number=runs, repeat=7)) / runs * 1e6  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
