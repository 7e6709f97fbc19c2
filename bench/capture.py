"""CPU per request with and without recording, in one process, without sockets: the writer's thread counts.

python bench/capture.py VERSION_FOLDER
"""

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import uvloop
from request_path import PREDICT, measure

from dukou.app.host import Host
from dukou.app.release import settle
from dukou.config import CaptureConfig, Config
from dukou.core.link import Apply, Assignment
from dukou.core.version import ModelVersion

SHARES = (0.0, 0.01, 0.1, 1.0)
ROUNDS = 5


async def main(folder: Path) -> None:
    """Hosts that record different shares take turns, so that what else the machine does meets all alike."""
    with tempfile.TemporaryDirectory() as state:
        for share in SHARES:
            Path(state, str(share)).mkdir()
        hosts: Mapping[float, Host] = {
            share: Host(Config(capture=CaptureConfig(share=share)), Path(state, str(share)), 0) for share in SHARES
        }
        for host in hosts.values():
            await host.apply(Apply(1, (Assignment(ModelVersion("iris", 1), str(folder), 1),)))
        settle()
        print("| connections | " + " | ".join(f"{share:.0%} recorded" for share in SHARES) + " |")
        print("|---|" + "---:|" * len(SHARES))
        for connections in (1, 64):
            seconds: dict[float, list[float]] = {share: [] for share in SHARES}
            for _ in range(ROUNDS):
                for share, host in hosts.items():
                    seconds[share].append(await measure(host, "/predict", PREDICT, connections))
                    await asyncio.sleep(0.2)  # the writer finishes what it has
            cells = [f"{median(of_share) * 1e6:.1f} µs" for of_share in seconds.values()]
            print(f"| {connections} | {' | '.join(cells)} |")
        for host in hosts.values():
            host.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
