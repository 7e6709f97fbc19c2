"""A small model on disk, as a file and packed."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dukou.cli.main import run


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model that adds up each row of two numbers."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["X", "axes"], ["sum"], keepdims=0)],
        "sums",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    path = tmp_path_factory.mktemp("model") / "sums.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="session")
def repository(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with that model as version 1 of `sums`."""
    folder = tmp_path_factory.mktemp("repository") / "models"
    argv = ["pack", str(model_file), "--to", str(folder), "--metric", "accuracy=0.97", "--lineage", "commit=4f1c2aa"]
    assert run(argv) == 0
    return folder
