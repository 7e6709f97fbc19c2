"""scikit-learn estimators: opened, described by one rule, and served as they are."""

import io
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_info, threadpool_limits

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Environment, TensorSpec
from dukou.core.runtime import Runtime
from dukou.core.tensor import DTYPES, Tensors
from dukou.runtimes.sklearn import SklearnModel, SklearnRuntime, differences, open_estimator, signature_of
from dukou.testing import models

X, y = load_iris(return_X_y=True)
FLOWERS = load_iris().target_names[y]
FRAME = pd.DataFrame(X, columns=["a", "b", "c", "d"])
MIXED = pd.DataFrame(
    {
        "age": np.linspace(20, 60, 40),
        "city": ["Xi'an", "Pisa", "Lima", "Pisa"] * 10,
        "note": ["good wine", "bad food", "good food", "bad wine"] * 10,
        "rooms": np.arange(40) % 5,
    }
)
SOLD = np.array(["yes", "no"] * 20)


def mixed_columns(**more: Any) -> ColumnTransformer:
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
            ("places", OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ],
        **more,
    )


def described(estimator: Any) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The signature in short: (name, datatype, shape) of inputs and outputs."""
    signature = signature_of(estimator)
    assert signature.batched
    assert signature.name == DEFAULT_SIGNATURE
    return tuple(
        [(spec.name, spec.datatype, spec.shape) for spec in specs] for specs in (signature.inputs, signature.outputs)
    )  # type: ignore[return-value]


IRIS_IN = [("X", "FP64", (-1, 4))]
LABEL = ("label", "INT64", (-1,))
THREE = ("probabilities", "FP64", (-1, 3))


@pytest.mark.parametrize(
    ("estimator", "target", "outputs"),
    [
        (LogisticRegression(max_iter=500), y, [LABEL, THREE]),
        (LogisticRegression(max_iter=500), FLOWERS, [("label", "BYTES", (-1,)), THREE]),
        (LogisticRegression(max_iter=500), y.astype(float), [("label", "FP64", (-1,)), THREE]),
        (LogisticRegression(max_iter=500), y > 0, [("label", "BOOL", (-1,)), ("probabilities", "FP64", (-1, 2))]),
        (SVC(), y, [LABEL]),
        (RandomForestClassifier(3), np.c_[y, y], [("label", "INT64", (-1, 2))]),
        (make_pipeline(StandardScaler(), GaussianNB()), y, [LABEL, THREE]),
        (GridSearchCV(LogisticRegression(max_iter=500), {"C": [1, 2]}, cv=2, scoring="accuracy"), y, [LABEL, THREE]),
        (LinearRegression(), X[:, 0], [("y", "FP64", (-1,))]),
        (LinearRegression(), X[:, :2], [("y", "FP64", (-1, 2))]),
        (KNeighborsRegressor(), y, [("y", "FP64", (-1,))]),
        (KMeans(3, n_init=1), None, [LABEL, ("distances", "FP64", (-1, 3))]),
        (make_pipeline(StandardScaler(), KMeans(3, n_init=1)), None, [LABEL, ("distances", "FP64", (-1, 3))]),
        (GaussianMixture(2), None, [LABEL, ("probabilities", "FP64", (-1, 2))]),
        (IsolationForest(n_estimators=5), None, [LABEL, ("score", "FP64", (-1,))]),
        (LocalOutlierFactor(novelty=True), None, [LABEL, ("score", "FP64", (-1,))]),
        (PCA(2), None, [("transformed", "FP64", (-1, 2))]),
        (OneHotEncoder(handle_unknown="ignore"), None, [("transformed", "FP64", (-1, sum(len(set(c)) for c in X.T)))]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_kind_of_estimator_decides_its_outputs(estimator: Any, target: Any, outputs: list[Any]) -> None:
    """One rule for all."""
    estimator.fit(X, target)

    assert described(estimator) == (IRIS_IN, outputs)


def test_the_columns_of_a_frame_are_kept() -> None:
    """A model that was fitted on a frame of numbers takes one array, whose columns have names."""
    signature = signature_of(LogisticRegression(max_iter=500).fit(FRAME, y))

    assert signature.inputs[0].columns == ("a", "b", "c", "d")
    assert signature.inputs[0].shape == (-1, 4)


@pytest.mark.parametrize(
    ("estimator", "target", "classes"),
    [
        (LogisticRegression(max_iter=500), FLOWERS, ("setosa", "versicolor", "virginica")),
        (make_pipeline(StandardScaler(), GaussianNB()), y, ("0", "1", "2")),
        (GaussianNB(), y > 0, ("False", "True")),
        (GaussianNB(), y.astype(float), ("0.0", "1.0", "2.0")),
        (GaussianMixture(2), None, ()),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_columns_of_probabilities_are_the_classes(estimator: Any, target: Any, classes: tuple[str, ...]) -> None:
    """As text, in the order of the probabilities; what was never taught classes has none."""
    signature = signature_of(estimator.fit(X, target))

    assert signature.outputs[1].name == "probabilities"
    assert signature.outputs[1].columns == classes


AGE, CITY = ("age", "FP64", (-1, 1)), ("city", "BYTES", (-1, 1))


@pytest.mark.parametrize(
    ("transformer", "table", "inputs"),
    [
        (mixed_columns(), MIXED[["age", "city"]], [AGE, CITY]),
        (mixed_columns(), MIXED, [AGE, CITY]),
        (
            mixed_columns(remainder="passthrough"),
            MIXED[["rooms", "age", "city"]],
            [("rooms", "FP64", (-1, 1)), AGE, CITY],
        ),
        (
            ColumnTransformer([("a", StandardScaler(), ["age"])], remainder="passthrough"),
            MIXED[["age", "rooms"]],
            [("X", "FP64", (-1, 2))],
        ),
        (ColumnTransformer([("t", TfidfVectorizer(), "note")]), MIXED, [("note", "BYTES", (-1, 1))]),
        (
            ColumnTransformer([("s", OneHotEncoder(), make_column_selector("city"))], remainder=StandardScaler()),
            MIXED[["age", "city"]],
            [AGE, CITY],
        ),
        (ColumnTransformer([("s", OneHotEncoder(), slice("city", "note"))]), MIXED, [CITY, ("note", "BYTES", (-1, 1))]),
        (ColumnTransformer([("s", OneHotEncoder(), [False, True, False, False])]), MIXED, [CITY]),
        (ColumnTransformer([("s", OneHotEncoder(), [-3])]), MIXED, [CITY]),
        (
            ColumnTransformer(
                [("s", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["city"])]
            ),
            MIXED,
            [CITY],
        ),
        (
            ColumnTransformer([("s", "drop", ["city"])], remainder=OneHotEncoder()),
            MIXED[["age", "city", "note"]],
            [AGE, ("note", "BYTES", (-1, 1))],
        ),
        (OrdinalEncoder(), MIXED[["city", "rooms"]], [CITY, ("rooms", "FP64", (-1, 1))]),
        (FeatureUnion([("a", OneHotEncoder()), ("b", OrdinalEncoder())]), MIXED[["city"]], [CITY]),
        (OneHotEncoder(), MIXED[["city", "note"]].to_numpy(object), [("X", "BYTES", (-1, 2))]),
        (OneHotEncoder(), MIXED[["city", "age"]].to_numpy(object), [("x0", "BYTES", (-1, 1)), ("x1", "FP64", (-1, 1))]),
        (TfidfVectorizer(), MIXED["note"], [("X", "BYTES", (-1,))]),
        (FunctionTransformer(), MIXED[["age"]], [("X", "FP64", (-1, 1))]),
    ],
    ids=lambda value: " ".join(str(value).split())[:60],
)
def test_the_table_decides_the_inputs(transformer: Any, table: Any, inputs: list[Any]) -> None:
    """And the served answer is the estimator's own."""
    pipeline = make_pipeline(transformer, LogisticRegression()).fit(table, SOLD)
    wanted = pipeline.predict(table)

    assert described(pipeline)[0] == inputs
    assert served(pipeline, feed(pipeline, table), "label").tolist() == wanted.tolist()


