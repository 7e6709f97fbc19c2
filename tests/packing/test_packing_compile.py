"""The ONNX graph of an estimator: names, types and shapes of its signature, and the converter's traps."""

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packing_models import CANCER, DIABETES, IRIS, LINNERUD, MALIGNANT, NAMES, PROGRESS, SPECIES, fit, original
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LinearRegression, LogisticRegression

from dukou.core.model import Signature, TensorSpec
from dukou.packing.compile import Compiled, NotCompiled, compile_estimator, count_tree_nodes, prepare
from dukou.packing.graph import floor_float32
from dukou.runtimes.onnx import read_signature
from dukou.runtimes.sklearn import signature_of


def compiled(name: str, precision: str = "float32") -> Any:
    """The graph of a model of the tests."""
    _, signature = original(name)
    made = compile_estimator(fit(name), signature, precision=precision)
    assert isinstance(made, Compiled), made
    return made


@pytest.mark.parametrize("name", ["logistic-text", "forest", "kmeans", "isolation", "pca", "ridge-multi", "text"])
def test_the_graph_has_exactly_the_signature(name: str, tmp_path: Path) -> None:
    """Names, datatypes and shapes, in order; whether it computes in float32 does not show."""
    _, signature = original(name)
    (tmp_path / "model.onnx").write_bytes(compiled(name).model)

    read = read_signature(tmp_path / "model.onnx")

    for said, wanted in ((read.inputs, signature.inputs), (read.outputs, signature.outputs)):
        assert [(spec.name, spec.datatype, spec.shape) for spec in said] == [
            (spec.name, spec.datatype, spec.shape) for spec in wanted
        ]


def test_each_column_of_a_frame_is_an_input(tmp_path: Path) -> None:
    """Text and numbers side by side cannot be one tensor."""
    (tmp_path / "model.onnx").write_bytes(compiled("people-forest").model)

    read = read_signature(tmp_path / "model.onnx")

    assert [(spec.name, spec.datatype, spec.shape) for spec in read.inputs] == [
        ("age", "FP64", (-1, 1)),
        ("fare", "FP64", (-1, 1)),
        ("sex", "BYTES", (-1, 1)),
        ("port", "BYTES", (-1, 1)),
    ]


def test_there_are_no_sequences_of_maps() -> None:
    """No ZipMap: probabilities are a matrix."""
    graph = onnx.load_from_string(compiled("forest-text").model).graph

    assert not [node for node in graph.node if node.op_type == "ZipMap"]


def run(model: Compiled, X: Any, folder: Path) -> dict[str, Any]:
    """The graph's answers."""
    import onnxruntime

    (folder / "model.onnx").write_bytes(model.model)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return dict(zip([node.name for node in session.get_outputs()], session.run(None, {"X": X}), strict=True))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_network_of_several_outputs_has_its_shape(precision: str, tmp_path: Path) -> None:
    """The converter gives [rows * outputs, 1]; the values are in order, so the shape is put right."""
    got = run(compiled("network-multi", precision), LINNERUD, tmp_path)["y"]

    np.testing.assert_allclose(got, fit("network-multi").predict(LINNERUD), rtol=1e-4)


@pytest.mark.parametrize("name", ["forest", "boosting", "tree"])
def test_trees_in_a_float64_graph_still_compare_float32(name: str, tmp_path: Path) -> None:
    """As scikit-learn's do; the converter's own float64 ensembles are wrong or do not load."""
    X = {"forest": CANCER, "boosting": IRIS, "tree": DIABETES}[name]

    answer = run(compiled(name, "float64"), X, tmp_path)

    if name == "tree":
        np.testing.assert_allclose(answer["y"], fit(name).predict(X), rtol=1e-6)
    else:
        np.testing.assert_allclose(answer["probabilities"], fit(name).predict_proba(X), atol=1e-6)


