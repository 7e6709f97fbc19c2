"""What happened, told to observers: callables that take one Event and never raise."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from dukou.core.errors import Code
from dukou.core.version import ModelVersion


class BatchRan(msgspec.Struct, frozen=True):
    """One execution of a model, for one request or many.

    `arrived_s` holds each answered request's arrival; `started_s` and `ended_s` bound the execution (all on the
    monotonic clock). `rows` is the batch's size. `inline` says that it ran on the loop, not in a thread. The model
    itself ran from `joined_s` to `inferred_s`; both are 0 for an execution that failed. `entries` says by which
    call each answered request came (an index into `dukou.core.entry.ENTRIES`); empty when nobody said.
    """

    version: ModelVersion
    arrived_s: Sequence[float]
    started_s: float
    ended_s: float
    rows: int
    inline: bool
    joined_s: float = 0.0
    inferred_s: float = 0.0
    entries: Sequence[int] = ()


class RequestRefused(msgspec.Struct, frozen=True):
    """A request that got an error: at any step, for any reason. `version` is None when no version was chosen.

    `executed` says that a version had answered, so that a BatchRan has counted the request already: its answer could
    not be written, or not in time.
    """

    version: ModelVersion | None
    code: Code
    arrived_s: float
    ended_s: float
    executed: bool = False


class CopiesSent(msgspec.Struct, frozen=True):
    """Copies of answered executions for a shadow: so many went out, so many were dropped as it was busy or away."""

    version: ModelVersion
    sent: int
    dropped: int


class RequestLogged(msgspec.Struct, frozen=True):
    """One HTTP exchange, told only when the access log is on."""

    id: str
    peer: str
    method: str
    path: str
    status: int
    request_bytes: int
    response_bytes: int
    duration_s: float


Event: TypeAlias = BatchRan | RequestRefused | CopiesSent | RequestLogged
Observer: TypeAlias = Callable[[Event], None]
