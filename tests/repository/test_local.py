"""Folders of versions, and what a user's path is."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelVersion, Repository
from dukou.repository.integrity import sha256
from dukou.repository.local import LocalRepository, classify, version_number
from dukou.repository.manifest import MANIFEST, write_manifest
from dukou.testing import models


def put(folder: Path, name: str = "iris", version: int = 1) -> Path:
    """A good version in `folder`."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("x")
    digests = {"model.py": sha256(folder / "model.py")}
    write_manifest(folder, msgspec.structs.replace(models.manifest(name, version), digests=digests))
    return folder


def test_versions_are_found_highest_first(tmp_path: Path) -> None:
    """By number, not by the text of the folder's name; what is no number is ignored."""
    for name in ("2", "10", "00000123", "notes", "1.5", "-3", ".4", "²"):
        put(tmp_path / "iris" / name)
    repository: Repository = LocalRepository(tmp_path)

    found = repository.versions("iris")

    assert list(found) == [123, 10, 2]
    assert [manifest.id for manifest in found.values()] == [ModelVersion("iris", number) for number in found]


def test_the_place_names_a_version(tmp_path: Path) -> None:
    """A copied version is served as what its folder says."""
    put(tmp_path / "copy" / "7", name="iris", version=1)

    assert LocalRepository(tmp_path).versions("copy")[7].id == ModelVersion("copy", 7)


def test_of_two_folders_with_one_number_the_last_counts(tmp_path: Path) -> None:
    """With a warning that names both."""
    put(tmp_path / "iris" / "007")
    put(tmp_path / "iris" / "7")

    scan = LocalRepository(tmp_path).scan("iris")

    assert scan.folders == {7: tmp_path / "iris" / "7"}
    assert len(scan.warnings) == 1
    assert "007" in scan.warnings[0]


def test_a_broken_version_does_not_hide_the_others(tmp_path: Path) -> None:
    """It is reported with its reason, its model and its number."""
    put(tmp_path / "iris" / "1")
    put(tmp_path / "iris" / "2")
    (tmp_path / "iris" / "2" / MANIFEST).write_text("format = 9")
    (tmp_path / "iris" / "3").mkdir()
    repository = LocalRepository(tmp_path)

    scan = repository.scan("iris")

    assert list(scan.manifests) == [1]
    assert list(scan.broken) == [3, 2]
    assert "model 'iris', version 2" in str(scan.broken[2])
    with pytest.raises(DukouError, match="format 9"):
        repository.fetch(ModelVersion("iris", 2))


def test_a_version_of_another_system_is_told_what_to_do(tmp_path: Path) -> None:
    """Beside those that can be served."""
    put(tmp_path / "iris" / "1")
    (tmp_path / "iris" / "2").mkdir()
    (tmp_path / "iris" / "2" / "saved_model.pb").write_text("x")

    scan = LocalRepository(tmp_path).scan("iris")

    assert scan.good() == (1,)
    assert "export it to ONNX" in str(scan.broken[2])


def test_versions_may_stand_as_they_are(tmp_path: Path) -> None:
    """They have a folder and no manifest."""
    put(tmp_path / "iris" / "1")
    for name in ("2/model.onnx", "003/any.onnx", "4/model.py", "5/a.onnx", "5/b.onnx"):
        (tmp_path / "iris" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "iris" / name).write_text("x")
    repository = LocalRepository(tmp_path)

    scan = repository.scan("iris")

    assert scan.good() == (4, 3, 2, 1)
    assert list(scan.manifests) == [1]
    assert list(scan.broken) == [5]
    assert repository.fetch(ModelVersion("iris", 3)) == tmp_path / "iris" / "003"


def test_fetch_gives_a_verified_folder(tmp_path: Path) -> None:
    """And refuses one whose file was changed."""
    folder = put(tmp_path / "iris" / "00001")
    repository = LocalRepository(tmp_path)

    assert repository.fetch(ModelVersion("iris", 1)) == folder

    (folder / "model.py").write_text("y")
    with pytest.raises(DukouError) as caught:
        repository.fetch(ModelVersion("iris", 1))
    assert caught.value.reason is Reason.DIGEST_MISMATCH


