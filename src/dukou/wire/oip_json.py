"""The Open Inference Protocol (V2) in JSON, for servers and clients; error texts as Triton's clients know them.

Tensor data comes flat or nested in row-major order and goes out flat. NaN and the infinities, about which the protocol
is silent, are read and written as the tokens NaN, Infinity and -Infinity, as Triton does. FP16 and BF16 have no JSON
form. The binary tensor extension is not built yet: calls that use it are refused as UNIMPLEMENTED.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import numpy as np
import orjson
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors, datatype_of
from dukou.core.version import ModelRef, ModelVersion
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_array import Numbers, to_array
from dukou.wire.json_cut import MAX_RANK
from dukou.wire.json_text import decode, read
from dukou.wire.json_write import array_text, error_text
from dukou.wire.rows import count, fit
from dukou.wire.text_size import reading_bytes, writing_bytes

T = TypeVar("T")


__all__ = ["bind", "encode", "parse", "reading_bytes", "refuse", "writing_bytes"]


class _NumericInput(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Numbers
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Numeric(msgspec.Struct):
    """The common request: every input holds numbers."""

    inputs: list[_NumericInput]
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}
    id: str | UnsetType = UNSET


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = UNSET
    parameters: dict[str, Any] | None = None


class _Any(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] | None = None
    id: str | UnsetType | None = UNSET


class _Response(msgspec.Struct):
    outputs: list[_Input]
    model_name: str = ""
    model_version: str | int | None = ""
    parameters: dict[str, Any] | None = None


class _Described(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()


class _Metadata(msgspec.Struct):
    inputs: list[_Described]
    outputs: list[_Described]


_MOST_ELEMENTS = 2**48

_numeric = msgspec.json.Decoder(_Numeric)


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """An infer body. Raises DukouError MALFORMED_JSON, TOO_DEEP, MALFORMED_REQUEST, NOT_SUPPORTED, INPUT_DUPLICATE."""
    if b"inference-header-content-length" in headers:
        raise _no_binary()
    said: _Numeric | _Any | None = decode(body, _numeric)
    if said is None:
        said = _convert(read(body), _Any)
    if len(said.inputs) > 1:
        _check_names(said.inputs, ref)
    for tensor in said.inputs:
        if tensor.parameters:
            _check_input_parameters(tensor.parameters)
    if said.parameters and said.parameters.get("binary_data_output"):
        raise _no_binary()
    for output in said.outputs or ():
        if output.parameters:
            _check_output_parameters(output.parameters)
    return Draft(ref, said)


def _check_names(inputs: Sequence[_NumericInput | _Input], ref: ModelRef) -> None:
    names = set()
    for tensor in inputs:
        if tensor.name in names:
            raise DukouError(Reason.INPUT_DUPLICATE, model=ref.name, tensor=tensor.name)
        names.add(tensor.name)


def _convert(tree: Any, form: type[T]) -> T:
    try:
        return msgspec.convert(tree, form)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=str(error)) from None


def _no_binary() -> DukouError:
    return DukouError(
        Reason.NOT_SUPPORTED, detail="binary tensor data is not supported yet; send and ask for JSON data"
    )


def _check_input_parameters(parameters: Mapping[str, Any]) -> None:
    if "binary_data_size" in parameters:
        raise _no_binary()
    if "shared_memory_region" in parameters:
        raise DukouError(Reason.NOT_SUPPORTED, detail="shared memory is not supported")


def _check_output_parameters(parameters: Mapping[str, Any]) -> None:
    if parameters.get("binary_data"):
        raise _no_binary()
    for name in ("shared_memory_region", "classification"):
        if name in parameters:
            raise DukouError(Reason.NOT_SUPPORTED, detail=f"the output parameter {name!r} is not supported")


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The tensors of a body, checked against the signature; all its outputs where none are named. Raises DukouError."""
    said: _Numeric | _Any = draft.payload
    try:
        signature = served.manifest.signature(draft.signature_name)
        inputs = _inputs(said.inputs, signature, isinstance(said, _Numeric))
        rows = count(inputs, signature, served)
        outputs = _outputs(said.outputs, signature) if said.outputs else signature.output_names()
        for spec in signature.outputs:
            if spec.datatype == "FP16" and spec.name in outputs:
                raise _no_fp16(spec.name, "output")
    except DukouError as error:
        raise error.within(model=served.id.name, version=served.id.version) from None
    parameters = said.parameters or {}
    if "binary_data_output" in parameters:  # false: nothing for the model
        parameters = {key: value for key, value in parameters.items() if key != "binary_data_output"}
    return InferenceRequest(served.id, signature, inputs, outputs, rows, context, parameters, reply=said.id)


