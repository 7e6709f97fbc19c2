"""ONNX graphs, run by ONNX Runtime on the CPU."""

import ctypes
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.config.load import keep_runtimes_silent
from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, ModelManifest, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors
from dukou.runtimes.domain import Gate, InputDomain, read_domain
from dukou.runtimes.options import read_concurrency, read_threads

keep_runtimes_silent()  # it looks when it is imported

import onnxruntime  # noqa: E402
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument  # noqa: E402

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxRuntime:
    """Loads `.onnx` files, with their external data where they have some.

    Option `threads`: how many threads one inference may use (default 1, because requests are what runs in parallel).
    Option `concurrency`: how many inferences may run at a time (default one for each CPU).
    Option `domain`: for each input the values that it takes (see `InputDomain`); without it a graph takes all.
    """

    def load(self, folder: Path, manifest: ModelManifest, *, trust: bool = False) -> "OnnxModel":
        """Open the graph, which runs no code of its own whether trusted or not.

        Raises DukouError ARTIFACT_UNREADABLE, CONFIG_INVALID, or MANIFEST_INVALID when the graph lacks a tensor that
        the manifest's signatures name, or the option `domain` is none.
        """
        path = folder / manifest.serving
        threads = read_threads(manifest.options)
        concurrency = read_concurrency(manifest.options, os.cpu_count() or 1)
        try:
            domains = read_domain(manifest.options.get("domain", {}))
        except ValueError as error:
            detail = f"its option domain is not valid: {error}"
            raise DukouError(Reason.MANIFEST_INVALID, path=str(folder), detail=detail) from error
        session = _open(path, threads)
        inputs = {node.name for node in session.get_inputs()}
        outputs = {node.name for node in session.get_outputs()}
        for signature in manifest.signatures.values():
            absent = [name for name in map(_tensor, signature.inputs) if name not in inputs]
            absent += [name for name in map(_tensor, signature.outputs) if name not in outputs]
            if absent:
                detail = f"signature {signature.name!r} names {', '.join(absent)}, which {path.name} does not have"
                raise DukouError(Reason.MANIFEST_INVALID, path=str(folder), detail=detail)
            if not _is_runnable(signature):
                detail = "ONNX Runtime takes no text beside BF16 tensors; give the graph tensors of another datatype"
                raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
        return OnnxModel(session, manifest.signatures, domains, concurrency)


class OnnxModel:
    """A LoadedModel. A session may be run from many threads at once; each run computes in the thread that calls it."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        signatures: Mapping[str, Signature],
        domains: Mapping[str, InputDomain],
        concurrency: int,
    ) -> None:
        self._session = session
        self._signatures = signatures
        self._concurrency = concurrency
        self._plans = {name: _plan(signature, domains) for name, signature in signatures.items()}

    @property
    def concurrency(self) -> int:
        """One run per CPU: a run keeps its own thread busy to the end, so more would only wait for one another."""
        return self._concurrency

    @property
    def holds_gil(self) -> bool:
        """ONNX Runtime lets the interpreter go while it computes."""
        return False

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """The outputs asked for. Raises DukouError WRONG_SHAPE, MODEL_REFUSED_INPUT, or MODEL_FAILED."""
        plan = self._plans[signature]
        feed = dict(inputs)
        for name in plan.texts:
            feed[name] = _as_text(name, feed[name])
        for name, gate in plan.gates:
            gate.check(feed[name])
        try:
            arrays = (
                self._session.run(outputs, feed) if plan.direct else _run_renamed(self._session, plan, outputs, feed)
            )
        except Exception as error:  # ONNX Runtime's exceptions share no parent
            raise self._explain(signature, inputs, error) from error
        return dict(zip(outputs, arrays, strict=True))

    def _explain(self, signature: str, inputs: Tensors, error: Exception) -> DukouError:
        """Whose fault an exception is: the caller's for refused shapes, types and values, else the model's."""
        if isinstance(error, InvalidArgument):
            for spec in self._signatures[signature].inputs:
                shape = inputs[spec.name].shape
                if not spec.fits(shape):
                    return DukouError(Reason.WRONG_SHAPE, tensor=spec.name, got=list(shape), wanted=spec.shape)
            return DukouError(Reason.MODEL_REFUSED_INPUT, detail=_short(error))
        if isinstance(error, UnicodeEncodeError):
            return DukouError(Reason.MODEL_REFUSED_INPUT, detail="a string holds half of a surrogate pair")
        return DukouError(Reason.MODEL_FAILED)


class _Plan(msgspec.Struct, frozen=True):
    """What a signature needs beside the session's `run`: text decoded, values checked, the graph's own names, BF16.

    `direct` says that the two last are not needed.
    """

    texts: tuple[str, ...]
    gates: tuple[tuple[str, Gate], ...]
    feeds: Mapping[str, str]
    fetches: Mapping[str, str]
    bfloat: bool
    direct: bool


def _plan(signature: Signature, domains: Mapping[str, InputDomain]) -> _Plan:
    specs = (*signature.inputs, *signature.outputs)
    bfloat = any(spec.datatype == "BF16" for spec in specs)
    return _Plan(
        texts=tuple(spec.name for spec in signature.inputs if spec.datatype == "BYTES"),
        gates=tuple((spec.name, Gate(spec, domains[spec.name])) for spec in signature.inputs if spec.name in domains),
        feeds={spec.name: _tensor(spec) for spec in signature.inputs},
        fetches={spec.name: _tensor(spec) for spec in signature.outputs},
        bfloat=bfloat,
        direct=not bfloat and all(_tensor(spec) == spec.name for spec in specs),
    )


def _is_runnable(signature: Signature) -> bool:
    """Whether ONNX Runtime's Python interface can carry the tensors: BF16 goes as OrtValues, text in does not."""
    text = any(spec.datatype == "BYTES" for spec in signature.inputs)
    return not (text and any(spec.datatype == "BF16" for spec in (*signature.inputs, *signature.outputs)))