def feed(estimator: Any, table: Any) -> Tensors:
    """The rows of `table` as the estimator's signature wants them."""
    specs = signature_of(estimator).inputs
    if len(specs) == 1 and specs[0].name == "X":
        return {"X": np.asarray(table).astype(DTYPES[specs[0].datatype])}
    whole = (
        table
        if isinstance(table, pd.DataFrame)
        else pd.DataFrame(table, columns=[f"x{i}" for i in range(table.shape[1])])
    )
    return {spec.name: whole[[spec.name]].to_numpy(object).astype(DTYPES[spec.datatype]) for spec in specs}


def served(estimator: Any, inputs: Tensors, output: str) -> Any:
    """One output of the estimator as it is served."""
    signature = signature_of(estimator)
    return SklearnModel(estimator, {DEFAULT_SIGNATURE: signature}).infer(DEFAULT_SIGNATURE, inputs, (output,), {})[
        output
    ]


def test_category_columns_of_a_frame_are_text() -> None:
    """Gradient boosting keeps its categories in a preprocessor of its own."""
    frame = MIXED[["age", "city"]].astype({"city": "category"})
    estimator = HistGradientBoostingClassifier(max_iter=3, categorical_features="from_dtype").fit(frame, SOLD)

    assert described(estimator)[0] == [AGE, CITY]
    assert (
        served(estimator, feed(estimator, MIXED[["age", "city"]]), "label").tolist()
        == estimator.predict(frame).tolist()
    )


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=500),
        make_pipeline(StandardScaler(), SVC()),
        RandomForestClassifier(3),
        VotingClassifier([("a", GaussianNB()), ("b", make_pipeline(MinMaxScaler(), LogisticRegression()))]),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_models_of_frames_answer_without_a_warning(estimator: Any) -> None:
    """Plain rows come in requests; scikit-learn's remark about missing names would come with each of them."""
    estimator.fit(FRAME, y)
    wanted = estimator.predict(FRAME)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = served(estimator, {"X": X}, "label")

    assert answer.tolist() == wanted.tolist()


