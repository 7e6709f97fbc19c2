"""Models that answer with their inputs, and calls of them in the Open Inference Protocol."""

import asyncio
import json
from typing import Any

import pytest

from dukou.core.errors import Code, DukouError
from dukou.core.message import Context, InferenceRequest, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.version import ModelRef
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import oip_http

REF = ModelRef("m")


def of(*inputs: TensorSpec, batched: bool = False, **options: Any) -> Served:
    """A model that answers with its inputs under the same names."""
    signature = Signature(DEFAULT_SIGNATURE, inputs, inputs, batched=batched)
    return served(manifest("m", 1, (signature,), options=options), Direct(FunctionModel(dict)))


ONE = of(TensorSpec("x", "FP32", (-1, 2)), batched=True, max_request_rows=8)
TWO = of(TensorSpec("a", "INT32", (-1,)), TensorSpec("b", "INT32", (-1,)), batched=True)
OPEN = of(TensorSpec("x", "FP32"))


def tensor(data: Any, shape: Any, name: str = "x", datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


def body_of(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def bound(body: bytes, version: Served = ONE) -> InferenceRequest:
    return oip_http.bind(oip_http.parse(REF, {}, body), version, Context())


def answer(body: bytes, version: Served = ONE) -> Any:
    request = bound(body, version)
    assert version.stage is not None
    return json.loads(oip_http.encode(request, asyncio.run(version.stage.infer(request))).body)


def refusal(body: bytes, version: Served = ONE) -> tuple[Code, str]:
    with pytest.raises(DukouError) as caught:
        bound(body, version)
    return caught.value.code, json.loads(oip_http.refuse(caught.value))["error"]


GOOD = tensor([1, 2], [1, 2])
