"""Models that mix rows, remember, or cannot be asked are found out; honest ones are not."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Evidence, ModelManifest, ModelVersion, Signature, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import DTYPES, Tensors
from dukou.packing.independence import independence, made_rows
from dukou.runtimes.onnx import OnnxRuntime, read_signature
from dukou.testing.models import FunctionModel

SIGNATURE = Signature(DEFAULT_SIGNATURE, (TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),))


def of(fn: Callable[[Any], Any]) -> FunctionModel:
    """A model of one input x and one output y."""
    return FunctionModel(lambda inputs: {"y": fn(inputs["x"])})


def softmax(x: Any, axis: int) -> Any:
    """As in every framework, along `axis`."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * 2,
        lambda x: softmax(x, axis=1),
        lambda x: np.cumsum(x, axis=1),
        lambda x: x @ np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4),
        lambda x: np.where(x > 0, x, np.float32(np.nan)),
    ],
    ids=["double", "softmax", "cumsum", "matmul", "nan"],
)
def test_models_that_take_rows_one_by_one_are_independent(fn: Callable[[Any], Any]) -> None:
    """Whatever happens inside a row does not matter."""
    found = independence(of(fn), SIGNATURE)

    assert found.shown, found.said


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: softmax(x, axis=0),
        lambda x: x - x.mean(axis=0),
        lambda x: np.cumsum(x, axis=0),
        lambda x: np.sort(x, axis=0),
        lambda x: x / np.abs(x).max(),
        lambda x: np.concatenate([x[:1], x[1:] + np.float32(1e-3) * x[:-1]]),
        lambda x: x + np.float32(len(x) > 32),
        lambda x: x + np.float32(len(x) % 2) / 100,
    ],
    ids=["softmax", "mean", "cumsum", "sort", "scale", "previous row", "large batch", "odd batch"],
)
def test_models_that_mix_rows_are_found_out(fn: Callable[[Any], Any]) -> None:
    """An answer that depends on other rows, or on how many there are, is noticed."""
    found = independence(of(fn), SIGNATURE)

    assert not found.shown
    assert "not batched with those of other callers" in found.said


def test_a_model_that_remembers_is_found_out() -> None:
    """The same row asked again must get the same answer."""
    calls = itertools.count()

    found = independence(of(lambda x: x + np.float32(next(calls))), SIGNATURE)

    assert not found.shown


def test_a_model_whose_single_rows_work_but_batches_do_not_is_found_out() -> None:
    """A graph of fixed batch size must not be given others."""

    def fixed(x: Any) -> Any:
        if len(x) != 1:
            raise DukouError(Reason.WRONG_SHAPE, got=list(x.shape), wanted=[1, 4])
        return x

    found = independence(of(fixed), SIGNATURE)

    assert not found.shown
    assert "failed where single rows did not" in found.said


def test_an_output_without_rows_is_found_out() -> None:
    """A scalar or a wrong axis 0 cannot be cut."""
    assert not independence(of(lambda x: x.sum()), SIGNATURE).shown
    assert not independence(of(lambda x: x.T), SIGNATURE).shown


def test_a_model_that_always_says_the_same_shows_nothing() -> None:
    """Equal answers would hide any mixing."""
    found = independence(of(np.zeros_like), SIGNATURE)

    assert not found.shown
    assert "shows nothing" in found.said


def test_without_a_row_that_runs_nothing_is_shown() -> None:
    """A model that refuses all probe rows is served row by row, and the reason names its refusal."""

    def refuse(x: Any) -> Any:
        raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="no thanks")

    found = independence(of(refuse), SIGNATURE)

    assert not found.shown
    assert "no thanks" in found.said


def test_given_rows_are_asked_first() -> None:
    """Rows from data reach what made-up rows do not: here the model mixes only rows of its own range."""

    def mixes_large(x: Any) -> Any:
        return x - x.mean(axis=0) if (x > 1e6).all() else x

    rows = {"x": (1.7e9 + 1000 * np.arange(40, dtype=np.float32)).reshape(10, 4)}

    assert independence(of(mixes_large), SIGNATURE).shown
    assert not independence(of(mixes_large), SIGNATURE, rows).shown


def test_a_signature_that_is_not_batched_needs_no_question() -> None:
    """Time first, or a fixed first axis, is no batch of rows."""
    signature = Signature("s", SIGNATURE.inputs, SIGNATURE.outputs, batched=False)

    assert not independence(of(lambda x: x), signature).shown


def onnx_model(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> tuple[LoadedModel, Signature]:
    """A graph of the nodes, loaded as serving does."""
    graph = helper.make_graph(nodes, "test", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    signature = read_signature(folder / "model.onnx")
    manifest = ModelManifest(
        1, ModelVersion("m", 1), "onnx", "model.onnx", {signature.name: signature}, {}, Evidence("", "")
    )
    return OnnxRuntime().load(folder, manifest), signature


def floats(name: str, shape: list[Any]) -> Any:
    """A float32 input or output."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@pytest.mark.parametrize(("axis", "independent"), [(0, False), (1, True)])
def test_the_axis_of_a_softmax_decides(axis: int, independent: bool, tmp_path: Path) -> None:
    """An ONNX softmax over rows mixes them, one over columns does not."""
    node = helper.make_node("Softmax", ["x"], ["y"], axis=axis)
    model, signature = onnx_model(tmp_path, [node], [floats("x", ["N", 3])], [floats("y", ["N", 3])])

    assert independence(model, signature).shown is independent


def test_a_recurrent_network_with_time_first_is_found_out(tmp_path: Path) -> None:
    """ONNX's GRU takes [time, batch, features]: with one sequence, axis 0 looks like rows."""
    weights = np.random.default_rng(0).normal(size=(1, 6, 2)).astype(np.float32)
    constants = [
        helper.make_node(
            "Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, weights.shape, weights.ravel())
        )
        for name in ("w", "r")
    ]
    gru = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=2)
    model, signature = onnx_model(
        tmp_path, [*constants, gru], [floats("x", ["T", 1, 2])], [floats("y", ["T", 1, 1, 2])]
    )

    assert not independence(model, signature).shown


def test_open_dimensions_and_integers_get_values_that_run(tmp_path: Path) -> None:
    """A graph with open sizes and integer indices into a table of ten is asked with what it can take."""
    table = np.arange(30, dtype=np.float32).reshape(10, 3) ** 2
    nodes = [
        helper.make_node(
            "Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.FLOAT, table.shape, table.ravel())
        ),
        helper.make_node("Gather", ["t", "x"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", "length"])
    model, signature = onnx_model(tmp_path, nodes, [ids], [floats("y", ["N", "length", 3])])

    found = independence(model, signature)

    assert found.shown, found.said


@pytest.mark.parametrize("datatype", ["FP64", "FP16", "INT32", "UINT8", "BOOL", "BYTES"])
def test_made_rows_fit_their_signature(datatype: str) -> None:
    """Rows are made for every datatype, and are not all the same."""
    signature = Signature("s", (TensorSpec("x", datatype, (-1, -1, 2)),), ())

    rows: Tensors = made_rows(signature, 8, 1.0, free=3)

    assert rows["x"].shape == (8, 3, 2)
    assert rows["x"].dtype == DTYPES[signature.inputs[0].datatype]
    assert len({str(row.tolist()) for row in rows["x"]}) > 1
