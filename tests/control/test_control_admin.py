"""The admin API: every operation over HTTP, refusals, and who is not let in."""

import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from control.admin_server import TOKEN, VERSION, AdminServer, MemoryModel, MemoryOperations, admin_server
from dukou.control.door import MAX_BODY_BYTES
from dukou.core.errors import DukouError, Reason

pytestmark = pytest.mark.socket

STRANGE = "team a/iris:v1 é%2F"


@pytest.fixture(scope="module")
def running() -> Iterator[AdminServer]:
    with admin_server(MemoryOperations()) as server:
        yield server


@pytest.fixture
def server(running: AdminServer) -> AdminServer:
    """The one server, with models as new."""
    running.operations.__init__(MemoryModel("iris", [1, 2, 3], serving=1), MemoryModel(STRANGE, [7], serving=7))  # type: ignore[misc]
    return running


@pytest.fixture
def http(server: AdminServer) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"http://{server.address}", headers=headers, trust_env=False) as client:
        yield client


def serving(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["serving"]


def test_models_are_listed_with_their_versions(http: httpx.Client) -> None:
    """What is served, and how the calls are shared."""
    answer = http.get("/v1/models")

    first, second = answer.json()["models"]
    assert (first["name"], first["serving"], second["name"]) == ("iris", 1, STRANGE)
    assert [(each["version"], each["state"], each["share"]) for each in first["versions"]] == [
        (3, "END", 0.0),
        (2, "END", 0.0),
        (1, "AVAILABLE", 1.0),
    ]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["team%20a%2Firis%3Av1%20%C3%A9%252F", "team%20a%2Firis:v1%20%C3%A9%252F"])
def test_a_name_may_hold_anything(http: httpx.Client, path: str) -> None:
    """Slashes, colons, percent signs and letters that are not ASCII, percent-encoded; for verbs, too."""
    assert http.get(f"/v1/models/{path}").json()["name"] == STRANGE
    assert http.post(f"/v1/models/{path}:load").json()["name"] == STRANGE
    assert serving(http.put(f"/v1/models/{path}/labels/a%2Fb", json={"version": 7})) == 7
    assert http.get(f"/v1/models/{path}").json()["versions"][0]["labels"] == ["a/b"]


def test_a_deploy_without_a_plan_is_at_once_and_rolled_back(http: httpx.Client, server: AdminServer) -> None:
    """The highest version by default; the audit has who and why."""
    assert serving(http.post("/v1/models/iris:deploy", headers={"x-dukou-as": "alice@host"})) == 3
    assert serving(http.post("/v1/models/iris:rollback", json={"why": "wrong answers"})) == 1

    changes = http.get("/v1/models/iris/history").json()["changes"]
    assert [(each["verb"], each["cause"]) for each in changes] == [
        ("rollback", {"who": "token", "why": "wrong answers"}),
        ("deploy", {"who": "alice@host (token)", "why": ""}),
    ]


def test_a_rollout_by_a_plan(http: httpx.Client, server: AdminServer) -> None:
    """Deployed, promoted step by step, paused and resumed; its status comes without all that was measured."""
    body = {"version": 2, "plan": "shadow,incremental:50,100", "manual": True, "why": "better"}

    begun = http.post("/v1/models/iris:deploy", json=body).json()

    server.operations.measure("iris", 12)
    rollout = begun["rollout"]
    assert (rollout["candidate"], rollout["status"], rollout["plan"]["manual"]) == (2, "RUNNING", True)
    assert http.post("/v1/models/iris:pause").json()["rollout"]["status"] == "PAUSED"
    assert http.post("/v1/models/iris:resume").json()["rollout"]["status"] == "RUNNING"
    promoted = http.post("/v1/models/iris:promote").json()
    assert [(each["version"], each["share"]) for each in promoted["versions"]] == [(3, 0.0), (2, 0.5), (1, 0.5)]
    assert promoted["rollout"]["measured"]["candidate"]["answered"] == 0
    found = http.get("/v1/models/iris/rollout").json()
    assert [(each["share"], each["state"], each["requests"]) for each in found["steps"]] == [
        (0.0, "done", None),
        (0.5, "now", 12),
        (1.0, "ahead", None),
    ]
    assert http.post("/v1/models/iris:abort").json()["rollout"]["status"] == "ABORTED"


def test_a_version_is_promoted_loaded_and_unloaded(http: httpx.Client) -> None:
    """Verbs that may name a version."""
    assert serving(http.post("/v1/models/iris:promote", json={"version": 2})) == 2
    assert http.post("/v1/models/iris:load", json={"version": 3}).json()["versions"][0]["state"] == "AVAILABLE"
    assert http.post("/v1/models/iris:unload", json={"version": 3}).json()["versions"][0]["state"] == "END"
    assert http.post("/v1/models/iris:unload").json()["unloaded"] is True


