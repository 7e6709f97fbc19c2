"""The functions that every inference protocol module has; a module that has them is a Codec."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import msgspec

from dukou.core.errors import DukouError
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import ModelRef

Headers: TypeAlias = Mapping[bytes, bytes]
"""Header names in lower case to values; a repeated header's values are joined by a comma."""

JSON = b"application/json"


class Reply(msgspec.Struct):
    """An encoded answer: its body, its content type and what other headers the protocol wants."""

    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Codec(Protocol):
    """One inference protocol. The order of its errors is the protocol's own: `parse`, then the choice of a version,
    then `bind`."""

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """What the caller said, not yet typed. Raises DukouError."""

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """The draft typed by the chosen version's signature. Raises DukouError."""

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """The answer as this protocol writes it. Raises DukouError where the protocol cannot say it."""

    def refuse(self, error: DukouError) -> bytes:
        """The body of an error, in the words this protocol's clients look for: JSON, or gRPC's message."""

    def reading_bytes(self, headers: Headers, body: bytes) -> int:
        """How many bytes of `body` are text or the like, slow to read; raw tensor data counts a sixty-fourth.

        Asked of large bodies only, to decide whether they are read on the event loop. Never raises."""

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        """How many bytes of text `encode` would write, an estimate that may be too high; raw data as above.

        Asked of large answers only, for the same decision. Never raises."""