def _tensor(spec: TensorSpec) -> str:
    """What the graph calls a tensor."""
    return spec.tensor or spec.name


def _run_renamed(
    session: onnxruntime.InferenceSession, plan: _Plan, outputs: Sequence[str], feed: Tensors
) -> Sequence[NDArray[Any]]:
    """A run under the graph's own names. NumPy has no bfloat16: such tensors go in and out as memory."""
    wanted = [plan.fetches[name] for name in outputs]
    inputs = {plan.feeds[name]: array for name, array in feed.items()}
    if not plan.bfloat:
        arrays: Sequence[NDArray[Any]] = session.run(wanted, inputs)
        return arrays
    values = session.run_with_ort_values(wanted, {name: _to_value(array) for name, array in inputs.items()})
    return [_from_value(value) for value in values]


_ONNX_BFLOAT16 = 16  # TensorProto.DataType of onnx.proto


def _to_value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    array = np.ascontiguousarray(array).reshape(array.shape)  # of a scalar it would make a list
    if array.dtype != DTYPES["BF16"]:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _ONNX_BFLOAT16)


def _from_value(value: onnxruntime.OrtValue) -> NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        array: NDArray[Any] = value.numpy()
        return array
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, DTYPES["BF16"]).reshape(value.shape())


class Graph(msgspec.Struct, frozen=True):
    """What an ONNX file takes and gives.

    `omitted` names the outputs that are no tensors (a converter's ZipMap makes sequences of maps), with their types:
    no protocol can carry them, so the signature is without them.
    """

    signature: Signature
    omitted: Mapping[str, str] = {}


def read_signature(path: Path) -> Signature:
    """The signature of an ONNX file; `read_graph` also tells which outputs it leaves out."""
    return read_graph(path).signature


