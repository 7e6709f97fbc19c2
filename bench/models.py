"""Write the benchmark's models into the folder given: model.joblib (iris) and mean.onnx."""

import sys
from pathlib import Path

import onnx
from joblib import dump
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main(folder: Path) -> None:
    X, y = load_iris(return_X_y=True)
    dump(LogisticRegression(max_iter=1000).fit(X, y), folder / "model.joblib")

    image = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", 3, 224, 224])
    mean = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    node = helper.make_node("ReduceMean", ["X", "axes"], ["y"], keepdims=0)
    graph = helper.make_graph([node], "mean", [image], [mean], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "mean.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
