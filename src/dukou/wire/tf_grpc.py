"""TensorFlow Serving's gRPC API: Predict, and what its other calls share.

Facts from tensorflow/serving's `apis/*.proto`, `servables/tensorflow/predict_util.cc` and `core/framework/tensor.cc`.
Shapes that the signature declares are checked, because a typed model cannot run others; a signature that leaves the
rank open takes any. More lenient than that server in one point: a datatype whose every value the wanted one holds
exactly is taken too (float for double, uint8 for float), since a client in Python seldom chooses it by hand.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.core.version import ModelRef
from dukou.protos import pool
from dukou.wire import tf_errors, tf_known
from dukou.wire.batch_rows import are_small_numbers, row_of
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_write import native
from dukou.wire.protobuf import head
from dukou.wire.raw_array import Raw
from dukou.wire.rows import count, fit
from dukou.wire.tf_kinds import KINDS
from dukou.wire.tf_known import Known
from dukou.wire.tf_says import says
from dukou.wire.tf_tensor import AS_MEMORY, from_proto, name_of, to_proto

MOST_ERROR = 1024
"""Characters of an error that are sent."""

RAW_WEIGHT = 64
"""Bytes of raw data that take the time of one byte of text."""

CONTENT_TYPE = b"application/grpc"

REQUEST = "tensorflow.serving.PredictRequest"
RESPONSE = "tensorflow.serving.PredictResponse"
_OUTPUTS, _MODEL_SPEC, _KEY, _VALUE = 1, 2, 1, 2


class Said(msgspec.Struct):
    """A PredictRequest: the form that it is known to have, or else the message."""

    body: bytes
    known: Known | None = None
    message: Any = None


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """A PredictRequest, which names its model itself. Raises DukouError MALFORMED_REQUEST."""
    known = tf_known.find(body)
    if known is not None:
        return Draft(known.ref, Said(body, known), known.signature.name)
    message = pool.parse(REQUEST, body)
    return Draft(reference(message), Said(body, None, message), message.model_spec.signature_name)


def reference(said: Any) -> ModelRef:
    """The model that a message's `model_spec` asks for. Raises DukouError MALFORMED_REQUEST where it names none."""
    if not said.HasField("model_spec"):
        raise says("Missing ModelSpec")
    return model_ref(said.model_spec)


