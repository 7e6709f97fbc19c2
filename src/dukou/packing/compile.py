"""A fitted scikit-learn estimator as an ONNX graph that takes and gives exactly what the estimator's signature says.

A converted graph proves nothing by itself: converters have given wrong shapes and wrong numbers without a word. What
comes out of here serves only after `dukou.packing.evidence` has compared it with the original.
"""

import contextlib
import copy
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.model import Signature
from dukou.core.tensor import TensorSpec
from dukou.packing.derive import positions

MAX_NODES = 3_000_000
"""Tree nodes beyond which compiling is not tried: the converter needs about 10 µs for each, and memory to match."""

MAX_BYTES = 1 << 30
"""Largest graph accepted; ONNX files end at 2 GiB."""

OPSETS = {"": 18, "ai.onnx.ml": 3}
"""ai.onnx.ml 3 is the newest that the converters of outlier detectors know; every ONNX Runtime we support reads it."""

_PLACES = {"label": 0, "y": 0, "transformed": 0, "probabilities": 1, "scores": 1, "score": 1, "distances": 1}
"""Where the converter puts what the signature calls so: a label comes first, its scores second."""


class Compiled(msgspec.Struct, frozen=True):
    """An ONNX model, serialized. `precision` is "float32" or "float64": what it computes in."""

    model: bytes
    precision: str


class NotCompiled(msgspec.Struct, frozen=True):
    """There is no compiled form; `reason` is a sentence for people."""

    reason: str


def compile_estimator(estimator: Any, signature: Signature, *, precision: str = "float32") -> Compiled | NotCompiled:
    """The estimator as an ONNX graph whose inputs and outputs are those of `signature`: names, datatypes, shapes.

    The graph computes in `precision`; values are cast where they enter and leave. Whatever the converter prints or
    warns of is swallowed, because the comparison that follows says what matters.
    """
    name = type(estimator).__name__
    nodes = count_tree_nodes(estimator)
    if nodes > MAX_NODES:
        return NotCompiled(f"{name} has {nodes:,} tree nodes, more than the {MAX_NODES:,} that are compiled")
    try:
        with _quiet():
            graph = _convert(prepare(estimator, signature), signature, precision)
            dressed = _dress(graph, signature)
            model = dressed.SerializeToString()
    except _UnmatchedError as error:
        return NotCompiled(str(error))
    except Exception as error:  # the converter raises anything, from RuntimeError to AttributeError
        return NotCompiled(_explain(name, error))
    if len(model) > MAX_BYTES:
        return NotCompiled(f"the compiled form would be {len(model) >> 20} MiB, the most is {MAX_BYTES >> 20} MiB")
    return Compiled(model, precision)


def count_tree_nodes(estimator: Any) -> int:
    """How many decision tree nodes the estimator holds, those of its parts included."""
    if hasattr(estimator, "tree_"):
        return int(estimator.tree_.node_count)
    if hasattr(estimator, "_predictors"):
        return sum(len(tree.nodes) for trees in estimator._predictors for tree in trees)
    return sum(count_tree_nodes(part) for part in _parts(estimator))


def _parts(estimator: Any) -> Iterator[Any]:
    """The fitted estimators directly inside this one."""
    if hasattr(estimator, "steps"):
        yield from (step for _, step in estimator.steps)
    for attribute in ("best_estimator_", "estimator_", "final_estimator_"):
        if hasattr(estimator, attribute):
            yield getattr(estimator, attribute)
    for attribute in ("estimators_", "calibrated_classifiers_"):
        found = getattr(estimator, attribute, ())
        yield from np.asarray(found, dtype=object).ravel() if len(found) else ()


