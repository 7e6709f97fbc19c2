"""CPU per request of the whole path inside one process, without sockets: bytes in, bytes out, N connections a turn.

    python bench/request_path.py VERSION_FOLDER [--profile]

Shows where the time between two system calls goes; the figures beside other servers are in scripts/bench.
"""

import asyncio
import cProfile
import gc
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from dukou.app.host import Host
from dukou.app.release import settle
from dukou.config import Config
from dukou.core.link import Apply, Assignment
from dukou.core.version import ModelVersion

PREDICT = b'{"X": [[5.1, 3.5, 1.4, 0.2]]}'
TFS = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'
OIP = b'{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}'
CALLS = {"/predict": PREDICT, "/v1/models/iris:predict": TFS, "/v2/models/iris/infer": OIP}
REQUESTS = 60_000


class Sink(asyncio.Transport):
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0
        self.last = b""
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.answers += 1
        self.last = data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


async def measure(host: Host, path: str, body: bytes, connections: int) -> float:
    """Seconds per request, the best of five runs."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:8501\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    sinks, protocols = [], []
    for _ in range(connections):
        sink = Sink()
        first = host.server.protocol()
        first.connection_made(sink)
        first.data_received(request)
        while not sink.answers:
            await asyncio.sleep(0)
        sinks.append(sink)
        protocols.append(sink.protocol)
    best = float("inf")
    for _ in range(5):
        turns = REQUESTS // connections // 5
        before = sinks[-1].answers
        begun = time.process_time()
        for turn in range(turns):
            for protocol in protocols:
                protocol.data_received(request)
            while sinks[-1].answers == before + turn:
                await asyncio.sleep(0)
        best = min(best, (time.process_time() - begun) / (turns * connections))
    assert sinks[0].last.startswith(b"HTTP/1.1 200"), sinks[0].last
    return best


async def main(folder: Path, profile: bool) -> None:
    with tempfile.TemporaryDirectory() as state:
        host = Host(Config(), Path(state), 0)
        await host.apply(Apply(1, (Assignment(ModelVersion("iris", 1), str(folder), 1),)))
        settle()
        for path, body in CALLS.items():
            for connections in (1, 64):
                gc.collect()
                seconds = await measure(host, path, body, connections)
                print(f"{path:28} {connections:3} connections {seconds * 1e6:7.2f} µs per request", flush=True)
        if profile:
            profiler = cProfile.Profile()
            profiler.enable()
            await measure(host, "/predict", PREDICT, 64)
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
        host.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), "--profile" in sys.argv))
