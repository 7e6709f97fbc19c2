"""TensorFlow Serving's gRPC API: Classify and Regress.

Facts from tensorflow/serving's `apis/{input,classification,regression}.proto` and tensorflow's `example.proto`.
"""

from typing import Any

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.version import ModelRef
from dukou.protos import pool
from dukou.wire import tf_examples, tf_grpc
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_text import MOST_VALUES
from dukou.wire.tf_examples import Example, Examples, Feature

CLASS_TEXT_BYTES = 128
"""Of text that takes as long to write as a class and its score."""

_KINDS = {"bytes_list": "string", "float_list": "float", "int64_list": "int64"}


class ExamplesCodec(msgspec.Struct, frozen=True):
    """The Codec of one method, which is TensorFlow Serving's name of it, and the messages it has."""

    method: str
    request: str
    response: str

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """The examples of a message, which names its model itself. Raises DukouError MALFORMED_REQUEST."""
        said = pool.parse(self.request, body)
        return Draft(tf_grpc.reference(said), examples_of(said.input), said.model_spec.signature_name)

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """The features as the signature's inputs; the outputs with the results are asked for. Raises DukouError."""
        return tf_examples.bind(self.method, draft.signature_name, draft.payload, served, context)

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """The message with the results of all examples. Raises DukouError where the outputs are none."""
        version = response.version
        written: bytes = pool.message(self.response)(
            result=result_of(self.method, request, response)
        ).SerializeToString()
        return Reply(
            written + tf_grpc.answered(version.name, version.version, request.signature.name), tf_grpc.CONTENT_TYPE
        )

    def refuse(self, error: DukouError) -> bytes:
        """The message of an error, in the words that this protocol's clients look for."""
        return tf_grpc.refuse(error)

    def reading_bytes(self, headers: Headers, body: bytes) -> int:
        """All of the message."""
        return len(body)

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        """By the number of values."""
        return sum(array.size * CLASS_TEXT_BYTES for array in response.outputs.values())


CLASSIFY = ExamplesCodec(
    tf_examples.CLASSIFY, "tensorflow.serving.ClassificationRequest", "tensorflow.serving.ClassificationResponse"
)
"""The Codec of Classify."""

REGRESS = ExamplesCodec(
    tf_examples.REGRESS, "tensorflow.serving.RegressionRequest", "tensorflow.serving.RegressionResponse"
)
"""The Codec of Regress."""


def examples_of(said: Any) -> Examples:
    """The examples of an Input; none where it has neither kind. Raises DukouError TOO_MANY_VALUES."""
    kind = said.WhichOneof("kind")
    if kind is None:
        return Examples([], {})
    found = getattr(said, kind)
    if len(found.examples) > MOST_VALUES:
        raise DukouError(Reason.TOO_MANY_VALUES, got=len(found.examples), wanted=MOST_VALUES)
    context: Example = _Example(found.context) if kind == "example_list_with_context" else {}
    return Examples([_Example(example) for example in found.examples], context)


class _Example:
    """The features of a tensorflow.Example, each read when it is asked for: not all of them may be wanted."""

    __slots__ = ("_features",)

    def __init__(self, said: Any) -> None:
        self._features = said.features.feature

    def get(self, name: str, /) -> Feature | None:
        feature = self._features.get(name)
        if feature is None:
            return None
        kind = feature.WhichOneof("kind")
        return Feature("", ()) if kind is None else Feature(_KINDS[kind], getattr(feature, kind).value)


def result_of(method: str, request: InferenceRequest, response: InferenceResponse) -> Any:
    """The ClassificationResult or RegressionResult of an answer. Raises DukouError where the outputs are none."""
    if method == tf_examples.REGRESS:
        result = pool.message("tensorflow.serving.RegressionResult")()
        for value in tf_examples.values(request, response).tolist():
            result.regressions.add(value=value)
        return result
    found = tf_examples.classes(request, response)
    result = pool.message("tensorflow.serving.ClassificationResult")()
    for labels, scores in zip(found.labels, found.scores.tolist(), strict=True):
        row = result.classifications.add().classes
        for label, score in zip(labels, scores, strict=True):
            row.add(label=label, score=score)
    return result
