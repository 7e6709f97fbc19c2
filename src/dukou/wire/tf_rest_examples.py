"""TensorFlow Serving's REST API: classify and regress.

Facts from tensorflow/serving's `g3doc/api_rest.md` and `util/json_tensor.cc`. A JSON number with a fraction or an
exponent is a float, others are int64; the two do not mix in one feature.
"""

from typing import Any

import msgspec
import numpy as np

from dukou.core.errors import DukouError
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.version import ModelRef
from dukou.wire import tf_examples, tf_rest
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_array import from_b64, is_b64
from dukou.wire.json_write import nested_text, quote, six_digit_text
from dukou.wire.tf_errors import type_name
from dukou.wire.tf_examples import Example, Examples, Feature
from dukou.wire.tf_says import says

CLASS_TEXT_BYTES = 64
"""Of text that takes as long to write as a class and its score."""

_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1


class ExamplesCodec(msgspec.Struct, frozen=True):
    """The Codec of one method, which is TensorFlow Serving's name of it."""

    method: str

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """The examples of a body. Raises DukouError MALFORMED_JSON, TOO_DEEP, TOO_MANY_VALUES, MALFORMED_REQUEST."""
        tree, name = tf_rest.read_object(body)
        context = _example(tree["context"]) if "context" in tree else {}
        if "examples" not in tree:
            # TensorFlow Serving names classify here for both methods.
            raise says(
                f"JSON Value: {quote(tree)} When method is classify, key 'examples' is expected and was not found"
            )
        examples = tree["examples"]
        if not isinstance(examples, list | np.ndarray):
            raise says(f"JSON Value: {quote(tree)} Expecting 'examples' value to be an list/array")
        if not len(examples):
            raise says(f"JSON Value: {quote(tree)} 'examples' value is an empty array")
        return Draft(ref, Examples([_example(example) for example in examples], context), name)

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """The features as the signature's inputs; the outputs with the results are asked for. Raises DukouError."""
        return tf_examples.bind(self.method, draft.signature_name, draft.payload, served, context)

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """`{"results": [...]}`: of each example its `[label, score]` pairs, or its value. Raises DukouError where the
        outputs are none of both."""
        if self.method == tf_examples.REGRESS:
            return Reply(b'{"results":' + six_digit_text(tf_examples.values(request, response)) + b"}")
        found = tf_examples.classes(request, response)
        numbers = iter(six_digit_text(found.scores.ravel())[1:-1].split(b","))
        rows = [
            b"[" + b",".join([b"[" + nested_text(label) + b"," + next(numbers) + b"]" for label in labels]) + b"]"
            for labels in found.labels
        ]
        return Reply(b'{"results":[' + b",".join(rows) + b"]}")

    def refuse(self, error: DukouError) -> bytes:
        """`{"error": ...}` in the words that this protocol's clients look for."""
        return tf_rest.refuse(error)

    def reading_bytes(self, headers: Headers, body: bytes) -> int:
        """All of the body."""
        return len(body)

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        """By the number of values."""
        return sum(array.size * CLASS_TEXT_BYTES for array in response.outputs.values())


CLASSIFY = ExamplesCodec(tf_examples.CLASSIFY)
"""The Codec of `:classify`."""

REGRESS = ExamplesCodec(tf_examples.REGRESS)
"""The Codec of `:regress`."""


def _example(value: Any) -> Example:
    if type(value) is not dict:
        raise says(f"Example must be JSON object but got JSON {type_name(value)}")
    return {name: _feature(name, content) for name, content in value.items()}


def _feature(name: str, content: Any) -> Feature:
    if isinstance(content, np.ndarray) and content.ndim == 1:
        if content.dtype.kind == "u":
            raise _beyond_int64(name)
        return Feature("int64" if content.dtype.kind == "i" else "float", content)
    if not isinstance(content, list | np.ndarray):
        content = [content]
    kind = ""
    values = []
    for value in content:
        came, converted = _value(name, value)
        if came != (kind or came):
            expecting = "bytes" if kind == "string" else kind
            raise says(f"Unexpected element type in feature: {name} expecting type: {expecting}")
        kind = came
        values.append(converted)
    return Feature(kind, values)


def _value(name: str, value: Any) -> tuple[str, Any]:
    """The kind of feature that a value makes, and the value in it."""
    if type(value) is float:
        return "float", value
    if type(value) is bool:
        return "int64", int(value)
    if type(value) is int:
        if _INT64_MIN <= value <= _INT64_MAX:
            return "int64", value
        if value <= _UINT64_MAX and value > 0:
            raise _beyond_int64(name)
        return "float", _as_float(value)
    if type(value) is str:
        return "string", value
    if is_b64(value):
        raw = from_b64(value)
        if raw is None:
            raise says("Unable to base64 decode")
        return "string", raw
    raise says(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _beyond_int64(name: str) -> DukouError:
    return says(f"Feature: {name} has uint64 element. Only int64 is supported.")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
