"""From the folder of a version to a model in memory, here or in a model process."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from dukou.app.warming import answer_recorded
from dukou.config import ModelsConfig
from dukou.config.load import nearest
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Assignment
from dukou.core.model import Evidence, ModelManifest, ModelVersion, Signature
from dukou.core.runtime import LoadedModel
from dukou.engine.executor import made_up
from dukou.engine.replica import RemoteModel
from dukou.repository.integrity import files_to_serve, verify
from dukou.repository.local import is_packed
from dukou.repository.manifest import read_manifest
from dukou.runtimes.options import OPTIONS
from dukou.runtimes.registry import runtime


class Opened(msgspec.Struct, frozen=True):
    """A version in memory: its manifest (called as assigned, the operator's options over its own), its model, and
    warnings about libraries and settings that have no effect."""

    manifest: ModelManifest
    model: LoadedModel
    warnings: tuple[str, ...] = ()


def bare(version: ModelVersion, signatures: Mapping[str, Signature] = {}) -> ModelManifest:
    """As much of a manifest as is known of a version that this process has not opened."""
    return ModelManifest(0, version, "", "", signatures, {}, Evidence("", ""))


def open_assigned(assignment: Assignment, models: ModelsConfig) -> Opened:
    """A version as `assignment` has it: here, or in a model process. Raises DukouError."""
    if not assignment.process:
        return open_version(assignment, models)
    folder, version = Path(assignment.folder), assignment.id
    if is_packed(folder):
        manifest = msgspec.structs.replace(read_manifest(folder), id=version)
    else:
        from dukou.packing.adopt import adopt

        manifest = adopt(folder, version, trust_python=models.trust_python).manifest
    manifest = _with_options(manifest, assignment, models)
    remote = RemoteModel(assignment.process, manifest)
    signature = next(iter(manifest.signatures.values()))
    try:
        remote.infer(signature.name, made_up(signature, 1) or {}, signature.output_names(), {})
    except DukouError as error:
        if error.reason is Reason.NOT_SERVING:  # what else it says, it says of made-up rows
            raise
    return Opened(manifest, remote)


def open_version(assignment: Assignment, models: ModelsConfig) -> Opened:
    """A version in the memory of this process.

    Of a packed version only the files that serve are opened, after checking their digests. Requests that were recorded
    beside it have been answered. Raises DukouError.
    """
    folder = Path(assignment.folder)
    opened = (_open_packed if is_packed(folder) else _open_standing)(folder, assignment, models)
    if models.warm:
        answer_recorded(folder, opened.manifest, opened.model)
    warnings = (*opened.warnings, *_unread_options(assignment, opened.manifest.runtime))
    return msgspec.structs.replace(opened, warnings=warnings)


def _open_packed(folder: Path, assignment: Assignment, models: ModelsConfig) -> Opened:
    manifest = msgspec.structs.replace(read_manifest(folder), id=assignment.id)
    manifest = _with_options(manifest, assignment, models)
    verify(folder, manifest, files_to_serve(manifest))
    trust = models.trust_python if manifest.runtime == "python" else models.trust_pickle
    model = runtime(manifest.runtime).load(folder, manifest, trust=trust)
    if manifest.runtime != "sklearn":
        return Opened(manifest, model)
    from dukou.packing.environment import library_versions
    from dukou.runtimes.sklearn import differences

    return Opened(manifest, model, tuple(differences(manifest, library_versions())))


def _open_standing(folder: Path, assignment: Assignment, models: ModelsConfig) -> Opened:
    from dukou.packing.adopt import adopt

    adopted = adopt(folder, assignment.id, trust_python=models.trust_python)
    manifest = _with_options(adopted.manifest, assignment, models)
    return Opened(manifest, adopted.load(manifest), adopted.warnings)


def _with_options(manifest: ModelManifest, assignment: Assignment, models: ModelsConfig) -> ModelManifest:
    cold = {} if models.warm else {"warm": False}
    return msgspec.structs.replace(manifest, options={**manifest.options, **cold, **assignment.options})


def _unread_options(assignment: Assignment, kind: str) -> tuple[str, ...]:
    """A warning for each option that nothing reads; a Python model may have options of its own."""
    if kind == "python":
        return ()
    return tuple(
        f"models.options.{assignment.id.name}.{name}: there is no such option{nearest(name, OPTIONS)}"
        for name in assignment.options
        if name not in OPTIONS
    )
