"""What `GET /` shows: what is served, and how to call it. As HTML for people and as JSON for programs. Pure."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import orjson

from dukou.config import PlainConfig
from dukou.core.message import Served, Table
from dukou.core.model import Signature, TensorSpec
from dukou.core.version import State

MOST_EXAMPLE_VALUES = 64
_EXAMPLES: Mapping[str, Any] = {"BOOL": True, "BYTES": "text", "FP16": 1.0, "FP32": 1.0, "FP64": 1.0}


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
    if any(math.prod(_row_shape(spec, signature)) > MOST_EXAMPLE_VALUES for spec in signature.inputs):
        return ()
    row = _row(signature)
    path = quote(model, safe="")
    tensors = [
        {
            "name": spec.name,
            "shape": [1, *_row_shape(spec, signature)] if signature.batched else _row_shape(spec, signature),
            "datatype": spec.datatype,
            "data": [_EXAMPLES.get(spec.datatype, 1)] * math.prod(_row_shape(spec, signature)),
        }
        for spec in signature.inputs
    ]
    return (
        ("Plain JSON", _curl(origin + plain.route + ("" if only_model else f"/{path}"), {plain.input_key: [row]})),
        ("TensorFlow Serving", _curl(f"{origin}/v1/models/{path}:predict", {"instances": [row]})),
        ("Open Inference Protocol", _curl(f"{origin}/v2/models/{path}/infer", {"inputs": tensors})),
    )


def _curl(url: str, body: Any) -> str:
    text = orjson.dumps(body).decode().replace("'", "'\\''")
    return f"curl {url} \\\n  -d '{text}'"


def _row_shape(spec: TensorSpec, signature: Signature) -> list[int]:
    shape = spec.shape or ()
    return [1 if size < 0 else size for size in (shape[1:] if signature.batched else shape)]


def _row(signature: Signature) -> Any:
    """One row as people write it: a list for one input, a record where columns or several inputs have names."""
    first = signature.inputs[0]
    if len(signature.inputs) == 1 and first.columns:
        return {column: _EXAMPLES.get(first.datatype, 1) for column in first.columns}
    values = {
        spec.name: _filled(_row_shape(spec, signature), _EXAMPLES.get(spec.datatype, 1)) for spec in signature.inputs
    }
    return values[first.name] if len(values) == 1 else values


def _filled(shape: Sequence[int], value: Any) -> Any:
    return [_filled(shape[1:], value) for _ in range(shape[0])] if shape else value


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --dim: #5c6670; --line: #d9dee3; --paper: #fff; --code: #f4f6f8;
  --good: #1a7f45; --wait: #9a6700; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --dim: #9aa5b0; --line: #343b42; --paper: #14181c;
  --code: #1d2329; --good: #5fc98a; --wait: #e0b050; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 52rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h1 small { color: var(--dim); font-weight: 400; font-size: 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; } p { margin: .25rem 0 1rem; } .dim { color: var(--dim); }
code, pre { font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--code); border-radius: 6px; padding: .75rem 1rem; margin: 0; overflow-x: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 500; } a { color: inherit; }
.whole { white-space: nowrap; }
.AVAILABLE { color: var(--good); } .START, .LOADING, .UNLOADING { color: var(--wait); } .END { color: var(--bad); }
"""


def as_html(table: Table, server_version: str, origin: str, plain: PlainConfig) -> bytes:
    """The page, complete in itself; `origin` is where the reader came from, `http://127.0.0.1:8501`."""
    count = len(table.models)
    models = "".join(_model_section(name, table, origin, plain) for name in table.models)
    said = "No model is served yet." if not count else f"{count} model{'s' if count > 1 else ''} served."
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>dukou</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>dukou <small>{escape(server_version)}</small></h1>\n<p>{said} "
        '<span class="dim">See also <a href="/v2/health/ready">readiness</a>, <a href="/metrics">metrics</a>, '
        'and this page as JSON with <code class="whole">Accept: application/json</code>.</span></p>\n'
        f"{models}</body>\n</html>\n"
    ).encode()


def _model_section(name: str, table: Table, origin: str, plain: PlainConfig) -> str:
    versions, labels = table.models[name], table.labels.get(name, {})
    rows = [_version_cells(served, labels) for served in versions.values()]
    answering = next((one for one in versions.values() if one.state is State.AVAILABLE), None)
    shown = answering or next(iter(versions.values()))
    parts = [
        f"<h2>{escape(name)}</h2>\n",
        _table(("Version", "State", "Labels"), rows),
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
    return f"<h3>Signature <code>{escape(signature.name)}</code></h3>\n" + _table(
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


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a column with nothing in it is left out."""
    shown = [index for index in range(len(titles)) if any(row[index] for row in rows)]
    head = "".join(f"<th>{titles[index]}</th>" for index in shown)
    body = "".join("<tr>" + "".join(f"<td>{row[index]}</td>" for index in shown) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'
