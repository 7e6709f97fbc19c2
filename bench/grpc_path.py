"""CPU per gRPC call of the whole path inside one process, without sockets: HTTP/2 in, HTTP/2 out, and by part.

    python bench/grpc_path.py VERSION_FOLDER [--tfs] [--profile] [--part PART]

Some connections with some streams each, all read in one turn of the event loop. Each part has those before it:
`session` answers from HTTP/2 alone, `framing` with streams and gRPC, `codec` with messages read and written, `engine`
is the whole path. Shows where the time between two system calls goes; the figures beside other servers are in
scripts/bench.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from ngh2 import Connection, Role

from dukou.app.host import Host
from dukou.app.release import settle
from dukou.config import Config
from dukou.core.link import Apply, Assignment
from dukou.core.message import InferenceRequest, InferenceResponse, Served, Table
from dukou.core.tensor import DTYPES
from dukou.core.version import ModelVersion
from dukou.engine.batch import cut
from dukou.net.api import Call
from dukou.net.calls import Calls
from dukou.net.exchange import Answer, Exchange
from dukou.net.grpc_wire import HEADERS, OK
from dukou.net.http2 import PREFACE, Fields, Session, frame
from dukou.net.http2_connection import Http2Connection, Site, session_limits
from dukou.net.listener import HttpServer
from dukou.protos import pool

ROUNDS, CALLS = 50, 1000
PARTS = ("session", "framing", "codec", "engine")
SHAPES = ((1, 1), (8, 8))
HEADERS_FRAME, SETTINGS_FRAME, WINDOW_FRAME, DATA_FRAME = 1, 4, 8, 0
END_HEADERS, END_STREAM = 4, 1
OIP = b"/inference.GRPCInferenceService/ModelInfer"
TFS = b"/tensorflow.serving.PredictionService/Predict"


class Client:
    """Makes the bytes of one connection's calls, which differ in their stream alone once a head is in the table."""

    def __init__(self, path: bytes, message: bytes) -> None:
        self._body = len(message).to_bytes(5) + message
        encoder = Connection(Role.CLIENT)
        encoder.initiate_connection()
        encoder.data_to_send()
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"127.0.0.1:8501"), (b":path", path)]
        fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        blocks = []
        for _ in range(2):
            encoder.send_request(fields, end_stream=True)
            blocks.append(encoder.data_to_send()[9:])
        self._first, self._next = blocks
        self._stream_id = 1

    def hello(self) -> bytes:
        """The start of a connection: settings, and a window that no benchmark fills; then the first call."""
        window = frame(WINDOW_FRAME, 0, 0, (2**31 - 1 - 65_535).to_bytes(4))
        return PREFACE + frame(SETTINGS_FRAME, 0, 0, b"") + window + self._call(self._first)

    def calls(self, count: int) -> bytes:
        """The next `count` calls."""
        return b"".join([self._call(self._next) for _ in range(count)])

    def _call(self, block: bytes) -> bytes:
        stream_id, self._stream_id = self._stream_id, self._stream_id + 2
        head = frame(HEADERS_FRAME, END_HEADERS, stream_id, block)
        return head + frame(DATA_FRAME, END_STREAM, stream_id, self._body)


