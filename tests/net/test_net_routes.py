"""Method and target to what is meant."""

import json

import pytest

from dukou.core.model import ModelRef
from dukou.net.api import Api, Call
from dukou.net.exchange import Answer
from dukou.net.routes import OIP_JSON, PLAIN, TF_REST, Page, PageKind, route


@pytest.mark.parametrize(
    ("target", "api", "ref"),
    [
        ("/predict", PLAIN, ModelRef("")),
        ("/predict?a=/x", PLAIN, ModelRef("")),
        ("http://host:1/predict", PLAIN, ModelRef("")),
        ("/predict/iris", PLAIN, ModelRef("iris")),
        ("/predict/a%2Fb%20c", PLAIN, ModelRef("a/b c")),
        ("/v2/models/iris/infer", OIP_JSON, ModelRef("iris")),
        ("/v2/models/iris/versions/7/infer", OIP_JSON, ModelRef("iris", 7)),
        ("/v2/models/iris/versions/000000000000000000012/infer", OIP_JSON, ModelRef("iris", 12)),
        ("/v2/models/iris/versions/" + "0" * 6000 + "1/infer", OIP_JSON, ModelRef("iris", 1)),
        ("/v1/models/iris/versions/" + "0" * 6000 + "1:predict", TF_REST, ModelRef("iris", 1)),
        ("/v2/models/%E6%B8%A1%E5%8F%A3/infer", OIP_JSON, ModelRef("渡口")),
        ("/v2/models/a:b/infer", OIP_JSON, ModelRef("a:b")),
        ("/v1/models/iris:predict", TF_REST, ModelRef("iris")),
        ("/V1/MODELS/iris/VERSIONS/007:predict", TF_REST, ModelRef("iris", 7)),
        ("/v1/models/iris/labels/stable:predict", TF_REST, ModelRef("iris", None, "stable")),
        ("/v1/models/a%3Ab/labels/x%2Fy:predict", TF_REST, ModelRef("a:b", None, "x/y")),
        ("/v1/models/iris/versions/9223372036854775807:predict", TF_REST, ModelRef("iris", 2**63 - 1)),
        ("/v1/models/iris/versions/0000000000000000000000001:predict", TF_REST, ModelRef("iris", 1)),
    ],
)
def test_a_post_is_a_call(target: str, api: Api, ref: ModelRef) -> None:
    """Every inference path of every protocol names its model."""
    assert route(b"POST", target.encode()) == Call(api, ref)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("target", "kind", "ref"),
    [
        (b"/", PageKind.LANDING, ModelRef("")),
        (b"/?x", PageKind.LANDING, ModelRef("")),
        (b"/metrics", PageKind.METRICS, ModelRef("")),
        (b"/v2", PageKind.SERVER_METADATA, ModelRef("")),
        (b"/v2/", PageKind.SERVER_METADATA, ModelRef("")),
        (b"/v2/health/live", PageKind.LIVE, ModelRef("")),
        (b"/v2/health/ready", PageKind.READY, ModelRef("")),
        (b"/v2/models/iris", PageKind.MODEL_METADATA, ModelRef("iris")),
        (b"/v2/models/iris/versions/2", PageKind.MODEL_METADATA, ModelRef("iris", 2)),
        (b"/v2/models/iris/ready", PageKind.MODEL_READY, ModelRef("iris")),
        (b"/v2/models/iris/versions/2/ready", PageKind.MODEL_READY, ModelRef("iris", 2)),
    ],
)
def test_what_can_be_read_is_a_page(method: bytes, target: bytes, kind: PageKind, ref: ModelRef) -> None:
    """GET and HEAD mean the same page."""
    assert route(method, target) == Page(kind, ref)


@pytest.mark.parametrize(
    ("target", "ref"),
    [
        (b"/v1/models/iris", ModelRef("iris")),
        (b"/v1/models/iris/versions/3", ModelRef("iris", 3)),
        (b"/v1/models/iris/labels/stable", ModelRef("iris", None, "stable")),
        (b"/v1/models/metadata", ModelRef("metadata")),
    ],
)
def test_a_get_below_v1_is_a_status(target: bytes, ref: ModelRef) -> None:
    """TensorFlow Serving's status of one model."""
    assert route(b"GET", target) == Page(PageKind.TF_STATUS, ref)