def test_histogram_trees_in_a_float64_graph_compare_float64(tmp_path: Path) -> None:
    """Their thresholds are often training values, which must go left, and the next float64 right."""
    model = fit("histogram-number")
    nodes = model._predictors[0][0].nodes
    root = nodes[0]
    rows = np.zeros((2, DIABETES.shape[1]))
    rows[:, root["feature_idx"]] = [root["num_threshold"], np.nextafter(root["num_threshold"], np.inf)]

    got = run(compiled("histogram-number", "float64"), rows, tmp_path)["y"]

    want = model.predict(rows)
    assert want[0] != want[1]
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("X", "y", "settings"),
    [
        (IRIS, SPECIES, {}),
        (IRIS, SPECIES + 5, {}),
        (IRIS, NAMES, {}),
        (IRIS, SPECIES == 1, {}),
        (IRIS[:100], NAMES[:100], {"solver": "liblinear"}),
        (IRIS, SPECIES, {"fit_intercept": False}),
    ],
    ids=["three", "not from zero", "text", "bool", "two", "no offset"],
)
def test_logistic_regression_in_few_nodes(X: Any, y: Any, settings: Any, precision: str, tmp_path: Path) -> None:
    """Whatever the classes are; in float64 to the last digits."""
    model = LogisticRegression(max_iter=500, **settings).fit(X, y)
    signature = signature_of(model)

    made = compile_estimator(model, signature, precision=precision)

    assert isinstance(made, Compiled), made
    assert precision == "float32" or len(onnx.load_from_string(made.model).graph.node) <= 8
    answer = run(made, X, tmp_path)
    np.testing.assert_array_equal(answer["label"], model.predict(X))
    want = model.predict_proba(X)
    np.testing.assert_allclose(answer["probabilities"], want, atol=1e-6 if precision == "float32" else 1e-14)


@pytest.mark.parametrize("settings", [{}, {"max_features": 0.5}, {"contamination": 0.2}, {"max_samples": 2}])
def test_an_isolation_forest_is_one_ensemble(settings: dict[str, Any], tmp_path: Path) -> None:
    """Path lengths are in the leaves: scores and labels are scikit-learn's, with few nodes however many trees."""
    forest = IsolationForest(n_estimators=20, random_state=1, **settings).fit(CANCER)
    signature = Signature(
        "s",
        (TensorSpec("X", "FP64", (-1, CANCER.shape[1])),),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("score", "FP64", (-1,))),
    )

    made = compile_estimator(forest, signature)

    assert isinstance(made, Compiled), made
    assert len(onnx.load_from_string(made.model).graph.node) < 16
    answer = run(made, CANCER, tmp_path)
    np.testing.assert_allclose(answer["score"], forest.decision_function(CANCER), atol=1e-6)
    clear = np.abs(forest.decision_function(CANCER)) > 1e-6
    np.testing.assert_array_equal(answer["label"][clear], forest.predict(CANCER)[clear])


@pytest.mark.parametrize("name", ["forest", "tree"])
def test_missing_values_take_the_side_that_training_chose(name: str, tmp_path: Path) -> None:
    """The converter forgets it, and a missing value then always goes right."""
    X, y = (CANCER.copy(), MALIGNANT) if name == "forest" else (DIABETES.copy(), PROGRESS)
    X[np.random.default_rng(0).uniform(size=X.shape) < 0.1] = np.nan
    _, signature = original(name)
    model = clone(fit(name)).fit(X, y)

    made = compile_estimator(model, signature)

    assert isinstance(made, Compiled), made
    answer = run(made, X, tmp_path)
    if name == "tree":
        np.testing.assert_allclose(answer["y"], model.predict(X), rtol=1e-6)
    else:
        np.testing.assert_allclose(answer["probabilities"], model.predict_proba(X), atol=1e-6)


def test_a_row_at_a_cluster_centre_has_distance_zero(tmp_path: Path) -> None:
    """The square root of a rounding error below zero would be NaN."""
    centres = fit("kmeans").cluster_centers_

    distances = run(compiled("kmeans"), centres, tmp_path)["distances"]

    assert np.isfinite(distances).all()