def test_a_label_is_put_and_taken_away(http: httpx.Client, server: AdminServer) -> None:
    """Why it goes is a query: DELETE has no body."""
    http.put("/v1/models/iris/labels/stable", json={"version": 2, "why": "tested"})
    assert server.operations.models["iris"].labels == {"stable": 2}

    answer = http.delete("/v1/models/iris/labels/stable", params={"why": "renamed"})

    assert answer.status_code == 200
    assert server.operations.models["iris"].labels == {}
    assert server.operations.audit[-1].cause.why == "renamed"


def test_outcomes_are_taken(http: httpx.Client, server: AdminServer) -> None:
    """Labels that came back, many at once."""
    http.post("/v1/models/iris:deploy", json={"version": 2, "plan": "shadow,incremental"})
    body = {"outcomes": [{"version": 1, "right": True, "count": 3}, {"version": 2, "right": False}]}

    assert http.post("/v1/models/iris/outcomes", json=body).json() == {"taken": 4}

    assert [(each.version, each.right, each.count) for each in server.operations.outcomes_taken] == [
        (1, True, 3),
        (2, False, 1),
    ]


def test_the_history_of_all_models_is_bounded(http: httpx.Client) -> None:
    """The latest, as many as asked for."""
    for verb in ("load", "unload", "load"):
        http.post(f"/v1/models/iris:{verb}")

    assert [each["verb"] for each in http.get("/v1/history", params={"limit": 2}).json()["changes"]] == [
        "load",
        "unload",
    ]
    assert http.get("/v1/history", params={"limit": 10**9}).status_code == 400


@pytest.mark.parametrize(
    ("call", "body", "refused", "text"),
    [
        ("GET /v1/models/irs", None, (404, "NOT_FOUND"), "model 'irs': there is no such model; served are: iris"),
        ("POST /v1/models/iris:deploy", {"version": 9}, (404, "NOT_FOUND"), "version 9: there is no such version"),
        ("POST /v1/models/iris:rollback", None, (409, "FAILED_PRECONDITION"), "there is no version to go back to"),
        ("POST /v1/models/iris:deploy", {"plan": "shadow,5"}, (400, "INVALID_ARGUMENT"), "shadow"),
        ("POST /v1/models/iris:deploy", {"version": "2"}, (400, "INVALID_ARGUMENT"), "body.version: Input should be"),
        ("POST /v1/models/iris:deploy", {"versoin": 2}, (400, "INVALID_ARGUMENT"), "body.versoin: Extra inputs"),
        ("POST /v1/models/iris:deploy", {"version": -1}, (400, "INVALID_ARGUMENT"), "body.version"),
        ("POST /v1/models/iris:pause", {"why": "x" * 1001}, (400, "INVALID_ARGUMENT"), "body.why"),
        ("PUT /v1/models/iris/labels/a", None, (400, "INVALID_ARGUMENT"), "body: Field required"),
        ("POST /v1/models/iris:jump", None, (405, "UNIMPLEMENTED"), "POST /v1/models/iris:jump: Method Not Allowed"),
        ("GET /v1/models/iris:deploy", None, (404, "NOT_FOUND"), "there is no such model"),
        ("DELETE /v1/models/iris", None, (405, "UNIMPLEMENTED"), "Method Not Allowed"),
        ("GET /v1/models/%FF", None, (404, "NOT_FOUND"), ""),
        ("GET /", None, (404, "NOT_FOUND"), "GET /: Not Found"),
    ],
)
def test_what_cannot_be_done_is_said(
    http: httpx.Client, call: str, body: Any, refused: tuple[int, str], text: str
) -> None:
    """`{"error", "code"}` with the status of the code."""
    answer = http.request(*call.split(" "), json=body)

    assert set(answer.json()) == {"error", "code"}
    assert (answer.status_code, answer.json()["code"]) == refused
    assert text in answer.json()["error"]


def test_a_body_that_is_not_said_to_be_json_is_explained(http: httpx.Client) -> None:
    """`curl -d` sends a form unless told otherwise."""
    answer = http.post(
        "/v1/models/iris:deploy",
        content='{"version": 2}',
        headers={"content-type": "application/x-www-form-urlencoded"},
    )

    assert answer.status_code == 400
    assert "send JSON and say so: content-type: application/json" in answer.json()["error"]


def test_a_body_that_is_no_json_is_explained(http: httpx.Client) -> None:
    """Not a fault of ours."""
    answer = http.post("/v1/models/iris:deploy", content="{", headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_ARGUMENT")


def test_a_store_that_cannot_be_written_refuses_changes(http: httpx.Client, server: AdminServer) -> None:
    """503, and when to ask again."""
    server.operations.broken = DukouError(Reason.STORE_UNAVAILABLE, path="/s", detail="it is locked")

    answer = http.get("/v1/models")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"error": "the store /s: it is locked; nothing was changed", "code": "UNAVAILABLE"}


