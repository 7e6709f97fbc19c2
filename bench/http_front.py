"""What HTTP costs: CPU time of one small inference through the whole of `dukou.net`, with a plane that answers at once.

    python bench/http_front.py [--seconds 1]

No sockets: requests are handed to connections of an in-memory transport, so that the kernel's share, which is the same
for every server, is not in the number. `apart`: head and body come one after the other, as many clients send them.
The best of several rounds is printed, as the others hold the neighbours' noise.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np

from dukou.config import EngineConfig, HttpConfig
from dukou.core.errors import DukouError
from dukou.core.message import (
    Context,
    Draft,
    InferenceRequest,
    InferenceResponse,
    OnDone,
    Run,
    Served,
    Table,
)
from dukou.core.model import ModelRef
from dukou.core.tensor import Tensors
from dukou.net import status
from dukou.net.api import Api, Call
from dukou.net.listener import HttpServer
from dukou.testing.models import iris_request, served, table
from dukou.wire.codec import Headers, Reply

T = TypeVar("T")

BODY = b'{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}'
HEADS = {
    "wrk": b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:8501\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
    "requests": (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:8501\r\nUser-Agent: python-requests/2.34.2\r\n"
        b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\nContent-Length: %d\r\n"
        b"Content-Type: application/json\r\n\r\n"
    ),
    "traced": (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:8501\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
    ),
}


class Wire(asyncio.Transport):
    """A transport that counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        """Another one speaks from now on."""
        self.protocol = protocol

    def write(self, data: Any) -> None:
        """One answer."""
        self.writes += 1

    def get_write_buffer_size(self) -> int:
        """Everything is taken at once."""
        return 0


class NothingCodec:
    """A protocol that reads and writes nothing, so that only HTTP is measured."""

    def __init__(self, served: Served) -> None:
        self._draft = Draft(ModelRef("iris"), None)
        self._request = iris_request([[1, 2, 3, 4]])
        self._reply = Reply(b'{"y_pred":[0]}')

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """Always the same draft."""
        return self._draft

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """Always the same request."""
        return self._request

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """Always the same reply."""
        return self._reply

    def refuse(self, error: DukouError) -> bytes:
        """Not used."""
        raise error


class Instant:
    """A stage and the data plane around it, whose answer is there before it is asked."""

    def __init__(self) -> None:
        self._served = served(stage=self)
        self.table: Table = table(self._served)
        outputs: Tensors = {"label": np.zeros(1, np.int64), "probabilities": np.full((1, 3), 0.25, np.float32)}
        self._response = InferenceResponse(self._served.id, outputs)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Always the same response."""
        return self._response

    def choose(self, ref: ModelRef, route_key: str) -> Served:
        """Always the same version."""
        return self._served

    def start(self, call: Coroutine[Any, Any, T], on_done: OnDone[T], deadline_s: float = 0.0) -> Run:
        """Run the call to its end."""
        try:
            call.send(None)
        except StopIteration as end:
            on_done(end.value, None)
        return cast(Run, None)


def measure(feed: Callable[[bytes], None], pieces: Sequence[bytes], seconds: float) -> float:
    """CPU seconds of feeding `pieces`, one request, the best of ten rounds."""
    best = float("inf")
    for _ in range(10):
        count = 0
        started = time.process_time()
        while (elapsed := time.process_time() - started) < seconds / 10:
            for _ in range(500):
                for piece in pieces:
                    feed(piece)
            count += 500
        best = min(best, elapsed / count)
    return best


async def main(seconds: float) -> None:
    """Print one line for each kind of request."""
    plane = Instant()
    nothing = Api(NothingCodec(plane.choose(ModelRef("iris"), "")), status.HTTP)
    with ThreadPoolExecutor(1) as pool:
        server = HttpServer(plane, HttpConfig(), EngineConfig(), metrics=lambda dialect: b"", pool=pool)
        server.front("").known_routes[b"POST", b"/nothing"] = Call(nothing, ModelRef("iris"))
        for path in (b"/nothing", b"/v2/models/iris/infer"):
            for name, head in HEADS.items():
                transport = Wire()
                whole = head % (path, len(BODY)) + BODY
                first = server.protocol()
                first.connection_made(transport)
                first.data_received(whole)
                connection = transport.protocol
                for kind, pieces in (("", [whole]), (" apart", [whole[: -len(BODY)], BODY])):
                    cost_s = measure(connection.data_received, pieces, seconds)
                    print(f"{path.decode():24} {name + kind:15} {cost_s * 1e6:6.2f} µs")
                connection.connection_lost(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    asyncio.run(main(parser.parse_args().seconds))
