"""KServe's V1 protocol: predict as TensorFlow Serving has it, but answered by row whatever was asked; its error texts.

`refuse` has the words for both of KServe's protocols, V1 and the Open Inference Protocol.
"""

from collections.abc import Sequence

import orjson

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.version import ModelRef
from dukou.wire import fastapi_errors, tf_rest
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_write import error_text
from dukou.wire.text_size import reading_bytes, writing_bytes

__all__ = ["bind", "encode", "parse", "reading_bytes", "refuse", "writing_bytes"]


def parse(ref: ModelRef, headers: Headers, body: bytes) -> Draft:
    """A predict body, which must be declared as JSON or not at all. Raises DukouError."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind and not kind.endswith(b"json"):
        text = kind[:80].decode("latin-1")
        raise DukouError(Reason.MALFORMED_REQUEST, detail=f"the content type {text!r} is not JSON")
    return tf_rest.parse(ref, headers, body)


def bind(draft: Draft, served: Served, context: Context) -> InferenceRequest:
    """The tensors of a body, typed by the signature. Raises DukouError."""
    request = tf_rest.bind(draft, served, context)
    request.reply = True  # by row
    return request


def encode(request: InferenceRequest, response: InferenceResponse) -> Reply:
    """`{"predictions": [...]}`. Raises DukouError where outputs cannot be told by row."""
    return tf_rest.encode(request, response)


def refuse(error: DukouError) -> bytes:
    """`{"error": ...}` in KServe's words; what is no JSON is told as FastAPI tells it."""
    name = error.facts.get("model", "")
    match error.reason:
        case Reason.MALFORMED_JSON:
            return fastapi_errors.malformed(error)
        case Reason.MODEL_NOT_FOUND:
            return error_text(f"Model with name {name} does not exist.")
        case Reason.MODEL_NOT_READY:
            return error_text(f"Model with name {name} is not ready{error.facts.get('detail', '')}.")
        case _:
            return error_text(str(error))


def model_list(names: Sequence[str]) -> bytes:
    """The models, ready or not, by name."""
    return orjson.dumps({"models": list(names)})
