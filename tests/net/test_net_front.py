"""What clients of each server find: every difference between them, asked over HTTP/1.1."""

import gzip
import json
from typing import Any

import pytest
from in_memory import PREDICT, HandPlane, Said, World, request

from dukou import __version__
from dukou.config import PlainConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.message import Table
from dukou.core.model import State
from dukou.testing.models import iris_like, manifest, served, table

DIALECTS = ("", "tensorflow-serving", "triton", "kserve", "mlserver")
LOADING = table(iris_like(state=State.LOADING))
TWO_VERSIONS = table(iris_like(), iris_like(version=2), iris_like("other"))
V1 = b'{"instances": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}'
V2 = b'{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}'
METRICS_PATH = "/monitoring/prometheus/metrics"


def ask(
    dialect: str, method: str, target: str, body: bytes = b"", *fields: str, of: Table | None = None, **options: Any
) -> Said:
    """The answer of a listener of that dialect."""
    with World(plane=HandPlane(of), **options) as world:
        (said,) = world.client(dialect).send(request(method, target, body, *fields)).answers()
    return said


def told(said: Said) -> tuple[int, Any]:
    """The status, and the body as JSON where there is one."""
    return said.status, json.loads(said.body) if said.body else None


UNKNOWN = "Request for unknown model: 'nope' is not found"


@pytest.mark.parametrize(
    ("dialect", "target", "status", "body"),
    [
        ("kserve", "/v1/models/iris", 200, {"name": "iris", "ready": True}),
        ("kserve", "/v1/models/nope", 404, {"error": "Model with name nope does not exist."}),
        ("kserve", "/v1/models", 200, {"models": ["iris"]}),
        ("tensorflow-serving", "/v1/models", 400, {"error": "Missing model name in request."}),
        ("", "/v1/models", 400, {"error": "Missing model name in request."}),
        ("kserve", "/", 200, {"status": "alive"}),
        ("triton", "/", 404, {"error": "Not Found"}),
        ("mlserver", "/", 404, {"error": "Not Found"}),
        ("", "/v2/health/live", 200, {"live": True}),
        ("kserve", "/v2/health/live", 200, {"live": True}),
        ("triton", "/v2/health/live", 200, None),
        ("mlserver", "/v2/health/live", 200, None),
        ("", "/v2/health/ready", 200, {"ready": True}),
        ("kserve", "/v2/health/ready", 200, {"ready": True}),
        ("triton", "/v2/health/ready", 200, None),
        ("mlserver", "/v2/health/ready", 200, None),
        ("", "/v2/models/iris/ready", 200, {"name": "iris", "ready": True}),
        ("kserve", "/v2/models/iris/ready", 200, {"name": "iris", "ready": True}),
        ("triton", "/v2/models/iris/ready", 200, None),
        ("mlserver", "/v2/models/iris/ready", 200, None),
        ("triton", "/v2/models/nope/ready", 404, {"error": UNKNOWN}),
        ("kserve", "/v2/models/nope/ready", 404, {"error": "Model with name nope does not exist."}),
        ("mlserver", "/v2/models/nope/ready", 404, {"error": "Model nope not found"}),
    ],
)
def test_reading_a_path_is_answered_as_its_clients_expect(dialect: str, target: str, status: int, body: Any) -> None:
    """Paths that two servers have, with other bodies."""
    assert told(ask(dialect, "GET", target)) == (status, body)


@pytest.mark.parametrize(
    ("dialect", "name"), [("", "dukou"), ("triton", "triton"), ("kserve", "kserve"), ("mlserver", "mlserver")]
)
def test_the_server_has_the_name_that_clients_look_for(dialect: str, name: str) -> None:
    """With its own version."""
    status, body = told(ask(dialect, "GET", "/v2"))

    assert (status, body["name"], body["version"]) == (200, name, __version__)


@pytest.mark.parametrize(("dialect", "status"), [("", 200), ("triton", 404), ("kserve", 307), ("mlserver", 307)])
def test_a_slash_too_many(dialect: str, status: int) -> None:
    """Taken, unknown or redirected."""
    said = ask(dialect, "GET", "/v2/")

    assert said.status == status
    assert said.headers.get("location") == ("/v2" if status == 307 else None)


