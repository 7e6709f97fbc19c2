"""What `GET /` shows: what is served, and how to call it. As HTML for people and as JSON for programs. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import orjson

from dukou.config import PlainConfig
from dukou.core.message import Served, Table
from dukou.core.model import Signature, TensorSpec
from dukou.core.version import State
from dukou.net import samples
from dukou.net.html import page, table_of


def wants_json(accept: bytes) -> bool:
    """Whether an Accept header (RFC 9110 section 12.5.1) prefers JSON; HTML wins a draw."""
    return _quality(accept, b"application", b"json") > _quality(accept, b"text", b"html")


def _quality(accept: bytes, kind: bytes, subtype: bytes) -> float:
    """The weight of a media type, by the most specific range that covers it."""
    ranges = {b"*/*": 0, kind + b"/*": 1, kind + b"/" + subtype: 2}
    best = (-1, 0.0)
    for entry in (accept or b"*/*").lower().split(b","):
        media, *parameters = (part.strip() for part in entry.split(b";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                weight = _weight(parameter[2:])
        if media in ranges:
            best = max(best, (ranges[media], weight))
    return best[1]


def _weight(text: bytes) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def as_json(table: Table, server_version: str) -> bytes:
    """What is served: `{"name", "version", "models": [{"name", "versions": [{"version", "state", "signatures"}]}]}`."""
    models = [
        {"name": name, "labels": table.labels.get(name, {}), "versions": [_version(one) for one in versions.values()]}
        for name, versions in table.models.items()
    ]
    return orjson.dumps({"name": "dukou", "version": server_version, "models": models}, option=orjson.OPT_INDENT_2)


def _version(served: Served) -> dict[str, Any]:
    said: dict[str, Any] = {"version": served.id.version, "state": served.state.value}
    if served.error is not None:
        said["error"] = str(served.error)
    said["signatures"] = {
        name: {
            "inputs": [_tensor(spec) for spec in signature.inputs],
            "outputs": [_tensor(spec) for spec in signature.outputs],
        }
        for name, signature in served.manifest.signatures.items()
    }
    return said


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    said: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    if spec.columns:
        said["columns"] = spec.columns
    return said


def examples(
    model: str, signature: Signature, origin: str, only_model: bool, plain: PlainConfig
) -> Sequence[tuple[str, str]]:
    """Title and shell command of one call in each protocol, with one row that fits; none where a row is too large."""
    if not samples.is_showable(signature):
        return ()
    path = quote(model, safe="")
    if signature.streaming:
        url = f"{origin}/v2/models/{path}/generate_stream"
        return (("Responses as they come", _curl(f"-N {url}", samples.members(signature))),)
    row = samples.row(signature)
    return (
        ("Plain JSON", _curl(origin + plain.route + ("" if only_model else f"/{path}"), {plain.input_key: [row]})),
        ("TensorFlow Serving", _curl(f"{origin}/v1/models/{path}:predict", {"instances": [row]})),
        ("Open Inference Protocol", _curl(f"{origin}/v2/models/{path}/infer", {"inputs": samples.tensors(signature)})),
    )


def _curl(url: str, body: Any) -> str:
    text = orjson.dumps(body).decode().replace("'", "'\\''")
    return f"curl {url} \\\n  -d '{text}'"


def as_html(table: Table, server_version: str, origin: str, plain: PlainConfig) -> bytes:
    """The page, complete in itself; `origin` is where the reader came from, `http://127.0.0.1:8501`."""
    count = len(table.models)
    models = "".join(_model_section(name, table, origin, plain) for name in table.models)
    said = "No model is served yet." if not count else f"{count} model{'s' if count > 1 else ''} served."
    return page(
        "dukou",
        f"<h1>dukou <small>{escape(server_version)}</small></h1>\n<p>{said} This address answers gRPC too. "
        '<span class="dim">See also <a href="/v2/health/ready">readiness</a>, <a href="/metrics">metrics</a>, '
        '<a href="/docs">the interface</a> (<a href="/openapi.json">OpenAPI</a>), and this page as JSON with '
        f'<code class="whole">Accept: application/json</code>.</span></p>\n{models}',
    )


def _model_section(name: str, table: Table, origin: str, plain: PlainConfig) -> str:
    versions, labels = table.models[name], table.labels.get(name, {})
    rows = [_version_cells(served, labels) for served in versions.values()]
    answering = next((one for one in versions.values() if one.state is State.AVAILABLE), None)
    shown = answering or next(iter(versions.values()))
    parts = [
        f"<h2>{escape(name)}</h2>\n",
        table_of(("Version", "State", "Labels"), rows),
        *(_signature_section(signature) for signature in shown.manifest.signatures.values()),
    ]
    default = next(iter(shown.manifest.signatures.values()), None)
    if answering is not None and default is not None:
        for title, command in examples(name, default, origin, len(table.models) == 1, plain):
            parts.append(f"<h3>{escape(title)}</h3>\n<pre>{escape(command)}</pre>\n")
    return "".join(parts)


def _version_cells(served: Served, labels: Mapping[str, int]) -> Sequence[str]:
    state = served.state.value
    why = f'<br><span class="dim">{escape(str(served.error))}</span>' if served.error is not None else ""
    names = ", ".join(escape(label) for label, version in labels.items() if version == served.id.version)
    return str(served.id.version), f'<span class="{state}">{state}</span>{why}', names


def _signature_section(signature: Signature) -> str:
    rows = [_tensor_cells("input", spec) for spec in signature.inputs]
    rows += [_tensor_cells("output", spec) for spec in signature.outputs]
    return f"<h3>Signature <code>{escape(signature.name)}</code></h3>\n" + table_of(
        ("", "Name", "Datatype", "Shape", "Columns"), rows
    )


def _tensor_cells(role: str, spec: TensorSpec) -> Sequence[str]:
    shape = "any" if spec.shape is None else "[" + ", ".join("any" if n < 0 else str(n) for n in spec.shape) + "]"
    return (
        f'<span class="dim">{role}</span>',
        f"<code>{escape(spec.name)}</code>",
        escape(spec.datatype),
        f'<span class="whole">{shape}</span>',
        escape(", ".join(spec.columns)),
    )
