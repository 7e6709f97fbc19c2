"""The client's calls as the Open Inference Protocol over HTTP. No I/O."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import orjson
from numpy.typing import NDArray

from dukou.client.core import Answer, ListedModel, Request
from dukou.client.errors import InvalidInput, Refused, http_refusal
from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import Tensors, datatype_of
from dukou.wire import oip_binary, oip_json
from dukou.wire.json_array import to_array
from dukou.wire.json_text import read
from dukou.wire.json_write import array_text

T = TypeVar("T")

BINARY = "binary_tensor_data"
LENGTH = "inference-header-content-length"


class _Server(msgspec.Struct):
    extensions: list[str] = []


class _Version(msgspec.Struct):
    version: int
    state: str


class _Model(msgspec.Struct):
    name: str
    versions: list[_Version]


class _FirstPage(msgspec.Struct):
    models: list[_Model]


class HttpWire:
    """A `dukou.client.core.Wire`. Tensors travel as binary data where the server says that it has it, else in JSON."""

    extensions = Request("/v2", method="GET")

    def __init__(self, model: str, version: int | str | None) -> None:
        self._model = model
        self._version = version

    def read_extensions(self, answer: Answer) -> Collection[str]:
        """From the server's metadata."""
        return _json(answer.body, _Server).extensions

    def metadata(self) -> Request:
        """The model's metadata."""
        return Request(self._path(), method="GET")

    def signature(self, answer: Answer) -> Signature:
        """The default signature, as far as metadata tells it."""
        return oip_json.decode_metadata(answer.body)

    def ready(self) -> Request:
        """The model's readiness, or the server's."""
        return Request(self._path("ready") if self._model else "/v2/health/ready", method="GET")

    def is_ready(self, answer: Answer) -> bool:
        """The status says it; what the body says differs from server to server."""
        return answer.status == 200

    def infer(self, inputs: Tensors, outputs: Sequence[str], extensions: Collection[str]) -> Request:
        """One inference."""
        path = self._path("infer")
        if BINARY not in extensions:
            return Request(path, oip_json.encode_request(inputs, outputs), {"content-type": "application/json"})
        body, json_bytes = oip_binary.encode_request(inputs, outputs)
        return Request(path, body, {"content-type": "application/octet-stream", LENGTH: str(json_bytes)})

    def outputs(self, answer: Answer) -> Tensors:
        """In whichever form the server chose."""
        header = answer.headers.get(LENGTH)
        size = len(answer.body)
        length = size if header is None else oip_binary.json_bytes(header.encode("latin-1"), size)
        return oip_binary.decode_response(answer.body, length).outputs

    def stream(self, inputs: Tensors, outputs: Sequence[str]) -> Request:
        """Triton's generate_stream: inputs as members of a JSON object, server-sent events back; always all outputs."""
        members = [orjson.dumps(name) + b":" + _nested(name, array) for name, array in inputs.items()]
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        return Request(self._path("generate_stream"), b"{" + b",".join(members) + b"}", headers)

    def streamed(self, answer: Answer, signature: Signature) -> Tensors:
        """One event's. Its values come without a shape, which the signature has to give."""
        said = read(answer.body, most_values=math.inf)
        if not isinstance(said, dict):
            raise DukouError(Reason.MALFORMED_REQUEST, detail="an event is not a JSON object")
        if "error" in said and len(said) == 1:
            raise Refused(str(said["error"]))
        return {spec.name: _shaped(said[spec.name], spec) for spec in signature.outputs if spec.name in said}

    def listings(self) -> Sequence[tuple[Request, Callable[[bytes], list[ListedModel]]]]:
        """The repository extension's index; dukou's first page."""
        return (
            (Request("/v2/repository/index", b"{}", {"content-type": "application/json"}), _repository_index),
            (Request("/", method="GET"), _first_page),
        )

    def refusal(self, answer: Answer) -> Refused | None:
        """By the status."""
        if answer.status < 300:
            return None
        return http_refusal(answer.status, oip_json.decode_error(answer.body) or "the server gave no reason")

    def _path(self, *rest: str) -> str:
        if not self._model:
            raise InvalidInput("no model was named: Client(url, model=...)")
        parts = ["", "v2", "models", quote(self._model, safe="")]
        if self._version is not None:
            parts += ["versions", quote(str(self._version), safe="")]
        return "/".join([*parts, *rest])


def _nested(name: str, array: NDArray[Any]) -> bytes:
    datatype = datatype_of(array)
    if datatype in oip_json.NOT_IN_JSON:
        raise oip_json.not_in_json(datatype, "input", name)
    return array_text(array)


def _shaped(value: Any, spec: TensorSpec) -> NDArray[Any]:
    array = to_array(value, spec)
    shape = (-1,) if spec.shape is None else spec.shape
    if shape.count(-1) > 1:
        detail = f"events do not tell the shape of output {spec.name!r}, of which {list(shape)} is known; use grpc://"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail)
    try:
        return array.reshape(shape)
    except ValueError:
        raise DukouError(Reason.WRONG_SHAPE, tensor=spec.name, got=list(array.shape), wanted=list(shape)) from None


def _repository_index(body: bytes) -> list[ListedModel]:
    return _json(body, list[ListedModel])


def _first_page(body: bytes) -> list[ListedModel]:
    return [
        ListedModel(model.name, str(version.version), version.state)
        for model in _json(body, _FirstPage).models
        for version in model.versions
    ]


def _json(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=str(error)) from error
