"""Versions that stand as they are: what would be in their manifest, made in memory when they are loaded.

An ONNX file or a `model.py`, described by itself and, where there is one, by Triton's `config.pbtxt` in the model's
folder. Nothing was compared and no digest was kept: `dukou pack` does that.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Evidence, ModelManifest, ModelVersion, Signature, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.packing.triton import ONNX, PYTHON, Tensor, TritonModel, read_model, spec_of
from dukou.packing.warmup import run_warmups
from dukou.repository.local import ONNX_MODEL, PYTHON_MODEL, foreign, home_of, onnx_file
from dukou.repository.manifest import FORMAT
from dukou.repository.triton import CONFIG, read_config
from dukou.runtimes.registry import runtime
from dukou.runtimes.reshape import Reshaped

TRITON = "triton"
"""The option that keeps a version's `config.pbtxt`, as a tree of plain values."""

Loader: TypeAlias = Callable[[ModelManifest], LoadedModel]


class Adopted(msgspec.Struct, frozen=True):
    """A version that stands as it is: its manifest, how it is loaded (by a manifest with perhaps more options), and
    what of its configuration has no effect."""

    manifest: ModelManifest
    load: Loader
    warnings: tuple[str, ...] = ()


def adopt(folder: Path, version: ModelVersion, *, trust_python: bool = False) -> Adopted:
    """Describe the version in `folder`, which has no manifest; `config.pbtxt` is looked for above a numbered folder.

    A `model.py` is run to know what it takes and gives, and only with `trust_python`. Raises DukouError
    ARTIFACT_UNSUPPORTED, ARTIFACT_UNREADABLE, CODE_REFUSED.
    """
    folder = folder.absolute()
    home = home_of(folder)
    config = read_config(home)
    if config is None:
        triton, options = TritonModel(), {}
    else:
        from dukou.protos.tree import to_tree

        triton = read_model(config, version.name, str(home / CONFIG))
        options = {**triton.options, TRITON: to_tree(config)}
    try:
        kind, file = _artifact(folder, triton)
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(folder), detail=str(error.strerror)) from error
    described = _describe_python if kind == PYTHON else _describe_onnx
    signature, load, independent = described(_Place(folder, home, file, triton), trust_python)
    if kind == PYTHON:
        options = {"warm": False, **options}  # what a Model does beside answering, it shall not do for made-up rows
    manifest = ModelManifest(
        format=FORMAT,
        id=version,
        runtime=kind,
        serving=file,
        signatures={signature.name: signature},
        digests={},
        evidence=_evidence(independent, configured=config is not None),
        options=options,
    )
    return Adopted(manifest, partial(_load, load, triton, home), triton.warnings)


class _Place(msgspec.Struct, frozen=True):
    """A version's folder, its model's folder, the file in the former that serves, and its configuration."""

    folder: Path
    home: Path
    file: str
    triton: TritonModel

    def refuse(self, detail: str) -> DukouError:
        return DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(self.home / CONFIG), detail=detail)


def _artifact(folder: Path, triton: TritonModel) -> tuple[str, str]:
    """The runtime and the file, as the configuration and the folder say. Raises DukouError ARTIFACT_UNSUPPORTED."""
    file = triton.filename
    if not file and triton.runtime != ONNX and (folder / PYTHON_MODEL).is_file():
        file = PYTHON_MODEL
    if not file and triton.runtime != PYTHON:
        file = onnx_file(folder) or ""
    if not file:
        wanted = {ONNX: ONNX_MODEL, PYTHON: PYTHON_MODEL}.get(triton.runtime, f"{ONNX_MODEL} or {PYTHON_MODEL}")
        there = sorted(path.name for path in folder.iterdir())
        holds = f"it holds no {wanted}, but {', '.join(there[:10])}; default_model_filename can name the file"
        if not there:
            holds = f"the folder is empty, {wanted} is wanted"
        detail = foreign(folder) or holds
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(folder), detail=detail)
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        detail = "there is no such file in the version's folder, but default_model_filename names it"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
    kind = PYTHON if path.suffix == ".py" else ONNX
    if triton.runtime not in {"", kind}:
        detail = f"the backend is {triton.runtime}, but the file {file}"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(folder), detail=detail)
    return kind, file


_Described: TypeAlias = tuple[Signature, Loader, bool]
"""A signature, how to load what it describes, and whether its rows are independent by somebody's word."""


def _describe_onnx(place: _Place, trust: bool) -> _Described:
    from dukou.runtimes.onnx import read_graph

    triton = place.triton
    graph = read_graph(place.folder / place.file).signature
    batched = triton.max_batch_size > 0 or (graph.batched and not triton.inputs and not triton.outputs)
    inputs = _complete(place, "input", triton.inputs, graph.inputs, batched)
    outputs = _complete(place, "output", triton.outputs, graph.outputs, batched)
    absent = [spec.name for spec in graph.inputs if spec.name not in {spec.name for spec in inputs}]
    if absent:
        raise place.refuse(f"it lacks the inputs {', '.join(absent)}, which the graph needs")
    signature = Signature(DEFAULT_SIGNATURE, inputs, outputs, batched=batched)
    return signature, partial(runtime(ONNX).load, place.folder), triton.joined


