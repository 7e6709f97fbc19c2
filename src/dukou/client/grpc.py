"""gRPC for the clients, sync and async, by grpcio: the only door to it, as it is an extra."""

import math
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import grpc
import grpc.aio

from dukou.client.core import Answer, Failure, Request, Trouble
from dukou.client.errors import ClientError
from dukou.core import clock
from dukou.core.clock import Clock

Metadata: TypeAlias = tuple[tuple[str, str], ...]

DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 4, 8, 14

MAX_ANSWER_BYTES = 1024 * 1024 * 1024

OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    # Retries are decided in `client.core`, and each of them tries to connect at once.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


NOT_CONNECTED = ("failed to connect", "DNS resolution failed")
"""How grpcio begins what it says where nothing was sent. Any other UNAVAILABLE may be the server's own word."""

TOO_LARGE = "Received message larger than max"


class GrpcTransport:
    """A `dukou.client.client.Transport`."""

    def __init__(self, url: str, headers: Mapping[str, str] = {}) -> None:
        self._metadata = _metadata(headers)
        self._channel = _channel(grpc, url)

    def send(self, request: Request) -> Answer | Failure:
        """One call with one answer."""
        asked = _Asked(request, self._metadata, clock.monotonic)
        try:
            return Answer(0, self._channel.unary_unary(request.path)(request.body, **asked.arguments))
        except grpc.RpcError as error:
            return asked.outcome(error)

    def stream(self, request: Request) -> Generator[Answer | Failure]:
        """One call with any number of answers."""
        asked = _Asked(request, self._metadata, clock.monotonic)
        call = self._channel.unary_stream(request.path)(request.body, **asked.arguments)
        try:
            for message in call:
                yield Answer(0, message)
        except grpc.RpcError as error:
            yield asked.outcome(error)
        finally:
            call.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class AsyncGrpcTransport:
    """A `dukou.client.client.AsyncTransport`."""

    def __init__(self, url: str, headers: Mapping[str, str] = {}) -> None:
        self._metadata = _metadata(headers)
        self._url = url
        self._opened: Any = None
        _target(url)

    async def send(self, request: Request) -> Answer | Failure:
        """As GrpcTransport.send."""
        asked = _Asked(request, self._metadata, clock.monotonic)
        try:
            return Answer(0, await self._channel().unary_unary(request.path)(request.body, **asked.arguments))
        except grpc.RpcError as error:
            return asked.outcome(error)

    async def stream(self, request: Request) -> AsyncGenerator[Answer | Failure]:
        """As GrpcTransport.stream."""
        asked = _Asked(request, self._metadata, clock.monotonic)
        call = self._channel().unary_stream(request.path)(request.body, **asked.arguments)
        try:
            async for message in call:
                yield Answer(0, message)
        except grpc.RpcError as error:
            yield asked.outcome(error)
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            await self._opened.close()

    def _channel(self) -> Any:
        if self._opened is None:  # not before there is a loop, to which it belongs
            self._opened = _channel(grpc.aio, self._url)
        return self._opened


class _Asked:
    """One call: what grpcio is told, and what its error means."""

    def __init__(self, request: Request, metadata: Metadata, now: Clock) -> None:
        timeout_s = max(request.timeout_s, 0.001)
        self._now = now
        self._deadline_s = now() + timeout_s
        self.arguments: dict[str, Any] = {
            "timeout": timeout_s if timeout_s < math.inf else None,
            "metadata": (*metadata, *_metadata(request.headers)),
        }

    def outcome(self, error: Any) -> Answer | Failure:
        """The server's status, or why there is none. grpcio tells its own troubles as statuses too."""
        status: int = error.code().value[0]
        detail: str = error.details() or ""
        if status == DEADLINE_EXCEEDED and self._now() >= self._deadline_s:
            return Failure(Trouble.TIMED_OUT, "the server did not answer in time")
        if status == RESOURCE_EXHAUSTED and TOO_LARGE in detail:
            return Failure(Trouble.TOO_LARGE, f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if status == UNAVAILABLE and detail.startswith(NOT_CONNECTED):
            return Failure(Trouble.NOT_CONNECTED, f"the server cannot be reached: {detail}")
        trailing = {key: str(value) for key, value in error.trailing_metadata() or ()}
        return Answer(status, detail.encode(errors="replace"), trailing)


def _channel(of: Any, url: str) -> Any:
    target, tls = _target(url)
    if tls:
        return of.secure_channel(target, grpc.ssl_channel_credentials(), OPTIONS)
    return of.insecure_channel(target, OPTIONS)


def _target(url: str) -> tuple[str, bool]:
    """`host:port`, and whether by TLS. Raises ClientError."""
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port is not None and parts.path in ("", "/") and "@" not in url
    except ValueError:
        complete = False
    if not complete:
        raise ClientError(f"{url!r} is not an address such as grpc://127.0.0.1:8500")
    return parts.netloc, parts.scheme == "grpcs"


def _metadata(headers: Mapping[str, str]) -> Metadata:
    return tuple((name.lower(), value) for name, value in headers.items())