class Doubled(BaseEstimator):
    """A class of the user's own that looks at a frame by name."""

    def fit(self, table: pd.DataFrame, target: Any = None) -> "Doubled":
        self.feature_names_in_ = np.asarray(table.columns, dtype=object)
        self.n_features_in_ = len(table.columns)
        return self

    def transform(self, table: pd.DataFrame) -> Any:
        return (table["b"] * 2).to_numpy()


def test_a_class_of_the_users_own_gets_its_frame() -> None:
    """It may pick columns by name, so it gets them."""
    estimator = Doubled().fit(FRAME)

    assert described(estimator) == (IRIS_IN, [("transformed", "FP64", (-1,))])
    assert served(estimator, {"X": X}, "transformed").tolist() == (X[:, 1] * 2).tolist()


def test_answers_are_dense_and_of_the_signatures_datatype() -> None:
    """A sparse matrix and float32 become what the signature says; text is str, also where numbers are among it."""
    onehot = OneHotEncoder(handle_unknown="ignore", dtype=np.float32).fit(X)
    imputer = SimpleImputer(strategy="most_frequent").fit(MIXED[["city", "rooms"]])

    dense = served(onehot, {"X": X}, "transformed")
    mixed = served(imputer, {"city": np.array([["Lima"]], object), "rooms": np.array([[2.0]])}, "transformed")

    assert isinstance(dense, np.ndarray)
    assert dense.dtype == np.float64
    assert mixed.tolist() == [["Lima", "2.0"]]


def test_only_what_is_asked_for_is_computed() -> None:
    """Probabilities alone do not cost a predict."""

    class Counting(LogisticRegression):
        predicted = 0

        def predict(self, table: Any) -> Any:
            self.predicted += 1
            return super().predict(table)

    estimator = Counting(max_iter=500).fit(X, y)
    model = SklearnModel(estimator, {DEFAULT_SIGNATURE: signature_of(estimator)})
    before = estimator.predicted

    answer = model.infer(DEFAULT_SIGNATURE, {"X": X}, ("probabilities",), {})

    assert list(answer) == ["probabilities"]
    assert estimator.predicted == before


def test_a_pipeline_in_an_ensemble_is_asked_as_a_whole() -> None:
    """Its first step may know nothing of its columns, the second all; a pipeline can be iterated over, but is one."""
    pipelines = [
        (name, make_pipeline(FunctionTransformer(), OneHotEncoder(handle_unknown="ignore"), LogisticRegression()))
        for name in "ab"
    ]
    cities = MIXED[["city"]].to_numpy()

    signature = signature_of(VotingClassifier(pipelines).fit(cities, SOLD))

    assert signature.inputs == (TensorSpec("X", "BYTES", (-1, 1)),)


def test_text_may_come_as_bytes() -> None:
    """Binary protocols carry UTF-8."""
    estimator = make_pipeline(mixed_columns(), LogisticRegression()).fit(MIXED, SOLD)
    cities = np.array([[city.encode()] for city in MIXED["city"]], dtype=object)

    answer = served(estimator, {"age": MIXED[["age"]].to_numpy(), "city": cities}, "label")

    assert answer.tolist() == estimator.predict(MIXED).tolist()


