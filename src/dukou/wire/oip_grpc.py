"""The Open Inference Protocol (V2) over gRPC: ModelInferRequest to ModelInferResponse; errors in Triton's words.

Tensor data comes raw or in the typed contents of the inputs, and always goes out raw, which all clients read. What is
the same in every form of the protocol is in `dukou.wire.oip_bind`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import ModelManifest, Signature, TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.core.version import ModelRef
from dukou.protos import pool
from dukou.wire import oip_bind, protobuf
from dukou.wire.batch_rows import are_small_numbers, row_of
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_text import MOST_VALUES
from dukou.wire.json_write import native
from dukou.wire.oip_bind import Form
from dukou.wire.oip_errors import describe
from dukou.wire.oip_http import RAW_BYTES_PER_TEXT
from dukou.wire.raw_array import SMALL_BYTES, Raw, from_raw, stated_size, to_raw
from dukou.wire.text_size import TEXT_PER_BYTE

__all__ = ["bind", "encode", "parse", "reading_bytes", "refuse", "writing_bytes"]

REQUEST = "inference.ModelInferRequest"
RESPONSE = "inference.ModelInferResponse"

ID, RAW_INPUT_CONTENTS, RAW_OUTPUT_CONTENTS = 3, 7, 6
_ID, _RAW = protobuf.tag(ID), protobuf.tag(RAW_INPUT_CONTENTS)

KNOWN_HEADS = 1024
KNOWN_HEAD_BYTES = 1024
KNOWN_LENGTHS, HEADS_OF_A_LENGTH = 256, 4
HEAD_BYTES = 65_536
"""A longer one holds the tensors themselves."""
MOST_TEXT = 1024
"""Characters of an error's message; clients take metadata of 8 kB in all."""
CONTENT_TYPE = b"application/grpc"

EMPTY_FINAL = "triton_enable_empty_final_response"

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype to the field that holds its elements; the others come raw only."""


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    contents: Any
    """An InferTensorContents, or None."""
    raw: Raw = b""


class _Output(msgspec.Struct):
    name: str
    parameters: Mapping[str, Any]


class Known(msgspec.Struct, frozen=True):
    """What a head came to when it was bound to `manifest`.

    `tensors` has of each input the place of its raw contents, its name, dtype, shape and size in bytes.
    """

    manifest: ModelManifest
    signature: Signature
    tensors: Sequence[tuple[int, str, np.dtype[Any], tuple[int, ...], int]]
    outputs: tuple[str, ...]
    form: Form
    rows: int


class Head(msgspec.Struct):
    """A ModelInferRequest without its id and its raw contents: what is the same in many calls of a client.

    To read and check it takes twice as long as all else that is done here for a small call, so it is remembered with
    what it came to.
    """

    ref: ModelRef
    inputs: Sequence[_Input]
    outputs: Sequence[_Output]
    parameters: Mapping[str, Any]
    known: Known | None = None


class Said(msgspec.Struct):
    """A ModelInferRequest: its head, its id, and its raw contents."""

    head: Head
    id: str
    raw: Sequence[Raw]


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """A ModelInferRequest, which names its model itself. Raises DukouError MALFORMED_REQUEST."""
    size = len(body)
    starts = _known_starts(size)
    for start, head in starts:
        if body.startswith(start):
            end = body[len(start) :] if size <= SMALL_BYTES else memoryview(body)[len(start) :]
            return Draft(head.ref, Said(head, "", (end,)))
    ids: list[Raw] = []
    raw: list[Raw] = []
    rest = protobuf.cut(body, {_ID: ids, _RAW: raw})
    if len(rest) > KNOWN_HEAD_BYTES:
        head = _head(rest)
    else:
        head = _known_head(rest)
        if len(raw) == 1 and not ids:
            start = rest + protobuf.head(RAW_INPUT_CONTENTS, len(raw[0]))
            if len(start) + len(raw[0]) == size and body.startswith(start):
                starts[:] = [(start, head), *starts][:HEADS_OF_A_LENGTH]
    return Draft(head.ref, Said(head, _text(ids[-1]) if ids else "", raw))


@lru_cache(KNOWN_LENGTHS)
def _known_starts(length: int) -> list[tuple[bytes, Head]]:
    """Of the latest messages of `length` bytes that end with their only raw contents: the bytes before, and the head.

    Clients send the same again with other values. A message of the same length that starts with the same bytes, the
    length of its raw contents among them, has the same head; to know that saves 1 µs.
    """
    return []


def request_id(body: bytes) -> str:
    """The id of a ModelInferRequest, whatever else is wrong with it. Raises DukouError where it is no message."""
    ids: list[Raw] = []
    protobuf.cut(body, {_ID: ids})
    return _text(ids[-1]) if ids else ""


def _text(data: Raw) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise _malformed("the id is not UTF-8") from None


def _head(rest: bytes) -> Head:
    message = pool.parse(REQUEST, rest)
    return Head(
        model_ref(message.model_name, message.model_version),
        [_stated(tensor) for tensor in message.inputs],
        [_Output(output.name, _values(output.parameters)) for output in message.outputs],
        _values(message.parameters),
    )


_known_head = lru_cache(KNOWN_HEADS)(_head)


def _stated(tensor: Any) -> _Input:
    if "shared_memory_region" in tensor.parameters:
        raise oip_bind.no_shared_memory("input", tensor.name)
    contents = tensor.contents if tensor.HasField("contents") else None
    return _Input(tensor.name, tensor.datatype, tuple(tensor.shape), contents)


def _values(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters as plain values."""
    values = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise _malformed(f"the parameter {name!r} has no value")
        values[name] = getattr(parameter, kind)
    return values