@pytest.mark.parametrize(
    ("dialect", "target", "status", "body"),
    [
        ("", "/v1/models/nope:predict", 404, {"error": "Servable not found for request: Latest(nope)"}),
        (
            "tensorflow-serving",
            "/v1/models/nope:predict",
            404,
            {"error": "Servable not found for request: Latest(nope)"},
        ),
        ("", "/v2/models/nope/infer", 404, {"error": UNKNOWN}),
        ("triton", "/v2/models/nope/infer", 404, {"error": UNKNOWN}),
        ("kserve", "/v2/models/nope/infer", 404, {"error": "Model with name nope does not exist."}),
        ("kserve", "/v1/models/nope:predict", 404, {"error": "Model with name nope does not exist."}),
        ("kserve", "/v1/models/nope:explain", 404, {"error": "Model with name nope does not exist."}),
        ("mlserver", "/v2/models/nope/infer", 404, {"error": "Model nope not found"}),
        ("mlserver", "/v2/models/iris/versions/3/infer", 404, {"error": "Model iris with version 3 not found"}),
    ],
)
def test_a_call_of_an_unknown_model_is_refused_in_known_words(
    dialect: str, target: str, status: int, body: Any
) -> None:
    """404 everywhere, but each with its own sentence."""
    assert told(ask(dialect, "POST", target, V1 if target.startswith("/v1") else V2)) == (status, body)


@pytest.mark.parametrize(
    ("dialect", "target", "status", "key"),
    [
        ("", "/v1/models/iris:predict", 400, "error"),
        ("tensorflow-serving", "/v1/models/iris:predict", 400, "error"),
        ("", "/v2/models/iris/infer", 400, "error"),
        ("triton", "/v2/models/iris/infer", 500, "error"),
        ("kserve", "/v2/models/iris/infer", 422, "detail"),
        ("kserve", "/v1/models/iris:predict", 422, "detail"),
        ("mlserver", "/v2/models/iris/infer", 422, "detail"),
        ("", "/invocations", 400, "message"),
    ],
)
def test_what_is_no_json_has_the_status_and_form_of_its_server(
    dialect: str, target: str, status: int, key: str
) -> None:
    """A list of problems from those made with FastAPI, text from the others."""
    code, body = told(ask(dialect, "POST", target, b"{bad"))

    assert code == status
    assert isinstance(body[key], list if key == "detail" else str)


@pytest.mark.parametrize(
    ("dialect", "method", "target", "status"),
    [
        ("", "POST", "/v1/models/iris:predict", 503),
        ("tensorflow-serving", "POST", "/v1/models/iris:predict", 404),
        ("", "POST", "/v2/models/iris/infer", 503),
        ("triton", "POST", "/v2/models/iris/infer", 400),
        ("kserve", "POST", "/v2/models/iris/infer", 503),
        ("kserve", "POST", "/v1/models/iris:predict", 503),
        ("mlserver", "POST", "/v2/models/iris/infer", 400),
        ("", "GET", "/v2/models/iris/ready", 400),
        ("triton", "GET", "/v2/models/iris/ready", 400),
        ("kserve", "GET", "/v2/models/iris/ready", 503),
        ("kserve", "GET", "/v1/models/iris", 503),
        ("mlserver", "GET", "/v2/models/iris/ready", 400),
        ("", "GET", "/v2/health/ready", 503),
        ("triton", "GET", "/v2/health/ready", 400),
        ("kserve", "GET", "/v2/health/ready", 503),
        ("mlserver", "GET", "/v2/health/ready", 400),
        ("", "GET", "/ping", 503),
    ],
)
def test_a_model_that_is_loading_has_the_status_of_its_server(
    dialect: str, method: str, target: str, status: int
) -> None:
    """For probes and for calls."""
    said = ask(dialect, method, target, (V1 if "v1" in target else V2) if method == "POST" else b"", of=LOADING)

    assert said.status == status


@pytest.mark.parametrize(
    ("dialect", "method", "target", "status"),
    [
        ("", "POST", "/v1/models/bad:predict", 404),
        ("", "GET", "/v1/models/bad/metadata", 404),
        ("", "POST", "/v2/models/bad/infer", 503),
        ("", "GET", "/v2/models/bad", 503),
        ("", "POST", "/predict/bad", 503),
        ("", "POST", "/invocations", 503),
        ("tensorflow-serving", "POST", "/v1/models/bad:predict", 404),
        ("triton", "POST", "/v2/models/bad/infer", 400),
        ("kserve", "POST", "/v2/models/bad/infer", 503),
        ("kserve", "POST", "/v1/models/bad:predict", 503),
        ("mlserver", "POST", "/v2/models/bad/infer", 400),
    ],
)
def test_a_model_that_could_not_be_loaded_is_refused_with_the_cause(
    dialect: str, method: str, target: str, status: int
) -> None:
    """In the form of each protocol; the status is that of a model that is not ready."""
    cause = DukouError(Reason.ARTIFACT_UNREADABLE, path="m/config.pbtxt", detail="line 1")
    bad = table(served(manifest("bad"), state=State.END, error=cause))
    bodies = {"v1": V1, "v2": V2, "predict": PREDICT, "invocations": V1}
    body = bodies[target.split("/")[1]] if method == "POST" else b""

    said = ask(dialect, method, target, body, of=bad)

    assert said.status == status
    assert b"it could not be loaded: m/config.pbtxt: line 1" in said.body


