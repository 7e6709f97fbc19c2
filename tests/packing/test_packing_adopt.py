"""Versions that stand as they are: golden configurations, what graphs and configurations must agree on, warm-ups."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion, Signature, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors
from dukou.packing.adopt import TRITON, Adopted, adopt
from dukou.runtimes.reshape import reshape

FLOAT, INT, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
M = ModelVersion("m", 1)

Ends = Sequence[tuple[str, int, Any]]


def save(
    path: Path,
    inputs: Ends,
    outputs: Ends,
    nodes: Sequence[Any] | None = None,
    constants: Mapping[str, list[int]] | None = None,
) -> Path:
    """A graph; without nodes each output is the input in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nodes or [
        helper.make_node("Identity", [one[0]], [other[0]]) for one, other in zip(inputs, outputs, strict=True)
    ]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(*end) for end in inputs],
        [helper.make_tensor_value_info(*end) for end in outputs],
        [helper.make_tensor(name, INT, [len(value)], value) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def identity(folder: Path, shape: Any = ("n", 4), kind: int = FLOAT) -> Path:
    """Version 1 of model `m`: x in, y out."""
    save(folder / "m" / "1" / "model.onnx", [("x", kind, shape)], [("y", kind, shape)])
    return folder / "m" / "1"


def configure(version: Path, text: str) -> None:
    (version.parent / "config.pbtxt").write_text(text)


def adopted(version: Path, **more: Any) -> Adopted:
    return adopt(version, M, **more)


def signature(of: Adopted) -> Signature:
    return of.manifest.signatures[DEFAULT_SIGNATURE]


def load(of: Adopted) -> LoadedModel:
    return of.load(of.manifest)


def ask(of: Adopted, **inputs: Any) -> Tensors:
    """All outputs."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return load(of).infer(DEFAULT_SIGNATURE, arrays, signature(of).output_names(), {})


def refused(version: Path) -> DukouError:
    with pytest.raises(DukouError) as caught:
        adopted(version)
    return caught.value


def test_a_graph_alone_describes_itself(tmp_path: Path) -> None:
    """A layout of TensorFlow Serving with an ONNX file in it, whatever the file's name."""
    save(tmp_path / "m" / "00000123" / "net.onnx", [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])])

    found = adopt(tmp_path / "m" / "00000123", ModelVersion("m", 123))

    assert found.manifest.id == ModelVersion("m", 123)
    assert (found.manifest.runtime, found.manifest.serving) == ("onnx", "net.onnx")
    assert signature(found).inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert signature(found).batched
    assert not found.manifest.evidence.independent_rows
    assert "dukou pack" in found.manifest.evidence.independence
    assert found.warnings == ()
    assert ask(found, x=np.ones((2, 4), np.float32))["y"].shape == (2, 4)


X4 = 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } '
Y4 = 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } '

GOLDEN: list[tuple[str, Any, tuple[bool, bool, tuple[int, ...] | None]]] = [
    # configuration, the graph's shape, (batched, joined, the shape that callers see)
    ("", ["n", 4], (True, False, (-1, 4))),
    ("", [3, 4], (False, False, (3, 4))),
    ("", None, (False, False, None)),
    ("max_batch_size: 8", ["n", 4], (True, False, (-1, 4))),
    ("max_batch_size: 8 dynamic_batching { }", ["n", 4], (True, True, (-1, 4))),
    ("max_batch_size: 8 " + X4 + Y4, ["n", 4], (True, False, (-1, 4))),
    ("max_batch_size: 8 " + X4, ["n", 4], (True, False, (-1, 4))),
    ("max_batch_size: 8 " + X4 + Y4, ["n", "m"], (True, False, (-1, 4))),
    ("max_batch_size: 8 " + X4 + Y4, None, (True, False, (-1, 4))),
    ('max_batch_size: 8 input { name: "x" }', ["n", 4], (True, False, (-1, 4))),
    (X4 + Y4, [4], (False, False, (4,))),
    (X4 + Y4, ["n"], (False, False, (4,))),
    (X4 + Y4, None, (False, False, (4,))),
    ('input { name: "x" dims: [ -1, 4 ] } output { name: "y" dims: [ -1, 4 ] }', ["n", 4], (False, False, (-1, 4))),
]


