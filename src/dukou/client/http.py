"""The HTTP clients: two thin shells, sync and async, that do what the flows of `client.core` ask for."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from numpy.typing import NDArray

from dukou.client.core import Answer, Calls, Failure, Flow, ListedModel, Patience, Pause, Request, Trouble
from dukou.client.errors import ClientError
from dukou.core import clock
from dukou.core.model import Signature

T = TypeVar("T")

MAX_ANSWER_BYTES = 1024 * 1024 * 1024
CONNECT_TIMEOUT_S = 5.0


class Client:
    """A client of one model (or of one server, without `model`) that speaks Open Inference Protocol JSON.

        with Client("http://127.0.0.1:8501", model="iris") as client:
            client.predict([[5.1, 3.5, 1.4, 0.2]])

    Connections are kept and shared by threads. `timeout_s` bounds a call with its retries, `try_timeout_s` each try; a
    try that times out is repeated only where that is given. Every call raises ClientError: `dukou.client.errors` draws
    the tree. Without a version the server chooses.
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        patience = Patience(timeout_s=timeout_s, retries=retries, try_timeout_s=try_timeout_s)
        self._calls = Calls(model, version, patience, clock.monotonic, random.random)
        self._http = httpx.Client(**_options(url, headers), transport=transport)

    def predict(self, X: Any) -> NDArray[Any]:
        """The first output for `X`, [rows, ...]: an array, nested lists, a frame, or a dict of arrays."""
        return self._run(self._calls.predict(X))

    def infer(self, inputs: Any, outputs: str | Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """The outputs called `outputs` (all if empty) by name; `inputs` as for `predict`."""
        return self._run(self._calls.infer(inputs, outputs))

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
        self._http.close()

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
                outcome = self._send(step)

    def _send(self, request: Request) -> Answer | Failure:
        gathered = _Gathered(request, clock.monotonic)
        try:
            with self._http.stream(**gathered.arguments) as response:
                for chunk in response.iter_bytes():
                    if not gathered.take(chunk):
                        break
                return gathered.answer(response)
        except httpx.HTTPError as error:
            return _failure(error)


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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        patience = Patience(timeout_s=timeout_s, retries=retries, try_timeout_s=try_timeout_s)
        self._calls = Calls(model, version, patience, clock.monotonic, random.random)
        self._http = httpx.AsyncClient(**_options(url, headers), transport=transport)

    async def predict(self, X: Any) -> NDArray[Any]:
        """As Client.predict."""
        return await self._run(self._calls.predict(X))

    async def infer(self, inputs: Any, outputs: str | Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """As Client.infer."""
        return await self._run(self._calls.infer(inputs, outputs))

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
        await self._http.aclose()

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
                outcome = await self._send(step)

    async def _send(self, request: Request) -> Answer | Failure:
        gathered = _Gathered(request, clock.monotonic)
        try:
            async with self._http.stream(**gathered.arguments) as response:
                async for chunk in response.aiter_bytes():
                    if not gathered.take(chunk):
                        break
                return gathered.answer(response)
        except httpx.HTTPError as error:
            return _failure(error)


class _Gathered:
    """One request under way: what httpx is told, and the answer as it comes in, within its size and its time."""

    def __init__(self, request: Request, now: Callable[[], float]) -> None:
        timeout_s = max(request.timeout_s, 0.001)
        self._now = now
        self._deadline_s = now() + timeout_s
        self._chunks: list[bytes] = []
        self._size = 0
        self._failure: Failure | None = None
        self.arguments: dict[str, Any] = {
            "method": request.method,
            "url": request.path,
            "content": request.body or None,
            "headers": {"content-type": "application/json"} if request.body else None,
            "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
        }

    def take(self, chunk: bytes) -> bool:
        """Keep a piece of the body; False where no more is wanted."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            self._failure = Failure(Trouble.TOO_LARGE, f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        elif self._now() > self._deadline_s:
            # httpx bounds the wait for each piece, not for all of them.
            self._failure = Failure(Trouble.TIMED_OUT, "the answer did not end in time")
        return self._failure is None

    def answer(self, response: httpx.Response) -> Answer | Failure:
        """The whole answer, or why it is none."""
        return self._failure or Answer(response.status_code, b"".join(self._chunks), dict(response.headers))


def _options(url: str, headers: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClientError(f"{url!r} is not an address: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ClientError(f"{url!r} is not an address such as http://127.0.0.1:8501")
    return {
        "base_url": address,
        "headers": {"accept": "application/json"} | dict(headers or {}),
        # Certificates are read only where they are used: it takes 20 ms, and redirects are not followed.
        "verify": address.scheme == "https",
    }


def _failure(error: httpx.HTTPError) -> Failure:
    """httpx's error as ours: whether anything may have been sent is what decides about a retry."""
    text = str(error) or type(error).__name__
    url = error.request.url
    server = f"{url.scheme}://{url.netloc.decode()}"
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return Failure(Trouble.NOT_CONNECTED, f"{server} cannot be reached: {text}")
        case httpx.TimeoutException():
            return Failure(Trouble.TIMED_OUT, f"{url} did not answer in time")
        case _:
            return Failure(Trouble.HUNG_UP, f"{url}: {text}")