@pytest.mark.parametrize(
    ("dialect", "target", "body"),
    [
        ("", "/v1/models/iris:predict", V1),
        ("tensorflow-serving", "/v1/models/iris:predict", V1),
        ("kserve", "/v1/models/iris:predict", V1),
        ("", "/v2/models/iris/infer", V2),
        ("triton", "/v2/models/iris/infer", V2),
        ("kserve", "/v2/models/iris/infer", V2),
        ("mlserver", "/v2/models/iris/infer", V2),
        ("", "/predict", PREDICT),
        ("", "/invocations", b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'),
        ("mlserver", "/invocations", b'{"inputs": [[5.1, 3.5, 1.4, 0.2]]}'),
        ("", "/v2/models/iris/generate", b'{"X": [5.1, 3.5, 1.4, 0.2]}'),
    ],
)
def test_the_same_model_answers_every_protocol(dialect: str, target: str, body: bytes) -> None:
    """The setosa of the iris data, each time."""
    with World() as world:
        said = (
            in_loop(world, dialect, request("POST", target, body))
            if target.endswith("generate")
            else world.client(dialect).send(request("POST", target, body)).answers()[0]
        )

    assert said.status == 200
    assert b"0" in said.body


def in_loop(world: World, dialect: str, data: bytes) -> Said:
    """The answer to `data` where it takes an event loop."""
    import asyncio

    async def exchange() -> Said:
        client = world.client(dialect).send(data)
        async with asyncio.timeout(10):
            while not client.answers():
                await asyncio.sleep(0)
        return client.answers()[0]

    return asyncio.run(exchange())


@pytest.mark.parametrize("body", [V1, b'{"inputs": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}'])
def test_kserve_answers_predictions_whatever_was_asked(body: bytes) -> None:
    """TensorFlow Serving answers `inputs` with `outputs`."""
    status, said = told(ask("kserve", "POST", "/v1/models/iris:predict", body))

    assert status == 200
    assert [row["label"] for row in said["predictions"]] == [0, 2]


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("X-None: 1", 200),
        ("Content-Type: application/json; charset=utf-8", 200),
        ("Content-Type: application/cloudevents+json", 200),
        ("Content-Type: text/plain", 400),
    ],
)
def test_kserve_wants_json_to_be_called_so(field: str, status: int) -> None:
    """Or not to be called anything."""
    assert ask("kserve", "POST", "/v1/models/iris:predict", V1, field).status == status


def test_kserve_says_of_a_model_that_is_served_that_it_is_loaded() -> None:
    """It cannot load others, nor unload."""
    load = told(ask("kserve", "POST", "/v2/repository/models/iris/load"))
    other = told(ask("kserve", "POST", "/v2/repository/models/nope/load"))
    unload = ask("kserve", "POST", "/v2/repository/models/iris/unload")

    assert load == (200, {"name": "iris", "load": True})
    assert other == (404, {"error": "Model with name nope does not exist."})
    assert unload.status == 501


def test_kserve_has_no_explainer() -> None:
    """Which is 501, not 404."""
    assert ask("kserve", "POST", "/v1/models/iris:explain", V1).status == 501


@pytest.mark.parametrize("dialect", DIALECTS[:1] + DIALECTS[2:])
@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}'])
def test_the_index_lists_every_version(dialect: str, body: bytes) -> None:
    """With its state; an empty body is allowed, because tritonclient sends none."""
    said = told(ask(dialect, "POST", "/v2/repository/index", body, of=TWO_VERSIONS))

    assert said[0] == 200
    assert [(one["name"], one["version"], one["state"]) for one in said[1]] == [
        ("iris", "1", "READY"),
        ("iris", "2", "READY"),
        ("other", "1", "READY"),
    ]


def test_the_index_takes_compressed_bodies_but_no_large_ones() -> None:
    """A small bomb costs little."""
    bomb = gzip.compress(bytes(10_000_000))

    assert ask("", "POST", "/v2/repository/index", gzip.compress(b"{}"), "Content-Encoding: gzip").status == 200
    assert ask("", "POST", "/v2/repository/index", bomb, "Content-Encoding: gzip").status == 413
    assert ask("", "POST", "/v2/repository/index", b" " * 70_000).status == 413


@pytest.mark.parametrize(
    ("target", "versions"),
    [
        ("/v2/models/stats", ["2", "1", "1"]),
        ("/v2/models/iris/stats", ["2", "1"]),
        ("/v2/models/iris/versions/1/stats", ["1"]),
    ],
)
def test_statistics_are_of_all_of_one_model_or_of_one_version(target: str, versions: list[str]) -> None:
    """Of those that are served, counted or not."""
    with World(plane=HandPlane(TWO_VERSIONS)) as world:
        said = in_loop(world, "triton", request("GET", target))

    assert [one["version"] for one in json.loads(said.body)["model_stats"]] == versions