@pytest.mark.parametrize(("text", "shape", "means"), GOLDEN)
def test_a_configuration_is_completed_by_the_graph(tmp_path: Path, text: str, shape: Any, means: Any) -> None:
    """Rows come in front when there is a max_batch_size; what names no tensor at all is completed rows included."""
    version = identity(tmp_path, shape)
    configure(version, text)

    found = adopted(version)

    said = signature(found)
    assert (said.batched, found.manifest.evidence.independent_rows, said.inputs[0].shape) == means
    assert said.outputs[0].shape == said.inputs[0].shape
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("text", "shape", "says"),
    [
        ("max_batch_size: 8", [1, 4], "max_batch_size is 8, but 'x' has the shape [1, 4] in the graph"),
        (
            "max_batch_size: 8 " + X4 + Y4,
            ["n", 5],
            "'x' is [-1, 4] (the rows and then its dims), but the graph's shape",
        ),
        (X4 + Y4, [5], "'x' is [4] (its dims), but the graph's shape is [5]"),
        (X4 + Y4, ["n", 4], "'x' is [4] (its dims), but the graph's shape is [-1, 4]"),
        ('input { name: "x" dims: [ -1 ] }', [4], "'x' is [-1] (its dims), but the graph's shape is [4]"),
        ('input { name: "z" }', [4], "input 'z' is not in the graph, which has x"),
        ('output { name: "z" }', [4], "output 'z' is not in the graph, which has y"),
        (
            'input { name: "x" data_type: TYPE_INT32 dims: [ 4 ] }',
            [4],
            "'x' has the data_type INT32, the graph's is FP32",
        ),
        ('max_batch_size: 8 input { name: "x" }', None, "'x' needs dims: the graph does not say its shape"),
    ],
)
def test_a_configuration_that_the_graph_belies_is_refused(tmp_path: Path, text: str, shape: Any, says: str) -> None:
    """With both shapes, when it is loaded and not at the first request."""
    version = identity(tmp_path, shape)
    configure(version, text)

    error = refused(version)

    assert error.reason is Reason.ARTIFACT_UNSUPPORTED
    assert says in str(error)
    assert "config.pbtxt" in str(error)


def test_every_input_of_the_graph_has_to_be_named(tmp_path: Path) -> None:
    """Outputs may be left out."""
    ends = [(name, FLOAT, ["n", 4]) for name in ("a", "b")]
    save(tmp_path / "m" / "1" / "model.onnx", ends, [("c", FLOAT, ["n", 4]), ("d", FLOAT, ["n", 4])])
    version = tmp_path / "m" / "1"
    named = [f'input {{ name: "{name}" dims: 4 }}' for name in ("a", "b")]
    configure(version, "max_batch_size: 2 " + named[0])

    error = refused(version)

    assert "it lacks the inputs b, which the graph needs" in str(error)
    configure(version, "max_batch_size: 2 " + " ".join(named) + ' output { name: "d" dims: 4 }')
    assert signature(adopted(version)).output_names() == ("d",)


def test_the_configuration_is_kept_as_a_tree(tmp_path: Path) -> None:
    """Beside the options that come of it."""
    version = identity(tmp_path)
    configure(version, "max_batch_size: 8 dynamic_batching { } instance_group { count: 3 }")

    options = adopted(version).manifest.options

    assert options["max_request_rows"] == options["max_batch_rows"] == 8
    assert options["concurrency"] == 3
    assert options[TRITON]["max_batch_size"] == 8
    assert options[TRITON]["dynamic_batching"] == {}


def test_instances_are_how_many_run_at_a_time(tmp_path: Path) -> None:
    """Unless the operator says otherwise."""
    version = identity(tmp_path)
    configure(version, "instance_group { count: 3 }")
    found = adopted(version)
    manifest = found.manifest

    assert load(found).concurrency == 3
    other = msgspec.structs.replace(manifest, options={**manifest.options, "concurrency": 5})
    assert found.load(other).concurrency == 5


def test_labels_name_an_outputs_classes(tmp_path: Path) -> None:
    """A line each, from a file in the model's folder."""
    version = identity(tmp_path, ["n", 3])
    (version.parent / "labels.txt").write_text("cat\ndog\n渡\n")
    configure(version, 'max_batch_size: 2 output { name: "y" label_filename: "labels.txt" }')

    assert signature(adopted(version)).outputs[0].columns == ("cat", "dog", "渡")
    (version.parent / "labels.txt").unlink()
    error = refused(version)
    assert error.reason is Reason.ARTIFACT_UNREADABLE
    assert "labels of output 'y'" in str(error)