def test_a_fault_of_ours_says_nothing_of_the_inside(
    http: httpx.Client, server: AdminServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it; the server goes on."""
    server.operations.broken = ValueError("secret of the inside")

    answer = http.get("/v1/models")

    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed; its log says why", "code": "INTERNAL"}
    server.operations.broken = None
    assert http.get("/v1/models").status_code == 200
    assert "secret of the inside" in caplog.text


def test_health_needs_no_token(server: AdminServer) -> None:
    """For whoever watches the process."""
    answer = httpx.get(f"http://{server.address}/health", trust_env=False)

    assert answer.json() == {"status": "ok", "version": VERSION}


@pytest.mark.parametrize("path", ["/v1/models", "/openapi.json", "/nowhere", "/%68ealth", "//health"])
@pytest.mark.parametrize("said", ["", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", f"Bearer{TOKEN}", TOKEN])
def test_without_the_token_nothing_is_told(server: AdminServer, path: str, said: str) -> None:
    """401, with what is missing, whatever the path."""
    headers = {"authorization": said} if said else {}

    answer = httpx.get(f"http://{server.address}{path}", headers=headers, trust_env=False)

    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8600"}, 403),
        ({"host": ""}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "localhost:8600"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "[::1]:8600"}, 200),
        ({"host": "10.1.2.3"}, 200),
        ({"host": "admin.test:8600"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_what_a_page_in_a_browser_sends_is_refused(http: httpx.Client, headers: dict[str, str], status: int) -> None:
    """A foreign Host (DNS rebinding) or any Origin, even with the token, even for /health."""
    for path in ("/v1/models", "/health"):
        answer = http.get(path, headers=headers)

        assert answer.status_code == status
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_is_refused(http: httpx.Client) -> None:
    """No page of another origin is told that it may call."""
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}

    assert http.options("/v1/models/iris:rollback", headers=headers).status_code == 403


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_before_it_is_read(server: AdminServer, chunked: bool) -> None:
    """413, whether its size was said or not."""
    connection = HTTPConnection(server.address, timeout=10)
    piece = b"x" * 65536
    pieces = [piece] * (MAX_BODY_BYTES // len(piece) + 1)
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    if not chunked:
        headers["content-length"] = str(sum(map(len, pieces)))

    connection.request("POST", "/v1/models/iris:deploy", iter(pieces), headers, encode_chunked=chunked)
    answer = connection.getresponse()

    assert answer.status == 413
    assert json.loads(answer.read())["code"] == "PAYLOAD_TOO_LARGE"
    connection.close()


def test_who_is_said_to_ask_cannot_forge_the_audit(http: httpx.Client, server: AdminServer) -> None:
    """It stays behind the token, in one line."""
    http.post("/v1/models/iris:load", headers=[(b"x-dukou-as", "bob\u0085token".encode("latin-1"))])
    assert server.operations.audit[-1].cause.who == "bob?token (token)"

    assert http.post("/v1/models/iris:load", headers={"x-dukou-as": "x" * 201}).status_code == 400


def test_the_description_is_openapi(http: httpx.Client) -> None:
    """Every route, what it takes and what it answers, and that a token is needed."""
    page = http.get("/openapi.json").json()

    validate(page)
    assert page["info"] == {"title": "dukou admin", "version": VERSION, "description": page["info"]["description"]}
    assert {"/v1/models/{name}:deploy", "/v1/models/{name}/rollout", "/health"} <= set(page["paths"])
    assert page["paths"]["/v1/models/{name}:deploy"]["post"]["operationId"] == "deploy"
    schemas = page["components"]["schemas"]
    assert {"ModelStatus", "VersionStatus", "Rollout", "Audited", "Refusal", "DeployChange"} <= set(schemas)
    assert page["security"] == [{"token": []}]
    assert "HTTPValidationError" not in schemas


def test_what_is_answered_is_what_is_described(http: httpx.Client) -> None:
    """Each answer fits its schema."""
    import jsonschema

    http.post("/v1/models/iris:deploy", json={"version": 2, "plan": "shadow,incremental"})
    page = http.get("/openapi.json").json()

    for path, kind in {
        "/v1/models": "Models",
        "/v1/models/iris": "ModelStatus",
        "/v1/history": "History",
        "/health": "Health",
        "/v1/models/none": "Refusal",
    }.items():
        schema = {"$ref": f"#/components/schemas/{kind}", "components": page["components"]}
        jsonschema.validate(http.get(path).json(), schema)


def test_a_stop_answers_what_is_under_way_and_closes() -> None:
    """A connection that is kept alive does not keep the server; the port is free afterwards."""
    with admin_server(MemoryOperations(MemoryModel("iris", [1], serving=1))) as server:
        connection = HTTPConnection(server.address, timeout=10)
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        began = time.monotonic()

    assert time.monotonic() - began < 3
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(server.address.split(":")[1])), timeout=1)
    connection.close()