def model_ref(spec: Any) -> ModelRef:
    """The model that a ModelSpec asks for. Raises DukouError MALFORMED_REQUEST where it names none."""
    name = spec.name
    if not name:
        raise says("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    if choice is None:
        return ModelRef(name)
    if choice == "version":
        return ModelRef(name, spec.version.value)
    return ModelRef(name, None, spec.version_label)


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The tensors of a request, typed by the signature. Raises DukouError."""
    said: Said = draft.payload
    known = said.known
    if known is not None and known.manifest is served.manifest:
        inputs = tf_known.arrays(known, said.body)
        return InferenceRequest(served.id, known.signature, inputs, known.outputs, known.rows, context)
    message = said.message if known is None else pool.parse(REQUEST, said.body)
    try:
        signature = _signature(draft.signature_name, served)
        inputs = _inputs(message.inputs, signature)
        outputs = _outputs(message.output_filter, signature)
        rows = count(inputs, signature, served)
    except DukouError as error:
        raise error.within(model=served.id.name, version=served.id.version) from None
    request = InferenceRequest(served.id, signature, inputs, outputs, rows, context)
    tf_known.learn(said.body, message, draft.ref, served, request)
    return request


def _signature(name: str, served: Served) -> Signature:
    found = served.manifest.signatures.get(name or DEFAULT_SIGNATURE)
    if found is None:
        text = f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found.'
        raise says(text, Reason.PRECONDITION_FAILED)
    return found


def _inputs(came: Any, signature: Signature) -> dict[str, NDArray[Any]]:
    specs = signature.inputs
    if len(came) != len(specs):
        raise _other_inputs(came, specs)
    inputs: dict[str, NDArray[Any]] = {}
    for spec in specs:
        tensor = came.get(spec.name)
        if tensor is None:
            raise _unknown_inputs(came, specs)
        array = from_proto(tensor, spec.name)
        if array is None or array.dtype is not DTYPES[spec.datatype]:
            array = _widened(array, spec, tensor.dtype, len(inputs))
        inputs[spec.name] = fit(array, spec)
    return inputs


def _widened(array: NDArray[Any] | None, spec: TensorSpec, came: int, place: int) -> NDArray[Any]:
    """The array in the datatype that is wanted, where that holds every value of its own."""
    wanted = DTYPES[spec.datatype]
    if array is not None:
        if array.dtype == wanted:
            return array
        if array.dtype.kind in "iuf" and wanted.kind in "iuf" and np.can_cast(array.dtype, wanted):
            return array.astype(wanted)
    got, name = name_of(came), KINDS[spec.datatype].name
    text = f"Expects arg[{place}] to be {name} but {got} is provided (input {spec.name})"
    raise says(text, Reason.WRONG_DATATYPE, tensor=spec.name, got=got, wanted=name)


def _other_inputs(came: Mapping[str, Any], specs: Collection[TensorSpec]) -> DukouError:
    wanted = {spec.name for spec in specs}
    missing = [name for name in wanted if name not in came]
    text = (
        f"input size does not match signature: {len(came)}!={len(wanted)} len({_names(came)}) != "
        f"len({_names(wanted)}). Sent extra: {_names(name for name in came if name not in wanted)}. "
        f"Missing but required: {_names(missing)}."
    )
    reason = Reason.INPUT_MISSING if missing else Reason.INPUT_UNEXPECTED
    return says(text, reason, wanted=len(wanted), got=len(came), missing=_names(missing))


def _unknown_inputs(came: Mapping[str, Any], specs: Collection[TensorSpec]) -> DukouError:
    names = {spec.name for spec in specs}
    unknown = min(name for name in came if name not in names)
    text = f"input tensor alias not found in signature: {unknown}. Inputs expected to be in the set {_names(names)}."
    return says(text, Reason.INPUT_UNEXPECTED, tensor=unknown, wanted=_names(names))


def _outputs(asked: Collection[str], signature: Signature) -> tuple[str, ...]:
    if not asked:
        return signature.output_names()
    names = signature.output_names()
    seen: list[str] = []
    for alias in asked:
        if alias not in names:
            text = (
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_names(names)}."
            )
            raise says(text, Reason.OUTPUT_UNEXPECTED, got=alias, wanted=_names(names))
        if alias in seen:
            raise says(f"duplicate output tensor alias: {alias}", Reason.OUTPUT_DUPLICATE, got=alias)
        seen.append(alias)
    return tuple(seen)


def _names(names: Iterable[str]) -> str:
    """A set of names, which callers may have made long, as far as an error has room for it."""
    return "{" + ",".join(sorted(islice(names, MOST_ERROR))) + "}"


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """A PredictResponse. Raises DukouError NOT_SUPPORTED for text that has no UTF-8 form."""
    row = row_of(request, response, RESPONSE, _write_rows)
    if row is not None:
        return Reply(row, CONTENT_TYPE)
    parts: list[Raw] = []
    for name, array in response.outputs.items():
        parts += _output(name, array)
    parts.append(answered(response.version.name, response.version.version, request.signature.name))
    return Reply(b"".join(parts), CONTENT_TYPE)


def _output(name: str, array: NDArray[Any]) -> tuple[bytes, Raw]:
    """An entry of the map of outputs: all before its values, and those."""
    try:
        described, values = to_proto(array)
    except UnicodeError:
        detail = f"output {name!r} holds text that has no UTF-8 form"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail) from None
    key = _key(name)
    value = head(_VALUE, len(described) + len(values))
    return head(_OUTPUTS, len(key) + len(value) + len(described) + len(values)) + key + value + described, values


def _write_rows(request: InferenceRequest, response: InferenceResponse) -> Sequence[bytes]:
    """The responses to requests of one row each: one by one each takes 4 µs more."""
    batch = response.batch
    assert batch is not None
    if not are_small_numbers(batch):
        return ()
    rows = [b""] * batch.rows
    for name, array in batch.outputs.items():
        data = native(array).tobytes()
        size = len(data) // batch.rows
        pieces = [data[at * size : (at + 1) * size] for at in range(batch.rows)]
        if datatype_of(array) in AS_MEMORY:
            before, _ = _output(name, array[:1])
            rows = [row + before + piece for row, piece in zip(rows, pieces, strict=True)]
        else:  # labels and the like: few differ
            places = {piece: at for at, piece in enumerate(pieces)}
            written = {piece: b"".join(_output(name, array[at : at + 1])) for piece, at in places.items()}
            rows = [row + written[piece] for row, piece in zip(rows, pieces, strict=True)]
    end = answered(response.version.name, response.version.version, request.signature.name)
    return [row + end for row in rows]


@lru_cache(1024)
def _key(name: str) -> bytes:
    """The key of a map's entry."""
    key = name.encode()
    return head(_KEY, len(key)) + key


@lru_cache(1024)
def answered(name: str, version: int, signature: str) -> bytes:
    """The field of a response that tells what has answered."""
    spec = model_spec(name, version, signature)
    return head(_MODEL_SPEC, len(spec)) + spec


@lru_cache(1024)
def model_spec(name: str, version: int, signature: str) -> bytes:
    """A ModelSpec that tells what has answered."""
    spec = pool.message("tensorflow.serving.ModelSpec")(name=name, version={"value": version}, signature_name=signature)
    written: bytes = spec.SerializeToString()
    return written


def reading_bytes(headers: Headers, body: bytes) -> int:
    """The message; one whose form is known is raw data."""
    return len(body) // RAW_WEIGHT if tf_known.find(body) is not None else len(body)


def writing_bytes(request: InferenceRequest, response: InferenceResponse) -> int:
    """The values that are written one by one; floats and booleans are written as memory has them."""
    return sum(
        array.nbytes // (RAW_WEIGHT if datatype_of(array) in AS_MEMORY else 1) for array in response.outputs.values()
    )


def refuse(error: DukouError) -> bytes:
    """The message of an error, in the words that this protocol's clients look for."""
    text = tf_errors.describe(error)
    if len(text) > MOST_ERROR:
        text = text[:MOST_ERROR] + "...TRUNCATED"
    return text.encode("utf-8", "replace")
