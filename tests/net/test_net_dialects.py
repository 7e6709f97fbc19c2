"""Method and target to what is meant, in each dialect."""

import json
from typing import Any, cast

import pytest

from dukou.config import PlainConfig
from dukou.core.model import ModelRef
from dukou.net import pages
from dukou.net.api import Api, Call, Generation
from dukou.net.dialects import surface
from dukou.net.exchange import Answer
from dukou.net.facts import Facts
from dukou.net.routes import Page, Route, Show
from dukou.wire import kserve, mlflow, oip_generate, oip_http, tf_rest
from dukou.wire.plain import Plain
from dukou.wire.tf_rest_examples import CLASSIFY, REGRESS

NO_FACTS = Facts(*cast(Any, [None] * 6))  # routes are made of a dialect and of what callers may do
METRICS_PATH = "/monitoring/prometheus/metrics"
ROUTES = {
    dialect: surface(dialect, NO_FACTS, PlainConfig(), serving_metrics_path=METRICS_PATH).routes
    for dialect in ("", "tensorflow-serving", "triton", "kserve", "mlserver")
}


def route(method: str, target: str, dialect: str = "") -> Route:
    return ROUTES[dialect].find(method.encode(), target.encode())


def codec_of(found: Route) -> Any:
    assert isinstance(found, Call | Generation), found
    return found.api.codec


@pytest.mark.parametrize(
    ("target", "ref"),
    [
        ("/predict", ModelRef("")),
        ("/predict?a=/x", ModelRef("")),
        ("http://host:1/predict", ModelRef("")),
        ("/predict/iris", ModelRef("iris")),
        ("/predict/a%2Fb%20c", ModelRef("a/b c")),
    ],
)
def test_the_simple_route_may_name_a_model(target: str, ref: ModelRef) -> None:
    """Or leave it out, where there is only one."""
    found = route("POST", target)

    assert isinstance(found, Call)
    assert isinstance(found.api.codec, Plain)
    assert found.ref == ref


def test_the_simple_route_is_where_the_settings_have_it() -> None:
    """And nowhere else."""
    routes = surface("", NO_FACTS, PlainConfig(route="/api/score.v1")).routes

    assert isinstance(routes.find(b"POST", b"/api/score.v1"), Call)
    assert isinstance(routes.find(b"POST", b"/api/score.v1/iris"), Call)
    for other in (b"/predict", b"/api/scoreXv1", b"/api/score.v1/"):
        assert cast(Answer, routes.find(b"POST", other)).status == 404


@pytest.mark.parametrize("dialect", ["", "triton", "mlserver"])
@pytest.mark.parametrize(
    ("target", "ref"),
    [
        ("/v2/models/iris/infer", ModelRef("iris")),
        ("/v2/models/iris/versions/7/infer", ModelRef("iris", 7)),
        ("/v2/models/iris/versions/000000000000000000012/infer", ModelRef("iris", 12)),
        ("/v2/models/iris/versions/" + "0" * 6000 + "1/infer", ModelRef("iris", 1)),
        ("/v2/models/%E6%B8%A1%E5%8F%A3/infer", ModelRef("渡口")),
        ("/v2/models/a:b/infer", ModelRef("a:b")),
        ("/v2/models/stats/infer", ModelRef("stats")),
    ],
)
def test_an_infer_names_its_model(target: str, ref: ModelRef, dialect: str) -> None:
    """And perhaps its version."""
    found = route("POST", target, dialect)

    assert codec_of(found) is oip_http
    assert cast(Call, found).ref == ref