def test_missing_numbers_are_replaced_in_float64_too(tmp_path: Path) -> None:
    """The converter's operator for that exists in float32 only."""
    from sklearn.impute import SimpleImputer

    rows = np.array([[1.7e9, np.nan], [np.nan, 2.0], [1.7e9 + 2, 4.0]])
    imputer = SimpleImputer().fit(rows)
    signature = Signature("s", (TensorSpec("X", "FP64", (-1, 2)),), (TensorSpec("transformed", "FP64", (-1, 2)),))

    made = compile_estimator(imputer, signature, precision="float64")

    assert isinstance(made, Compiled)
    np.testing.assert_array_equal(run(made, rows, tmp_path)["transformed"], imputer.transform(rows))


def test_what_has_no_converter_is_not_compiled() -> None:
    """The sentence names the class that has no ONNX form, and nothing is printed."""
    _, signature = original("centroid")

    assert compile_estimator(fit("centroid"), signature) == NotCompiled("there is no ONNX form of NearestCentroid")


def test_a_conversion_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm ends it wherever it is, and is taken back."""
    monkeypatch.setattr("dukou.packing.compile.MAX_S", 0.01)
    before = signal.getsignal(signal.SIGALRM)
    _, signature = original("forest")

    made = compile_estimator(fit("forest"), signature)

    assert made == NotCompiled("compiling RandomForestClassifier takes longer than 0.01 s")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_missing_converter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer without the extra is told what to install."""
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    _, signature = original("scaler")

    made = compile_estimator(fit("scaler"), signature)

    assert isinstance(made, NotCompiled)
    assert made.reason.startswith("skl2onnx is not installed")


def test_categories_of_histogram_trees_are_not_compiled() -> None:
    """The converter would drop them without a word."""
    _, signature = original("histogram-categories")

    made = compile_estimator(fit("histogram-categories"), signature)

    assert isinstance(made, NotCompiled)
    assert "categorical" in made.reason


def test_outputs_that_the_graph_does_not_give_are_not_compiled() -> None:
    """A signature with scores that the converter has no output for is not served by a graph."""
    signature = Signature(
        "s",
        (TensorSpec("X", "FP64", (-1, 10)),),
        (TensorSpec("y", "FP64", (-1,)), TensorSpec("score", "FP64", (-1,))),
    )

    made = compile_estimator(LinearRegression().fit(DIABETES, DIABETES[:, 0]), signature)

    assert isinstance(made, NotCompiled)
    assert "where y, score are wanted" in made.reason


def test_the_converter_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Warnings and prints of libraries are not for the user."""
    compiled("people-forest")

    assert capfd.readouterr() == ("", "")


def test_preparing_leaves_the_estimator_alone() -> None:
    """A voting classifier is converted as a copy with another setting."""
    model = fit("voting")
    _, signature = original("voting")

    prepared = prepare(model, signature)

    assert (prepared.flatten_transform, model.flatten_transform) == (False, True)
    assert prepare(fit("search"), signature) is fit("search").best_estimator_


def test_tree_nodes_are_counted_through_everything() -> None:
    """Pipelines, ensembles and searches."""
    forest = fit("forest-scaled")[-1]

    assert count_tree_nodes(fit("forest-scaled")) == sum(tree.tree_.node_count for tree in forest.estimators_)
    assert count_tree_nodes(fit("search")) == fit("search").best_estimator_.tree_.node_count
    assert count_tree_nodes(fit("histogram")) > 0
    assert count_tree_nodes(fit("logistic")) == 0


@given(st.floats(-(2.0**99), 2.0**99), st.floats(-(2.0**99), 2.0**99, width=32))
def test_a_threshold_rounded_down_splits_float32_as_before(threshold: float, x: float) -> None:
    """x <= t is x <= floor(t) for every float32 x."""
    assert (x <= threshold) == (x <= float(floor_float32([threshold])[0]))
