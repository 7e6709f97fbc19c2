"""The Codec of `POST /v2/models/MODEL/generate`: a flat JSON object in, one out for each response.

Members that are named like inputs are these, all others are parameters, which may also stand together in `parameters`.
A value or list with fewer axes than its input stands for one row.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import ModelRef, TensorSpec
from dukou.wire import oip_bind, oip_json, text_size
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_array import to_array
from dukou.wire.json_text import read
from dukou.wire.json_write import error_text
from dukou.wire.oip_bind import Form
from dukou.wire.oip_errors import describe
from dukou.wire.oip_json import Input

__all__ = ["bind", "encode", "parse", "reading_bytes", "refuse", "writing_bytes"]

reading_bytes = text_size.reading_bytes
writing_bytes = text_size.writing_bytes


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """A JSON object. Raises DukouError MALFORMED_JSON, TOO_DEEP, TOO_MANY_VALUES, MALFORMED_REQUEST."""
    said = read(body)
    if not isinstance(said, dict):
        raise _malformed("a JSON object is wanted, with a member for each input")
    return Draft(ref, said)


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The inputs and parameters of an object; all outputs are wanted. Raises DukouError."""
    members: dict[str, Any] = dict(draft.payload)
    specs = served.manifest.signature(draft.signature_name).inputs
    inputs = [Input(spec.name, [], spec.datatype, members.pop(spec.name)) for spec in specs if spec.name in members]
    id = members.pop("id", None)  # noqa: A001, the protocol's own name
    together = members.pop("parameters", None) or {}
    if not isinstance(together, dict):
        raise _malformed("'parameters' must be an object")
    return oip_bind.bind(
        served,
        context,
        inputs=inputs,
        read=_array,
        outputs=(),
        parameters=together | members,
        form=Form(id if isinstance(id, str) else None),
        signature_name=draft.signature_name,
    )


def _malformed(detail: str) -> DukouError:
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def _array(tensor: Input, spec: TensorSpec) -> NDArray[Any]:
    """The array of a value or list, with axes of size 1 before its own until it has as many as the spec."""
    if spec.datatype in oip_json.NOT_IN_JSON:
        raise oip_json.not_in_json(spec.datatype, "input", spec.name)
    array = to_array(tensor.data, spec)
    missing = (1 if spec.shape is None else len(spec.shape)) - array.ndim
    return array.reshape((1,) * missing + array.shape) if missing > 0 else array


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """One JSON object: the model, the response's parameters, its outputs by name. An output of one value is that value,
    others are flat lists. Raises DukouError for outputs that JSON cannot carry."""
    form: Form = request.reply
    members: dict[str, bytes] = {
        "model_name": orjson.dumps(response.version.name),
        "model_version": orjson.dumps(str(response.version.version)),
    }
    if form.id is not None:
        members["id"] = orjson.dumps(form.id)
    for name, value in response.parameters.items():
        members[name] = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    members |= _values(response.outputs)
    return Reply(b"{" + b",".join([orjson.dumps(name) + b":" + text for name, text in members.items()]) + b"}")


def _values(outputs: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    texts = {}
    for name, array in outputs.items():
        text = oip_json.data_text(name, array, "output")
        texts[name] = text[1:-1] if array.size == 1 else text
    return texts


def refuse(error: DukouError) -> bytes:
    """`{"error": ...}` in the words that this protocol's clients look for."""
    return error_text(describe(error))
