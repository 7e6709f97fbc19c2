"""Packing in a child process: what its code prints, where it imports from, how it is stopped."""

import threading
from pathlib import Path

import pytest

from dukou.app.passing import Packer
from dukou.config import ModelsConfig
from dukou.core.errors import DukouError

pytestmark = pytest.mark.slow


def packer(tmp_path: Path, report=lambda step: None) -> Packer:
    return Packer(ModelsConfig(cache_dir=str(tmp_path / "cache")), report)


def test_what_the_child_prints_is_not_taken_for_its_report(
    iris_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A library may print when it is imported: that goes to standard error."""
    (tmp_path / "sitecustomize.py").write_text("print('a greeting')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    folder = packer(tmp_path).pack(iris_file, "iris")

    out, err = capfd.readouterr()
    assert (folder / "manifest.toml").exists()
    assert (out, "a greeting" in err) == ("", True)


def test_files_of_the_current_folder_are_not_imported(
    iris_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts dukou in a folder with a `joblib.py` does not run it."""
    (tmp_path / "joblib.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)

    folder = packer(tmp_path).pack(iris_file, "iris")

    assert (folder / "manifest.toml").exists()


def test_stopping_ends_what_is_packed_and_what_would_follow(iris_file: Path, tmp_path: Path) -> None:
    """From another thread: the caller gets an error soon, and no folder."""
    begun = threading.Event()
    packing = packer(tmp_path, lambda step: (begun.set(), stopped.wait(20)))
    stopped = threading.Event()
    errors: list[str] = []

    def pack() -> None:
        try:
            packing.pack(iris_file, "iris")
        except DukouError as error:
            errors.append(str(error))

    thread = threading.Thread(target=pack)
    thread.start()
    assert begun.wait(20)
    packing.stop()
    stopped.set()
    thread.join(20)

    assert errors == [f"{iris_file}: the process that packs it was ended by SIGKILL"]
    with pytest.raises(DukouError, match="stopped"):
        packing.pack(iris_file, "iris")
