"""The token of the admin API: made on the first start, in a file that only its owner may read."""

import hmac
import os
import secrets
import stat
from pathlib import Path

from dukou.core.errors import DukouError, Reason

MAX_FILE_BYTES = 1024
LEAST_CHARACTERS = 16


def read_or_make(path: Path) -> str:
    """The token in that file; where there is no file, a new one is made, and the folders above it.

    Raises DukouError CONFIG_INVALID: the file cannot be read or made, others may read it or it is theirs, or what it
    holds is no token.
    """
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            _make(path)
            return _read(path)  # another server may have been faster
    except OSError as error:
        raise _invalid(path, str(error.strerror or error)) from error


def same(token: str, said: str) -> bool:
    """Whether a caller said the token; how long it takes says nothing about how much of it was right."""
    return hmac.compare_digest(token.encode(), said.encode(errors="replace"))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _invalid(path, "it is not a file")
        if status.st_uid not in (os.geteuid(), 0):
            raise _invalid(path, "it belongs to another user, who knows the token")
        if status.st_mode & 0o077:
            raise _invalid(path, f"other users can read it; chmod 600 {path}, or remove it and a new one is made")
        content = file.read(MAX_FILE_BYTES + 1)
    token = content.decode("ascii", "replace").strip()
    if not LEAST_CHARACTERS <= len(token) <= MAX_FILE_BYTES or not all("!" <= each <= "~" for each in token):
        raise _invalid(path, f"what it holds is no token: {LEAST_CHARACTERS} or more characters of ASCII in one line")
    return token


def _make(path: Path) -> None:
    """A file that is there whole or not at all: whoever starts at the same time never reads half a token."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def _invalid(path: Path, detail: str) -> DukouError:
    return DukouError(Reason.CONFIG_INVALID, detail=f"the admin API's token file {path}: {detail}")
