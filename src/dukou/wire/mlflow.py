"""MLflow's scoring protocol: `POST /invocations`, which SageMaker has too.

A JSON body has exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, and perhaps `params`; a
CSV body has a line of column names and then a line for each row. Columns are found by their names where the model has
names, else by their order. The answer is `{"predictions": ...}`, the model's first output; an error is
`{"error_code": ..., "message": ...}`.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import DTYPES
from dukou.core.version import ModelRef
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_array import to_array
from dukou.wire.json_text import MOST_VALUES, read
from dukou.wire.json_write import quote
from dukou.wire.plain import first_output
from dukou.wire.rows import count, fit, from_records, from_rows
from dukou.wire.text_size import reading_bytes, writing_bytes

__all__ = ["bind", "encode", "parse", "reading_bytes", "refuse", "writing_bytes"]

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
"""The keys of which a JSON body has exactly one."""

CONTENT_TYPES = ("application/json", "text/csv")

_CSV_TYPES = (b"text/csv", b"application/csv")
_MOST_MESSAGE = 4096


class _Said(msgspec.Struct):
    """A body: the `form` that it has, the value of that key, and its `params`."""

    form: str
    value: Any
    params: Mapping[str, Any] = {}


class _Frame(msgspec.Struct):
    """A table: `data` are its rows, or an array of them; of CSV they are texts. Without `columns` it has no names."""

    columns: Sequence[Any]
    data: Any
    texts: bool = False


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """What a body says. Raises DukouError WRONG_MEDIA_TYPE, MALFORMED_JSON, TOO_DEEP, TOO_MANY_VALUES and
    MALFORMED_REQUEST."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind in _CSV_TYPES:
        return Draft(ref, _Said("csv", _read_csv(body)))
    if kind not in (b"", b"application/json", b"application/x-www-form-urlencoded"):
        # A form is what curl says unless told otherwise; it holds JSON.
        raise DukouError(Reason.WRONG_MEDIA_TYPE, got=kind[:80].decode("latin-1"), wanted=", ".join(CONTENT_TYPES))
    tree = read(body)
    if type(tree) is not dict:
        raise _malformed(f"the body must be an object with one of {', '.join(FORMS)}")
    given = [form for form in FORMS if form in tree]
    if len(given) != 1:
        raise _malformed(
            f"the body must have exactly one of {', '.join(FORMS)}; it has {' and '.join(given) or 'none of them'}"
        )
    params = tree.get("params")
    if params is not None and type(params) is not dict:
        raise _malformed("'params' must be an object")
    value = tree[given[0]]
    if given[0] == "dataframe_split":
        value = _split(value)
    return Draft(ref, _Said(given[0], value, params or {}))


def _malformed(detail: str) -> DukouError:
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def _split(value: Any) -> _Frame:
    if type(value) is not dict or "data" not in value:
        raise _malformed("'dataframe_split' must be an object with 'columns' and 'data'")
    columns, data = value.get("columns", ()), value["data"]
    if isinstance(columns, np.ndarray):
        columns = columns.tolist()
    if type(columns) not in (list, tuple):
        raise _malformed("'columns' of 'dataframe_split' must be a list")
    if type(data) is not list and not isinstance(data, np.ndarray):
        raise _malformed("'data' of 'dataframe_split' must be a list of rows")
    return _Frame(columns, data)


def _read_csv(body: bytes) -> _Frame:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _malformed(f"the CSV is not UTF-8 at offset {error.start}") from None
    values = text.count(",") + text.count("\n")
    if values > MOST_VALUES:
        raise DukouError(Reason.TOO_MANY_VALUES, got=values, wanted=MOST_VALUES)
    try:
        columns, *data = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise _malformed(f"the body is not CSV: {error}") from None
    except ValueError:
        raise _malformed("the CSV is empty; its first line must name the columns") from None
    if not data:
        raise _malformed("the CSV has no rows below its first line, which must name the columns")
    return _Frame(columns, data, texts=True)


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The rows typed by the version's default signature, asking for its first output only. Raises DukouError."""
    said: _Said = draft.payload
    try:
        signature = served.manifest.signature("")
        if isinstance(said.value, _Frame):
            inputs = _from_frame(said.value, signature)
        elif said.form == "dataframe_records":
            inputs = _from_frame_records(said.value, signature)
        else:
            inputs = from_rows(said.value, signature)
        rows = count(inputs, signature, served)
    except DukouError as error:
        raise error.within(model=served.id.name, version=served.id.version) from None
    return InferenceRequest(
        served.id, signature, inputs, (signature.outputs[0].name,), rows, context, parameters=said.params
    )


def _from_frame_records(records: Any, signature: Signature) -> dict[str, NDArray[Any]]:
    """Inputs of records; of a model without column names, the values in the order of the first record."""
    if type(records) is not list or not records or any(type(record) is not dict for record in records):
        raise _malformed("'dataframe_records' must be a list of objects, one for each row")
    if _names(signature):
        return from_records(records, signature)
    columns = list(records[0])
    for row, record in enumerate(records):
        if record.keys() != records[0].keys():
            raise DukouError(
                Reason.WRONG_VALUE, row=row, got=quote(list(record), 64), wanted=f"the columns {quote(columns, 64)}"
            )
    return _from_frame(_Frame((), [[record[name] for name in columns] for record in records]), signature)