RESHAPED: list[tuple[str, Any, tuple[int, ...], tuple[int, ...]]] = [
    # dims and reshape, the graph's shape, the shape that a caller sends, the shape that comes back
    ("dims: [ 1 ] reshape { shape: [ ] }", ["n"], (3, 1), (3, 1)),
    ("dims: [ 2, 2 ] reshape { shape: [ 4 ] }", ["n", 4], (3, 2, 2), (3, 2, 2)),
    ("dims: [ -1, 2 ] reshape { shape: [ -1, 1, 2 ] }", ["n", "m", 1, 2], (3, 5, 2), (3, 5, 2)),
    ("dims: [ -1, 2, -1 ] reshape { shape: [ 2, -1, -1 ] }", ["n", 2, "a", "b"], (3, 5, 2, 7), (3, 5, 2, 7)),
]


@pytest.mark.parametrize(("tensor", "shape", "sent", "back"), RESHAPED)
def test_a_reshape_is_between_caller_and_model(
    tmp_path: Path, tensor: str, shape: Any, sent: tuple[int, ...], back: tuple[int, ...]
) -> None:
    """Values keep their order; callers see dims only."""
    version = identity(tmp_path, shape)
    configure(version, f'max_batch_size: 8 input {{ name: "x" {tensor} }} output {{ name: "y" {tensor} }}')
    array = np.arange(np.prod(sent), dtype=np.float32).reshape(sent)

    answer = ask(adopted(version), x=array)["y"]

    assert answer.shape == back
    assert answer.ravel().tolist() == array.ravel().tolist()


def test_a_graph_for_one_image_serves_images(tmp_path: Path) -> None:
    """The configuration of a graph that was exported for a single row: shapes without it, labels, a layout."""
    save(
        tmp_path / "m" / "1" / "model.onnx",
        [("data_0", FLOAT, [1, 3, 2, 2])],
        [("fc6_1", FLOAT, [1, 12, 1, 1])],
        [helper.make_node("Reshape", ["data_0", "shape"], ["fc6_1"])],
        {"shape": [1, 12, 1, 1]},
    )
    version = tmp_path / "m" / "1"
    (version.parent / "labels.txt").write_text("\n".join(f"class {number}" for number in range(12)))
    configure(
        version,
        """
        name: "m"
        platform: "onnxruntime_onnx"
        max_batch_size : 0
        input [ { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 2, 2 ]
                  reshape { shape: [ 1, 3, 2, 2 ] } } ]
        output [ { name: "fc6_1" data_type: TYPE_FP32 dims: [ 12 ] reshape { shape: [ 1, 12, 1, 1 ] }
                   label_filename: "labels.txt" } ]
        """,
    )

    found = adopted(version)

    said = signature(found)
    assert (said.batched, said.inputs[0].shape, said.outputs[0].shape) == (False, (3, 2, 2), (12,))
    assert said.outputs[0].columns[11] == "class 11"
    assert ask(found, data_0=np.arange(12, dtype=np.float32).reshape(3, 2, 2))["fc6_1"].tolist() == list(range(12))
    assert found.warnings == (
        f"{version.parent}/config.pbtxt: input.format has no effect here: tensors are passed on as they come",
    )


@given(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=4), st.integers(0, 3), st.data())
def test_a_reshape_can_be_undone(dims: list[int], rows: int, data: st.DataObject) -> None:
    """Whatever the free sizes are."""
    sizes = tuple(data.draw(st.integers(1, 3)) if size == -1 else size for size in dims)
    other = (*(size for size in dims if size == -1), int(np.prod([size for size in dims if size != -1])))
    array = np.arange(rows * np.prod(sizes, dtype=int)).reshape(rows, *sizes)

    there = reshape(array, tuple(dims), other, batched=True)

    assert reshape(there, other, tuple(dims), batched=True).tolist() == array.tolist()


def test_a_reshape_that_cannot_be_is_the_models_failure() -> None:
    """An output with another number of values than was promised."""
    with pytest.raises(DukouError) as caught:
        reshape(np.zeros((2, 3)), (3,), (4,), batched=True)

    assert caught.value.reason is Reason.MODEL_FAILED


