"""What the supervisor and a worker say to each other, and how it travels: length-prefixed MessagePack.

No I/O here: `encode` makes bytes, `Decoder.feed` takes them in whatever pieces the socket gives.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from dukou.core.comparison import Comparison
from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature
from dukou.core.route import Route
from dukou.core.verb import Verb
from dukou.core.version import ModelVersion, State

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
UNLOADED = "unloaded"
"""Why a version is not loaded whose model was unloaded on purpose: the server is ready without it."""

_PREFIX_BYTES = 4


class Assignment(msgspec.Struct, frozen=True):
    """One version to serve: the folder that holds its verified files, its block of counters, its model's options.

    `wanted` is AVAILABLE for a version to be loaded. START announces one that is not loaded yet and END tells of one
    that is loaded no more, or cannot be: calls are refused as NOT_READY, with `why`. A higher `attempt` loads the
    version anew. `process` is the Unix socket of the model process that holds it; without one the worker itself does.
    """

    id: ModelVersion
    folder: str
    block: int
    options: Mapping[str, Any] = {}
    wanted: State = State.AVAILABLE
    why: str = ""
    attempt: int = 0
    process: str = ""


class LoadReport(msgspec.Struct, frozen=True):
    """A version in one worker: LOADING, AVAILABLE, or END with the error as a sentence. `load_s` is how long it took.

    `attempt` is the assignment's that this tells of. An error beside AVAILABLE says that loading it anew has failed and
    what was there before goes on answering. `signatures` are those of a version that is AVAILABLE.
    """

    id: ModelVersion
    state: State
    error: str = ""
    warnings: tuple[str, ...] = ()
    load_s: float = 0.0
    attempt: int = 0
    signatures: Mapping[str, Signature] = {}


class Apply(msgspec.Struct, frozen=True, tag=True):
    """To a worker: serve exactly these versions, with these routes and labels by model."""

    generation: int
    assignments: tuple[Assignment, ...]
    routes: Mapping[str, Route] = {}
    labels: Mapping[str, Mapping[str, int]] = {}


class Listen(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the table is good, accept connections."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """To a worker: accept nothing more, finish what is under way within `grace_s`, then exit."""

    grace_s: float


class Ping(msgspec.Struct, frozen=True, tag=True):
    """To a worker: are you there?"""


class Applied(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the table of this generation is in force; one report for each version assigned.

    Sent at once, with what is still to be loaded as LOADING, and again whenever a report has changed: a table that
    comes while a version is loaded does not wait for it.
    """

    generation: int
    reports: tuple[LoadReport, ...]


class Freed(msgspec.Struct, frozen=True, tag=True):
    """From a worker: what tables before this generation had, and this one has not, is gone: the last call is answered
    and the memory given back."""

    generation: int


class Ask(msgspec.Struct, frozen=True, tag=True):
    """From a worker: a caller asks for this. `number` is the worker's own, for the answer."""

    number: int
    verb: Verb
    who: str


class Told(msgspec.Struct, frozen=True, tag=True):
    """To a worker: what became of its Ask: done, or refused for a `reason` (a name of `dukou.core.errors.Reason`)."""

    number: int
    reason: str = ""
    facts: Mapping[str, Any] = {}


class CompareBy(msgspec.Struct, frozen=True, tag=True):
    """To a model process: how the answers of its version are compared (`dukou.lifecycle.compare`)."""

    slice_by: str = ""
    tolerance: float = 1e-3


class Compared(msgspec.Struct, frozen=True, tag=True):
    """From a model process: what the copies since the last message have shown, to be added to what was known."""

    id: ModelVersion
    comparison: Comparison


class Listening(msgspec.Struct, frozen=True, tag=True):
    """From a worker: connections are being accepted."""


class Pong(msgspec.Struct, frozen=True, tag=True):
    """From a worker: its loop turns."""


Message: TypeAlias = (
    Apply | Listen | Drain | Ping | Told | Applied | Freed | Ask | Listening | Pong | CompareBy | Compared
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as it travels: its length in four bytes, most significant first, then MessagePack.

    Raises DukouError MALFORMED_REQUEST when it is larger than MAX_MESSAGE_BYTES.
    """
    body = _encoder.encode(message)
    _check_size(len(body))
    return len(body).to_bytes(_PREFIX_BYTES, "big") + body


class Decoder:
    """Turns the bytes of one direction into messages. After an error it must not be fed again."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Raises DukouError MALFORMED_REQUEST for what is none or too large."""
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _PREFIX_BYTES:
            body = start + _PREFIX_BYTES
            size = int.from_bytes(self._buffer[start:body], "big")
            _check_size(size)
            if len(self._buffer) - body < size:
                break
            messages.append(_parse(bytes(self._buffer[body : body + size])))
            start = body + size
        del self._buffer[:start]
        return messages


def _check_size(size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise DukouError(
            Reason.MALFORMED_REQUEST,
            detail=f"a message between supervisor and worker has {size} bytes, {MAX_MESSAGE_BYTES} is the most",
        )


def _parse(body: bytes) -> Message:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DukouError(
            Reason.MALFORMED_REQUEST, detail=f"a message between supervisor and worker cannot be read: {error}"
        ) from error
