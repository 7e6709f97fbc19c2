"""The Open Inference Protocol in JSON: the text of calls and answers, read and written, for servers and clients.

Tensor data comes flat or nested in row-major order and goes out flat. NaN and the infinities, about which the protocol
is silent, are read and written as the tokens NaN, Infinity and -Infinity, as Triton does. FP16 and BF16 have no JSON
form. `oip_http` joins this with the binary tensor extension.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import InferenceResponse
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors, datatype_of
from dukou.core.version import ModelVersion
from dukou.wire.json_array import Numbers, to_array
from dukou.wire.json_cut import MAX_RANK
from dukou.wire.json_text import decode, read
from dukou.wire.json_write import array_text, split_rows
from dukou.wire.raw_array import MOST_LENGTH, from_raw, no_shape

T = TypeVar("T")

NOT_IN_JSON = ("FP16", "BF16")
"""Datatypes that have no JSON form."""


class NumericInput(msgspec.Struct):
    """An input that holds numbers."""

    name: str
    shape: list[int]
    datatype: str
    data: Numbers
    parameters: dict[str, Any] | None = None


class Input(msgspec.Struct):
    """Any input. `data` is what JSON says, None without any; or a memoryview of raw data."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None


class Output(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class NumericCall(msgspec.Struct):
    """The common call: every input holds numbers."""

    inputs: list[NumericInput]
    outputs: list[Output] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None


class Call(msgspec.Struct):
    """Any call."""

    inputs: list[Input]
    outputs: list[Output] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None


class Response(msgspec.Struct):
    """Any answer."""

    outputs: list[Input]
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


_numeric = msgspec.json.Decoder(NumericCall)
_call = msgspec.json.Decoder(Call)


def read_call(text: bytes, binary: bool = False) -> NumericCall | Call:
    """A call's JSON, of which `binary` says that it likely speaks of data outside. Raises DukouError MALFORMED_JSON,
    TOO_DEEP, TOO_MANY_VALUES, MALFORMED_REQUEST."""
    said: NumericCall | Call | None = decode(text, _call) if binary else decode(text, _numeric)
    return _convert(read(text), Call) if said is None else said


def _convert(tree: Any, form: type[T]) -> T:
    try:
        return msgspec.convert(tree, form)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=str(error)) from None


def from_numbers(tensor: NumericInput, spec: TensorSpec) -> NDArray[Any]:
    """The array of an input's data, in the shape that the input states. Raises DukouError."""
    if spec.datatype in NOT_IN_JSON:
        raise not_in_json(spec.datatype, "input", spec.name)
    return _shaped(tensor, spec, numbers=True)


def from_any(tensor: Input, spec: TensorSpec) -> NDArray[Any]:
    """The same for any data, a memoryview of raw data too. Raises DukouError."""
    if type(tensor.data) is memoryview:
        return from_raw(tensor.data, spec.datatype, tensor.shape, spec.name)
    if spec.datatype in NOT_IN_JSON:
        raise not_in_json(spec.datatype, "input", spec.name)
    return _shaped(tensor, spec, numbers=False)


def _shaped(tensor: NumericInput | Input, spec: TensorSpec, numbers: bool) -> NDArray[Any]:
    try:
        array = to_array(tensor.data, spec, numbers)
    except DukouError as error:
        raise _by_stated_row(error, tensor) from None
    shape = tuple(tensor.shape)
    try:
        shaped = array.reshape(shape)
    except (ValueError, OverflowError):
        raise _other_size(array, tensor) from None
    if shaped.shape != shape:  # NumPy takes a -1 for what is left
        raise _other_size(array, tensor)
    return shaped


def _other_size(array: NDArray[Any], tensor: NumericInput | Input) -> DukouError:
    shape = tensor.shape
    if len(shape) > MAX_RANK or any(abs(size) > MOST_LENGTH for size in shape):
        return no_shape(tensor.name)
    return DukouError(Reason.WRONG_WIDTH, tensor=tensor.name, got=array.size, wanted=math.prod(shape), stated=shape)


