"""The clients: two thin shells, sync and async, that do what the flows of `client.core` ask for."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from numpy.typing import NDArray

from dukou.client.core import Answer, Calls, Failure, Flow, ListedModel, Patience, Pause, Request, Wire
from dukou.client.errors import ClientError
from dukou.client.http import AsyncHttpTransport, HttpTransport
from dukou.client.oip_grpc import GrpcWire
from dukou.client.oip_http import HttpWire
from dukou.core import clock
from dukou.core.model import Signature

T = TypeVar("T")

GRPC_SCHEMES = ("grpc://", "grpcs://")


class Transport(Protocol):
    """Carries requests to one server."""

    def send(self, request: Request) -> Answer | Failure:
        """One request, to its whole answer."""

    def stream(self, request: Request) -> Generator[Answer | Failure]:
        """One request, to its answers as they come; the last may be a refusal or a failure."""

    def close(self) -> None:
        """Close the connections."""


class AsyncTransport(Protocol):
    """`Transport` for asyncio."""

    async def send(self, request: Request) -> Answer | Failure:
        """As Transport.send."""

    def stream(self, request: Request) -> AsyncGenerator[Answer | Failure]:
        """As Transport.stream."""

    async def close(self) -> None:
        """As Transport.close."""


class Client:
    """A client of one model (or of one server, without `model`) by the Open Inference Protocol.

        with Client("http://127.0.0.1:8501", model="iris") as client:
            client.predict([[5.1, 3.5, 1.4, 0.2]])

    The address says how: `http://` and `https://`, where arrays travel as binary data to every server that knows it and
    as JSON to others, or `grpc://` and `grpcs://`, which need the extra `dukou[grpc]`.

    Connections are kept and shared by threads. `timeout_s` bounds a call with its retries, `try_timeout_s` each try; a
    try that times out is repeated only where that is given. `headers` (metadata, over gRPC) go with every request.
    Every call raises ClientError: `dukou.client.errors` draws the tree. Without a version the server chooses.
    `transport` stands in for the address's own.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        version: int | str | None = None,
        *,
        timeout_s: float = Patience().timeout_s,
        retries: int = Patience().retries,
        try_timeout_s: float = Patience().try_timeout_s,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        patience = Patience(timeout_s=timeout_s, retries=retries, try_timeout_s=try_timeout_s)
        self._calls = Calls(_wire(url, model, version), patience, clock.monotonic, random.random)
        self._transport = transport or _transport(url, headers or {})

    def predict(self, X: Any) -> NDArray[Any]:
        """The first output for `X`, [rows, ...]: an array, nested lists, a frame, or a dict of arrays."""
        return self._run(self._calls.predict(X))

    def infer(self, inputs: Any, outputs: str | Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """The outputs called `outputs` (all if empty) by name; `inputs` as for `predict`.

        BF16 comes as FP32; BYTES as text where all of the tensor is UTF-8, else as bytes.
        """
        return self._run(self._calls.infer(inputs, outputs))

    def stream(self, inputs: Any, outputs: str | Sequence[str] = ()) -> Generator[dict[str, NDArray[Any]]]:
        """The responses of a streaming model as they come, each as `infer` would return it; any other model gives one.

        `timeout_s` bounds the whole stream. Nothing is sent twice; closing the iterator ends the work. Over HTTP the
        values come as JSON without their shapes: outputs with more than one open size need gRPC.
        """
        request = self._run(self._calls.stream(inputs, outputs))
        with closing(self._transport.stream(request)) as outcomes:
            for outcome in outcomes:
                if response := self._calls.streamed(outcome, outputs):
                    yield response

    def metadata(self) -> Signature:
        """What the model takes and gives, asked anew."""
        return self._run(self._calls.metadata())

    def ready(self) -> bool:
        """Whether the model (the server, without a model) is ready. Raises ConnectionFailed when nobody is there."""
        return self._run(self._calls.ready())

    def models(self) -> list[ListedModel]:
        """The versions that the server lists, each with its name and state. Raises NotFound where it has no list."""
        return self._run(self._calls.models())

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        outcome: Answer | Failure | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
            else:
                outcome = self._transport.send(step)


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited; `async with`, or `await client.aclose()`."""

    def __init__(
        self,
        url: str,
        model: str = "",
        version: int | str | None = None,
        *,
        timeout_s: float = Patience().timeout_s,
        retries: int = Patience().retries,
        try_timeout_s: float = Patience().try_timeout_s,
        headers: Mapping[str, str] | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        patience = Patience(timeout_s=timeout_s, retries=retries, try_timeout_s=try_timeout_s)
        self._calls = Calls(_wire(url, model, version), patience, clock.monotonic, random.random)
        self._transport = transport or _async_transport(url, headers or {})

    async def predict(self, X: Any) -> NDArray[Any]:
        """As Client.predict."""
        return await self._run(self._calls.predict(X))

    async def infer(self, inputs: Any, outputs: str | Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """As Client.infer."""
        return await self._run(self._calls.infer(inputs, outputs))

    async def stream(self, inputs: Any, outputs: str | Sequence[str] = ()) -> AsyncGenerator[dict[str, NDArray[Any]]]:
        """As Client.stream."""
        request = await self._run(self._calls.stream(inputs, outputs))
        async with aclosing(self._transport.stream(request)) as outcomes:
            async for outcome in outcomes:
                if response := self._calls.streamed(outcome, outputs):
                    yield response

    async def metadata(self) -> Signature:
        """As Client.metadata."""
        return await self._run(self._calls.metadata())

    async def ready(self) -> bool:
        """As Client.ready."""
        return await self._run(self._calls.ready())

    async def models(self) -> list[ListedModel]:
        """As Client.models."""
        return await self._run(self._calls.models())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        outcome: Answer | Failure | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
            else:
                outcome = await self._transport.send(step)


def _wire(url: str, model: str, version: int | str | None) -> Wire:
    return GrpcWire(model, version) if url.startswith(GRPC_SCHEMES) else HttpWire(model, version)


def _transport(url: str, headers: Mapping[str, str]) -> Transport:
    if not url.startswith(GRPC_SCHEMES):
        return HttpTransport(url, headers)
    with _grpcio():
        from dukou.client.grpc import GrpcTransport
    return GrpcTransport(url, headers)


def _async_transport(url: str, headers: Mapping[str, str]) -> AsyncTransport:
    if not url.startswith(GRPC_SCHEMES):
        return AsyncHttpTransport(url, headers)
    with _grpcio():
        from dukou.client.grpc import AsyncGrpcTransport
    return AsyncGrpcTransport(url, headers)


@contextmanager
def _grpcio() -> Iterator[None]:
    """grpcio is an extra: 20 MB that whoever serves does not need."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ClientError('grpc:// needs grpcio: pip install "dukou[grpc]"') from error
