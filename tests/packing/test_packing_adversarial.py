"""Models on which a compiled form was or could be silently wrong: each ends in equal answers or in the original."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from packing_models import IRIS, LIKED, LINES, MORNING, SECONDS, SPECIES
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, OneHotEncoder, RobustScaler, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from dukou.core.clock import monotonic
from dukou.core.tensor import Tensors
from dukou.packing.compile import Compiled
from dukou.packing.evidence import Comparison, Tolerance, compare
from dukou.packing.form import choose_form
from dukou.packing.pack import ignore
from dukou.runtimes.domain import InputDomain
from dukou.runtimes.onnx import OnnxModel, OnnxRuntime
from dukou.runtimes.sklearn import SklearnModel, signature_of
from dukou.testing.models import manifest

NEAR = Tolerance(probability=1e-4, spread=1e-3)
"""Ten times what packing allows, because these rows are not those it has seen."""


def outcome(estimator: Any, rows: Any, folder: Path) -> tuple[str, Comparison]:
    """Which form was chosen for a fitted estimator, and how it answers `rows` beside the original."""
    signature = signature_of(estimator)
    slow = SklearnModel(estimator, {signature.name: signature})

    def load(compiled: Compiled, domain: dict[str, InputDomain]) -> OnnxModel:
        (folder / "model.py").write_bytes(compiled.model)
        options = {"domain": msgspec.to_builtins(domain)}
        return OnnxRuntime().load(folder, manifest(signatures=(signature,), options=options))

    form = choose_form(
        estimator, signature, slow, data=None, data_name="", open_compiled=load, report=ignore, clock=monotonic
    )
    spec = signature.inputs[0]
    feed: Tensors = {
        spec.name: np.asarray(rows, dtype=object if spec.datatype == "BYTES" else np.float64).reshape(
            -1, *(spec.shape or ())[1:]
        )
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, got = (
            model.infer(signature.name, feed, signature.output_names(), {}) for model in (slow, form.model or slow)
        )
    return form.evidence.form, compare(want, got, NEAR)


TEXTS = ["", "  ", "naïve film", "filmé good", "GOOD film!!", "a very a good film", "bad\nbad", "1st film", "日本 good"]
HALVES = np.round(IRIS) + np.resize([0.0, 0.5, 0.25, 1e-9], IRIS.shape)
HOLED = np.where(np.random.default_rng(0).uniform(size=IRIS.shape) < 0.3, np.nan, IRIS)
TINY = IRIS * 1e-310

CASES: dict[str, tuple[Callable[[], Any], Any, str]] = {
    # The converter makes whole numbers of categories.
    "halves between categories": (
        lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(
            np.round(IRIS), SPECIES
        ),
        HALVES,
        "compiled",
    ),
    "broken categories": (
        lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=200)).fit(
            IRIS, SPECIES
        ),
        np.nextafter(IRIS, np.resize([np.inf, 0.0, 100.0], IRIS.shape)),
        "compiled",
    ),
    "categories that float32 confuses": (
        lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(
            np.round(IRIS) + 2**25, SPECIES
        ),
        HALVES + 2**25,
        "compiled",
    ),
    "a category left out": (
        lambda: make_pipeline(OneHotEncoder(drop="first", handle_unknown="ignore"), LogisticRegression()).fit(
            np.round(IRIS), SPECIES
        ),
        HALVES,
        "compiled",
    ),
    # Words are more than ASCII, and a word of one letter is none.
    "words": (lambda: make_pipeline(CountVectorizer(), MultinomialNB()).fit(LINES, LIKED), TEXTS, "compiled"),
    "pairs of words": (
        lambda: make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression()).fit(LINES, LIKED),
        TEXTS,
        "compiled",
    ),
    "sublinear counts": (
        lambda: make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression()).fit(LINES, LIKED),
        TEXTS,
        "original",
    ),
    # A row of zeros has no length.
    "zeros": (
        lambda: make_pipeline(Normalizer(), LogisticRegression()).fit(IRIS, SPECIES),
        np.vstack([IRIS, np.zeros((1, 4))]),
        "original",
    ),
    # Labels are chosen by scores that probabilities no longer tell apart.
    "labels by scores": (
        lambda: make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber", random_state=0)).fit(
            IRIS, SPECIES
        ),
        IRIS,
        "original",
    ),
    # float32.
    "seconds as answers": (
        lambda: RandomForestRegressor(5, random_state=0).fit(MORNING, SECONDS),
        MORNING,
        "original",
    ),
    "huge offset": (lambda: make_pipeline(MinMaxScaler(), Ridge()).fit(IRIS + 1e8, SPECIES), IRIS + 1e8, "compiled"),
    "subnormal thresholds": (lambda: DecisionTreeClassifier().fit(TINY, SPECIES), TINY, "compiled"),
    "subnormal thresholds in float64": (
        lambda: HistGradientBoostingClassifier(max_iter=3).fit(TINY * 1e270, SPECIES),
        TINY * 1e270,
        "compiled",
    ),
    "negative zero": (
        lambda: DecisionTreeClassifier().fit(np.sign(np.round(IRIS - 3)), SPECIES),
        np.where(np.sign(np.round(IRIS - 3)) == 0, -0.0, IRIS),
        "compiled",
    ),
    "a deep tree": (
        lambda: DecisionTreeRegressor().fit(2.0 ** -np.arange(0, 1000)[:, None], np.arange(1000) % 2),
        2.0 ** -np.arange(0, 1000)[:, None],
        "compiled",
    ),
    # A forest trained with missing values has infinite thresholds, which part them from all others.
    "missing values in training": (
        lambda: RandomForestClassifier(10, random_state=0).fit(HOLED, SPECIES),
        HOLED,
        "compiled",
    ),
    # Ties, and neighbours far from zero.
    "ties": (
        lambda: KNeighborsClassifier(4).fit(np.round(IRIS), SPECIES),
        np.round(IRIS),
        "original",
    ),
    # Labels of any kind.
    "true and false": (lambda: SVC().fit(IRIS, SPECIES == 1), IRIS, "compiled"),
    "negative labels": (
        lambda: RandomForestClassifier(5, random_state=0).fit(IRIS, np.array([-5, -1, 3])[SPECIES]),
        IRIS,
        "compiled",
    ),
    "labels beyond float64": (
        lambda: LogisticRegression(max_iter=300).fit(IRIS, np.array([2**40, 2**62 + 1, -(2**60)])[SPECIES]),
        IRIS,
        "compiled",
    ),
    "several labels": (
        lambda: RandomForestClassifier(3, random_state=0).fit(IRIS, np.c_[SPECIES == 1, SPECIES == 2].astype(int)),
        IRIS,
        "original",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_are_the_originals(name: str, tmp_path: Path) -> None:
    """Where the compiled form cannot be right it does not serve; where it was put right it does."""
    fit, rows, form = CASES[name]

    chosen, comparison = outcome(fit(), rows, tmp_path)

    assert comparison.agrees, comparison.said
    assert chosen == form


SCALERS = (None, StandardScaler, MinMaxScaler, RobustScaler)
MODELS = (
    LogisticRegression,
    Ridge,
    GaussianNB,
    lambda: DecisionTreeRegressor(max_depth=6, random_state=0),
    lambda: RandomForestClassifier(5, random_state=0),
    lambda: HistGradientBoostingClassifier(max_iter=3),
    SVC,
    KNeighborsClassifier,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scaler=st.sampled_from(SCALERS),
    model=st.sampled_from(MODELS),
    offset=st.sampled_from([0.0, 1.0, -1e4, 1.7e9]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 3600.0, 1e12]),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_form_is_chosen_answers_as_the_original(
    *, scaler: Any, model: Any, offset: float, scale: float, seed: int, tmp_path: Path
) -> None:
    """For small pipelines fitted on data anywhere, on fresh rows of the same data."""
    chance = np.random.default_rng(seed)
    data = offset + scale * chance.normal(size=(120, 3)) * [1.0, 10.0, 0.1]
    target = (data[:, 0] - offset > scale * chance.normal(size=120) * 0.5).astype(int)
    estimator = make_pipeline(model()) if scaler is None else make_pipeline(scaler(), model())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            estimator.fit(data[:80], target[:80])
        except ValueError:  # scikit-learn itself gives up on such data
            reject()

    _, comparison = outcome(estimator, data[80:], tmp_path)

    assert comparison.agrees, comparison.said