@pytest.mark.parametrize(
    ("text", "files", "says"),
    [
        ("", [], "the folder is empty, model.onnx or model.py is wanted"),
        ("", ["a.onnx", "b.onnx"], "holds no model.onnx or model.py, but a.onnx, b.onnx"),
        ('backend: "python"', ["model.onnx"], "holds no model.py, but model.onnx"),
        ('backend: "onnxruntime"', ["model.py"], "holds no model.onnx, but model.py"),
        ("", ["saved_model.pb"], "this is a TensorFlow SavedModel"),
        ('default_model_filename: "net.onnx"', ["model.onnx"], "default_model_filename names it"),
        ('default_model_filename: "../config.pbtxt"', ["model.onnx"], "default_model_filename names it"),
        (
            'backend: "python" default_model_filename: "model.onnx"',
            ["model.onnx"],
            "the backend is python, but the file",
        ),
    ],
)
def test_a_folder_without_its_file_is_told_what_is_there(
    tmp_path: Path, text: str, files: list[str], says: str
) -> None:
    """And which setting could name it."""
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    for name in files:
        (version / name).write_text("x")
    configure(version, text)

    error = refused(version)

    assert error.reason is Reason.ARTIFACT_UNSUPPORTED
    assert says in str(error)


def test_a_graph_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """With its external data: `1/model.onnx/model.onnx`."""
    save(tmp_path / "m" / "1" / "model.onnx" / "model.onnx", [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])])

    found = adopted(tmp_path / "m" / "1")

    assert found.manifest.serving == "model.onnx/model.onnx"
    assert ask(found, x=np.ones((1, 4), np.float32))["y"].shape == (1, 4)


def test_a_configuration_that_cannot_be_read_tells_where(tmp_path: Path) -> None:
    """Line and column."""
    version = identity(tmp_path)
    configure(version, 'max_batch_size: 8\nno_such_field: "x"\n')

    error = refused(version)

    assert error.reason is Reason.ARTIFACT_UNREADABLE
    assert "line 2" in str(error)


def test_a_configuration_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes of another kind."""
    version = identity(tmp_path)
    (version.parent / "config.pbtxt").write_bytes(b"\xff\xfe\x00")

    assert refused(version).reason is Reason.ARTIFACT_UNREADABLE


PYTHON = """
class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1, 2])}

    def load(self, context):
        self.scale = float(context.config.get("parameters", {}).get("scale", {}).get("string_value", "1"))

    def predict(self, inputs):
        return inputs["x"] * self.scale
"""


def python(tmp_path: Path, code: str = PYTHON, text: str = "") -> Path:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code)
    if text:
        configure(version, text)
    return version


def test_python_describes_itself(tmp_path: Path) -> None:
    """By its class; made-up rows are not asked of it."""
    found = adopted(python(tmp_path), trust_python=True)

    assert (found.manifest.runtime, found.manifest.serving) == ("python", "model.py")
    assert signature(found).inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert found.manifest.options == {"warm": False}
    assert ask(found, x=np.float32([[1, 2]]))["y"].tolist() == [[1.0, 2.0]]


def test_python_is_described_by_a_configuration(tmp_path: Path) -> None:
    """Whose parameters it is told; the class need not repeat its tensors."""
    code = PYTHON.replace("inputs =", "_ =").replace("outputs =", "_ =")
    text = (
        'backend: "python" max_batch_size: 4 dynamic_batching { } '
        'input { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } '
        'parameters { key: "scale" value { string_value: "3" } }'
    )

    found = adopted(python(tmp_path, code, text), trust_python=True)

    assert signature(found).batched
    assert found.manifest.evidence.independent_rows
    assert found.warnings == ()
    assert ask(found, x=np.float32([[1, 2]]))["y"].tolist() == [[3.0, 6.0]]


def test_python_needs_to_be_trusted(tmp_path: Path) -> None:
    """Before any of it runs."""
    assert refused(python(tmp_path, "1 / 0")).reason is Reason.CODE_REFUSED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'input { name: "x" dims: 2 } output { name: "y" data_type: TYPE_FP32 dims: 2 }',
            "'x' needs data_type and dims",
        ),
        ("max_batch_size: 4", "max_batch_size wants rows"),
    ],
)
def test_what_python_cannot_complete_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """There is no graph to look at."""
    version = python(tmp_path, PYTHON.replace("[-1, 2]", "[2]"), text)

    with pytest.raises(DukouError, match=says):
        adopted(version, trust_python=True)


def test_a_decoupled_model_streams(tmp_path: Path) -> None:
    """By its configuration, or because it is a generator."""
    text = "model_transaction_policy { decoupled: true }"
    generator = PYTHON.replace("return", "yield")

    assert signature(adopted(python(tmp_path / "a", PYTHON, text), trust_python=True)).streaming
    assert signature(adopted(python(tmp_path / "b", generator), trust_python=True)).streaming
    assert not signature(adopted(python(tmp_path / "c"), trust_python=True)).streaming


RECORDING = """
class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1, 2])}

    def predict(self, inputs):
        with open(__file__ + ".log", "a") as log:
            log.write(f"{inputs['x'].tolist()}\\n")
        return inputs["x"]
