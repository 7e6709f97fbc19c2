"""Packing whole files: what serves, on what evidence, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from packing_models import CANCER, IRIS, MODELS, MORNING, NAMES, PEOPLE, SECONDS, Foreign, fit, original, training_rows

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest
from dukou.core.tensor import DTYPES, Tensors
from dukou.packing.pack import check_id, pack
from dukou.repository.integrity import verify
from dukou.repository.manifest import read_manifest
from dukou.runtimes.registry import runtime

Files = Callable[[str], Path]

COMPILED_ON_DERIVED_ROWS = [
    "logistic-text",
    "logistic-binary",
    "tree",
    "forest",
    "forest-text",
    "forest-scaled",
    "boosting",
    "histogram",
    "histogram-number",
    "svc",
    "svr",
    "kmeans",
    "pca",
    "scaler",
    "isolation",
    "bayes",
    "search",
    "voting",
    "people-logistic",
    "people-forest",
    "text",
    "offset",
    "seconds-scaled",
]
COMPILED_WITHOUT_ROWS = ["logistic", "linear", "ridge-multi", "linear-svc", "network", "network-multi", "calibrated"]
ORIGINAL = ["neighbors", "histogram-categories", "centroid", "seconds-target"]


def ask(folder: Path, manifest: ModelManifest, rows: Tensors) -> Tensors:
    """The version's answers, loaded the way serving does."""
    signature = manifest.signature("")
    return runtime(manifest.runtime).load(folder, manifest).infer(signature.name, rows, signature.output_names(), {})


def as_rows(name: str) -> Tensors:
    """The model's training rows as its signature's inputs."""
    _, signature = original(name)
    X = training_rows(name)
    if X is PEOPLE:
        return {spec.name: PEOPLE[[spec.name]].to_numpy(dtype=DTYPES[spec.datatype]) for spec in signature.inputs}
    return {signature.inputs[0].name: np.asarray(X, dtype=DTYPES[signature.inputs[0].datatype])}


def test_the_tables_name_every_model() -> None:
    """No model of the tests is forgotten."""
    assert set(MODELS) == {*COMPILED_ON_DERIVED_ROWS, *COMPILED_WITHOUT_ROWS, *ORIGINAL, "seconds"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMPILED_ON_DERIVED_ROWS, *COMPILED_WITHOUT_ROWS])
def test_the_compiled_form_serves_and_answers_as_the_original(name: str, model_file: Files, tmp_path: Path) -> None:
    """What is packed compiled gives the original's answers on the rows that the model was trained on."""
    model, signature = original(name)
    rows = as_rows(name)

    folder, manifest = pack(model_file(name), name="m", version=1, to=tmp_path)

    assert manifest.evidence.form == "compiled", manifest.evidence.reason
    assert manifest.evidence.source == ("derived" if name in COMPILED_ON_DERIVED_ROWS else "none")
    assert manifest.evidence.rows >= 300
    assert manifest.evidence.independent_rows, manifest.evidence.independence
    assert (manifest.runtime, manifest.serving) == ("onnx", "model.onnx")
    answers = ask(folder, manifest, rows)
    for output, want in model.infer(signature.name, rows, signature.output_names(), {}).items():
        got = answers[output]
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, atol=1e-4 * max(float(np.std(want)), 1e-3))
        else:
            assert float(np.mean(got != want)) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINAL)
def test_the_original_serves_where_no_compiled_form_agrees(name: str, model_file: Files, tmp_path: Path) -> None:
    """Without a converter, or with one that answers differently, the original serves and the reason says so."""
    folder, manifest = pack(model_file(name), name="m", version=1, to=tmp_path)

    assert (manifest.runtime, manifest.serving) == ("sklearn", "model.joblib")
    assert manifest.evidence.form == "original"
    assert manifest.evidence.reason.startswith("The original serves: ")
    assert sorted(manifest.digests) == ["model.joblib"]
    model, signature = original(name)
    rows = as_rows(name)
    want = model.infer(signature.name, rows, signature.output_names(), {})
    for output, array in ask(folder, manifest, rows).items():
        np.testing.assert_array_equal(array, want[output])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seconds", "seconds-scaled"])
