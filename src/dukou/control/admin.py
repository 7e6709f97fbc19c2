"""The admin API: what an operator can ask of a running server, as resources over HTTP, described by OpenAPI.

FastAPI and uvicorn are imported here and nowhere else, after the workers are started: they take 0.4 s and 22 MB.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping
from typing import Annotated, Any, TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dukou.control.answers import Health, History, Models, Refusal, Taken
from dukou.control.operations import Cause, ModelStatus, Operations, Outcome
from dukou.control.token import same
from dukou.core.errors import Code, DukouError, Reason
from dukou.lifecycle.measured import Counts, Measured
from dukou.lifecycle.report import report
from dukou.net.status import CODES, HTTP, RETRY_AFTER_S

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 1024 * 1024
MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
BODY_TIMEOUT_S = 20.0
MAX_CONNECTIONS = 256
STOP_S = 5.0
"""How long requests under way may take once the server stops."""

MAX_OUTCOMES = 10_000
MAX_HISTORY = 10_000
HEALTH = "/health"

_log = logging.getLogger("dukou.admin")

_DESCRIPTION = """\
Every call but `GET /health` needs `Authorization: Bearer TOKEN`, with the token of the file that the server made on its
first start. Names and labels are percent-encoded. What is refused is answered with `{"error": "...", "code": "..."}`.
"""


class Change(BaseModel):
    """What comes with a change: why, for the audit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    why: str = Field(default="", max_length=1000, description="For the audit.")


class VersionChange(Change):
    """A change that may name a version."""

    version: int | None = Field(default=None, ge=0)


class DeployChange(VersionChange):
    """Which version, the highest if none is named, and how it gets there."""

    plan: str = Field(
        default="", max_length=1000, description="Such as `shadow,incremental`; empty takes the declared one."
    )
    manual: bool | None = Field(
        default=None, description="No step is left without a promote; null leaves that to the plan."
    )


class LabelChange(Change):
    """The version that a label is to name."""

    version: int = Field(ge=0)


class OutcomeGiven(BaseModel):
    """A label that came back: an answer of this version was right, or not; `count` of the same at once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=0)
    right: bool
    count: int = Field(default=1, ge=1, le=1_000_000_000)


class OutcomesGiven(Change):
    """Labels that came back."""

    outcomes: list[OutcomeGiven] = Field(max_length=MAX_OUTCOMES)


_REPORT = {
    "description": "As `dukou.lifecycle.report` makes it.",
    "content": {"application/json": {"schema": {"type": "object"}}},
}

_Name = Annotated[str, Path(description="Percent-encoded.", max_length=1000), AfterValidator(unquote)]


def _caller(
    x_dukou_as: Annotated[str, Header(max_length=200, description="Who is behind the token, for the audit.")] = "",
) -> str:
    said = "".join(each if each.isprintable() else "?" for each in x_dukou_as)
    return f"token, as {said}" if said else "token"


_Caller = Annotated[str, Depends(_caller)]


def make_app(operations: Operations, token: str, version: str, hosts: Collection[str] = ()) -> FastAPI:
    """The API of these operations for callers who have the token.

    `hosts` are the names, beside localhost and addresses, under which it may be called.
    """
    app = FastAPI(
        title="dukou admin",
        version=version,
        description=_DESCRIPTION,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": _answer(Refusal)},
    )
    app.include_router(_about(version))
    app.include_router(_reads(operations), prefix="/v1")
    app.include_router(_changes(operations), prefix="/v1")
    app.add_exception_handler(DukouError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_middleware(_Door, token=token, hosts=frozenset(hosts))
    _describe(app)
    return app


def _about(version: str) -> APIRouter:
    router = APIRouter()

    @router.get(HEALTH, responses={200: _answer(Health)})
    async def health() -> Response:
        """Whether the control plane answers; needs no token."""
        return _json(Health(version))

    return router


def _reads(operations: Operations) -> APIRouter:
    router = APIRouter()

    @router.get("/models", responses={200: _answer(Models)})
    async def models() -> Response:
        """Every model with its versions and how its calls are shared."""
        return _json(Models([_short(each) for each in operations.status()]))

    @router.get("/models/{name}", responses={200: _answer(ModelStatus)})
    async def model(name: _Name) -> Response:
        """One model with its versions and how its calls are shared."""
        return _json(_short(operations.status(name)[0]))

    @router.get("/models/{name}/rollout", responses={200: _REPORT})
    async def rollout(name: _Name) -> Response:
        """The rollout under way, or the last one: what was measured and what follows from it."""
        return _json(report(operations.rollout(name)))

    limit = Annotated[int, Query(ge=1, le=MAX_HISTORY)]

    @router.get("/models/{name}/history", responses={200: _answer(History)})
    async def model_history(name: _Name, limit: limit = 100) -> Response:
        """What was changed about a model, the latest first."""
        return _json(History([*operations.history(name, limit)]))

    @router.get("/history", responses={200: _answer(History)})
    async def history(limit: limit = 100) -> Response:
        """What was changed, the latest first."""
        return _json(History([*operations.history("", limit)]))

    return router


def _changes(operations: Operations) -> APIRouter:
    router = APIRouter()
    status: dict[int | str, dict[str, Any]] = {200: _answer(ModelStatus)}

    def add(verb: str, act: Callable[..., Awaitable[Response]], text: str) -> None:
        path = "/models/{name}:" + verb
        router.add_api_route(path, act, methods=["POST"], operation_id=verb, description=text, responses=status)

    def plain(verb: str, act: Callable[[str, Cause], Awaitable[ModelStatus]], text: str) -> None:
        async def change(name: _Name, caller: _Caller, body: Change | None = None) -> Response:
            return _json(_short(await act(name, Cause(caller, body.why if body else ""))))

        add(verb, change, text)

    def versioned(verb: str, act: Callable[[str, int | None, Cause], Awaitable[ModelStatus]], text: str) -> None:
        async def change(name: _Name, caller: _Caller, body: VersionChange | None = None) -> Response:
            body = body or VersionChange()
            return _json(_short(await act(name, body.version, Cause(caller, body.why))))

        add(verb, change, text)

    async def deploy(name: _Name, caller: _Caller, body: DeployChange | None = None) -> Response:
        body = body or DeployChange()
        by = Cause(caller, body.why)
        return _json(_short(await operations.deploy(name, body.version, body.plan, body.manual, by)))

    add("deploy", deploy, "Let a version answer, by a plan or at once. Answered when accepted.")
    plain(
        "rollback", operations.rollback, "Go back to the version before, which bars the one left. Answered when done."
    )
    versioned("promote", operations.promote, "Let the candidate go on to its next step, or a version answer everybody.")
    plain("pause", operations.pause, "Stop judging the rollout; its shares stay.")
    plain("resume", operations.resume, "Go on judging the rollout.")
    plain("abort", operations.abort, "End the rollout; the primary answers everybody again.")
    versioned("load", operations.load, "Load a version beside the others, or anew from files that have changed.")
    versioned("unload", operations.unload, "Unload a version that was loaded by `load`, or the whole model.")

    @router.put("/models/{name}/labels/{label}", responses=status)
    async def label(name: _Name, label: _Name, caller: _Caller, body: LabelChange) -> Response:
        """Let a label name a version."""
        return _json(_short(await operations.label(name, label, body.version, Cause(caller, body.why))))

    @router.delete("/models/{name}/labels/{label}", responses=status)
    async def unlabel(
        name: _Name, label: _Name, caller: _Caller, why: Annotated[str, Query(max_length=1000)] = ""
    ) -> Response:
        """Take a label away."""
        return _json(_short(await operations.label(name, label, None, Cause(caller, why))))

    @router.post("/models/{name}/outcomes", responses={200: _answer(Taken)})
    async def outcomes(name: _Name, caller: _Caller, body: OutcomesGiven) -> Response:
        """Labels that came back, for judging the rollout under way."""
        came = [Outcome(each.version, each.right, each.count) for each in body.outcomes]
        return _json(Taken(await operations.outcomes(name, came, Cause(caller, body.why))))

    return router


def _short(status: ModelStatus) -> ModelStatus:
    """Without the rollout's counts, which its report says in words of the field."""
    if status.rollout is None:
        return status
    rollout = msgspec.structs.replace(
        status.rollout, measured=Measured(), step_primary=Counts(), step_candidate=Counts()
    )
    return msgspec.structs.replace(status, rollout=rollout)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode(value) + b"\n"
    return Response(
        body, status, headers={"cache-control": "no-store", **(headers or {})}, media_type="application/json"
    )