def prepare(estimator: Any, signature: Signature) -> Any:
    """The estimator in the form that the converter knows, answering the same; the one given is not changed.

    A search is its best estimator. A voting classifier is converted only with `flatten_transform=False`, which changes
    `transform` but no prediction. A ColumnTransformer's columns are numbers when the signature has one matrix, and
    names when it has an input for each column, because the converter looks them up among the inputs.
    """
    if hasattr(estimator, "best_estimator_"):
        return prepare(estimator.best_estimator_, signature)
    if type(estimator).__name__ == "FrozenEstimator":
        return prepare(estimator.estimator, signature)
    same = copy.copy(estimator)
    if hasattr(estimator, "steps"):
        same.steps = [(name, prepare(step, signature)) for name, step in estimator.steps]
    elif hasattr(estimator, "flatten_transform"):
        same.flatten_transform = False
    elif hasattr(estimator, "output_indices_"):
        names = list(getattr(estimator, "feature_names_in_", ())) if len(signature.inputs) > 1 else []
        same.transformers_ = [
            (name, part, [names[place] if names else int(place) for place in positions(estimator, picked)])
            for name, part, picked in estimator.transformers_
        ]
    else:
        return estimator
    return same


def _convert(estimator: Any, signature: Signature, precision: str) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common import data_types

    number = data_types.DoubleTensorType if precision == "float64" else data_types.FloatTensorType
    kinds = {"BYTES": data_types.StringTensorType, "BOOL": data_types.BooleanTensorType}
    kinds |= dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"), data_types.Int64TensorType)
    types = [(spec.name, kinds.get(spec.datatype, number)([None, *_inner_shape(spec)])) for spec in signature.inputs]
    options: dict[Any, Any] = {}
    if hasattr(estimator, "classes_"):
        # Classifiers without probabilities have no ZipMap to switch off, and one converter refuses the attempt.
        options[id(estimator)] = {"raw_scores": True} if type(estimator).__name__ == "LinearSVC" else {"zipmap": False}
    for text in _vectorizers(estimator):
        # ONNX Runtime has no locale but C in slim containers, and fails at load with the converter's default en_US.
        options[id(text)] = {"locale": "C"}
    model = convert_sklearn(
        estimator,
        name="dukou",
        initial_types=types,
        target_opset=OPSETS,
        options=options,
        custom_conversion_functions=_own_conversions(),
    )
    _keep_roots_real(model.graph)
    if precision == "float64":
        _let_trees_take_float32(model.graph)
    return model


def _own_conversions() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our conversions of what the converter does wrong or in float32 only, by class."""
    from sklearn import ensemble, tree
    from sklearn.impute import SimpleImputer

    return {
        SimpleImputer: _convert_imputer,
        ensemble.HistGradientBoostingClassifier: _convert_histogram_trees,
        ensemble.HistGradientBoostingRegressor: _convert_histogram_trees,
        ensemble.RandomForestClassifier: _convert_trees,
        ensemble.RandomForestRegressor: _convert_trees,
        ensemble.ExtraTreesClassifier: _convert_trees,
        ensemble.ExtraTreesRegressor: _convert_trees,
        tree.DecisionTreeClassifier: _convert_trees,
        tree.DecisionTreeRegressor: _convert_trees,
        tree.ExtraTreeClassifier: _convert_trees,
        tree.ExtraTreeRegressor: _convert_trees,
    }


def _vectorizers(estimator: Any) -> Iterator[Any]:
    if hasattr(estimator, "stop_words") and hasattr(estimator, "vocabulary_"):
        yield estimator
    for _, part in getattr(estimator, "steps", ()):
        yield from _vectorizers(part)
    for entry in getattr(estimator, "transformers_", getattr(estimator, "transformer_list", ())):
        yield from _vectorizers(entry[1])


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """The converter's own work for trees and forests, with the side that missing values take, which it forgets."""
    model = operator.raw_operator
    trees = [model.tree_] if hasattr(model, "tree_") else [part.tree_ for part in model.estimators_]
    sides = [getattr(tree, "missing_go_to_left", np.zeros(tree.node_count, dtype=np.uint8)) for tree in trees]
    _convert_inside(_TreeContainer(scope, container, np.concatenate(sides), None), scope, operator)


