"""The client's calls as the Open Inference Protocol over gRPC. No I/O."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.client.core import Answer, ListedModel, Request
from dukou.client.errors import InvalidInput, Refused, grpc_refusal
from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors, datatype_of
from dukou.protos import pool
from dukou.wire.raw_array import from_raw, stated_size, to_raw

SERVICE = "inference.GRPCInferenceService"
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where values lie that are not raw, by datatype."""


class GrpcWire:
    """A `dukou.client.core.Wire`. Tensors travel raw; answers may be raw or not."""

    extensions = None

    def __init__(self, model: str, version: int | str | None) -> None:
        self._model = model
        self._version = "" if version is None else str(version)

    def read_extensions(self, answer: Answer) -> Collection[str]:
        """Never asked for: every server of this service takes raw tensors."""
        return ()

    def metadata(self) -> Request:
        """ModelMetadata."""
        return _request("ModelMetadata", name=self._named(), version=self._version)

    def signature(self, answer: Answer) -> Signature:
        """The default signature, as far as metadata tells it; batched where every tensor's first size is -1."""
        said = _parse("ModelMetadataResponse", answer)
        inputs, outputs = tuple(map(_spec, said.inputs)), tuple(map(_spec, said.outputs))
        batched = all((spec.shape or ())[:1] == (-1,) for spec in (*inputs, *outputs))
        return Signature(DEFAULT_SIGNATURE, inputs, outputs, batched=batched)

    def ready(self) -> Request:
        """ModelReady, or ServerReady."""
        if not self._model:
            return _request("ServerReady")
        return _request("ModelReady", name=self._model, version=self._version)

    def is_ready(self, answer: Answer) -> bool:
        """The messages of both answers have the same form."""
        return answer.status == 0 and bool(_parse("ModelReadyResponse", answer).ready)

    def infer(self, inputs: Tensors, outputs: Sequence[str], extensions: Collection[str]) -> Request:
        """ModelInfer."""
        return self._infer("ModelInfer", inputs, outputs, {})

    def outputs(self, answer: Answer) -> Tensors:
        """A ModelInferResponse's."""
        return _outputs(_parse("ModelInferResponse", answer))

    def stream(self, inputs: Tensors, outputs: Sequence[str]) -> Request:
        """ModelStreamInfer, with errors told as the call's status."""
        return self._infer("ModelStreamInfer", inputs, outputs, {"triton_grpc_error": "true"})

    def streamed(self, answer: Answer, signature: Signature) -> Tensors:
        """One ModelStreamInferResponse's. Raises Refused for an error that is told in it all the same."""
        said = _parse("ModelStreamInferResponse", answer)
        if said.error_message:
            raise Refused(said.error_message)
        return _outputs(said.infer_response)

    def listings(self) -> Sequence[tuple[Request, Callable[[bytes], list[ListedModel]]]]:
        """RepositoryIndex."""
        return ((_request("RepositoryIndex"), _index),)

    def refusal(self, answer: Answer) -> Refused | None:
        """By the status."""
        if answer.status == 0:
            return None
        return grpc_refusal(answer.status, answer.body.decode(errors="replace") or "the server gave no reason")

    def _infer(self, method: str, inputs: Tensors, outputs: Sequence[str], headers: Mapping[str, str]) -> Request:
        said = pool.message("inference.ModelInferRequest")(model_name=self._named(), model_version=self._version)
        for name, array in inputs.items():
            said.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
            said.raw_input_contents.append(bytes(to_raw(array)))
        for name in outputs:
            said.outputs.add(name=name)
        return Request(f"/{SERVICE}/{method}", said.SerializeToString(), headers)

    def _named(self) -> str:
        if not self._model:
            raise InvalidInput("no model was named: Client(url, model=...)")
        return self._model


def _request(method: str, **fields: str) -> Request:
    message = pool.message(f"inference.{method}Request")(**fields)
    return Request(f"/{SERVICE}/{method}", message.SerializeToString())


def _parse(name: str, answer: Answer) -> Any:
    return pool.parse(f"inference.{name}", answer.body)


def _spec(said: Any) -> TensorSpec:
    return TensorSpec(said.name, said.datatype, tuple(said.shape), tuple(said.columns))


def _outputs(said: Any) -> Tensors:
    """Raises DukouError."""
    raw = said.raw_output_contents
    if raw and len(raw) != len(said.outputs):
        detail = f"{len(said.outputs)} outputs came with raw data for {len(raw)}"
        raise DukouError(Reason.MALFORMED_REQUEST, detail=detail)
    arrays = map(_raw_output, said.outputs, raw) if raw else map(_plain_output, said.outputs)
    return dict(zip((tensor.name for tensor in said.outputs), arrays, strict=True))


def _raw_output(said: Any, raw: bytes) -> NDArray[Any]:
    return from_raw(raw, _known(said), said.shape, said.name)


def _plain_output(said: Any) -> NDArray[Any]:
    """Values in `contents`."""
    datatype = _known(said)
    field = CONTENTS.get(datatype)
    if field is None:
        raise DukouError(Reason.MALFORMED_REQUEST, tensor=said.name, detail=f"{datatype} has no form but raw data")
    values = getattr(said.contents, field)
    size = stated_size(said.shape, said.name)
    if len(values) != size:
        detail = f"{len(values)} values came for the shape {list(said.shape)}"
        raise DukouError(Reason.MALFORMED_REQUEST, tensor=said.name, detail=detail)
    array = np.empty(size, DTYPES[datatype])
    array[:] = values
    return array.reshape(said.shape)


def _known(said: Any) -> str:
    datatype: str = said.datatype
    if datatype not in DTYPES:
        raise DukouError(Reason.NOT_SUPPORTED, detail=f"output {said.name!r} has datatype {datatype!r}")
    return datatype


def _index(body: bytes) -> list[ListedModel]:
    said = pool.parse("inference.RepositoryIndexResponse", body)
    return [ListedModel(model.name, model.version, model.state) for model in said.models]
