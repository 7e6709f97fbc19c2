"""What is declared and what the repositories hold, looked at again whenever they may have changed."""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from dukou.app.control_plane import POLICY, ControlPlane
from dukou.app.declare import Place, declare
from dukou.config import ModelsConfig
from dukou.control.operations import Cause
from dukou.core.errors import DukouError, Reason
from dukou.core.seen import Seen
from dukou.lifecycle.policy import wanted
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.wanted import Declared, Overrides
from dukou.repository.look import Look
from dukou.repository.watch import SOON_S, changes

_FIRST_LOOKS = 6
"""So often, before the first table, models are looked at that have nothing but versions still being written."""

_log = logging.getLogger("dukou.control")


class Following:
    """Declares models to the control plane: by the settings, or by the config file, which then says everything.

    `places` are the user's paths as `dukou.app.declare.places` tells them. Looks take turns; each runs in a thread.
    """

    def __init__(self, plane: ControlPlane, config: ModelsConfig, places: tuple[Place, ...]) -> None:
        self._plane = plane
        self._config = config
        self._places = places
        self._eye = Look()
        self._message: Any = None
        self._roots: tuple[Path, ...] = ()
        self._arriving = False
        self._turn = asyncio.Lock()

    async def begin(self) -> tuple[str, ...]:
        """Declare for the first time; returns warnings. Raises DukouError for what cannot be served."""
        warnings: tuple[str, ...] = ()
        if self._config.config_file:
            from dukou.app import model_config  # protobuf takes 30 ms, which a start without such a file saves

            self._message = await asyncio.to_thread(model_config.read, self._config.config_file)
            warnings = model_config.warnings(self._message)
        declared, found = await asyncio.to_thread(self._declared)
        seen = await asyncio.to_thread(self._see, declared)
        for _ in range(_FIRST_LOOKS):
            if not any(one.arriving and not one.versions for one in seen.values()):
                break
            await asyncio.sleep(SOON_S)
            seen = await asyncio.to_thread(self._see, declared)
        self._plane.declare(declared, seen)
        return (*warnings, *found)

    async def run(self) -> None:
        """Follow changes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._config.poll_s:
                tasks.create_task(self._watch())
            if self._config.config_file and self._config.config_poll_s:
                tasks.create_task(self._poll_config())

    async def look(self) -> None:
        """Look at the repositories now. What is wrong with the settings is logged and changes nothing."""
        async with self._turn:
            try:
                declared, _ = await asyncio.to_thread(self._declared)
                self._plane.notices.over("settings")
            except DukouError as error:
                self._plane.notices.say("settings", f"what is served stays as it is: {error}")
                return
            seen = await asyncio.to_thread(self._see, declared)
            self._plane.declare(declared, seen)
            self._arriving = any(one.arriving for one in seen.values())
        self._plane.reconcile()

    async def look_until_still(self) -> None:
        """Look until no version is arriving, or for a while: whoever asks for one may just have put it there."""
        await self.look()
        for _ in range(_FIRST_LOOKS):
            if not self._arriving:
                break
            await asyncio.sleep(SOON_S)
            await self.look()

    async def reload_file(self, cause: Cause) -> None:
        """Read the config file again and serve what it says. Raises DukouError; then nothing has changed."""
        if not self._config.config_file:
            raise DukouError(Reason.NOT_SUPPORTED, detail="the server was started without a model config file")
        from dukou.app import model_config

        await self.reload(await asyncio.to_thread(model_config.read, self._config.config_file), cause)

    async def reload(self, message: Any, cause: Cause) -> None:
        """Serve what a ModelServerConfig says instead of what was declared before. Raises DukouError; then nothing has
        changed."""
        reconciler = self._plane.reconciler
        available = {name: reconciler.available(name) for name in reconciler.models}
        labels = {name: reconciler.now(name).labels for name in reconciler.models}
        from dukou.app import model_config

        declared = model_config.reloaded(message, self._config, available, labels)
        before = {name: _told(model.declared) for name, model in reconciler.models.items() if model.declared}
        after = {name: _told(one) for name, one in declared.items()}
        self._message = message
        for warning in model_config.warnings(message):
            _log.warning("%s", warning)
        await self.look_until_still()
        if before != after:
            self._plane.note("configure", "", cause, before, after)

    def _declared(self) -> tuple[Mapping[str, Declared], tuple[str, ...]]:
        """What should be served by the settings or the config file, and warnings. Reads folders."""
        if self._message is not None:
            from dukou.app import model_config

            found = model_config.declared(self._message, self._config)
            self._roots = tuple(Path(one.folder) for one in found.values())
            return found, ()
        declaration = declare(self._config, self._places)
        self._roots = declaration.roots
        return declaration.models, declaration.warnings

    def _see(self, declared: Mapping[str, Declared]) -> Mapping[str, Seen]:
        self._eye.keep(declared.keys())
        return {name: self._see_model(one) for name, one in declared.items()}

    def _see_model(self, declared: Declared) -> Seen:
        if not declared.folder:
            return self._eye.see_fixed(declared.name, {number: Path(at) for number, at in declared.fixed.items()})
        root = Path(declared.root) if declared.root else None
        model = self._plane.reconciler.models.get(declared.name)
        named = named_versions(model.overrides, model.rollout) if model is not None else set()

        def chosen(numbers: Iterable[int]) -> Collection[int]:
            there = set(numbers)
            return {*wanted(declared.policy, there - barred), *(named & there)}

        barred = set(model.overrides.barred) if model is not None else set()
        return self._eye.see(declared.name, Path(declared.folder), root=root, wanted=chosen)

    async def _watch(self) -> None:
        async with aclosing(changes(lambda: self._roots, self._config.poll_s, lambda: self._arriving)) as coming:
            async for _ in coming:
                await self.look()

    async def _poll_config(self) -> None:
        """Read the config file again and again; what is wrong with it is logged once and changes nothing."""
        from dukou.app import model_config

        last = self._message
        while True:
            await asyncio.sleep(self._config.config_poll_s)
            try:
                message = await asyncio.to_thread(model_config.read, self._config.config_file)
                if message != last:
                    await self.reload(message, Cause(POLICY, "the config file has changed"))
                    last = message
                self._plane.notices.over("config file")
            except DukouError as error:
                self._plane.notices.say("config file", f"what is served stays as it is: {error}")


def named_versions(overrides: Overrides, rollout: Rollout | None) -> set[int]:
    """The versions that verbs and a rollout under way speak of."""
    named = {*overrides.loaded}
    named |= {number for number in (overrides.serving, overrides.previous) if number is not None}
    if rollout is not None and rollout.status.under_way:
        named |= {rollout.primary, rollout.candidate}
    return named


def _told(declared: Declared) -> dict[str, Any]:
    return {"folder": declared.folder, "policy": str(declared.policy), "labels": dict(declared.labels)}
