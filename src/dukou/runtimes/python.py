"""Models that are written in Python: a folder with `model.py`, and in it a `class Model`.

    class Model:
        inputs = {"text": ("BYTES", [-1])}      # by name: datatype and shape, rows first
        outputs = {"words": ("INT64", [-1])}

        def load(self, context): ...            # optional: once, before the first request
        def predict(self, inputs): ...          # arrays by input name to arrays by output name, or one array
        def unload(self): ...                   # optional: once, when the version is given up

It is code that runs with the server's rights, so it is opened only when the operator says so.
"""

import inspect
import logging
import secrets
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from itertools import cycle
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DATATYPES, DEFAULT_SIGNATURE, ModelManifest, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors, narrow, widen
from dukou.runtimes.options import read_concurrency

CLASS = "Model"
_TRITONS_CLASS = "TritonPythonModel"
_TRITONS_MODULE = "triton_python_backend_utils"
_FROM_TRITON = f"a {_TRITONS_CLASS} becomes a class {CLASS}: predict(inputs) takes and gives dicts of arrays"

_log = logging.getLogger("dukou.runtimes")
_importing = threading.RLock()
"""Held while a model's folder is on `sys.path`, which is the whole process's; a model's `load` may open another."""


class ModelContext(msgspec.Struct, frozen=True):
    """What a Model's `load` is told.

    `folder` is the version's, `options` are the operator's settings of this model, and `config` is Triton's
    `config.pbtxt` as a tree of plain values, empty where there is none.
    """

    folder: Path
    name: str
    version: int
    options: Mapping[str, Any] = {}
    config: Mapping[str, Any] = {}


class PythonRuntime:
    """Loads folders with a `model.py`.

    Option `concurrency`: how many Model objects there are, each asked by one thread at a time (default: the class's
    own `concurrency`, else 1).
    """

    def load(self, folder: Path, manifest: ModelManifest, *, trust: bool = False) -> "PythonModel":
        """Run the file and make its Model. Raises DukouError CODE_REFUSED without `trust`, ARTIFACT_UNREADABLE for what
        the file or `load` raises, ARTIFACT_UNSUPPORTED, CONFIG_INVALID."""
        return open_source(folder / manifest.serving, trust=trust).load(folder, manifest)


class Source:
    """A `model.py` that has been run: its class, and what that says about itself."""

    def __init__(self, path: Path, of: type, names: str) -> None:
        self._path = path
        self._class = of
        self._names = names
        self.streaming = inspect.isgeneratorfunction(getattr(of, "predict", None))

    @property
    def independent_rows(self) -> bool:
        """Whether the class says that requests of different callers may share a call."""
        return bool(getattr(self._class, "independent_rows", False))

    def signature(self) -> Signature:
        """What the class says it takes and gives; rows are axis 0 unless it says `batched = False`.

        Raises DukouError ARTIFACT_UNSUPPORTED.
        """
        inputs = self._specs("inputs")
        outputs = self._specs("outputs")
        specs = (*inputs, *outputs)
        of_rows = all(spec.shape is not None and spec.shape[:1] == (-1,) for spec in specs)
        batched = getattr(self._class, "batched", of_rows)
        if batched and not of_rows:
            raise self._unsupported("with batched = True every shape begins with -1, the rows")
        return Signature(DEFAULT_SIGNATURE, inputs, outputs, batched=bool(batched), streaming=self.streaming)

    def load(self, folder: Path, manifest: ModelManifest) -> "PythonModel":
        """The Model, loaded. Raises DukouError."""
        count = read_concurrency(manifest.options, getattr(self._class, "concurrency", 1))
        options = dict(manifest.options)
        config = options.pop("triton", {})
        context = ModelContext(folder, manifest.id.name, manifest.id.version, options, config)
        with _beside(self._path, self._names), _told(self._path):
            models = [self._class() for _ in range(count)]
            for model in models:
                if hasattr(model, "load"):
                    model.load(context)
        return PythonModel(models, manifest.signatures)

    def _specs(self, attribute: str) -> tuple[TensorSpec, ...]:
        said = getattr(self._class, attribute, None)
        if not isinstance(said, Mapping) or not said:
            raise self._unsupported(
                f'{CLASS}.{attribute} should say what there is, as in {attribute} = {{"x": ("FP32", [-1, 4])}}; '
                "a config.pbtxt beside it can say so too"
            )
        return tuple(self._spec(f"{attribute}[{name!r}]", name, value) for name, value in said.items())

    def _spec(self, place: str, name: Any, value: Any) -> TensorSpec:
        match value:
            case (str(datatype), list(shape) | tuple(shape)) if isinstance(name, str):
                sizes = all(isinstance(size, int) and not isinstance(size, bool) and size >= -1 for size in shape)
                if datatype in DATATYPES and sizes:
                    return TensorSpec(name, datatype, tuple(shape))
        wanted = f'("DATATYPE", [sizes]) with -1 for any size and one of {", ".join(DATATYPES)}'
        raise self._unsupported(f"{CLASS}.{place} is {value!r:.80}, not {wanted}")

    def _unsupported(self, detail: str) -> DukouError:
        return DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(self._path), detail=detail)