def _inputs(came: Sequence[_NumericInput | _Input], signature: Signature, numbers: bool) -> dict[str, NDArray[Any]]:
    specs = signature.inputs
    tensors = {tensor.name: tensor for tensor in came}
    if len(tensors) != len(specs):
        missing = [spec.name for spec in specs if spec.name not in tensors]
        raise DukouError(Reason.INPUT_MISSING, wanted=[spec.name for spec in specs], got=list(tensors), missing=missing)
    inputs = {}
    for spec in specs:
        tensor = tensors.get(spec.name)
        if tensor is None:
            raise _unexpected(tensors, specs)
        if tensor.datatype != spec.datatype:
            raise DukouError(Reason.WRONG_DATATYPE, tensor=spec.name, got=tensor.datatype, wanted=spec.datatype)
        if spec.datatype == "FP16":
            raise _no_fp16(spec.name, "input")
        inputs[spec.name] = fit(_array(tensor, spec, numbers), spec)
    return inputs


def _unexpected(came: Iterable[str], specs: Sequence[TensorSpec]) -> DukouError:
    names = [spec.name for spec in specs]
    unexpected = next(name for name in came if name not in names)
    return DukouError(Reason.INPUT_UNEXPECTED, tensor=unexpected, wanted=", ".join(names))


def _array(tensor: _NumericInput | _Input, spec: TensorSpec, numbers: bool = False) -> NDArray[Any]:
    """The array of a tensor's data in the shape that the tensor states."""
    if tensor.data is UNSET:
        raise DukouError(Reason.MALFORMED_REQUEST, tensor=spec.name, detail="the input has no 'data'")
    try:
        array = to_array(tensor.data, spec, numbers)
    except DukouError as error:
        raise _by_stated_row(error, tensor) from None
    shape = tuple(tensor.shape)
    if array.shape == shape:
        return array
    try:
        shaped = array.reshape(shape)
    except (ValueError, OverflowError):
        raise _other_size(array, tensor) from None
    if shaped.shape != shape:  # NumPy takes a -1 for what is left
        raise _other_size(array, tensor)
    return shaped


def _other_size(array: NDArray[Any], tensor: _NumericInput | _Input) -> DukouError:
    shape = tensor.shape
    if len(shape) > MAX_RANK or max(shape, default=0) > _MOST_ELEMENTS:
        return DukouError(Reason.MALFORMED_REQUEST, tensor=tensor.name, detail="no tensor has the stated shape")
    return DukouError(Reason.WRONG_WIDTH, tensor=tensor.name, got=array.size, wanted=math.prod(shape), stated=shape)


