"""The binary tensor extension: raw data behind the JSON of a call or answer, in the order of its tensors.

The header Inference-Header-Content-Length says where the JSON ends; without it there is no raw data. A call of which it
says 0 is the data of the model's only input and nothing else.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import InferenceRequest, InferenceResponse
from dukou.core.model import Signature
from dukou.core.tensor import DTYPES, Tensors
from dukou.wire import oip_json
from dukou.wire.codec import Reply
from dukou.wire.oip_bind import no_shared_memory
from dukou.wire.oip_json import Input, NumericInput
from dukou.wire.raw_array import LENGTH_BYTES, Raw, to_raw

HEADER = b"inference-header-content-length"
TYPE = b"application/octet-stream"

ALIGNMENT = 8
"""What we write begins its raw data at a multiple of so many bytes, so that a reader needs no copy of it."""


def json_bytes(header: bytes, body_bytes: int) -> int:
    """The length that the header states. Raises DukouError MALFORMED_REQUEST for what is none, or beyond the body."""
    digits = header.strip()
    if digits.isdigit() and len(digits) < 19 and int(digits) <= body_bytes:
        return int(digits)
    got = digits[:40].decode("latin-1")
    raise _malformed(f"inference header size should be in range (0, {body_bytes}), got: {got}")


def place(tensors: Sequence[Input | NumericInput], raw: memoryview | None, model: str) -> None:
    """Give each tensor that has it its part of the raw data, as `data`; `raw` is None where the header is missing.

    Raises DukouError MALFORMED_REQUEST where there is too little or too much, and for tensors with no data or several;
    NOT_SUPPORTED for shared memory.
    """
    start, end = 0, len(raw or b"")
    for tensor in tensors:
        parameters = tensor.parameters or {}
        size = parameters.get("binary_data_size")
        sources = (tensor.data is not None) + (size is not None) + ("shared_memory_region" in parameters)
        if sources != 1:
            raise _malformed(
                "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
                f"'shared_memory_region' in 'parameters'. Input '{tensor.name}' for model '{model}' sets "
                f"{sources or 'none'} of them"
            )
        if "shared_memory_region" in parameters:
            raise no_shared_memory("input", tensor.name)
        if size is None:
            continue
        if type(size) is not int or size < 0:
            raise _malformed(f"'binary_data_size' of input '{tensor.name}' must be a number of bytes")
        if size and raw is None:
            raise _malformed(
                "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when "
                "passing inputs in binary data format"
            )
        if size > end - start:
            missing = min(size, 2**63) - (end - start)
            raise _malformed(
                f"unexpected size for input '{tensor.name}', expecting {missing} additional bytes for model '{model}'"
            )
        tensor.data = memoryview(b"") if raw is None else raw[start : start + size]
        start += size
    if start < end:
        raise _malformed(f"unexpected additional input data for model '{model}': {end - start} bytes")


def _malformed(detail: str) -> DukouError:
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def whole(body: bytes, signature: Signature, model: str) -> Input:
    """The only input of a signature, whose data is the whole of a body: one row where the signature is batched.

    At most one size of its row may be open, which the data then decides. A string stands there without its length.
    Raises DukouError MALFORMED_REQUEST where the signature leaves more open.
    """
    if len(signature.inputs) != 1:
        raise _malformed(
            f"raw binary data is for models with exactly one input, model '{model}' has {len(signature.inputs)}"
        )
    (spec,) = signature.inputs
    shape = list((-1,) if spec.shape is None else spec.shape)
    if signature.batched:
        shape[:1] = [1]
    if shape.count(-1) > 1:
        raise _malformed(
            f"raw binary data does not tell the shape of input '{spec.name}' for model '{model}', {shape} is all that "
            "is known"
        )
    if spec.datatype == "BYTES":
        data = len(body).to_bytes(LENGTH_BYTES, "little") + body
        step = 1
    else:
        data = body
        step = DTYPES[spec.datatype].itemsize
    known = math.prod(size for size in shape if size != -1) * step
    found = 1 if spec.datatype == "BYTES" else len(body) // known if known else 0
    shape = [found if size == -1 else size for size in shape]
    return Input(spec.name, shape, spec.datatype, memoryview(data))


def encode(request: InferenceRequest, response: InferenceResponse, outputs: Tensors) -> Reply:
    """The answer with the outputs in `binary` of the request's form behind its JSON, all others within."""
    tensors, raw = [], []
    for name in request.outputs:
        array = outputs[name]
        if name in request.reply.binary:
            raw.append(_raw(name, array, "output"))
            tensors.append(oip_json.raw_tensor_text(name, array, len(raw[-1])))
        else:
            tensors.append(oip_json.tensor_text(name, array, "output"))
    text = oip_json.answer(response.version, request.reply.id, response.parameters, tensors)
    if not any(raw):
        return Reply(text)
    text = _aligned(text)
    return Reply(b"".join([text, *raw]), TYPE, ((HEADER, b"%d" % len(text)),))


def _raw(name: str, array: NDArray[Any], side: str) -> Raw:
    try:
        return to_raw(array)
    except UnicodeError:
        raise DukouError(
            Reason.NOT_SUPPORTED, detail=f"{side} {name!r} holds text with half of a surrogate pair, which has no UTF-8"
        ) from None


def _aligned(text: bytes) -> bytes:
    return text.ljust(-(-len(text) // ALIGNMENT) * ALIGNMENT)


def encode_request(
    inputs: Tensors,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Any] = {},
    id: str = "",  # noqa: A002, the protocol's own name
) -> tuple[bytes, int]:
    """A client's infer body, all data raw, and the length of its JSON; asks for raw outputs, all if `outputs` is empty.

    Raises DukouError for text without a UTF-8 form.
    """
    tensors, raw = [], []
    for name, array in inputs.items():
        raw.append(_raw(name, array, "input"))
        tensors.append(oip_json.raw_tensor_text(name, array, len(raw[-1])))
    text = _aligned(oip_json.call(tensors, outputs, {**parameters, "binary_data_output": True}, id))
    return b"".join([text, *raw]), len(text)


def decode_response(body: bytes, json_bytes: int) -> InferenceResponse:
    """A server's answer of which the first `json_bytes` are JSON; its numbers are views of `body` where they can be.

    Raises DukouError.
    """
    said = oip_json.read_response(body[:json_bytes])
    place(said.outputs, memoryview(body)[json_bytes:], said.model_name)
    return oip_json.response_of(said)
