"""Health, metadata, status, metrics, and the page that says what is served."""

import asyncio
import json
import logging
from html.parser import HTMLParser
from typing import Any

import pytest
from in_memory import HandPlane, Said, World, request

from dukou import __version__
from dukou.config import PlainConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Served, Table
from dukou.core.model import ModelRef, Signature, State, TensorSpec
from dukou.net.dialects import EXTENSIONS
from dukou.net.health import server_ready
from dukou.net.landing import as_html, as_json, examples, wants_json
from dukou.testing.models import IRIS_SIGNATURE, iris_like, manifest, served, table
from dukou.wire import oip_http, oip_metadata, tf_rest
from dukou.wire.plain import Plain

LOADING = iris_like(version=2, state=State.LOADING)
ENDED = iris_like(version=1, state=State.END)
UNLOADING = iris_like(version=1, state=State.UNLOADING)
UNLOADED = served(manifest(), state=State.END, error=DukouError(Reason.NOT_SERVING, detail="unloaded"))
FAILED = served(manifest(), state=State.END, error=DukouError(Reason.NOT_SERVING, detail="its folder is empty"))
SECOND = iris_like(version=2)


def get(target: str, of: Table | None = None, *fields: str, method: str = "GET") -> Said:
    """The answer to one request."""
    with World(plane=HandPlane(of)) as world:
        (said,) = world.client().send(request(method, target, b"", *fields)).answers()
    return said


@pytest.mark.parametrize(
    ("versions", "ready"),
    [
        ((), False),
        ((iris_like(),), True),
        ((iris_like(), SECOND), True),
        ((iris_like(), LOADING), True),
        ((LOADING,), False),
        ((ENDED,), False),
        ((UNLOADED,), True),
        ((UNLOADED, LOADING), False),
        ((UNLOADED, iris_like("other")), True),
        ((FAILED,), False),
        ((ENDED, SECOND), True),
        ((UNLOADING, SECOND), True),
        ((UNLOADING,), False),
        ((iris_like(), iris_like("other", state=State.END)), False),
        ((iris_like(), iris_like("other")), True),
    ],
)
def test_the_server_is_ready_when_everything_answers(versions: tuple[Served, ...], ready: bool) -> None:
    """Versions on their way in or out do not count while another one of the model answers, nor do models that were
    unloaded on purpose."""
    assert server_ready(table(*versions)) is ready


def test_liveness_is_json() -> None:
    """Some clients read it."""
    said = get("/v2/health/live")

    assert (said.status, json.loads(said.body)) == (200, {"live": True})


@pytest.mark.parametrize(("of", "status"), [(table(iris_like()), 200), (table(LOADING), 503)])
def test_readiness_has_a_status_for_probes_and_a_body_for_clients(of: Table, status: int) -> None:
    """A kubelet reads the status, a KServe client the body."""
    said = get("/v2/health/ready", of)

    assert (said.status, json.loads(said.body)) == (status, {"ready": status == 200})


@pytest.mark.parametrize(
    ("target", "of", "status", "body"),
    [
        ("/v2/models/iris/ready", table(iris_like()), 200, {"name": "iris", "ready": True}),
        ("/v2/models/iris/versions/1/ready", table(iris_like()), 200, {"name": "iris", "ready": True}),
        ("/v2/models/iris/ready", table(LOADING), 400, {"name": "iris", "ready": False}),
        ("/v2/models/iris/ready", table(iris_like(), LOADING), 200, {"name": "iris", "ready": True}),
        ("/v2/models/iris/versions/2/ready", table(iris_like(), LOADING), 400, {"name": "iris", "ready": False}),
    ],
)
def test_a_model_is_ready_when_the_version_asked_for_answers(
    target: str, of: Table, status: int, body: dict[str, Any]
) -> None:
    """Triton's clients read the status, KServe's the body."""
    said = get(target, of)

    assert (said.status, json.loads(said.body)) == (status, body)


@pytest.mark.parametrize("target", ["/v2/models/other/ready", "/v2/models/iris/versions/9/ready", "/v2/models/other"])
def test_an_unknown_model_is_404(target: str) -> None:
    """With the protocol's error body."""
    said = get(target)

    assert said.status == 404
    assert list(json.loads(said.body)) == ["error"]


