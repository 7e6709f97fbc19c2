"""Fitted estimators for the tests of packing, each fitted once."""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas
from sklearn import calibration, cluster, decomposition, ensemble, linear_model, naive_bayes, neighbors, svm, tree
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_linnerud
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dukou.core.model import Signature
from dukou.runtimes.sklearn import SklearnModel, signature_of

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
CANCER, MALIGNANT = load_breast_cancer(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
LINNERUD, FITNESS = load_linnerud(return_X_y=True)

CHANCE = np.random.default_rng(0)
PEOPLE = pandas.DataFrame(
    {
        "age": CHANCE.integers(18, 80, 300).astype(float),
        "fare": CHANCE.gamma(2, 20, 300),
        "sex": CHANCE.choice(["female", "male"], 300),
        "port": CHANCE.choice(["C", "Q", "S"], 300),
    }
)
SURVIVED = (PEOPLE.age + PEOPLE.fare + 30 * (PEOPLE.sex == "male") > 90).astype(int)

SECONDS = 1.7e9 + CHANCE.integers(0, 36_000, 300).astype(float)
"""Unix seconds of one morning, which float32 knows to about two minutes."""
MORNING = np.column_stack([SECONDS, CHANCE.normal(size=300)])

LINES = ["good film", "bad film", "a very good film", "awful and bad", "fine, good film", "the worst film"] * 10
LIKED = [1, 0, 1, 0, 1, 0] * 10


def people(final: Any) -> Any:
    """A pipeline on a frame: numbers imputed and scaled, text one-hot."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer(
        [("numbers", numbers, ["age", "fare"]), ("texts", OneHotEncoder(handle_unknown="ignore"), ["sex", "port"])]
    )
    return make_pipeline(columns, final)


MODELS: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "logistic": lambda: (linear_model.LogisticRegression(max_iter=500), IRIS, SPECIES),
    "logistic-text": lambda: (make_pipeline(StandardScaler(), linear_model.LogisticRegression()), IRIS, NAMES),
    "logistic-binary": lambda: (make_pipeline(StandardScaler(), linear_model.LogisticRegression()), CANCER, MALIGNANT),
    "linear": lambda: (linear_model.LinearRegression(), DIABETES, PROGRESS),
    "ridge-multi": lambda: (linear_model.Ridge(), LINNERUD, FITNESS),
    "tree": lambda: (tree.DecisionTreeRegressor(random_state=0), DIABETES, PROGRESS),
    "forest": lambda: (ensemble.RandomForestClassifier(15, random_state=0), CANCER, MALIGNANT),
    "forest-text": lambda: (ensemble.RandomForestClassifier(15, random_state=0), IRIS, NAMES),
    "forest-scaled": lambda: (
        make_pipeline(StandardScaler(), ensemble.RandomForestClassifier(15, random_state=0)),
        IRIS,
        SPECIES,
    ),
    "boosting": lambda: (ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0), IRIS, SPECIES),
    "histogram": lambda: (ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0), IRIS, SPECIES),
    "histogram-number": lambda: (ensemble.HistGradientBoostingRegressor(max_iter=10), DIABETES, PROGRESS),
    "histogram-categories": lambda: (
        ensemble.HistGradientBoostingRegressor(max_iter=5, categorical_features=[1]),
        DIABETES.round(2) * np.array([1, 0] + [1] * 8) + np.eye(10)[1] * (PROGRESS[:, None] % 3).round(),
        PROGRESS,
    ),
    "svc": lambda: (make_pipeline(StandardScaler(), svm.SVC()), IRIS, SPECIES),
    "linear-svc": lambda: (svm.LinearSVC(), IRIS, SPECIES),
    "svr": lambda: (svm.SVR(), DIABETES, PROGRESS),
    "neighbors": lambda: (neighbors.KNeighborsClassifier(), IRIS, SPECIES),
    "kmeans": lambda: (cluster.KMeans(3, n_init=1, random_state=0), IRIS, None),
    "pca": lambda: (decomposition.PCA(2), IRIS, None),
    "scaler": lambda: (StandardScaler(), IRIS, None),
    "isolation": lambda: (ensemble.IsolationForest(n_estimators=10, random_state=0), IRIS, None),
    "network": lambda: (MLPClassifier(max_iter=30, random_state=0), IRIS, SPECIES),
    "network-multi": lambda: (MLPRegressor(max_iter=30, random_state=0), LINNERUD, FITNESS),
    "bayes": lambda: (naive_bayes.GaussianNB(), IRIS, SPECIES),
    "calibrated": lambda: (calibration.CalibratedClassifierCV(svm.LinearSVC()), IRIS, SPECIES),
    "search": lambda: (GridSearchCV(tree.DecisionTreeClassifier(random_state=0), {"max_depth": [2, 3]}), IRIS, SPECIES),
    "voting": lambda: (
        ensemble.VotingClassifier(
            [("a", linear_model.LogisticRegression()), ("b", naive_bayes.GaussianNB())], voting="soft"
        ),
        IRIS,
        SPECIES,
    ),
    "people-logistic": lambda: (people(linear_model.LogisticRegression()), PEOPLE, SURVIVED),
    "people-forest": lambda: (people(ensemble.RandomForestClassifier(10, random_state=0)), PEOPLE, SURVIVED),
    "text": lambda: (make_pipeline(TfidfVectorizer(), linear_model.LogisticRegression()), LINES, LIKED),
    "centroid": lambda: (neighbors.NearestCentroid(), IRIS, SPECIES),
    "offset": lambda: (make_pipeline(StandardScaler(), linear_model.LogisticRegression()), IRIS + 1e7, SPECIES),
    "seconds": lambda: (linear_model.LinearRegression(), MORNING, MORNING @ [1e-3, 1.0]),
    "seconds-scaled": lambda: (
        make_pipeline(StandardScaler(), linear_model.LinearRegression()),
        MORNING,
        MORNING @ [1e-3, 1.0],
    ),
    "seconds-target": lambda: (ensemble.RandomForestRegressor(10, random_state=0), MORNING, SECONDS),
}


@cache
def fit(name: str) -> Any:
    """The fitted model of that name; the same object for every test, which must not change it."""
    estimator, X, y = MODELS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X, y) if y is not None else estimator.fit(X)


def original(name: str) -> tuple[SklearnModel, Signature]:
    """The model as it serves uncompiled, and its signature."""
    estimator = copy.deepcopy(fit(name))
    signature = signature_of(estimator)
    return SklearnModel(estimator, {signature.name: signature}), signature


def training_rows(name: str) -> Any:
    """What the model was fitted on."""
    return MODELS[name]()[1]


class Foreign(BaseEstimator):
    """A custom estimator, which no allowlist names."""

    def fit(self, X: Any, y: Any = None) -> "Foreign":
        self.n_features_in_ = np.shape(X)[1]
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))
