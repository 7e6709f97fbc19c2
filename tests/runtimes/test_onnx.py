"""ONNX graphs: their signatures, their answers, and what is said when something is wrong."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.runtime import LoadedModel, Runtime
from dukou.core.tensor import DTYPES
from dukou.runtimes.onnx import OnnxRuntime, read_graph, read_signature
from dukou.testing import models

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def info(name: str, kind: int, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any] = ()
) -> Path:
    """A graph in a file, of an old enough format for every supported ONNX Runtime."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def identity(path: Path, kind: int, shape: Any, out: Any = ...) -> Path:
    """A graph that gives back what it takes."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path, [node], [info("x", kind, shape)], [info("y", kind, shape if out is ... else out)])


def load(path: Path, **options: Any) -> LoadedModel:
    """The model in a file, as packing would describe it."""
    runtime: Runtime = OnnxRuntime()
    manifest = models.manifest(signatures=(read_signature(path),), options=options)
    return runtime.load(path.parent, msgspec.structs.replace(manifest, serving=path.name))


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    """Under its name in the signature, unchanged by the graph."""
    path = identity(tmp_path / "m.onnx", KINDS[datatype], ["n", 2])
    sent = np.array([["a", "b"]], dtype=object) if datatype == "BYTES" else np.array([[0, 1]]).astype(DTYPES[datatype])

    assert read_signature(path).inputs == (TensorSpec("x", datatype, (-1, 2)),)
    answer = load(path).infer(DEFAULT_SIGNATURE, {"x": sent}, ("y",), {})
    assert answer["y"].dtype == DTYPES[datatype]
    assert answer["y"].tolist() == sent.tolist()


@pytest.mark.parametrize(
    ("shape", "out", "read", "batched"),
    [
        (["n", 4], ["n", 4], (-1, 4), True),
        ([None, 4], [None, 4], (-1, 4), True),
        (["n", 4], [None, 4], (-1, 4), True),
        (["n"], ["n"], (-1,), True),
        (["unk__1", 4], ["unk__2", 4], (-1, 4), True),
        ([3, 4], [3, 4], (3, 4), False),
        (["n", 4], ["m", 4], (-1, 4), False),
        ([], [], (), False),
        (None, None, None, False),
        ([None, "time", 3], [None, "time", 3], (-1, -1, 3), True),
        ([0], [0], (0,), False),
    ],
)
def test_shapes_and_batching_are_read(tmp_path: Path, shape: Any, out: Any, read: Any, batched: bool) -> None:
    """Symbols are -1, no shape at all is None, and only one common free axis 0 is rows."""
    signature = read_signature(identity(tmp_path / "m.onnx", TensorProto.FLOAT, shape, out))

    assert signature.inputs[0].shape == read
    assert signature.outputs[0].shape == read
    assert signature.batched is batched
    assert signature.name == DEFAULT_SIGNATURE


def test_all_inputs_and_outputs_decide_on_batching(tmp_path: Path) -> None:
    """One that does not have rows, such as a recurrent state, is enough to keep requests apart."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["state"], ["next"])]
    kind = TensorProto.FLOAT
    ends = (
        [info("x", kind, ["n", 2]), info("state", kind, [2, "n"])],
        [info("y", kind, ["n", 2]), info("next", kind, [2, "n"])],
    )

    assert not read_signature(save(tmp_path / "m.onnx", nodes, *ends)).batched