def _from_frame(frame: _Frame, signature: Signature) -> dict[str, NDArray[Any]]:
    """Inputs of a table."""
    names = _names(signature)
    places = _places(frame.columns, names) if names and frame.columns else None
    width = len(frame.columns) or None
    if not len(frame.data):
        raise DukouError(Reason.NO_ROWS)
    if isinstance(frame.data, np.ndarray):
        return _from_matrix(frame.data, signature, places, width)
    for row, values in enumerate(frame.data):
        if type(values) is not list and not isinstance(values, np.ndarray):
            raise DukouError(Reason.WRONG_VALUE, row=row, got=quote(values, 64), wanted="a list")
        if width is not None and len(values) != width:
            raise DukouError(Reason.WRONG_WIDTH, row=row, got=len(values), wanted=width)
    data = [list(values) for values in frame.data]
    if places is not None:
        data = [[values[place] for place in places] for values in data]
    specs = signature.inputs
    if len(specs) == 1:
        spec = specs[0]
        if frame.texts:
            data = [[_typed(text, spec, row) for text in values] for row, values in enumerate(data)]
        return {spec.name: fit(to_array(data, spec), spec)}
    for row, values in enumerate(data):
        if len(values) != len(specs):
            raise DukouError(Reason.WRONG_WIDTH, row=row, got=len(values), wanted=len(specs))
    inputs = {}
    for spec, column in zip(specs, zip(*data, strict=True), strict=True):
        values = [_typed(text, spec, row) for row, text in enumerate(column)] if frame.texts else list(column)
        inputs[spec.name] = fit(to_array(values, spec), spec)
    return inputs


def _from_matrix(
    data: NDArray[Any], signature: Signature, places: Sequence[int] | None, width: int | None
) -> dict[str, NDArray[Any]]:
    if width is not None and (data.ndim < 2 or data.shape[1] != width):
        raise DukouError(Reason.WRONG_WIDTH, row=0, got=data.shape[1] if data.ndim > 1 else 1, wanted=width)
    if places is not None:
        data = data[:, list(places)]
    return from_rows(data, signature)


def _names(signature: Signature) -> tuple[str, ...]:
    """The columns of a table for this signature; none for one input whose columns have no names."""
    specs = signature.inputs
    return specs[0].columns if len(specs) == 1 else tuple(spec.name for spec in specs)


def _places(columns: Sequence[Any], names: Sequence[str]) -> Sequence[int]:
    """For each of `names` its place among `columns`."""
    places: dict[str, int] = {}
    for place, column in enumerate(columns):
        if column not in names:
            raise DukouError(Reason.COLUMN_UNEXPECTED, got=str(column)[:64], wanted=", ".join(names))
        if column in places:
            raise _malformed(f"column {column!r} is there twice")
        places[column] = place
    missing = [name for name in names if name not in places]
    if missing:
        raise DukouError(Reason.COLUMN_MISSING, missing=", ".join(map(repr, missing)), wanted=", ".join(names))
    return [places[name] for name in names]


def _typed(text: str, spec: TensorSpec, row: int) -> Any:
    """A cell of a CSV as the tensor's datatype wants it; an empty one is NaN."""
    kind = DTYPES[spec.datatype].kind
    if kind == "O":
        return text
    try:
        if kind == "b":
            return {"true": True, "false": False}[text.strip().lower()]
        if kind != "f":
            return int(text)
        return float(text) if text.strip() else math.nan
    except (ValueError, KeyError):
        raise DukouError(
            Reason.WRONG_VALUE, tensor=spec.name, row=row, got=quote(text, 64), wanted=spec.datatype
        ) from None


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """`{"predictions": ...}`. Raises DukouError NOT_SUPPORTED for bytes that are not text."""
    return Reply(b'{"predictions":' + first_output(request, response) + b"}")


def refuse(error: DukouError) -> bytes:
    """`{"error_code": ..., "message": ...}`."""
    message = str(error)[:_MOST_MESSAGE].encode("utf-8", "replace").decode()
    return orjson.dumps({"error_code": _ERROR_CODES.get(error.code, error.code.value), "message": message})


_ERROR_CODES: Mapping[Code, str] = {
    Code.INVALID_ARGUMENT: "BAD_REQUEST",
    Code.OUT_OF_RANGE: "BAD_REQUEST",
    Code.PAYLOAD_TOO_LARGE: "BAD_REQUEST",
    Code.NOT_FOUND: "RESOURCE_DOES_NOT_EXIST",
    Code.RESOURCE_EXHAUSTED: "REQUEST_LIMIT_EXCEEDED",
    Code.UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
    Code.INTERNAL: "INTERNAL_ERROR",
    Code.UNIMPLEMENTED: "NOT_IMPLEMENTED",
}
"""MLflow's names where they differ from the Code's own."""
