"""tf.Example features to the inputs of a signature, and its outputs to classes and scores, or to values.

TensorFlow's graphs parse examples themselves; here the inputs are the features. Each input is one, with as many values
in an example as its shape has beside the rows; or the only input's `columns` are features of one value each. What is
said of values that do not fit is what TensorFlow's parser says (tensorflow/core/util/example_proto_helper.cc), and of
signatures and outputs what TensorFlow Serving says (servables/tensorflow/classifier.cc, regressor.cc). An int64_list
may stand for a float feature: a client in JavaScript has no other way to write 1.0.

A signature whose method is neither is taken as well if its outputs can be read so, since TensorFlow Serving does not
look at the method either: `probabilities` or `scores` with a column for each class, or a `label`; or one value a row.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.wire.rows import count, fit
from dukou.wire.tf_kinds import KINDS
from dukou.wire.tf_says import says

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
"""The methods, by TensorFlow Serving's names."""


MOST_FEATURE_VALUES = 2_000_000
"""Of one input: so many take 0.2 s to be made an array. A feature in the context counts for each example."""


class Feature(msgspec.Struct):
    """The values of a feature, and their kind: "int64" (`int`), "float" (`float`) or "string" (`str` or `bytes`).

    Numbers may be an array. The kind of a feature without values is empty.
    """

    kind: str
    values: Sequence[Any] | NDArray[Any]


class Example(Protocol):
    """Features by name."""

    def get(self, name: str, /) -> Feature | None:
        """The feature called `name`."""


class Examples(msgspec.Struct):
    """What a classification or regression is asked for: examples, and the features that all of them have unless they
    have their own."""

    examples: Sequence[Example]
    context: Example


class Reading(msgspec.Struct, frozen=True):
    """How the outputs of a request are to be read: how many examples they are for, and which of them holds what.

    For classes, `classes` or `scores` is the name of an output or empty, and `labels` are those of the scores' columns.
    For values only `scores` is used.
    """

    examples: int
    scores: str
    classes: str = ""
    labels: tuple[str, ...] = ()


def bind(method: str, name: str, said: Examples, served: Served, context: Context) -> InferenceRequest:
    """The request of `said` to the signature called `name`, "" for the default one, to be read by `method`.

    Its `reply` is a Reading. Raises DukouError.
    """
    try:
        signature = served.manifest.signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            asked = name or DEFAULT_SIGNATURE
            text = f"No signature was found with the name: {asked}"
            raise says(text, Reason.SIGNATURE_NOT_FOUND, signature=asked)
        reading = (_read_classes if method == CLASSIFY else _read_values)(signature, len(said.examples))
        if not said.examples:
            raise says("Input is empty.", Reason.NO_ROWS)
        inputs = to_inputs(said, signature)
        rows = count(inputs, signature, served)
    except DukouError as error:
        raise error.within(model=served.id.name, version=served.id.version) from None
    outputs = tuple(filter(None, (reading.classes, reading.scores)))
    return InferenceRequest(served.id, signature, inputs, outputs, rows, context, reply=reading)


def _read_classes(signature: Signature, examples: int) -> Reading:
    outputs = {spec.name: spec for spec in signature.outputs}
    if "classes" in outputs or "scores" in outputs:
        scores = "scores" if "scores" in outputs else ""
        classes = "classes" if "classes" in outputs else ""
        return Reading(examples, scores, classes, outputs[scores].columns if scores and not classes else ())
    if signature.method == "predict":
        if "probabilities" in outputs:
            return Reading(examples, "probabilities", labels=outputs["probabilities"].columns)
        if "label" in outputs:
            return Reading(examples, "", "label")
    text = (
        'Expected classification signature outputs to contain at least one of "classes" or "scores". '
        f"Signature was: {_debug(signature)}"
    )
    raise says(text, Reason.PRECONDITION_FAILED)


