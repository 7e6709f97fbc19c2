"""The files of a version as the file system tells of them: names, sizes, times, inodes. None is opened."""

import os
import re
import stat
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

import msgspec

MOST_FILES = 10_000
"""Files and folders in one version; a folder with more is no version, but something put there by mistake."""

UNFINISHED = re.compile(
    r".*(\.tmp|\.temp|\.part|\.partial|\.filepart|\.crdownload|\.download|~|\._COPYING_)"
    r"|\..+\.[A-Za-z0-9]{6}"  # rsync's
)
"""Names that programs give to files which they have not finished."""

_IGNORED = {"__pycache__"}  # written by serving a model.py

Stamp: TypeAlias = tuple[int, int, int]
"""A file's size, time of change in ns, and inode."""


class Files(msgspec.Struct, frozen=True):
    """The visible files of a folder by relative path, those of folders in it included.

    `changed_at` is the Unix time of the latest change that the file system knows of, which no copying program can set.
    `unfinished` is a file under a temporary name, `refused` says why these files are not to be opened at all.
    """

    stamps: Mapping[str, Stamp]
    changed_at: float
    unfinished: str = ""
    refused: str = ""

    @property
    def bytes(self) -> int:
        """What they take together."""
        return sum(size for size, _, _ in self.stamps.values())

    def mark(self) -> str:
        """Changes whenever one of the files does."""
        text = repr((sorted(self.stamps.items()), self.unfinished, self.refused))
        return blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def list_files(folder: Path, root: Path, beside: Path | None = None) -> Files:
    """The files of `folder`, and `beside` it one more where it exists; symbolic links must stay in `root` (resolved).

    What is deleted meanwhile is not there. Raises OSError where a folder cannot be read.
    """
    stamps: dict[str, Stamp] = {}
    unfinished = ""
    if leaves(folder, root):
        return Files({}, 0.0, refused=_refuse(folder, root))
    changed_at = folder.stat().st_ctime
    left = MOST_FILES
    inside = [("", folder)]
    while inside:
        prefix, path = inside.pop()
        for entry in _entries(path, optional=bool(prefix)):
            left -= 1
            if left < 0:
                return Files(stamps, changed_at, refused=f"{folder}: it holds more than {MOST_FILES} files and folders")
            if UNFINISHED.fullmatch(entry.name):
                unfinished = unfinished or prefix + entry.name
            if entry.name.startswith(".") or entry.name in _IGNORED:
                continue
            if entry.is_symlink() and leaves(Path(entry.path), root):
                return Files(stamps, changed_at, refused=_refuse(Path(entry.path), root))
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            changed_at = max(changed_at, status.st_ctime)
            if stat.S_ISDIR(status.st_mode):
                inside.append((f"{prefix}{entry.name}/", Path(entry.path)))
            elif stat.S_ISREG(status.st_mode):
                stamps[prefix + entry.name] = _stamp(status)
            else:
                return Files(stamps, changed_at, refused=f"{entry.path}: it is neither a file nor a folder")
    if beside is not None and beside.is_file():
        status = beside.stat()
        stamps[f"../{beside.name}"] = _stamp(status)
        changed_at = max(changed_at, status.st_ctime)
    return Files(stamps, changed_at, unfinished)


def leaves(path: Path, root: Path) -> bool:
    """Whether `path`, its symbolic links followed, is outside `root`, which is resolved already."""
    try:
        return not path.resolve().is_relative_to(root)
    except RuntimeError:  # a loop of links
        return True


def _refuse(path: Path, root: Path) -> str:
    return f"{path}: it is a symbolic link that leads out of {root}; copy what it leads to, or serve that folder itself"


def _entries(path: Path, *, optional: bool) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry, _ in zip(entries, range(MOST_FILES + 1), strict=False)]
    except (FileNotFoundError, NotADirectoryError):
        if optional:
            return []
        raise


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ino