def test_unknown_names_are_answered_with_the_known(tmp_path: Path) -> None:
    """Models and versions that are not there; names that look like paths are names."""
    put(tmp_path / "root" / "iris" / "1")
    put(tmp_path / "other" / "1")
    repository = LocalRepository(tmp_path / "root")

    for model in ("nope", "../other", "", ".", "iris/1"):
        with pytest.raises(DukouError, match="served are: iris") as caught:
            repository.versions(model)
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
    with pytest.raises(DukouError, match="there are: 1") as caught:
        repository.fetch(ModelVersion("iris", 2))
    assert caught.value.reason is Reason.VERSION_NOT_FOUND


def test_models_are_folders_with_versions(tmp_path: Path) -> None:
    """Sorted; files, hidden folders, unfinished ones and folders without numbers are not models."""
    put(tmp_path / "b" / "1")
    put(tmp_path / "a" / "1")
    put(tmp_path / ".git" / "1")
    put(tmp_path / "c" / ".1.abcd.partial")
    (tmp_path / "README").write_text("x")

    assert LocalRepository(tmp_path).models() == ("a", "b")


def test_a_root_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    """Not an empty repository."""
    with pytest.raises(DukouError) as caught:
        LocalRepository(tmp_path / "gone").models()

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE


@given(st.integers(0, 2**63 - 1), st.integers(0, 20))
def test_leading_zeros_do_not_change_a_number(number: int, zeros: int) -> None:
    """As TensorFlow Serving reads folder names."""
    assert version_number("0" * zeros + str(number)) == number


@pytest.mark.parametrize("name", ["", "v1", "1.0", "-1", "+1", " 1", "1_0", "²", "٣", str(2**63), "9" * 5000])
def test_other_names_are_no_numbers(name: str) -> None:
    """Only ASCII digits, up to 64 bits."""
    assert version_number(name) is None


def test_a_path_is_recognised(tmp_path: Path) -> None:
    """The four kinds of thing that can be served."""
    version = put(tmp_path / "models" / "iris" / "1")
    (tmp_path / "model.joblib").write_text("x")

    assert classify(tmp_path / "model.joblib") == "file"
    assert classify(version) == "version"
    assert classify(version.parent) == "model"
    assert classify(tmp_path / "models") == "repository"


def test_a_misspelt_path_is_told_its_neighbour(tmp_path: Path) -> None:
    """The most common mistake of all."""
    (tmp_path / "model.joblib").write_text("x")

    with pytest.raises(DukouError) as caught:
        classify(tmp_path / "modle.joblib")

    assert caught.value.reason is Reason.PATH_NOT_FOUND
    assert f"did you mean {tmp_path / 'model.joblib'}?" in str(caught.value)


def test_paths_that_cannot_be_served_are_told_what_could(tmp_path: Path) -> None:
    """Each with its own advice."""
    for name in ("empty", "saved", "triton", "loose", "text", "unpacked/1", "python", "all/bare", "tf/m/1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "void.onnx").touch()
    (tmp_path / "saved" / "saved_model.pb").write_text("x")
    (tmp_path / "triton" / "config.pbtxt").write_text("x")
    (tmp_path / "all" / "bare" / "config.pbtxt").write_text("x")
    (tmp_path / "tf" / "m" / "1" / "saved_model.pb").write_text("x")
    (tmp_path / "python" / "model.py").write_text("x")
    (tmp_path / "loose" / "a.joblib").write_text("x")
    (tmp_path / "text" / "readme").write_text("x")
    manifest = put(tmp_path / "iris" / "1") / MANIFEST
    advice = {
        tmp_path / "void.onnx": "the file is empty",
        tmp_path / "empty": "the folder is empty",
        tmp_path / "saved": "SavedModel",
        tmp_path / "triton": "Triton",
        tmp_path / "all": f"has no version: numbered folders such as 1 hold the model's file ({tmp_path / 'all/bare'})",
        tmp_path / "tf": f"export it to ONNX ({tmp_path / 'tf/m/1'})",
        tmp_path / "loose": str(tmp_path / "loose" / "a.joblib"),
        tmp_path / "text": "it holds no model",
        tmp_path / "unpacked": f"hold no {MANIFEST}",
        tmp_path / "python" / "model.py": f"give its folder: {tmp_path / 'python'}",
        manifest: f"give the folder of the manifest: {manifest.parent}",
        Path("/dev/null"): "neither a file nor a folder",
        tmp_path / "gone" / "deep": "no such file",
        tmp_path / "void.onnx" / "below": "",
    }

    for path, says in advice.items():
        with pytest.raises(DukouError) as caught:
            classify(path)
        assert says in str(caught.value)