def _describe_python(place: _Place, trust: bool) -> _Described:
    from dukou.runtimes.python import open_source

    triton = place.triton
    source = open_source(place.folder / place.file, trust=trust)
    if triton.inputs and triton.outputs:
        batched = triton.max_batch_size > 0
        signature = Signature(
            DEFAULT_SIGNATURE,
            tuple(_stated(place, tensor, batched) for tensor in triton.inputs),
            tuple(_stated(place, tensor, batched) for tensor in triton.outputs),
            batched=batched,
            streaming=source.streaming or triton.decoupled,
        )
    else:
        signature = source.signature()
        if triton.decoupled:
            signature = msgspec.structs.replace(signature, streaming=True)
        if triton.max_batch_size > 0 and not signature.batched:
            raise place.refuse("max_batch_size wants rows, but the Model's inputs and outputs do not begin with -1")
    return signature, partial(source.load, place.folder), triton.joined or source.independent_rows


def _complete(
    place: _Place, role: str, tensors: tuple[Tensor, ...], graph: tuple[TensorSpec, ...], batched: bool
) -> tuple[TensorSpec, ...]:
    """The specs that callers see: what the configuration says, and the graph where that is silent."""
    known = {spec.name: spec for spec in graph}
    specs = []
    for tensor in tensors or tuple(Tensor(spec.name) for spec in graph):
        found = known.get(tensor.name)
        if found is None:
            raise place.refuse(f"{role} {tensor.name!r} is not in the graph, which has {', '.join(known)}")
        if tensor.datatype not in {"", found.datatype}:
            raise place.refuse(
                f"{role} {tensor.name!r} has the data_type {tensor.datatype}, the graph's is {found.datatype}"
            )
        specs.append(_merge(place, tensor, found, batched))
    return tuple(specs)


def _merge(place: _Place, tensor: Tensor, found: TensorSpec, batched: bool) -> TensorSpec:
    """One tensor of the configuration with what the graph knows of it. Raises DukouError where they differ."""
    shape = found.shape
    if batched and shape is not None and shape[:1] != (-1,):
        raise place.refuse(
            f"max_batch_size is {place.triton.max_batch_size}, but {found.name!r} has the shape {list(shape)} in the "
            "graph, whose first size is not free; with max_batch_size: 0 the graph is served as it is"
        )
    if tensor.dims is None and (shape is not None or not batched):
        return msgspec.structs.replace(found, columns=_labels(place, tensor))
    if tensor.dims is None:
        raise place.refuse(f"{found.name!r} needs dims: the graph does not say its shape")
    seen = tensor.dims if tensor.reshape is None else tensor.reshape
    wanted = (-1, *seen) if batched else seen
    agree = shape is None or (
        len(shape) == len(wanted) and all(size in (-1, want) for size, want in zip(shape, wanted, strict=True))
    )
    if not agree:
        rows = "the rows and then its dims" if batched else "its dims"
        raise place.refuse(f"{found.name!r} is {list(wanted)} ({rows}), but the graph's shape is {list(shape or ())}")
    full = Tensor(found.name, found.datatype, tensor.dims)
    return msgspec.structs.replace(spec_of(full, batched), columns=_labels(place, tensor))


def _stated(place: _Place, tensor: Tensor, batched: bool) -> TensorSpec:
    """One tensor of a configuration that nothing else describes."""
    if not tensor.datatype or tensor.dims is None:
        raise place.refuse(f"{tensor.name!r} needs data_type and dims: a model.py has no graph that says them")
    return msgspec.structs.replace(spec_of(tensor, batched), columns=_labels(place, tensor))


def _labels(place: _Place, tensor: Tensor) -> tuple[str, ...]:
    """The names of an output's classes: a line each."""
    if not tensor.label_filename:
        return ()
    path = place.home / tensor.label_filename
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        detail = f"the labels of output {tensor.name!r} cannot be read ({getattr(error, 'strerror', None) or error})"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error


def _load(load: Loader, triton: TritonModel, home: Path, manifest: ModelManifest) -> LoadedModel:
    """The model in memory, with the shapes that callers see, warmed up."""
    signature = manifest.signature("")
    inputs = {tensor.name: tensor for tensor in triton.inputs if tensor.reshape is not None}
    outputs = {tensor.name: tensor for tensor in triton.outputs if tensor.reshape is not None}
    if inputs or outputs:
        own = msgspec.structs.replace(
            signature,
            inputs=tuple(_reshaped(spec, inputs, signature.batched) for spec in signature.inputs),
            outputs=tuple(_reshaped(spec, outputs, signature.batched) for spec in signature.outputs),
        )
        model: LoadedModel = Reshaped(
            load(msgspec.structs.replace(manifest, signatures={own.name: own})),
            {name: (tensor.dims or (), tensor.reshape or ()) for name, tensor in inputs.items()},
            {name: (tensor.reshape or (), tensor.dims or ()) for name, tensor in outputs.items()},
            signature.batched,
        )
    else:
        model = load(manifest)
    run_warmups(model, manifest, triton.warmups, home)
    return model


def _reshaped(spec: TensorSpec, tensors: Mapping[str, Tensor], batched: bool) -> TensorSpec:
    """The spec as the model sees it."""
    if spec.name not in tensors:
        return spec
    shape = tensors[spec.name].reshape or ()
    return msgspec.structs.replace(spec, shape=(-1, *shape) if batched else shape)


def _evidence(independent: bool, *, configured: bool) -> Evidence:
    if independent:
        said = "Requests of different callers share a batch: the model's own configuration says so."
    elif configured:
        said = f"Requests are not joined: {CONFIG} has no dynamic_batching."
    else:
        said = "Requests are not joined: `dukou pack` would have probed whether they may be."
    return Evidence(
        "original", "It stands as it is, without a manifest.", independent_rows=independent, independence=said
    )
