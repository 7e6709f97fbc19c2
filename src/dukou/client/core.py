"""A client without I/O: each call is a flow, a generator that yields what to do next and is sent what came of it.

    Request  -> send it; the answer is an Answer or a Failure
    Pause    -> wait; the answer is None

Retries, deadlines and the reading of answers are decided here, once, for the sync and the async client and for every
Wire: HTTP (`client.oip_http`) and gRPC (`client.oip_grpc`).
"""

import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionFailed,
    DeadlineMissed,
    InvalidInput,
    NotFound,
    Overloaded,
    Refused,
    TimedOut,
    Unavailable,
)
from dukou.client.inputs import typed
from dukou.core.clock import Clock
from dukou.core.errors import DukouError
from dukou.core.model import Signature
from dukou.core.tensor import DTYPES, Tensors, widen

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True):
    """One request: `path` below the server's address, to be answered whole within `timeout_s`. `method` is HTTP's."""

    path: str
    body: bytes = b""
    headers: Mapping[str, str] = {}
    method: str = "POST"
    timeout_s: float = math.inf


class Pause(msgspec.Struct, frozen=True):
    """Wait before going on."""

    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """A whole answer, or one message of a stream. `status` is HTTP's or gRPC's; header names are in lower case.

    A gRPC status other than 0 has its message, as UTF-8, for a body.
    """

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


class Wire(Protocol):
    """How the calls about one model look in a protocol, and what answers say. Whatever reads raises DukouError for what
    it cannot read."""

    @property
    def extensions(self) -> Request | None:
        """What to ask before the first inference, None where the wire needs to know nothing of the server."""

    def read_extensions(self, answer: Answer) -> Collection[str]:
        """The names of the extensions that the server has."""

    def metadata(self) -> Request:
        """Asks what the model takes and gives."""

    def signature(self, answer: Answer) -> Signature:
        """What `metadata` was answered."""

    def ready(self) -> Request:
        """Asks whether the model (without one, the server) is ready."""

    def is_ready(self, answer: Answer) -> bool:
        """What `ready` was answered, a refusal included."""

    def infer(self, inputs: Tensors, outputs: Sequence[str], extensions: Collection[str]) -> Request:
        """Asks for the outputs named (all if none are)."""

    def outputs(self, answer: Answer) -> Tensors:
        """What `infer` was answered."""

    def stream(self, inputs: Tensors, outputs: Sequence[str]) -> Request:
        """Asks for responses as they come."""

    def streamed(self, answer: Answer, signature: Signature) -> Tensors:
        """One of the answers to `stream`; empty where it carries no outputs."""

    def listings(self) -> Sequence[tuple[Request, Callable[[bytes], list[ListedModel]]]]:
        """Ways to ask for the list of models, and to read it: each for servers that do not have the one before."""

    def refusal(self, answer: Answer) -> Refused | None:
        """The error that the answer is; None for a good one."""


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


PASSING = (ConnectionFailed, Overloaded, Unavailable, DeadlineMissed)
"""What may be otherwise a moment later."""


