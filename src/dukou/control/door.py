"""Who is let in to the admin API, and how a refusal is answered."""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from dukou.control.answers import Refusal
from dukou.control.token import same
from dukou.core.errors import Code, DukouError, Reason
from dukou.net.status import CODES, HTTP, RETRY_AFTER_S

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 1024 * 1024
MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
BODY_TIMEOUT_S = 20.0

HEALTH = "/health"
"""The one path that needs no token."""

_log = logging.getLogger("dukou.admin")


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as JSON, which nobody may keep."""
    body = msgspec.json.encode(value) + b"\n"
    return Response(
        body, status, headers={"cache-control": "no-store", **(headers or {})}, media_type="application/json"
    )


def refuse(request: Request, error: Exception) -> Response:
    """What went wrong as `{"error", "code"}`. INTERNAL carries no text of the error: the log does."""
    headers: dict[str, str] = {}
    match error:
        case DukouError():
            code, text, status = error.code, str(error), HTTP[error.code]
            if code in RETRY_AFTER_S:
                headers["retry-after"] = str(RETRY_AFTER_S[code])
        case RequestValidationError():
            code, text, status = Code.INVALID_ARGUMENT, _what_is_wrong(request, error), 400
        case HTTPException():
            status = error.status_code
            code = CODES.get(status, Code.INTERNAL)
            text = f"{request.method} {request.url.path}: {error.detail}"
            headers |= error.headers or {}
        case _:
            code, text, status = Code.INTERNAL, Reason.INTERNAL.text, 500
    return answer(Refusal(text, code.value), status, headers)


def _what_is_wrong(request: Request, error: RequestValidationError) -> str:
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip() != "application/json" and request.headers.get("content-length", "0") != "0":
        return f"the body is {kind or 'of no type'}; send JSON and say so: content-type: application/json"
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())


class Door:
    """ASGI: lets in who has the token, and nothing that a browser sends from a page of somebody else.

    A page cannot know the token; a Host that is no address of ours (DNS rebinding) and an Origin are refused all the
    same, so that it cannot even try. Bodies are read here, bounded in size and time. Routes see the path as it came, so
    that names may hold what is percent-encoded.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str, hosts: frozenset[str]
    ) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        scope["path"] = scope["raw_path"].decode("ascii", "replace")
        request, coming = Request(scope), _Body(receive)
        try:
            self._check(request)
            body = await coming.read()
        except DukouError as error:
            await coming.discard()
            response = refuse(request, error)
            response.headers["connection"] = "close"
            if error.code is Code.UNAUTHENTICATED:
                response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        try:
            await self._app(scope, _then(body, receive), send)
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.url.path)
            await refuse(request, error)(scope, receive, send)

    def _check(self, request: Request) -> None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._ours(hosts[0]):
            raise DukouError(Reason.CALLER_REFUSED, detail=f"Host is {hosts}: call an address or localhost")
        if "origin" in request.headers:
            raise DukouError(Reason.CALLER_REFUSED, detail="pages in browsers (Origin) may not call this")
        if request.method == "GET" and request.url.path == HEALTH:
            return
        scheme, _, said = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not said:
            raise DukouError(Reason.TOKEN_WRONG, detail="this needs `Authorization: Bearer TOKEN`")
        if not same(self._token, said.strip()):
            raise DukouError(Reason.TOKEN_WRONG, detail="that is not this server's token")

    def _ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._hosts:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class _Body:
    """The body of a request as it comes in, within BODY_TIMEOUT_S."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._until = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
        self._ended = False

    async def read(self) -> bytes:
        """All of it. Raises DukouError BODY_TOO_LARGE, DEADLINE_EXCEEDED, CANCELLED when the caller goes."""
        chunks: list[bytes] = []
        room = MAX_BODY_BYTES
        while not self._ended:
            chunks.append(await self._chunk())
            room -= len(chunks[-1])
            if room < 0:
                raise DukouError(Reason.BODY_TOO_LARGE, wanted=MAX_BODY_BYTES)
        return b"".join(chunks)

    async def discard(self) -> None:
        """Take what is left, within bounds: a caller who is still sending may never see the answer."""
        room = MAX_DISCARDED_BYTES
        with contextlib.suppress(DukouError):
            while not self._ended and room > 0:
                room -= len(await self._chunk())

    async def _chunk(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            self._ended = True
            raise DukouError(Reason.DEADLINE_EXCEEDED) from None
        self._ended = not message.get("more_body", False)
        if message["type"] != "http.request":
            raise DukouError(Reason.CANCELLED)
        chunk: bytes = message.get("body", b"")
        return chunk


def _then(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, then what comes after it."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
