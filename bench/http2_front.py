"""What HTTP/2 and gRPC cost a call, in process: bytes of calls in, bytes of answers out, a model that does nothing.

Prints microseconds of CPU per call for reads that bring one call, eight and 64. What the client's side of the bytes
costs is not counted.

    python bench/http2_front.py [--seconds 1]
"""

import argparse
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ngh2
import uvloop
from http_front import Instant, NothingCodec

from dukou.config import EngineConfig, HttpConfig
from dukou.core.message import InferenceRequest, InferenceResponse
from dukou.core.model import ModelRef
from dukou.net import status
from dukou.net.api import Api
from dukou.net.listener import HttpServer
from dukou.net.rpc import Unary
from dukou.wire.codec import Reply

PATH = b"/inference.GRPCInferenceService/ModelInfer"
FIELDS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH),
    (b":authority", b"127.0.0.1:8500"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-python/1.80.0 grpc-c/54.0.0 (linux; chttp2)"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
)
MESSAGE = b"\0" + (100).to_bytes(4) + bytes(100)


class GrpcNothing(NothingCodec):
    """A protocol that reads and writes nothing, over gRPC."""

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """A hundred bytes."""
        return Reply(MESSAGE[5:])


class Wire(asyncio.Transport):
    """Where answers go."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[bytes] = []
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        """HTTP/2, from the first bytes on."""
        self.protocol = protocol

    def write(self, data: Any) -> None:
        """Some answers."""
        self.out.append(data)

    def get_write_buffer_size(self) -> int:
        """Everything is taken at once."""
        return 0


async def measure(server: HttpServer, batch: int, seconds: float) -> float:
    """Microseconds per call at best, over rounds of some milliseconds, when a read brings `batch` of them."""
    wire = Wire()
    client = ngh2.Connection(ngh2.Role.CLIENT)
    client.initiate_connection()
    client.set_local_window_size(2**30)
    wire.protocol = server.protocol()
    wire.protocol.connection_made(wire)
    wire.protocol.data_received(client.data_to_send())
    best_s, spent_s = float("inf"), 0.0
    while spent_s < seconds:
        round_s = 0.0
        for _ in range(50):
            for _ in range(batch):
                client.send_data(client.send_request(FIELDS), MESSAGE, end_stream=True)
            data = client.data_to_send()
            begun_s = time.thread_time()
            wire.protocol.data_received(data)
            await asyncio.sleep(0)
            round_s += time.thread_time() - begun_s
            for piece in wire.out:
                client.receive_data(piece)
            wire.out.clear()
            assert sum(isinstance(event, ngh2.TrailersReceived) for event in client.events()) == batch
        best_s = min(best_s, round_s / 50 / batch)
        spent_s += round_s
    return best_s * 1e6


async def main(seconds: float) -> None:
    """Print one line for each size of read."""
    plane = Instant()
    codec = GrpcNothing(plane.choose(ModelRef("iris"), ""))
    with ThreadPoolExecutor(1) as pool:
        server = HttpServer(
            plane,
            HttpConfig(),
            EngineConfig(),
            metrics=lambda dialect: b"",
            pool=pool,
            methods=lambda facts, dialect: {PATH: Unary(Api(codec, status.GRPC, 0))},
        )
        for batch in (1, 8, 64):
            print(f"{batch:3} calls a read {await measure(server, batch, seconds):6.2f} µs a call")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    uvloop.run(main(parser.parse_args().seconds))