class Sink(asyncio.Transport):
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = 0
        self.last = b""

    def write(self, data: bytes) -> None:
        self.ends += 1
        self.last = data

    def set_protocol(self, protocol: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Echo:
    """A connection that answers every request with the same bytes: what HTTP/2 costs without a server behind it."""

    def __init__(self, server: HttpServer, answer: bytes) -> None:
        config = Config()
        self.session = Session(session_limits(config.http, config.http2), self)
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None

    def begin(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.session.receive(data)
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._transport.write(self.session.data_to_send(262_144))

    def on_request(self, stream_id: int, fields: Fields, end: bool) -> None:
        pass

    def on_data(self, stream_id: int, data: bytes, end: bool) -> None:
        self.session.answer(stream_id, HEADERS, self._answer, OK)

    def on_closed(self, stream_id: int, code: int) -> None:
        pass

    def on_window(self, increment: int) -> None:
        pass

    def on_settings(self) -> None:
        pass


class ConstantCalls:
    """Calls that know the answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = Answer(0, answer, b"application/grpc")

    def answer(self, exchange: Exchange, call: Call) -> None:
        exchange.answer(self._answer)


class ConstantPlane:
    """A data plane and stage that know the answer."""

    def __init__(self, table: Table, served: Served, response: InferenceResponse) -> None:
        self.table = table
        self._served = Served(served.id, served.manifest, served.state, self)
        self._response = response

    def choose(self, ref: Any, route_key: str) -> Served:
        return self._served

    def start(self, call: Coroutine[Any, Any, Any], on_done: Callable[..., None], deadline_s: float) -> Any:
        try:
            call.send(None)
        except StopIteration as end:
            on_done(end.value, None)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        return self._response


def request_of(served: Served, tfs: bool) -> bytes:
    """One row of ones for the first signature."""
    signature = next(iter(served.manifest.signatures.values()))
    made: Any
    if tfs:
        made = pool.message("tensorflow.serving.PredictRequest")()
        made.model_spec.name = served.id.name
    else:
        made = pool.message("inference.ModelInferRequest")(model_name=served.id.name)
    for spec in signature.inputs:
        shape = [1, *(1 if size < 0 else size for size in (spec.shape or ())[1:])]
        data = np.ones(shape, DTYPES[spec.datatype]).tobytes()
        if tfs:
            tensor = made.inputs[spec.name]
            tensor.dtype = {"FP32": 1, "FP64": 2, "INT64": 9}[spec.datatype]
            for size in shape:
                tensor.tensor_shape.dim.add().size = size
            tensor.tensor_content = data
        else:
            made.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
            made.raw_input_contents.append(data)
    return bytes(made.SerializeToString())


def answer_of(data: bytes) -> bytes:
    """The body of the last answer in what was written."""
    at, found = 0, b""
    while at < len(data):
        size = int.from_bytes(data[at : at + 3])
        if data[at + 3] == DATA_FRAME:
            found = data[at + 9 : at + 9 + size]
        at += 9 + size
    return found


class Bench:
    """One loaded model, and connections to it."""

    def __init__(self, host: Host, tfs: bool) -> None:
        self._host = host
        self._site = host.server.site("")
        self._path = TFS if tfs else OIP
        self._served = next(iter(host.engine.table.models["iris"].values()))
        self._message = request_of(self._served, tfs)

    async def prepare(self) -> None:
        """Learn what the answer is, for the parts that are to know it."""
        sink = Sink()
        connection = Http2Connection(self._host.server.connections, self._site)
        connection.begin(sink)
        connection.data_received(Client(self._path, self._message).hello())
        while not answer_of(sink.last):
            await asyncio.sleep(0)
        self._answer = answer_of(sink.last)
        signature = next(iter(self._served.manifest.signatures.values()))
        inputs = {spec.name: np.ones([1, *(spec.shape or ())[1:]], DTYPES[spec.datatype]) for spec in signature.inputs}
        assert self._served.stage is not None
        request = InferenceRequest(self._served.id, signature, inputs, signature.output_names(), 1, _context())
        response = await self._host.engine.infer(request)
        outputs = {name: np.concatenate([array] * 64) for name, array in response.outputs.items()}
        self._response = cut(response.version, outputs, [1] * 64)[1]

    def connection(self, part: str) -> Any:
        """A connection whose way ends after `part`."""
        host = self._host
        if part == "session":
            return Echo(host.server, self._answer)
        site = self._site
        if part != "engine":
            config = Config()
            if part == "framing":
                calls: Any = ConstantCalls(self._answer[5:])
            else:
                plane: Any = ConstantPlane(host.engine.table, self._served, self._response)
                calls = Calls(plane, config.engine, 1 << 30, pool=site.pool, on_refused=print)
            site = Site(site.respond, {}, calls, settings=site.settings, pool=site.pool)
            site.methods = self._site.methods
        return Http2Connection(host.server.connections, site)

    async def measure(self, part: str, connections: int, streams: int, profiler: cProfile.Profile | None) -> float:
        """Microseconds per call, the best of many short rounds."""
        sinks = [Sink() for _ in range(connections)]
        clients = [Client(self._path, self._message) for _ in range(connections)]
        protocols = []
        for client, sink in zip(clients, sinks, strict=True):
            protocol = self.connection(part)
            protocol.begin(sink)
            protocol.data_received(client.hello())
            protocols.append(protocol)
        for _ in range(10):
            await asyncio.sleep(0.001)
        best = float("inf")
        turns = CALLS // (connections * streams)
        for _ in range(ROUNDS):
            coming = [[client.calls(streams) for client in clients] for _ in range(turns)]
            before = sinks[-1].ends
            if profiler:
                profiler.enable()
            begun = time.process_time()
            for turn in range(turns):
                for protocol, data in zip(protocols, coming[turn], strict=True):
                    protocol.data_received(data)
                while sinks[-1].ends == before + turn:
                    await asyncio.sleep(0)
            best = min(best, (time.process_time() - begun) / (turns * connections * streams))
            if profiler:
                profiler.disable()
        assert sinks[0].last.count(self._answer) == streams, sinks[0].last
        for protocol in protocols:
            if isinstance(protocol, Http2Connection):
                protocol.connection_lost(None)
        return best * 1e6


def _context() -> Any:
    from dukou.core.message import Context

    return Context(deadline_s=time.monotonic() + 1e6)


async def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as state:
        host = Host(Config(), Path(state), 0)
        await host.apply(Apply(1, (Assignment(ModelVersion("iris", 1), str(arguments.folder), 1),)))
        settle()
        bench = Bench(host, arguments.tfs)
        await bench.prepare()
        for connections, streams in SHAPES:
            for part in arguments.part:
                gc.collect()
                took = await bench.measure(part, connections, streams, None)
                print(f"{connections} x {streams}  {part:8} {took:6.2f} µs a call", flush=True)
        if arguments.profile:
            profiler = cProfile.Profile()
            await bench.measure(arguments.part[-1], 8, 8, profiler)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
        host.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tfs", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--part", action="append")
    said = parser.parse_args()
    said.part = said.part or PARTS
    uvloop.run(main(said))
