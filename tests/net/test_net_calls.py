"""One inference: body to call, outcome to answer, on the loop and off it."""

import asyncio
import gzip
import json
import logging
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from in_memory import PREDICT, Client, HandPlane, World, predict, request

from dukou.config import EngineConfig
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import RequestRefused
from dukou.core.message import InferenceRequest, InferenceResponse, Stage
from dukou.core.model import ModelRef, ModelVersion, Signature, State, TensorSpec
from dukou.engine.router import Engine
from dukou.net.api import Api, Call
from dukou.net.compression import MOST_GZIP_MEMBERS, decompress
from dukou.net.status import HTTP
from dukou.testing.clock import HandClock
from dukou.testing.models import Direct, FunctionModel, iris_like, manifest, served, table
from dukou.wire.plain import Plain


def raw_deflate(data: bytes) -> bytes:
    """Deflate without zlib's wrapping, as some clients send it."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        (b"gzip", gzip.compress),
        (b"x-gzip", gzip.compress),
        (b" GZip ", gzip.compress),
        (b"gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
        (b"deflate", zlib.compress),
        (b"deflate", raw_deflate),
        (b"identity", bytes),
        (b"", bytes),
    ],
)
@pytest.mark.parametrize("data", [PREDICT, b"", bytes(100_000)])
def test_a_body_is_decompressed(encoding: bytes, compress: Callable[[bytes], bytes], data: bytes) -> None:
    """Every encoding that is understood gives back what went in."""
    assert decompress(encoding, compress(data), 200_000) == data


def test_a_bomb_is_stopped_at_the_limit() -> None:
    """A thousandfold body is refused after the limit's worth of work; exactly the limit passes."""
    bomb = gzip.compress(bytes(10_000_000))

    with pytest.raises(DukouError) as caught:
        decompress(b"gzip", bomb, 9_999_999)

    assert caught.value.reason is Reason.BODY_TOO_LARGE
    assert len(decompress(b"gzip", bomb, 10_000_000)) == 10_000_000


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", b"this is no gzip"),
        (b"gzip", gzip.compress(PREDICT)[:-5]),
        (b"gzip", gzip.compress(PREDICT) + b"rubbish"),
        (b"gzip", gzip.compress(b"") * (MOST_GZIP_MEMBERS + 1)),
        (b"deflate", b"\xff\xff\xff"),
    ],
)
def test_damaged_bodies_are_the_callers_fault(encoding: bytes, body: bytes) -> None:
    """They are malformed, whatever is wrong with them."""
    with pytest.raises(DukouError) as caught:
        decompress(encoding, body, 1000)

    assert caught.value.reason is Reason.MALFORMED_REQUEST


def send_and_wait(world: World, data: bytes, answers: int = 1) -> Client:
    """Send, and let a loop run until there are `answers`."""

    async def exchange() -> Client:
        client = world.client().send(data)
        async with asyncio.timeout(10):
            while len(client.answers()) < answers:
                await asyncio.sleep(0.001)
        return client

    return asyncio.run(exchange())


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        (("Content-Encoding: gzip",), gzip.compress(PREDICT), 200),
        (("Content-Encoding: deflate",), zlib.compress(PREDICT), 200),
        (("Content-Encoding: gzip",), b"rubbish", 400),
        (("Content-Encoding: gzip",), gzip.compress(bytes(2_000_000)), 413),
        (("Content-Encoding: br",), b"x", 501),
    ],
)
def test_a_compressed_body_is_answered(fields: tuple[str, ...], body: bytes, status: int) -> None:
    """As it would be uncompressed; what is too large or not understood has its own status."""
    with World(max_body_bytes=1_000_000) as world:
        (said,) = send_and_wait(world, predict(*fields, body=body)).answers()

    assert said.status == status
    if status == 501:
        assert said.headers["accept-encoding"] == "gzip, deflate"