def test_a_draining_server_is_not_ready() -> None:
    """Load balancers look elsewhere while it finishes."""
    with World() as world:
        client = world.client().send(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        world.server.connections.drain(lambda: None)
        client.send(b"x")

    assert client.statuses == [503]


def test_server_metadata_names_the_server() -> None:
    """With and without a slash at the end."""
    assert get("/v2").body == get("/v2/").body == oip_metadata.server_metadata("dukou", __version__, EXTENSIONS)


@pytest.mark.parametrize(("target", "version"), [("/v2/models/iris", 2), ("/v2/models/iris/versions/1", 1)])
def test_model_metadata_is_of_the_version_asked_for(target: str, version: int) -> None:
    """The highest where none is."""
    of = table(iris_like(), SECOND)

    said = get(target, of)

    assert said.body == oip_metadata.model_metadata("iris", of.models["iris"], of.models["iris"][version])


@pytest.mark.parametrize("target", ["/v1/models/iris", "/v1/models/iris/labels/any"])
def test_tf_status_lists_all_versions(target: str) -> None:
    """A label is not resolved, as in TensorFlow Serving."""
    of = table(ENDED, SECOND)

    said = get(target, of)

    assert said.body == tf_rest.model_status("iris", of.models["iris"], None)
    assert len(json.loads(said.body)["model_version_status"]) == 2


def test_tf_status_of_one_version_is_of_that_one() -> None:
    """And of an unknown one 404, in TensorFlow Serving's words."""
    (one,) = json.loads(get("/v1/models/iris/versions/1", table(ENDED, SECOND)).body)["model_version_status"]
    unknown = get("/v1/models/other")

    assert (one["version"], one["state"]) == ("1", "END")
    assert unknown.status == 404
    assert json.loads(unknown.body) == {"error": "Could not find any versions of model other"}


@pytest.mark.parametrize(
    ("fields", "status"),
    [((), 400), (("Origin: http://a",), 200), (("Origin: https://a",), 200), (("Origin: a",), 400)],
)
def test_tf_options_depends_on_the_origin(fields: tuple[str, ...], status: int) -> None:
    """With an empty body either way."""
    said = get("/v1/models/iris:predict", None, *fields, method="OPTIONS")

    assert (said.status, said.body) == (status, b"")


def in_loop(world: World, data: bytes) -> Said:
    """The answer to `data` where it takes an event loop."""

    async def exchange() -> Said:
        client = world.client().send(data)
        async with asyncio.timeout(10):
            while not client.statuses:
                await asyncio.sleep(0.001)
        return client.answers()[0]

    return asyncio.run(exchange())


def test_metrics_are_text() -> None:
    """In Prometheus' exposition format, made off the loop."""
    with World() as world:
        said = in_loop(world, request("GET", "/metrics"))

    assert (said.status, said.body) == (200, b"dukou_up 1\n")
    assert said.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_metrics_that_fail_are_500(caplog: pytest.LogCaptureFixture) -> None:
    """The log says why."""

    def fail(dialect: str) -> bytes:
        raise ZeroDivisionError("secret")

    with World(metrics=fail) as world, caplog.at_level(logging.ERROR, "dukou.net"):
        said = in_loop(world, request("GET", "/metrics"))

    assert said.status == 500
    assert b"secret" not in said.body
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        (b"", False),
        (b"*/*", False),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        (b"application/json", True),
        (b"Application/JSON ; q=0.5", True),
        (b"application/*", True),
        (b"application/json, text/html", False),
        (b"application/json, text/html;q=0.9", True),
        (b"application/json;q=0.1, */*;q=0.5", False),
        (b"text/html;q=0, */*", True),
        (b"application/json;q=x", False),
        (b"application/json;q=nan", False),
        (b";,;q", False),
    ],
)
def test_json_is_shown_to_those_who_prefer_it(accept: bytes, json_wanted: bool) -> None:
    """RFC 9110's weights and the most specific range; HTML wins a draw."""
    assert wants_json(accept) is json_wanted


