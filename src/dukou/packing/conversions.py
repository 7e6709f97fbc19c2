"""Our own conversions of estimators, where the converter is wrong, slow, or in float32 only.

They are given to the converter by class, as it allows; nothing in it is patched.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.packing.graph import DOUBLE, FLOAT, FLOAT64_TREES, INT64, STRING, UnmatchedError, floor_float32


def own_conversions() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our conversions by class."""
    from sklearn import ensemble, tree
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    return {
        LogisticRegression: _convert_logistic,
        SimpleImputer: _convert_imputer,
        OneHotEncoder: _convert_one_hot,
        ensemble.HistGradientBoostingClassifier: _convert_histogram_trees,
        ensemble.HistGradientBoostingRegressor: _convert_histogram_trees,
        ensemble.IsolationForest: _convert_isolation_forest,
        ensemble.RandomForestClassifier: _convert_trees,
        ensemble.RandomForestRegressor: _convert_trees,
        ensemble.ExtraTreesClassifier: _convert_trees,
        ensemble.ExtraTreesRegressor: _convert_trees,
        tree.DecisionTreeClassifier: _convert_trees,
        tree.DecisionTreeRegressor: _convert_trees,
        tree.ExtraTreeClassifier: _convert_trees,
        tree.ExtraTreeRegressor: _convert_trees,
    }


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """The converter's own work for trees and forests, with the side that missing values take, which it forgets."""
    model = operator.raw_operator
    trees = [model.tree_] if hasattr(model, "tree_") else [part.tree_ for part in model.estimators_]
    sides = [getattr(tree, "missing_go_to_left", np.zeros(tree.node_count, dtype=np.uint8)) for tree in trees]
    _convert_inside(_TreeContainer(scope, container, np.concatenate(sides), None), scope, operator)


def _convert_histogram_trees(scope: Any, operator: Any, container: Any) -> None:
    """The converter's own work for HistGradientBoosting, its tree ensembles corrected on their way into the graph;
    without that it fails."""
    from skl2onnx.common.data_types import DoubleTensorType

    model = operator.raw_operator
    if getattr(model, "is_categorical_", None) is not None and np.any(model.is_categorical_):
        raise UnmatchedError("the converter does not know the categorical features of HistGradientBoosting")
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


def _convert_logistic(scope: Any, operator: Any, container: Any) -> None:
    """One Gemm, whose columns go to a Softmax and an ArgMax: a row takes 7.6 µs, in the converter's float64 graph 9 to
    10. Its float32 graph is as quick, but a logistic regression alone tells no rows, so that only float64 may serve.

    For two classes the first column is zero, because softmax(0, s) is the logistic function of s. One model for each
    class against the rest, and outputs that only other converters ask for, are left to the converter.
    """
    model = operator.raw_operator
    asked = container.get_options(model, dict.fromkeys(_FOR_CONVERTERS, False), fail=False)
    one_against_rest = getattr(model, "multi_class", "") == "ovr" or model.solver == "liblinear"
    several = one_against_rest and len(model.classes_) > 2
    if several or _kind(operator) != DOUBLE or len(operator.inputs) != 1 or any(map(asked.get, _FOR_CONVERTERS)):
        _convert_inside(container, scope, operator)
        return
    weights, offsets = np.asarray(model.coef_, dtype=np.float64).T, np.asarray(model.intercept_, dtype=np.float64)
    if len(model.classes_) == 2:
        weights, offsets = np.hstack([np.zeros_like(weights), weights]), np.append(0.0, offsets)
    names = {name: scope.get_unique_variable_name(name) for name in ("weights", "offsets", "scores", "best", "classes")}
    label, probabilities = (variable.full_name for variable in operator.outputs)
    container.add_initializer(names["weights"], DOUBLE, list(weights.shape), weights.ravel().tolist())
    container.add_initializer(names["offsets"], DOUBLE, [len(offsets)], offsets.tolist())
    inputs = [operator.inputs[0].full_name, names["weights"], names["offsets"]]
    container.add_node("Gemm", inputs, [names["scores"]], op_version=13)
    container.add_node("Softmax", [names["scores"]], [probabilities], op_version=13, axis=1)
    if np.array_equal(model.classes_, np.arange(len(model.classes_))) and model.classes_.dtype.kind in "iu":
        container.add_node("ArgMax", [names["scores"]], [label], op_version=13, axis=1, keepdims=0)
        return
    text = model.classes_.dtype.kind in "OUS"
    classes = [str(name).encode() for name in model.classes_] if text else [int(name) for name in model.classes_]
    container.add_initializer(names["classes"], STRING if text else INT64, [len(classes)], classes)
    container.add_node("ArgMax", [names["scores"]], [names["best"]], op_version=13, axis=1, keepdims=0)
    container.add_node("Gather", [names["classes"], names["best"]], [label], op_version=13)