def _convert_histogram_trees(scope: Any, operator: Any, container: Any) -> None:
    """The converter's own work for HistGradientBoosting, its tree ensembles corrected on their way into the graph."""
    from skl2onnx.common.data_types import DoubleTensorType

    model = operator.raw_operator
    if getattr(model, "is_categorical_", None) is not None and np.any(model.is_categorical_):
        raise _UnmatchedError("the converter does not know the categorical features of HistGradientBoosting")
    nodes = np.concatenate([tree.nodes for trees in model._predictors for tree in trees])
    thresholds = None
    if isinstance(operator.inputs[0].type, DoubleTensorType):
        thresholds = np.where(nodes["is_leaf"] == 1, 0.0, nodes["num_threshold"])
    _convert_inside(_TreeContainer(scope, container, nodes["missing_go_to_left"], thresholds), scope, operator)


def _convert_inside(container: Any, scope: Any, operator: Any) -> None:
    """What the converter does for this kind of estimator, into `container`."""
    from skl2onnx._supported_operators import get_model_alias
    from skl2onnx.common._registration import get_converter

    get_converter(get_model_alias(type(operator.raw_operator)))(scope, operator, container)


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Missing numbers replaced by the fitted statistics, in whatever precision the graph has.

    The converter's own operator exists in float32 only. It still does the rest: text, other marks than NaN, indicator
    columns, columns that were empty in training.
    """
    from skl2onnx.common.data_types import guess_proto_type

    model = operator.raw_operator
    kind = guess_proto_type(operator.inputs[0].type)
    plain = model.statistics_.dtype.kind == "f" and np.isfinite(model.statistics_).all() and not model.add_indicator
    marks = model.missing_values
    if (
        not plain
        or not (isinstance(marks, float) and np.isnan(marks))
        or len(operator.inputs) != 1
        or kind not in {_FLOAT, _DOUBLE}
    ):
        _convert_inside(container, scope, operator)
        return
    values, missing = scope.get_unique_variable_name("statistics"), scope.get_unique_variable_name("missing")
    source, target = operator.inputs[0].full_name, operator.outputs[0].full_name
    container.add_initializer(values, kind, [1, len(model.statistics_)], model.statistics_.tolist())
    container.add_node("IsNaN", [source], [missing], op_version=13)
    container.add_node("Where", [missing, values, source], [target], op_version=16)


_FLOAT, _DOUBLE = 1, 11
"""ONNX's numbers for the two types."""


class _TreeContainer:
    """A converter's container that corrects the tree ensembles put into it.

    Attributes come as NumPy scalars, which ONNX refuses. `missing_left` says for each node, in the order of trees and
    their nodes, whether a missing value goes left. `thresholds` are those of HistGradientBoosting in a float64 graph:
    its trees compare in float64, and their thresholds are often values of the training rows. What an ensemble gives is
    float32 by its definition.
    """

    def __init__(
        self, scope: Any, container: Any, missing_left: NDArray[np.uint8], thresholds: NDArray[np.float64] | None
    ) -> None:
        self._scope = scope
        self._container = container
        self._missing_left = missing_left
        self._thresholds = thresholds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, op_type: str, inputs: Any, outputs: Any, **attributes: Any) -> None:
        plain = {
            name: [_plain(item) for item in value] if isinstance(value, list) else _plain(value)
            for name, value in attributes.items()
        }
        if len(plain.get("nodes_missing_value_tracks_true", ())) == len(self._missing_left):
            plain["nodes_missing_value_tracks_true"] = [int(side) for side in self._missing_left]
        if self._thresholds is None or not op_type.startswith("TreeEnsemble"):
            self._container.add_node(op_type, inputs, outputs, **plain)
            return
        plain["nodes_values"] = self._thresholds
        for name in _TREE_NUMBERS & plain.keys():
            plain[f"{name}_as_tensor"] = _float64_tensor(name, plain.pop(name))
        outputs = [outputs] if isinstance(outputs, str) else list(outputs)
        narrow = self._scope.get_unique_variable_name("float32")
        plain |= {"name": _FLOAT64_TREES + str(plain.get("name", "")), "op_version": 3}
        self._container.add_node(op_type, inputs, [*outputs[:-1], narrow], **plain)
        self._container.add_node("Cast", [narrow], outputs[-1:], op_version=13, to=_DOUBLE)


