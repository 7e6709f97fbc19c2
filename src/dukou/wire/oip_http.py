"""The Codec of `POST /v2/models/MODEL/infer`: JSON, with raw tensor data behind it where the headers say so."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import ModelRef
from dukou.wire import oip_binary, oip_bind, oip_json, text_size
from dukou.wire.batch_rows import are_small_numbers, row_of
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_write import error_text
from dukou.wire.oip_bind import Form
from dukou.wire.oip_errors import describe
from dukou.wire.oip_json import NOT_IN_JSON, Call, NumericCall, Output

RAW_BYTES_PER_TEXT = 64
"""Raw data takes about a sixty-fourth of the time of as much text."""


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """An infer body: its JSON, or the body itself where it is all raw data.

    Raises DukouError MALFORMED_JSON, TOO_DEEP, TOO_MANY_VALUES, MALFORMED_REQUEST, NOT_SUPPORTED.
    """
    length = headers.get(oip_binary.HEADER)
    if length is None:
        said = oip_json.read_call(body)
        for tensor in said.inputs:
            if tensor.parameters or tensor.data is None:
                oip_binary.place(said.inputs, None, ref.name)
                break
        return Draft(ref, said)
    json_bytes = oip_binary.json_bytes(length, len(body))
    if not json_bytes:
        return Draft(ref, body)
    said = oip_json.read_call(body[:json_bytes], binary=True)
    oip_binary.place(said.inputs, memoryview(body)[json_bytes:], ref.name)
    return Draft(ref, said)


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The tensors of a body, checked against the signature; all its outputs where none are named. Raises DukouError."""
    said: NumericCall | Call | bytes = draft.payload
    if isinstance(said, bytes):
        signature = served.manifest.signature(draft.signature_name)
        only = oip_binary.whole(said, signature, served.id.name)
        said = Call([only], parameters={"binary_data_output": True})
    parameters = said.parameters or {}
    outputs = said.outputs or ()
    form = Form(said.id)
    request = oip_bind.bind(
        served,
        context,
        inputs=said.inputs,
        read=oip_json.from_numbers if type(said) is NumericCall else oip_json.from_any,  # type: ignore[arg-type]
        outputs=outputs,
        parameters=parameters,
        form=form,
        signature_name=draft.signature_name,
    )
    if outputs or parameters:
        form.binary = _binary(request, parameters, outputs)
    for spec in request.signature.outputs:
        if spec.datatype in NOT_IN_JSON and _is_json(request, spec.name):
            raise oip_json.not_in_json(spec.datatype, "output", spec.name).within(
                model=served.id.name, version=served.id.version
            )
    return request


def _is_json(request: InferenceRequest, output: str) -> bool:
    """Whether an output is wanted as numbers in JSON."""
    form: Form = request.reply
    return output in request.outputs and output not in form.binary and output not in (form.classes or ())


def _binary(request: InferenceRequest, parameters: Mapping[str, Any], outputs: Sequence[Output]) -> Collection[str]:
    """The outputs that are wanted as raw data: what an output says, else what is said for all."""
    default = _flag(parameters, "binary_data_output", False)
    if not outputs:
        return request.outputs if default else ()
    return [output.name for output in outputs if _flag(output.parameters or {}, "binary_data", default)]


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=f"the parameter {name!r} must be true or false")
    return value


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """The infer response: JSON, with raw data behind it where that was asked for.

    Raises DukouError for outputs that cannot be written as they were asked for.
    """
    form: Form = request.reply
    if not form.classes and not form.binary:
        row = row_of(request, response, "oip_http", _write_rows)
        if row is not None:
            return Reply(oip_json.answer(response.version, form.id, response.parameters, (row,)))
    outputs = oip_bind.written(request, response.outputs) if form.classes else response.outputs
    if form.binary:
        return oip_binary.encode(request, response, outputs)
    tensors = []
    for name in request.outputs:
        tensors.append(oip_json.tensor_text(name, outputs[name], "output"))  # noqa: PERF401, 0.3 µs less in Python 3.11
    return Reply(oip_json.answer(response.version, form.id, response.parameters, tensors))


def _write_rows(request: InferenceRequest, response: InferenceResponse) -> Sequence[bytes]:
    """The outputs of requests of one row each: one by one each takes 3 µs more."""
    batch = response.batch
    assert batch is not None
    if not are_small_numbers(batch):
        return ()
    columns = [oip_json.row_tensor_texts(name, batch.outputs[name]) for name in request.outputs]
    return [b",".join(row) for row in zip(*columns, strict=True)]


def refuse(error: DukouError) -> bytes:
    """`{"error": ...}` in the words that this protocol's clients look for."""
    return error_text(describe(error))


def reading_bytes(headers: Headers, body: bytes) -> int:
    """The JSON and the strings of a body, and a little for its numbers. What the header says is not checked here."""
    digits = headers.get(oip_binary.HEADER, b"").strip()
    if not digits.isdigit() or len(digits) > 18:
        return len(body)
    json_bytes = int(digits)
    if body.find(b'"BYTES"', 0, json_bytes) >= 0:
        return len(body)
    return min(json_bytes + (len(body) - json_bytes) // RAW_BYTES_PER_TEXT, len(body))


def writing_bytes(request: InferenceRequest, response: InferenceResponse) -> int:
    """The text of the outputs; raw numbers count a sixty-fourth, and classes as if there were one for each value."""
    form: Form = request.reply
    outputs = response.outputs
    size = 0
    for name in request.outputs:
        array = outputs[name]
        if form.classes and name in form.classes:
            size += array.size * oip_bind.CLASS_BYTES
        elif name in form.binary and array.dtype.kind != "O":
            size += array.nbytes // RAW_BYTES_PER_TEXT
        else:
            size += array.nbytes * text_size.TEXT_PER_BYTE
    return size
