"""Versions in a folder of this machine, laid out as TensorFlow Serving and Triton read them: root/MODEL/VERSION.

A version is packed (it holds `manifest.toml`) or stands as it is: an ONNX file or a `model.py`, perhaps with Triton's
`config.pbtxt` in the model's folder. A model's folder that itself holds `model.py` is its version 1.
"""

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
from dukou.repository.triton import CONFIG

Kind: TypeAlias = Literal["file", "version", "model", "repository"]

_FOREIGN = {
    "saved_model.pb": "this is a TensorFlow SavedModel, which is not supported yet; export it to ONNX",
    "MLmodel": "this is an MLflow model; give the model file inside it",
    CONFIG: "this Triton model folder has no version: numbered folders such as 1 hold the model's file",
}
_MODEL_FILES = {".joblib", ".pkl", ".pickle", ".skops", ".onnx"}

PYTHON_MODEL = "model.py"
ONNX_MODEL = "model.onnx"
FIRST_VERSION = 1
"""The version of what has no number: a bare model file, a folder with `model.py`."""


class Scan(msgspec.Struct, frozen=True):
    """What a model's folder holds: packed versions that can be read, those that cannot and why, remarks for the log.

    `folders` has every version; those in neither `manifests` nor `broken` stand as they are.
    """

    manifests: Mapping[int, ModelManifest]
    folders: Mapping[int, Path]
    broken: Mapping[int, DukouError]
    warnings: tuple[str, ...]

    def good(self) -> tuple[int, ...]:
        """The versions that may be served, highest first."""
        return tuple(number for number in self.folders if number not in self.broken)


class LocalRepository:
    """A Repository of one folder. Nothing is kept in memory: each call reads the folder as it is now."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> tuple[str, ...]:
        """The names of the folders that hold a numbered folder, a `model.py` or a `config.pbtxt`, sorted.

        Raises DukouError.
        """
        return tuple(folder.name for folder in _folders(self.root) if _is_model(folder))

    def versions(self, model: str) -> Mapping[int, ModelManifest]:
        """Every packed version of `model` with its manifest, highest first; `scan` also tells the others.

        Raises DukouError MODEL_NOT_FOUND.
        """
        return self.scan(model).manifests

    def scan(self, model: str) -> Scan:
        """What is there of `model`, good and broken, highest first.

        Its place names a version, whatever its manifest was packed as. Raises DukouError MODEL_NOT_FOUND.
        """
        folder = self.root / model
        plain = model == folder.name and not model.startswith(".")
        if not (plain and folder.is_dir() and _is_model(folder)):
            raise DukouError(Reason.MODEL_NOT_FOUND, model=model, served=", ".join(self.models()) or "none")
        return scan_model(folder, model)

    def fetch(self, version: ModelVersion) -> Path:
        """The folder of a version, the files that serve it verified where a manifest has their digests.

        Raises DukouError: DIGEST_MISMATCH, ARTIFACT_UNREADABLE, MANIFEST_INVALID, VERSION_NOT_FOUND, MODEL_NOT_FOUND.
        """
        found = self.scan(version.name)
        if version.version in found.broken:
            raise found.broken[version.version]
        if version.version not in found.folders:
            raise DukouError(
                Reason.VERSION_NOT_FOUND,
                model=version.name,
                version=version.version,
                served=", ".join(map(str, found.good())) or "none",
            )
        folder = found.folders[version.version]
        if version.version in found.manifests:
            manifest = found.manifests[version.version]
            verify(folder, manifest, files_to_serve(manifest))
        return folder


def scan_model(folder: Path, model: str) -> Scan:
    """What a model folder holds, its versions called `model`. Raises DukouError when the folder cannot be listed."""
    folders, warnings = version_folders(folder, model)
    manifests: dict[int, ModelManifest] = {}
    broken: dict[int, DukouError] = {}
    for number, path in folders.items():
        try:
            manifest = manifest_of(path)
        except DukouError as error:
            broken[number] = error.within(model=model, version=number)
            continue
        if manifest is not None:
            manifests[number] = msgspec.structs.replace(manifest, id=ModelVersion(model, number))
    return Scan(manifests, folders, broken, warnings)


def version_folders(folder: Path, model: str) -> tuple[Mapping[int, Path], tuple[str, ...]]:
    """The folders of a model's versions, highest first, and remarks for the log; nothing in them is looked at.

    Raises DukouError ARTIFACT_UNREADABLE when `folder` cannot be listed.
    """
    folders: dict[int, Path] = {}
    warnings = []
    for number, path in _numbered(folder):
        if number in folders:
            warnings.append(f"{folders[number]} and {path} are both version {number} of {model}; the last one counts")
        folders[number] = path
    if not folders and (folder / PYTHON_MODEL).is_file():
        folders[FIRST_VERSION] = folder
    if not folders and (folder / CONFIG).exists():
        warnings.append(f"{folder}: {_FOREIGN[CONFIG]}")
    return dict(sorted(folders.items(), reverse=True)), tuple(warnings)


def manifest_of(folder: Path) -> ModelManifest | None:
    """The manifest of a version's folder as it was packed, or None for a version that stands as it is.

    Raises DukouError MANIFEST_INVALID, ARTIFACT_UNSUPPORTED for what is neither.
    """
    if not is_packed(folder) and ((home_of(folder) / CONFIG).exists() or stands(folder)):
        return None
    _refuse_foreign(folder)
    return read_manifest(folder)


def home_of(folder: Path) -> Path:
    """The model's folder of a version's: the one above, or itself for a version without a number."""
    return folder.parent if version_number(folder.name) is not None else folder


def _refuse_foreign(folder: Path) -> None:
    said = foreign(folder)
    if said:
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(folder), detail=said)


def foreign(folder: Path) -> str:
    """What to do with a folder of another system's making, "" for one that is not known as such."""
    try:
        return next((said for name, said in _FOREIGN.items() if (folder / name).exists()), "")
    except OSError:
        return ""