def model_ref(name: str, version: str) -> ModelRef:
    """The model that a message names; an empty `version` means the latest. Raises DukouError MALFORMED_REQUEST."""
    if not version:
        return ModelRef(name)
    if version.isascii() and version.isdigit() and len(version) < 19 and int(version):
        return ModelRef(name, int(version))
    detail = (
        f"failed to get model version from specified version string '{version[:64]}', "
        "version should be an integral value > 0"
    )
    raise DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The tensors of a call, checked against the signature; all its outputs where none are named. Raises DukouError."""
    said: Said = draft.payload
    head = said.head
    known = head.known
    if known is not None and known.manifest is served.manifest:
        arrays = _arrays(known, said.raw)
        if arrays is not None:
            form = Form(said.id, known.form.classes) if said.id else known.form
            return InferenceRequest(served.id, known.signature, arrays, known.outputs, known.rows, context, {}, form)
    request = oip_bind.bind(
        served,
        context,
        inputs=_inputs(head.inputs, said.raw, served.id.name),
        read=_array,
        outputs=head.outputs,
        parameters={name: value for name, value in head.parameters.items() if name != EMPTY_FINAL},
        form=Form(said.id),
    )
    head.known = _learn(head, served, request)
    return request


def _learn(head: Head, served: Served, request: InferenceRequest) -> Known | None:
    """What the next call with this head need not find out again, where only the numbers of its inputs can differ."""
    if head.parameters or any(tensor.contents is not None for tensor in head.inputs):
        return None
    places = {each.name: place for place, each in enumerate(head.inputs)}
    tensors = []
    for name, array in request.inputs.items():
        if array.dtype.kind in "bO":  # of these not every byte is a value
            return None
        tensors.append((places[name], name, array.dtype, array.shape, array.nbytes))
    form = Form("", request.reply.classes)
    return Known(served.manifest, request.signature, tensors, request.outputs, form, request.rows)


def _arrays(known: Known, raw: Sequence[Raw]) -> dict[str, NDArray[Any]] | None:
    """The inputs of a call with a known head; None where its raw contents are not of the sizes that were known."""
    if len(raw) != len(known.tensors):
        return None
    arrays = {}
    for place, name, dtype, shape, size in known.tensors:
        data = raw[place]
        if len(data) != size:
            return None
        if size <= SMALL_BYTES:
            arrays[name] = np.ndarray(shape, dtype, bytes(data))  # the copy is aligned
        else:
            array: NDArray[Any] = np.ndarray(shape, dtype, data)
            arrays[name] = array if array.flags.aligned else array.copy()
    return arrays


def _inputs(stated: Sequence[_Input], raw: Sequence[Raw], model: str) -> Sequence[_Input]:
    """The inputs, each with its data: raw contents belong to them in their order."""
    inputs = []
    for place, tensor in enumerate(stated):
        which = f"'{tensor.name}' for model '{model}'"
        if tensor.contents is None and place < len(raw):
            inputs.append(msgspec.structs.replace(tensor, raw=raw[place]))
        elif tensor.contents is None:
            raise _malformed(f"unable to find data for input tensor {which} in request.")
        elif raw:
            raise _malformed(f"contents field must not be specified when using raw_input_contents for {which}")
        else:
            inputs.append(tensor)
    if len(raw) > len(stated):
        raise _malformed(f"{len(raw)} raw_input_contents came for the {len(stated)} inputs for model '{model}'")
    return inputs


def _malformed(detail: str) -> DukouError:
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def _array(tensor: _Input, spec: TensorSpec) -> NDArray[Any]:
    """The array of an input, in the shape that it states."""
    if tensor.contents is None:
        return from_raw(tensor.raw, spec.datatype, tensor.shape, spec.name)
    size = stated_size(tensor.shape, spec.name)
    array = _from_contents(tensor.contents, spec)
    if array.size != size:
        if array.dtype.kind == "O":
            raise DukouError(Reason.WRONG_STRINGS, tensor=spec.name, got=array.size, wanted=size)
        itemsize = array.dtype.itemsize
        raise DukouError(Reason.WRONG_BYTES, tensor=spec.name, got=array.size * itemsize, wanted=size * itemsize)
    return array.reshape(tensor.shape)


def _from_contents(contents: Any, spec: TensorSpec) -> NDArray[Any]:
    """The elements in the one field that holds this datatype."""
    field = CONTENTS.get(spec.datatype)
    for other, _ in contents.ListFields():
        if other.name != field:
            raise _other_contents(other.name, spec)
    if field is None:
        raise _malformed(f"{spec.datatype} data has no typed contents, send input '{spec.name}' in raw_input_contents")
    values = getattr(contents, field)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "O":
        if len(values) > MOST_VALUES:
            raise DukouError(Reason.TOO_MANY_VALUES, tensor=spec.name, got=len(values), wanted=MOST_VALUES)
        array = np.empty(len(values), object)
        array[:] = list(values)
        return array
    came = np.asarray(values)
    array = came.astype(dtype, copy=False)
    if dtype.kind in "iu" and dtype.itemsize < came.dtype.itemsize and (array != came).any():
        place = int((array != came).argmax())
        raise DukouError(Reason.WRONG_VALUE, tensor=spec.name, got=str(came[place]), wanted=f"{spec.datatype}")
    return array


def _other_contents(field: str, spec: TensorSpec) -> DukouError:
    names = {name: datatype for datatype, name in CONTENTS.items()}  # the widest of each
    return _malformed(
        f"unexpected explicit tensor data for input tensor '{spec.name}' of type '{names[field]}', "
        f"expected datatype '{spec.datatype}'"
    )


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """The ModelInferResponse, its data raw. Raises DukouError for parameters and text that it cannot carry."""
    form: Form = request.reply
    if not form.classes and not response.parameters:
        row = row_of(request, response, RESPONSE, _write_rows)
        if row is not None:
            return Reply(row + _id(form.id) if form.id else row, CONTENT_TYPE)
    outputs = response.outputs
    if form.classes:
        outputs = oip_bind.written(request, outputs)
    parts: list[Raw] = [_answered(response.version.name, response.version.version)]
    if form.id:
        parts.append(_id(form.id))
    if response.parameters:
        parts.append(_parameters(response.parameters))
    for name in request.outputs:
        if name not in outputs:  # a response of several need not have all
            continue
        array = outputs[name]
        raw = _raw(name, array)
        parts += (_described(name, datatype_of(array), array.shape, len(raw)), raw)
    return Reply(b"".join(parts), CONTENT_TYPE)


def _write_rows(request: InferenceRequest, response: InferenceResponse) -> Sequence[bytes]:
    """The responses to requests of one row each: one by one each takes 2 µs more. They have no id yet."""
    batch = response.batch
    assert batch is not None
    if not are_small_numbers(batch):
        return ()
    answered = _answered(response.version.name, response.version.version)
    rows = [answered] * batch.rows
    for name in request.outputs:
        array = batch.outputs[name]
        data = native(array).tobytes()
        size = len(data) // batch.rows
        before = _described(name, datatype_of(array), (1, *array.shape[1:]), size)
        rows = [row + before + data[at * size : (at + 1) * size] for at, row in enumerate(rows)]
    return rows


def _id(text: str) -> bytes:
    data = text.encode()
    return protobuf.head(ID, len(data)) + data


def _written(**fields: Any) -> bytes:
    """A part of a ModelInferResponse; parts are put together by writing one after the other."""
    part: bytes = pool.message(RESPONSE)(**fields).SerializeToString()
    return part


@lru_cache(1024)
def _answered(name: str, version: int) -> bytes:
    return _written(model_name=name, model_version=str(version))


@lru_cache(1024)
def _described(name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    """An output as far as the `size` bytes of its raw contents."""
    output = _written(outputs=[{"name": name, "datatype": datatype, "shape": shape}])
    return output + protobuf.head(RAW_OUTPUT_CONTENTS, size)


def _raw(name: str, array: NDArray[Any]) -> Raw:
    try:
        return to_raw(array)
    except UnicodeError:
        detail = f"output {name!r} holds text that has no UTF-8 form"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail) from None


def _parameters(parameters: Mapping[str, Any]) -> bytes:
    try:
        return _written(parameters={name: _parameter(name, value) for name, value in parameters.items()})
    except UnicodeError:
        raise DukouError(Reason.NOT_SUPPORTED, detail="a parameter holds text that has no UTF-8 form") from None


def _parameter(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return {"bool_param": value}
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return {"int64_param" if value < 2**63 else "uint64_param": value}
    if isinstance(value, float):
        return {"double_param": value}
    if isinstance(value, str):
        return {"string_param": value}
    detail = f"the response's parameter {name!r} is neither a number nor a text, which gRPC cannot carry"
    raise DukouError(Reason.NOT_SUPPORTED, detail=detail)


def refuse(error: DukouError) -> bytes:
    """The message of an error, in the words that this protocol's clients look for."""
    text = describe(error)
    if len(text) > MOST_TEXT:
        text = text[:MOST_TEXT] + "..."
    return text.encode(errors="replace")


def reading_bytes(headers: Headers, body: bytes) -> int:
    """The message without the raw contents of numbers; strings take time, and are known by their datatype."""
    raw: list[Raw] = []
    try:
        rest = protobuf.around(body, {_RAW: raw})
    except DukouError:
        return 0  # is refused at once
    size = sum(map(len, raw))
    rest_size = sum(map(len, rest))
    if rest_size > HEAD_BYTES or b"BYTES" in b"".join(rest):
        return rest_size + size
    return rest_size + size // RAW_BYTES_PER_TEXT


def writing_bytes(request: InferenceRequest, response: InferenceResponse) -> int:
    """The strings of the outputs, and classes as if there were one for each value; raw numbers count a sixty-fourth."""
    form: Form = request.reply
    size = 0
    for name, array in response.outputs.items():
        if form.classes and name in form.classes:
            size += array.size * oip_bind.CLASS_BYTES
        elif array.dtype.kind in "OUS":
            size += array.nbytes * TEXT_PER_BYTE
        else:
            size += array.nbytes // RAW_BYTES_PER_TEXT
    return size