class WhereCodecRuns:
    """Notes the thread of each step of a codec."""

    def __init__(self, codec: Any) -> None:
        self.codec = codec
        self.threads: dict[str, bool] = {}

    def __getattr__(self, name: str) -> Any:
        def step(*arguments: Any) -> Any:
            self.threads[name] = threading.current_thread() is threading.main_thread()
            return getattr(self.codec, name)(*arguments)

        return step


@pytest.mark.parametrize(("rows", "on_loop"), [(1, True), (200, False)])
def test_large_bodies_and_answers_are_worked_on_in_the_pool(rows: int, on_loop: bool) -> None:
    """So that nobody else waits; small ones stay on the loop, which is faster."""
    noted = WhereCodecRuns(Plain())
    body = json.dumps({"X": [[1.0, 2.0, 3.0, 4.0]] * rows}).encode()

    with World(decode_off_loop_bytes=1000) as world:
        world.server.front("").known_routes[b"POST", b"/predict"] = Call(Api(noted, HTTP), ModelRef(""))
        (said,) = send_and_wait(world, predict(body=body)).answers()

    assert len(json.loads(said.body)["y_pred"]) == rows
    assert {noted.threads[step] for step in ("parse", "bind", "encode")} == {on_loop}


@pytest.mark.parametrize("rows", [1, 200])
@pytest.mark.parametrize(
    ("target", "body", "status", "version"),
    [
        ("/predict", {"X": [[1.0, 2.0]]}, 400, ModelVersion("iris", 1)),
        ("/predict/other", {"X": [[1.0, 2.0, 3.0, 4.0]]}, 404, None),
        ("/predict", {"Y": 1}, 400, None),
    ],
)
def test_a_refused_call_is_told_to_the_observers(
    rows: int, target: str, body: dict[str, Any], status: int, version: ModelVersion | None
) -> None:
    """With the version, where one was chosen; on the loop and off it."""
    data = json.dumps({name: value * rows for name, value in body.items()}).encode()

    with World(decode_off_loop_bytes=100) as world:
        client = send_and_wait(world, request("POST", target, data))

    assert client.statuses == [status]
    (event,) = world.events
    assert isinstance(event, RequestRefused)
    assert event.version == version
    assert (event.arrived_s, event.ended_s) == (1000.0, 1000.0)


def test_an_unknown_error_in_a_model_is_500_and_only_the_log_has_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """With the request id, for whoever looks it up."""

    def fail(_: object) -> Any:
        raise ZeroDivisionError("secret")

    plane = HandPlane(table(served(stage=Direct(FunctionModel(fail)))))
    with World(plane=plane) as world, caplog.at_level(logging.ERROR, "dukou.net"):
        client = world.client().send(predict("X-Request-Id: find-me"))

    (said,) = client.answers()
    assert (said.status, said.body) == (500, b'{"error":"the server failed; its log says why"}')
    assert "find-me" in caplog.text
    assert "secret" in caplog.text
    assert [event.code for event in world.events if isinstance(event, RequestRefused)] == [Code.INTERNAL]


def test_an_answer_that_cannot_be_written_is_refused() -> None:
    """The protocol says so when it encodes, after the model has run."""
    signature = Signature("serving_default", (TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("y", "BYTES", (-1,)),))
    model = FunctionModel(lambda inputs: {"y": np.array([b"\xff"], dtype=object)})
    plane = HandPlane(table(served(manifest(signatures=(signature,)), Direct(model))))

    with World(plane=plane) as world:
        client = world.client().send(predict())

    assert client.statuses == [501]
    assert world.events == [RequestRefused(ModelVersion("iris", 1), Code.UNIMPLEMENTED, 1000.0, 1000.0, executed=True)]


class Noting:
    """A stage that keeps the requests that it passes on."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.requests: list[InferenceRequest] = []

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Note and pass on."""
        self.requests.append(request)
        return await self.stage.infer(request)


def test_a_call_carries_its_deadline_and_trace() -> None:
    """From its arrival on; nothing of it changes the answer."""
    stage = Noting(Direct(FunctionModel(lambda inputs: {"label": inputs["X"][:, 0].astype(np.int64)})))
    with World(plane=HandPlane(table(served(stage=stage)), by_hand=True)) as world:
        world.client().send(predict("traceparent: 00-abc-def-01"))
        (run,) = world.plane.runs
        run.finish()

    (request,) = stage.requests
    assert run.deadline_s == request.context.deadline_s == 1030.0
    assert request.context.arrived_s == 1000.0
    assert request.context.traceparent == "00-abc-def-01"