def read_graph(path: Path) -> Graph:
    """What an ONNX file takes and gives.

    A symbolic size is -1, an unknown rank is None. `batched` is true when axis 0 of every input and output is of any
    size, and no two of them bear different symbols there: `N` and `M` are sizes of their own, so nothing says that a
    row in is a row out. Symbols that converters make up (`unk__7`) count as none. Raises DukouError
    ARTIFACT_UNREADABLE, or ARTIFACT_UNSUPPORTED for inputs that are no tensors and when no output is one.
    """
    session = _open(path, threads=1, optimized=False)
    nodes = [*session.get_inputs(), *session.get_outputs()]
    unranked = _without_shape(path) if any(not node.shape for node in nodes) else set()
    for node in session.get_inputs():
        if node.type not in _DATATYPES:
            detail = f"its input {node.name!r} is a {node.type}, which requests cannot carry"
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
    tensors = [node for node in session.get_outputs() if node.type in _DATATYPES]
    omitted = {node.name: node.type for node in session.get_outputs() if node.type not in _DATATYPES}
    if not tensors:
        listed = ", ".join(f"{name} ({kind})" for name, kind in omitted.items())
        detail = f"none of its outputs is a tensor: {listed}; export it without ZipMap (options={{'zipmap': False}})"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
    served = [*session.get_inputs(), *tensors]
    signature = Signature(
        name=DEFAULT_SIGNATURE,
        inputs=tuple(_spec(node, unranked) for node in session.get_inputs()),
        outputs=tuple(_spec(node, unranked) for node in tensors),
        batched=_is_batched([() if node.name in unranked else tuple(node.shape) for node in served]),
    )
    return Graph(signature, omitted)


def _is_batched(shapes: list[tuple[int | str | None, ...]]) -> bool:
    """The rule of `read_graph` over shapes as ONNX Runtime gives them; () is a scalar or an unknown rank."""
    if any(not shape or isinstance(shape[0], int) for shape in shapes):
        return False
    symbols = {shape[0] for shape in shapes if isinstance(shape[0], str) and not _MADE_UP.fullmatch(shape[0])}
    return len(symbols) <= 1


_MADE_UP = re.compile(r"unk__\d+")


def _spec(node: onnxruntime.NodeArg, unranked: set[str]) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, _DATATYPES[node.type], None if node.name in unranked else shape)


def _open(path: Path, threads: int, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    """A session on the file itself, not on its bytes: external data is looked for beside it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no parent
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=_short(error)) from error


_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed: ?)?", re.DOTALL)


def _short(error: Exception) -> str:
    """ONNX Runtime's message without its number and path, on one line of at most 300 characters."""
    return " ".join(_PREFIX.sub("", str(error), count=1).split())[:300] or type(error).__name__


def _as_text(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array with `bytes` elements decoded. ONNX strings are UTF-8, and ONNX Runtime would write `b'..'` of them.

    Raises DukouError MODEL_REFUSED_INPUT naming the row of the first element that is no text.
    """
    if not any(isinstance(item, bytes) for item in array.flat):
        return array
    texts = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        try:
            texts[index] = item.decode("utf-8") if isinstance(item, bytes) else item
        except UnicodeDecodeError as error:
            detail = f"the string {item!r:.80} is not UTF-8 text"
            row = index[0] if index else None
            raise DukouError(Reason.MODEL_REFUSED_INPUT, tensor=name, row=row, detail=detail) from error
    return texts


# ONNX Runtime shows a scalar and a tensor of unknown rank alike, as []. The file tells them apart: a ValueInfoProto
# whose tensor type has no `shape` message. Field numbers are those of onnx.proto.
_MODEL_GRAPH, _GRAPH_INPUT, _GRAPH_OUTPUT = 7, 11, 12
_INFO_NAME, _INFO_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE = 1, 2, 1, 2


def _without_shape(path: Path) -> set[str]:
    """The inputs and outputs whose rank the file does not say. The file has been parsed by ONNX Runtime before."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names: set[str] = set()
        for graph in _fields(content, 0, len(content), _MODEL_GRAPH):
            for number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
                for info in _fields(content, *graph, number):
                    shapes = [
                        shape
                        for kind in _fields(content, *info, _INFO_TYPE)
                        for tensor in _fields(content, *kind, _TYPE_TENSOR)
                        for shape in _fields(content, *tensor, _TENSOR_SHAPE)
                    ]
                    if not shapes:
                        names.update(content[a:b].decode() for a, b in _fields(content, *info, _INFO_NAME))
        return names


def _fields(content: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the length-delimited fields numbered `wanted` of the protobuf message at `start:end` begin and end."""
    at = start
    while at < end:
        tag, at = _varint(content, at, end)
        match tag & 7:
            case 0:
                _, at = _varint(content, at, end)
            case 1:
                at += 8
            case 2:
                length, at = _varint(content, at, end)
                if tag >> 3 == wanted:
                    yield at, min(at + length, end)
                at += length
            case 5:
                at += 4
            case _:
                return


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, at
