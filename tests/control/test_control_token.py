"""The token is made once, for its owner's eyes only."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dukou.control.token import read_or_make, same
from dukou.core.errors import DukouError, Reason


def test_a_token_is_made_once(tmp_path: Path) -> None:
    """The next start finds the same one; the file and its folder are closed to others."""
    path = tmp_path / "state" / "dukou" / "token"

    token = read_or_make(path)

    assert read_or_make(path) == token
    assert len(token) >= 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["token"]


def test_tokens_differ(tmp_path: Path) -> None:
    """Each is drawn anew."""
    assert read_or_make(tmp_path / "a") != read_or_make(tmp_path / "b")


def test_servers_that_start_at_once_agree(tmp_path: Path) -> None:
    """One file is made, and nobody reads it before it is whole."""
    with ThreadPoolExecutor(16) as pool:
        tokens = set(pool.map(read_or_make, [tmp_path / "token"] * 64))

    assert len(tokens) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_token_that_others_can_read_is_none(tmp_path: Path, mode: int) -> None:
    """The error says what to do."""
    path = tmp_path / "token"
    read_or_make(path)
    path.chmod(mode)

    with pytest.raises(DukouError) as caught:
        read_or_make(path)

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert f"chmod 600 {path}" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"short\n", b"two words, that is no token", b"\xff" * 40, b"x" * 2000])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file must not be a token that everybody knows."""
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(DukouError, match="is no token"):
        read_or_make(path)


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    """What the system says is passed on."""
    with pytest.raises(DukouError, match="Is a directory"):
        read_or_make(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_of_another_user_is_none(tmp_path: Path) -> None:
    """Whoever made it knows it."""
    path = tmp_path / "token"
    read_or_make(path)
    os.chown(path, 65534, 65534)

    with pytest.raises(DukouError, match="belongs to another user"):
        read_or_make(path)


@pytest.mark.parametrize(
    ("said", "expected"), [("secret-token", True), ("secret-tokem", False), ("", False), ("sécret\udc80", False)]
)
def test_only_the_token_is_the_token(said: str, expected: bool) -> None:
    """Whatever a caller sends is compared, never raised at."""
    assert same("secret-token", said) is expected