def pause_before_retry(
    patience: Patience, attempt: int, error: ClientError, headers: Mapping[str, str], jitter: float
) -> float | None:
    """Seconds to wait before sending again, or None where the error stands. `jitter` is random in [0, 1).

    Every call of this client may be sent twice, so a broken connection is no reason to give up. What the server says in
    Retry-After is a lower bound; the random part then only spreads the callers it sent away together.
    """
    again = isinstance(error, PASSING) or (isinstance(error, TimedOut) and patience.try_timeout_s < math.inf)
    if attempt >= patience.retries or not again:
        return None
    spread: float = jitter * min(patience.longest_pause_s, patience.first_pause_s * 2.0**attempt)
    return retry_after_s(headers) + spread


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
    """The calls that a client has, as flows. Remembers the signature of the model and the extensions of the server."""

    def __init__(self, wire: Wire, patience: Patience, clock: Clock, jitter: Callable[[], float]) -> None:
        self._wire = wire
        self._patience = patience
        self._clock = clock
        self._jitter = jitter
        self._signature: Signature | None = None
        self._extensions: Collection[str] | None = None

    def predict(self, X: Any) -> Flow[NDArray[Any]]:
        """The first output for `X`; only that one is asked for."""
        deadline_s = self._deadline_s()
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
        deadline_s = self._deadline_s()
        signature = yield from self._asked_signature(deadline_s)
        return (yield from self._infer(signature, inputs, _names(outputs), deadline_s))

    def _infer(
        self, signature: Signature, inputs: Any, outputs: Sequence[str], deadline_s: float
    ) -> Flow[dict[str, NDArray[Any]]]:
        extensions = yield from self._asked_extensions(deadline_s)
        with _sending():
            request = self._wire.infer(typed(inputs, signature.inputs), outputs, extensions)
        try:
            answer = yield from self._exchange(request, deadline_s)
        except InvalidInput:
            # Perhaps another version answers by now, with another signature: ask again next time.
            self._signature = None
            raise
        with _reading():
            return _readable(self._wire.outputs(answer))

    def stream(self, inputs: Any, outputs: str | Sequence[str] = ()) -> Flow[Request]:
        """The request whose answers `streamed` reads. Nothing is sent twice once it is sent."""
        deadline_s = self._deadline_s()
        signature = yield from self._asked_signature(deadline_s)
        with _sending():
            request = self._wire.stream(typed(inputs, signature.inputs), _names(outputs))
        return msgspec.structs.replace(request, timeout_s=deadline_s - self._clock())

    def streamed(self, outcome: Answer | Failure, outputs: str | Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """The outputs called `outputs` (all if empty) that one answer of a stream carries. Raises ClientError."""
        assert self._signature is not None, "stream() asked for it"
        answer = self._good(outcome)
        with _reading():
            came = _readable(self._wire.streamed(answer, self._signature))
        names = _names(outputs)
        return {name: array for name, array in came.items() if not names or name in names}

    def metadata(self) -> Flow[Signature]:
        """What the model takes and gives."""
        self._signature = None
        return (yield from self._asked_signature(self._deadline_s()))

    def ready(self) -> Flow[bool]:
        """Whether the model (the server, where no model is named) is ready; asked once, without retries."""
        outcome = yield msgspec.structs.replace(self._wire.ready(), timeout_s=self._patience.timeout_s)
        with _reading():
            return self._wire.is_ready(_answered(outcome))

    def models(self) -> Flow[list[ListedModel]]:
        """The versions that the server lists: by the protocol's repository extension, or on its first page as dukou."""
        deadline_s = self._deadline_s()
        refused: NotFound | None = None
        for request, read in self._wire.listings():
            try:
                answer = yield from self._exchange(request, deadline_s)
                with _reading():
                    return read(answer.body)
            except NotFound as error:
                refused = refused or error
            except BadAnswer:
                if refused is None:  # else it is another page of a server that has no list
                    raise
        assert refused is not None, "there is a way to ask"
        raise refused

    def _asked_signature(self, deadline_s: float) -> Flow[Signature]:
        if self._signature is None:
            answer = yield from self._exchange(self._wire.metadata(), deadline_s)
            with _reading():
                self._signature = self._wire.signature(answer)
        return self._signature

    def _asked_extensions(self, deadline_s: float) -> Flow[Collection[str]]:
        request = self._wire.extensions
        if request is None:
            return ()
        if self._extensions is None:
            try:
                answer = yield from self._exchange(request, deadline_s)
                with _reading():
                    self._extensions = self._wire.read_extensions(answer)
            except PASSING:
                raise
            except (Refused, BadAnswer):
                self._extensions = ()  # a server that does not tell has none
        return self._extensions

    def _deadline_s(self) -> float:
        return self._clock() + self._patience.timeout_s

    def _exchange(self, request: Request, deadline_s: float) -> Flow[Answer]:
        """A good answer. Raises ClientError; retries as `pause_before_retry` says, while the deadline allows."""
        attempt = 0
        while True:
            left_s = deadline_s - self._clock()
            outcome = yield msgspec.structs.replace(request, timeout_s=min(left_s, self._patience.try_timeout_s))
            try:
                return self._good(outcome)
            except ClientError as error:
                headers = outcome.headers if isinstance(outcome, Answer) else {}
                pause_s = pause_before_retry(self._patience, attempt, error, headers, self._jitter())
                if pause_s is None or self._clock() + pause_s >= deadline_s:
                    raise
            yield Pause(pause_s)
            attempt += 1

    def _good(self, outcome: Answer | Failure | None) -> Answer:
        """The answer, if it is a good one. Raises ClientError."""
        answer = _answered(outcome)
        refusal = self._wire.refusal(answer)
        if refusal is not None:
            raise refusal
        return answer


def _answered(outcome: Answer | Failure | None) -> Answer:
    if isinstance(outcome, Answer):
        return outcome
    assert outcome is not None, "a Request is answered"
    kinds = {Trouble.TIMED_OUT: TimedOut, Trouble.TOO_LARGE: BadAnswer}
    raise kinds.get(outcome.trouble, ConnectionFailed)(outcome.detail or outcome.trouble.value)


@contextmanager
def _sending() -> Iterator[None]:
    """What cannot be written is the caller's input."""
    try:
        yield
    except (DukouError, UnicodeError) as error:
        raise InvalidInput(str(error)) from error


@contextmanager
def _reading() -> Iterator[None]:
    """What cannot be read is a bad answer."""
    try:
        yield
    except DukouError as error:
        raise BadAnswer(f"the answer cannot be read: {error}") from error


def _names(outputs: str | Sequence[str]) -> Sequence[str]:
    return (outputs,) if isinstance(outputs, str) else outputs


def _readable(outputs: Tensors) -> dict[str, NDArray[Any]]:
    """As callers want it: BF16 as FP32, which NumPy can compute with; BYTES as text where all of it is UTF-8."""
    return {name: _plain(array) for name, array in outputs.items()}


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == DTYPES["BF16"]:
        return widen(array)
    if array.dtype == DTYPES["BYTES"]:
        with suppress(UnicodeDecodeError):
            texts = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
            plain = np.empty(array.size, object)
            plain[:] = texts
            return plain.reshape(array.shape)
    return array
