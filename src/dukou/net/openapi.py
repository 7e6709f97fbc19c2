"""The HTTP interface of a server as an OpenAPI 3.1 document, made from the signatures of what it serves. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from dukou import __version__
from dukou.config import PlainConfig
from dukou.core.message import Served, Table
from dukou.core.model import Signature
from dukou.core.version import State
from dukou.net import samples, schemas
from dukou.net.schemas import Schema, record

_TEXT: Schema = {"type": "string"}
_READY = record({"ready": {"type": "boolean"}})
_ERROR = record({"error": _TEXT})

_FAILURES: Mapping[str, str] = {
    "400": "The request is not what it should be; the error says what came and what was wanted.",
    "404": "There is no such model or version.",
    "413": "The body is too large.",
    "429": "Too many requests or rows wait; `Retry-After` says when to try again.",
    "500": "The model or the server failed; the server's log says why, under the request's id.",
    "501": "This is not supported.",
    "503": "Loading or shutting down; with `Retry-After`.",
    "504": "No answer within the time allowed.",
}


class _Model(msgspec.Struct, frozen=True):
    """A model as far as its paths go: its name in a path, its versions, and what its calls look like."""

    name: str
    path: str
    versions: Sequence[int]
    signature: Signature
    platform: str


def openapi(table: Table, dialect: str = "", plain: PlainConfig | None = None) -> dict[str, Any]:
    """The document for a listener of `dialect`, whose simple route is `plain`. Every model has paths of its own, with
    the tensors of its default signature in the highest version that can be called."""
    models = list(_models(table))
    paths: dict[str, Any] = {}
    schemas_of: dict[str, Schema] = {"Error": _ERROR}
    if dialect in ("kserve", "mlserver"):
        failure = {"anyOf": [_ERROR, record({"detail": {}})]}
        schemas_of["Error"] = failure
    if dialect != "tensorflow-serving":
        paths |= _server_paths(dialect)
    for model in models:
        if dialect in ("", "tensorflow-serving"):
            paths |= _tf_paths(model)
        if dialect == "kserve":
            paths |= _kserve_paths(model)
        if dialect != "tensorflow-serving":
            paths |= _v2_paths(model, dialect)
    if dialect == "" and plain is not None:
        paths |= _plain_paths(models, plain)
    if dialect in ("", "mlserver"):
        paths |= _mlflow_paths(models)
        schemas_of["MlflowError"] = record({"error_code": _TEXT, "message": _TEXT})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dukou",
            "version": __version__,
            "description": "Models as a service. Errors say which model, input and row they are about.",
        },
        "tags": [{"name": "server"}, *({"name": model.name} for model in models)],
        "paths": paths,
        "components": {"schemas": schemas_of},
    }


def _models(table: Table) -> Iterator[_Model]:
    for name, versions in table.models.items():
        served = _shown(versions)
        if served is None:
            continue
        signature = next(iter(served.manifest.signatures.values()))
        if signature.inputs and signature.outputs:
            yield _Model(name, quote(name, safe=""), sorted(versions), signature, served.manifest.runtime)


def _shown(versions: Mapping[int, Served]) -> Served | None:
    with_signatures = [served for served in versions.values() if served.manifest.signatures]
    available = [served for served in with_signatures if served.state is State.AVAILABLE]
    return next(iter(available or with_signatures), None)


# What operations are made of.


def _operation(
    name: str,
    summary: str,
    tag: str,
    answer: Schema | str,
    *,
    body: Mapping[str, Any] | None = None,
    failures: Sequence[str] = (),
    error: str = "Error",
    parameters: Sequence[Any] = (),
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An operation. `answer` is the schema of its JSON, or the content type of what is no JSON ("" for no body);
    `failures` are the statuses of refusals; `more` are other answers."""
    if isinstance(answer, str):
        content: dict[str, Any] = {answer: {}} if answer else {}
    else:
        content = {"application/json": {"schema": answer}}
    responses: dict[str, Any] = {"200": {"description": "Success."} | ({"content": content} if content else {})}
    responses |= more or {}
    shape = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    responses |= {status: {"description": _FAILURES.get(status, "Refused."), "content": shape} for status in failures}
    said: dict[str, Any] = {"operationId": name, "summary": summary, "tags": [tag], "responses": responses}
    if parameters:
        said["parameters"] = list(parameters)
    if body is not None:
        said["requestBody"] = {"required": True, "content": body}
    return said


def _json(schema: Schema, example: Any = None) -> Mapping[str, Any]:
    return {"application/json": {"schema": schema} | ({} if example is None else {"example": example})}


def _version_of(model: _Model) -> Any:
    return {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "enum": list(model.versions)},
    }


_CALL_FAILURES = ("400", "404", "413", "429", "500", "501", "503", "504")
_FASTAPI_FAILURES = ("400", "404", "413", "422", "429", "500", "501", "503", "504")


def _failures(dialect: str) -> Sequence[str]:
    return _FASTAPI_FAILURES if dialect in ("kserve", "mlserver") else _CALL_FAILURES