def _read_values(signature: Signature, examples: int) -> Reading:
    names = signature.output_names()
    if "outputs" in names:
        return Reading(examples, "outputs")
    if signature.method == "predict" and len(names) == 1:
        spec = signature.outputs[0]
        one = spec.shape is None or len(spec.shape) == 1 or spec.shape[1:] == (1,)
        if one and spec.datatype in ("FP16", "FP32", "FP64"):
            return Reading(examples, spec.name)
    text = f"No regression outputs found in SignatureDef: {_debug(signature)}"
    raise says(text, Reason.PRECONDITION_FAILED)


def _debug(signature: Signature) -> str:
    """A signature in a few words."""
    inputs, outputs = (
        ", ".join(f"{spec.name}: {KINDS[spec.datatype].proto_name}" for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return f"inputs {{{inputs}}} outputs {{{outputs}}} method_name {method_name(signature)}"


def method_name(signature: Signature) -> str:
    """TensorFlow's name of what a signature is for."""
    return f"tensorflow/serving/{signature.method}"


def to_inputs(said: Examples, signature: Signature) -> dict[str, NDArray[Any]]:
    """The features as inputs of a signature; features that it does not name are left out. Raises DukouError."""
    specs = signature.inputs
    if len(specs) == 1 and specs[0].columns and not _has(said, specs[0].name):
        spec = specs[0]
        one = TensorSpec(spec.name, spec.datatype, (-1, 1))
        columns = [_column(said, name, one) for name in spec.columns]
        return {spec.name: fit(np.concatenate(columns, axis=1), spec)}
    return {spec.name: fit(_column(said, spec.name, spec), spec) for spec in specs}


def _has(said: Examples, name: str) -> bool:
    return (said.examples[0].get(name) or said.context.get(name)) is not None


def _column(said: Examples, name: str, spec: TensorSpec) -> NDArray[Any]:
    """The values of the feature called `name`, an array of the spec's datatype, `[examples, ...]`."""
    shape = spec.shape if spec.shape is not None else spec.stated
    inner = shape[1:] if shape is not None else (-1,)
    wanted = -1 if -1 in inner else math.prod(inner)
    common = said.context.get(name)
    values: list[Any] = []
    for row, example in enumerate(said.examples):
        feature = _checked(example.get(name) or common, name, spec, row)
        size = len(feature.values)
        if wanted < 0 and size:
            wanted = size  # of the first example; the others must have as many
        if size != wanted:
            wrong = (
                f"Key: {name}, Index: {row}.  Number of {feature.kind} values != expected.  "
                f"values size: {size} but output shape: {_shape(inner)}"
            )
            raise says(wrong, Reason.WRONG_WIDTH, tensor=spec.name, row=row, got=size, wanted=wanted)
        if len(values) + size > MOST_FEATURE_VALUES:
            got = len(values) + size
            raise DukouError(Reason.TOO_MANY_VALUES, tensor=spec.name, got=got, wanted=MOST_FEATURE_VALUES)
        values += feature.values.tolist() if isinstance(feature.values, np.ndarray) else feature.values
    array = _array(values, spec, wanted)
    try:
        return array.reshape(len(said.examples), *inner)
    except ValueError:
        wrong = f"Key: {name}.  {wanted} values do not fill the shape {_shape(inner)}"
    raise says(wrong, Reason.WRONG_WIDTH, tensor=spec.name, got=wanted, wanted=list(inner))


def _checked(feature: Feature | None, name: str, spec: TensorSpec, row: int) -> Feature:
    """A feature that is there and of the right kind. Raises DukouError."""
    if feature is None or not feature.kind:
        text = f"Feature: {name} (data type: {KINDS[spec.datatype].name}) is required but could not be found."
        raise says(text, tensor=spec.name, row=row)
    expected = _KIND_OF[DTYPES[spec.datatype].kind]
    if feature.kind != expected and (feature.kind, expected) != ("int64", "float"):
        text = f"Key: {name}.  Data types don't match. Data type: {feature.kind} but expected type: {expected}"
        raise says(text, Reason.WRONG_DATATYPE, tensor=spec.name, row=row, got=feature.kind, wanted=expected)
    return feature


_KIND_OF: Mapping[str, str] = {"f": "float", "i": "int64", "u": "int64", "b": "int64", "O": "string", "V": "bfloat16"}
"""Kind of dtype to the kind of a feature; no feature is bfloat16."""


def _array(values: list[Any], spec: TensorSpec, width: int) -> NDArray[Any]:
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "O":
        array = np.empty(len(values), object)
        array[:] = values
        return array
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    low, high = (limits.min, limits.max) if limits is not None else (0, 1)
    if dtype.kind in "iub" and values and not (low <= min(values) and max(values) <= high):
        place = next(place for place, value in enumerate(values) if not low <= value <= high)
        row = place // width
        raise DukouError(Reason.WRONG_VALUE, tensor=spec.name, row=row, got=values[place], wanted=spec.datatype)
    with np.errstate(over="ignore"):
        return np.array(values, dtype)


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


class Classes(msgspec.Struct):
    """The classes of each example: labels, "" where there are none, and scores, floats `[examples, classes]`."""

    labels: Sequence[Sequence[str]]
    scores: NDArray[Any]


def classes(request: InferenceRequest, response: InferenceResponse) -> Classes:
    """What an answer says of each example, in the order of the model's classes.

    Raises DukouError MALFORMED_REQUEST for outputs that are no classes of all examples, NOT_SUPPORTED for labels that
    are no text.
    """
    reading: Reading = request.reply
    scores = response.outputs.get(reading.scores)
    if scores is not None:
        scores = _of_two_axes(scores)
        if scores.dtype.kind != "f":
            raise says(f"Expected scores Tensor of DT_FLOAT. Got: {_proto_name(scores)}")
        _check_rows(scores, reading, "scores output batch size")
    found = response.outputs.get(reading.classes)
    if found is None:
        assert scores is not None, "a reading has classes or scores"
        width = scores.shape[1]
        labels = reading.labels if len(reading.labels) == width else ("",) * width
        return Classes([labels] * len(scores), scores)
    if request.signature.method == "predict" and reading.classes == "label":
        found = _as_labels(found)
    found = _of_two_axes(found)
    if found.dtype.kind not in "OUS":
        raise says(f"Expected classes Tensor of DT_STRING. Got: {_proto_name(found)}")
    _check_rows(found, reading, "classes output batch size")
    if scores is None:
        scores = np.zeros(found.shape, np.float32)
    elif found.shape[1] != scores.shape[1]:
        raise says(f"Tensors class and score should match in dim_size(1). Got {found.shape[1]} vs. {scores.shape[1]}")
    return Classes(_texts(found.tolist(), reading.classes), scores)


def _as_labels(found: NDArray[Any]) -> NDArray[Any]:
    """Predicted labels of any datatype as classes of one column each."""
    labels = np.empty(found.size, object)
    labels[:] = [item if isinstance(item, bytes) else str(item) for item in found.ravel().tolist()]
    return labels.reshape(len(found), -1) if found.ndim else labels


def _texts(rows: list[list[Any]], name: str) -> list[list[str]]:
    try:
        return [[item.decode() if isinstance(item, bytes) else str(item) for item in row] for row in rows]
    except UnicodeError:
        detail = f"output {name!r} holds bytes that are not UTF-8, which no label can be"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail) from None


def values(request: InferenceRequest, response: InferenceResponse) -> NDArray[Any]:
    """The value of each example, FP32 or FP64 [examples]. Raises DukouError MALFORMED_REQUEST for outputs that are no
    values of all examples."""
    reading: Reading = request.reply
    array = response.outputs[reading.scores]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise says(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array.shape)}"
        )
    if len(array) != reading.examples:
        raise says(f"Input batch size did not match output batch size: {reading.examples} vs. {len(array)}")
    if array.dtype.kind != "f":
        raise says(f"Expected output Tensor of DT_FLOAT.  Got: {_proto_name(array)}")
    return array.ravel()


def _of_two_axes(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim != 2:
        raise says(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array.shape)}")
    return array


def _check_rows(array: NDArray[Any], reading: Reading, what: str) -> None:
    if len(array) != reading.examples:
        raise says(f"Expected {what} of {reading.examples}. Got: {len(array)}")


def _proto_name(array: NDArray[Any]) -> str:
    return KINDS[datatype_of(array)].proto_name