def test_a_model_fitted_on_unix_seconds_computes_in_float64(name: str, model_file: Files, tmp_path: Path) -> None:
    """float32 knows these seconds to two minutes only; neither random nor large numbers may hide that."""
    folder, manifest = pack(model_file(name), name="m", version=1, to=tmp_path)

    assert manifest.evidence.form == "compiled"
    got = ask(folder, manifest, {"X": MORNING})["y"]
    np.testing.assert_allclose(got, fit(name).predict(MORNING), atol=1e-6 * float(np.std(got)))


@pytest.mark.slow
def test_given_rows_decide_where_they_are(model_file: Files, tmp_path: Path) -> None:
    """With --data the comparison is on those rows and the manifest says so."""
    rows = tmp_path / "rows.csv"
    np.savetxt(rows, IRIS, delimiter=",")
    said: list[str] = []

    _, manifest = pack(
        model_file("logistic"), name="iris", version=3, to=tmp_path / "models", data=rows, report=said.append
    )

    assert (manifest.evidence.source, manifest.evidence.rows) == ("data", 150)
    assert "150 rows of rows.csv" in manifest.evidence.reason
    assert "comparing 150 rows of rows.csv" in said


@pytest.mark.slow
def test_given_rows_may_hold_some_that_the_model_refuses(model_file: Files, tmp_path: Path) -> None:
    """A missing number in the first row of a file is no reason not to pack."""
    (tmp_path / "rows.csv").write_text(",3,1,0\n" + "5,3,1,0\n6,3,5,2\n" * 10)

    _, manifest = pack(model_file("neighbors"), name="m", version=1, to=tmp_path, data=tmp_path / "rows.csv")

    assert manifest.evidence.source == "data"


@pytest.mark.slow
def test_given_rows_of_unix_seconds_rule_out_float32(model_file: Files, tmp_path: Path) -> None:
    """Real rows show what float32 does to a linear model on large offsets."""
    np.save(tmp_path / "rows.npy", MORNING)

    _, manifest = pack(model_file("seconds"), name="m", version=1, to=tmp_path, data=tmp_path / "rows.npy")

    assert manifest.evidence.form == "compiled"
    assert "float32 was not exact enough" in manifest.evidence.reason


@pytest.mark.slow
def test_a_target_that_float32_cannot_hold_is_served_by_the_original(model_file: Files, tmp_path: Path) -> None:
    """Trees that predict unix seconds are off by minutes in ONNX, which has no float64 trees."""
    folder, manifest = pack(model_file("seconds-target"), name="m", version=1, to=tmp_path)

    assert manifest.runtime == "sklearn"
    np.testing.assert_array_equal(ask(folder, manifest, {"X": MORNING})["y"], fit("seconds-target").predict(MORNING))
    assert np.ptp(SECONDS) < 36_000


@pytest.mark.slow
def test_a_version_says_where_it_comes_from(model_file: Files, tmp_path: Path) -> None:
    """The manifest on disk is the one returned, with digests of every file, environment, metrics and lineage."""
    folder, manifest = pack(
        model_file("forest"),
        name="cancer",
        version=7,
        to=tmp_path,
        metrics={"accuracy": 0.97},
        lineage={"git": "abc"},
    )

    assert folder == tmp_path / "cancer" / "7"
    assert read_manifest(folder) == manifest
    verify(folder, manifest)
    assert sorted(manifest.digests) == ["model.joblib", "model.onnx"]
    assert manifest.original == "model.joblib"
    assert (manifest.metrics, manifest.lineage) == ({"accuracy": 0.97}, {"git": "abc"})
    assert "scikit-learn" in manifest.environment.libraries
    assert [path.name for path in (tmp_path / "cancer").iterdir()] == ["7"]


