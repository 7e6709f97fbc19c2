"""The manifest file: what a version folder says about itself, as TOML that people read and tools check."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import tomli_w

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DATATYPES, ModelManifest

MANIFEST = "manifest.toml"
FORMAT = 1
MAX_BYTES = 16 * 1024 * 1024
MAX_VERSION = 2**63 - 1

_HEADER = """\
# What this version is, which of its files serves, and why. Written when it was packed.
# A version never changes: pack again under another number. A file that no longer has its SHA-256 below is not served.

"""
_ORDER = ("format", "runtime", "serving", "original", "id", "evidence", "signatures", "options", "metrics")
_NUMBERS = re.compile(r"^[^\n\"']*= \[\n(?: +[-+.\w]+,\n)+\]$", re.MULTILINE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[^\s/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]{0,199}")


def read_manifest(folder: Path) -> ModelManifest:
    """The checked content of `folder / "manifest.toml"`; the files it names are not opened.

    Raises DukouError MANIFEST_INVALID: not there, not TOML, an unknown format or key, a value of the wrong kind, or a
    file name that leads out of the folder.
    """
    path = folder / MANIFEST
    try:
        manifest = _decode(_read(path))
        check(manifest)
        for name in _files(manifest):
            _stays_inside(folder, name)
    except (_InvalidError, msgspec.ValidationError) as error:
        raise DukouError(Reason.MANIFEST_INVALID, path=str(path), detail=str(error)) from error
    return manifest


def write_manifest(folder: Path, manifest: ModelManifest) -> None:
    """Write `folder / "manifest.toml"`. Raises DukouError MANIFEST_INVALID for what `read_manifest` would refuse."""
    path = folder / MANIFEST
    try:
        check(manifest)
        text = _HEADER + _dump(manifest)
        if _decode(text.encode()) != manifest:
            raise _InvalidError("its options hold values that TOML cannot keep")
    except (_InvalidError, TypeError, msgspec.ValidationError) as error:
        raise DukouError(Reason.MANIFEST_INVALID, path=str(path), detail=str(error)) from error
    path.write_text(text, encoding="utf-8")


def check(manifest: ModelManifest) -> None:
    """What the types alone do not say. Raises ValueError with a sentence for people."""
    if not _NAME.fullmatch(manifest.id.name):
        raise _InvalidError(
            f"{manifest.id.name!r} cannot name a model: no slashes, no leading dot, 1 to 200 characters"
        )
    if not 0 <= manifest.id.version <= MAX_VERSION:
        raise _InvalidError(f"{manifest.id.version} cannot number a version: 0 to {MAX_VERSION}")
    if not manifest.signatures:
        raise _InvalidError("it has no signatures")
    for key, signature in manifest.signatures.items():
        if key != signature.name:
            raise _InvalidError(f"the signature under {key!r} calls itself {signature.name!r}")
        for spec in (*signature.inputs, *signature.outputs):
            if spec.datatype not in DATATYPES:
                raise _InvalidError(
                    f"{spec.name!r} has the datatype {spec.datatype!r}; there are: {', '.join(DATATYPES)}"
                )
    for name in _files(manifest):
        _check_relative(name)
    for name, digest in manifest.digests.items():
        if not _SHA256.fullmatch(digest):
            raise _InvalidError(f"the digest of {name!r} is not a SHA-256 in 64 small hex digits")
    for key, name in (("serving", manifest.serving), ("original", manifest.original)):
        if name and not any(file == name or file.startswith(name + "/") for file in manifest.digests):
            raise _InvalidError(f"{key} is {name!r}, which has no digest")


class _InvalidError(ValueError):
    """Its text is the `detail` of MANIFEST_INVALID."""


_TOML_TYPES = tuple(
    type(value) for value in tomllib.loads("a = 2000-01-01\nb = 00:00:00\nc = 2000-01-01T00:00:00").values()
)


def _dump(manifest: ModelManifest) -> str:
    """TOML in the order of a reader's questions, lists of numbers on one line."""
    tree = msgspec.to_builtins(manifest, builtin_types=_TOML_TYPES)
    ordered = {key: tree.pop(key) for key in _ORDER if key in tree} | tree
    return _NUMBERS.sub(
        lambda list_: " ".join(list_[0].split()).replace("[ ", "[").replace(", ]", "]"), tomli_w.dumps(ordered)
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _InvalidError("there is no such file; `dukou pack` writes it") from error
    except OSError as error:
        raise _InvalidError(f"it cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise _InvalidError(f"it is larger than {MAX_BYTES} bytes")
    return content


def _decode(content: bytes) -> ModelManifest:
    try:
        tree: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _InvalidError(f"it is not TOML ({error})") from error
    number = tree.get("format")
    if number != FORMAT or isinstance(number, bool):
        came = "no format number" if number is None else f"format {number!r}"
        raise _InvalidError(f"it has {came}, this dukou reads format {FORMAT}; a newer dukou may have written it")
    return msgspec.convert(tree, ModelManifest)


def _files(manifest: ModelManifest) -> Iterator[str]:
    yield manifest.serving
    if manifest.original:
        yield manifest.original
    yield from manifest.digests


def _check_relative(name: str) -> None:
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and not name.startswith("/") and ".." not in parts
    if not parts or not plain or "\\" in name or "\0" in name:
        raise _InvalidError(f"{name!r} is not the name of a file inside the version's folder")
    if name == MANIFEST:
        raise _InvalidError("the manifest cannot list itself")


def _stays_inside(folder: Path, name: str) -> None:
    """Symbolic links may point within the folder only."""
    try:
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # a loop of links
        raise _InvalidError(f"{name!r} cannot be followed ({error})") from error
    if not inside:
        raise _InvalidError(f"{name!r} is a link that leads out of the version's folder")
