"""Triton's warm-ups: made-up requests that a model answers while it is loaded."""

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest, Signature
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import DTYPES, Tensors
from dukou.packing.triton import Warmup, WarmupInput

_LENGTH_BYTES = 4


def run_warmups(model: LoadedModel, manifest: ModelManifest, warmups: Sequence[Warmup], home: Path) -> None:
    """Ask the model each of `warmups`; files of data are in `home / "warmup"`. A model that fails is not served.

    Raises DukouError ARTIFACT_UNREADABLE: for that, for inputs that are not the model's, for a file that does not hold
    its tensor.
    """
    signature = manifest.signature("")
    for warmup in warmups:
        inputs = made_up(warmup, signature, home)
        for _ in range(warmup.count):
            try:
                ask(model, signature, inputs, signature.output_names())
            except DukouError as error:
                raise _failed(warmup, home, error.what()) from error
            except (Exception, SystemExit) as error:
                raise _failed(warmup, home, f"the model failed: {type(error).__name__}: {error}") from error


def made_up(warmup: Warmup, signature: Signature, home: Path) -> Tensors:
    """The tensors of one warm-up: `batch_size` times the same rows. Raises DukouError."""
    wanted = {spec.name for spec in signature.inputs}
    if set(warmup.inputs) != wanted:
        raise _failed(warmup, home, f"it has the inputs {sorted(warmup.inputs)}, the model's are {sorted(wanted)}")
    rows = max(warmup.batch_size, 1)
    tensors = {}
    for name, made in warmup.inputs.items():
        one = _data(made, home)
        tensors[name] = np.repeat(one[np.newaxis], rows, axis=0) if signature.batched else one
    return tensors


def ask(
    model: LoadedModel,
    signature: Signature,
    inputs: Tensors,
    outputs: tuple[str, ...],
    parameters: Mapping[str, Any] = {},
) -> Tensors:
    """What the model answers; the last response of one that streams. Raises what it raises."""
    if not signature.streaming:
        return model.infer(signature.name, inputs, outputs, parameters)
    streaming: Any = model
    responses = deque(streaming.stream(signature.name, inputs, outputs, parameters), maxlen=1)
    return responses[0] if responses else {}


def _data(made: WarmupInput, home: Path) -> NDArray[Any]:
    dtype = DTYPES[made.datatype]
    if made.file:
        return _read(home / "warmup" / made.file, made)
    if made.datatype == "BYTES":
        return np.full(made.dims, "", object)
    if not made.random:
        return np.zeros(made.dims, dtype)
    chance = np.random.default_rng(0)
    if dtype.kind == "f":
        return chance.random(made.dims).astype(dtype)
    size = int(np.prod(made.dims, dtype=np.int64)) * dtype.itemsize
    bits = np.frombuffer(chance.bytes(size), dtype if made.datatype != "BOOL" else np.uint8).reshape(made.dims)
    return bits if made.datatype != "BOOL" else bits % 2 == 1


def _read(path: Path, made: WarmupInput) -> NDArray[Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error.strerror)) from error
    try:
        if made.datatype == "BYTES":
            return np.array(_strings(content), object).reshape(made.dims)
        return np.frombuffer(content, DTYPES[made.datatype]).reshape(made.dims)
    except ValueError as error:
        detail = f"its {len(content)} bytes are no {made.datatype} tensor of the dims {list(made.dims)}"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error


def _strings(content: bytes) -> list[bytes]:
    """Each string behind its length in four bytes, least significant first. Raises ValueError."""
    found = []
    at = 0
    while at < len(content):
        end = at + _LENGTH_BYTES + int.from_bytes(content[at : at + _LENGTH_BYTES], "little")
        if end > len(content) or at + _LENGTH_BYTES > len(content):
            raise ValueError("a string is cut off")
        found.append(content[at + _LENGTH_BYTES : end])
        at = end
    return found


def _failed(warmup: Warmup, home: Path, detail: str) -> DukouError:
    return DukouError(Reason.ARTIFACT_UNREADABLE, path=str(home), detail=f"model_warmup {warmup.name!r}: {detail}")