"""


def warmup(inputs: str, more: str = "") -> str:
    return f'model_warmup {{ name: "w" {more} inputs {{ key: "x" value {{ {inputs} }} }} }}'


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (warmup("data_type: TYPE_FP32 dims: 2 zero_data: true"), ["[[0.0, 0.0]]"]),
        (
            warmup("data_type: TYPE_FP32 dims: 2 zero_data: true", "batch_size: 2 count: 3"),
            ["[[0.0, 0.0], [0.0, 0.0]]"] * 3,
        ),
        (warmup('data_type: TYPE_FP32 dims: 2 input_data_file: "raw"'), ["[[1.5, 2.5]]"]),
    ],
)
def test_warm_ups_are_asked_while_loading(tmp_path: Path, text: str, seen: list[str]) -> None:
    """As often and with as many rows as they say."""
    version = python(tmp_path, RECORDING, text)
    (version.parent / "warmup").mkdir()
    (version.parent / "warmup" / "raw").write_bytes(np.float32([1.5, 2.5]).tobytes())

    load(adopted(version, trust_python=True))

    assert (version / "model.py.log").read_text().splitlines() == seen


@pytest.mark.parametrize("kind", ["FP16", "FP64", "BF16", "INT8", "UINT64", "BOOL", "STRING"])
@pytest.mark.parametrize("data", ["zero_data", "random_data"])
def test_warm_ups_may_be_of_any_datatype(tmp_path: Path, kind: str, data: str) -> None:
    """Zeros or random values."""
    onnx_kind = {"STRING": TEXT, "BF16": TensorProto.BFLOAT16, "FP16": TensorProto.FLOAT16, "FP64": TensorProto.DOUBLE}
    version = identity(tmp_path, ["n", 3], onnx_kind.get(kind) or getattr(TensorProto, kind))
    configure(version, "max_batch_size: 4 " + warmup(f"data_type: TYPE_{kind} dims: 3 {data}: true"))

    assert load(adopted(version)).concurrency >= 1


def test_strings_of_a_warm_up_come_from_a_file(tmp_path: Path) -> None:
    """Each behind its length."""
    version = identity(tmp_path, ["n", 2], TEXT)
    (version.parent / "warmup").mkdir()
    file = version.parent / "warmup" / "raw"
    configure(version, "max_batch_size: 4 " + warmup('data_type: TYPE_STRING dims: 2 input_data_file: "raw"'))

    file.write_bytes(b"\x02\0\0\0ab\0\0\0\0")
    load(adopted(version))
    for wrong in (b"\x02\0\0\0ab", b"\x09\0\0\0ab\0\0\0\0", b"\x02\0"):
        file.write_bytes(wrong)
        with pytest.raises(DukouError, match="are no BYTES tensor") as caught:
            load(adopted(version))
        assert caught.value.reason is Reason.ARTIFACT_UNREADABLE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (warmup("data_type: TYPE_FP32 dims: 3 zero_data: true"), "model_warmup 'w'"),
        (warmup('data_type: TYPE_FP32 dims: 4 input_data_file: "none"'), "No such file"),
        (
            warmup("data_type: TYPE_FP32 dims: 4 zero_data: true").replace('"x"', '"z"'),
            "inputs ['z'], the model's are ['x']",
        ),
    ],
)
def test_a_warm_up_that_fails_stops_the_version(tmp_path: Path, text: str, says: str) -> None:
    """It would have failed its first callers."""
    version = identity(tmp_path, ["n", 4])
    configure(version, "max_batch_size: 4 " + text)

    with pytest.raises(DukouError) as caught:
        load(adopted(version))

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE
    assert says in str(caught.value)
