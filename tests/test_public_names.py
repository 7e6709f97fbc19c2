"""The package's own names: there, typed, and paid for only when used."""

import subprocess
import sys

import pytest

import dukou


def test_every_public_name_is_there() -> None:
    """`__all__`, `dir()` and what can be had are the same."""
    assert set(dukou.__all__) == set(dir(dukou))
    for name in dukou.__all__:
        assert getattr(dukou, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    """A typing mistake says so."""
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        dukou.Cleint  # type: ignore[attr-defined]


def test_importing_dukou_imports_nothing_else_of_weight() -> None:
    """`import dukou` is paid by every process: it may load nothing of dukou, and no library."""
    code = "import sys; before = set(sys.modules); import dukou; print(sorted(set(sys.modules) - before))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert "numpy" not in done.stdout
    assert "typing" not in done.stdout
    assert [name for name in done.stdout.split("'") if name.startswith("dukou")] == ["dukou"]
