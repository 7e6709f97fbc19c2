"""From a trained model's file to a version in a repository: the artifact, its compiled form, and the manifest."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dukou.core.clock import Clock, monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Evidence, ModelManifest, ModelVersion, Signature
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors
from dukou.packing.compile import Compiled
from dukou.packing.environment import environment
from dukou.packing.evidence import answered_row
from dukou.packing.form import choose_form
from dukou.packing.independence import independence
from dukou.packing.rows import read_rows
from dukou.repository.integrity import atomic_folder, sha256, verify
from dukou.repository.local import classify
from dukou.repository.manifest import FORMAT, MANIFEST, MAX_VERSION, read_manifest, write_manifest
from dukou.runtimes.domain import InputDomain
from dukou.runtimes.registry import runtime

COMPILED = "model.onnx"
"""The compiled form's file, and an ONNX model's own."""

_SUFFIXES = {".joblib", ".pkl", ".pickle", ".skops"}
MAX_COMPARED = 20_000
"""Given rows that are compared; more are thinned evenly."""

MAX_READ = 500_000

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ONNX_STARTS_WITH = b"\x08"  # field 1 of ModelProto, the version of the format; no pickle or archive starts so


def ignore(sentence: str) -> None:
    """A `report` that tells nobody."""


def pack(
    source: Path,
    *,
    name: str,
    version: int,
    to: Path,
    data: Path | None = None,
    metrics: Mapping[str, float] = {},
    lineage: Mapping[str, str] = {},
    trust_pickle: bool = False,
    allow_version_mismatch: bool = False,
    report: Callable[[str], None] = ignore,
    clock: Clock = monotonic,
) -> tuple[Path, ModelManifest]:
    """Write version `version` of model `name` into the repository folder `to`; returns its folder and its manifest.

    `source` is an ONNX, joblib, pickle or skops file, known by its content. `data` holds rows like those the model will
    be asked (see `read_rows`): the best evidence for its compiled form. A pickle made by another scikit-learn than the
    installed one (another major or minor number) may load and answer wrongly without a word, and no data would show it,
    because both forms come from what was loaded: it is refused unless `allow_version_mismatch`. `report` gets short
    sentences on what is being done.

    The version appears whole or not at all, and only after it has been loaded and asked the way serving does. Raises
    DukouError: CONFIG_INVALID (name, version), PATH_NOT_FOUND, ALREADY_PACKED, ARTIFACT_UNSUPPORTED,
    ARTIFACT_UNREADABLE, PICKLE_REFUSED, and what `read_rows` raises.
    """
    check_id(name, version)
    if classify(source) != "file":
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(source), detail="it is packed already; serve it")
    final = to / name / str(version)
    with atomic_folder(final) as folder:
        report(f"opening {source.name}")
        made = _pack_onnx if is_onnx(source) else _pack_sklearn
        request = _Request(source, folder, data, trust_pickle, allow_version_mismatch, report, clock)
        packed = made(request)
        manifest = ModelManifest(
            format=FORMAT,
            id=ModelVersion(name, version),
            runtime=packed.runtime,
            serving=packed.serving,
            signatures={DEFAULT_SIGNATURE: packed.signature},
            digests={file.relative_to(folder).as_posix(): sha256(file) for file in _files(folder)},
            evidence=packed.evidence,
            original=packed.original,
            options=packed.options,
            environment=environment(),
            metrics=metrics,
            lineage=lineage,
        )
        write_manifest(folder, manifest)
        report("checking what was packed")
        _self_check(folder, packed.probe, trust_pickle)
    return final, manifest


def check_id(name: str, version: int) -> None:
    """Raise CONFIG_INVALID for a name or version that not every protocol's paths can carry."""
    if not _NAME.fullmatch(name) or name.startswith("."):
        detail = f"{name!r} cannot name a model: letters, digits, `.`, `_` and `-`, no leading dot, at most 200"
        raise DukouError(Reason.CONFIG_INVALID, detail=detail)
    if not 1 <= version <= MAX_VERSION:
        raise DukouError(Reason.CONFIG_INVALID, detail=f"{version} cannot number a version: 1 to {MAX_VERSION}")


def is_onnx(path: Path) -> bool:
    """Whether the file's content is an ONNX model. Raises OSError."""
    with path.open("rb") as file:
        return file.read(1) == _ONNX_STARTS_WITH


class _Request(msgspec.Struct, frozen=True):
    """What a kind of artifact needs to know to be packed into `folder`."""

    source: Path
    folder: Path
    data: Path | None
    trust_pickle: bool
    allow_version_mismatch: bool
    report: Callable[[str], None]
    clock: Clock


class _Packed(msgspec.Struct, frozen=True):
    """What a kind of artifact contributes to the manifest. `probe` is a row that the model has answered."""

    runtime: str
    serving: str
    signature: Signature
    evidence: Evidence
    probe: Tensors | None
    original: str = ""
    options: Mapping[str, Any] = {}


def _pack_onnx(request: _Request) -> _Packed:
    from dukou.runtimes.onnx import read_graph

    kept = request.folder / COMPILED
    shutil.copyfile(request.source, kept)
    for companion in _external_data(request.source):
        there = request.folder / companion
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(request.source.parent / companion, there)
    graph = read_graph(kept)
    model = _load_onnx(request.folder, graph.signature)
    rows = _given(request, graph.signature)
    request.report("asking probe rows alone and in company")
    independent = independence(model, graph.signature, rows)
    reason = "It is an ONNX graph already and serves as it is."
    if graph.omitted:
        left = ", ".join(f"{name} ({kind})" for name, kind in graph.omitted.items())
        reason += f" Outputs that are no tensors are left out: {left}."
    evidence = Evidence(
        form="original", reason=reason, independent_rows=independent.shown, independence=independent.said
    )
    return _Packed("onnx", COMPILED, graph.signature, evidence, answered_row(model, graph.signature, rows), COMPILED)


