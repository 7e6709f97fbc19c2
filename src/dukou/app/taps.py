"""Who is told of what versions answer: shadows, and the recording. Put in force with each table, kept from one to the
next where nothing has changed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dukou.config import CaptureConfig
from dukou.core.message import Copy, Table, Tap
from dukou.core.model import ModelManifest, ModelVersion
from dukou.core.route import Route, Shadow
from dukou.core.version import State
from dukou.engine.route import primary
from dukou.engine.shadow import Shadowing
from dukou.telemetry.capture import Capture, capture_folder

ShadowingFor = Callable[[ModelVersion, Shadow], Shadowing]
"""Makes what copies calls to a shadow: of this version."""


class Taps:
    """The taps of one process's versions."""

    def __init__(self, shadowing_for: ShadowingFor, capture: Capture | None) -> None:
        self._shadowing_for = shadowing_for
        self._capture = capture
        self._shadowing: dict[tuple[ModelVersion, Shadow], Shadowing] = {}
        self._recording: dict[ModelVersion, tuple[ModelManifest, Tap]] = {}

    def follow(self, table: Table, routes: Mapping[str, Route]) -> Mapping[ModelVersion, Tap]:
        """The tap of each version that has one, by this table and these routes. What they do not have is closed.

        A model's shadows get copies of what its primary answers: the version that most calls go to.
        """
        taps: dict[ModelVersion, list[Tap]] = {}
        shadowing: dict[tuple[ModelVersion, Shadow], Shadowing] = {}
        for name, route in routes.items():
            number = primary(table, name)
            if number is None:
                continue
            version = ModelVersion(name, number)
            for shadow in route.shadows:
                if shadow.version == number:
                    continue
                key = (version, shadow)
                known = self._shadowing.pop(key, None)
                shadowing[key] = known or self._shadowing_for(version, shadow)
                taps.setdefault(version, []).append(shadowing[key])
        for gone in self._shadowing.values():
            gone.close()
        self._shadowing = shadowing
        self._record(table, taps)
        return {version: _all(of) for version, of in taps.items()}

    def close(self) -> None:
        """Let go of all of them."""
        for shadowing in self._shadowing.values():
            shadowing.close()
        self._shadowing = {}
        if self._capture is not None:
            self._capture.close()

    def _record(self, table: Table, taps: dict[ModelVersion, list[Tap]]) -> None:
        if self._capture is None:
            return
        before, self._recording = self._recording, {}
        for versions in table.models.values():
            for served in versions.values():
                if served.state is not State.AVAILABLE:
                    continue
                known = before.get(served.id)
                if known is None or known[0] is not served.manifest:
                    known = served.manifest, self._capture.tap(served.manifest)
                self._recording[served.id] = known
                taps.setdefault(served.id, []).append(known[1])


def make_capture(config: CaptureConfig, state: Path, slot: int) -> Capture | None:
    """What records, where that is wanted."""
    return Capture(config, capture_folder(config, state), slot) if config.share else None


def _all(taps: Sequence[Tap]) -> Tap:
    if len(taps) == 1:
        return taps[0]

    def tell(copy: Copy) -> None:
        for tap in taps:
            tap(copy)

    return tell
