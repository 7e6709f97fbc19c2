"""Runtimes by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from dukou.core.errors import DukouError, Reason
from dukou.runtimes.onnx import OnnxRuntime
from dukou.runtimes.registry import names, runtime
from dukou.runtimes.sklearn import SklearnRuntime


def package(folder: Path, name: str, module: str) -> None:
    """An installed package, as pip leaves it, with a runtime called `name`."""
    (folder / "other_runtime.py").write_text(
        "class Other:\n    def load(self, folder, manifest):\n        return 'loaded'\n"
    )
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dukou.runtimes]\n{name} = {module}\n")


def test_built_in_runtimes_are_there() -> None:
    """ONNX and scikit-learn, without being installed as entry points."""
    assert isinstance(runtime("onnx"), OnnxRuntime)
    assert isinstance(runtime("sklearn"), SklearnRuntime)
    assert {"onnx", "sklearn"} <= set(names())


def test_another_package_adds_a_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point, without a line in dukou."""
    package(tmp_path, "other", "other_runtime:Other")
    monkeypatch.syspath_prepend(tmp_path)

    assert type(runtime("other")).__name__ == "Other"
    assert names()[-1] == "other"


def test_a_built_in_name_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that calls its runtime `onnx` changes nothing."""
    package(tmp_path, "onnx", "other_runtime:Other")
    monkeypatch.syspath_prepend(tmp_path)

    assert isinstance(runtime("onnx"), OnnxRuntime)
    assert names().count("onnx") == 1


def test_an_unknown_runtime_is_answered_with_the_known() -> None:
    """The error lists what is installed."""
    with pytest.raises(DukouError, match="installed are: onnx, python, sklearn") as caught:
        runtime("tensorflow")

    assert caught.value.reason is Reason.RUNTIME_NOT_FOUND


def test_a_runtime_whose_import_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without its framework, or with a wrong entry point."""
    package(tmp_path, "other", "no_such_module:Other")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(DukouError, match="no_such_module") as caught:
        runtime("other")

    assert caught.value.reason is Reason.RUNTIME_UNAVAILABLE


def test_the_registry_imports_no_framework() -> None:
    """Knowing the names costs nothing, and serving ONNX never imports scikit-learn."""
    code = (
        "import sys; from dukou.runtimes.registry import names, runtime; names(); "
        "print([m for m in ('onnxruntime', 'sklearn') if m in sys.modules]); "
        "runtime('onnx'); print([m for m in ('sklearn', 'pandas', 'scipy', 'onnx') if m in sys.modules])"
    )

    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert child.stdout == "[]\n[]\n"
