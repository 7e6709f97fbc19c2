"""The models that the public clients call: those of the conformance vectors, and a few more."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dukou.testing.conformance import build_models

COUNTER = '''
"""Answers with the numbers below COUNT, one by one."""

import numpy as np


class Model:
    inputs = {"COUNT": ("INT32", [1])}
    outputs = {"NUMBER": ("INT32", [1])}
    batched = False

    def predict(self, inputs):
        for number in range(int(inputs["COUNT"][0])):
            yield {"NUMBER": np.array([number], np.int32)}
'''

SLOW = '''
"""Gives back its input after a second."""

import time


class Model:
    inputs = {"IN": ("INT32", [-1])}
    outputs = {"OUT": ("INT32", [-1])}

    def predict(self, inputs):
        time.sleep(1.0)
        return {"OUT": inputs["IN"]}
'''

LABELLED = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "SCORES" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "PROBABILITIES" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" }
"""


def build(folder: Path) -> None:
    """Write the repository."""
    build_models(folder)
    for name, code in (("counter", COUNTER), ("slow", SLOW)):
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(code, encoding="utf-8")
    build_labelled(folder / "labelled")


def build_labelled(folder: Path) -> None:
    """A softmax over three classes that have names."""
    nodes = [helper.make_node("Softmax", ["SCORES"], ["PROBABILITIES"], axis=1)]
    save(folder / "1", nodes, ("SCORES", ["rows", 3]), ("PROBABILITIES", ["rows", 3]))
    (folder / "config.pbtxt").write_text(LABELLED, encoding="utf-8")
    (folder / "labels.txt").write_text("setosa\nversicolor\nvirginica\n", encoding="utf-8")


class Mnist(NamedTuple):
    """Images [rows, 28, 28] that the model was not trained on, the digits they show, and its scores [rows, 10]."""

    images: NDArray[np.float32]
    digits: NDArray[np.int64]
    scores: NDArray[np.float64]


def build_mnist(folder: Path) -> Mnist:
    """Train on scikit-learn's handwritten digits and write `mnist`, version 1, whose input `images` is [-1, 28, 28]."""
    digits = load_digits()
    # 8 x 8 pixels of 0 to 16, each drawn as 3 x 3 within a frame: the size and the range of MNIST's.
    images = np.pad(np.kron(digits.images / 16.0, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    train, test = slice(0, 1500), slice(1500, None)
    model = LogisticRegression(max_iter=200).fit(images[train].reshape(1500, -1), digits.target[train])
    nodes = [
        helper.make_node("Flatten", ["images"], ["pixels"], axis=1),
        helper.make_node("Gemm", ["pixels", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    weights = {"weights": model.coef_.T, "bias": model.intercept_}
    save(folder / "mnist" / "1", nodes, ("images", ["rows", 28, 28]), ("scores", ["rows", 10]), weights)
    return Mnist(images[test], digits.target[test], model.predict_proba(images[test].reshape(-1, 784)))


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    given: tuple[str, list[int | str]],
    gives: tuple[str, list[int | str]],
    weights: dict[str, NDArray[np.float64]] | None = None,
) -> None:
    """A graph of float32 as `model.onnx`."""
    graph = helper.make_graph(
        nodes,
        folder.parent.name,
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [helper.make_tensor_value_info(gives[0], TensorProto.FLOAT, gives[1])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in (weights or {}).items()],
    )
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