def is_packed(folder: Path) -> bool:
    """Whether `folder` is a version that has a manifest."""
    return (folder / MANIFEST).exists()


def onnx_file(folder: Path) -> str | None:
    """The ONNX file of a version without a manifest: `model.onnx`, or else the only one there.

    Triton also takes a folder called `model.onnx` with the graph and its external data in it.
    """
    if (folder / ONNX_MODEL).is_dir():
        inside = onnx_file(folder / ONNX_MODEL)
        return f"{ONNX_MODEL}/{inside}" if inside else None
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".onnx" and path.is_file())
    return ONNX_MODEL if ONNX_MODEL in names else names[0] if len(names) == 1 else None


def version_number(name: str) -> int | None:
    """The version that a folder's name means: ASCII digits only, leading zeros allowed ("00000123" is 123)."""
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name) if len(name) <= 64 else MAX_VERSION + 1
    return number if number <= MAX_VERSION else None


def next_version(model: Path) -> int:
    """The number after the highest version in a model's folder; 1 where there is none. Raises OSError."""
    names = [entry.name for entry in model.iterdir()] if model.is_dir() else []
    numbers = [number for name in names if (number := version_number(name)) is not None]
    return max(numbers, default=FIRST_VERSION if PYTHON_MODEL in names else 0) + 1


def placed(folder: Path) -> ModelVersion:
    """What a numbered folder's place says it is: MODEL/VERSION."""
    folder = folder.absolute()
    number = version_number(folder.name)
    assert number is not None, f"{folder} has no number"
    return ModelVersion(folder.parent.name, number)


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
        if is_packed(path) or (version_number(path.absolute().name) is not None and stands(path)):
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
    if path.name == PYTHON_MODEL:
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=f"give its folder: {path.parent}")
    if path.stat().st_size == 0:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail="the file is empty")
    if not os.access(path, os.R_OK):
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail="no permission to read it")
    return "file"


def _is_model(folder: Path) -> bool:
    return any(_numbered(folder)) or (folder / PYTHON_MODEL).is_file() or (folder / CONFIG).is_file()


def _holds_versions(folder: Path) -> bool:
    if (folder / PYTHON_MODEL).is_file():
        return True
    configured = (folder / CONFIG).exists()
    return any(configured or is_packed(path) or stands(path) for _, path in _numbered(folder))


def stands(folder: Path) -> bool:
    """Whether a folder without a manifest is a version all the same."""
    try:
        return (folder / PYTHON_MODEL).is_file() or onnx_file(folder) is not None
    except OSError:
        return False


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
    for below in (folder, *(version for _, version in _numbered(folder))):
        if said := foreign(below):
            return said
    models = [name for name in names if Path(name).suffix.lower() in _MODEL_FILES]
    if models:
        return f"the folder is no repository, but holds model files; give one of them: {folder / models[0]}"
    if any(_numbered(folder)):
        return f"its numbered folders hold no {MANIFEST} (`dukou pack` writes it), no ONNX file and no {PYTHON_MODEL}"
    for model in _folders(folder):
        for below in (model, *(version for _, version in _numbered(model))):
            if said := foreign(below):
                return f"{said} ({below})"
    return (
        f"it holds no model: a repository is MODEL/VERSION/FILE, the version a number, the file {MANIFEST} "
        f"(`dukou pack` writes it), an ONNX file or {PYTHON_MODEL}"
    )
