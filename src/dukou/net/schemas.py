"""A signature as JSON schemas (2020-12), as each protocol's bodies have it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from dukou.core.model import Signature, TensorSpec

Schema: TypeAlias = dict[str, Any]

_KINDS: Mapping[str, Schema] = {
    "BOOL": {"type": "boolean"},
    "BYTES": {"type": "string"},
    "FP16": {"type": "number"},
    "BF16": {"type": "number"},
    "FP32": {"type": "number"},
    "FP64": {"type": "number"},
}
NOT_IN_JSON = ("FP16", "BF16")
"""Datatypes that JSON does not carry."""

MOST_AXES = 3
"""Of a tensor whose rank is open, in a schema."""


def value(spec: TensorSpec) -> Schema:
    """One element of a tensor."""
    known = _KINDS.get(spec.datatype)
    if known is not None:
        return dict(known)
    bits = int(spec.datatype.lstrip("UINT"))
    if spec.datatype.startswith("U"):
        return {"type": "integer", "minimum": 0, "maximum": 2**bits - 1}
    return {"type": "integer", "minimum": -(2 ** (bits - 1)), "maximum": 2 ** (bits - 1) - 1}


def nested(shape: Sequence[int], leaf: Schema) -> Schema:
    """Lists of lists of a shape, -1 being any size."""
    schema = leaf
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def tensor(spec: TensorSpec, shape: Sequence[int] | None) -> Schema:
    """A tensor as nested lists; of a rank that is open, up to MOST_AXES deep."""
    if shape is None:
        return {"anyOf": [nested([-1] * axes, value(spec)) for axes in range(MOST_AXES + 1)]}
    return nested(shape, value(spec))


def _row(spec: TensorSpec) -> Schema:
    return tensor(spec, None if spec.shape is None else spec.shape[1:])


def record(properties: Mapping[str, Schema], required: Sequence[str] | None = None, **more: Any) -> Schema:
    """An object with these members, all of them required unless `required` says which."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
    } | more


def _columns(signature: Signature) -> Mapping[str, Schema]:
    """Names of columns to the schema of one value: of the only input's last axis, or an input each."""
    first = signature.inputs[0]
    if len(signature.inputs) == 1 and first.columns:
        return {column: value(first) for column in first.columns}
    return {spec.name: _row(spec) for spec in signature.inputs} if len(signature.inputs) > 1 else {}


def plain_rows(signature: Signature) -> Schema:
    """Rows as the simple route takes them: lists, records, or one object of columns."""
    columns = _columns(signature)
    forms: list[Schema] = []
    if len(signature.inputs) == 1:
        first = signature.inputs[0]
        forms.append(tensor(first, first.shape) | {"title": "rows"})
    if columns:
        whole = record(columns, additionalProperties=False)
        forms.append({"type": "array", "items": whole, "minItems": 1, "title": "records"})
        lists = {name: {"type": "array", "items": schema, "minItems": 1} for name, schema in columns.items()}
        forms.append(record(lists, additionalProperties=False) | {"title": "columns"})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def first_output(signature: Signature) -> Schema:
    """The first output as nested lists."""
    spec = signature.outputs[0]
    return tensor(spec, spec.shape)


# TensorFlow Serving.


def tf_request(signature: Signature) -> Schema:
    """A predict body, by row or by column."""
    specs = signature.inputs
    named = record({spec.name: _row(spec) for spec in specs})
    one = [_row(specs[0])] if len(specs) == 1 else []
    by_row = {"type": "array", "minItems": 1, "items": {"anyOf": [*one, named]}}
    columns = record({spec.name: tensor(spec, spec.shape) for spec in specs})
    whole = [tensor(specs[0], specs[0].shape)] if len(specs) == 1 else []
    name = {"signature_name": {"type": "string", "default": "serving_default"}}
    return {
        "anyOf": [
            record({"instances": by_row, **name}, ["instances"]),
            record({"inputs": {"anyOf": [*whole, columns]}, **name}, ["inputs"]),
        ]
    }


def tf_response(signature: Signature) -> Schema:
    """`predictions` of rows, `outputs` of columns."""
    specs = signature.outputs
    if len(specs) == 1:
        rows = {"type": "array", "items": _tf_row(specs[0])}
        columns = _tf_tensor(specs[0], specs[0].shape)
    else:
        rows = {"type": "array", "items": record({spec.name: _tf_row(spec) for spec in specs})}
        columns = record({spec.name: _tf_tensor(spec, spec.shape) for spec in specs})
    return {"anyOf": [record({"predictions": rows}), record({"outputs": columns})]}


