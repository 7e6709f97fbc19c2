"""A client without I/O: each call is a flow, a generator that yields what to do next and is sent what came of it.

    Request  -> send it; the answer is an Answer or a Failure
    Pause    -> wait; the answer is None

Retries, deadlines and the reading of answers are decided here, once, for the sync and the async client.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec
from numpy.typing import NDArray

from dukou.client.errors import BadAnswer, ClientError, ConnectionFailed, InvalidInput, NotFound, TimedOut, refusal
from dukou.client.inputs import typed
from dukou.core.clock import Clock
from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature
from dukou.wire import oip_json

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True):
    """One HTTP request: `path` below the server's address, to be answered whole within `timeout_s`."""

    method: str
    path: str
    body: bytes = b""
    timeout_s: float = math.inf


class Pause(msgspec.Struct, frozen=True):
    """Wait before going on."""

    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """A whole HTTP answer; header names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class Trouble(Enum):
    """Why there is no answer."""

    NOT_CONNECTED = "not connected"
    HUNG_UP = "hung up"
    TIMED_OUT = "timed out"
    TOO_LARGE = "too large"


class Failure(msgspec.Struct, frozen=True):
    """No answer, and why; `detail` is for people."""

    trouble: Trouble
    detail: str = ""


class ListedModel(msgspec.Struct, frozen=True):
    """A version in a server's list; empty where the server does not say. The state is in the server's own words."""

    name: str
    version: str = ""
    state: str = ""


class _Version(msgspec.Struct):
    version: int
    state: str


class _Model(msgspec.Struct):
    name: str
    versions: list[_Version]


class _FirstPage(msgspec.Struct):
    models: list[_Model]


Flow: TypeAlias = Generator[Request | Pause, Answer | Failure | None, T]


class Patience(msgspec.Struct, frozen=True):
    """How long and how often a call is tried.

    `timeout_s` bounds the whole call, its retries and pauses included. Before retry n (from 0) it waits a random time
    up to `min(longest_pause_s, first_pause_s * 2**n)`. A try that was not answered in time may still be computing, so
    that another would add to it: there is none, unless `try_timeout_s` bounds each try by itself.

    Raises ValueError for spans and counts that mean nothing.
    """

    timeout_s: float = 30.0
    retries: int = 3
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    try_timeout_s: float = math.inf

    def __post_init__(self) -> None:
        if not (self.timeout_s > 0.0 and self.try_timeout_s > 0.0 and self.retries >= 0):
            raise ValueError("timeouts must be above 0 s, and retries at least 0")


RETRIED_STATUSES = frozenset({429, 502, 503, 504})


def pause_before_retry(patience: Patience, attempt: int, outcome: Answer | Failure, jitter: float) -> float | None:
    """Seconds to wait before sending again, or None where the outcome stands. `jitter` is random in [0, 1).

    Every call of this client may be sent twice, so a broken connection is no reason to give up. What the server says in
    Retry-After is a lower bound; the random part then only spreads the callers it sent away together.
    """
    if attempt >= patience.retries:
        return None
    spread: float = jitter * min(patience.longest_pause_s, patience.first_pause_s * 2.0**attempt)
    if isinstance(outcome, Failure):
        again = outcome.trouble in (Trouble.NOT_CONNECTED, Trouble.HUNG_UP) or (
            outcome.trouble is Trouble.TIMED_OUT and patience.try_timeout_s < math.inf
        )
        return spread if again else None
    if outcome.status not in RETRIED_STATUSES:
        return None
    return retry_after_s(outcome.headers) + spread


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The span that Retry-After asks for (RFC 9110 §10.2.3), 0 without one. A date is compared with the answer's own
    Date, so that no clock is needed."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        return 0.0


class Calls:
    """The calls that a client has, as flows. Remembers the signatures of the models it has asked about."""

    def __init__(
        self, model: str, version: int | str | None, patience: Patience, clock: Clock, jitter: Callable[[], float]
    ) -> None:
        self._model = model
        self._version = version
        self._patience = patience
        self._clock = clock
        self._jitter = jitter
        self._signature: Signature | None = None

    def predict(self, X: Any) -> Flow[NDArray[Any]]:
        """The first output for `X`; only that one is asked for."""
        deadline_s = self._clock() + self._patience.timeout_s
        signature = yield from self._asked_signature(deadline_s)
        if not signature.outputs:
            raise BadAnswer("the model's metadata names no output")
        name = signature.outputs[0].name
        outputs = yield from self._infer(signature, X, (name,), deadline_s)
        if name not in outputs:
            raise BadAnswer(f"the answer lacks the output {name!r}")
        return outputs[name]

    def infer(self, inputs: Any, outputs: str | Sequence[str] = ()) -> Flow[dict[str, NDArray[Any]]]:
        """The outputs called `outputs` (all if empty), by name."""
        deadline_s = self._clock() + self._patience.timeout_s
        signature = yield from self._asked_signature(deadline_s)
        names = (outputs,) if isinstance(outputs, str) else outputs
        return (yield from self._infer(signature, inputs, names, deadline_s))

    def _infer(
        self, signature: Signature, inputs: Any, outputs: Sequence[str], deadline_s: float
    ) -> Flow[dict[str, NDArray[Any]]]:
        try:
            body = oip_json.encode_request(typed(inputs, signature.inputs), outputs)
        except DukouError as error:
            raise InvalidInput(str(error)) from error
        try:
            answer = yield from self._exchange(Request("POST", self._path("infer"), body), deadline_s)
        except InvalidInput:
            # Perhaps another version answers by now, with another signature: ask again next time.
            self._signature = None
            raise
        return dict(_decoded(oip_json.decode_response, answer).outputs)

    def metadata(self) -> Flow[Signature]:
        """What the model takes and gives."""
        self._signature = None
        return (yield from self._asked_signature(self._clock() + self._patience.timeout_s))

    def ready(self) -> Flow[bool]:
        """Whether the model (the server, where no model is named) is ready; asked once, without retries."""
        path = self._path("ready") if self._model else "/v2/health/ready"
        outcome = yield Request("GET", path, timeout_s=self._patience.timeout_s)
        return _answered(outcome).status == 200

    def models(self) -> Flow[list[ListedModel]]:
        """The versions that the server lists: by the protocol's repository extension, or on its first page as dukou."""
        deadline_s = self._clock() + self._patience.timeout_s
        try:
            answer = yield from self._exchange(Request("POST", "/v2/repository/index", b"{}"), deadline_s)
            return _decoded(_repository_index, answer)
        except NotFound as error:
            answer = yield from self._exchange(Request("GET", "/"), deadline_s)
            try:
                return _first_page(answer.body)
            except DukouError:
                raise error from None

    def _asked_signature(self, deadline_s: float) -> Flow[Signature]:
        if self._signature is None:
            answer = yield from self._exchange(Request("GET", self._path()), deadline_s)
            self._signature = _decoded(oip_json.decode_metadata, answer)
        return self._signature

    def _path(self, *rest: str) -> str:
        if not self._model:
            raise InvalidInput("no model was named: Client(url, model=...)")
        parts = ["", "v2", "models", quote(self._model, safe="")]
        if self._version is not None:
            parts += ["versions", quote(str(self._version), safe="")]
        return "/".join([*parts, *rest])

    def _exchange(self, request: Request, deadline_s: float) -> Flow[Answer]:
        """A good answer. Raises ClientError; retries as `pause_before_retry` says, while the deadline allows."""
        attempt = 0
        while True:
            left_s = deadline_s - self._clock()
            outcome = yield msgspec.structs.replace(request, timeout_s=min(left_s, self._patience.try_timeout_s))
            assert outcome is not None, "a Request is answered"
            if isinstance(outcome, Answer) and outcome.status < 300:
                return outcome
            pause_s = pause_before_retry(self._patience, attempt, outcome, self._jitter())
            if pause_s is None or self._clock() + pause_s >= deadline_s:
                raise _error(outcome)
            yield Pause(pause_s)
            attempt += 1


def _answered(outcome: Answer | Failure | None) -> Answer:
    if isinstance(outcome, Answer):
        return outcome
    assert outcome is not None, "a Request is answered"
    raise _error(outcome)


def _error(outcome: Answer | Failure) -> ClientError:
    if isinstance(outcome, Answer):
        return refusal(outcome.status, oip_json.decode_error(outcome.body) or "the server gave no reason")
    kinds = {Trouble.TIMED_OUT: TimedOut, Trouble.TOO_LARGE: BadAnswer}
    return kinds.get(outcome.trouble, ConnectionFailed)(outcome.detail or outcome.trouble.value)


def _decoded(decode: Callable[[bytes], T], answer: Answer) -> T:
    try:
        return decode(answer.body)
    except DukouError as error:
        raise BadAnswer(f"the answer is not the Open Inference Protocol's: {error}") from error


def _repository_index(body: bytes) -> list[ListedModel]:
    return _json(body, list[ListedModel])


def _first_page(body: bytes) -> list[ListedModel]:
    return [
        ListedModel(model.name, str(version.version), version.state)
        for model in _json(body, _FirstPage).models
        for version in model.versions
    ]


def _json(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=str(error)) from error
