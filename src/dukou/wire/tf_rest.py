"""TensorFlow Serving's REST API: predict in row and column form, model status, and its error texts.

Facts from tensorflow/serving's `g3doc/api_rest.md` and `util/json_tensor.cc`. Stricter than that server in two points:
integers must fit their datatype (it wraps 8 and 16 bit ones), and shapes that the signature declares are checked,
because a typed model cannot run others; a signature that leaves the rank open takes any.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import orjson
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import Signature, TensorSpec
from dukou.core.version import ModelRef
from dukou.wire import tf_errors, tf_metadata
from dukou.wire.batch_rows import are_small_numbers, row_of
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_array import Numbers, is_b64, to_array
from dukou.wire.json_text import decode, read
from dukou.wire.json_write import array_text, error_text, in_b64, nested_text, quote, six_digit_text, split_rows, texts
from dukou.wire.rows import count, fit, from_records
from dukou.wire.text_size import reading_bytes, writing_bytes
from dukou.wire.tf_says import says

__all__ = ["bind", "encode", "parse", "reading_bytes", "refuse", "writing_bytes"]


class _Numeric(msgspec.Struct):
    instances: Numbers | UnsetType = UNSET
    inputs: Numbers | UnsetType = UNSET
    signature_name: str = ""


class _Predict(msgspec.Struct):
    """A predict body: `tree` is the whole object, `numbers` says that it was decoded as `_Numeric`."""

    tree: Mapping[str, Any]
    numbers: bool


_numeric = msgspec.json.Decoder(_Numeric)


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """A predict body. What `instances` and `inputs` hold is left to `bind`: an unknown model is reported before that.

    Raises DukouError MALFORMED_JSON, TOO_DEEP and MALFORMED_REQUEST.
    """
    said = decode(body, _numeric)
    if said is not None and (said.instances is UNSET) != (said.inputs is UNSET):
        tree = {"instances": said.instances} if said.inputs is UNSET else {"inputs": said.inputs}
        return Draft(ref, _Predict(tree, True), said.signature_name)
    tree, name = read_object(body)
    return Draft(ref, _Predict(tree, False), name)


def read_object(body: bytes) -> tuple[dict[str, Any], str]:
    """The object that a body is, and its `signature_name`. Raises DukouError as `parse` does."""
    tree = read(body, trailing=True)
    if type(tree) is not dict:
        raise says(f"JSON Value: {quote(tree)} Is not object")
    name = tree.get("signature_name", "")
    if type(name) is not str:
        raise says(f"JSON Value: {quote(tree)} not formatted correctly. 'signature_name' key must be a string value.")
    return tree, name


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The tensors of a body, typed by the signature; all outputs are asked for. Raises DukouError."""
    said: _Predict = draft.payload
    try:
        signature = served.manifest.signature(draft.signature_name)
        if "instances" in said.tree:
            if "inputs" in said.tree:
                raise says(
                    f"JSON Value: {quote(said.tree)} Not formatted correctly expecting only one of 'inputs' or "
                    "'instances' keys to exist "
                )
            inputs = _from_instances(said.tree["instances"], signature, said)
        elif "inputs" in said.tree:
            inputs = _from_inputs(said.tree["inputs"], signature, said.numbers)
        else:
            raise says("Missing 'inputs' or 'instances' key")
        rows = count(inputs, signature, served)
    except DukouError as error:
        raise error.within(model=served.id.name, version=served.id.version) from None
    by_row = "instances" in said.tree
    return InferenceRequest(served.id, signature, inputs, signature.output_names(), rows, context, reply=by_row)


