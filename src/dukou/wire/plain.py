"""`POST /predict`: `{"X": [[...], ...]}` in, `{"y_pred": [...]}` out, as a few lines of Flask would answer.

`X` is a list of rows, of records (`[{"column": value, ...}, ...]`) or one object of columns. `y_pred` is the model's
first output, which is the only one computed: labels as the estimator's own classes, or numbers. NaN, Infinity and
-Infinity are read and written as these tokens. The content type is ignored. An error is `{"error": "..."}`.
"""

from typing import Any

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.version import ModelRef
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_array import Numbers
from dukou.wire.json_text import decode, read
from dukou.wire.json_write import array_text, error_text
from dukou.wire.rows import count, from_rows
from dukou.wire.text_size import reading_bytes, writing_bytes

__all__ = ["bind", "encode", "parse", "reading_bytes", "refuse", "writing_bytes"]


class _Numeric(msgspec.Struct):
    X: Numbers


class _Any(msgspec.Struct):
    X: Any


_numeric = msgspec.json.Decoder(_Numeric)


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """The rows of a body. Raises DukouError MALFORMED_JSON, TOO_DEEP and MALFORMED_REQUEST."""
    said = decode(body, _numeric)
    if said is not None:
        return Draft(ref, said)
    tree = read(body)
    if type(tree) is not dict or "X" not in tree:
        raise DukouError(Reason.MALFORMED_REQUEST, detail='the body must be {"X": [[...], ...]}, one list for each row')
    return Draft(ref, _Any(tree["X"]))


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The rows typed by the version's default signature, asking for its first output only. Raises DukouError."""
    said: _Numeric | _Any = draft.payload
    try:
        signature = served.manifest.signature(draft.signature_name)
        inputs = from_rows(said.X, signature, type(said) is _Numeric)
        rows = count(inputs, signature, served)
    except DukouError as error:
        raise _one_row(error).within(model=served.id.name, version=served.id.version) from None
    return InferenceRequest(served.id, signature, inputs, (signature.outputs[0].name,), rows, context)


def _one_row(error: DukouError) -> DukouError:
    """The error of a single row given as `[...]`, for a model that wants rows: shows how to write it."""
    shape, wanted = error.facts.get("shape"), error.facts.get("spec_shape")
    if error.reason is not Reason.WRONG_SHAPE or shape is None or wanted is None or len(shape) + 1 != len(wanted):
        return error
    return DukouError(
        Reason.MALFORMED_REQUEST,
        tensor=error.facts.get("tensor"),
        detail=f"shape {shape} came, {wanted} is wanted; X is a list of rows, so one row is written [[...]]",
    )


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """`{"y_pred": [...]}`. Raises DukouError NOT_SUPPORTED for bytes that are not text."""
    name = request.outputs[0]
    try:
        return Reply(b'{"y_pred":' + array_text(response.outputs[name]) + b"}")
    except UnicodeError:
        raise DukouError(Reason.NOT_SUPPORTED, detail=f"output {name!r} holds bytes that are not UTF-8") from None


def refuse(error: DukouError) -> bytes:
    """`{"error": "..."}`."""
    return error_text(str(error))