@pytest.mark.parametrize("dialect", ["", "tensorflow-serving"])
@pytest.mark.parametrize(
    ("target", "ref"),
    [
        ("/v1/models/iris:predict", ModelRef("iris")),
        ("/V1/MODELS/iris/VERSIONS/007:predict", ModelRef("iris", 7)),
        ("/v1/models/iris/labels/stable:predict", ModelRef("iris", None, "stable")),
        ("/v1/models/a%3Ab/labels/x%2Fy:predict", ModelRef("a:b", None, "x/y")),
        ("/v1/models/iris/versions/9223372036854775807:predict", ModelRef("iris", 2**63 - 1)),
        ("/v1/models/iris/versions/0000000000000000000000001:predict", ModelRef("iris", 1)),
        ("/v1/models/iris/versions/" + "0" * 6000 + "1:predict", ModelRef("iris", 1)),
    ],
)
def test_a_predict_of_tensorflow_serving_names_its_model(target: str, ref: ModelRef, dialect: str) -> None:
    """By name, version or label."""
    found = route("POST", target, dialect)

    assert codec_of(found) is tf_rest
    assert cast(Call, found).ref == ref


@pytest.mark.parametrize("dialect", ["", "tensorflow-serving"])
@pytest.mark.parametrize(("verb", "codec"), [("classify", CLASSIFY), ("regress", REGRESS)])
def test_classify_and_regress_are_tensorflow_servings(verb: str, codec: Any, dialect: str) -> None:
    """Beside predict."""
    assert codec_of(route("POST", f"/v1/models/iris:{verb}", dialect)) is codec


@pytest.mark.parametrize(
    ("dialect", "target", "codec", "events"),
    [
        ("", "/v2/models/llm/generate", oip_generate, False),
        ("", "/v2/models/llm/versions/2/generate_stream", oip_generate, True),
        ("triton", "/v2/models/llm/generate", oip_generate, False),
        ("triton", "/v2/models/llm/generate_stream", oip_generate, True),
        ("mlserver", "/v2/models/llm/generate", oip_http, False),
        ("mlserver", "/v2/models/llm/generate_stream", oip_http, True),
        ("mlserver", "/v2/models/llm/infer_stream", oip_http, True),
    ],
)
def test_generate_is_one_object_or_events(dialect: str, target: str, codec: Any, events: bool) -> None:
    """MLServer has the infer schema for it."""
    found = route("POST", target, dialect)

    assert codec_of(found) is codec
    assert cast(Generation, found).events is events


@pytest.mark.parametrize(
    ("dialect", "target", "codec"),
    [
        ("", "/invocations", mlflow),
        ("mlserver", "/invocations", mlflow),
        ("kserve", "/v1/models/iris:predict", kserve),
        ("kserve", "/v2/models/iris/infer", oip_http),
    ],
)
def test_others_have_their_own_calls(dialect: str, target: str, codec: Any) -> None:
    """MLflow's, which SageMaker has too, and KServe's."""
    assert codec_of(route("POST", target, dialect)) is codec


