"""Binary tensors over HTTP: when they are used, and what answers are read."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from dukou.client.client import Client
from dukou.client.core import Answer
from dukou.client.errors import BadAnswer, InvalidInput, Overloaded, Refused
from dukou.client.http import HttpTransport
from dukou.client.oip_http import HttpWire
from dukou.core.errors import DukouError

LENGTH = "inference-header-content-length"


class Server:
    """An HTTP server in a function: a model that gives back its input, in the form in which it came."""

    def __init__(self, extensions: Any, datatype: str = "FP16") -> None:
        self.tensor = {"name": "X", "datatype": datatype, "shape": [-1, 2]}
        self.extensions = extensions
        self.busy = False
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if request.url.path == "/v2/models/echo":
            return httpx.Response(200, json={"name": "echo", "inputs": [self.tensor], "outputs": [self.tensor]})
        if request.url.path == "/v2":
            status = 429 if self.busy else 404 if self.extensions is None else 200
            return httpx.Response(status, json={"extensions": self.extensions})
        cut = int(request.headers.get(LENGTH, len(request.content)))
        text = json.dumps({"outputs": json.loads(request.content[:cut])["inputs"]}).encode()
        headers = {LENGTH: str(len(text))} if LENGTH in request.headers else {}
        return httpx.Response(200, content=text + request.content[cut:], headers=headers)

    def client(self) -> Client:
        return Client("http://x", "echo", transport=HttpTransport("http://x", transport=httpx.MockTransport(self)))


def test_arrays_travel_as_binary_data_where_the_server_has_it() -> None:
    """FP16, which has no form in JSON, goes and comes bit by bit; the server is asked once."""
    server = Server(["classification", "binary_tensor_data"])
    client = server.client()

    first, second = client.predict([[0.1, -2.0]]), client.predict([[1.0, np.inf]])

    assert first.dtype == np.float16
    assert first.tolist() == np.array([[0.1, -2.0]], np.float16).tolist()
    assert second.tolist() == [[1.0, np.inf]]
    assert [request.url.path for request in server.seen].count("/v2") == 1
    assert server.seen[-1].headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("extensions", [[], ["statistics"], None, "nonsense"])
def test_json_is_for_every_other_server(extensions: Any) -> None:
    """Without the extension, and where the server does not say or says nonsense."""
    server = Server(extensions, "FP32")

    answer = server.client().predict([[1.0, 2.0]])

    assert answer.tolist() == [[1.0, 2.0]]
    assert json.loads(server.seen[-1].content)["inputs"][0]["data"] == [1.0, 2.0]


def test_an_overloaded_server_is_not_taken_for_one_without_extensions() -> None:
    """What it has is asked again with the next call."""
    server = Server(["binary_tensor_data"])
    over = HttpTransport("http://x", transport=httpx.MockTransport(server))
    client = Client("http://x", "echo", retries=0, transport=over)
    server.busy = True
    with pytest.raises(Overloaded):
        client.predict([[1, 2]])
    server.busy = False

    assert client.predict([[1, 2]]).dtype == np.float16


@pytest.mark.parametrize("header", ["", "x", "-1", "99", "9" * 40, "²"])
def test_a_length_that_is_none_is_refused(header: str) -> None:
    """The header comes from the network."""
    with pytest.raises(DukouError):
        HttpWire("m", None).outputs(Answer(200, b'{"outputs":[]}', {LENGTH: header}))


def test_an_answer_of_binary_outputs_without_data_needs_no_header() -> None:
    """As Triton answers for tensors without elements."""
    empty = {"name": "y", "datatype": "FP32", "shape": [0, 2], "parameters": {"binary_data_size": 0}}

    outputs = HttpWire("m", None).outputs(Answer(200, json.dumps({"outputs": [empty]}).encode()))

    assert outputs["y"].shape == (0, 2)


def test_data_that_ends_early_is_a_bad_answer() -> None:
    """A proxy cut it off."""
    server = Server(["binary_tensor_data"])

    def cut(request: httpx.Request) -> httpx.Response:
        whole = server(request)
        if LENGTH not in whole.headers:
            return whole
        return httpx.Response(200, content=whole.content[:-1], headers={LENGTH: whole.headers[LENGTH]})

    over = HttpTransport("http://x", transport=httpx.MockTransport(cut))
    with pytest.raises(BadAnswer):
        Client("http://x", "echo", transport=over).predict([[1, 2]])


def events(*texts: str) -> httpx.Response:
    return httpx.Response(200, text="".join(texts), headers={"content-type": "text/event-stream; charset=utf-8"})


class Teller:
    """An HTTP server whose streaming model answers with `answer`."""

    def __init__(self, answer: httpx.Response, shape: list[int] | None = None) -> None:
        self.answer = answer
        self.shape = shape or [1]
        self.asked: Any = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v2/models/echo/generate_stream":
            inputs = [{"name": "prompt", "datatype": "BYTES", "shape": [-1, 1]}]
            outputs = [
                {"name": "text", "datatype": "BYTES", "shape": self.shape},
                {"name": "n", "datatype": "INT64", "shape": [1]},
            ]
            return httpx.Response(200, json={"name": "echo", "inputs": inputs, "outputs": outputs})
        self.asked = json.loads(request.content)
        return self.answer

    def client(self) -> Client:
        return Client("http://x", "echo", transport=HttpTransport("http://x", transport=httpx.MockTransport(self)))


def test_a_stream_over_http_is_events() -> None:
    """Lines may end either way, comments are left out, an event that is not whole is none."""
    answer = events(
        'data: {"model_name":"echo","text":"a","n":1}\n\n', ": a comment\n\n", 'data: {"text":["b"]}\r\n\r\n', "data: {"
    )
    teller = Teller(answer)

    responses = [*teller.client().stream([["say"]])]

    assert teller.asked == {"prompt": [["say"]]}
    assert [{name: array.tolist() for name, array in one.items()} for one in responses] == [
        {"text": ["a"], "n": [1]},
        {"text": ["b"]},
    ]
    assert responses[0]["n"].dtype == np.int64


def test_only_the_outputs_asked_for_come() -> None:
    """Events have all of them."""
    teller = Teller(events('data: {"text":"a","n":1}\n\n'))

    assert [[*one] for one in teller.client().stream([["say"]], "n")] == [["n"]]


def test_an_error_among_the_events_is_raised_after_what_came() -> None:
    """The status was good, as a stream's is before its end is known."""
    responses = Teller(events('data: {"n":1}\n\n', 'data: {"error":"the model failed"}\n\n')).client().stream([["say"]])

    assert next(responses)["n"].tolist() == [1]
    with pytest.raises(Refused, match="the model failed"):
        next(responses)


def test_a_refusal_before_the_first_event_is_the_status_s() -> None:
    """It is no stream."""
    with pytest.raises(InvalidInput, match="no such input"):
        next(Teller(httpx.Response(400, json={"error": "no such input"})).client().stream([["say"]]))


@pytest.mark.parametrize(
    ("event", "shape"),
    [
        ("data: []\n\n", [1]),
        ("data: {\n\n", [1]),
        ('data: {"text":["a","b"]}\n\n', [1]),
        ('data: {"text":"a"}\n\n', [-1, -1]),
    ],
)
def test_events_that_cannot_be_read_are_bad_answers(event: str, shape: list[int]) -> None:
    """No JSON object, or values that do not make up the shape."""
    with pytest.raises(BadAnswer):
        next(Teller(events(event), shape).client().stream([["say"]]))
