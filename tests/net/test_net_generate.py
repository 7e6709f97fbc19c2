"""Models that answer bit by bit: one object, or server-sent events."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import numpy as np
import pytest
from in_memory import Client, HandPlane, World, request

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import RequestRefused
from dukou.core.message import InferenceRequest, InferenceResponse
from dukou.core.model import Signature, TensorSpec
from dukou.testing.models import iris_like, manifest, served, table

TOKENS = Signature(
    "serving_default", (TensorSpec("prompt", "BYTES", (-1,)),), (TensorSpec("token", "BYTES", (-1,)),), streaming=True
)
BODY = b'{"prompt": "one two three", "temperature": 0.5}'


class Words:
    """Streams the words of its prompt; `$fail` fails there, `$wait` waits for the test."""

    def __init__(self) -> None:
        self.closed = 0
        self.go_on = asyncio.Event()
        self.parameters: Any = None

    async def stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        self.parameters = request.parameters
        try:
            for word in str(request.inputs["prompt"][0]).split():
                if word == "$fail":
                    raise DukouError(Reason.MODEL_FAILED)
                if word == "$wait":
                    await self.go_on.wait()
                yield InferenceResponse(request.version, {"token": np.array([word], object)})
        finally:
            self.closed += 1


def run(test: Callable[[World, Words], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def bounded() -> None:
        words = Words()
        llm = msgspec.structs.replace(served(manifest("llm", signatures=(TOKENS,))), streamer=words)
        async with asyncio.timeout(10):
            with World(plane=HandPlane(table(llm, iris_like())), **options) as world:
                await test(world, words)

    asyncio.run(bounded())


async def settle() -> None:
    """Let the loop do all that can be done."""
    for _ in range(50):
        await asyncio.sleep(0)


async def ask(world: World, target: str, body: bytes, *fields: str, dialect: str = "") -> Client:
    client = world.client(dialect).send(request("POST", target, body, *fields))
    await settle()
    return client


def events(client: Client) -> list[Any]:
    """The data of each event, chunk framing taken off."""
    _, _, body = client.transport.out.partition(b"\r\n\r\n")
    text = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        text, body = text + body[: int(size, 16)], body[int(size, 16) + 2 :]
    assert text == b"" or text.endswith(b"\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in text.split(b"\n\n") if event]


STREAM = "/v2/models/llm/generate_stream"


@pytest.mark.parametrize("dialect", ["", "triton"])
def test_each_response_is_an_event(dialect: str) -> None:
    """Inputs and parameters side by side in the request."""

    async def test(world: World, words: Words) -> None:
        client = await ask(world, STREAM, BODY, dialect=dialect)

        assert b"content-type: text/event-stream; charset=utf-8\r\n" in client.transport.out
        assert [event["token"] for event in events(client)] == ["one", "two", "three"]
        assert client.transport.out.endswith(b"0\r\n\r\n")
        assert words.parameters == {"temperature": 0.5}
        assert words.closed == 1

    run(test)


def test_events_go_out_as_they_come() -> None:
    """The client reads the first while the model makes the second."""

    async def test(world: World, words: Words) -> None:
        client = await ask(world, STREAM, b'{"prompt": "one $wait"}')
        assert len(events(client)) == 1
        words.go_on.set()
        await settle()

        assert len(events(client)) == 2

    run(test)


def test_what_fails_before_the_first_response_has_a_status() -> None:
    """And the body of every other error."""

    async def test(world: World, words: Words) -> None:
        for target, body, status in [
            (STREAM, b"{bad", 400),
            (STREAM, b'{"nothing": 1}', 400),
            (STREAM, b'{"prompt": "$fail"}', 500),
            ("/v2/models/nope/generate_stream", BODY, 404),
            ("/v2/models/llm/versions/9/generate", BODY, 404),
        ]:
            (said,) = (await ask(world, target, body)).answers()
            assert (said.status, said.headers["content-type"]) == (status, "application/json")
            assert list(json.loads(said.body)) == ["error"]

    run(test)


def test_what_fails_later_is_the_last_event() -> None:
    """The status is out by then; the connection stays."""

    async def test(world: World, words: Words) -> None:
        client = await ask(world, STREAM, b'{"prompt": "one $fail never"}')

        first, last = events(client)
        assert first["token"] == "one"
        assert list(last) == ["error"]
        assert client.transport.out.endswith(b"0\r\n\r\n")
        assert not client.transport.closed
        assert [event.code for event in world.events if isinstance(event, RequestRefused)] == [Code.INTERNAL]

    run(test)


def test_the_work_ends_when_the_client_goes() -> None:
    """Whether it waits for the first response or for another."""

    async def test(world: World, words: Words) -> None:
        early = await ask(world, STREAM, b'{"prompt": "$wait"}')
        early.vanish()
        await settle()
        assert words.closed == 1
        late = await ask(world, STREAM, b'{"prompt": "one $wait"}')
        late.vanish()
        await settle()

        assert words.closed == 2
        refused = [event for event in world.events if isinstance(event, RequestRefused)]
        assert [event.code for event in refused] == [Code.CANCELLED, Code.CANCELLED]

    run(test)


def test_generate_wants_exactly_one_response() -> None:
    """More than one is for the stream."""

    async def test(world: World, words: Words) -> None:
        (one,) = (await ask(world, "/v2/models/llm/generate", b'{"prompt": "one"}')).answers()
        (several,) = (await ask(world, "/v2/models/llm/generate", BODY)).answers()
        (none,) = (await ask(world, "/v2/models/llm/generate", b'{"prompt": " "}')).answers()

        assert (one.status, json.loads(one.body)["token"]) == (200, "one")
        assert (several.status, none.status) == (501, 501)
        assert words.closed == 3

    run(test)


def test_a_stream_without_responses_is_empty() -> None:
    """No event, and no error."""

    async def test(world: World, words: Words) -> None:
        client = await ask(world, STREAM, b'{"prompt": " "}')

        (said,) = client.answers()
        assert (said.status, said.body) == (200, b"")
        assert said.headers["content-type"].startswith("text/event-stream")

    run(test)


def test_a_model_with_one_answer_is_asked_the_same_way() -> None:
    """One event, or one object."""

    async def test(world: World, words: Words) -> None:
        body = b'{"X": [5.1, 3.5, 1.4, 0.2]}'
        client = await ask(world, "/v2/models/iris/generate_stream", body)
        (said,) = (await ask(world, "/v2/models/iris/generate", body)).answers()

        assert [event["label"] for event in events(client)] == [0]
        assert json.loads(said.body)["label"] == 0

    run(test)


def test_compressed_bodies_are_refused() -> None:
    """As Triton refuses them."""

    async def test(world: World, words: Words) -> None:
        client = await ask(world, STREAM, gzip.compress(BODY), "Content-Encoding: gzip")

        assert client.statuses == [400]

    run(test)


def test_mlservers_streams_have_the_infer_schema() -> None:
    """Under two names."""
    body = b'{"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["one two"]}]}'

    async def test(world: World, words: Words) -> None:
        for verb in ("generate_stream", "infer_stream"):
            client = await ask(world, f"/v2/models/llm/{verb}", body, dialect="mlserver")

            assert [event["outputs"][0]["data"] for event in events(client)] == [["one"], ["two"]]

    run(test)


def test_raw_data_cannot_be_in_events() -> None:
    """They are text."""
    body = (
        b'{"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["one"]}],'
        b'"parameters": {"binary_data_output": true}}'
    )

    async def test(world: World, words: Words) -> None:
        client = await ask(world, "/v2/models/llm/infer_stream", body, dialect="mlserver")

        assert client.statuses == [400]
        assert words.closed == 1

    run(test)


def test_each_response_has_its_time() -> None:
    """Not all of them together: the deadline moves with every one."""

    async def test(world: World, words: Words) -> None:
        seen: list[float] = []
        stream = words.stream

        async def noting(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
            async for response in stream(request):
                seen.append(request.context.deadline_s)
                world.clock.advance(20.0)
                yield response

        words.stream = noting  # type: ignore[method-assign]
        client = await ask(world, STREAM, BODY)

        assert len(events(client)) == 3
        assert seen == [1030.0, 1050.0, 1070.0]

    run(test)