# Paths.


def _server_paths(dialect: str) -> dict[str, Any]:
    bodies = dialect not in ("triton", "mlserver")
    unready = {"triton": "400", "mlserver": "400"}.get(dialect, "503")
    metadata = record({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}})
    entry = record({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT}, ["name"])
    not_ready = {
        unready: {"description": "Not everything can be called."} | ({"content": _json(_READY)} if bodies else {})
    }
    live: Schema | str = record({"live": {"type": "boolean"}}) if bodies else ""
    paths = {
        "/v2": {"get": _operation("server", "The server's name, version and protocol extensions", "server", metadata)},
        "/v2/health/live": {"get": _operation("live", "The process works", "server", live)},
        "/v2/health/ready": {
            "get": _operation("ready", "Every model can be called", "server", _READY if bodies else "", more=not_ready)
        },
        "/v2/repository/index": {
            "post": _operation(
                "index",
                "Every version and its state",
                "server",
                {"type": "array", "items": entry},
                body=_json(record({"ready": {"type": "boolean"}}, [])),
                failures=("400", "413", "422") if dialect in ("kserve", "mlserver") else ("400", "413", "500"),
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Metrics for Prometheus",
                "server",
                "text/plain; version=0.0.4; charset=utf-8",
                failures=("500",),
            )
        },
    }
    if dialect in ("", "triton"):
        paths["/v2/models/stats"] = {
            "get": _operation("statistics", "What all models have done", "server", _STATISTICS, failures=("500",))
        }
    if dialect == "":
        front = record({"name": _TEXT, "version": _TEXT, "models": {"type": "array"}})
        both = {"text/html": {"schema": _TEXT}, **_json(front)}
        paths["/"] = {"get": _operation("front", "What is served, and how to call it", "server", front)}
        paths["/"]["get"]["responses"]["200"]["content"] = both
    if dialect == "kserve":
        names = record({"models": {"type": "array", "items": _TEXT}})
        paths["/"] = {"get": _operation("alive", "The process works", "server", record({"status": _TEXT}))}
        paths["/v1/models"] = {"get": _operation("models", "The names of all models", "server", names)}
    return paths


_STATISTICS = record({"model_stats": {"type": "array", "items": {"type": "object"}}})


def _v2_paths(model: _Model, dialect: str) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for place, suffix, parameters in (
        ("", "", ()),
        ("/versions/{version}", " of a version", (_version_of(model),)),
    ):
        if place and dialect == "kserve":
            continue
        start = f"/v2/models/{model.path}{place}"
        paths |= {
            start + end: _named(item, f"{model.path}{suffix}", parameters)
            for end, item in _v2_items(model, dialect).items()
        }
    return paths


def _named(item: dict[str, Any], name: str, parameters: Sequence[Any]) -> dict[str, Any]:
    """A path's operations with ids of their own and the path's parameters."""
    ((method, operation),) = item.items()
    operation = {**operation, "operationId": f"{operation['operationId']} {name}".replace(" ", "-")}
    return {method: operation | ({"parameters": list(parameters)} if parameters else {})}


def _v2_items(model: _Model, dialect: str) -> dict[str, dict[str, Any]]:
    signature, tag = model.signature, model.name
    bodies = dialect not in ("triton", "mlserver")
    ready: Schema | str = record({"name": _TEXT, "ready": {"type": "boolean"}}) if bodies else ""
    not_ready = {"503" if dialect == "kserve" else "400": {"description": "It cannot be called yet."}}
    tensors = {"type": "array", "items": record({"name": _TEXT, "datatype": _TEXT, "shape": {"type": "array"}})}
    metadata = record(
        {"name": _TEXT, "versions": {"type": "array"}, "platform": _TEXT, "inputs": tensors, "outputs": tensors}
    )
    items = {
        "": {"get": _operation("metadata", "Its inputs and outputs", tag, metadata, failures=("400", "404", "503"))},
        "/ready": {
            "get": _operation("ready", "Whether it can be called", tag, ready, failures=("404",), more=not_ready)
        },
    }
    if dialect in ("", "triton"):
        items["/config"] = {
            "get": _operation(
                "config", "Its configuration, as Triton has it", tag, {"type": "object"}, failures=("400", "404", "503")
            )
        }
        items["/stats"] = {
            "get": _operation("stats", "What it has done", tag, _STATISTICS, failures=("400", "404", "500", "503"))
        }
    infer = _json(
        schemas.v2_request(signature),
        {"inputs": samples.tensors(signature)} if samples.is_showable(signature) else None,
    )
    failures = _failures(dialect)
    if not signature.streaming:
        raw = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation = _operation("infer", "Inference", tag, schemas.v2_response(signature), body=infer, failures=failures)
        operation["responses"]["200"]["content"] |= raw
        items["/infer"] = {"post": operation}
    if dialect in ("", "triton", "mlserver"):
        items |= _generate_items(model, dialect, infer)
    return items


