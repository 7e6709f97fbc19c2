"""ModelStreamInfer: requests side by side, answers in order, errors that do not end the stream."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest
from rpc_rig import FunctionStreamer, Gate, ListRpc, Service

from dukou.core.errors import DukouError, Reason
from dukou.core.event import RequestRefused
from dukou.core.message import InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion, Signature, State, TensorSpec
from dukou.net import services_oip
from dukou.net.rpc import GrpcError
from dukou.net.services_oip_stream import MOST_UNDER_WAY
from dukou.protos import pool
from dukou.testing.models import manifest, served, table

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
NOT_FOUND = 5

N = TensorSpec("n", "INT32", (1,))
ONE = Signature(DEFAULT_SIGNATURE, (N,), (N,), batched=False)
MANY = Signature(DEFAULT_SIGNATURE, (N,), (N,), batched=False, streaming=True)
SLOW_S = 5.0


def message(model: str, n: int = 0, id: str = "", **parameters: bool) -> bytes:  # noqa: A002
    made = pool.message("inference.ModelInferRequest")(
        model_name=model,
        id=id,
        inputs=[{"name": "n", "datatype": "INT32", "shape": [1]}],
        raw_input_contents=[np.int32(n).tobytes()],
        parameters={name: {"bool_param": value} for name, value in parameters.items()},
    )
    return bytes(made.SerializeToString())


async def count(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
    """As many responses as the input says: 0, 1, 2, ... A negative number fails after the first."""
    n = int(request.inputs["n"][0])
    for place in range(abs(n)):
        yield InferenceResponse(request.version, {"n": np.array([place], np.int32)})
        if n < 0:
            raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="negative")


class Models:
    """`echo`, which answers when its gate is opened, and `count`, which streams."""

    def __init__(self, dialect: str = "", streamer: Any = None, request_timeout_s: float = 60.0) -> None:
        self.gate = Gate()
        echo = served(manifest("echo", 1, (ONE,)), self.gate)
        version = ModelVersion("count", 1)
        many = manifest("count", 1, (MANY,))
        streams = Served(version, many, State.AVAILABLE, Gate(), streamer=streamer or FunctionStreamer(count))
        service = Service(services_oip.methods, table(echo, streams), dialect, request_timeout_s=request_timeout_s)
        self.service = service
        self.clock = service.clock

    def stream(self, rpc: ListRpc) -> Coroutine[Any, Any, None]:
        """The call, answered."""
        answer: Any = self.service.handler(PATH)
        return answer(rpc)  # type: ignore[no-any-return]


def run(models: Models, *messages: bytes, metadata: Mapping[bytes, bytes] | None = None) -> list[Any]:
    """All answers to these messages, none of which waits for anything."""

    async def call() -> list[bytes]:
        rpc = ListRpc(messages, metadata)
        rpc.end()
        async with asyncio.timeout(SLOW_S):
            await models.stream(rpc)
        return rpc.sent

    return [said(answer) for answer in asyncio.run(call())]


def said(answer: bytes) -> Any:
    return pool.parse("inference.ModelStreamInferResponse", answer)


def number(answer: Any) -> int:
    """The value of a response."""
    (raw,) = answer.infer_response.raw_output_contents
    return int(np.frombuffer(raw, np.int32)[0])


def is_final(answer: Any) -> bool:
    return bool(answer.infer_response.parameters["triton_final_response"].bool_param)


def test_one_request_has_one_response_which_is_the_last() -> None:
    """With its id."""
    models = Models()
    models.gate.open("a")

    (answer,) = run(models, message("echo", 7, "a"))

    assert (answer.error_message, answer.infer_response.id, number(answer)) == ("", "a", 7)
    assert (answer.infer_response.model_name, answer.infer_response.model_version) == ("echo", "1")
    assert is_final(answer)


def test_a_streaming_model_has_any_number_of_responses() -> None:
    """In order; of none is it known that it is the last."""
    answers = run(Models(), message("count", 3, "a"))

    assert [number(answer) for answer in answers] == [0, 1, 2]
    assert {answer.infer_response.id for answer in answers} == {"a"}
    assert not any(is_final(answer) for answer in answers)
    assert run(Models(), message("count", 0)) == []


def test_two_streams_share_the_call() -> None:
    """One message at a time; the responses to each request are in order."""
    answers = run(Models(), message("count", 3, "a"), message("count", 3, "b"))

    for name in ("a", "b"):
        assert [number(answer) for answer in answers if answer.infer_response.id == name] == [0, 1, 2]


@pytest.mark.parametrize("n", [0, 2])
def test_the_end_is_told_to_those_who_ask(n: int) -> None:
    """As a response without outputs, also after none."""
    *answers, last = run(Models(), message("count", n, "a", triton_enable_empty_final_response=True))

    assert len(answers) == n
    assert is_final(last)
    assert not last.infer_response.outputs
    assert (last.infer_response.model_name, last.infer_response.id) == ("count", "a")


def test_an_ordinary_model_has_no_empty_end() -> None:
    """Its one response is the end."""
    models = Models()
    models.gate.open("a")

    assert len(run(models, message("echo", 1, "a", triton_enable_empty_final_response=True))) == 1


def test_requests_are_answered_side_by_side_and_in_their_order() -> None:
    """The second is done first, and waits."""

    async def call() -> list[str]:
        models = Models()
        rpc = ListRpc([message("echo", 1, "first"), message("echo", 2, "second")])
        answering = asyncio.create_task(models.stream(rpc))
        await rpc.until(lambda: rpc.taken == 2)
        await settled(lambda: len(models.gate.begun) == 2)
        models.gate.open("second")
        await turns()
        before = list(rpc.sent)
        models.gate.open("first")
        rpc.end()
        await answering
        assert before == []
        return [said(answer).infer_response.id for answer in rpc.sent]

    assert asyncio.run(call()) == ["first", "second"]


def test_streams_and_ordinary_requests_do_not_wait_for_each_other() -> None:
    """Between their responses others are answered, before them and after them in the call."""

    async def call() -> None:
        more = asyncio.Event()

        async def slow(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
            await more.wait()
            yield InferenceResponse(request.version, {"n": request.inputs["n"]})

        models = Models(streamer=FunctionStreamer(slow))
        rpc = ListRpc([message("echo", 1, "blocked"), message("count", 2, "stream"), message("echo", 3, "open")])
        answering = asyncio.create_task(models.stream(rpc))
        models.gate.open("open")
        more.set()
        await rpc.until(lambda: len(rpc.sent) == 1)
        await turns()
        assert [said(answer).infer_response.id for answer in rpc.sent] == ["stream"]
        more.clear()
        rpc.give(message("count", 4, "another stream"))
        models.gate.open("blocked")
        await rpc.until(lambda: len(rpc.sent) == 3)
        rpc.give(message("echo", 5, "behind the stream"))
        models.gate.open("behind the stream")
        await rpc.until(lambda: len(rpc.sent) == 4)
        more.set()
        rpc.end()
        await answering
        ids = [said(answer).infer_response.id for answer in rpc.sent]
        assert ids == ["stream", "blocked", "open", "behind the stream", "another stream"]

    asyncio.run(call())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (message("nobody", 0, "w"), "Request for unknown model: 'nobody' is not found"),
        (message("count", -1, "w"), "the model cannot take these values: negative"),
        (
            pool.message("inference.ModelInferRequest")(model_name="echo", id="w").SerializeToString(),
            "expected 1 inputs but got 0 inputs for model 'echo'",
        ),
        (
            pool.message("inference.ModelInferRequest")(
                model_name="echo", model_version="x", id="w"
            ).SerializeToString(),
            "failed to get model version",
        ),
    ],
)
def test_an_error_is_an_answer_and_the_stream_goes_on(wrong: bytes, text: str) -> None:
    """With the id of the request."""
    models = Models()
    models.gate.open("after")

    *_, error, after = run(models, wrong, message("echo", 1, "after"))

    assert text in error.error_message
    assert error.infer_response.id == "w"
    assert (after.error_message, after.infer_response.id) == ("", "after")


def test_what_is_no_message_is_an_error_of_its_own() -> None:
    """The stream goes on."""
    models = Models()
    models.gate.open("a")

    error, answer = run(models, b"\xff\xff", message("echo", 1, "a"))

    assert "damaged" in error.error_message
    assert answer.infer_response.id == "a"


def test_errors_end_the_stream_for_those_who_ask() -> None:
    """As the status of the call; what was asked before is answered, what is under way is given up."""
    models = Models()
    models.gate.open("before")
    rpc = None

    async def call() -> None:
        nonlocal rpc
        messages = [message("echo", 1, "before"), message("nobody"), message("echo", 2, "after")]
        rpc = ListRpc(messages, {b"triton_grpc_error": b"true"})
        async with asyncio.timeout(SLOW_S):
            await models.stream(rpc)

    with pytest.raises(GrpcError) as caught:
        asyncio.run(call())

    assert (caught.value.status, caught.value.message) == (
        NOT_FOUND,
        "Request for unknown model: 'nobody' is not found",
    )
    assert rpc is not None
    assert [said(answer).infer_response.id for answer in rpc.sent] == ["before"]


def test_mlservers_clients_get_bare_responses() -> None:
    """And errors as the status of the call."""
    models = Models("mlserver")
    rpc = None

    async def call() -> None:
        nonlocal rpc
        rpc = ListRpc([message("count", 2, "a", triton_enable_empty_final_response=True), message("nobody")])
        await models.stream(rpc)

    with pytest.raises(GrpcError) as caught:
        asyncio.run(call())

    assert caught.value.status == NOT_FOUND
    assert rpc is not None
    for answer in rpc.sent:
        response = pool.parse("inference.ModelInferResponse", answer)
        assert (response.model_name, response.id) == ("count", "a")
        assert not response.parameters


def test_the_requests_under_way_are_bounded() -> None:
    """The next message is taken when one has been answered."""

    async def call() -> None:
        models = Models()
        rpc = ListRpc([message("echo", n, str(n)) for n in range(MOST_UNDER_WAY + 5)])
        answering = asyncio.create_task(models.stream(rpc))
        await settled(lambda: len(models.gate.begun) == MOST_UNDER_WAY)
        assert rpc.taken == MOST_UNDER_WAY
        models.gate.open("0")
        await rpc.until(lambda: rpc.taken == MOST_UNDER_WAY + 1)
        for n in range(MOST_UNDER_WAY + 5):
            models.gate.open(str(n))
        rpc.end()
        await answering
        assert [number(said(answer)) for answer in rpc.sent] == list(range(MOST_UNDER_WAY + 5))

    asyncio.run(call())


def test_a_caller_who_goes_ends_all_that_is_under_way() -> None:
    """The models are told, and the observers."""

    async def call() -> None:
        closed = asyncio.Event()

        async def forever(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
            try:
                while True:
                    yield InferenceResponse(request.version, {"n": request.inputs["n"]})
                    await asyncio.sleep(0)
            finally:
                closed.set()

        models = Models(streamer=FunctionStreamer(forever))
        rpc = ListRpc([message("echo", 1), message("count", 1)])
        answering = asyncio.create_task(models.stream(rpc))
        await rpc.until(lambda: len(rpc.sent) > 2)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        async with asyncio.timeout(SLOW_S):
            await closed.wait()
        refused = [event for event in models.service.events if isinstance(event, RequestRefused)]
        assert {event.version.name for event in refused if event.version} == {"echo", "count"}

    asyncio.run(call())


def test_each_response_has_the_time_of_a_request() -> None:
    """Counted anew after each; the call's own deadline stays."""
    deadlines: list[float] = []

    async def timed(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        for _ in range(2):
            deadlines.append(request.context.deadline_s)
            models.clock.advance(7.0)
            yield InferenceResponse(request.version, {"n": request.inputs["n"]})
        deadlines.append(request.context.deadline_s)

    models = Models(streamer=FunctionStreamer(timed), request_timeout_s=10.0)

    async def call() -> None:
        rpc = ListRpc([message("count", 1)])
        rpc.deadline_s = 120.0
        rpc.end()
        await models.stream(rpc)

    asyncio.run(call())

    assert deadlines == [110.0, 117.0, 120.0]


async def turns(number_of: int = 10) -> None:
    """Let everything run that can."""
    for _ in range(number_of):
        await asyncio.sleep(0)


async def settled(is_so: Any) -> None:
    """Let others run until something is true."""
    async with asyncio.timeout(SLOW_S):
        while not is_so():
            await asyncio.sleep(0)