@pytest.mark.parametrize(
    ("estimator", "inputs", "says"),
    [
        (LinearRegression().fit(X, y), {"X": np.full((1, 4), np.nan)}, "Input X contains NaN"),
        (OneHotEncoder().fit(MIXED[["city"]]), {"city": np.array([["Oz"]], object)}, "Found unknown categories"),
        (OneHotEncoder().fit(MIXED[["city"]]), {"city": np.array([[b"\xff"]], object)}, "can't decode"),
    ],
)
def test_values_that_a_model_cannot_take_are_the_callers_mistake(estimator: Any, inputs: Tensors, says: str) -> None:
    """With scikit-learn's first sentence."""
    signature = signature_of(estimator)

    with pytest.raises(DukouError, match=says) as caught:
        served(estimator, inputs, signature.outputs[0].name)

    assert caught.value.reason is Reason.MODEL_REFUSED_INPUT
    assert "\n" not in str(caught.value)


def test_any_other_failure_is_the_cause_and_not_told() -> None:
    """A defect of the model's own code is not shown to callers."""
    estimator = LinearRegression().fit(X, y)
    model = SklearnModel(estimator, {DEFAULT_SIGNATURE: signature_of(estimator)})
    del estimator.coef_

    with pytest.raises(DukouError) as caught:
        model.infer(DEFAULT_SIGNATURE, {"X": X}, ("y",), {})

    assert caught.value.reason is Reason.MODEL_FAILED
    assert "coef_" not in str(caught.value)
    assert "coef_" in str(caught.value.__cause__)


def test_one_request_runs_in_one_thread() -> None:
    """Of BLAS and OpenMP in whichever thread asks, and of joblib in every part; unless the option says more."""
    forest = RandomForestRegressor(3, n_jobs=-1).fit(X, y)
    signature = signature_of(forest)
    model = SklearnModel(make_pipeline(forest), {DEFAULT_SIGNATURE: signature})
    seen: list[int] = []

    def ask() -> None:
        model.infer(DEFAULT_SIGNATURE, {"X": X[:1]}, ("y",), {})
        seen.extend(library["num_threads"] for library in threadpool_info())

    with threadpool_limits(None):
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(30)

    assert set(seen) == {1}
    assert forest.n_jobs == 1
    assert SklearnModel(RandomForestRegressor(3, n_jobs=-1).fit(X, y), {}, threads=2)._estimator.n_jobs == 2


def saved(tmp_path: Path, thing: Any) -> Path:
    path = tmp_path / "model.joblib"
    joblib.dump(thing, path)
    return path


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ({"model": 1, "scaler": 2}, "a dict with model, scaler"),
        ([LinearRegression()], "a list of LinearRegression"),
        (LinearRegression, "a ABCMeta"),
        (LinearRegression(), "LinearRegression is not fitted"),
        (DBSCAN().fit(X), "a DBSCAN"),
        (X, "a ndarray"),
    ],
)
def test_what_is_no_fitted_estimator_is_refused(tmp_path: Path, thing: Any, says: str) -> None:
    """Saying what the file holds instead."""
    with pytest.raises(DukouError, match=says) as caught:
        open_estimator(saved(tmp_path, thing))

    assert caught.value.reason is Reason.ARTIFACT_UNSUPPORTED


def test_an_estimator_that_answers_no_probe_is_refused() -> None:
    """What it does not know of itself cannot be served by a signature."""

    def never(table: Any) -> Any:
        raise ValueError("Never. Ever.")

    with pytest.raises(DukouError, match=r"answers no probe row: Never$") as caught:
        signature_of(FunctionTransformer(never).fit(X))

    assert caught.value.reason is Reason.ARTIFACT_UNSUPPORTED


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=500),
        RandomForestClassifier(3),
        make_pipeline(StandardScaler(), KNeighborsClassifier()),
    ],
    ids=str,
)
def test_skops_files_open_by_content(tmp_path: Path, estimator: Any) -> None:
    """Whatever they are called, with our list of names behind the types that skops asks about."""
    estimator.fit(X, y)
    path = tmp_path / "model.bin"
    skops.io.dump(estimator, path)

    assert open_estimator(path).predict(X).tolist() == estimator.predict(X).tolist()


