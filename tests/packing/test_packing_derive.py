"""Rows from fitted state: they lie where the model works and where its answers change."""

from typing import Any

import numpy as np
import pytest
from packing_models import DIABETES, IRIS, MODELS, MORNING, SECONDS, SPECIES, fit, original
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import DTYPES
from dukou.packing.derive import MAX_CELLS, MAX_ROWS, Derived, derive
from dukou.packing.states import UNKNOWN_CATEGORY


def rows_of(name: str) -> Derived:
    """The derived rows of a model of the tests."""
    _, signature = original(name)
    derived = derive(fit(name), signature)
    assert derived is not None
    return derived


@pytest.mark.parametrize("name", ["logistic", "linear", "ridge-multi", "network", "calibrated", "seconds"])
def test_weights_alone_tell_nothing(name: str) -> None:
    """A linear model or a network does not know where its data lay."""
    _, signature = original(name)

    assert derive(fit(name), signature) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scaler", "fitted means and scales"),
        ("pca", "fitted means and scales"),
        ("bayes", "fitted means and scales"),
        ("forest", "tree thresholds"),
        ("boosting", "tree thresholds"),
        ("histogram", "tree thresholds"),
        ("isolation", "tree thresholds"),
        ("search", "tree thresholds"),
        ("svr", "support vectors"),
        ("kmeans", "cluster centres"),
        ("neighbors", "fitted rows"),
        ("text", "vocabulary"),
        ("forest-scaled", "fitted means and scales, tree thresholds"),
        ("svc", "fitted means and scales, support vectors"),
        ("people-forest", "fitted means and scales, categories, tree thresholds"),
    ],
)
def test_fitted_state_tells_rows(name: str, said: str) -> None:
    """Each kind of state is used, also behind transformers, and all columns are known."""
    derived = rows_of(name)

    assert (derived.said, derived.complete) == (said, True)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"histogram-categories"}))
def test_rows_are_bounded_finite_and_always_the_same(name: str) -> None:
    """Two derivations give equal rows that fit the signature."""
    _, signature = original(name)

    first, second = (derive(fit(name), signature) for _ in range(2))

    if first is None or second is None:
        assert first is second
        return
    for spec in signature.inputs:
        array = first.rows[spec.name]
        assert spec.fits(array.shape)
        assert array.dtype == DTYPES[spec.datatype]
        assert 16 <= len(array) <= MAX_ROWS
        assert array.size <= MAX_CELLS
        np.testing.assert_array_equal(array, second.rows[spec.name])
        if array.dtype.kind == "f":
            assert np.isfinite(array).all()


def test_every_threshold_of_a_tree_is_approached_from_both_sides() -> None:
    """For each split there is a row at the float32 below or at it and one just above."""
    tree = fit("tree").tree_
    values = rows_of("tree").rows["X"]
    inner = np.flatnonzero(tree.feature >= 0)

    approached = 0
    for node in inner:
        threshold, column = tree.threshold[node], values[:, tree.feature[node]]
        gap = np.spacing(np.float32(abs(threshold))) * 2
        near = column[np.abs(column - threshold) <= gap]
        approached += bool((near <= threshold).any() and (near > threshold).any())

    assert len(inner) > 100
    assert approached == len(inner)


def test_histogram_trees_get_rows_exactly_at_their_thresholds() -> None:
    """They compare in float64, where a training value may be the threshold itself."""
    nodes = np.concatenate([tree.nodes for trees in fit("histogram-number")._predictors for tree in trees])
    inner = nodes[nodes["is_leaf"] == 0]
    values = rows_of("histogram-number").rows["X"]

    exact = [np.isin(node["num_threshold"], values[:, node["feature_idx"]]) for node in inner]

    assert np.mean(exact) > 0.95


def test_rows_behind_a_scaler_come_back_to_its_input() -> None:
    """Support vectors of a scaled model are rows of the unscaled data."""
    values = rows_of("svc").rows["X"]

    assert (values.min(axis=0) > IRIS.min(axis=0) - 5 * IRIS.std(axis=0)).all()
    assert (values.max(axis=0) < IRIS.max(axis=0) + 5 * IRIS.std(axis=0)).all()
    vectors = fit("svc")[0].inverse_transform(fit("svc")[1].support_vectors_)
    closest = np.abs(values[:, None, :] - vectors[None, :, :]).max(axis=2).min(axis=0)
    assert (closest < 1e-9).all()


def test_rows_of_a_scaler_on_unix_seconds_are_unix_seconds() -> None:
    """The large offset that float32 cannot carry is in the rows."""
    seconds = rows_of("seconds-scaled").rows["X"][:, 0]

    assert abs(seconds.mean() - SECONDS.mean()) < MORNING[:, 0].std()


def test_categories_come_with_an_unknown_one() -> None:
    """Every category, and now and then one that was never seen, where the encoder takes it."""
    sexes = set(rows_of("people-logistic").rows["sex"].ravel())

    assert sexes == {"female", "male", UNKNOWN_CATEGORY}


def test_no_unknown_category_where_the_encoder_refuses_it() -> None:
    """The default of OneHotEncoder is an error."""
    encoder = OneHotEncoder().fit(np.array([["a"], ["b"]], dtype=object))
    signature = Signature("s", (TensorSpec("X", "BYTES", (-1, 1)),), ())

    derived = derive(encoder, signature)

    assert derived is not None
    assert set(derived.rows["X"].ravel()) == {"a", "b"}


def test_columns_that_nothing_is_known_of_make_rows_incomplete() -> None:
    """A ColumnTransformer that passes a column through does not know its range."""
    from sklearn.compose import ColumnTransformer

    columns: Any = ColumnTransformer([("scaled", MinMaxScaler(), [0, 1])], remainder="passthrough").fit(DIABETES[:, :3])
    signature = Signature("s", (TensorSpec("X", "FP64", (-1, 3)),), ())

    derived = derive(columns, signature)

    assert derived is not None
    assert not derived.complete


def test_trees_beside_a_linear_model_tell_only_of_what_they_split_on() -> None:
    """A stump in a vote says nothing of the columns that only the linear model weighs."""
    from sklearn.ensemble import VotingRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.tree import DecisionTreeRegressor

    signature = Signature("s", (TensorSpec("X", "FP64", (-1, 2)),), ())
    stump = DecisionTreeRegressor(max_depth=1)
    vote = VotingRegressor([("stump", stump), ("line", LinearRegression())]).fit(MORNING, SECONDS)

    mixed, alone = derive(vote, signature), derive(vote.estimators_[0], signature)

    assert mixed is not None
    assert alone is not None
    assert (mixed.complete, alone.complete) == (False, True)


def test_pipelines_inside_an_ensemble_stay_pipelines() -> None:
    """Their steps are not members of the ensemble, although a pipeline can be iterated over."""
    from sklearn.ensemble import VotingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    signature = Signature("s", (TensorSpec("X", "FP64", (-1, 4)),), ())
    both = [(name, make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=3))) for name in "ab"]
    vote = VotingClassifier(both, voting="soft").fit(IRIS + 100, SPECIES)

    derived = derive(vote, signature)

    assert derived is not None
    assert (derived.said, derived.complete) == ("fitted means and scales, tree thresholds", True)
    assert abs(float(np.median(derived.rows["X"])) - 103) < 3
