"""HTTP for the clients, sync and async, by httpx."""

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

import httpx

from dukou.client.core import Answer, Failure, Request, Trouble
from dukou.client.errors import ClientError
from dukou.core import clock

MAX_ANSWER_BYTES = 1024 * 1024 * 1024
CONNECT_TIMEOUT_S = 5.0


class HttpTransport:
    """A `dukou.client.client.Transport`."""

    def __init__(self, url: str, headers: Mapping[str, str] = {}, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(**_options(url, headers), transport=transport)

    def send(self, request: Request) -> Answer | Failure:
        """One request, to its whole answer."""
        gathered = _Gathered(request, clock.monotonic)
        try:
            with self._http.stream(**gathered.arguments) as response:
                for chunk in response.iter_bytes():
                    if not gathered.take(chunk):
                        break
                return gathered.answer(response)
        except httpx.HTTPError as error:
            return _failure(error)

    def stream(self, request: Request) -> Generator[Answer | Failure]:
        """One request, to each event of its answer; an answer that is no stream of events comes whole."""
        gathered = _Gathered(request, clock.monotonic)
        try:
            with self._http.stream(**gathered.arguments) as response:
                for chunk in response.iter_bytes():
                    if not gathered.take(chunk):
                        break
                    yield from gathered.events(response)
                if last := gathered.last(response):
                    yield last
        except httpx.HTTPError as error:
            yield _failure(error)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncHttpTransport:
    """A `dukou.client.client.AsyncTransport`."""

    def __init__(
        self, url: str, headers: Mapping[str, str] = {}, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._http = httpx.AsyncClient(**_options(url, headers), transport=transport)

    async def send(self, request: Request) -> Answer | Failure:
        """As HttpTransport.send."""
        gathered = _Gathered(request, clock.monotonic)
        try:
            async with self._http.stream(**gathered.arguments) as response:
                async for chunk in response.aiter_bytes():
                    if not gathered.take(chunk):
                        break
                return gathered.answer(response)
        except httpx.HTTPError as error:
            return _failure(error)

    async def stream(self, request: Request) -> AsyncGenerator[Answer | Failure]:
        """As HttpTransport.stream."""
        gathered = _Gathered(request, clock.monotonic)
        try:
            async with self._http.stream(**gathered.arguments) as response:
                async for chunk in response.aiter_bytes():
                    if not gathered.take(chunk):
                        break
                    for event in gathered.events(response):
                        yield event
                if last := gathered.last(response):
                    yield last
        except httpx.HTTPError as error:
            yield _failure(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


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
            "headers": dict(request.headers),
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

    def events(self, response: httpx.Response) -> Sequence[Answer]:
        """The events that are whole by now, taken away; none of an answer that is no stream of them.

        https://html.spec.whatwg.org/multipage/server-sent-events.html
        """
        if not _is_stream(response) or b"\n" not in self._chunks[-1]:
            return ()
        *whole, rest = b"".join(self._chunks).replace(b"\r\n", b"\n").split(b"\n\n")
        self._chunks, self._size = [rest], len(rest)
        return [Answer(response.status_code, data) for event in whole if (data := _data(event))]

    def last(self, response: httpx.Response) -> Answer | Failure | None:
        """What there is to say at the end."""
        return self._failure if _is_stream(response) else self.answer(response)


def _is_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return response.status_code == 200 and kind.startswith("text/event-stream")


def _data(event: bytes) -> bytes:
    return b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))


def _options(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClientError(f"{url!r} is not an address: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ClientError(f"{url!r} is not an address such as http://127.0.0.1:8501 or grpc://127.0.0.1:8500")
    return {
        "base_url": address,
        "headers": {"accept": "application/json, application/octet-stream", **headers},
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