_TREE_NUMBERS = {"nodes_values", "nodes_hitrates", "class_weights", "target_weights", "base_values"}


def _float64_tensor(name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(values, dtype=np.float64).ravel(), name)


_FLOAT64_TREES = "float64/"
"""How the names of tree ensembles begin that compare in float64."""


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value.item() if isinstance(value, np.generic) else value


def floor_float32(values: Any) -> Any:
    """The largest float32 not above each value, `[n]`, as float64."""
    exact = np.asarray(values, dtype=np.float64)
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float64)


def _keep_roots_real(graph: Any) -> None:
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


def _let_trees_take_float32(graph: Any) -> None:
    """Put casts around the tree ensembles of a float64 graph, so that they compare float32 as scikit-learn's do.

    The converter's own float64 ensembles give other answers, or types that ONNX Runtime refuses to load.
    """
    from onnx import helper, numpy_helper

    nodes = []
    for node in graph.node:
        if not node.op_type.startswith("TreeEnsemble") or node.name.startswith(_FLOAT64_TREES):
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
        nodes.append(helper.make_node("Cast", [source], [node.input[0]], to=_FLOAT))
        nodes.append(node)
        nodes.append(helper.make_node("Cast", [node.output[-1]], [target], to=_DOUBLE))
    del graph.node[:]
    graph.node.extend(nodes)


class _UnmatchedError(Exception):
    """The estimator or its graph does not fit what is wanted; the text is a sentence for people."""


def _inner_shape(spec: TensorSpec) -> list[int]:
    """The converter's shape of an input beyond its rows: a column is a matrix of width 1."""
    return [1] if not spec.shape or len(spec.shape) == 1 else list(spec.shape[1:])


def _dress(model: Any, signature: Signature) -> Any:
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
    """Which of the graph's outputs is which of the signature's. Raises _UnmatchedError."""
    wanted = signature.output_names()
    if any(_PLACES.get(name, len(made)) >= len(made) for name in wanted):
        raise _UnmatchedError(f"the ONNX graph gives {', '.join(made)} where {', '.join(wanted)} are wanted")
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

    return int(TensorProto.STRING) if spec.datatype == "BYTES" else int(helper.np_dtype_to_tensor_dtype(spec.dtype))


def _sizes(spec: TensorSpec) -> list[int]:
    return list(spec.shape) if spec.shape is not None else [-1, -1]


def _told(value: Any) -> tuple[int, list[int]]:
    """Element type and sizes (-1 for any) of a graph's input or output."""
    kind = value.type.tensor_type
    return kind.elem_type, [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim]


def _dims(spec: TensorSpec) -> list[Any]:
    return ["rows" if axis == 0 else (None if size < 0 else size) for axis, size in enumerate(_sizes(spec))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _explain(name: str, error: Exception) -> str:
    """A sentence part for an exception of the converter; the class that it does not know, where that is the reason."""
    text = str(error).strip()
    unknown = re.search(r"type '<class '[\w.]*?(\w+)'>'", text)
    if type(error).__name__ in {"MissingShapeCalculator", "MissingConverter"} and unknown:
        return f"there is no ONNX form of {unknown[1]}"
    line = text.splitlines()[0][:200] if text else ""
    return f"{name} cannot be turned into an ONNX graph ({type(error).__name__}: {line})"