V2_PAGES = [
    ("/v2", pages.server_metadata, ModelRef("")),
    ("/v2/health/live", pages.live, ModelRef("")),
    ("/v2/health/ready", pages.ready, ModelRef("")),
    ("/v2/models/iris", pages.model_metadata, ModelRef("iris")),
    ("/v2/models/iris/ready", pages.model_ready, ModelRef("iris")),
]
VERSION_PAGES = [
    ("/v2/models/iris/versions/2", pages.model_metadata, ModelRef("iris", 2)),
    ("/v2/models/iris/versions/2/ready", pages.model_ready, ModelRef("iris", 2)),
]
TRITON_PAGES = [
    ("/v2/models/iris/config", pages.model_config, ModelRef("iris")),
    ("/v2/models/iris/versions/2/config", pages.model_config, ModelRef("iris", 2)),
    ("/v2/models/stats", pages.statistics, ModelRef("")),
    ("/v2/models/iris/stats", pages.statistics, ModelRef("iris")),
    ("/v2/models/iris/versions/2/stats", pages.statistics, ModelRef("iris", 2)),
]
TF_PAGES = [
    ("/v1/models/iris", pages.tf_status, ModelRef("iris")),
    ("/v1/models/iris/versions/3", pages.tf_status, ModelRef("iris", 3)),
    ("/v1/models/iris/labels/stable", pages.tf_status, ModelRef("iris", None, "stable")),
    ("/v1/models/iris/metadata", pages.tf_metadata, ModelRef("iris")),
    ("/v1/models/iris/labels/stable/metadata", pages.tf_metadata, ModelRef("iris", None, "stable")),
    (METRICS_PATH, pages.serving_metrics, ModelRef("")),
]
OWN_PAGES = [("/", pages.front_page, ModelRef("")), ("/?x", pages.front_page, ModelRef(""))]
MLFLOW_PAGES = [
    ("/ping", pages.ping, ModelRef("")),
    ("/health", pages.ping, ModelRef("")),
    ("/version", pages.version, ModelRef("")),
]
KSERVE_PAGES = [
    ("/", pages.alive, ModelRef("")),
    ("/v1/models", pages.model_list, ModelRef("")),
    ("/v1/models/iris", pages.model_ready, ModelRef("iris")),
    ("/v2/models", pages.model_list, ModelRef("")),
]
METRICS = [("/metrics", pages.metrics, ModelRef(""))]
SLASH = [("/v2/", pages.server_metadata, ModelRef(""))]
PAGES = {
    "": V2_PAGES + VERSION_PAGES + TRITON_PAGES + TF_PAGES + OWN_PAGES + MLFLOW_PAGES + METRICS + SLASH,
    "tensorflow-serving": TF_PAGES,
    "triton": V2_PAGES + VERSION_PAGES + TRITON_PAGES + METRICS,
    "kserve": V2_PAGES + KSERVE_PAGES + METRICS,
    "mlserver": V2_PAGES + VERSION_PAGES + MLFLOW_PAGES + METRICS,
}


@pytest.mark.parametrize(
    ("dialect", "target", "show", "ref"), [(dialect, *page) for dialect, known in PAGES.items() for page in known]
)
def test_what_can_be_read_is_a_page(dialect: str, target: str, show: Show, ref: ModelRef) -> None:
    """Each dialect has those that its clients know."""
    found = route("GET", target, dialect)

    assert isinstance(found, Page)
    assert (found.show, found.ref) == (show, ref)


@pytest.mark.parametrize("target", [page[0] for page in V2_PAGES + OWN_PAGES + METRICS])
def test_head_means_the_same_page(target: str) -> None:
    """As RFC 9110 has it; TensorFlow Serving's paths are an exception."""
    head, get = route("HEAD", target), route("GET", target)

    assert isinstance(head, Page)
    assert isinstance(get, Page)
    assert head.show is get.show


@pytest.mark.parametrize("dialect", ["", "triton", "kserve", "mlserver"])
def test_the_repositorys_index_is_asked_for_with_post(dialect: str) -> None:
    """Its body may be empty."""
    found = route("POST", "/v2/repository/index", dialect)

    assert isinstance(found, Page)
    assert found.show is pages.index