def _refuse(request: Request, error: Exception) -> Response:
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
    return _json(Refusal(text, code.value), status, headers)


def _what_is_wrong(request: Request, error: RequestValidationError) -> str:
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip() != "application/json" and request.headers.get("content-length", "0") != "0":
        return f"the body is {kind or 'of no type'}; send JSON and say so: content-type: application/json"
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())


class _Door:
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
            response = _refuse(request, error)
            response.headers["connection"] = "close"
            if error.code is Code.UNAUTHENTICATED:
                response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        try:
            await self._app(scope, _then(body, receive), send)
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.url.path)
            await _refuse(request, error)(scope, receive, send)

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


def _answer(kind: type) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"description": (kind.__doc__ or "").strip(), "content": {"application/json": {"schema": schema}}}


def _describe(app: FastAPI) -> None:
    """Add the schemas of what is answered, which FastAPI does not know, and the token."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        page = app.openapi_schema
        if page is None:
            page = make()
            kinds = (Health, Models, ModelStatus, History, Taken, Refusal)
            _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
            components = page.setdefault("components", {})
            components["schemas"] = {**schemas, **components.get("schemas", {})}
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            page["security"] = [{"token": []}]
            page["paths"][HEALTH]["get"]["security"] = []
        return page

    app.openapi = openapi  # type: ignore[method-assign]


class _Server(uvicorn.Server):
    """uvicorn in a loop that is not its own: leaves signals alone, and waits to be stopped instead of asking 10 times a
    second whether it is."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopped = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's."""
        yield

    async def main_loop(self) -> None:
        """Until `stopped`."""
        await self.stopped.wait()


async def serve_admin(app: FastAPI, listening: socket.socket) -> None:
    """Answer on that listening socket, in the running loop, until cancelled; then what is under way has STOP_S.

    The socket is closed at the end.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http="h11",  # bounds what the head of a request may take
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(STOP_S),
        )
    )
    running = asyncio.create_task(server.serve([listening]))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.stopped.set()
        await running
        raise