def _tf_row(spec: TensorSpec) -> Schema:
    return _tf_tensor(spec, None if spec.shape is None else spec.shape[1:])


def _tf_tensor(spec: TensorSpec, shape: Sequence[int] | None) -> Schema:
    if spec.datatype == "BYTES" and spec.name.endswith("_bytes"):
        coded = record({"b64": {"type": "string", "contentEncoding": "base64"}})
        return {} if shape is None else nested(shape, coded)
    return {} if shape is None else nested(shape, value(spec))


# The Open Inference Protocol.

PARAMETERS: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}


def v2_request(signature: Signature) -> Schema:
    """An infer body in JSON."""
    count = len(signature.inputs)
    tensors = [_v2_tensor(spec, signature) for spec in signature.inputs]
    output = record({"name": {"enum": list(signature.output_names())}, "parameters": PARAMETERS}, ["name"])
    return record(
        {
            "id": {"type": "string"},
            "parameters": PARAMETERS,
            "inputs": {
                "type": "array",
                "items": tensors[0] if count == 1 else {"anyOf": tensors},
                "minItems": count,
                "maxItems": count,
            },
            "outputs": {"type": "array", "items": output},
        },
        ["inputs"],
    )


def _v2_tensor(spec: TensorSpec, signature: Signature) -> Schema:
    """An input; its data are flat or nested in row-major order, and as many as the shape says."""
    sizes: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    if spec.shape is not None:
        sizes = {
            "type": "array",
            "prefixItems": [{"const": size} if size >= 0 else {"type": "integer", "minimum": 0} for size in spec.shape],
            "minItems": len(spec.shape),
            "maxItems": len(spec.shape),
        }
    members: dict[str, Schema] = {"name": {"const": spec.name}, "shape": sizes, "datatype": {"const": spec.datatype}}
    if spec.datatype in NOT_IN_JSON:
        return record(members | {"parameters": PARAMETERS})
    flat: Schema = {"type": "array", "items": value(spec), "title": "flat"}
    forms = [flat]
    if spec.shape is None or len(spec.shape) > 1:
        forms.append(tensor(spec, spec.shape) | {"title": "nested"})
    members["data"] = flat if len(forms) == 1 else {"anyOf": forms}
    return record({**members, "parameters": PARAMETERS}, list(members))


def v2_response(signature: Signature) -> Schema:
    """An infer response in JSON; its data are flat."""
    outputs = [
        record(
            {
                "name": {"const": spec.name},
                "shape": {"type": "array", "items": {"type": "integer"}},
                "datatype": {"enum": [spec.datatype, "BYTES"]},
                "data": {"type": "array"},
                "parameters": PARAMETERS,
            },
            ["name", "shape", "datatype"],
        )
        for spec in signature.outputs
    ]
    return record(
        {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": PARAMETERS,
            "outputs": {"type": "array", "items": outputs[0] if len(outputs) == 1 else {"anyOf": outputs}},
        },
        ["model_name", "model_version", "outputs"],
    )


def generate_request(signature: Signature) -> Schema:
    """A generate body: inputs by name, in one row or as nested lists; what else there is are parameters."""
    members = {spec.name: {"anyOf": [value(spec), {"type": "array"}]} for spec in signature.inputs}
    return record({**members, "parameters": PARAMETERS}, list(members))


def generate_response(signature: Signature) -> Schema:
    """One response: outputs by name."""
    members: dict[str, Schema] = {"model_name": {"type": "string"}, "model_version": {"type": "string"}}
    return record({**members, **{spec.name: {} for spec in signature.outputs}}, list(members))


# MLflow.


def mlflow_request(signature: Signature) -> Schema:
    """An invocations body: exactly one of four forms."""
    columns = _columns(signature)
    names: Schema = {"type": "array", "items": {"enum": list(columns)} if columns else {}}
    split = record({"columns": names, "data": {"type": "array", "items": {"type": "array"}, "minItems": 1}}, ["data"])
    records = {"type": "array", "items": record(columns) if columns else {"type": "object"}, "minItems": 1}
    rows = plain_rows(signature)
    params = {"params": {"type": "object"}}
    forms = {"dataframe_split": split, "dataframe_records": records, "instances": rows, "inputs": rows}
    return {"oneOf": [record({name: form, **params}, [name]) for name, form in forms.items()]}
