"""ModelStreamInfer, in which an answer says for itself whether it is one, whose it is and whether it is the last.

Triton's clients get a ModelStreamInferResponse: an error's message, or a response, and either with the request's id.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from dukou.core.errors import DukouError
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.version import ModelRef
from dukou.protos import pool
from dukou.wire import oip_grpc, protobuf
from dukou.wire.codec import Headers, Reply

RESPONSE = "inference.ModelStreamInferResponse"
INFER_RESPONSE = 2
FINAL = "triton_final_response"


class StreamedCall:
    """The Codec of one request of a stream: it remembers what the answers have to say of the request.

    With `bare` the answers are ModelInferResponses that say nothing more, as MLServer's are, and an error is none.
    `on_streaming` is called, from whatever thread binds, when the model turns out to be one that answers with any
    number of responses.
    """

    def __init__(self, *, bare: bool = False, on_streaming: Callable[[], object] = lambda: None) -> None:
        self.streaming = False
        """Whether the model is such a one; then no response is known to be the last."""
        self.wants_end = False
        """Whether the caller asked to be told when no more of them come."""
        self._bare = bare
        self._on_streaming = on_streaming
        self._id = ""
        self._ref = ModelRef("")

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """As in `oip_grpc`."""
        self._id = oip_grpc.request_id(body)
        draft = oip_grpc.parse(ref, headers, body)
        said: oip_grpc.Said = draft.payload
        self._ref = draft.ref
        self.wants_end = not self._bare and said.head.parameters.get(oip_grpc.EMPTY_FINAL) is True
        return draft

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """As in `oip_grpc`."""
        request = oip_grpc.bind(draft, served, context)
        if request.signature.streaming:
            self.streaming = True
            self._on_streaming()
        return request

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """A response of the stream; the only one is also the last."""
        if self._bare:
            return oip_grpc.encode(request, response)
        parameters = {**response.parameters, FINAL: not self.streaming}
        reply = oip_grpc.encode(request, msgspec.structs.replace(response, parameters=parameters))
        return Reply(protobuf.head(INFER_RESPONSE, len(reply.body)) + reply.body, reply.content_type)

    def end(self) -> bytes:
        """A response without outputs: no more come."""
        version = self._ref.version
        return _message(
            infer_response={
                "model_name": self._ref.name,
                "model_version": "" if version is None else str(version),
                "id": self._id,
                "parameters": {FINAL: {"bool_param": True}},
            }
        )

    def refuse(self, error: DukouError) -> bytes:
        """An error in the stream."""
        return _message(error_message=oip_grpc.refuse(error).decode(), infer_response={"id": self._id})

    def reading_bytes(self, headers: Headers, body: bytes) -> int:
        """As in `oip_grpc`."""
        return oip_grpc.reading_bytes(headers, body)

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        """As in `oip_grpc`."""
        return oip_grpc.writing_bytes(request, response)


def _message(**fields: Any) -> bytes:
    message: bytes = pool.message(RESPONSE)(**fields).SerializeToString()
    return message