def _pack_sklearn(request: _Request) -> _Packed:
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        from dukou.runtimes.sklearn import SklearnModel, open_estimator, signature_of
    except ModuleNotFoundError as error:
        detail = f"{error.name} is not installed; `pip install 'dukou[sklearn]'` brings it"
        raise DukouError(Reason.RUNTIME_UNAVAILABLE, runtime="sklearn", detail=detail) from error

    source = request.source
    _check_library(request)
    estimator = open_estimator(source, trust=request.trust_pickle)
    signature = signature_of(estimator)
    original = "model" + (source.suffix if source.suffix in _SUFFIXES else ".pkl")
    shutil.copyfile(source, request.folder / original)
    slow = SklearnModel(estimator, {signature.name: signature})

    def open_compiled(compiled: Compiled, domain: Mapping[str, InputDomain]) -> LoadedModel:
        (request.folder / COMPILED).write_bytes(compiled.model)
        return _load_onnx(request.folder, signature, _options(domain))

    data = _given(request, signature)
    with threadpool_limits(1):  # OpenMP's threads wait for one another longer than they compute, rows being few
        form = choose_form(
            estimator,
            signature,
            slow,
            data=data,
            data_name=request.data.name if request.data is not None else "",
            open_compiled=open_compiled,
            report=request.report,
            clock=request.clock,
        )
        request.report("asking probe rows alone and in company")
        independent = independence(form.model or slow, signature, form.rows)
    if form.model is None:
        (request.folder / COMPILED).unlink(missing_ok=True)
    evidence = msgspec.structs.replace(form.evidence, independent_rows=independent.shown, independence=independent.said)
    probe = answered_row(form.model or slow, signature, form.rows)
    if form.model is None:
        return _Packed("sklearn", original, signature, evidence, probe, original)
    return _Packed("onnx", COMPILED, signature, evidence, probe, original, _options(form.domain))


def _options(domain: Mapping[str, InputDomain]) -> dict[str, Any]:
    """A compiled form's options, as values that TOML can keep."""
    return {"domain": msgspec.json.decode(msgspec.json.encode(domain))} if domain else {}


def _check_library(request: _Request) -> None:
    """Raise ARTIFACT_UNSUPPORTED when a pickle was made by another scikit-learn; read without opening the pickle."""
    from dukou.runtimes.pickles import explain_mismatch, read_libraries

    with request.source.open("rb") as file:
        if file.read(2) == b"PK":  # skops keeps no memory layouts, so its files move between versions
            return
    stored = read_libraries(request.source).get("scikit-learn", "")
    installed = environment().libraries.get("scikit-learn", "")
    if request.allow_version_mismatch or not stored or not installed or _minor(stored) == _minor(installed):
        return
    detail = (
        f"{explain_mismatch(request.source, stored, installed)}. To open it here all the same: `dukou pack "
        f"{request.source.name} --allow-version-mismatch`, and compare its answers with known ones"
    )
    raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(request.source), detail=detail)


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _given(request: _Request, signature: Signature) -> Tensors | None:
    """The rows of `--data`, thinned evenly to MAX_COMPARED; None when there are none."""
    if request.data is None:
        return None
    rows = read_rows(request.data, signature, MAX_READ)
    if rows.note:
        request.report(rows.note)
    if rows.count <= MAX_COMPARED:
        return rows.inputs
    picked = np.linspace(0, rows.count - 1, MAX_COMPARED).astype(int)
    return {name: array[picked] for name, array in rows.inputs.items()}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)


def _external_data(source: Path) -> list[str]:
    """Files beside an ONNX model that hold its weights, as paths relative to it.

    The graph names them, and reading it takes the onnx package; without that, files whose names start like the model's.
    """
    try:
        import onnx
        from onnx.external_data_helper import ExternalDataInfo, uses_external_data
    except ImportError:
        beside = (path.name for path in source.parent.iterdir() if path.is_file() and path != source)
        return sorted(name for name in beside if name.startswith((source.name + ".", source.name + "_")))
    graph = onnx.load(source, load_external_data=False).graph
    named = {ExternalDataInfo(tensor).location for tensor in graph.initializer if uses_external_data(tensor)}
    for location in named:
        if Path(location).is_absolute() or ".." in Path(location).parts or location in {MANIFEST, COMPILED}:
            detail = f"its weights lie in {location!r}, which is not a file below its folder"
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(source), detail=detail)
        if not (source.parent / location).is_file():
            detail = f"its weights lie in {location!r} beside it, which is missing"
            raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(source), detail=detail)
    return sorted(named)


def _load_onnx(folder: Path, signature: Signature, options: Mapping[str, Any] = {}) -> LoadedModel:
    """The folder's compiled form as a LoadedModel, before there is a manifest."""
    manifest = ModelManifest(
        format=FORMAT,
        id=ModelVersion("packing", 1),
        runtime="onnx",
        serving=COMPILED,
        signatures={signature.name: signature},
        digests={},
        evidence=Evidence(form="", reason=""),
        options=options,
    )
    return runtime("onnx").load(folder, manifest)


def _self_check(folder: Path, probe: Tensors | None, trust_pickle: bool) -> None:
    """Load the version as serving does and ask it one row. Raises DukouError."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    model = runtime(manifest.runtime).load(folder, manifest, trust=trust_pickle)
    if probe is not None:
        signature = manifest.signature("")
        model.infer(signature.name, probe, signature.output_names(), {})
