"""What gRPC costs: CPU time of one small inference through the whole of `dukou.net`, with a plane that answers at once.

    python bench/grpc_front.py [--seconds 1]

No sockets: frames are handed to connections of an in-memory transport, so that the kernel's share, which is the same
for every server, is not in the number. Each read holds one call of each of so many streams, as a busy client's reads
do; its headers are in HPACK's table after the first call. The best of several rounds is printed, as the others hold the
neighbours' noise.
"""

import argparse
import asyncio
import struct
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from hpack import Encoder
from http_front import Instant, NothingCodec, Wire

from dukou.config import EngineConfig, HttpConfig
from dukou.core.event import Event
from dukou.core.message import InferenceRequest, InferenceResponse
from dukou.core.model import ModelRef
from dukou.net import status
from dukou.net.api import Api
from dukou.net.facts import Facts
from dukou.net.listener import HttpServer
from dukou.net.rpc import Methods, Unary
from dukou.net.services import methods
from dukou.protos import pool

NOTHING = b"/bench.Nothing/Infer"
STREAMS = (1, 8, 64)
LARGEST_WINDOW = 2**31 - 1
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4


class Client:
    """What a gRPC client writes to its connection."""

    def __init__(self, path: bytes, message: bytes) -> None:
        encoder = Encoder()
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"127.0.0.1:8500"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"grpc-python/1.76.0 grpc-c/51.0.0 (linux; chttp2)"),
            (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        ]
        self._first = encoder.encode(fields)
        self._again = encoder.encode(fields)
        self._message = b"\0" + struct.pack(">I", len(message)) + message
        self._stream = -1

    def opening(self) -> bytes:
        """The preface, and windows so large that they need no updates."""
        settings = struct.pack(">HI", 4, LARGEST_WINDOW)
        window = struct.pack(">I", LARGEST_WINDOW - 65_535)
        return (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, settings)
            + frame(SETTINGS, ACK, 0)
            + frame(WINDOW_UPDATE, 0, 0, window)
        )

    def calls(self, count: int) -> bytes:
        """So many calls."""
        frames = []
        for _ in range(count):
            self._stream += 2
            block = self._first if self._stream == 1 else self._again
            frames.append(frame(HEADERS, END_HEADERS, self._stream, block))
            frames.append(frame(DATA, END_STREAM, self._stream, self._message))
        return b"".join(frames)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 section 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Counting(Instant):
    """Counts its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Always the same response."""
        self.answers += 1
        return self._response


class Keeping(Wire):
    """A transport that keeps what was last written."""

    last = b""

    def write(self, data: Any) -> None:
        """Some answers."""
        self.last = bytes(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nobody knows this peer."""
        return default

    def is_closing(self) -> bool:
        """Never."""
        return False


async def measure(server: HttpServer, plane: Counting, client: Client, streams: int, seconds: float) -> float:
    """CPU seconds of one call, the best of ten rounds. What the client writes is made beforehand."""
    wire = Keeping()
    first = server.protocol()
    first.connection_made(wire)
    first.data_received(client.opening() + client.calls(streams))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert plane.answers, wire.last
    best = float("inf")
    feed = wire.protocol.data_received
    for _ in range(10):
        reads = [client.calls(streams) for _ in range(max(1, int(seconds / 10 / 10e-6 / streams)))]
        before = plane.answers
        started = time.process_time()
        for data in reads:
            feed(data)
            await asyncio.sleep(0)
        best = min(best, (time.process_time() - started) / (len(reads) * streams))
        assert plane.answers - before == len(reads) * streams
    return best


def messages() -> Mapping[bytes, bytes]:
    """One iris row for each protocol, by path."""
    row = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)
    oip = pool.message("inference.ModelInferRequest")(
        model_name="iris",
        inputs=[{"name": "X", "datatype": "FP32", "shape": row.shape}],
        raw_input_contents=[row.tobytes()],
    )
    tensor = {
        "dtype": 1,
        "tensor_shape": {"dim": [{"size": size} for size in row.shape]},
        "tensor_content": row.tobytes(),
    }
    tfs = pool.message("tensorflow.serving.PredictRequest")(model_spec={"name": "iris"}, inputs={"X": tensor})
    return {
        NOTHING: b"",
        b"/inference.GRPCInferenceService/ModelInfer": oip.SerializeToString(),
        b"/tensorflow.serving.PredictionService/Predict": tfs.SerializeToString(),
    }


def with_nothing(api: Api) -> Callable[[Facts, str], Methods]:
    """All methods, and one whose messages are empty."""
    return lambda facts, dialect: {**methods(facts, dialect), NOTHING: Unary(api)}


async def main(seconds: float) -> None:
    """Print one line for each protocol and number of streams."""
    plane = Counting()
    refused: list[Event] = []
    api = Api(NothingCodec(plane.choose(ModelRef("iris"), "")), status.GRPC, 0)
    with ThreadPoolExecutor(1) as threads:
        server = HttpServer(
            plane,
            HttpConfig(),
            EngineConfig(),
            metrics=lambda dialect: b"",
            pool=threads,
            methods=with_nothing(api),
            observers=[refused.append],
        )
        for path, message in messages().items():
            for streams in STREAMS:
                cost_s = await measure(server, plane, Client(path, message), streams, seconds)
                name = path.decode().rpartition(".")[2]
                print(f"{name:32} {streams:2} calls a read {cost_s * 1e6:6.2f} µs", flush=True)
    assert not refused, refused[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU time for each line")
    asyncio.run(main(parser.parse_args().seconds))
