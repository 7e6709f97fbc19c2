"""What lies at a path, as data: nothing here opens a pickle or runs a model."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.model import Environment, Evidence, ModelManifest, ModelVersion, Signature
from dukou.packing.adopt import adopt
from dukou.packing.pack import is_onnx
from dukou.repository.integrity import verify
from dukou.repository.local import PYTHON_MODEL, LocalRepository, classify, is_packed, placed, scan_model
from dukou.repository.manifest import read_manifest

MAX_SCHEMA_BYTES = 64 * 1024 * 1024


class VersionInspection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version. `intact`: every file has the digest of the manifest, and one that stands as it is, without a
    manifest, can be described; else `damage` says what is wrong."""

    id: ModelVersion
    folder: str
    intact: bool
    damage: str = ""
    runtime: str = ""
    serving: str = ""
    original: str = ""
    size_bytes: int = 0
    digests: Mapping[str, str] = {}
    signatures: Mapping[str, Signature] = {}
    evidence: Evidence | None = None
    environment: Environment = Environment()
    metrics: Mapping[str, float] = {}
    lineage: Mapping[str, str] = {}


class FileInspection(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model file that is not packed: its `format` ("onnx", "pickle", "skops", or "zip" for other archives), what it
    holds as far as that can be told without opening it, and `advice`."""

    format: str
    size_bytes: int
    signature: Signature | None = None
    estimators: tuple[str, ...] = ()
    libraries: Mapping[str, str] = {}
    advice: str = ""


class Inspection(msgspec.Struct, frozen=True, omit_defaults=True):
    """What lies at `path`: `kind` is "file", "version", "model" or "repository"."""

    path: str
    kind: str
    file: FileInspection | None = None
    versions: tuple[VersionInspection, ...] = ()
    warnings: tuple[str, ...] = ()


def describe(path: Path) -> Inspection:
    """Look at a model file, a version's folder, a model's folder or a repository; digests are verified.

    A damaged version is described as such. Raises DukouError PATH_NOT_FOUND, ARTIFACT_UNSUPPORTED,
    ARTIFACT_UNREADABLE.
    """
    kind = classify(path)
    if kind == "file":
        return Inspection(str(path), kind, file=_file(path))
    if kind == "version":
        warnings: list[str] = []
        packed = is_packed(path)
        version = _version(path, read_manifest(path)) if packed else _standing(path, placed(path), warnings)
        return Inspection(str(path), kind, versions=(version,), warnings=tuple(warnings))
    models = [(path, path.resolve().name)]
    if kind == "repository":
        models = [(path / name, name) for name in LocalRepository(path).models()]
    versions: list[VersionInspection] = []
    warnings = []
    for folder, name in models:
        scan = scan_model(folder, name)
        warnings += scan.warnings
        for number, there in scan.folders.items():
            if number in scan.manifests:
                versions.append(_version(there, scan.manifests[number]))
            elif number not in scan.broken:
                versions.append(_standing(there, ModelVersion(name, number), warnings))
            else:
                damage = str(scan.broken[number])
                versions.append(VersionInspection(ModelVersion(name, number), str(there), False, damage))
    return Inspection(str(path), kind, versions=tuple(versions), warnings=tuple(warnings))


def _version(folder: Path, manifest: ModelManifest) -> VersionInspection:
    damage = ""
    try:
        verify(folder, manifest)
    except DukouError as error:
        damage = str(error)
    return VersionInspection(
        id=manifest.id,
        folder=str(folder),
        intact=not damage,
        damage=damage,
        runtime=manifest.runtime,
        serving=manifest.serving,
        original=manifest.original,
        size_bytes=sum(file.stat().st_size for name in manifest.digests if (file := folder / name).is_file()),
        digests=manifest.digests,
        signatures=manifest.signatures,
        evidence=manifest.evidence,
        environment=manifest.environment,
        metrics=manifest.metrics,
        lineage=manifest.lineage,
    )


def _standing(folder: Path, version: ModelVersion, warnings: list[str]) -> VersionInspection:
    """A version without a manifest. Python code is not run to see what it takes."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    try:
        found = adopt(folder, version)
    except DukouError as error:
        if error.reason is not Reason.CODE_REFUSED:
            return VersionInspection(version, str(folder), intact=False, damage=str(error))
        told = Evidence("original", "It is Python code, which tells what it takes and gives only when it is run.")
        return VersionInspection(
            version, str(folder), True, runtime="python", serving=PYTHON_MODEL, size_bytes=size, evidence=told
        )
    warnings += found.warnings
    manifest = found.manifest
    return VersionInspection(
        version,
        str(folder),
        intact=True,
        runtime=manifest.runtime,
        serving=manifest.serving,
        size_bytes=size,
        signatures=manifest.signatures,
        evidence=manifest.evidence,
    )


def _file(path: Path) -> FileInspection:
    size = path.stat().st_size
    pack = f"`dukou pack {path.name} --name NAME` makes a version that says how it was checked"
    if is_onnx(path):
        from dukou.runtimes.onnx import read_signature

        return FileInspection("onnx", size, signature=read_signature(path), advice=pack)
    if zipfile.is_zipfile(path):
        inside = _skops_estimators(path)
        if inside is None:
            return FileInspection("zip", size, advice="it is a zip archive, but not one of skops; it cannot be served")
        return FileInspection("skops", size, estimators=inside, advice=pack)
    from dukou.runtimes.pickles import survey

    found = survey(path)
    estimators = (
        f"{module}.{name}" for module, name in found.names if module.startswith("sklearn.") and name[:1].isupper()
    )
    advice = f"{pack}; this file can run code when it is opened, a compiled form cannot"
    return FileInspection(
        "pickle", size, estimators=tuple(dict.fromkeys(estimators)), libraries=found.libraries, advice=advice
    )


def _skops_estimators(path: Path) -> tuple[str, ...] | None:
    """The scikit-learn classes that a skops file's schema names; None when it is some other archive."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("schema.json") as schema:
            tree = json.loads(schema.read(MAX_SCHEMA_BYTES))
    except (KeyError, ValueError, zipfile.BadZipFile, RecursionError):
        return None
    found: dict[str, None] = {}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            module, name = node.get("__module__"), node.get("__class__")
            if isinstance(module, str) and isinstance(name, str) and module.startswith("sklearn."):
                found[f"{module}.{name}"] = None
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return tuple(found)
