"""The folder of a server's own files."""

import os
import tempfile
from pathlib import Path

import pytest

from dukou.app.state import LOCK, PREFIX, STALE_S, state_folder
from dukou.core.errors import DukouError, Reason


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_behind(parent: Path, name: str, age_s: float) -> Path:
    folder = parent / f"{PREFIX}{name}"
    folder.mkdir()
    (folder / LOCK).touch()
    (folder / "settings.json").touch()
    made = folder.stat().st_mtime
    os.utime(folder, (made - age_s, made - age_s))
    return folder


def test_a_temporary_folder_is_gone_afterwards(temporary: Path) -> None:
    """Nothing stays of a server that ends by itself."""
    with state_folder("") as folder:
        assert folder.is_dir()

    assert list(temporary.iterdir()) == []


def test_what_killed_servers_left_is_removed_by_the_next(temporary: Path) -> None:
    """Old and unlocked: nobody's."""
    stale = left_behind(temporary, "killed", STALE_S + 1)

    with state_folder(""):
        assert not stale.exists()


def test_what_may_be_in_use_stays(temporary: Path) -> None:
    """A folder whose lock is held, one that is young, and what is not ours by its name."""
    young = left_behind(temporary, "young", 0.0)
    foreign = temporary / "dukou-demo-1"
    foreign.mkdir()
    with state_folder("") as held:
        os.utime(held, (0.0, 0.0))

        with state_folder(""):
            assert held.exists()
            assert young.exists()
            assert foreign.exists()


def test_a_configured_folder_has_one_server(tmp_path: Path) -> None:
    """The second one is refused, and may have it later."""
    configured = str(tmp_path / "state")
    with state_folder(configured):
        second = state_folder(configured)
        with pytest.raises(
            DukouError, match=r"another server uses .*; does one of the same models and addresses run already"
        ) as caught:
            second.__enter__()
    with state_folder(configured) as folder:
        assert folder == tmp_path / "state"

    assert caught.value.reason is Reason.CONFIG_INVALID


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    """Setting, path, and what is wrong with it."""
    (tmp_path / "afile").touch()

    with (
        pytest.raises(DukouError, match=r"telemetry\.state_dir: .*afile is not a folder"),
        state_folder(str(tmp_path / "afile")),
    ):
        pass


def test_what_goes_wrong_while_serving_is_not_said_of_the_folder(tmp_path: Path) -> None:
    """The body's own errors pass through as they are."""
    with pytest.raises(PermissionError, match="models"), state_folder(str(tmp_path)):
        raise PermissionError("models")
