"""What was recorded beside a version is answered before anybody else is."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dukou.app.opening import open_version
from dukou.app.warming import answer_recorded
from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Assignment
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion, Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.packing.tf_warmup import WARMUPS, masked_crc
from dukou.protos import pool
from dukou.testing.models import FunctionModel, manifest

SIGNATURES = (
    Signature(DEFAULT_SIGNATURE, (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),)),
    Signature("classes", (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("scores", "FP32", (-1, 1)),), "classify"),
    Signature("values", (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("outputs", "FP32", (-1, 1)),), "regress"),
)
DESCRIBED = manifest("half", 1, SIGNATURES)

Log = Callable[[Any], None]


def record(folder: Path, *logs: Log) -> Path:
    """Write PredictionLogs beside the version in `folder`."""
    content = b""
    for fill in logs:
        said = pool.message("tensorflow.serving.PredictionLog")()
        fill(said)
        encoded = said.SerializeToString()
        size = struct.pack("<Q", len(encoded))
        content += size + struct.pack("<I", masked_crc(size)) + encoded + struct.pack("<I", masked_crc(encoded))
    path = folder / WARMUPS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return folder


def predict(said: Any, value: float = 1.0, name: str = "x") -> None:
    request = said.predict_log.request
    tensor = request.inputs[name]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=2)
    tensor.tensor_shape.dim.add(size=1)
    tensor.float_val.extend([value, value])


def named(said: Any) -> None:
    """A call to another model's version, as it was recorded from there."""
    predict(said, 2.0)
    said.predict_log.request.model_spec.name = "elsewhere"
    said.predict_log.request.model_spec.version.value = 77


def examples(request: Any, signature: str) -> None:
    request.model_spec.signature_name = signature
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(3.0)


def classify(said: Any) -> None:
    examples(said.classify_log.request, "classes")


def regress(said: Any) -> None:
    examples(said.regress_log.request, "values")


def both(said: Any) -> None:
    request = said.multi_inference_log.request
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(4.0)
    for signature, method in (("classes", "classify"), ("values", "regress")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.signature_name = signature


class Asked:
    """A model that remembers what it was asked."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.model = FunctionModel(self.answer)

    def answer(self, inputs: Tensors) -> Tensors:
        self.values += inputs["x"].ravel().tolist()
        return dict.fromkeys(("y", "scores", "outputs"), np.asarray(inputs["x"]))


def failing(inputs: Tensors) -> Tensors:
    raise RuntimeError("no")


def test_all_kinds_of_recorded_calls_are_answered(tmp_path: Path) -> None:
    """In order; which model they were recorded from does not matter."""
    asked = Asked()

    answer_recorded(record(tmp_path, predict, named, classify, regress, both), DESCRIBED, asked.model)

    assert asked.values == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]


def test_nothing_recorded_is_nothing_asked(tmp_path: Path) -> None:
    """Most versions have nothing."""
    answer_recorded(tmp_path, DESCRIBED, FunctionModel(failing))


@pytest.mark.parametrize(
    ("log", "model", "says"),
    [
        (
            lambda said: predict(said, name="z"),
            Asked().model,
            "input 'z': this input is not in the signature, whose inputs are {x}",
        ),
        (lambda said: said.session_run_log.SetInParent(), Asked().model, "it is a session_run_log"),
        (lambda said: None, Asked().model, "it has no log_type"),
        (lambda said: examples(said.classify_log.request, "none"), Asked().model, "none"),
        (predict, FunctionModel(failing), "the model failed: RuntimeError: no"),
    ],
)
def test_a_record_that_fails_is_told(tmp_path: Path, log: Log, model: FunctionModel, says: str) -> None:
    """With its number; the version is not served then."""
    folder = record(tmp_path, log)

    with pytest.raises(DukouError) as caught:
        answer_recorded(folder, DESCRIBED, model)

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE
    assert f"{folder / WARMUPS}: warm-up record 1: " in str(caught.value)
    assert says in str(caught.value)


MODEL = """
class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, inputs):
        if inputs["x"][0] > 5:
            raise RuntimeError("too much")
        return inputs["x"]
"""


def test_a_version_whose_record_fails_is_not_opened(tmp_path: Path) -> None:
    """Unless warming up is switched off; then nothing is asked that nobody has asked."""
    folder = record(tmp_path / "1", predict, lambda said: predict(said, 6.0))
    (folder / "model.py").write_text(MODEL)
    assignment = Assignment(ModelVersion("half", 1), str(folder), 1)

    with pytest.raises(DukouError) as caught:
        open_version(assignment, ModelsConfig(trust_python=True))
    opened = open_version(assignment, ModelsConfig(trust_python=True, warm=False))

    assert "warm-up record 2" in str(caught.value)
    assert opened.manifest.options["warm"] is False