@pytest.mark.parametrize(
    ("target", "status"),
    [("/predict/iris", 503), ("/v2/models/iris/infer", 503), ("/v2/models/iris/versions/9/infer", 404)],
)
def test_a_version_that_does_not_answer_is_refused(target: str, status: int) -> None:
    """Before a stage is asked for."""
    body = b'{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}'
    if "predict" in target:
        body = PREDICT
    with World(plane=HandPlane(table(iris_like(state=State.LOADING)))) as world:
        client = world.client().send(request("POST", target, body))

    assert client.statuses == [status]


GZIPPED = predict("Content-Encoding: gzip", body=gzip.compress(PREDICT))


class Busy:
    """A server with a real engine, and with its one thread for bodies taken until `go` is set."""

    def __init__(self, **engine: Any) -> None:
        self.go = threading.Event()
        self.clock = HandClock(1000.0)
        self.models = ThreadPoolExecutor(1)
        self.stage = Noting(Direct(FunctionModel(lambda inputs: {"label": inputs["X"][:, 0].astype(np.int64)})))
        loop = asyncio.get_running_loop()
        self.engine = Engine(EngineConfig(**engine), loop, self.clock, (), self.models)
        self.engine.swap(table(served(stage=self.stage)))
        self.world = World(plane=self.engine, clock=self.clock)
        self.taken = self.world.pool.submit(self.go.wait, 10)

    async def __aenter__(self) -> "Busy":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go.set()
        await until(lambda: self.engine.under_way == 0)
        self.world.__exit__()
        self.models.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something holds, for at most ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_body_that_waits_to_be_read_has_a_deadline() -> None:
    """However long those before it take."""

    async def go() -> list[int]:
        async with Busy() as busy:
            client = busy.world.client().send(GZIPPED)
            busy.clock.advance(31.0)
            await until(lambda: bool(client.statuses))
            return client.statuses

    assert asyncio.run(go()) == [504]


def test_bodies_that_wait_to_be_read_count_as_calls_under_way() -> None:
    """Beyond max_requests calls are refused, whatever step they have come to."""

    async def go() -> tuple[list[int], list[int]]:
        async with Busy(max_requests=1) as busy:
            large, small = busy.world.client().send(GZIPPED), busy.world.client().send(predict())
            busy.go.set()
            await until(lambda: bool(large.statuses))
            return large.statuses, small.statuses

    assert asyncio.run(go()) == ([200], [429])


def test_a_body_that_waits_to_be_read_is_answered_at_the_end_of_a_drain() -> None:
    """Not dropped: the client learns that the server is shutting down."""

    async def go() -> list[int]:
        async with Busy() as busy:
            client = busy.world.client().send(GZIPPED)
            await busy.engine.drain(0.0)
            return client.statuses

    assert asyncio.run(go()) == [503]


def test_a_client_that_goes_while_its_body_is_read_makes_room_at_once() -> None:
    """The pool finishes what it has begun, for nobody; no model runs."""

    async def go() -> list[InferenceRequest]:
        async with Busy() as busy:
            busy.world.client().send(GZIPPED).vanish()
            await until(lambda: busy.engine.under_way == 0)
            busy.go.set()
            await asyncio.get_running_loop().run_in_executor(busy.world.pool, lambda: None)
            return busy.stage.requests

    assert asyncio.run(go()) == []


def test_a_failure_that_the_engine_has_logged_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """The engine knows the cause; here only what is not yet said in our terms is logged."""
    with World(plane=HandPlane(by_hand=True)) as world, caplog.at_level(logging.DEBUG):
        client = world.client().send(predict())
        world.plane.runs[0].fail(DukouError(Reason.MODEL_FAILED))

    assert client.statuses == [500]
    assert caplog.records == []