@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/versions/1", 400, "Missing model name in request."),
        ("GET", "/v1/models/iris/", 400, "Malformed request: GET /v1/models/iris/"),
        ("GET", "/v1/models/iris:predict", 400, "Malformed request: GET /v1/models/iris:predict"),
        ("GET", "/v1/models/a/versions/1/labels/b", 400, "Malformed request: GET /v1/models/a/versions/1/labels/b"),
        ("POST", "/v1/models/iris", 400, "Malformed request: POST /v1/models/iris"),
        ("POST", "/v1/models/iris:PREDICT", 400, "Malformed request: POST /v1/models/iris:PREDICT"),
        ("POST", "/v1/models/iris:guess", 400, "Malformed request: POST /v1/models/iris:guess"),
        ("PUT", "/v1/models/iris:predict", 400, "Malformed request: PUT /v1/models/iris:predict"),
        ("HEAD", "/v1/models/iris", 400, "Malformed request: HEAD /v1/models/iris"),
        ("GET", "/v1/", 400, "Malformed request: GET /v1/"),
        ("POST", "/v1/models/m/versions/x:predict", 400, "Malformed request: POST /v1/models/m/versions/x:predict"),
        (
            "POST",
            "/v1/models/m/versions/9223372036854775808:predict",
            400,
            "Failed to convert version: 9223372036854775808 to numeric.",
        ),
        ("POST", "/v1/models/iris:classify", 501, "classify is not supported yet; use predict"),
        ("POST", "/v1/models/iris:regress", 501, "regress is not supported yet; use predict"),
        ("GET", "/v1/models/iris/metadata", 501, "metadata is not supported yet; GET /v2/models/NAME has it"),
        ("GET", "/v1", 404, "Not Found"),
        ("GET", "/nothing", 404, "Not Found"),
        ("POST", "/predict/", 404, "Not Found"),
        ("POST", "/predict/a/b", 404, "Not Found"),
        ("GET", "/v2/models", 404, "Not Found"),
        ("POST", "/v2/models//infer", 404, "Not Found"),
        ("POST", "/v2/models/m/versions/v1.2/infer", 404, "Not Found"),
        ("POST", "/v2/models/m/versions/99999999999999999999/infer", 404, "Not Found"),
        ("POST", "/v2/models/%ff/infer", 400, "the name in the path is not UTF-8"),
        ("POST", "/v1/models/%ff:predict", 400, "the name in the path is not UTF-8"),
        ("GET", "/predict", 405, "Method Not Allowed"),
        ("DELETE", "/v2/models/iris/infer", 405, "Method Not Allowed"),
        ("POST", "/v2/models/iris/ready", 405, "Method Not Allowed"),
        ("POST", "/", 405, "Method Not Allowed"),
    ],
)
def test_what_is_meant_for_nothing_is_refused(method: str, target: str, status: int, error: str) -> None:
    """Each dialect refuses in its own way."""
    found = route(method.encode(), target.encode())

    assert isinstance(found, Answer)
    assert (found.status, json.loads(found.body)) == (status, {"error": error})


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        (b"/predict", b"POST, OPTIONS"),
        (b"/v2/models/iris/infer", b"POST, OPTIONS"),
        (b"/metrics", b"GET, HEAD, OPTIONS"),
        (b"*", b"GET, HEAD, POST, OPTIONS"),
    ],
)
def test_options_names_the_methods(target: bytes, allow: bytes) -> None:
    """OPTIONS is 204 with Allow, and no body."""
    assert route(b"OPTIONS", target) == Answer(204, b"", b"", ((b"allow", allow),))


def test_a_wrong_method_is_told_the_right_ones() -> None:
    """405 has Allow, which RFC 9110 requires."""
    found = route(b"GET", b"/predict")

    assert isinstance(found, Answer)
    assert found.headers == ((b"allow", b"POST, OPTIONS"),)


def test_options_below_v1_is_answered_as_tensorflow_serving_does() -> None:
    """There it depends on the Origin header, so it is a page."""
    assert route(b"OPTIONS", b"/v1/models/iris:predict") == Page(PageKind.TF_OPTIONS)
