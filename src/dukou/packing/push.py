"""A new version for a repository that is being served: made out of sight, then there all at once, under a number that
nobody else has."""

import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest, ModelVersion
from dukou.packing.pack import check_id, ignore, pack
from dukou.repository.files import list_files
from dukou.repository.integrity import atomic_folder, flush_file, give_place, verify
from dukou.repository.local import classify, home_of, is_packed, next_version, stands
from dukou.repository.manifest import MANIFEST, read_manifest, write_manifest

_STAGED = 1
"""The version that is made out of sight, until its number is known."""

_MOST_TRIES = 100


def push(
    source: Path,
    *,
    to: Path,
    name: str = "",
    version: int | None = None,
    data: Path | None = None,
    metrics: Mapping[str, float] = {},
    lineage: Mapping[str, str] = {},
    trust_pickle: bool = False,
    allow_version_mismatch: bool = False,
    report: Callable[[str], None] = ignore,
) -> tuple[ModelVersion, Path, ModelManifest | None]:
    """Put `source` into the repository folder `to`: what it is now, its folder, and its manifest if it has one.

    `source` is a model file, which is packed (see `dukou.packing.pack`, also for what it raises), or the folder of a
    version, which is copied: a packed one, whose digests are verified, or one with an ONNX file or a `model.py`.
    Without `version` it gets the number after the highest one. What is there is never touched: raises DukouError
    ALREADY_PACKED, and DISK_FULL, NOT_WRITABLE, CONFIG_INVALID.
    """
    folder = source.is_dir()
    name = name or (_name_of(source) if folder else source.stem)
    check_id(name, _STAGED if version is None else version)
    if version is not None and (to / name / str(version)).exists():
        raise DukouError(Reason.ALREADY_PACKED, path=str(to / name / str(version)))
    staging = to.absolute() / f".{name}.{secrets.token_hex(4)}.partial"
    try:
        if folder:
            report(f"copying {source}")
            _copy(source, staging / name / str(_STAGED))
        else:
            pack(
                source,
                name=name,
                version=_STAGED,
                to=staging,
                data=data,
                metrics=metrics,
                lineage=lineage,
                trust_pickle=trust_pickle,
                allow_version_mismatch=allow_version_mismatch,
                report=report,
            )
        return _place(staging / name / str(_STAGED), to / name, version)
    except DukouError as error:
        if error.reason not in {Reason.DISK_FULL, Reason.NOT_WRITABLE}:
            raise
        raise DukouError(error.reason, **{**error.facts, "path": str(to / name)}) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _name_of(folder: Path) -> str:
    return read_manifest(folder).id.name if is_packed(folder) else home_of(folder.absolute()).name


def _copy(source: Path, final: Path) -> None:
    """The visible files of a version's folder. Raises DukouError for what is none, or damaged."""
    if not (is_packed(source) or stands(source)):
        kind = classify(source)
        detail = f"this is a {kind}'s folder; give the folder of one version, such as {source / '1'}"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(source), detail=detail)
    files = list_files(source.absolute(), source.resolve())
    if files.refused:
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(source), detail=files.refused)
    with atomic_folder(final) as folder:
        for name in files.stamps:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        if is_packed(folder):
            verify(folder, read_manifest(folder))


def _place(staged: Path, model: Path, version: int | None) -> tuple[ModelVersion, Path, ModelManifest | None]:
    """Give what is `staged` its number: `version`, or the next one that nobody takes first."""
    manifest = read_manifest(staged) if is_packed(staged) else None
    for _ in range(_MOST_TRIES):
        number = next_version(model) if version is None else version
        id_ = ModelVersion(model.name, number)
        check_id(id_.name, number)
        if manifest is not None:
            manifest = msgspec.structs.replace(manifest, id=id_)
            write_manifest(staged, manifest)
            flush_file(staged / MANIFEST)
        try:
            give_place(staged, model / str(number))
        except DukouError as error:
            if error.reason is Reason.ALREADY_PACKED and version is None:
                continue
            raise
        return id_, model / str(number), manifest
    raise DukouError(Reason.ALREADY_PACKED, path=str(model / str(number)))
