"""What `describe` says of files, versions and repositories, without opening a pickle."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import joblib
import msgspec
import pytest
from packing_models import Foreign, fit

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelVersion
from dukou.packing.environment import environment, library_versions
from dukou.packing.inspect import Inspection, describe
from dukou.packing.pack import pack
from dukou.testing.conformance import build_models

Files = Callable[[str], Path]


@pytest.fixture(scope="module")
def repository(model_file: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one of them in two versions."""
    root = tmp_path_factory.mktemp("repository")
    pack(model_file("scaler"), name="scale", version=1, to=root)
    pack(model_file("scaler"), name="scale", version=2, to=root, metrics={"loss": 0.5}, lineage={"run": "7"})
    pack(model_file("pca"), name="reduce", version=1, to=root)
    return root


def test_a_version_says_everything(repository: Path) -> None:
    """Form, evidence, signatures, metrics and lineage, and that its files are whole."""
    found = describe(repository / "scale" / "2")

    assert found.kind == "version"
    (version,) = found.versions
    assert version.id == ModelVersion("scale", 2)
    assert version.intact
    assert version.evidence is not None
    assert version.evidence.form == "compiled"
    assert version.signatures["serving_default"].inputs[0].shape == (-1, 4)
    assert (version.metrics, version.lineage) == ({"loss": 0.5}, {"run": "7"})
    assert version.size_bytes > 500


def test_models_and_repositories_list_their_versions(repository: Path) -> None:
    """Highest version first."""
    model, whole = describe(repository / "scale"), describe(repository)

    assert [version.id.version for version in model.versions] == [2, 1]
    assert [(version.id.name, version.id.version) for version in whole.versions] == [
        ("reduce", 1),
        ("scale", 2),
        ("scale", 1),
    ]
    assert (model.kind, whole.kind) == ("model", "repository")


def test_damage_is_described_not_raised(model_file: Files, tmp_path: Path) -> None:
    """A changed file and an unreadable manifest."""
    changed, _ = pack(model_file("scaler"), name="m", version=1, to=tmp_path)
    (changed / "model.onnx").write_bytes(b"other")
    unreadable, _ = pack(model_file("scaler"), name="m", version=2, to=tmp_path)
    (unreadable / "manifest.toml").write_text("format = 99")

    second, first = describe(tmp_path / "m").versions

    assert (first.intact, second.intact) == (False, False)
    assert "changed or damaged since it was packed" in first.damage
    assert "format 99" in second.damage


def test_a_pickle_is_described_without_being_opened(model_file: Files) -> None:
    """Its estimators and the scikit-learn that made it, read from the names in it."""
    found = describe(model_file("forest-scaled")).file

    assert found is not None
    assert found.format == "pickle"
    assert "sklearn.ensemble._forest.RandomForestClassifier" in found.estimators
    assert found.libraries["scikit-learn"] == library_versions()["scikit-learn"]
    assert "dukou pack forest-scaled.joblib" in found.advice


def test_a_pickle_of_unknown_classes_is_described_too(tmp_path: Path) -> None:
    """Describing runs nothing, so it needs no trust."""
    joblib.dump(Foreign().fit([[0]]), tmp_path / "foreign.joblib")

    found = describe(tmp_path / "foreign.joblib").file

    assert found is not None
    assert found.estimators == ()


def test_skops_and_onnx_files_are_told_apart_by_content(repository: Path, tmp_path: Path) -> None:
    """Whatever they are called."""
    import skops.io

    skops.io.dump(fit("pca"), tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes((repository / "scale" / "1" / "model.onnx").read_bytes())

    first, second = describe(tmp_path / "a.bin").file, describe(tmp_path / "b.bin").file

    assert first is not None
    assert second is not None
    assert (first.format, first.estimators) == ("skops", ("sklearn.decomposition._pca.PCA",))
    assert second.format == "onnx"
    assert second.signature is not None
    assert second.signature.output_names() == ("transformed",)


def test_an_archive_that_is_not_of_skops_is_said_to_be_none(tmp_path: Path) -> None:
    """Other frameworks use zip files too."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("data.pkl", b"")

    found = describe(tmp_path / "model.pt").file

    assert found is not None
    assert found.format == "zip"
    assert "cannot be served" in found.advice


def test_an_inspection_is_json(repository: Path) -> None:
    """It comes back from JSON as it was."""
    found = describe(repository)

    assert msgspec.json.decode(msgspec.json.encode(found), type=Inspection) == found


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A wrong path is a mistake, not a description."""
    with pytest.raises(DukouError) as refused:
        describe(tmp_path / "none")

    assert refused.value.reason is Reason.PATH_NOT_FOUND


def test_the_environment_names_what_decides_answers() -> None:
    """Python, platform, CPU and the libraries that are installed."""
    here = environment()

    assert here.python.startswith("3.")
    assert here.cpu
    assert {"numpy", "onnxruntime", "scikit-learn"} <= here.libraries.keys()


def test_versions_that_stand_as_they_are_are_described(tmp_path: Path) -> None:
    """From the graph and its configuration, with what has no effect; Python code is not run for it."""
    build_models(tmp_path)
    (tmp_path / "addsub" / "config.pbtxt").write_text("max_batch_size: 8 response_cache { enable: true }")
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_text("x")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text("raise SystemExit(1)")

    found = {version.id.name: version for version in describe(tmp_path).versions}

    assert found["addsub"].intact
    assert found["addsub"].signatures["serving_default"].inputs[0].shape == (-1, 4)
    assert found["addsub"].size_bytes > 100
    assert not found["broken"].intact
    assert "model.onnx" in found["broken"].damage
    assert (found["code"].intact, found["code"].runtime, found["code"].signatures) == (True, "python", {})
    assert found["half_plus_two"].id.version == 123


def test_one_version_that_stands_as_it_is(tmp_path: Path) -> None:
    """Named by its place."""
    build_models(tmp_path)
    (tmp_path / "addsub" / "config.pbtxt").write_text("max_batch_size: 8 response_cache { enable: true }")

    found = describe(tmp_path / "addsub" / "1")

    (version,) = found.versions
    (warning,) = found.warnings
    assert (found.kind, version.id) == ("version", ModelVersion("addsub", 1))
    assert "response_cache has no effect" in warning
