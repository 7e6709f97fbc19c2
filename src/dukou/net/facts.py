"""What pages and services tell about, whatever the protocol: one place that knows the server."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

import msgspec

from dukou.core.clock import Clock, monotonic
from dukou.core.event import Observer
from dukou.core.message import DataPlane
from dukou.core.statistics import VersionStatistics
from dukou.core.verb import Control
from dukou.core.version import ModelVersion


class Facts(msgspec.Struct, frozen=True):
    """The server as its pages and services see it.

    `metrics(dialect)` makes the text of /metrics for that dialect, `serving_metrics()` that of TensorFlow Serving's
    path; they and `statistics` read files and run in `pool`. There, too, bodies and answers with more text than
    `off_loop_bytes` are read and written (`dukou.net.streaming`); `observers` are told what is refused, by `clock`.
    `scheme` is that of the server's URLs. `request_timeout_s` is what a stream gives each of its requests. `control` is
    the control plane, where callers may ask it for something: with `reloads`, callers of this machine to read the model
    config file again; with `explicit`, all callers to load and unload models.
    """

    plane: DataPlane
    pool: Executor
    statistics: Callable[[], Mapping[ModelVersion, VersionStatistics]]
    metrics: Callable[[str], bytes]
    serving_metrics: Callable[[], bytes]
    is_draining: Callable[[], bool]
    clock: Clock = monotonic
    observers: Sequence[Observer] = ()
    off_loop_bytes: int = 131_072
    scheme: Callable[[], str] = lambda: "http"
    request_timeout_s: float = math.inf
    control: Control | None = None
    reloads: bool = False
    explicit: bool = False
