"""ONNX graphs rewritten: the signature's inputs and outputs put around them, and the converter's slips put right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import DTYPES

UNDEFINED, FLOAT, INT64, STRING, DOUBLE = 0, 1, 7, 8, 11
"""ONNX's numbers of element types."""

FLOAT64_TREES = "float64/"
"""How the names of tree ensembles begin that compare in float64."""


_PLACES = {"label": 0, "y": 0, "transformed": 0, "probabilities": 1, "scores": 1, "score": 1, "distances": 1}
"""Where the converter puts what the signature calls so: a label comes first, its scores second."""


class UnmatchedError(Exception):
    """The estimator or its graph does not fit what is wanted; the text is a sentence for people."""


def floor_float32(values: Any) -> Any:
    """The largest float32 not above each value, `[n]`, as float64."""
    exact = np.asarray(values, dtype=np.float64)
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float64)


def keep_roots_real(graph: Any) -> None:
    """Put a lower bound of 0 before square roots: a squared distance of a row from itself is a rounding error, which
    may be negative, and then the root is NaN where scikit-learn has 0."""
    from onnx import helper

    nodes = []
    for node in graph.node:
        if node.op_type == "Sqrt":
            bounded = f"{node.input[0]}/bounded"
            nodes.append(helper.make_node("Relu", [node.input[0]], [bounded]))
            node.input[0] = bounded
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def let_trees_take_float32(graph: Any) -> None:
    """Put casts around the tree ensembles of a float64 graph, so that they compare float32 as scikit-learn's do.

    The converter's own float64 ensembles give other answers, or types that ONNX Runtime refuses to load.
    """
    from onnx import helper, numpy_helper

    nodes = []
    for node in graph.node:
        if not node.op_type.startswith("TreeEnsemble") or node.name.startswith(FLOAT64_TREES):
            nodes.append(node)
            continue
        for attribute in list(node.attribute):
            if attribute.name.endswith("_as_tensor"):
                values = numpy_helper.to_array(attribute.t)
                plain = attribute.name.removesuffix("_as_tensor")
                node.attribute.remove(attribute)
                exact = floor_float32(values) if plain == "nodes_values" else values
                node.attribute.append(helper.make_attribute(plain, exact.astype(np.float64).tolist()))
        source, target = node.input[0], node.output[-1]
        node.input[0], node.output[-1] = f"{target}/features", f"{target}/float32"
        nodes.append(helper.make_node("Cast", [source], [node.input[0]], to=FLOAT))
        nodes.append(node)
        nodes.append(helper.make_node("Cast", [node.output[-1]], [target], to=DOUBLE))
    del graph.node[:]
    graph.node.extend(nodes)


def dress(model: Any, signature: Signature) -> Any:
    """The same model with the signature's inputs and outputs around it.

    Inputs: a rank 1 column becomes a matrix of one column, a number is cast to what the graph computes in. Outputs: the
    one of the right role is cast, brought to the signature's rank and named; others are dropped.
    """
    from onnx import helper

    graph = model.graph
    made = list(graph.output)
    chosen = _match([value.name for value in made], signature)
    inner = {value.name: value for value in graph.input}
    renamed = {name: f"inner/{name}" for name in [*inner, *(value.name for value in made)]}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    constants: list[Any] = []
    before: list[Any] = []
    for spec in signature.inputs:
        if spec.name in inner:
            kind, sizes = _told(inner[spec.name])
            before += _bridge((spec.name, _element(spec), _sizes(spec)), (renamed[spec.name], kind, sizes), constants)
    after: list[Any] = []
    for spec, name in zip(signature.outputs, chosen, strict=True):
        kind, sizes = _told(next(value for value in made if value.name == name))
        if kind in {FLOAT, DOUBLE}:
            kind = UNDEFINED  # behind an encoder the converter says float64 of what is float32
        after += _bridge((renamed[name], kind, sizes), (spec.name, _element(spec), _sizes(spec)), constants)
    kept = [*before, *graph.node, *after]
    dressed = helper.make_graph(
        kept,
        "dukou",
        [helper.make_tensor_value_info(spec.name, _element(spec), _dims(spec)) for spec in signature.inputs],
        [helper.make_tensor_value_info(spec.name, _element(spec), _dims(spec)) for spec in signature.outputs],
        [*graph.initializer, *constants],
    )
    wrapped = helper.make_model(dressed, producer_name="dukou", opset_imports=list(model.opset_import))
    wrapped.ir_version = model.ir_version
    wrapped.functions.extend(model.functions)
    return wrapped


def _match(made: Sequence[str], signature: Signature) -> list[str]:
    """Which of the graph's outputs is which of the signature's. Raises UnmatchedError."""
    wanted = signature.output_names()
    if any(_PLACES.get(name, len(made)) >= len(made) for name in wanted):
        raise UnmatchedError(f"the ONNX graph gives {', '.join(made)} where {', '.join(wanted)} are wanted")
    return [made[_PLACES[name]] for name in wanted]


def _bridge(source: tuple[str, int, list[int]], target: tuple[str, int, list[int]], constants: list[Any]) -> list[Any]:
    """Nodes that carry `source` to `target`, reshaped and cast where the two differ; each is (name, element type,
    sizes with -1 for any)."""
    from onnx import TensorProto, helper

    name, kind, sizes = source
    wanted, wanted_kind, wanted_sizes = target
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if len(wanted_sizes) == 1 and len(sizes) == 2 and sizes[1] != 1:
        # Where scikit-learn gives the second class's scores the converter gives both.
        constants.append(helper.make_tensor(f"{wanted}/last", TensorProto.INT64, [], [-1]))
        steps.append(("Gather", [f"{wanted}/last"], {"axis": 1}))
        sizes = sizes[:1]
    if len(sizes) != len(wanted_sizes) or any(
        -1 not in pair and len(set(pair)) > 1 for pair in zip(sizes, wanted_sizes, strict=True)
    ):
        # Values are in order of rows; a multi-output network's come as [rows * outputs, 1].
        constants.append(helper.make_tensor(f"{wanted}/shape", TensorProto.INT64, [len(wanted_sizes)], wanted_sizes))
        steps.append(("Reshape", [f"{wanted}/shape"], {}))
    if kind != wanted_kind:
        steps.append(("Cast", [], {"to": wanted_kind}))
    nodes = []
    for number, (operator, more, attributes) in enumerate(steps or [("Identity", [], {})]):
        last = number >= len(steps) - 1
        made = wanted if last else f"{wanted}/{operator}"
        nodes.append(helper.make_node(operator, [name, *more], [made], **attributes))
        name = made
    return nodes


def _element(spec: TensorSpec) -> int:
    from onnx import TensorProto, helper

    return (
        int(TensorProto.STRING)
        if spec.datatype == "BYTES"
        else int(helper.np_dtype_to_tensor_dtype(DTYPES[spec.datatype]))
    )


def _sizes(spec: TensorSpec) -> list[int]:
    return list(spec.shape) if spec.shape is not None else [-1, -1]


def _told(value: Any) -> tuple[int, list[int]]:
    """Element type and sizes (-1 for any) of a graph's input or output."""
    kind = value.type.tensor_type
    return kind.elem_type, [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim]


def _dims(spec: TensorSpec) -> list[Any]:
    return ["rows" if axis == 0 else (None if size < 0 else size) for axis, size in enumerate(_sizes(spec))]