def _generate_items(model: _Model, dialect: str, infer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    signature, tag, failures = model.signature, model.name, _failures(dialect)
    if dialect == "mlserver":
        body, answer = infer, schemas.v2_response(signature)
    else:
        members = samples.members(signature) if samples.is_showable(signature) else None
        body = _json(schemas.generate_request(signature), members)
        answer = schemas.generate_response(signature)
    events = "text/event-stream; charset=utf-8"
    return {
        "/generate": {
            "post": _operation("generate", "Inference with one response", tag, answer, body=body, failures=failures)
        },
        "/generate_stream": {
            "post": _operation(
                "generate_stream",
                "Responses as they come, as server-sent events",
                tag,
                events,
                body=body,
                failures=failures,
            )
        },
    }


def _tf_paths(model: _Model) -> dict[str, Any]:
    signature, tag = model.signature, model.name
    state = record({"version": _TEXT, "state": _TEXT, "status": record({"error_code": _TEXT, "error_message": _TEXT})})
    status = record({"model_version_status": {"type": "array", "items": state}})
    metadata = record({"model_spec": {"type": "object"}, "metadata": {"type": "object"}})
    example = {"instances": [samples.row(signature)]} if samples.is_showable(signature) else None
    body = _json(schemas.tf_request(signature), example)
    items: dict[str, dict[str, Any]] = {
        "": {"get": _operation("tf-status", "The states of its versions", tag, status, failures=("400", "404"))},
        "/metadata": {
            "get": _operation(
                "tf-metadata",
                "Its signatures, as TensorFlow Serving tells them",
                tag,
                metadata,
                failures=("400", "404"),
            )
        },
    }
    if not signature.streaming:
        items[":predict"] = {
            "post": _operation(
                "predict",
                "Prediction, as TensorFlow Serving has it",
                tag,
                schemas.tf_response(signature),
                body=body,
                failures=_CALL_FAILURES,
            )
        }
    paths: dict[str, Any] = {}
    for place, suffix, parameters in (("", "", ()), ("/versions/{version}", " of a version", (_version_of(model),))):
        start = f"/v1/models/{model.path}{place}"
        paths |= {start + end: _named(item, f"{model.path}{suffix}", parameters) for end, item in items.items()}
    return paths


def _kserve_paths(model: _Model) -> dict[str, Any]:
    ready = record({"name": _TEXT, "ready": {"type": "boolean"}})
    start = f"/v1/models/{model.path}"
    get = {
        "get": _operation(
            "v1-ready",
            "Whether it can be called",
            model.name,
            ready,
            failures=("404",),
            more={"503": {"description": "It cannot be called yet."}},
        )
    }
    paths = {start: _named(get, model.path, ())}
    if not model.signature.streaming:
        predictions = schemas.tf_response(model.signature)["anyOf"][0]
        post = {
            "post": _operation(
                "predict",
                "Prediction",
                model.name,
                predictions,
                body=_json(schemas.tf_request(model.signature)),
                failures=_FASTAPI_FAILURES,
            )
        }
        paths[f"{start}:predict"] = _named(post, model.path, ())
    return paths


def _plain_paths(models: Sequence[_Model], plain: PlainConfig) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    callable_models = [model for model in models if not model.signature.streaming]
    for model in callable_models:
        signature = model.signature
        body = record({plain.input_key: schemas.plain_rows(signature)})
        example = {plain.input_key: [samples.row(signature)]} if samples.is_showable(signature) else None
        answer = record({plain.output_key: schemas.first_output(signature)})
        item = {
            "post": _operation(
                "plain",
                "Rows in, first output out",
                model.name,
                answer,
                body=_json(body, example),
                failures=_CALL_FAILURES,
            )
        }
        paths[f"{plain.route}/{model.path}"] = _named(item, model.path, ())
        if len(models) == 1:
            paths[plain.route] = _named(item, "the-only-model", ())
    return paths


def _mlflow_paths(models: Sequence[_Model]) -> dict[str, Any]:
    not_ready = {"503": {"description": "Not everything can be called."}, "400": {"description": "Likewise."}}
    ping = {"200": {"description": "Every model can be called.", "content": {"application/json": {}}}} | not_ready
    paths: dict[str, Any] = {
        path: {
            "get": {"operationId": name, "summary": "Every model can be called", "tags": ["server"], "responses": ping}
        }
        for path, name in (("/ping", "ping"), ("/health", "health"))
    }
    paths["/version"] = {"get": _operation("version", "The server's version", "server", "text/plain; charset=utf-8")}
    if len(models) == 1 and not models[0].signature.streaming:
        model = models[0]
        body = dict(_json(schemas.mlflow_request(model.signature))) | {"text/csv": {"schema": _TEXT}}
        answer = record({"predictions": schemas.first_output(model.signature)})
        paths["/invocations"] = {
            "post": _operation(
                "invocations",
                "Prediction, as MLflow and SageMaker have it",
                model.name,
                answer,
                body=body,
                failures=(*_CALL_FAILURES, "415"),
                error="MlflowError",
            )
        }
    return paths
