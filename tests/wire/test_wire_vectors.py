"""Conformance vectors of TensorFlow Serving's REST API and the Open Inference Protocol, run through the codecs.

Each line of `vectors/*.json` is a path, a body (`body_b64` where it is no text), the statuses allowed and what the
answer must hold; `$string` and the like stand for any value of that type. Paths, labels and the choice of a version are
net's and engine's work, so the least of both is here.
"""

import asyncio
import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, Served, Table
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.core.version import ModelRef
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import oip_http, oip_metadata, oip_repository, tf_rest, tf_rest_examples
from dukou.wire.codec import Headers, Reply

FOLDER = Path(__file__).parent / "vectors"
STATUS = {Code.INVALID_ARGUMENT: 400, Code.FAILED_PRECONDITION: 400, Code.NOT_FOUND: 404, Code.UNIMPLEMENTED: 501}
KINDS = {"$string": str, "$number": (int, float), "$array": list, "$object": dict}
LABELS = {"stable": 123}
TF_CODECS = {"predict": tf_rest, "classify": tf_rest_examples.CLASSIFY, "regress": tf_rest_examples.REGRESS}


def model(
    name: str, version: int, inputs: Mapping[str, str], outputs: Mapping[str, str], fn: Any, **more: Any
) -> Served:
    """A version whose rank is open (`FP32`) or stated (`INT32 -1,4`)."""

    def specs(described: Mapping[str, str]) -> tuple[TensorSpec, ...]:
        parts = {key: text.split(" ") for key, text in described.items()}
        return tuple(
            TensorSpec(key, part[0], tuple(map(int, part[1].split(","))) if len(part) > 1 else None)
            for key, part in parts.items()
        )

    batched = more.pop("batched", False)
    signature = Signature(DEFAULT_SIGNATURE, specs(inputs), specs(outputs), batched=batched)
    return served(manifest(name, version, (signature,), **more), Direct(FunctionModel(fn)))


def half_plus_two() -> Served:
    """TensorFlow Serving's own example: three signatures that state a shape and take any."""
    x, y = (TensorSpec(name, "FP32", None, stated=(-1, 1)) for name in "xy")
    signatures = (
        Signature(DEFAULT_SIGNATURE, (x,), (y,), batched=False),
        Signature("classify_x_to_y", (x,), (msgspec.structs.replace(y, name="scores", tensor="y"),), "classify", False),
        Signature("regress_x_to_y", (x,), (msgspec.structs.replace(y, name="outputs", tensor="y"),), "regress", False),
    )

    def halve(inputs: Tensors) -> Tensors:
        half = inputs["x"] / 2 + np.float32(2)
        return {"y": half, "scores": half, "outputs": half}

    return served(manifest("half_plus_two", 123, signatures), Direct(FunctionModel(halve)))


def named(inputs: Tensors) -> Tensors:
    return {"sum": inputs["a"] + inputs["b"], "diff": inputs["a"] - inputs["b"]}


def addsub(inputs: Tensors) -> Tensors:
    return {"OUTPUT0": inputs["INPUT0"] + inputs["INPUT1"], "OUTPUT1": inputs["INPUT0"] - inputs["INPUT1"]}


FOUR = "INT32 -1,4"
MODELS = {
    one.id.name: one
    for one in (
        half_plus_two(),
        model("addsub_named", 1, {"a": "FP32", "b": "FP32"}, {"sum": "FP32", "diff": "FP32"}, named),
        model("echo_bytes", 1, {"s": "BYTES"}, {"out_bytes": "BYTES"}, lambda inputs: {"out_bytes": inputs["s"]}),
        model(
            "addsub",
            1,
            {"INPUT0": FOUR, "INPUT1": FOUR},
            {"OUTPUT0": FOUR, "OUTPUT1": FOUR},
            addsub,
            batched=True,
            options={"max_request_rows": 8},
        ),
    )
}


def choose(ref: ModelRef) -> Served:
    """The version that a data plane would choose."""
    found = MODELS.get(ref.name)
    if found is None:
        raise DukouError(Reason.MODEL_NOT_FOUND, model=ref.name, served=", ".join(MODELS))
    if ref.label is not None and ref.label not in LABELS:
        raise DukouError(Reason.LABEL_NOT_FOUND, model=ref.name, label=ref.label)
    if ref.version not in (None, found.id.version):
        raise DukouError(Reason.VERSION_NOT_FOUND, model=ref.name, version=ref.version, served=str(found.id.version))
    return found


