"""The admin API: what an operator can ask of a running server, as resources over HTTP, described by OpenAPI.

FastAPI is imported here and in `dukou.control.door` only, uvicorn here, after the workers are started: they take 0.4 s
and 22 MB.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dukou.control.answers import Health, History, Models, Refusal, Taken
from dukou.control.door import HEALTH, Door, answer, refuse
from dukou.control.operations import Cause, ModelStatus, Operations, Outcome
from dukou.core.errors import DukouError
from dukou.lifecycle.measured import Counts, Measured
from dukou.lifecycle.report import report

MAX_CONNECTIONS = 256
STOP_S = 5.0
"""How long requests under way may take once the server stops."""

MAX_OUTCOMES = 10_000
MAX_HISTORY = 10_000


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
    return f"{said} (token)" if said else "token"


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
        responses={"default": _told(Refusal)},
    )
    app.include_router(_about(version))
    app.include_router(_reads(operations), prefix="/v1")
    app.include_router(_changes(operations), prefix="/v1")
    app.add_exception_handler(DukouError, refuse)
    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_middleware(Door, token=token, hosts=frozenset(hosts))
    _describe(app)
    return app


def _about(version: str) -> APIRouter:
    router = APIRouter()

    @router.get(HEALTH, responses={200: _told(Health)})
    async def health() -> Response:
        """Whether the control plane answers; needs no token."""
        return answer(Health(version))

    return router


def _reads(operations: Operations) -> APIRouter:
    router = APIRouter()

    @router.get("/models", responses={200: _told(Models)})
    async def models() -> Response:
        """Every model with its versions and how its calls are shared."""
        return answer(Models([_short(each) for each in operations.status()]))

    @router.get("/models/{name}", responses={200: _told(ModelStatus)})
    async def model(name: _Name) -> Response:
        """One model with its versions and how its calls are shared."""
        return answer(_short(operations.status(name)[0]))

    @router.get("/models/{name}/rollout", responses={200: _REPORT})
    async def rollout(name: _Name) -> Response:
        """The rollout under way, or the last one: what was measured and what follows from it."""
        return answer(report(operations.rollout(name)))

    limit = Annotated[int, Query(ge=1, le=MAX_HISTORY)]

    @router.get("/models/{name}/history", responses={200: _told(History)})
    async def model_history(name: _Name, limit: limit = 100) -> Response:
        """What was changed about a model, the latest first."""
        return answer(History([*operations.history(name, limit)]))

    @router.get("/history", responses={200: _told(History)})
    async def history(limit: limit = 100) -> Response:
        """What was changed, the latest first."""
        return answer(History([*operations.history("", limit)]))

    return router


def _changes(operations: Operations) -> APIRouter:
    router = APIRouter()
    status: dict[int | str, dict[str, Any]] = {200: _told(ModelStatus)}

    def add(verb: str, act: Callable[..., Awaitable[Response]], text: str) -> None:
        path = "/models/{name}:" + verb
        router.add_api_route(path, act, methods=["POST"], operation_id=verb, description=text, responses=status)

    def plain(verb: str, act: Callable[[str, Cause], Awaitable[ModelStatus]], text: str) -> None:
        async def change(name: _Name, caller: _Caller, body: Change | None = None) -> Response:
            return answer(_short(await act(name, Cause(caller, body.why if body else ""))))

        add(verb, change, text)

    def versioned(verb: str, act: Callable[[str, int | None, Cause], Awaitable[ModelStatus]], text: str) -> None:
        async def change(name: _Name, caller: _Caller, body: VersionChange | None = None) -> Response:
            body = body or VersionChange()
            return answer(_short(await act(name, body.version, Cause(caller, body.why))))

        add(verb, change, text)

    async def deploy(name: _Name, caller: _Caller, body: DeployChange | None = None) -> Response:
        body = body or DeployChange()
        by = Cause(caller, body.why)
        return answer(_short(await operations.deploy(name, body.version, body.plan, body.manual, by)))

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
        return answer(_short(await operations.label(name, label, body.version, Cause(caller, body.why))))

    @router.delete("/models/{name}/labels/{label}", responses=status)
    async def unlabel(
        name: _Name, label: _Name, caller: _Caller, why: Annotated[str, Query(max_length=1000)] = ""
    ) -> Response:
        """Take a label away."""
        return answer(_short(await operations.label(name, label, None, Cause(caller, why))))

    @router.post("/models/{name}/outcomes", responses={200: _told(Taken)})
    async def outcomes(name: _Name, caller: _Caller, body: OutcomesGiven) -> Response:
        """Labels that came back, for judging the rollout under way."""
        came = [Outcome(each.version, each.right, each.count) for each in body.outcomes]
        return answer(Taken(await operations.outcomes(name, came, Cause(caller, body.why))))

    return router


def _short(status: ModelStatus) -> ModelStatus:
    """Without the rollout's counts, which its report says in words of the field."""
    if status.rollout is None:
        return status
    rollout = msgspec.structs.replace(
        status.rollout, measured=Measured(), step_primary=Counts(), step_candidate=Counts()
    )
    return msgspec.structs.replace(status, rollout=rollout)


def _told(kind: type) -> dict[str, Any]:
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
