"""TensorFlow Serving's own example as ONNX Runtime runs it: one graph, three signatures under names of their own."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dukou.core.message import Context, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.version import ModelRef
from dukou.protos.pool import message
from dukou.runtimes.onnx import OnnxRuntime
from dukou.testing.models import Direct, manifest, served
from dukou.wire import tf_grpc, tf_grpc_examples, tf_rest, tf_rest_examples

NOTHING = ModelRef("")


@pytest.fixture(scope="module")
def half_plus_two(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """y = x / 2 + 2 of any shape, which states [-1, 1]."""
    path: Path = tmp_path_factory.mktemp("half_plus_two") / "model.onnx"
    nodes = [helper.make_node("Mul", ["x", "half"], ["halved"]), helper.make_node("Add", ["halved", "two"], ["y"])]
    numbers = [numpy_helper.from_array(np.float32(value), name) for name, value in (("half", 0.5), ("two", 2.0))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "half_plus_two", [x], [y], numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)

    def spec(name: str, tensor: str = "") -> TensorSpec:
        return TensorSpec(name, "FP32", None, stated=(-1, 1), tensor=tensor)

    signatures = (
        Signature(DEFAULT_SIGNATURE, (spec("x"),), (spec("y"),), batched=False),
        Signature("classify_x_to_y", (spec("x"),), (spec("scores", "y"),), "classify", batched=False),
        Signature("regress_x_to_y", (spec("x"),), (spec("outputs", "y"),), "regress", batched=False),
    )
    described = msgspec.structs.replace(manifest("half_plus_two", 123, signatures), serving=path.name)
    return served(described, Direct(OnnxRuntime().load(path.parent, described)))


def answer(codec: Any, body: bytes, version: Served) -> bytes:
    request = codec.bind(codec.parse(NOTHING, {}, body), version, Context())
    assert version.stage is not None
    return bytes(codec.encode(request, asyncio.run(version.stage.infer(request))).body)


@pytest.mark.parametrize(
    ("codec", "said", "wanted"),
    [
        (tf_rest, {"instances": [2.0, 3.0, 4.0]}, {"predictions": [3.0, 3.5, 4.0]}),
        (tf_rest, {"instances": [[2.0], [3.0]]}, {"predictions": [[3.0], [3.5]]}),
        (tf_rest, {"inputs": 2.0}, {"outputs": 3.0}),
        (
            tf_rest_examples.CLASSIFY,
            {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]},
            {"results": [[["", 3.0]]]},
        ),
        (
            tf_rest_examples.REGRESS,
            {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}, {"x": 4.0}]},
            {"results": [3.0, 4.0]},
        ),
    ],
)
def test_by_rest(half_plus_two: Served, codec: Any, said: Any, wanted: Any) -> None:
    """The answers of TensorFlow Serving's tests."""
    assert json.loads(answer(codec, json.dumps(said).encode(), half_plus_two)) == wanted


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (0,), (2, 2, 2)])
def test_predict_by_grpc(half_plus_two: Served, shape: tuple[int, ...]) -> None:
    """A tensor of any shape, written as tf.make_tensor_proto does."""
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    said = message("tensorflow.serving.PredictRequest")(model_spec={"name": "half_plus_two"})
    tensor = said.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.size > 1:
        tensor.tensor_content = array.tobytes()
    else:
        tensor.float_val.extend(array.ravel().tolist())

    raw = answer(tf_grpc, said.SerializeToString(), half_plus_two)

    response = message("tensorflow.serving.PredictResponse").FromString(raw)
    assert list(response.outputs["y"].float_val) == (array / 2 + 2).ravel().tolist()
    assert [axis.size for axis in response.outputs["y"].tensor_shape.dim] == list(shape)
    assert response.model_spec.version.value == 123


def test_classify_by_grpc(half_plus_two: Served) -> None:
    """A tf.Example whose feature is the input."""
    feature = {"x": {"float_list": {"value": [2.0]}}}
    said = message("tensorflow.serving.ClassificationRequest")(
        model_spec={"name": "half_plus_two", "signature_name": "classify_x_to_y"},
        input={"example_list": {"examples": [{"features": {"feature": feature}}]}},
    )

    raw = answer(tf_grpc_examples.CLASSIFY, said.SerializeToString(), half_plus_two)

    response = message("tensorflow.serving.ClassificationResponse").FromString(raw)
    assert response.result.classifications[0].classes[0].score == 3.0
    assert response.model_spec.signature_name == "classify_x_to_y"
