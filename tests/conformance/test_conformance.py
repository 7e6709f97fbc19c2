"""Vectors of what servers answer, bit by bit, sent over a socket to a live server.

`vectors/shared.json` holds what TensorFlow Serving, servers of the Open Inference Protocol and Triton answer,
`vectors/kserve.json` what KServe's does. `$string` and the like stand for any value of that type.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dukou.testing.conformance import LABELS, build_models
from live import LIMIT_S, Live

pytestmark = [pytest.mark.socket, pytest.mark.slow]

FOLDER = Path(__file__).parent / "vectors"
VECTORS: list[Mapping[str, Any]] = [
    vector for path in sorted(FOLDER.glob("*.json")) for vector in json.loads(path.read_text("utf-8"))["vectors"]
]
KINDS = {"$string": str, "$number": int | float, "$array": list, "$object": dict}

DIALECTS = {
    "tfs": ("", "tensorflow-serving"),
    "oip": ("", "triton"),
    "triton": ("", "triton"),
    "kserve": ("kserve",),
}
"""Whose listeners answer the vectors of a persona."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of all the models that the vectors ask, with a listener for each dialect."""
    folder = tmp_path_factory.mktemp("conformance")
    build_models(folder / "models")
    config = folder / "dukou.toml"
    labels = "".join(
        f"[models.labels.{model}]\n{label} = {version}\n"
        for model, named in LABELS.items()
        for label, version in named.items()
    )
    config.write_text(labels, encoding="utf-8")
    with Live(folder / "models", "--config", config) as server:
        yield server


@pytest.mark.parametrize(
    ("dialect", "vector"),
    [
        pytest.param(dialect, vector, id=f"{vector['id']}-{dialect or 'default'}")
        for vector in VECTORS
        for dialect in DIALECTS[vector["persona"]]
    ],
)
def test_a_vector_is_answered_as_the_server_it_comes_from_answers(
    live: Live, dialect: str, vector: Mapping[str, Any]
) -> None:
    """Status, headers, JSON, text and binary data are all as stated."""
    status, headers, body = ask(live.address(dialect), vector)

    expect = dict(vector["expect"])
    statuses = expect.pop("status")
    assert status in (statuses if isinstance(statuses, list) else [statuses]), body
    length = int(headers.get("inference-header-content-length", len(body)))
    for what, wanted in expect.items():
        CHECKS[what](wanted, status, headers, body[:length], body[length:])


def ask(url: str, vector: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)
    try:
        connection.request(vector["method"], vector["path"], sent(vector), dict(vector["headers"]))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    finally:
        connection.close()


def sent(vector: Mapping[str, Any]) -> bytes | None:
    if "body_b64" in vector:
        return base64.b64decode(vector["body_b64"])
    if "body_text" in vector:
        return str(vector["body_text"]).encode()
    return json.dumps(vector["body"]).encode() if vector.get("body") is not None else None


def same(wanted: Any, came: Any) -> bool:
    """Equal, floats within the last digits; a boolean is no number."""
    if isinstance(wanted, dict):
        return isinstance(came, dict) and wanted.keys() == came.keys() and all(same(wanted[k], came[k]) for k in wanted)
    if isinstance(wanted, list):
        return isinstance(came, list) and len(wanted) == len(came) and all(map(same, wanted, came))
    if isinstance(wanted, float) and type(came) in (int, float):
        return bool(wanted == pytest.approx(came, nan_ok=True))
    return type(wanted) is type(came) and bool(wanted == came)


def holds(wanted: Any, came: Any) -> bool:
    """`came` has all that is wanted: keys, each with what is wanted of it; lists are of one length."""
    if isinstance(wanted, str) and wanted in KINDS:
        return isinstance(came, KINDS[wanted]) and not isinstance(came, bool)
    if isinstance(wanted, dict):
        return isinstance(came, dict) and all(key in came and holds(wanted[key], came[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(came, list) and len(wanted) == len(came) and all(map(holds, wanted, came))
    return same(wanted, came)


def check_json(wanted: Any, status: int, headers: Mapping[str, str], text: bytes, tail: bytes) -> None:
    assert same(wanted, json.loads(text)), text


def check_subset(wanted: Any, status: int, headers: Mapping[str, str], text: bytes, tail: bytes) -> None:
    assert holds(wanted, json.loads(text)), text


def check_error(wanted: str, status: int, headers: Mapping[str, str], text: bytes, tail: bytes) -> None:
    assert status < 400 or wanted.lower() in json.loads(text)["error"].lower()


def check_text(wanted: list[str], status: int, headers: Mapping[str, str], text: bytes, tail: bytes) -> None:
    assert all(part in text.decode() for part in wanted), text


def check_headers(wanted: Mapping[str, str], status: int, headers: Mapping[str, str], text: bytes, tail: bytes) -> None:
    for name, part in wanted.items():
        assert part in headers[name]


def check_tail(wanted: str, status: int, headers: Mapping[str, str], text: bytes, tail: bytes) -> None:
    assert tail == base64.b64decode(wanted)


CHECKS = {
    "json": check_json,
    "json_subset": check_subset,
    "error_contains": check_error,
    "text_contains": check_text,
    "headers_contains": check_headers,
    "binary_tail_b64": check_tail,
}


@pytest.mark.parametrize(
    ("dialect", "path", "sample"),
    [
        ("triton", "/metrics", 'nv_inference_request_success{model="addsub",version="1"}'),
        ("", "/metrics", 'nv_inference_request_success{model="addsub",version="1"}'),
        (
            "tensorflow-serving",
            "/monitoring/prometheus/metrics",
            ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"}',
        ),
    ],
)
def test_dashboards_find_the_names_they_know(live: Live, dialect: str, path: str, sample: str) -> None:
    """Each metric under its server's name, where its server has it, counting what was asked of the live server."""
    for id in ("oip-11-infer-flat", "tfs-01-row"):  # noqa: A001, what the vectors call it
        (vector,) = [vector for vector in VECTORS if vector["id"] == id]
        ask(live.address(), vector)

    status, headers, body = ask(live.address(dialect), {"method": "GET", "path": path, "headers": {}})

    (line,) = [line for line in body.decode().splitlines() if line.startswith(sample)]
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert float(line.removeprefix(sample)) >= 1


def test_there_are_vectors_of_every_persona() -> None:
    """At least fifteen of KServe's own, and none that is known under another's id."""
    personas = [vector["persona"] for vector in VECTORS]
    ids = [vector["id"] for vector in VECTORS]

    assert set(personas) == set(DIALECTS)
    assert personas.count("kserve") >= 15
    assert len(set(ids)) == len(ids)
