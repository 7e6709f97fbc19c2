"""The models that the shared conformance vectors ask: small ONNX graphs, laid out as a repository.

`half_plus_two`, `addsub_named` and `echo_bytes` are packed versions, as TensorFlow Serving's own test models are named
and shaped; `addsub`, `identity_fp32` and `identity_fp16` are a Triton repository's folders as they stand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dukou.core.model import DEFAULT_SIGNATURE, Evidence, ModelManifest, ModelVersion, Signature, TensorSpec
from dukou.repository.integrity import sha256
from dukou.repository.manifest import FORMAT, write_manifest

LABELS: Mapping[str, Mapping[str, int]] = {"half_plus_two": {"stable": 123}}
"""What `models.labels` has to say beside the folder."""

_FILE = "model.onnx"
_OPSET, _IR = 17, 8
_ROWS = "rows"


def build_models(folder: Path) -> None:
    """Write the repository into `folder`, a model in each folder. Needs the onnx package."""
    _half_plus_two(folder / "half_plus_two" / "123")
    _addsub_named(folder / "addsub_named" / "1")
    _echo_bytes(folder / "echo_bytes" / "1")
    _addsub(folder / "addsub")
    for name, kind in (("identity_fp32", "FP32"), ("identity_fp16", "FP16")):
        _identity(folder / name, kind)


def _half_plus_two(folder: Path) -> None:
    """y = x / 2 + 2, of any rank, though metadata tells [-1, 1]; one graph under three signatures."""
    x = TensorSpec("x", "FP32", None, stated=(-1, 1), tensor="x:0")
    y = TensorSpec("y", "FP32", None, stated=(-1, 1), tensor="y:0")
    feature = TensorSpec("x", "FP32", (-1, 1), tensor="x:0")
    signatures = (
        Signature(DEFAULT_SIGNATURE, (x,), (y,), batched=False),
        Signature("classify_x_to_y", (feature,), (_called("scores", "y:0"),), method="classify"),
        Signature("regress_x_to_y", (feature,), (_called("outputs", "y:0"),), method="regress"),
    )
    nodes = [("Mul", ["x:0", "half"], ["product"]), ("Add", ["product", "two"], ["y:0"])]
    _write(folder, nodes, {"x:0": ("FP32", None)}, {"y:0": ("FP32", None)}, {"half": 0.5, "two": 2.0})
    _pack(folder, "half_plus_two", signatures)


def _addsub_named(folder: Path) -> None:
    a, b, total, difference = (TensorSpec(name, "FP32", None, stated=(-1,)) for name in ("a", "b", "sum", "diff"))
    any_rank = ("FP32", None)
    nodes = [("Add", ["a", "b"], ["sum"]), ("Sub", ["a", "b"], ["diff"])]
    _write(folder, nodes, {"a": any_rank, "b": any_rank}, {"sum": any_rank, "diff": any_rank})
    _pack(folder, "addsub_named", (Signature(DEFAULT_SIGNATURE, (a, b), (total, difference), batched=False),))


def _echo_bytes(folder: Path) -> None:
    s, out = (TensorSpec(name, "BYTES", None, stated=(-1,)) for name in ("s", "out_bytes"))
    _write(folder, [("Identity", ["s"], ["out_bytes"])], {"s": ("BYTES", None)}, {"out_bytes": ("BYTES", None)})
    _pack(folder, "echo_bytes", (Signature(DEFAULT_SIGNATURE, (s,), (out,), batched=False),))


def _addsub(folder: Path) -> None:
    nodes = [("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), ("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
    four = ("INT32", [_ROWS, 4])
    _write(folder / "1", nodes, {"INPUT0": four, "INPUT1": four}, {"OUTPUT0": four, "OUTPUT1": four})
    _configure(folder, 8, "TYPE_INT32", 4, 2)


def _identity(folder: Path, datatype: str) -> None:
    any_size = (datatype, [_ROWS, "size"])
    _write(folder / "1", [("Identity", ["INPUT0"], ["OUTPUT0"])], {"INPUT0": any_size}, {"OUTPUT0": any_size})
    _configure(folder, 1, f"TYPE_{datatype}", -1, 1)


def _called(name: str, tensor: str) -> TensorSpec:
    return TensorSpec(name, "FP32", (-1, 1), tensor=tensor)


def _configure(folder: Path, max_batch_size: int, kind: str, dims: int, ends: int) -> None:
    """A Triton model's configuration with `ends` inputs and as many outputs, all alike."""
    lines = [f'name: "{folder.name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
    for role in ("input", "output"):
        lines += [
            f'{role} {{ name: "{role.upper()}{number}" data_type: {kind} dims: [ {dims} ] }}' for number in range(ends)
        ]
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pack(folder: Path, name: str, signatures: Sequence[Signature]) -> None:
    manifest = ModelManifest(
        format=FORMAT,
        id=ModelVersion(name, int(folder.name)),
        runtime="onnx",
        serving=_FILE,
        signatures={signature.name: signature for signature in signatures},
        digests={_FILE: sha256(folder / _FILE)},
        evidence=Evidence(form="original", reason="It was made for the conformance tests."),
        original=_FILE,
    )
    write_manifest(folder, manifest)


def _write(
    folder: Path,
    nodes: Sequence[tuple[str, list[str], list[str]]],
    inputs: Mapping[str, tuple[str, list[Any] | None]],
    outputs: Mapping[str, tuple[str, list[Any] | None]],
    constants: Mapping[str, float] | None = None,
) -> None:
    """A graph of `nodes` (operator, inputs, outputs); ends have a datatype and a shape, None for any rank."""
    import onnx
    from onnx import TensorProto, helper

    kinds = {
        "FP32": TensorProto.FLOAT,
        "FP16": TensorProto.FLOAT16,
        "INT32": TensorProto.INT32,
        "BYTES": TensorProto.STRING,
    }

    def ends(described: Mapping[str, tuple[str, list[Any] | None]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kinds[kind], shape) for name, (kind, shape) in described.items()]

    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        folder.parent.name,
        ends(inputs),
        ends(outputs),
        [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    folder.mkdir(parents=True)
    onnx.save(model, folder / _FILE)