def test_statistics_of_an_unknown_model_are_refused() -> None:
    """In the protocol's words."""
    with World() as world:
        assert told(in_loop(world, "triton", request("GET", "/v2/models/nope/stats"))) == (404, {"error": UNKNOWN})


def test_a_models_configuration_is_tritons() -> None:
    """Sizes without the row axis."""
    status, said = told(ask("triton", "GET", "/v2/models/iris/config"))

    assert status == 200
    assert said["input"][0]["data_type"] == "TYPE_FP32"
    assert said["input"][0]["dims"] == [4]


@pytest.mark.parametrize(("dialect", "asked"), [("", ""), ("triton", "triton"), ("mlserver", "mlserver")])
def test_metrics_are_made_for_the_dialect(dialect: str, asked: str) -> None:
    """Dashboards know them by other names."""
    seen: list[str] = []

    def metrics(of: str) -> bytes:
        seen.append(of)
        return b"up 1\n"

    with World(metrics=metrics) as world:
        said = in_loop(world, dialect, request("GET", "/metrics"))

    assert (said.status, said.body, seen) == (200, b"up 1\n", [asked])


@pytest.mark.parametrize("dialect", ["", "tensorflow-serving"])
def test_tensorflow_servings_metrics_are_at_their_path(dialect: str) -> None:
    """As plain text."""
    with World() as world:
        said = in_loop(world, dialect, request("GET", METRICS_PATH))

    assert (said.status, said.body) == (200, b":tensorflow:serving:request_count 1\n")
    assert said.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("cors", [False, True])
@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/v1/models/iris:predict", V1),
        ("POST", "/v1/models/iris:predict", b"{bad"),
        ("GET", "/v1/models/iris", b""),
        ("GET", "/v1/models/nope", b""),
        ("GET", "/v1/nothing", b""),
        ("OPTIONS", "/v1/models/iris:predict", b""),
    ],
)
def test_cors_headers_are_on_every_answer_below_v1(method: str, target: str, body: bytes, cors: bool) -> None:
    """When they are asked for, as TensorFlow Serving's flag does."""
    said = ask("", method, target, body, "Origin: http://elsewhere", cors=cors)

    found = {name: value for name, value in said.headers.items() if name.startswith("access-control")}
    wanted = {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "POST, GET",
        "access-control-allow-headers": "Content-Type",
    }
    assert found == (wanted if cors else {})


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(V1), 200),
        ("x-gzip, identity", gzip.compress(V1), 200),
        ("br", V1, 200),
        ("gzip", b"rubbish", 400),
        ("gzip", gzip.compress(bytes(200_000)), 413),
    ],
)
def test_tensorflow_serving_unpacks_what_says_gzip_somewhere(encoding: str, body: bytes, status: int) -> None:
    """And takes every other body as it is; what cannot be unpacked is an empty document."""
    with World(max_body_bytes=100_000) as world:
        said = in_loop(world, "", request("POST", "/v1/models/iris:predict", body, f"Content-Encoding: {encoding}"))

    assert said.status == status
    if body == b"rubbish":
        assert "document is empty" in json.loads(said.body)["error"]


def test_the_simple_route_is_as_it_is_set() -> None:
    """Path and keys, in calls, errors and on the page."""
    plain = PlainConfig("/api/score", "rows", "answers")
    body = PREDICT.replace(b"X", b"rows")

    assert told(ask("", "POST", "/api/score", body, plain=plain)) == (200, {"answers": [0]})
    assert told(ask("", "POST", "/predict", PREDICT, plain=plain))[0] == 404
    assert '{"rows": [[...], ...]}' in told(ask("", "POST", "/api/score", b"{}", plain=plain))[1]["error"]
    assert b"/api/score" in ask("", "GET", "/", plain=plain).body
    assert b"rows" in ask("", "GET", "/", plain=plain).body


@pytest.mark.parametrize("target", ["/ping", "/health"])
def test_mlflow_and_sagemaker_ask_for_health_in_their_way(target: str) -> None:
    """A status, and next to no body."""
    said = ask("", "GET", target)

    assert (said.status, said.body) == (200, b"\n")


def test_mlflow_is_told_the_version() -> None:
    """As plain text."""
    assert ask("", "GET", "/version").body == __version__.encode()


def test_what_mlflow_does_not_read_is_415() -> None:
    """With its own form of error."""
    status, said = told(ask("", "POST", "/invocations", b"<a/>", "Content-Type: application/xml"))

    assert status == 415
    assert said["error_code"] == "BAD_REQUEST"
    assert "application/xml" in said["message"]
