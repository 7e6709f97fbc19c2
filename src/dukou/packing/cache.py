"""Bare model files, packed in passing: the first start packs, later ones find the version and import no framework."""

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest
from dukou.packing.environment import library_versions
from dukou.packing.pack import COMPILED, ignore, pack
from dukou.repository.integrity import sha256, verify
from dukou.repository.manifest import read_manifest

KEPT = 32
"""Entries that stay, the most recently used ones."""

NAME, VERSION = "model", 1
"""What every entry is packed as. What it serves as is the caller's to say: the same file may serve under two names."""

_ENTRY = re.compile(r"[0-9a-f]{64}")


def pack_in_passing(
    source: Path,
    *,
    name: str,
    cache_dir: Path,
    trust_pickle: bool = False,
    allow_version_mismatch: bool = False,
    report: Callable[[str], None] = ignore,
) -> Path:
    """The folder of `source` as a packed version, made now or found from an earlier start.

    An entry is found by the SHA-256 of the file, the versions of the libraries that decide its answers, and the two
    permissions; it knows nothing of `name`, which only names the model in errors: give the manifest the id to serve
    under with `msgspec.structs.replace(manifest, id=...)`, as a repository does. A damaged entry is made again. Raises
    DukouError as `pack` does, NOT_WRITABLE, and CONFIG_INVALID when others may write into `cache_dir`.
    """
    try:
        _make_private(cache_dir)
        entry = cache_dir / cache_key(source, trust_pickle, allow_version_mismatch)
        folder = entry / NAME / str(VERSION)
        if not _is_good(folder, source):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                pack(
                    source,
                    name=NAME,
                    version=VERSION,
                    to=entry,
                    trust_pickle=trust_pickle,
                    allow_version_mismatch=allow_version_mismatch,
                    report=report,
                )
            except DukouError as error:
                if error.reason is not Reason.ALREADY_PACKED:  # another start was faster: its entry is as good
                    raise
        os.utime(entry)
        _forget_old(cache_dir)
    except DukouError as error:
        raise error.within(model=name) from error
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, model=name, path=str(source), detail=str(error)) from error
    return folder


def cache_key(source: Path, trust_pickle: bool, allow_version_mismatch: bool) -> str:
    """The name of `source`'s entry: 64 hex digits. Reads library versions without importing. Raises OSError."""
    parts = [
        sha256(source),
        platform.python_version(),
        platform.machine(),
        *(f"{library}={version}" for library, version in sorted(library_versions().items())),
        f"trust={trust_pickle}",
        f"mismatch={allow_version_mismatch}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _make_private(folder: Path) -> None:
    """Make the cache folder. What lies in it is served, so only its owner may write there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DukouError(Reason.NOT_WRITABLE, path=str(folder), detail=error.strerror) from error
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        detail = f"the cache folder {folder} can be written by others; choose another one, or `chmod go-w` it"
        raise DukouError(Reason.CONFIG_INVALID, detail=detail)


def _is_good(folder: Path, source: Path) -> bool:
    """Whether the entry is whole, and an ONNX model's weights beside it are those that were packed."""
    if not folder.is_dir():
        return False
    try:
        manifest = read_manifest(folder)
        verify(folder, manifest)
        return all(sha256(source.parent / name) == digest for name, digest in _companions(manifest))
    except (DukouError, OSError):
        return False


def _companions(manifest: ModelManifest) -> list[tuple[str, str]]:
    if manifest.original != COMPILED:
        return []
    return [(name, digest) for name, digest in manifest.digests.items() if name != COMPILED]


def _forget_old(cache_dir: Path) -> None:
    entries = [path for path in cache_dir.iterdir() if _ENTRY.fullmatch(path.name)]
    for entry in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(entry, ignore_errors=True)
