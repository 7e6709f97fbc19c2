"""ModelInferRequests as clients write them, and what becomes of them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.message import Context, InferenceRequest, Served
from dukou.core.model import DEFAULT_SIGNATURE, ModelRef, Signature, TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.protos import pool
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import oip_grpc
from dukou.wire.raw_array import to_raw

REF = ModelRef("")


def echo(*inputs: TensorSpec, batched: bool = False, **options: Any) -> Served:
    """Version 3 of model `m`, which answers with its inputs under the same names."""
    signature = Signature(DEFAULT_SIGNATURE, inputs, inputs, batched=batched)
    return served(manifest("m", 3, (signature,), options=options), Direct(FunctionModel(dict)))


def parameter(value: bool | int | float | str) -> dict[str, Any]:
    """An InferParameter."""
    kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
    return {kind: value}


def message(
    inputs: Sequence[Mapping[str, Any]],
    raw: Sequence[bytes] = (),
    outputs: Sequence[str | Mapping[str, Any]] = (),
    parameters: Mapping[str, Any] | None = None,
    **fields: Any,
) -> bytes:
    """A ModelInferRequest for model `m`."""
    made = pool.message("inference.ModelInferRequest")(
        model_name=fields.pop("model", "m"),
        inputs=inputs,
        raw_input_contents=raw,
        outputs=[{"name": output} if isinstance(output, str) else output for output in outputs],
        parameters={name: parameter(value) for name, value in (parameters or {}).items()},
        **fields,
    )
    return bytes(made.SerializeToString())


def raw_message(arrays: Mapping[str, NDArray[Any]], **more: Any) -> bytes:
    """A ModelInferRequest with raw contents."""
    stated = [{"name": name, "datatype": datatype_of(array), "shape": array.shape} for name, array in arrays.items()]
    return message(stated, [bytes(to_raw(array)) for array in arrays.values()], **more)


def bound(body: bytes, version: Served) -> InferenceRequest:
    """The request of a message."""
    return oip_grpc.bind(oip_grpc.parse(REF, {}, body), version, Context())


def answered(body: bytes, version: Served) -> Any:
    """The ModelInferResponse to a message."""
    request = bound(body, version)
    assert version.stage is not None
    return response(oip_grpc.encode(request, asyncio.run(version.stage.infer(request))).body)


def response(body: bytes) -> Any:
    """A ModelInferResponse."""
    return pool.parse("inference.ModelInferResponse", body)


def arrays_of(said: Any) -> dict[str, NDArray[Any]]:
    """The outputs of a ModelInferResponse that hold numbers."""
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(said.outputs, said.raw_output_contents, strict=True)
    }