class PythonModel:
    """A LoadedModel, and a StreamingModel where the signature is one, of Model objects that are all alike.

    Each object is asked by one thread at a time. `unload` is called when the last user of this has gone, or when the
    process ends.
    """

    def __init__(self, models: Sequence[Any], signatures: Mapping[str, Signature]) -> None:
        self._signatures = signatures
        self._instances = tuple(_Instance(model) for model in models)
        self._next = cycle(self._instances)
        weakref.finalize(self, _unload, tuple(models))

    @property
    def concurrency(self) -> int:
        """As many calls at a time as there are objects."""
        return len(self._instances)

    @property
    def holds_gil(self) -> bool:
        """Python code does."""
        return True

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """The outputs asked for. Raises what `predict` raises, MODEL_REFUSED_INPUT for bytes where text is wanted, and
        ValueError for an answer that is not what the signature says."""
        said = self._signatures[signature]
        with self._take() as instance:
            answer = instance.predict(said, inputs, parameters)
        return _outputs(answer, said, outputs)

    def stream(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Iterator[Tensors]:
        """The responses, each with the outputs that it has of those asked for. Raises as `infer`."""
        said = self._signatures[signature]
        instance = next(self._next)
        with instance.lock:
            answer = instance.predict(said, inputs, parameters)
        if not isinstance(answer, Iterator):
            yield _outputs(answer, said, outputs)
            return
        try:
            while True:
                with instance.lock:
                    part = next(answer, _END)
                if part is _END:
                    return
                yield _outputs(part, said, outputs)
        finally:
            with instance.lock:
                getattr(answer, "close", _nothing)()

    @contextmanager
    def _take(self) -> Iterator["_Instance"]:
        """An object that nobody else asks meanwhile."""
        chosen = next((one for one in self._instances if one.lock.acquire(blocking=False)), None)
        if chosen is None:
            chosen = next(self._next)
            chosen.lock.acquire()
        try:
            yield chosen
        finally:
            chosen.lock.release()


_END: Any = object()


def _nothing() -> None: ...


class _Instance:
    """One Model object."""

    def __init__(self, model: Any) -> None:
        self.lock = threading.Lock()
        self._predict = model.predict
        self._text = bool(getattr(model, "text", True))
        self._with_parameters = "parameters" in inspect.signature(model.predict).parameters

    def predict(self, signature: Signature, inputs: Tensors, parameters: Mapping[str, Any]) -> Any:
        given = {spec.name: _input(spec, inputs[spec.name], self._text) for spec in signature.inputs}
        if self._with_parameters:
            return self._predict(given, parameters=parameters)
        return self._predict(given)


def _input(spec: TensorSpec, array: NDArray[Any], text: bool) -> NDArray[Any]:
    """What a Model sees of a tensor: BF16 as float32, BYTES as `str`, or as `bytes` where it says `text = False`."""
    if spec.datatype == "BF16":
        return widen(array)
    if spec.datatype != "BYTES":
        return array
    seen = np.empty(array.shape, object)
    for index, item in np.ndenumerate(array):
        try:
            if text:
                seen[index] = item.decode("utf-8") if isinstance(item, bytes) else item
            else:
                seen[index] = item.encode("utf-8") if isinstance(item, str) else item
        except UnicodeError as error:
            detail = f"the string {item!r:.80} is not UTF-8 text"
            row = index[0] if index else None
            raise DukouError(Reason.MODEL_REFUSED_INPUT, tensor=spec.name, row=row, detail=detail) from error
    return seen


def _outputs(answer: Any, signature: Signature, wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of `answer` that are wanted, in the signature's datatypes. A response of a streaming signature may be
    without some. Raises ValueError for what the signature does not say."""
    specs = {spec.name: spec for spec in signature.outputs}
    if not isinstance(answer, Mapping):
        if len(specs) != 1 or answer is None:
            raise ValueError(f"predict gave {type(answer).__name__}, a dict of {', '.join(specs)} is wanted")
        answer = {next(iter(specs)): answer}
    unknown = [name for name in answer if name not in specs]
    absent = [name for name in specs if name not in answer]
    if unknown or (absent and not signature.streaming):
        raise ValueError(f"predict gave the outputs {', '.join(map(str, answer))}; wanted are {', '.join(specs)}")
    return {name: _output(specs[name], answer[name], signature) for name in wanted if name in answer}


def _output(spec: TensorSpec, value: Any, signature: Signature) -> NDArray[Any]:
    """`value` as an array of the spec's datatype. Numbers may widen, and narrow within their kind."""
    if spec.datatype == "BYTES":
        array = _strings(spec.name, value)
    else:
        array = np.asarray(value)
        wanted = np.dtype(np.float32) if spec.datatype == "BF16" else DTYPES[spec.datatype]
        if array.dtype != DTYPES[spec.datatype]:
            if not np.can_cast(array.dtype, wanted, "same_kind"):
                raise ValueError(f"output {spec.name!r} has the dtype {array.dtype}, {spec.datatype} is wanted")
            array = array.astype(wanted)
            array = narrow(array) if spec.datatype == "BF16" else array
    if signature.streaming and signature.batched and spec.shape is not None:
        fits = array.ndim == len(spec.shape)  # a response need not have the request's rows
    else:
        fits = spec.fits(array.shape)
    if not fits:
        raise ValueError(f"output {spec.name!r} has the shape {list(array.shape)}, {list(spec.shape or ())} is wanted")
    return array


def _strings(name: str, value: Any) -> NDArray[Any]:
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype != object or not all(isinstance(item, str | bytes) for item in array.flat):
        raise ValueError(f"output {name!r} holds {array.dtype} values, str or bytes are wanted")
    return array


def open_source(path: Path, *, trust: bool = False) -> Source:
    """Run the file, under a name of its own; modules beside it can be imported (`from . import helper`, and while it is
    run and loaded also `import helper`).

    Raises DukouError CODE_REFUSED without `trust`, ARTIFACT_UNREADABLE for what it raises, ARTIFACT_UNSUPPORTED for a
    file without a `class Model` that can `predict`.
    """
    if not trust:
        raise DukouError(Reason.CODE_REFUSED, path=str(path))
    names = f"dukou_model_{secrets.token_hex(6)}"
    with _beside(path, names), _told(path):
        module = _run(path, names)
    found = getattr(module, CLASS, None)
    predict = getattr(found, "predict", None)
    detail = ""
    if not isinstance(found, type):
        detail = f"it defines no class {CLASS}"
        if hasattr(module, _TRITONS_CLASS):
            detail += f"; {_FROM_TRITON}"
    elif not callable(predict):
        detail = f"its {CLASS} has no method predict(self, inputs)"
    elif inspect.iscoroutinefunction(predict) or inspect.isasyncgenfunction(predict):
        detail = f"its {CLASS}.predict is async; it runs in a thread of its own and has to be an ordinary function"
    if detail:
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
    assert isinstance(found, type)
    return Source(path, found, names)


def _run(path: Path, names: str) -> ModuleType:
    """The module of the file, in a package of its own whose folder is the file's."""
    package = ModuleType(names)
    package.__path__ = [str(path.parent)]
    sys.modules[names] = package
    described = spec_from_file_location(f"{names}.{path.stem}", path)
    assert described is not None, "a .py file has a loader"
    assert described.loader is not None, "a .py file has a loader"
    module = module_from_spec(described)
    sys.modules[described.name] = module
    described.loader.exec_module(module)
    return module


@contextmanager
def _beside(path: Path, names: str) -> Iterator[None]:
    """Let `import helper` find the modules beside `path`; afterwards their names are free for other models' helpers."""
    folder = str(path.parent)
    with _importing:
        before = set(sys.modules)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None)
                ours = name == names or name.startswith(names + ".")
                if not ours and file and Path(file).is_relative_to(folder):
                    del sys.modules[name]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the file's own code raises, as ARTIFACT_UNREADABLE; the log has the traceback from that code on."""
    try:
        yield
    except DukouError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == _TRITONS_MODULE:
            detail = f"it is written for Triton's Python backend, which {_TRITONS_MODULE} is a part of; {_FROM_TRITON}"
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail) from error
        _log.error("%s failed", path, exc_info=(type(error), error, _below(path.parent, error.__traceback__)))
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=f"its code raised {said}") from error


def _below(folder: Path, frames: TracebackType | None) -> TracebackType | None:
    """The frames from the first whose code is below `folder`; None where none is, as for a file that is not Python."""
    top = folder.absolute()
    while frames is not None and not Path(frames.tb_frame.f_code.co_filename).is_relative_to(top):
        frames = frames.tb_next
    return frames


def _unload(models: Sequence[Any]) -> None:
    for model in models:
        try:
            getattr(model, "unload", _nothing)()
        except (Exception, SystemExit) as error:
            _log.error("unloading %s failed", type(model).__module__, exc_info=error)