_FOR_CONVERTERS = ("raw_scores", "nocl", "output_class_labels")


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Missing numbers replaced by the fitted statistics in float64, where ONNX Runtime has no Imputer and opens no
    graph with one.

    The converter still does the rest: float32, text, other marks than NaN, indicator columns, columns that were empty
    in training.
    """
    model = operator.raw_operator
    plain = model.statistics_.dtype.kind == "f" and np.isfinite(model.statistics_).all() and not model.add_indicator
    marks = model.missing_values
    if (
        not plain
        or not (isinstance(marks, float) and np.isnan(marks))
        or len(operator.inputs) != 1
        or _kind(operator) != DOUBLE
    ):
        _convert_inside(container, scope, operator)
        return
    values, missing = scope.get_unique_variable_name("statistics"), scope.get_unique_variable_name("missing")
    source, target = operator.inputs[0].full_name, operator.outputs[0].full_name
    container.add_initializer(values, DOUBLE, [1, len(model.statistics_)], model.statistics_.tolist())
    container.add_node("IsNaN", [source], [missing], op_version=13)
    container.add_node("Where", [missing, values, source], [target], op_version=16)


def _convert_one_hot(scope: Any, operator: Any, container: Any) -> None:
    """Each number compared with each category. The converter makes whole numbers of them first: to it 4.3 is the
    category 4, where scikit-learn sees an unknown one; and categories like 0.5 it does not know.

    It still does the rest: text, missing numbers as a category, infrequent categories.
    """
    model = operator.raw_operator
    kind = _kind(operator)
    numbers = all(known.dtype.kind in "biuf" and not np.isnan(known).any() for known in model.categories_)
    if not numbers or kind not in {FLOAT, DOUBLE} or len(operator.inputs) != 1 or model.min_frequency is not None:
        _convert_inside(container, scope, operator)
        return
    dropped = [None] * len(model.categories_) if model.drop_idx_ is None else model.drop_idx_
    kept = [
        np.delete(known, [] if gone is None else gone) for known, gone in zip(model.categories_, dropped, strict=True)
    ]
    columns = np.repeat(np.arange(len(kept)), [len(known) for known in kept])
    names = {name: scope.get_unique_variable_name(name) for name in ("columns", "categories", "spread", "equal")}
    container.add_initializer(names["columns"], INT64, [len(columns)], columns.tolist())
    values = np.concatenate(kept).astype(np.float64).tolist()
    container.add_initializer(names["categories"], kind, [1, len(columns)], values)
    container.add_node(
        "Gather", [operator.inputs[0].full_name, names["columns"]], [names["spread"]], op_version=13, axis=1
    )
    container.add_node("Equal", [names["spread"], names["categories"]], [names["equal"]], op_version=13)
    made = _kind_of(operator.outputs[0])
    container.add_node("Cast", [names["equal"]], [operator.outputs[0].full_name], op_version=13, to=made)


def _convert_isolation_forest(scope: Any, operator: Any, container: Any) -> None:
    """The whole forest as one tree ensemble whose leaves hold path lengths: a row takes 11 µs, with 100 trees; in the
    converter's graph of ten nodes a tree 1270.

    A row's score is -2 ** -(mean path length / expected path length) - offset; a path ends in a leaf of n training rows
    as if it went on for the expected length of n (Liu, Ting, Zhou: Isolation Forest, 2008, equations 1 and 2).
    """
    model = operator.raw_operator
    trees = [part.tree_ for part in model.estimators_]
    places = [
        np.where(tree.feature >= 0, np.asarray(features)[np.maximum(tree.feature, 0)], 0)
        for tree, features in zip(trees, model.estimators_features_, strict=True)
    ]
    lengths = [node_depths(tree) + expected_path_length(tree.n_node_samples) for tree in trees]
    leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    nodes = np.concatenate([np.arange(tree.node_count) for tree in trees])
    numbers = np.repeat(np.arange(len(trees)), [tree.node_count for tree in trees])
    sides = [getattr(tree, "missing_go_to_left", np.zeros(tree.node_count)) for tree in trees]
    source, (label, score) = operator.inputs[0].full_name, [variable.full_name for variable in operator.outputs]
    kind = _kind(operator)
    total, exponent, power, inlier = (
        scope.get_unique_variable_name(name) for name in ("length", "exponent", "power", "inlier")
    )
    container.add_node(
        "TreeEnsembleRegressor",
        [source],
        [total],
        op_domain="ai.onnx.ml",
        op_version=1,
        n_targets=1,
        nodes_treeids=numbers.tolist(),
        nodes_nodeids=nodes.tolist(),
        nodes_featureids=np.concatenate(places).tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_values=np.where(leaf, 0.0, floor_float32(np.concatenate([tree.threshold for tree in trees]))).tolist(),
        nodes_truenodeids=np.maximum(np.concatenate([tree.children_left for tree in trees]), 0).tolist(),
        nodes_falsenodeids=np.maximum(np.concatenate([tree.children_right for tree in trees]), 0).tolist(),
        nodes_missing_value_tracks_true=np.concatenate(sides).astype(int).tolist(),
        target_treeids=numbers[leaf].tolist(),
        target_nodeids=nodes[leaf].tolist(),
        target_ids=[0] * int(leaf.sum()),
        target_weights=np.concatenate(lengths)[leaf].tolist(),
    )
    expected = len(trees) * float(expected_path_length(np.array([model._max_samples]))[0])
    names = {}
    for name, value in (("rate", -1.0 / expected), ("two", 2.0), ("offset", -model.offset_)):
        names[name] = scope.get_unique_variable_name(name)
        container.add_initializer(names[name], kind, [1], [float(value)])
    for name, value in (("in", 1), ("out", -1)):
        names[name] = scope.get_unique_variable_name(name)
        container.add_initializer(names[name], INT64, [1], [value])
    container.add_node("Mul", [total, names["rate"]], [exponent], op_version=14)
    container.add_node("Pow", [names["two"], exponent], [power], op_version=15)
    container.add_node("Sub", [names["offset"], power], [score], op_version=14)
    container.add_node("LessOrEqual", [power, names["offset"]], [inlier], op_version=16)
    container.add_node("Where", [inlier, names["in"], names["out"]], [label], op_version=16)


def node_depths(tree: Any) -> NDArray[np.float64]:
    """How many splits lie above each node of a fitted tree, `[nodes]`."""
    depths = np.zeros(tree.node_count)
    for node in range(tree.node_count):  # a node comes before its children
        for child in (tree.children_left[node], tree.children_right[node]):
            if child > 0:
                depths[child] = depths[node] + 1
    return depths


def expected_path_length(rows: NDArray[Any]) -> NDArray[np.float64]:
    """The mean length of an unsuccessful search in a binary tree of so many rows, for each of `rows`."""
    count = np.asarray(rows, dtype=np.float64)
    many = np.maximum(count, 3.0)
    long = 2.0 * (np.log(many - 1.0) + np.euler_gamma) - 2.0 * (many - 1.0) / many
    return np.select([count <= 1, count == 2], [0.0, 1.0], long)


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
        plain |= {"name": FLOAT64_TREES + str(plain.get("name", "")), "op_version": 3}
        self._container.add_node(op_type, inputs, [*outputs[:-1], narrow], **plain)
        self._container.add_node("Cast", [narrow], outputs[-1:], op_version=13, to=DOUBLE)


_TREE_NUMBERS = {"nodes_values", "nodes_hitrates", "class_weights", "target_weights", "base_values"}


def _float64_tensor(name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(values, dtype=np.float64).ravel(), name)


def _kind(operator: Any) -> int:
    """The ONNX number of the type that an operator's first input has."""
    return _kind_of(operator.inputs[0])


def _kind_of(variable: Any) -> int:
    from skl2onnx.common.data_types import guess_proto_type

    return int(guess_proto_type(variable.type))


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value.item() if isinstance(value, np.generic) else value