@pytest.mark.slow
def test_an_onnx_file_serves_as_it_is(model_file: Files, tmp_path: Path) -> None:
    """An ONNX source is copied, its signature read, and its rows found independent."""
    made, _ = pack(model_file("forest-text"), name="a", version=1, to=tmp_path)

    folder, manifest = pack(made / "model.onnx", name="b", version=1, to=tmp_path)

    assert (manifest.runtime, manifest.original, manifest.serving) == ("onnx", "model.onnx", "model.onnx")
    assert manifest.evidence.independent_rows, manifest.evidence.independence
    assert list(ask(folder, manifest, {"X": IRIS})["label"]) == list(fit("forest-text").predict(IRIS))


@pytest.mark.slow
def test_skops_files_are_packed(tmp_path: Path) -> None:
    """A skops file goes the same way as a pickle."""
    import skops.io

    skops.io.dump(fit("logistic-text"), tmp_path / "iris.skops")

    folder, manifest = pack(tmp_path / "iris.skops", name="iris", version=1, to=tmp_path)

    assert sorted(manifest.digests) == ["model.onnx", "model.skops"]
    assert float(np.mean(ask(folder, manifest, {"X": IRIS})["label"] == NAMES)) > 0.9


def test_a_custom_class_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """A pickle that names a class beyond the allowlist is refused; no half version stays behind."""
    joblib.dump(Foreign().fit(CANCER), tmp_path / "foreign.joblib")

    with pytest.raises(DukouError) as refused:
        pack(tmp_path / "foreign.joblib", name="m", version=1, to=tmp_path / "models")

    assert refused.value.reason is Reason.PICKLE_REFUSED
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_trusted_custom_class_serves_as_the_original(tmp_path: Path) -> None:
    """Whoever says that the pickle is theirs gets it served; there is no compiled form of what nobody knows."""
    joblib.dump(Foreign().fit(IRIS), tmp_path / "foreign.joblib")

    _, manifest = pack(tmp_path / "foreign.joblib", name="m", version=1, to=tmp_path, trust_pickle=True)

    assert (manifest.runtime, manifest.evidence.form) == ("sklearn", "original")
    assert "no ONNX form of Foreign" in manifest.evidence.reason


def test_a_version_never_changes(model_file: Files, tmp_path: Path) -> None:
    """Packing into an existing version is refused before anything is opened."""
    (tmp_path / "m" / "1").mkdir(parents=True)

    with pytest.raises(DukouError) as refused:
        pack(model_file("scaler"), name="m", version=1, to=tmp_path)

    assert refused.value.reason is Reason.ALREADY_PACKED


@pytest.mark.slow
def test_a_pickle_of_another_scikit_learn_is_refused_unless_allowed(
    model_file: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version inside the file is read before it is opened; the refusal says what to run where it was trained."""
    content = model_file("scaler").read_bytes()
    stored = fit("scaler").__getstate__()["_sklearn_version"].encode()
    older = tmp_path / "older.joblib"
    older.write_bytes(content.replace(stored, b"0" * (len(stored) - 2) + b".1"))

    with pytest.raises(DukouError, match=r"dukou pack older\.joblib.*--allow-version-mismatch") as refused:
        pack(older, name="m", version=1, to=tmp_path)

    assert refused.value.reason is Reason.ARTIFACT_UNSUPPORTED
    _, manifest = pack(older, name="m", version=1, to=tmp_path, allow_version_mismatch=True)
    assert manifest.id.name == "m"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "é", "x" * 201])
def test_names_that_some_protocol_cannot_carry_are_refused(name: str) -> None:
    """A name is made of letters, digits, dots, dashes and underscores."""
    with pytest.raises(DukouError) as refused:
        check_id(name, 1)

    assert refused.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_versions_are_positive_63_bit_integers(version: int) -> None:
    """0 and numbers beyond a signed 64 bit integer are refused."""
    with pytest.raises(DukouError) as refused:
        check_id("m", version)

    assert refused.value.reason is Reason.CONFIG_INVALID


def test_the_widest_name_and_version_are_allowed() -> None:
    """The limits themselves are fine."""
    check_id("A-z_0.9" + "x" * 193, 2**63 - 1)
