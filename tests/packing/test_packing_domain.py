"""What the original refuses, its compiled form refuses; what it takes, the compiled form takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas
import pytest
from packing_models import CANCER, DIABETES, IRIS, MALIGNANT, PEOPLE, PROGRESS, SPECIES, SURVIVED
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest, Signature, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.packing.domain import find_domain, laxer, odd_rows
from dukou.packing.pack import pack
from dukou.runtimes.domain import FLOAT32_MAX, InputDomain
from dukou.runtimes.registry import runtime
from dukou.runtimes.sklearn import SklearnModel, open_estimator
from dukou.testing.models import FunctionModel


def both(estimator: BaseEstimator, folder: Path) -> tuple[LoadedModel, LoadedModel, ModelManifest]:
    """The original and the compiled form of a fitted estimator, as packing makes them."""
    joblib.dump(estimator, folder / "model.joblib")
    where, manifest = pack(folder / "model.joblib", name="m", version=1, to=folder / "repository")
    assert manifest.evidence.form == "compiled", manifest.evidence.reason
    original = SklearnModel(open_estimator(folder / "model.joblib"), manifest.signatures)
    return original, runtime("onnx").load(where, manifest), manifest


def refusal(model: LoadedModel, manifest: ModelManifest, inputs: Mapping[str, Any]) -> str:
    """The sentence with which a model refuses; empty when it answers."""
    signature = manifest.signature("")
    try:
        model.infer(signature.name, inputs, signature.output_names(), {})
    except DukouError as error:
        if error.reason is Reason.MODEL_REFUSED_INPUT:
            return str(error)
        raise
    return ""


def with_cell(X: Any, row: int, column: int, value: float) -> dict[str, Any]:
    """Three rows of X with one odd cell."""
    rows = np.array(X[:3], dtype=float)
    rows[row, column] = value
    return {"X": rows}


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=500).fit(IRIS, SPECIES),
        make_pipeline(StandardScaler(), GaussianNB()).fit(IRIS, SPECIES),
        RandomForestClassifier(3, random_state=0).fit(IRIS, SPECIES),
    ],
    ids=["logistic", "pipeline", "forest"],
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_the_original_refuses_are_refused(estimator: Any, value: float, tmp_path: Path) -> None:
    """In both forms, and the compiled one names the row."""
    original, compiled, manifest = both(estimator, tmp_path)
    rows = with_cell(IRIS, 1, 2, value)

    strict = refusal(original, manifest, rows)
    said = refusal(compiled, manifest, rows)

    if np.isnan(value) and isinstance(estimator, RandomForestClassifier):
        assert (strict, said) == ("", "")  # forests take missing values, wherever they were trained
    else:
        assert strict
        shown = "NaN" if np.isnan(value) else f"{value:g}"
        assert said.startswith(f"input 'X', row 1: the model cannot take these values: {shown} in column 2; it takes ")


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=5).fit(CANCER, MALIGNANT),
        make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(CANCER, MALIGNANT),
    ],
    ids=["histogram", "imputer"],
)
def test_missing_numbers_that_the_original_takes_are_taken(estimator: Any, tmp_path: Path) -> None:
    """And mean the same."""
    original, compiled, _ = both(estimator, tmp_path)
    rows = np.array(CANCER[:50])
    rows[np.random.default_rng(0).uniform(size=rows.shape) < 0.3] = np.nan

    answers = [
        model.infer("serving_default", {"X": rows}, ("probabilities",), {})["probabilities"]
        for model in (original, compiled)
    ]

    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_a_column_may_be_missing_where_its_own_branch_imputes_it(tmp_path: Path) -> None:
    """One matrix whose columns go different ways."""
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), [0, 1]), (StandardScaler(), [2, 3])
    )
    estimator = make_pipeline(columns, GaussianNB()).fit(IRIS, SPECIES)

    original, compiled, manifest = both(estimator, tmp_path)

    for column in range(4):
        rows = with_cell(IRIS, 0, column, np.nan)
        said = [bool(refusal(model, manifest, rows)) for model in (original, compiled)]
        # A scaler passes NaN on, and the model behind it refuses.
        assert said == [column > 1] * 2
    assert manifest.options["domain"]["X"]["missing"] == [0, 1]


def strict_people(encoder: Any) -> Any:
    columns = ColumnTransformer([("numbers", StandardScaler(), ["age", "fare"]), ("texts", encoder, ["sex", "port"])])
    return make_pipeline(columns, LogisticRegression()).fit(PEOPLE, SURVIVED)


@pytest.mark.parametrize("encoder", [OneHotEncoder(), OrdinalEncoder()], ids=["one-hot", "ordinal"])
def test_an_unknown_category_is_refused_where_the_encoder_refuses_it(encoder: Any, tmp_path: Path) -> None:
    """The default of both encoders; the sentence says what is known."""
    original, compiled, manifest = both(strict_people(encoder), tmp_path)
    row = {name: PEOPLE[[name]].to_numpy()[:3] for name in PEOPLE}
    odd = row | {"port": np.array([["C"], ["X"], ["Q"]], dtype=object)}

    assert refusal(original, manifest, row) == refusal(compiled, manifest, row) == ""
    assert refusal(original, manifest, odd)
    assert refusal(compiled, manifest, odd) == (
        "input 'port', row 1: the model cannot take these values: 'X'; it knows 'C', 'Q', 'S'"
    )


def test_unknown_numbers_are_categories_too(tmp_path: Path) -> None:
    """An encoder of whole numbers refuses those it has not seen."""
    X = np.column_stack([np.arange(90) % 3, DIABETES[:90, 0]])
    columns = make_column_transformer((OneHotEncoder(), [0]), (StandardScaler(), [1]))
    original, compiled, manifest = both(
        make_pipeline(columns, LogisticRegression()).fit(X, PROGRESS[:90] > 140), tmp_path
    )

    said = [
        [bool(refusal(model, manifest, {"X": np.array([[number, 0.0]])})) for number in (0.0, 2.0, 7.0, 0.5, -1.0)]
        for model in (original, compiled)
    ]

    assert said[0] == said[1] == [False, False, True, True, True]


def test_an_imputers_mark_is_no_unknown_category(tmp_path: Path) -> None:
    """It is replaced before the encoder sees it."""
    frame = pandas.DataFrame({"port": ["C", "Q", "?"] * 30, "fare": np.arange(90.0)})
    texts = make_pipeline(SimpleImputer(missing_values="?", strategy="most_frequent"), OneHotEncoder())
    columns = make_column_transformer((texts, ["port"]), (StandardScaler(), ["fare"]))
    original, compiled, manifest = both(make_pipeline(columns, LogisticRegression()).fit(frame, SPECIES[:90]), tmp_path)

    said = [
        [
            bool(refusal(model, manifest, {"port": np.array([[text]], dtype=object), "fare": np.ones((1, 1))}))
            for text in ("C", "?", "X")
        ]
        for model in (original, compiled)
    ]

    assert said[0] == said[1] == [False, False, True]


def test_a_refusal_that_no_domain_can_say_leaves_the_original(tmp_path: Path) -> None:
    """Box-Cox takes positive numbers only."""
    from sklearn.preprocessing import PowerTransformer

    estimator = make_pipeline(PowerTransformer("box-cox"), LogisticRegression()).fit(IRIS, SPECIES)
    joblib.dump(estimator, tmp_path / "model.joblib")

    _, manifest = pack(tmp_path / "model.joblib", name="m", version=1, to=tmp_path / "repository")

    assert manifest.evidence.form == "original"


TWO = Signature("s", (TensorSpec("X", "FP64", (-1, 2)),), (TensorSpec("y", "FP64", (-1,)),))


def taking(allowed: Any) -> FunctionModel:
    """A model that refuses rows with a value for which `allowed` (a function of the matrix) is false."""

    def answer(inputs: Any) -> Any:
        if not np.all(allowed(inputs["X"])):
            raise DukouError(Reason.MODEL_REFUSED_INPUT, detail="no")
        return {"y": inputs["X"][:, 0]}

    return FunctionModel(answer)


@pytest.mark.parametrize(
    ("allowed", "domain"),
    [
        (lambda X: X == X, {"X": InputDomain(missing=False)}),  # noqa: PLR0124
        (np.isfinite, {"X": InputDomain(missing=False, infinite=False)}),
        (lambda X: np.abs(X) < 4e38, {"X": InputDomain(missing=False, infinite=False, largest=FLOAT32_MAX)}),
        (lambda X: np.isfinite(X[:, 1]), {"X": InputDomain(missing=(0,), infinite=(0,))}),
        (lambda X: True, {}),
    ],
)
def test_a_domain_is_found_by_asking(allowed: Any, domain: Any) -> None:
    """By column, from what the model refuses."""
    assert find_domain(None, taking(allowed), TWO, {"X": np.ones((1, 2))}) == domain


def test_what_the_compiled_form_still_answers_is_told() -> None:
    """Only what the original refuses and only where the other does not."""
    row = {"X": np.ones((1, 2))}
    positive = taking(lambda X: X[:, 1] > 0)

    assert laxer(positive, taking(lambda X: True), TWO, row) == "nan in X[1]"
    assert laxer(positive, taking(np.isfinite), TWO, row) == "-1.0 in X[1]"
    assert laxer(positive, positive, TWO, row) == ""


def test_odd_numbers_are_among_the_rows_where_they_are_taken() -> None:
    """Missing ones in the first column, infinite ones in none."""
    domain = {"X": InputDomain(missing=(0,), infinite=False)}

    rows = odd_rows(domain, {"X": np.ones((100, 2))})["X"]

    assert np.isnan(rows[:, 0]).sum() == 25
    assert np.isfinite(rows[:, 1]).all()
