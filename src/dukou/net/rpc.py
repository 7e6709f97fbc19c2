"""One gRPC call as its handler sees it: messages in, messages out."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

import msgspec

from dukou.net.api import Api
from dukou.wire.codec import Headers


class Rpc(Protocol):
    """A call under way. Its handler is an ordinary asyncio task, cancelled when the caller goes or the deadline passes.

    `peer` is who calls (`dukou.net.connections.peer_of`). `metadata` are the request's, names in lower case, values as
    they came (those of `-bin` names still in base64); `deadline_s` is on the monotonic clock. `initial_metadata` goes
    out with the first message or the status, `trailing_metadata` with the status.
    """

    id: str
    peer: str
    metadata: Headers
    arrived_s: float
    deadline_s: float
    initial_metadata: list[tuple[bytes, bytes]]
    trailing_metadata: list[tuple[bytes, bytes]]

    async def receive(self) -> bytes | None:
        """The next message, None once the caller has said its last. Raises GrpcError for what is no message."""

    async def send(self, message: bytes) -> None:
        """Send a message; waits while the caller takes none (flow control)."""


class GrpcError(Exception):
    """The call ends with this gRPC status (a number from 1) and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


Handler: TypeAlias = Callable[[Rpc], Awaitable[None]]
"""Answers a call. Returning means OK; a GrpcError or DukouError is told as it is, all else as INTERNAL, and logged."""


class Unary(msgspec.Struct, frozen=True):
    """An inference: one message in, one out, through the data plane without a task of its own."""

    api: Api


Method: TypeAlias = Unary | Handler
Methods: TypeAlias = Mapping[bytes, Method]
"""By path: `/inference.GRPCInferenceService/ModelInfer`."""
