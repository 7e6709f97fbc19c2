"""The folder of a server's own files: its settings for the workers, the counters, the store, sockets, a lock."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dukou.config import Config, user_state_dir
from dukou.core.clock import wall
from dukou.core.errors import DukouError, Reason

LOCK = "lock"
PREFIX = "dukou-state-"
STALE_S = 60.0
"""A temporary folder without a server is removed by the next one once it is this old: a younger one may not be locked
yet."""


def state_dir(config: Config) -> str:
    """Where a server of these settings keeps its state; empty for a temporary folder.

    What verbs have changed has to survive restarts, so a server that serves a repository or a config file at fixed
    addresses finds the same folder again: it is named by what makes it that server. A server of bare model files, or
    at a port of the system's choice, has nothing to come back to.
    """
    if config.telemetry.state_dir:
        return config.telemetry.state_dir
    models = config.models
    lasting = bool(models.config_file) or any(Path(path).is_dir() for path in models.paths)
    if not lasting or any(listen.partition(",")[0].endswith(":0") for listen in config.server.listen):
        return ""
    who = [*(str(Path(path).absolute()) for path in models.paths), models.name, *config.server.listen]
    if models.config_file:
        who.append(str(Path(models.config_file).absolute()))
    return str(user_state_dir() / "servers" / hashlib.sha256("\n".join(who).encode()).hexdigest()[:16])


@contextmanager
def state_folder(configured: str) -> Iterator[Path]:
    """`configured`, made if need be, or else a temporary folder that is removed at the end; held by one server at a
    time. Raises DukouError CONFIG_INVALID."""
    if not configured:
        remove_stale(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            with _hold(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    folder = Path(configured)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _hold(folder)
    except BlockingIOError:
        detail = (
            f"another server uses the state folder {folder}; does one of the same models and addresses run already?"
        )
        raise DukouError(Reason.CONFIG_INVALID, detail=detail) from None
    except FileExistsError:
        raise DukouError(Reason.CONFIG_INVALID, detail=f"telemetry.state_dir: {folder} is not a folder") from None
    except OSError as error:
        detail = f"telemetry.state_dir: {error.filename or folder}: {error.strerror}"
        raise DukouError(Reason.CONFIG_INVALID, detail=detail) from error
    with lock:
        yield folder


def remove_stale(parent: Path) -> None:
    """Remove what this user's servers left in `parent` when they were killed."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    _remove_if_stale(Path(entry.path), entry.stat(follow_symlinks=False))


def _remove_if_stale(folder: Path, status: os.stat_result) -> None:
    if status.st_uid != os.getuid() or wall() - status.st_mtime < STALE_S:
        return
    with _hold(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _hold(folder: Path) -> IO[str]:
    """The folder's lock, held until it is closed or this process ends. Raises BlockingIOError where another has it."""
    lock = (folder / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        lock.close()
        raise
    return lock