NO_CONFIG_FILE = "there is no model config file to read again; start the server with --model_config_file FILE"
MALFORMED = "Malformed request: "
REFUSED: list[tuple[str, str, str, int, str]] = [
    ("", "GET", "/v1/models", 400, "Missing model name in request."),
    ("", "GET", "/v1/models/versions/1", 400, "Missing model name in request."),
    ("", "GET", "/v1/models/iris/", 400, MALFORMED + "GET /v1/models/iris/"),
    ("", "GET", "/v1/models/iris:predict", 400, MALFORMED + "GET /v1/models/iris:predict"),
    ("", "GET", "/v1/models/a/versions/1/labels/b", 400, MALFORMED + "GET /v1/models/a/versions/1/labels/b"),
    ("", "POST", "/v1/models/iris", 400, MALFORMED + "POST /v1/models/iris"),
    ("", "POST", "/v1/models/iris/metadata", 400, MALFORMED + "POST /v1/models/iris/metadata"),
    ("", "POST", "/v1/models/iris:PREDICT", 400, MALFORMED + "POST /v1/models/iris:PREDICT"),
    ("", "POST", "/v1/models/iris:guess", 400, MALFORMED + "POST /v1/models/iris:guess"),
    ("", "PUT", "/v1/models/iris:predict", 400, MALFORMED + "PUT /v1/models/iris:predict"),
    ("", "HEAD", "/v1/models/iris", 400, MALFORMED + "HEAD /v1/models/iris"),
    ("", "GET", "/v1/", 400, MALFORMED + "GET /v1/"),
    ("tensorflow-serving", "GET", "/v1/foo", 400, MALFORMED + "GET /v1/foo"),
    ("", "POST", "/v1/models/m/versions/x:predict", 400, MALFORMED + "POST /v1/models/m/versions/x:predict"),
    (
        *("", "POST", "/v1/models/m/versions/9223372036854775808:predict", 400),
        "Failed to convert version: 9223372036854775808 to numeric.",
    ),
    *(("", "POST", f"/v1/models/m{version}/reload", 404, NO_CONFIG_FILE) for version in ("", "/versions/2")),
    ("", "GET", "/v1/models/m/reload", 400, MALFORMED + "GET /v1/models/m/reload"),
    ("", "GET", "/v1", 404, "Not Found"),
    ("", "GET", "/nothing", 404, "Not Found"),
    ("", "POST", "/predict/", 404, "Not Found"),
    ("", "POST", "/predict/a/b", 404, "Not Found"),
    ("", "GET", "/v2/models", 404, "Not Found"),
    ("", "POST", "/v2/models//infer", 404, "Not Found"),
    ("", "POST", "/v2/models/m/versions/v1.2/infer", 404, "Not Found"),
    ("", "POST", "/v2/models/m/versions/99999999999999999999/infer", 404, "Not Found"),
    ("", "POST", "/v2/models/m/nothing", 404, "Not Found"),
    ("", "POST", "/v2/models/%ff/infer", 400, "the name in the path is not UTF-8"),
    ("", "POST", "/v1/models/%ff:predict", 400, "the name in the path is not UTF-8"),
    ("", "GET", "/predict", 405, 'Method Not Allowed: POST {"X": [[...], ...]}, a list for each row'),
    ("", "DELETE", "/v2/models/iris/infer", 405, "Method Not Allowed"),
    ("", "GET", "/v2/models/iris/generate", 405, "Method Not Allowed"),
    ("", "GET", "/v2/repository/index", 405, "Method Not Allowed"),
    ("", "POST", "/v2/models/iris/ready", 405, "Method Not Allowed"),
    ("", "POST", "/", 405, "Method Not Allowed"),
    ("triton", "GET", "/", 404, "Not Found"),
    ("triton", "GET", "/v2/", 404, "Not Found"),
    ("triton", "POST", "/predict", 404, "Not Found"),
    ("triton", "POST", "/v1/models/iris:predict", 404, "Not Found"),
    ("triton", "POST", "/v2/models/iris", 405, "Method Not Allowed"),
    ("mlserver", "GET", "/", 404, "Not Found"),
    ("kserve", "POST", "/v1/models/iris", 405, "Method Not Allowed"),
    ("kserve", "POST", "/v2/models/iris/versions/1/infer", 501, "Model versioning is not supported yet."),
    *(
        (dialect, "POST", target, 503, "explicit model load / unload is not allowed if polling is enabled")
        for dialect in ("", "triton")
        for target in ("/v2/repository/models/iris/load", "/v2/repository/models/iris/unload")
    ),
    *(
        ("triton", method, target, 501, f"the server does not support {what}")
        for method, target, what in [
            ("POST", "/v2/repository/models-of-mine/models/iris/load", "a repository's name in the path"),
            ("POST", "/v2/repository/mine/index", "a repository's name in the path"),
            ("GET", "/v2/systemsharedmemory/status", "shared memory"),
            ("GET", "/v2/cudasharedmemory/region/a/status", "shared memory"),
            ("POST", "/v2/systemsharedmemory/region/a/register", "shared memory"),
            ("POST", "/v2/cudasharedmemory/unregister", "shared memory"),
            ("GET", "/v2/trace/setting", "trace settings"),
            ("POST", "/v2/models/iris/trace/setting", "trace settings"),
            ("GET", "/v2/logging", "changes of its log settings"),
            ("POST", "/v2/logging", "changes of its log settings"),
        ]
    ),
]