def test_outputs_that_are_no_tensors_are_left_out_and_named(tmp_path: Path) -> None:
    """A converter's ZipMap: the label serves, the maps cannot."""
    zipped = helper.make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    maps = helper.make_value_info(
        "maps",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        ),
    )
    x, y = info("x", TensorProto.FLOAT, [None, 2]), info("y", TensorProto.FLOAT, [None, 2])
    both = save(tmp_path / "both.onnx", [zipped, helper.make_node("Identity", ["x"], ["y"])], [x], [y, maps])
    only = save(tmp_path / "only.onnx", [zipped], [x], [maps])

    graph = read_graph(both)

    assert graph.signature.output_names() == ("y",)
    assert graph.omitted == {"maps": "seq(map(int64,tensor(float)))"}
    assert load(both).infer(DEFAULT_SIGNATURE, {"x": np.ones((1, 2), np.float32)}, ("y",), {})["y"].tolist() == [[1, 1]]
    with pytest.raises(DukouError, match="ZipMap") as caught:
        read_signature(only)
    assert caught.value.reason is Reason.ARTIFACT_UNSUPPORTED


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    """No request could carry it."""
    sequence = helper.make_value_info(
        "x", helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    )
    node = helper.make_node("SequenceLength", ["x"], ["y"])

    with pytest.raises(DukouError, match="seq") as caught:
        read_signature(save(tmp_path / "m.onnx", [node], [sequence], [info("y", TensorProto.INT64, [])]))

    assert caught.value.reason is Reason.ARTIFACT_UNSUPPORTED


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_file_that_is_no_graph_is_unreadable(
    tmp_path: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error has the path and a short reason; ONNX Runtime itself prints nothing."""
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DukouError) as caught:
        read_signature(path)

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500
    assert "ONNXRuntimeError" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_cut_file_is_unreadable(tmp_path: Path) -> None:
    """Wherever the graph ends."""
    path = identity(tmp_path / "m.onnx", TensorProto.FLOAT, None)
    content = path.read_bytes()

    for end in range(1, len(content) // 2, 5):
        path.write_bytes(content[:end])
        with pytest.raises(DukouError):
            read_signature(path)


def test_only_the_outputs_asked_for_are_given(tmp_path: Path) -> None:
    """In the order asked for."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    ends = [info(name, TensorProto.FLOAT, ["n"]) for name in "xyz"]
    model = load(save(tmp_path / "m.onnx", nodes, ends[:1], ends[1:]))
    x = np.array([1, 2], np.float32)

    assert list(model.infer(DEFAULT_SIGNATURE, {"x": x}, ("z",), {})) == ["z"]
    assert list(model.infer(DEFAULT_SIGNATURE, {"x": x}, ("z", "y"), {})) == ["z", "y"]
    assert model.infer(DEFAULT_SIGNATURE, {"x": x}, ("z",), {})["z"].tolist() == [-1, -2]


def test_a_wrong_shape_is_the_callers_mistake(tmp_path: Path) -> None:
    """Naming the input, what came and what is wanted."""
    model = load(identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n", 2]))

    with pytest.raises(DukouError) as caught:
        model.infer(DEFAULT_SIGNATURE, {"x": np.ones((1, 3), np.float32)}, ("y",), {})

    assert caught.value.reason is Reason.WRONG_SHAPE
    assert caught.value.facts["tensor"] == "x"
    assert caught.value.facts["got"] == [1, 3]


def test_a_wrong_type_is_the_callers_mistake(tmp_path: Path) -> None:
    """With ONNX Runtime's own words for it, shortened."""
    model = load(identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n", 2]))

    with pytest.raises(DukouError, match="Unexpected input data type") as caught:
        model.infer(DEFAULT_SIGNATURE, {"x": np.ones((1, 2))}, ("y",), {})

    assert caught.value.reason is Reason.MODEL_REFUSED_INPUT


def test_values_that_a_node_refuses_are_the_callers_mistake(tmp_path: Path) -> None:
    """An index beyond the table."""
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    table = numpy_helper.from_array(np.arange(3, dtype=np.float32), "table")
    path = save(
        tmp_path / "m.onnx",
        [node],
        [info("x", TensorProto.INT64, ["n"])],
        [info("y", TensorProto.FLOAT, ["n"])],
        [table],
    )

    with pytest.raises(DukouError, match="indices element out of data bounds") as caught:
        load(path).infer(DEFAULT_SIGNATURE, {"x": np.array([7])}, ("y",), {})

    assert caught.value.reason is Reason.MODEL_REFUSED_INPUT


def test_a_failure_inside_is_the_cause_and_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The caller learns that the model failed; whoever asked decides whether the rest is worth a line in the log."""
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    to = numpy_helper.from_array(np.array([3, -1]), "to")
    path = save(
        tmp_path / "m.onnx",
        [node],
        [info("x", TensorProto.FLOAT, ["n"])],
        [info("y", TensorProto.FLOAT, [3, None])],
        [to],
    )

    with pytest.raises(DukouError) as caught:
        load(path).infer(DEFAULT_SIGNATURE, {"x": np.ones(4, np.float32)}, ("y",), {})

    assert caught.value.reason is Reason.MODEL_FAILED
    assert "Reshape" not in str(caught.value)
    assert "Reshape" in str(caught.value.__cause__)
    assert not caplog.records


def test_text_goes_in_as_str_or_bytes(tmp_path: Path) -> None:
    """Bytes are UTF-8; text comes out as str."""
    model = load(identity(tmp_path / "m.onnx", TensorProto.STRING, ["n", 2]))
    sent = np.array([["渡口", "渡口".encode()], [b"", ""]], dtype=object)

    answer = model.infer(DEFAULT_SIGNATURE, {"x": sent}, ("y",), {})["y"]

    assert answer.tolist() == [["渡口", "渡口"], ["", ""]]


@pytest.mark.parametrize(("value", "row"), [(b"\xff\xfe", 1), ("\ud800", None)])
def test_bytes_that_are_no_text_are_the_callers_mistake(tmp_path: Path, value: Any, row: int | None) -> None:
    """Naming the row where it is known."""
    model = load(identity(tmp_path / "m.onnx", TensorProto.STRING, ["n"]))

    with pytest.raises(DukouError) as caught:
        model.infer(DEFAULT_SIGNATURE, {"x": np.array(["a", value], dtype=object)}, ("y",), {})

    assert caught.value.reason is Reason.MODEL_REFUSED_INPUT
    assert caught.value.facts.get("row") == row


def test_external_data_is_found_beside_the_graph(tmp_path: Path) -> None:
    """Weights in a second file, as large models have them."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = numpy_helper.from_array(np.eye(64, dtype=np.float32) * 3, "w")
    kind = TensorProto.FLOAT
    path = save(tmp_path / "m.onnx", [node], [info("x", kind, ["n", 64])], [info("y", kind, ["n", 64])], [weights])
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert (tmp_path / "m.onnx.data").stat().st_size >= 64 * 64 * 4

    answer = load(path).infer(DEFAULT_SIGNATURE, {"x": np.ones((1, 64), np.float32)}, ("y",), {})

    assert answer["y"].tolist() == [[3.0] * 64]
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(DukouError):
        load(path)


@pytest.mark.parametrize("threads", [0, -1, "2", True, 1.5])
def test_a_wrong_option_is_refused(tmp_path: Path, threads: Any) -> None:
    """Threads are a number, 1 or more."""
    path = identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n"])

    with pytest.raises(DukouError, match="threads") as caught:
        load(path, threads=threads)

    assert caught.value.reason is Reason.CONFIG_INVALID


def test_a_manifest_of_another_graph_is_refused(tmp_path: Path) -> None:
    """When loading, not at the first request."""
    path = identity(tmp_path / "model.py", TensorProto.FLOAT, ["n"])

    with pytest.raises(DukouError, match="names X, label, probabilities, which") as caught:
        OnnxRuntime().load(path.parent, models.manifest())

    assert caught.value.reason is Reason.MANIFEST_INVALID


def test_many_threads_may_ask_at_once(tmp_path: Path) -> None:
    """Each gets its own answer."""
    model = load(identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n"]), threads=2)
    wrong: list[float] = []

    def ask(number: float) -> None:
        for _ in range(50):
            answer = model.infer(DEFAULT_SIGNATURE, {"x": np.full(8, number, np.float32)}, ("y",), {})
            wrong.extend(answer["y"][answer["y"] != number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert not wrong
    assert model.concurrency >= 1
    assert not model.holds_gil


def test_signatures_may_call_the_tensors_of_one_graph_as_they_like(tmp_path: Path) -> None:
    """Several signatures of one graph, a name for an input and another output's alike."""
    nodes = [helper.make_node("Neg", ["x:0"], ["y:0"]), helper.make_node("Abs", ["x:0"], ["z:0"])]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [info("x:0", TensorProto.FLOAT, None)],
        [info("y:0", TensorProto.FLOAT, None), info("z:0", TensorProto.FLOAT, None)],
    )
    taken = TensorSpec("x", "FP32", None, tensor="x:0")
    negative = Signature("negative", (taken,), (TensorSpec("x", "FP32", None, tensor="y:0"),), batched=False)
    both = Signature(
        "both",
        (TensorSpec("in", "FP32", None, tensor="x:0"),),
        (TensorSpec("y", "FP32", None, tensor="y:0"), TensorSpec("z", "FP32", None, tensor="z:0")),
        batched=False,
    )
    manifest = msgspec.structs.replace(models.manifest(signatures=(negative, both)), serving=path.name)

    model = OnnxRuntime().load(path.parent, manifest)

    assert model.infer("negative", {"x": np.float32([2.0, -3.0])}, ("x",), {})["x"].tolist() == [-2.0, 3.0]
    answer = model.infer("both", {"in": np.float32([[-4.0]])}, ("z", "y"), {})
    assert {name: array.tolist() for name, array in answer.items()} == {"z": [[4.0]], "y": [[4.0]]}
    assert list(answer) == ["z", "y"]


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (1,), ()])
def test_bfloat16_is_carried_bit_by_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Any shape, NaN with its payload, beside text that comes out."""
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Identity", ["word"], ["text"])]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [info("x", TensorProto.BFLOAT16, None)],
        [info("same", TensorProto.BFLOAT16, None), info("text", TensorProto.STRING, None)],
        [helper.make_tensor("word", TensorProto.STRING, [2], [b"a", "渡".encode()])],
    )
    bits = np.resize(np.uint16([0x7FA5, 0x3F80, 0xC000, 0x0001]), shape)

    answer = load(path).infer(DEFAULT_SIGNATURE, {"x": _halves(bits)}, ("same", "text"), {})

    assert answer["same"].dtype == DTYPES["BF16"]
    assert answer["same"].shape == shape
    assert answer["same"].tobytes() == bits.tobytes()
    assert answer["text"].tolist() == ["a", "渡"]


def test_text_beside_bfloat16_is_refused_when_loading(tmp_path: Path) -> None:
    """ONNX Runtime's Python interface cannot take both in one call."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
    ends = [("x", "y", TensorProto.BFLOAT16), ("s", "t", TensorProto.STRING)]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [info(one, kind, ["n"]) for one, _, kind in ends],
        [info(one, kind, ["n"]) for _, one, kind in ends],
    )

    with pytest.raises(DukouError, match="no text beside BF16") as caught:
        load(path)

    assert caught.value.reason is Reason.ARTIFACT_UNSUPPORTED


def _halves(bits: Any) -> Any:
    return np.frombuffer(bits.tobytes(), DTYPES["BF16"]).reshape(bits.shape)


def test_a_strided_bfloat16_tensor_is_read_in_its_order(tmp_path: Path) -> None:
    """Rows cut out of a larger batch need not lie side by side."""
    path = identity(tmp_path / "m.onnx", TensorProto.BFLOAT16, ["n", "m"])
    whole = _halves(np.arange(12, dtype=np.uint16).reshape(3, 4))

    answer = load(path).infer(DEFAULT_SIGNATURE, {"x": whole[:, ::2]}, ("y",), {})

    assert answer["y"].view(np.uint16).tolist() == [[0, 2], [4, 6], [8, 10]]


@pytest.mark.parametrize("concurrency", [0, -1, "2", True, 1.5])
def test_a_wrong_concurrency_is_refused(tmp_path: Path, concurrency: Any) -> None:
    """An operator's mistake, told when loading."""
    path = identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n"])

    with pytest.raises(DukouError, match="concurrency") as caught:
        load(path, concurrency=concurrency)

    assert caught.value.reason is Reason.CONFIG_INVALID


def test_how_many_runs_at_a_time_can_be_said(tmp_path: Path) -> None:
    """By the option `concurrency`."""
    model = load(identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n"]), concurrency=3)

    assert model.concurrency == 3


def test_onnx_runtime_keeps_nothing_in_the_users_home(tmp_path: Path) -> None:
    """Neither an identifier nor what it would report to its makers."""
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    subprocess.run([sys.executable, "-c", "import dukou.runtimes.onnx"], env=environment, check=True, timeout=60)

    assert list(tmp_path.rglob("*")) == []