class Page(HTMLParser):
    """The elements and the text of a page; fails on tags that do not match."""

    VOID = {"meta", "br"}

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.commands: list[str] = []
        self.text = ""
        self.feed(html.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "pre":
            self.commands.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "pre" in self.open:
            self.commands[-1] += data


def test_the_page_says_what_is_served_and_how_to_call_it() -> None:
    """Complete in itself: nothing is fetched from elsewhere, no script is needed."""
    said = get("/", table(iris_like(), LOADING, labels={"iris": {"stable": 1}}), "Host: 127.0.0.1:8501")

    page = Page(said.body)
    assert said.headers["content-type"] == "text/html; charset=utf-8"
    for word in ("iris", "AVAILABLE", "LOADING", "stable", "FP32", "[any, 4]", "probabilities", "gRPC"):
        assert word in page.text
    assert "script" not in page.tags
    assert all(link.startswith("/") for link in page.links)
    assert len(page.commands) == 3


HOSTILE = "<script>alert('x')</script>&\"'`$(id)"


def test_names_cannot_break_the_page_or_the_commands() -> None:
    """They are escaped for HTML, for URLs and for the shell."""
    signature = Signature("serving_default", (TensorSpec(HOSTILE, "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1,)),))
    one = served(manifest(HOSTILE, signatures=(signature,)), error=DukouError(Reason.MALFORMED_REQUEST, detail=HOSTILE))

    page = Page(as_html(table(one), "1", "http://localhost", PlainConfig()))

    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert "'\\''x'\\''" in page.commands[2]
    assert "$" not in page.commands[0].splitlines()[0]


@pytest.mark.parametrize("host", ['evil"><script>', "a b", "é"])
def test_a_strange_host_is_not_shown(host: str) -> None:
    """It comes from the caller."""
    with World() as world:
        raw = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
        (said,) = world.client().send(raw).answers()

    assert b"http://localhost/predict" in said.body


def test_the_page_as_json() -> None:
    """For programs, with the same content."""
    said = get("/", table(iris_like(), LOADING), "Accept: application/json")

    shown = json.loads(said.body)
    assert said.headers["vary"] == "accept"
    assert [version["state"] for version in shown["models"][0]["versions"]] == ["LOADING", "AVAILABLE"]
    assert shown["models"][0]["versions"][0]["signatures"]["serving_default"]["inputs"] == [
        {"name": "X", "datatype": "FP32", "shape": [-1, 4]}
    ]


def test_an_empty_table_is_shown() -> None:
    """A server may start before its first model."""
    assert "No model is served yet." in Page(as_html(table(), "1", "http://localhost", PlainConfig())).text
    assert json.loads(as_json(table(), "1"))["models"] == []


FRAME = Signature(
    "serving_default", (TensorSpec("X", "FP64", (-1, 2), ("age", "sex")),), (TensorSpec("y", "INT64", (-1,)),)
)
TWO = Signature(
    "serving_default",
    (TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "BYTES", (-1, 2))),
    (TensorSpec("y", "INT64", (-1,)),),
)
OPEN = Signature("serving_default", (TensorSpec("X", "FP32", (-1, -1)),), (TensorSpec("y", "INT64", (-1,)),))


@pytest.mark.parametrize("signature", [IRIS_SIGNATURE, FRAME, TWO, OPEN])
def test_the_examples_are_understood(signature: Signature) -> None:
    """Each body of the page fits its protocol and the signature, with one row."""
    one = served(manifest(signatures=(signature,)))
    bodies = [
        command.partition("-d '")[2].removesuffix("'").encode()
        for _, command in examples("iris", signature, "http://localhost", True, PlainConfig())
    ]

    for codec, body in zip((Plain(), tf_rest, oip_http), bodies, strict=True):
        bound = codec.bind(codec.parse(ModelRef("iris"), {}, body), one, Context())
        assert bound.rows == 1


def test_a_row_too_large_to_print_has_no_example() -> None:
    """An image's 150 528 numbers help nobody."""
    signature = Signature(
        "serving_default", (TensorSpec("X", "FP32", (-1, 3, 224, 224)),), (TensorSpec("y", "INT64", (-1,)),)
    )

    assert examples("resnet", signature, "http://localhost", True, PlainConfig()) == ()


def test_a_streaming_model_is_shown_with_its_stream() -> None:
    """The unary calls would refuse it."""
    signature = Signature(
        "serving_default", (TensorSpec("prompt", "BYTES", (-1,)),), (TensorSpec("y", "BYTES", (-1,)),), streaming=True
    )

    ((_, command),) = examples("llm", signature, "http://localhost", True, PlainConfig())

    assert command == 'curl -N http://localhost/v2/models/llm/generate_stream \\\n  -d \'{"prompt":"text"}\''
