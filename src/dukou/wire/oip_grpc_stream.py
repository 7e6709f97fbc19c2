"""ModelStreamInfer, in which an answer says for itself whether it is one, whose it is and whether it is the last.

Triton's clients get a ModelStreamInferResponse: an error's message, or a response, and either with the request's id.
"""

from collections.abc import Mapping
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
    """The Codec of one request of a stream: it remembers what the answers have to say of the request."""

    def __init__(self) -> None:
        self.streaming = False
        """Whether the model answers with any number of responses, of which none is known to be the last."""
        self.wants_end = False
        """Whether the caller asked to be told when there are no more of them."""
        self._said: Mapping[str, Any] = {}

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """As in `oip_grpc`."""
        draft = oip_grpc.parse(ref, headers, body)
        said: oip_grpc.Said = draft.payload
        version = draft.ref.version
        self._said = {
            "model_name": draft.ref.name,
            "model_version": "" if version is None else str(version),
            "id": said.id,
        }
        self.wants_end = said.head.parameters.get(oip_grpc.EMPTY_FINAL) is True
        return draft

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """As in `oip_grpc`."""
        request = oip_grpc.bind(draft, served, context)
        self.streaming = request.signature.streaming
        return request

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """A response of the stream; the only one is also the last."""
        parameters = {**response.parameters, FINAL: not self.streaming}
        reply = oip_grpc.encode(request, msgspec.structs.replace(response, parameters=parameters))
        return Reply(protobuf.head(INFER_RESPONSE, len(reply.body)) + reply.body, reply.content_type)

    def end(self) -> bytes:
        """A response without outputs: there are no more."""
        return self._message(infer_response={**self._said, "parameters": {FINAL: {"bool_param": True}}})

    def refuse(self, error: DukouError) -> bytes:
        """An error of the stream."""
        text = oip_grpc.refuse(error).decode()
        return self._message(error_message=text, infer_response={"id": self._said.get("id", "")})

    def reading_bytes(self, headers: Headers, body: bytes) -> int:
        """As in `oip_grpc`."""
        return oip_grpc.reading_bytes(headers, body)

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        """As in `oip_grpc`."""
        return oip_grpc.writing_bytes(request, response)

    def _message(self, **fields: Any) -> bytes:
        message: bytes = pool.message(RESPONSE)(**fields).SerializeToString()
        return message