def _by_stated_row(error: DukouError, tensor: NumericInput | Input) -> DukouError:
    """An error in flat data with the row that the stated shape makes of the place."""
    place = error.facts.get("row")
    data: Any = tensor.data
    if place is None or isinstance(data[0], list | np.ndarray) or min(tensor.shape, default=0) < 1:
        return error
    if len(tensor.shape) > MAX_RANK:
        return no_shape(tensor.name)
    return DukouError(error.reason, **(error.facts | {"row": place // math.prod(tensor.shape[1:])}))


def not_in_json(datatype: str, side: str, name: str) -> DukouError:
    """The refusal of data in a datatype without a JSON form."""
    verb = "sending" if side == "input" else "receiving"
    detail = f"{verb} {datatype} data via JSON is not supported. Please use the binary data format for {side} '{name}'"
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def answer(version: ModelVersion, id: str | None, parameters: Mapping[str, Any], tensors: Sequence[bytes]) -> bytes:  # noqa: A002, the protocol's own name
    """The text of an answer, of the texts of its outputs."""
    text = _answered(version.name, version.version)
    if id is not None:
        text += b',"id":' + orjson.dumps(id)
    if parameters:
        text += b',"parameters":' + orjson.dumps(parameters, option=orjson.OPT_SERIALIZE_NUMPY)
    return text + b',"outputs":[' + b",".join(tensors) + b"]}"


@lru_cache(1024)
def _answered(name: str, version: int) -> bytes:
    """The beginning of the answers of a version."""
    return orjson.dumps({"model_name": name, "model_version": str(version)})[:-1]


def tensor_text(name: str, array: NDArray[Any], side: str) -> bytes:
    """A tensor with its data, flat; `side` is "input" or "output". Raises DukouError for what JSON cannot carry."""
    return _described(name, array.dtype, array.shape) + b',"data":' + data_text(name, array, side) + b"}"


def row_tensor_texts(name: str, array: NDArray[Any]) -> list[bytes]:
    """Each row of an output of numbers, which has elements, as a tensor. Raises DukouError for what JSON cannot
    carry."""
    if datatype_of(array) in NOT_IN_JSON:
        raise not_in_json(datatype_of(array), "output", name)
    start = _described(name, array.dtype, (1, *array.shape[1:])) + b',"data":'
    return [start + row + b"}" for row in split_rows(array_text(array.reshape(len(array), -1)), 2)]


def data_text(name: str, array: NDArray[Any], side: str) -> bytes:
    """The data of a tensor, flat. Raises DukouError for what JSON cannot carry."""
    if array.dtype.itemsize == 2 and datatype_of(array) in NOT_IN_JSON:
        raise not_in_json(datatype_of(array), side, name)
    try:
        return array_text(array if array.ndim == 1 else array.ravel())
    except UnicodeError:
        detail = f"{side} {name!r} holds bytes that are not UTF-8, which JSON cannot carry"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail) from None


def raw_tensor_text(name: str, array: NDArray[Any], raw_bytes: int) -> bytes:
    """A tensor whose data, so many bytes, is elsewhere."""
    return _described(name, array.dtype, array.shape) + b',"parameters":{"binary_data_size":%d}}' % raw_bytes


@lru_cache(1024)
def _described(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The beginning of a tensor, as far as its data."""
    return orjson.dumps({"name": name, "datatype": datatype_of(np.empty(0, dtype)), "shape": shape})[:-1]


def encode_request(
    inputs: Tensors,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Any] = {},
    id: str = "",  # noqa: A002, the protocol's own name
) -> bytes:
    """A client's infer body, data flat; no `outputs` asks for all. Raises DukouError for what JSON cannot carry."""
    return call([tensor_text(name, array, "input") for name, array in inputs.items()], outputs, parameters, id)


def call(tensors: Sequence[bytes], outputs: Sequence[str], parameters: Mapping[str, Any], id: str) -> bytes:  # noqa: A002
    """The text of a call, of the texts of its inputs."""
    members = []
    if id:
        members.append(b'"id":' + orjson.dumps(id))
    if parameters:
        members.append(b'"parameters":' + orjson.dumps(parameters, option=orjson.OPT_SERIALIZE_NUMPY))
    members.append(b'"inputs":[' + b",".join(tensors) + b"]")
    if outputs:
        members.append(b'"outputs":' + orjson.dumps([{"name": name} for name in outputs]))
    return b"{" + b",".join(members) + b"}"


def decode_response(body: bytes) -> InferenceResponse:
    """A server's infer response. The version is 0 where it is missing or no number. Raises DukouError."""
    return response_of(read_response(body))


def read_response(text: bytes) -> Response:
    """What a server answered, its data not yet arrays. Raises DukouError."""
    return _convert(read(text, most_values=math.inf), Response)


def response_of(said: Response) -> InferenceResponse:
    """The response that was said; the data of its outputs as in `Input`. Raises DukouError."""
    outputs = {tensor.name: _output(tensor) for tensor in said.outputs}
    version = str(said.model_version)
    number = int(version) if version.isascii() and version.isdigit() and len(version) < 19 else 0
    return InferenceResponse(ModelVersion(said.model_name, number), outputs, said.parameters or {})


def _output(tensor: Input) -> NDArray[Any]:
    raw = type(tensor.data) is memoryview
    if tensor.datatype not in DTYPES or (tensor.datatype == "BF16" and not raw):  # FP16 as numbers is read, though
        raise DukouError(Reason.NOT_SUPPORTED, detail=f"output {tensor.name!r} has datatype {tensor.datatype!r}")
    if raw:
        return from_raw(tensor.data, tensor.datatype, tensor.shape, tensor.name)
    return _shaped(tensor, TensorSpec(tensor.name, tensor.datatype), numbers=False)


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