def _from_instances(elements: Any, signature: Signature, said: _Predict) -> dict[str, NDArray[Any]]:
    if type(elements) is not list and not isinstance(elements, np.ndarray):
        raise says(f"JSON Value: {quote(said.tree)} Excepting 'instances' to be an list/array")
    if not len(elements):
        raise DukouError(Reason.NO_ROWS, text=f"JSON Value: {quote(said.tree)} No values in 'instances' array")
    specs = signature.inputs
    if not said.numbers and _is_named(elements[0]):
        return _from_objects(elements, signature)
    if len(specs) > 1:
        raise says(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    spec = specs[0]
    try:
        return {spec.name: _typed(elements, spec, said.numbers)}
    except DukouError as error:
        if type(elements) is list:
            place = next((place for place, element in enumerate(elements) if _is_named(element)), None)
            if place is not None:
                raise says(f"Expecting value/list but got object at item {place} of input list") from None
        raise _explained(error, tf_errors.in_instances, elements, spec) from None


def _from_objects(elements: Any, signature: Signature) -> dict[str, NDArray[Any]]:
    names = [spec.name for spec in signature.inputs]
    spec = signature.inputs[0]
    if len(names) == 1 and spec.columns and elements[0].keys() != {spec.name}:
        return from_records(elements, signature)
    wanted = set(names)
    for place, element in enumerate(elements):
        if not _is_named(element):
            raise says(f"Expecting object but got list at item {place} of input list")
        if element.keys() != wanted:
            raise DukouError(
                Reason.INPUT_MISSING if wanted - element.keys() else Reason.INPUT_UNEXPECTED,
                row=place,
                text=f"Failed to process element: {place} of 'instances' list. JSON object: {quote(element)} "
                f"keys must be equal to: {','.join(sorted(names))}",
            )
    inputs = {}
    for spec in signature.inputs:
        column = [element[spec.name] for element in elements]
        try:
            inputs[spec.name] = _typed(column, spec)
        except DukouError as error:
            raise _explained(error, tf_errors.in_instances, column, spec, spec.name) from None
    return inputs


def _from_inputs(value: Any, signature: Signature, numbers: bool) -> dict[str, NDArray[Any]]:
    specs = signature.inputs
    if not _is_named(value):
        if len(specs) > 1:
            raise says(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {specs[0].name: value}
    inputs = {}
    for spec in specs:
        if spec.name not in value:
            raise DukouError(
                Reason.INPUT_MISSING, tensor=spec.name, text=f"Missing named input: {spec.name} in 'inputs' object."
            )
        try:
            inputs[spec.name] = _typed(value[spec.name], spec, numbers)
        except DukouError as error:
            raise _explained(error, tf_errors.in_inputs, value[spec.name], spec) from None
    return inputs


def _is_named(value: Any) -> bool:
    """Whether this names tensors: any object but `{"b64": ...}`, which is a value."""
    return type(value) is dict and not is_b64(value)


def _typed(value: Any, spec: TensorSpec, numbers: bool = False) -> NDArray[Any]:
    if spec.datatype in ("FP16", "BF16", "UINT16"):
        raise tf_errors.unsupported(value, spec)
    return fit(to_array(value, spec, numbers), spec)


def _explained(error: DukouError, explain: Callable[..., DukouError], *where: Any) -> DukouError:
    """An error about values in the dialect's words; others (a shape that the signature does not allow) as they are."""
    return explain(*where[:2], error, *where[2:]) if error.reason in (Reason.RAGGED, Reason.WRONG_VALUE) else error


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """`{"predictions": [...]}` for a row request, `{"outputs": ...}` for a column one.

    Raises DukouError MALFORMED_REQUEST where outputs cannot be told by row, NOT_SUPPORTED for bytes that are no text.
    """
    if request.reply:
        row = row_of(request, response, "tf_rest", _write_rows)
        if row is not None:
            return Reply(row)
    outputs = response.outputs
    if not request.reply:
        if len(outputs) == 1:
            ((name, array),) = outputs.items()
            return Reply(b'{"outputs":' + _text(name, array) + b"}")
        members = [_member(name) + _text(name, array) for name, array in outputs.items()]
        return Reply(b'{"outputs":{' + b",".join(members) + b"}}")
    _check_rows(outputs)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return Reply(b'{"predictions":' + _text(name, array) + b"}")
    return Reply(b'{"predictions":[' + b",".join(_rows(outputs)) + b"]}")


def _rows(outputs: Mapping[str, NDArray[Any]]) -> list[bytes]:
    """For each row an object of its outputs."""
    columns = [_row_texts(name, array) for name, array in outputs.items()]
    return [b"{" + b",".join(row) + b"}" for row in zip(*columns, strict=True)]


def _write_rows(request: InferenceRequest, response: InferenceResponse) -> Sequence[bytes]:
    """The answers to row requests of one row each: one by one each takes 2 µs more."""
    batch = response.batch
    assert batch is not None
    if not are_small_numbers(batch):
        return ()
    if len(batch.outputs) == 1:
        ((name, array),) = batch.outputs.items()
        return [b'{"predictions":[' + row + b"]}" for row in split_rows(_text(name, array), array.ndim)]
    return [b'{"predictions":[' + row + b"]}" for row in _rows(batch.outputs)]


def _check_rows(outputs: Mapping[str, NDArray[Any]]) -> None:
    wanted = -1
    for name, array in outputs.items():
        shape = array.shape
        if not shape:
            raise says(f"Tensor name: {name} has no shape information ")
        if shape[0] != wanted >= 0:
            raise says(f"Tensor name: {name} has inconsistent batch size: {shape[0]} expecting: {wanted}")
        wanted = shape[0]


def _text(name: str, array: NDArray[Any]) -> bytes:
    kind = array.dtype.kind
    if kind == "f":
        return six_digit_text(array)
    return nested_text(_strings(name, array)) if kind in "OUS" else array_text(array)


def _strings(name: str, array: NDArray[Any]) -> Any:
    """Nested lists of what stands for strings."""
    try:
        return (in_b64 if name.endswith("_bytes") else texts)(array.tolist())
    except UnicodeError:
        detail = f"output {name!r} holds bytes that are not UTF-8; an output whose name ends in _bytes may"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail) from None


def _row_texts(name: str, array: NDArray[Any]) -> list[bytes]:
    """`"name":value` for each row."""
    prefix = _member(name)
    if len(array) == 1:
        return [prefix + _text(name, array)[1:-1]]
    if array.dtype.kind in "OUS":
        return [prefix + nested_text(row) for row in _strings(name, array)]
    if not array.size:
        return [prefix + _text(name, row) for row in array]
    return split_rows(_text(name, array), array.ndim, prefix)


@lru_cache(1024)
def _member(name: str) -> bytes:
    """The beginning of an object's member."""
    return orjson.dumps(name) + b":"


def refuse(error: DukouError) -> bytes:
    """`{"error": ...}` in the words that this protocol's clients look for."""
    return error_text(tf_errors.describe(error))


def model_status(model: str, versions: Mapping[int, Served], version: int | None) -> bytes:
    """The states of `versions` (or of one of them), highest version first; one that failed to load carries its error.

    Raises DukouError MODEL_NOT_FOUND where there are none, VERSION_NOT_FOUND where `version` is not among them.
    """
    return orjson.dumps(tf_metadata.model_status(model, versions, version))


def model_metadata(served: Served) -> bytes:
    """The signatures of a version."""
    return orjson.dumps(tf_metadata.model_metadata(served))