def test_skops_files_that_name_other_things_are_refused(tmp_path: Path) -> None:
    """The file's own list of what to trust is never used."""
    path = tmp_path / "model.skops"
    skops.io.dump(FunctionTransformer(func=io.BytesIO).fit(X), path)

    with pytest.raises(DukouError, match="BytesIO") as caught:
        open_estimator(path)

    assert caught.value.reason is Reason.PICKLE_REFUSED
    assert isinstance(open_estimator(path, trust=True), FunctionTransformer)


@pytest.mark.parametrize(
    "members", [{}, {"data.pkl": b"x"}, {"schema.json": b"{"}, {"schema.json": b"{}"}, {"schema.json": b"[]"}]
)
def test_other_zip_files_are_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    """A torch file, a damaged skops file."""
    path = tmp_path / "model.skops"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)

    with pytest.raises(DukouError) as caught:
        open_estimator(path)

    assert caught.value.reason in {Reason.ARTIFACT_UNSUPPORTED, Reason.ARTIFACT_UNREADABLE}


class Mine(LinearRegression):
    """A class that no list names."""


def test_the_operator_not_the_manifest_grants_trust(tmp_path: Path) -> None:
    """A manifest comes with the model; it cannot vouch for it."""
    saved(tmp_path, Mine().fit(X, y))
    manifest = msgspec.structs.replace(
        models.manifest(options={"trust_pickle": True, "trust": True}), serving="model.joblib"
    )
    sklearn_runtime: Runtime = SklearnRuntime()

    with pytest.raises(DukouError) as caught:
        sklearn_runtime.load(tmp_path, manifest)

    assert caught.value.reason is Reason.PICKLE_REFUSED
    model = sklearn_runtime.load(tmp_path, manifest, trust=True)
    assert model.concurrency == 1
    assert model.holds_gil


def test_differences_name_what_is_not_as_it_was_packed() -> None:
    """Changed and missing libraries; others do not matter."""
    packed = Environment(libraries={"scikit-learn": "1.4.2", "numpy": "2.0.0", "scipy": "1.11.0"})
    manifest = msgspec.structs.replace(models.manifest(), environment=packed)

    found = differences(manifest, {"scikit-learn": "1.9.1", "numpy": "2.0.0", "onnx": "1.0"})

    assert found == (
        "scikit-learn is 1.9.1, the model was packed with 1.4.2",
        "scipy is not installed, the model was packed with 1.11.0",
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, FLOWERS),
    "linear": lambda: make_pipeline(MinMaxScaler(), LinearRegression()).fit(X, y),
    "tree": lambda: DecisionTreeClassifier().fit(X, y),
    "tree regressor": lambda: DecisionTreeRegressor().fit(X, y),
    "forest": lambda: RandomForestClassifier(5).fit(X, y),
    "forest regressor": lambda: RandomForestRegressor(5).fit(X, y),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=3).fit(X, y),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=3).fit(X, y),
    "histogram boosting regressor": lambda: HistGradientBoostingRegressor(max_iter=3).fit(X, y),
    "svc": lambda: SVC().fit(X, y),
    "svr": lambda: SVR().fit(X, y),
    "knn": lambda: KNeighborsClassifier().fit(X, y),
    "kmeans": lambda: KMeans(3, n_init=1).fit(X),
    "pca": lambda: PCA(2).fit(X),
    "isolation forest": lambda: IsolationForest(n_estimators=5).fit(X),
    "mlp": lambda: make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=2000, tol=1e-2)).fit(X, y),
    "naive bayes": lambda: GaussianNB().fit(X, y),
    "frame": lambda: make_pipeline(mixed_columns(), LogisticRegression()).fit(MIXED, SOLD),
}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("compress", [0, 3])
def test_each_family_is_saved_opened_and_served(tmp_path: Path, make: Callable[[], Any], compress: int) -> None:
    """What is served from the file is what the estimator in memory answers, for every output."""
    estimator = make()
    path = tmp_path / "model.joblib"
    joblib.dump(estimator, path, compress=compress)
    signature = signature_of(estimator)
    inputs = feed(estimator, MIXED if signature.inputs[0].name == "age" else X)
    manifest = msgspec.structs.replace(models.manifest(signatures=(signature,)), serving=path.name)

    opened = SklearnRuntime().load(tmp_path, manifest)
    answer = opened.infer(DEFAULT_SIGNATURE, inputs, signature.output_names(), {})

    for spec in signature.outputs:
        assert answer[spec.name].dtype == DTYPES[spec.datatype]
        assert spec.fits(answer[spec.name].shape)
        np.testing.assert_array_equal(answer[spec.name], served(estimator, inputs, spec.name))