def reference(path: str) -> tuple[ModelRef, str]:
    """The model asked for in a path, and the verb after it."""
    parts = re.fullmatch(r"/v[12]/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?[:/]?(\w*)", path)
    assert parts is not None
    name, version, label, verb = parts.groups()
    return ModelRef(name, int(version) if version else None, label), verb


def infer(codec: Any, ref: ModelRef, headers: Headers, body: bytes) -> Reply:
    draft = codec.parse(ref, headers, body)
    version = choose(ref)
    request = codec.bind(draft, version, Context())
    assert version.stage is not None
    reply: Reply = codec.encode(request, asyncio.run(version.stage.infer(request)))
    return reply


def tfs(path: str, headers: Headers, body: bytes) -> Reply:
    ref, verb = reference(path)
    if verb in TF_CODECS:
        return infer(TF_CODECS[verb], ref, headers, body)
    if verb == "metadata":
        return Reply(tf_rest.model_metadata(choose(ref)))
    versions = {MODELS[ref.name].id.version: MODELS[ref.name]} if ref.name in MODELS else {}
    return Reply(tf_rest.model_status(ref.name, versions, ref.version))


def oip(path: str, headers: Headers, body: bytes) -> Reply:
    if path == "/v2":
        return Reply(oip_metadata.server_metadata("dukou", "1.0", ["model_repository"]))
    if path == "/v2/repository/index":
        all_models = Table(models={name: {one.id.version: one} for name, one in MODELS.items()})
        return Reply(json.dumps(oip_repository.index(all_models, oip_repository.parse_index(body))).encode())
    ref, verb = reference(path)
    if verb == "infer":
        return infer(oip_http, ref, headers, body)
    return Reply(oip_metadata.model_metadata(ref.name, {1: MODELS[ref.name]}, MODELS[ref.name]))


def matches(wanted: Any, came: Any, *, exactly: bool) -> bool:
    """Whether an answer holds what is wanted: every member of it, or nothing more."""
    if isinstance(wanted, str) and wanted in KINDS:
        return isinstance(came, KINDS[wanted])
    if isinstance(wanted, float):
        return type(came) is float and came == wanted
    if isinstance(wanted, dict):
        return (
            isinstance(came, dict)
            and (not exactly or wanted.keys() == came.keys())
            and all(key in came and matches(wanted[key], came[key], exactly=exactly) for key in wanted)
        )
    if isinstance(wanted, list):
        return (
            isinstance(came, list)
            and len(wanted) == len(came)
            and all(matches(*pair, exactly=exactly) for pair in zip(wanted, came, strict=True))
        )
    return bool(wanted == came)


def vectors(name: str) -> list[Any]:
    loaded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(vector, id=vector["id"]) for vector in loaded]


def body_of(vector: Mapping[str, Any]) -> bytes:
    if "body_b64" in vector:
        return base64.b64decode(vector["body_b64"])
    text: str = vector["body_text"] if "body_text" in vector else json.dumps(vector.get("body"))
    return text.encode()


def check(protocol: Any, codec: Any, vector: Mapping[str, Any]) -> None:
    sent = {name.lower().encode(): value.encode() for name, value in vector.get("headers", {}).items()}
    try:
        status, reply = 200, protocol(vector["path"], sent, body_of(vector))
    except DukouError as error:
        status, reply = STATUS[error.code], Reply(codec.refuse(error))
    came = {name.decode(): value.decode() for name, value in reply.headers}
    came["content-type"] = reply.content_type.decode()
    end = int(came.get("inference-header-content-length", len(reply.body)))
    said, rest = json.loads(reply.body[:end]), reply.body[end:]
    expect = vector["expect"]

    assert status in vector["status"]
    assert "json" not in expect or matches(expect["json"], said, exactly=True)
    assert "json_subset" not in expect or matches(expect["json_subset"], said, exactly=False)
    assert rest == base64.b64decode(expect.get("binary_tail_b64", ""))
    for name, piece in expect.get("headers_contains", {}).items():
        assert piece in came[name]
    if "error_contains" in expect:
        assert expect["error_contains"] in said["error"]
    for piece in expect.get("text_contains", ()):
        assert piece in reply.body.decode()


@pytest.mark.parametrize("vector", vectors("tfs"))
def test_tensorflow_serving_rest(vector: Mapping[str, Any]) -> None:
    """As clients of TensorFlow Serving expect it."""
    check(tfs, tf_rest, vector)


@pytest.mark.parametrize("vector", vectors("oip"))
def test_open_inference_protocol(vector: Mapping[str, Any]) -> None:
    """As clients of V2 servers expect it."""
    check(oip, oip_http, vector)
