"""Records a share of what versions are asked and what they answer, for `dukou replay`.

A draw decides on the loop, a thread does the rest: it takes out what is to be left out, then writes. What the thread
cannot keep up with is dropped and counted; a disk that cannot be written ends the recording and nothing else.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.config import CaptureConfig
from dukou.core.clock import Clock, monotonic, wall
from dukou.core.frame import encode_copy
from dukou.core.message import Copy, Tap
from dukou.core.model import ModelManifest, Signature
from dukou.core.tensor import Tensors
from dukou.telemetry.recording import Header, Recording, pack
from dukou.telemetry.writer import Writer

FOLDER = "capture"
"""Its name in the state folder, where `capture.folder` names no other."""

_MOST_WAITING = 4096
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_TELL_EVERY_S = 60.0

_log = logging.getLogger("dukou.capture")

Blanks: TypeAlias = Mapping[str, tuple[int, ...] | None]
"""Tensors to be left out: the whole of one, or these entries of its last axis."""


def capture_folder(config: CaptureConfig, state: Path) -> Path:
    """Where a server with this state folder records."""
    return Path(config.folder) if config.folder else state / FOLDER


class Capture:
    """Records the executions of the versions that it has made a tap for, each drawn with the probability
    `config.share`, into `folder` (`dukou.telemetry.recording`), for the worker of this slot.

    Of inputs, and of columns of inputs, that `config.redact` names nothing is written: zeros and empty text take their
    place, also in an output of such a name. `draw` returns a number in [0, 1) for each execution.
    """

    def __init__(
        self,
        config: CaptureConfig,
        folder: Path,
        slot: int,
        *,
        draw: Callable[[], float] = random.random,
        clock: Clock = wall,
        steady_clock: Clock = monotonic,
        pause_s: float = 0.05,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self._config = config
        self._folder = folder
        self._slot = slot
        self._draw = draw
        self._clock = clock
        self._steady_clock = steady_clock
        self._most_waiting = most_waiting
        self._recordings: dict[str, Recording] = {}
        self._waiting: deque[tuple[float, int, Copy, Mapping[str, Blanks]]] = deque()
        # Each of these has one writer, so that no lock is needed: the loop counts what comes, the thread what goes.
        self._came_bytes = 0
        self._gone_bytes = 0
        self._dropped = 0
        self._refused = 0
        self._told = 0
        self._tell_after_s = steady_clock() + _TELL_EVERY_S
        self._stopped = False
        self._writer = Writer(self._write_waiting, "dukou-capture", pause_s, end=self._end)

    @property
    def dropped(self) -> int:
        """Executions that were drawn and could not be recorded."""
        return self._dropped + self._refused

    def tap(self, manifest: ModelManifest) -> Tap:
        """The Tap for the executions of one version, told on the loop."""
        blanks = {name: blanks_of(one, self._config.redact) for name, one in manifest.signatures.items()}
        share = self._config.share
        draw = self._draw

        def record(copy: Copy) -> None:
            if draw() < share and not self._stopped:
                self._take(copy, blanks)

        return record

    def close(self, patience_s: float = 2.0) -> None:
        """Write what waits and end; a disk that stands still is left behind after `patience_s` seconds."""
        self._writer.close(patience_s)

    def _take(self, copy: Copy, blanks: Mapping[str, Blanks]) -> None:
        size = 0
        for array in copy.inputs.values():
            size += array.nbytes
        for array in copy.outputs.values():
            size += array.nbytes
        under_way = self._came_bytes - self._gone_bytes
        if len(self._waiting) >= self._most_waiting or under_way + size > _MOST_WAITING_BYTES:
            self._dropped += 1
            return
        self._came_bytes += size
        self._waiting.append((self._clock(), size, copy, blanks))
        self._writer.wake()

    def _end(self) -> None:
        for recording in self._recordings.values():
            recording.close()

    def _write_waiting(self) -> None:
        records: dict[str, list[bytes]] = {}
        for _ in range(len(self._waiting)):
            at, size, copy, blanks = self._waiting.popleft()
            self._gone_bytes += size
            try:
                frame = b"".join(encode_copy(redacted(copy, blanks[copy.signature], self._config.redact)))
            except Exception:  # rather nothing than what should have been left out
                if not self._refused:
                    _log.warning("an execution of %s cannot be recorded", copy.version, exc_info=True)
                self._refused += 1
                continue
            records.setdefault(copy.version.name, []).append(pack(at, frame))
        if self._stopped:
            return
        for model, of_model in records.items():
            try:
                self._refused += self._recording(model).add(of_model)
            except OSError as error:
                self._stopped = True
                _log.warning(
                    "recording has stopped: %s: %s; what was recorded before is kept, and serving goes on",
                    error.filename or self._folder,
                    error.strerror,
                )
                return
        self._tell()

    def _recording(self, model: str) -> Recording:
        found = self._recordings.get(model)
        if found is None:
            header = Header(model, self._slot, self._config.redact)
            found = self._recordings[model] = Recording(self._folder, header, self._config.max_bytes)
        return found

    def _tell(self) -> None:
        """Now and then, how many were dropped since it was last said."""
        more = self.dropped - self._told
        now = self._steady_clock()
        if more and (now >= self._tell_after_s or not self._told):
            self._told += more
            self._tell_after_s = now + _TELL_EVERY_S
            _log.warning("%d executions were not recorded: too large, or they came faster than they are written", more)


def blanks_of(signature: Signature, names: tuple[str, ...]) -> Blanks:
    """What `names` mean in a signature: inputs, or columns of inputs."""
    blanks: dict[str, tuple[int, ...] | None] = {}
    for spec in signature.inputs:
        places = tuple(place for place, column in enumerate(spec.columns) if column in names)
        if spec.name in names:
            blanks[spec.name] = None
        elif places:
            blanks[spec.name] = places
    return blanks


def redacted(copy: Copy, blanks: Blanks, names: tuple[str, ...]) -> Copy:
    """The copy without the values of `blanks`, and without outputs and parameters called by one of `names`."""
    if not names:
        return copy
    return msgspec.structs.replace(
        copy,
        inputs=_blanked(copy.inputs, blanks),
        outputs=_blanked(copy.outputs, dict.fromkeys(names)),
        parameters={name: value for name, value in copy.parameters.items() if name not in names},
    )


def _blanked(tensors: Tensors, blanks: Mapping[str, Any]) -> Tensors:
    return {name: _blank(array, blanks[name]) if name in blanks else array for name, array in tensors.items()}


def _blank(array: NDArray[Any], places: tuple[int, ...] | None) -> NDArray[Any]:
    nothing: Any = "" if array.dtype == object else np.zeros((), array.dtype)
    if places is None:
        return np.full(array.shape, nothing, array.dtype)
    kept = array.copy()
    kept[..., list(places)] = nothing
    return kept
