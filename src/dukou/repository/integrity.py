"""Whole files or none: digests of what is there, and folders that appear complete or not at all."""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


def sha256(path: Path) -> str:
    """The SHA-256 of a file in small hex digits, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_to_serve(manifest: ModelManifest) -> tuple[str, ...]:
    """The files that serving may open: every one with a digest except the original, where that is not what serves.

    External data of an ONNX graph is opened by its runtime under names that only the graph knows, so all companions of
    the serving file count.
    """
    idle = manifest.original if manifest.original != manifest.serving else ""
    return tuple(name for name in manifest.digests if not idle or (name != idle and not name.startswith(idle + "/")))


def verify(folder: Path, manifest: ModelManifest, files: Iterable[str] | None = None) -> None:
    """Compare `files` (None: every file of the version) with their digests.

    Raises DukouError DIGEST_MISMATCH, or ARTIFACT_UNREADABLE for a file that is missing, unreadable, a folder, or
    without a digest.
    """
    place = {"model": manifest.id.name, "version": manifest.id.version}
    for name in manifest.digests if files is None else files:
        path = folder / name
        wanted = manifest.digests.get(name)
        if wanted is None:
            raise DukouError(
                Reason.ARTIFACT_UNREADABLE, path=str(path), detail="the manifest has no digest of it", **place
            )
        try:
            got = sha256(path)
        except OSError as error:
            detail = "the file is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
            raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail, **place) from error
        if got != wanted:
            raise DukouError(Reason.DIGEST_MISMATCH, path=str(path), got=got, wanted=wanted, **place)


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A fresh folder to fill; on leaving it is on disk and called `final`, or after any error nothing is left.

    It is filled beside `final` under a hidden name that no repository reads as a version, flushed, and renamed.
    Raises DukouError ALREADY_PACKED (before or after filling: another packer may have been faster), DISK_FULL,
    NOT_WRITABLE; other errors of the body pass through.
    """
    final = final.absolute()
    if os.path.lexists(final):
        raise DukouError(Reason.ALREADY_PACKED, path=str(final))
    new_parents: list[Path] = []
    partial = final.parent / f".{final.name}.{secrets.token_hex(4)}.partial"
    try:
        new_parents += [parent for parent in final.parents if not parent.exists()]
        partial.mkdir(parents=True)
        yield partial
        _flush(partial)
        _rename(partial, final)
        _flush_folder(final.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(new_parents)
        known = _explain(error, final)
        if known is not None:
            raise known from error
        raise


def give_place(folder: Path, final: Path) -> None:
    """Rename a folder, whose files are on disk, to `final`, whose parents are made if need be.

    Raises DukouError ALREADY_PACKED where something is there already, DISK_FULL, NOT_WRITABLE; then `folder` is where
    it was and nothing was made.
    """
    final = final.absolute()
    new_parents = [parent for parent in final.parents if not parent.exists()]
    try:
        if os.path.lexists(final):
            raise DukouError(Reason.ALREADY_PACKED, path=str(final))
        final.parent.mkdir(parents=True, exist_ok=True)
        _rename(folder, final)
        _flush_folder(final.parent)
    except BaseException as error:
        _remove_empty(new_parents)
        known = _explain(error, final)
        if known is not None:
            raise known from error
        raise


def _rename(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise DukouError(Reason.ALREADY_PACKED, path=str(final)) from error
        raise


def _explain(error: BaseException, final: Path) -> DukouError | None:
    """The DukouError for a disk that is full or a place that may not be written; None for anything else."""
    if not isinstance(error, OSError):
        return None
    if error.errno in _NO_SPACE:
        return DukouError(Reason.DISK_FULL, path=str(final))
    written = isinstance(error.filename, str) and Path(error.filename).is_relative_to(final.parent)
    above = isinstance(error.filename, str) and final.is_relative_to(error.filename)
    if error.errno in _NO_RIGHT and (written or above):
        return DukouError(Reason.NOT_WRITABLE, path=str(final), detail=error.strerror)
    return None


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove the parents that were made for a folder that did not come to be; one that someone else uses stays."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _flush(folder: Path) -> None:
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                flush_file(path)
        _flush_folder(Path(root))


def flush_file(path: Path) -> None:
    """Return when the file's content is on disk. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