@pytest.mark.parametrize(("dialect", "method", "target", "status", "error"), REFUSED)
def test_what_is_meant_for_nothing_is_refused(dialect: str, method: str, target: str, status: int, error: str) -> None:
    """Each dialect refuses in its own way."""
    found = route(method, target, dialect)

    assert isinstance(found, Answer)
    assert (found.status, json.loads(found.body)) == (status, {"error": error})


@pytest.mark.parametrize("target", ["/", "/v2", "/v2/health/live", "/predict", "/metrics", "/docs", "/nothing"])
def test_tensorflow_serving_knows_nothing_outside_of_v1(target: str) -> None:
    """Its 404 is no JSON."""
    found = cast(Answer, route("GET", target, "tensorflow-serving"))

    assert (found.status, found.content_type) == (404, b"text/plain; charset=utf-8")


def test_metrics_of_tensorflow_serving_may_be_nowhere() -> None:
    """Where the path is empty."""
    routes = surface("", NO_FACTS, PlainConfig(), serving_metrics_path="").routes

    assert cast(Answer, routes.find(b"GET", METRICS_PATH.encode())).status == 404
    assert cast(Answer, routes.find(b"GET", b"")).status == 404


@pytest.mark.parametrize("dialect", ["kserve", "mlserver"])
def test_a_slash_too_many_is_redirected(dialect: str) -> None:
    """As FastAPI does it."""
    found = cast(Answer, route("GET", "/v2/", dialect))

    assert found.status == 307
    assert (b"location", b"/v2") in found.headers


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/predict", b"POST, OPTIONS"),
        ("/v2/models/iris/infer", b"POST, OPTIONS"),
        ("/metrics", b"GET, HEAD, OPTIONS"),
        ("*", b"GET, HEAD, POST, OPTIONS"),
    ],
)
def test_options_names_the_methods(target: str, allow: bytes) -> None:
    """OPTIONS is 204 with Allow, and no body."""
    assert route("OPTIONS", target) == Answer(204, b"", b"", ((b"allow", allow),))


def test_a_wrong_method_is_told_the_right_ones() -> None:
    """405 has Allow, which RFC 9110 requires."""
    found = route("GET", "/predict")

    assert isinstance(found, Answer)
    assert found.headers == ((b"allow", b"POST, OPTIONS"),)


@pytest.mark.parametrize("dialect", ["", "tensorflow-serving"])
def test_options_below_v1_is_answered_as_tensorflow_serving_does(dialect: str) -> None:
    """There it depends on the Origin header, so it is a page."""
    found = route("OPTIONS", "/v1/models/iris:predict", dialect)

    assert isinstance(found, Page)
    assert found.show is pages.tf_options


@pytest.mark.parametrize("cors", [False, True])
@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", "/v1/models/iris:predict"), ("GET", "/v1/models/iris"), ("OPTIONS", "/v1/x"), ("GET", "/v1/x")],
)
def test_cors_headers_are_on_every_answer_below_v1(method: str, target: str, cors: bool) -> None:
    """Only where they are asked for."""
    found = surface("", NO_FACTS, PlainConfig(), cors=cors).routes.find(method.encode(), target.encode())

    api: Api | Answer = found if isinstance(found, Answer) else cast(Call, found).api
    assert ((b"access-control-allow-origin", b"*") in api.headers) is cors
