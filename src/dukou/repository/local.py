"""Versions in a folder of this machine, laid out as TensorFlow Serving reads them: root/MODEL/VERSION/manifest.toml."""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest, ModelVersion
from dukou.repository.integrity import files_to_serve, verify
from dukou.repository.manifest import MANIFEST, MAX_VERSION, read_manifest

Kind: TypeAlias = Literal["file", "version", "model", "repository"]

_FOREIGN = {
    "saved_model.pb": "this is a TensorFlow SavedModel, which is not supported yet; export it to ONNX",
    "MLmodel": "this is an MLflow model; give the model file inside it",
    "config.pbtxt": "this is a Triton model folder; give the model file of one of its versions",
}
_MODEL_FILES = {".joblib", ".pkl", ".pickle", ".skops", ".onnx"}


class Scan(msgspec.Struct, frozen=True):
    """What a model's folder holds: versions that can be read, those that cannot and why, and remarks for the log."""

    manifests: Mapping[int, ModelManifest]
    folders: Mapping[int, Path]
    broken: Mapping[int, DukouError]
    warnings: tuple[str, ...]


class LocalRepository:
    """A Repository of one folder. Nothing is kept in memory: each call reads the folder as it is now."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> tuple[str, ...]:
        """The names of the folders that hold at least one numbered folder, sorted. Raises DukouError."""
        return tuple(folder.name for folder in _folders(self.root) if any(_numbered(folder)))

    def versions(self, model: str) -> Mapping[int, ModelManifest]:
        """Every readable version of `model` with its manifest, highest first; `scan` also tells the broken ones.

        Raises DukouError MODEL_NOT_FOUND.
        """
        return self.scan(model).manifests

    def scan(self, model: str) -> Scan:
        """What is there of `model`, good and broken, highest first.

        Its place names a version, whatever its manifest was packed as. Raises DukouError MODEL_NOT_FOUND.
        """
        folder = self.root / model
        plain = model == folder.name and not model.startswith(".")
        if not (plain and folder.is_dir() and any(_numbered(folder))):
            raise DukouError(Reason.MODEL_NOT_FOUND, model=model, served=", ".join(self.models()) or "none")
        return scan_model(folder, model)

    def fetch(self, version: ModelVersion) -> Path:
        """The folder of a version, the files that serve it verified.

        Raises DukouError: DIGEST_MISMATCH, ARTIFACT_UNREADABLE, MANIFEST_INVALID, VERSION_NOT_FOUND, MODEL_NOT_FOUND.
        """
        found = self.scan(version.name)
        if version.version in found.broken:
            raise found.broken[version.version]
        if version.version not in found.manifests:
            raise DukouError(
                Reason.VERSION_NOT_FOUND,
                model=version.name,
                version=version.version,
                served=", ".join(map(str, found.manifests)) or "none",
            )
        folder, manifest = found.folders[version.version], found.manifests[version.version]
        verify(folder, manifest, files_to_serve(manifest))
        return folder


def scan_model(folder: Path, model: str) -> Scan:
    """What a model folder holds, its versions called `model`. Raises DukouError when the folder cannot be listed."""
    folders: dict[int, Path] = {}
    warnings = []
    for number, path in _numbered(folder):
        if number in folders:
            warnings.append(f"{folders[number]} and {path} are both version {number} of {model}; the last one counts")
        folders[number] = path
    folders = dict(sorted(folders.items(), reverse=True))
    manifests: dict[int, ModelManifest] = {}
    broken: dict[int, DukouError] = {}
    for number, path in folders.items():
        try:
            manifests[number] = msgspec.structs.replace(read_manifest(path), id=ModelVersion(model, number))
        except DukouError as error:
            broken[number] = error.within(model=model, version=number)
    return Scan(manifests, folders, broken, tuple(warnings))


def version_number(name: str) -> int | None:
    """The version that a folder's name means: ASCII digits only, leading zeros allowed ("00000123" is 123)."""
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name) if len(name) <= 64 else MAX_VERSION + 1
    return number if number <= MAX_VERSION else None


def classify(path: Path) -> Kind:
    """What a user's path is: a model file, the folder of a version, of a model's versions, or of many models.

    Raises DukouError PATH_NOT_FOUND, ARTIFACT_UNREADABLE or ARTIFACT_UNSUPPORTED with what to do instead.
    """
    try:
        if not path.exists():
            raise DukouError(Reason.PATH_NOT_FOUND, path=str(path), detail=_nearby(path))
        if path.is_file():
            return _classify_file(path)
        if not path.is_dir():
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail="this is neither a file nor a folder")
        if (path / MANIFEST).exists():
            return "version"
        if _holds_versions(path):
            return "model"
        if any(_holds_versions(folder) for folder in _folders(path)):
            return "repository"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=_instead(path))
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error.strerror)) from error


def _classify_file(path: Path) -> Kind:
    if path.name == MANIFEST:
        raise DukouError(
            Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=f"give the folder of the manifest: {path.parent}"
        )
    if path.stat().st_size == 0:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail="the file is empty")
    if not os.access(path, os.R_OK):
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail="no permission to read it")
    return "file"


def _holds_versions(folder: Path) -> bool:
    return any((path / MANIFEST).exists() for _, path in _numbered(folder))


def _folders(root: Path) -> Iterator[Path]:
    """The visible folders of `root`, by name. Raises DukouError ARTIFACT_UNREADABLE."""
    try:
        paths = sorted(root.iterdir())
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(root), detail=str(error.strerror)) from error
    return (path for path in paths if not path.name.startswith(".") and path.is_dir())


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in _folders(folder):
        number = version_number(path.name)
        if number is not None:
            yield number, path


def _nearby(path: Path) -> str:
    """`; did you mean NAME?` for a name in the same folder that looks alike."""
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _instead(folder: Path) -> str:
    """Why a folder is nothing that can be served, and what to give instead."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "the folder is empty"
    for name in (*names, *(path.name for _, version in _numbered(folder) for path in version.iterdir())):
        if name in _FOREIGN:
            return _FOREIGN[name]
    models = [name for name in names if Path(name).suffix.lower() in _MODEL_FILES]
    if models:
        return f"the folder is no repository, but holds model files; give one of them: {folder / models[0]}"
    if any(_numbered(folder)):
        return f"its numbered folders hold no {MANIFEST}; `dukou pack` writes it"
    return (
        "neither a model file, nor a folder that `dukou pack` made, nor a folder of such (MODEL/VERSION/manifest.toml)"
    )