def _by_stated_row(error: DukouError, tensor: _NumericInput | _Input) -> DukouError:
    """An error in flat data with the row that the stated shape makes of the place."""
    place = error.facts.get("row")
    data: Any = tensor.data
    if place is None or isinstance(data[0], list | np.ndarray) or min(tensor.shape, default=0) < 1:
        return error
    return DukouError(error.reason, **(error.facts | {"row": place // math.prod(tensor.shape[1:])}))


def _no_fp16(name: str, side: str) -> DukouError:
    detail = f"FP16 data cannot be sent as JSON, use binary data for {side} '{name}'"
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def _outputs(asked: Sequence[_Output], signature: Signature) -> tuple[str, ...]:
    names = signature.output_names()
    wanted: dict[str, None] = {}
    for output in asked:
        if output.name not in names:
            raise DukouError(Reason.OUTPUT_UNEXPECTED, got=output.name, wanted=", ".join(names))
        if output.name in wanted:
            raise DukouError(Reason.OUTPUT_DUPLICATE, got=output.name)
        wanted[output.name] = None
    return tuple(wanted)


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """The infer response, its data flat. Raises DukouError NOT_SUPPORTED for outputs that JSON cannot carry."""
    text = _answered(response.version.name, response.version.version)
    if isinstance(request.reply, str):
        text += b',"id":' + orjson.dumps(request.reply)
    if response.parameters:
        text += b',"parameters":' + orjson.dumps(response.parameters, option=orjson.OPT_SERIALIZE_NUMPY)
    tensors = [_tensor(name, response.outputs[name], "output") for name in request.outputs]
    return Reply(text + b',"outputs":[' + b",".join(tensors) + b"]}")


@lru_cache(1024)
def _answered(name: str, version: int) -> bytes:
    """The beginning of the answers of a version."""
    return orjson.dumps({"model_name": name, "model_version": str(version)})[:-1]


def _tensor(name: str, array: NDArray[Any], side: str) -> bytes:
    datatype = datatype_of(array)
    if datatype == "FP16":
        raise _no_fp16(name, side)
    try:
        data = array_text(array if array.ndim == 1 else array.ravel())
    except UnicodeError:
        detail = f"{side} {name!r} holds bytes that are not UTF-8, which JSON cannot carry"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail) from None
    return _described_as(name, datatype) + orjson.dumps(array.shape) + b',"data":' + data + b"}"


@lru_cache(1024)
def _described_as(name: str, datatype: str) -> bytes:
    """The beginning of a tensor as far as its shape."""
    return orjson.dumps({"name": name, "datatype": datatype})[:-1] + b',"shape":'


def refuse(error: DukouError) -> bytes:
    """`{"error": ...}` in the words that this protocol's clients look for."""
    text = _TEXTS.get(error.reason)
    return error_text(text(_Facts(error.facts)) if text else str(error))


class _Facts(dict[str, Any]):
    """Facts by attribute; None where one is missing."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def _unknown_model(facts: _Facts) -> str:
    version = "" if facts.version is None else f" version {facts.version}"
    return f"Request for unknown model: '{facts.model}'{version} is not found"


def _inputs_missing(facts: _Facts) -> str:
    text = f"expected {len(facts.wanted)} inputs but got {len(facts.got)} inputs for model '{facts.model}'"
    if not facts.missing:
        return f"{text}. Got input(s) {facts.got}, wanted are {facts.wanted}."
    return (
        f"{text}. Got input(s) {facts.got}, but missing required input(s) {facts.missing}. "
        "Please provide all required input(s)."
    )


def _unexpected_shape(facts: _Facts) -> str:
    if facts.stated is not None:
        return (
            f"unable to parse 'data' of input '{facts.tensor}' for model '{facts.model}': shape {_shape(facts.stated)} "
            f"does not match true shape of 'data', which has {facts.got} elements"
        )
    return (
        f"unexpected shape for input '{facts.tensor}' for model '{facts.model}'. "
        f"Expected {_shape(facts.spec_shape or ())}, got {_shape(facts.shape or ())}. "
    )


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


_TEXTS: Mapping[Reason, Callable[[_Facts], str]] = {
    Reason.MALFORMED_JSON: lambda facts: f"failed to parse the request JSON buffer: {facts.detail}",
    Reason.MODEL_NOT_FOUND: _unknown_model,
    Reason.VERSION_NOT_FOUND: _unknown_model,
    Reason.INPUT_MISSING: _inputs_missing,
    Reason.INPUT_UNEXPECTED: lambda facts: f"unexpected inference input '{facts.tensor}' for model '{facts.model}'",
    Reason.INPUT_DUPLICATE: lambda facts: f"input '{facts.tensor}' already exists in request",
    Reason.OUTPUT_UNEXPECTED: lambda facts: f"unexpected inference output '{facts.got}' for model '{facts.model}'",
    Reason.OUTPUT_DUPLICATE: lambda facts: f"output '{facts.got}' already exists in request",
    Reason.WRONG_DATATYPE: lambda facts: (
        f"inference input '{facts.tensor}' data-type is '{facts.got}', "
        f"but model '{facts.model}' expects '{facts.wanted}'"
    ),
    Reason.WRONG_SHAPE: _unexpected_shape,
    Reason.WRONG_WIDTH: _unexpected_shape,
    Reason.ROWS_DIFFER: lambda facts: (
        f"input '{facts.tensor}' batch size does not match other inputs for '{facts.model}'"
    ),
    Reason.BATCH_TOO_LARGE: lambda facts: f"inference request batch-size must be <= {facts.wanted} for '{facts.model}'",
}


def server_metadata(name: str, version: str, extensions: Sequence[str]) -> bytes:
    """What the server is, and the extensions of the protocol that it speaks."""
    return orjson.dumps({"name": name, "version": version, "extensions": list(extensions)})


def model_metadata(model: str, versions: Mapping[int, Served], served: Served) -> bytes:
    """The tensors of `served`'s default signature, with all `versions` of the model.

    A shape whose rank is unknown is written as `[-1]`. Raises DukouError SIGNATURE_NOT_FOUND.
    """
    signature = served.manifest.signature("")
    runtime = served.manifest.runtime
    return orjson.dumps(
        {
            "name": model,
            "versions": [str(number) for number in sorted(versions)],
            "platform": _PLATFORMS.get(runtime, runtime),
            "inputs": [_described(spec) for spec in signature.inputs],
            "outputs": [_described(spec) for spec in signature.outputs],
        }
    )


_PLATFORMS = {"onnx": "onnxruntime_onnx"}


def _described(spec: TensorSpec) -> dict[str, Any]:
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": [-1] if spec.shape is None else spec.shape}
    # Beyond the protocol: without the names a client could only send a frame's columns in whatever order they have.
    return {**tensor, "columns": spec.columns} if spec.columns else tensor


def encode_request(
    inputs: Tensors,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Any] = {},
    id: str = "",  # noqa: A002, the protocol's own name
) -> bytes:
    """A client's infer body, data flat; no `outputs` asks for all. Raises DukouError for what JSON cannot carry."""
    members = []
    if id:
        members.append(b'"id":' + orjson.dumps(id))
    if parameters:
        members.append(b'"parameters":' + orjson.dumps(parameters, option=orjson.OPT_SERIALIZE_NUMPY))
    members.append(b'"inputs":[' + b",".join([_tensor(name, array, "input") for name, array in inputs.items()]) + b"]")
    if outputs:
        members.append(b'"outputs":' + orjson.dumps([{"name": name} for name in outputs]))
    return b"{" + b",".join(members) + b"}"


def decode_response(body: bytes) -> InferenceResponse:
    """A server's infer response. The version is 0 where it is missing or no number. Raises DukouError."""
    said = _convert(read(body, most_values=math.inf), _Response)
    outputs = {}
    for tensor in said.outputs:
        if tensor.datatype not in DTYPES:
            raise DukouError(Reason.NOT_SUPPORTED, detail=f"output {tensor.name!r} has datatype {tensor.datatype!r}")
        outputs[tensor.name] = _array(tensor, TensorSpec(tensor.name, tensor.datatype))
    version = str(said.model_version)
    number = int(version) if version.isascii() and version.isdigit() and len(version) < 19 else 0
    return InferenceResponse(ModelVersion(said.model_name, number), outputs, said.parameters or {})


def decode_error(body: bytes) -> str:
    """The message of an error body; the start of the body itself where it has another form."""
    try:
        tree = read(body)
    except DukouError:
        tree = None
    if type(tree) is dict:
        for key in ("error", "detail", "message"):
            if type(tree.get(key)) is str:
                return str(tree[key])
    return body[:500].decode(errors="replace")


def decode_metadata(body: bytes) -> Signature:
    """A server's model metadata as a signature; batched where every tensor's first size is -1. Raises DukouError."""
    said = _convert(read(body), _Metadata)
    inputs, outputs = (
        tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape, tensor.columns) for tensor in tensors)
        for tensors in (said.inputs, said.outputs)
    )
    batched = all(tensor.shape[:1] == (-1,) for tensor in (*said.inputs, *said.outputs))
    return Signature(DEFAULT_SIGNATURE, inputs, outputs, batched=batched)
