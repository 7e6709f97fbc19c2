"""What travels through the data plane, and the shape of its stages."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from dukou.core.errors import DukouError
from dukou.core.model import ModelManifest, ModelRef, ModelVersion, Signature, State
from dukou.core.route import Route
from dukou.core.tensor import Tensors

T = TypeVar("T")


class Context(msgspec.Struct):
    """What belongs to one call and never changes its answer: never part of a cache or batch key.

    Times are seconds of the monotonic clock. `entry` says by which call it came: an index into
    `dukou.core.entry.ENTRIES`.
    """

    id: str = ""
    arrived_s: float = 0.0
    deadline_s: float = float("inf")
    principal: str = ""
    traceparent: str = ""
    priority: int = 0
    entry: int = 0


class Draft(msgspec.Struct):
    """What the caller said, not yet typed: which model, which signature, and the protocol's own parsed payload."""

    ref: ModelRef
    payload: Any
    signature_name: str = ""


class InferenceRequest(msgspec.Struct):
    """A call typed by the signature of the version that answers it.

    `inputs` fit the signature: its names, its dtypes, its shapes. `rows` is the size of axis 0 (1 when the signature is
    not batched). `outputs` are the names wanted, in order. `reply` is what the protocol needs again to encode.
    """

    version: ModelVersion
    signature: Signature
    inputs: Tensors
    outputs: tuple[str, ...]
    rows: int
    context: Context
    parameters: Mapping[str, Any] = {}
    reply: Any = None


class Batch(msgspec.Struct):
    """What one execution answered to so many `requests`: outputs of `rows` rows, each of which takes `row_bytes`.

    `written` is for codecs, each under a name of its own: what one has made of all rows need not be made anew for every
    request.
    """

    outputs: Tensors
    requests: int
    rows: int
    row_bytes: int
    written: dict[str, Any] = {}


class InferenceResponse(msgspec.Struct):
    """The outputs that were asked for, by name, from `version`: `alone`, or rows `start` to `end` of a `batch`'s."""

    version: ModelVersion
    alone: Tensors = {}
    parameters: Mapping[str, Any] = {}
    batch: Batch | None = None
    start: int = 0
    end: int = 0

    @property
    def outputs(self) -> Tensors:
        """The outputs by name; those of a batch are views, made anew each time."""
        if self.batch is None:
            return self.alone
        return {name: array[self.start : self.end] for name, array in self.batch.outputs.items()}

    @property
    def array_bytes(self) -> int:
        """What the arrays take in memory."""
        if self.batch is None:
            return sum([array.nbytes for array in self.alone.values()])
        return self.batch.row_bytes * (self.end - self.start)


class Copy(msgspec.Struct):
    """One execution of a version, as those see it who watch what it answers: joined inputs, outputs of as many rows.

    `infer_s` is the time of the model itself, in seconds.
    """

    version: ModelVersion
    signature: str
    inputs: Tensors
    outputs: Tensors
    rows: int
    parameters: Mapping[str, Any] = {}
    infer_s: float = 0.0


Tap: TypeAlias = Callable[[Copy], None]
"""Told of each execution that answered, after its answers are out. Never raises, never waits, keeps little."""


class Stage(Protocol):
    """One step of the data plane behind `bind`. What a stage may await is said in `dukou.engine.drive`."""

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Answer, or raise DukouError."""


class Streamer(Protocol):
    """Answers requests of streaming signatures; called from ordinary asyncio tasks."""

    def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceResponse, None]:
        """The responses as they come. Raises DukouError; closing the iterator (`aclose`) ends the work."""


class Served(msgspec.Struct, frozen=True):
    """One version as the data plane sees it. `stage` is None unless the state is AVAILABLE; `streamer` is there for a
    version with streaming signatures."""

    id: ModelVersion
    manifest: ModelManifest
    state: State
    stage: Stage | None = None
    error: DukouError | None = None
    streamer: Streamer | None = None


class Table(msgspec.Struct, frozen=True):
    """Everything a worker serves; never changed, only replaced whole by one of a higher generation.

    `models` maps a name to its versions, highest first; `labels` maps a name to its labels; `routes` has the models
    whose calls do not simply go to the highest version AVAILABLE.
    """

    generation: int = 0
    models: Mapping[str, Mapping[int, Served]] = {}
    labels: Mapping[str, Mapping[str, int]] = {}
    routes: Mapping[str, Route] = {}


OnDone: TypeAlias = Callable[[T | None, BaseException | None], None]


class Run(Protocol):
    """A call under way."""

    def cancel(self) -> None:
        """The caller has gone: tell the stages, answer nobody."""


class DataPlane(Protocol):
    """What a protocol front needs of the engine."""

    @property
    def table(self) -> Table:
        """The table in force."""

    def choose(self, ref: ModelRef, key: str) -> Served:
        """The version that answers, AVAILABLE; `key` keeps its caller on one version of a route.

        Raises DukouError MODEL_NOT_FOUND, MODEL_UNNAMED, VERSION_NOT_FOUND, LABEL_NOT_FOUND, MODEL_NOT_READY. Of all
        methods only this one may be called from any thread."""

    def start(self, call: Coroutine[Any, Any, T], on_done: OnDone[T], deadline_s: float = float("inf")) -> Run:
        """Run a call's coroutine; `on_done` is called exactly once, perhaps before this returns. What the coroutine may
        await is said in `dukou.engine.drive`.

        A data plane that takes no more calls closes the coroutine and gives `on_done` OVERLOADED or DRAINING.
        """
