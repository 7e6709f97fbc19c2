"""A running admin API for tests: the real one, on a real socket, over a small control plane that lives in memory."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Thread

import msgspec

from dukou.control.admin import make_app, serve_admin
from dukou.control.operations import Audited, Cause, ModelStatus, Outcome, VersionStatus
from dukou.core.errors import DukouError, Reason
from dukou.core.version import State
from dukou.lifecycle.measured import Counts, Measured
from dukou.lifecycle.plan import parse
from dukou.lifecycle.rollout import Rollout, Status

TOKEN = "the-token-of-the-tests"
VERSION = "1.2.3"


class MemoryModel(msgspec.Struct):
    """One model: its versions, which answers, and what verbs have done to it."""

    name: str
    versions: list[int]
    serving: int
    previous: int | None = None
    barred: set[int] = set()
    loaded: set[int] = set()
    labels: dict[str, int] = {}
    unloaded: bool = False
    rollout: Rollout | None = None


class MemoryOperations:
    """Operations over models in memory: versions load at once, and nobody judges."""

    def __init__(self, *models: MemoryModel) -> None:
        self.models = {model.name: model for model in models}
        self.audit: list[Audited] = []
        self.outcomes_taken: list[Outcome] = []
        self.broken: Exception | None = None

    def status(self, model: str = "") -> Sequence[ModelStatus]:
        if self.broken:
            raise self.broken
        return [self._status(each) for each in ([self._model(model)] if model else self.models.values())]

    async def deploy(self, model: str, version: int | None, plan: str, manual: bool | None, by: Cause) -> ModelStatus:
        one = self._model(model)
        version = self._version(one, version)
        if one.rollout is not None and one.rollout.status.under_way:
            raise DukouError(
                Reason.PRECONDITION_FAILED, model=model, detail="a rollout is under way; `abort` it, or wait"
            )
        if plan:
            found = parse(plan)
            if manual is not None:
                found = msgspec.structs.replace(found, manual=manual)
            one.rollout = Rollout(len(self.audit) + 1, model, one.serving, version, found, plan, started_at=1000.0)
        else:
            one.previous, one.serving = one.serving, version
        return self._done(one, "deploy", by)

    async def rollback(self, model: str, by: Cause) -> ModelStatus:
        one = self._model(model)
        if one.previous is None:
            raise DukouError(Reason.PRECONDITION_FAILED, model=model, detail="there is no version to go back to")
        one.barred = one.barred | {one.serving}
        one.serving, one.previous = one.previous, None
        return self._done(one, "rollback", by)

    async def promote(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        one = self._model(model)
        if version is not None:
            version = self._version(one, version)
            one.barred = one.barred - {version}
            one.previous, one.serving = one.serving, version
            return self._done(one, "promote", by)
        rollout = self._under_way(one)
        if rollout.step + 1 < len(rollout.plan.steps):
            one.rollout = msgspec.structs.replace(rollout, step=rollout.step + 1)
        else:
            one.rollout = msgspec.structs.replace(rollout, status=Status.PROMOTED, reason="asked for", ended_at=2000.0)
            one.previous, one.serving = one.serving, rollout.candidate
        return self._done(one, "promote", by)

    async def pause(self, model: str, by: Cause) -> ModelStatus:
        return self._turn(model, Status.PAUSED, "pause", by)

    async def resume(self, model: str, by: Cause) -> ModelStatus:
        return self._turn(model, Status.RUNNING, "resume", by)

    async def abort(self, model: str, by: Cause) -> ModelStatus:
        return self._turn(model, Status.ABORTED, "abort", by)

    async def load(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        one = self._model(model)
        one.unloaded = False
        one.loaded = one.loaded | {self._version(one, version)}
        return self._done(one, "load", by)

    async def unload(self, model: str, version: int | None, by: Cause) -> ModelStatus:
        one = self._model(model)
        if version is None:
            one.unloaded = True
        elif version not in one.loaded:
            raise DukouError(Reason.PRECONDITION_FAILED, model=model, version=version, detail="the policy wants it")
        one.loaded = one.loaded - {version}
        return self._done(one, "unload", by)

    async def label(self, model: str, label: str, version: int | None, by: Cause) -> ModelStatus:
        one = self._model(model)
        if version is None:
            one.labels = {name: number for name, number in one.labels.items() if name != label}
        else:
            one.labels = {**one.labels, label: self._version(one, version)}
        return self._done(one, "label", by)

    def rollout(self, model: str) -> Rollout:
        rollout = self._model(model).rollout
        if rollout is None:
            raise DukouError(Reason.PRECONDITION_FAILED, model=model, detail="there has been no rollout")
        return rollout

    def history(self, model: str, limit: int) -> Sequence[Audited]:
        if model:
            self._model(model)
        return [each for each in reversed(self.audit) if model in ("", each.model)][:limit]

    async def outcomes(self, model: str, outcomes: Sequence[Outcome], by: Cause) -> int:
        self._under_way(self._model(model))
        self.outcomes_taken += outcomes
        return sum(each.count for each in outcomes)

    def measure(self, model: str, answered: int) -> None:
        """The candidate has answered so many calls."""
        one = self._model(model)
        assert one.rollout is not None
        one.rollout = msgspec.structs.replace(one.rollout, measured=Measured(candidate=Counts(answered=answered)))

    def end(self, model: str, status: Status, reason: str) -> None:
        """The rollout ends, as a judge would have it."""
        one = self._model(model)
        one.rollout = msgspec.structs.replace(self._under_way(one), status=status, reason=reason, ended_at=2000.0)

    def _model(self, name: str) -> MemoryModel:
        if name not in self.models:
            raise DukouError(Reason.MODEL_NOT_FOUND, model=name, served=", ".join(self.models))
        return self.models[name]

    def _version(self, one: MemoryModel, version: int | None) -> int:
        if version is None:
            return max(one.versions)
        if version not in one.versions:
            raise DukouError(Reason.VERSION_NOT_FOUND, model=one.name, version=version, served=one.versions)
        return version

    def _under_way(self, one: MemoryModel) -> Rollout:
        if one.rollout is None or not one.rollout.status.under_way:
            raise DukouError(Reason.PRECONDITION_FAILED, model=one.name, detail="no rollout is under way")
        return one.rollout

    def _turn(self, model: str, status: Status, verb: str, by: Cause) -> ModelStatus:
        one = self._model(model)
        one.rollout = msgspec.structs.replace(self._under_way(one), status=status)
        return self._done(one, verb, by)

    def _done(self, one: MemoryModel, verb: str, by: Cause) -> ModelStatus:
        number = len(self.audit) + 1
        self.audit.append(Audited(1000.0 + number, by, verb, one.name, after={"serving": one.serving}, id=number))
        return self._status(one)

    def _status(self, one: MemoryModel) -> ModelStatus:
        trial = one.rollout if one.rollout is not None and one.rollout.status.under_way else None
        step = trial.plan.steps[trial.step] if trial else None
        shares = {one.serving: 1.0 - (step.share if step else 0.0)}
        if trial and step:
            shares[trial.candidate] = step.share
        there = {one.serving, one.previous, *one.loaded} | ({trial.candidate} if trial else set())
        versions = tuple(
            VersionStatus(
                version,
                State.AVAILABLE if version in there and not one.unloaded else State.END,
                share=shares.get(version, 0.0),
                shadow=step.shadow if trial and step and version == trial.candidate else 0.0,
                labels=tuple(label for label, number in one.labels.items() if number == version),
                barred=version in one.barred,
            )
            for version in sorted(one.versions, reverse=True)
        )
        return ModelStatus(one.name, one.serving, one.previous, "latest:1", versions, one.rollout, one.unloaded)


class AdminServer:
    """The address of a running admin API and what is behind it; `stop` ends it early."""

    def __init__(self, operations: MemoryOperations, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        self.operations = operations
        self.address = ""
        self._loop = loop
        self._task = task

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)


@contextmanager
def admin_server(operations: MemoryOperations) -> Iterator[AdminServer]:
    """Serves in a loop of its own, in a thread, on a port of the system's choice."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve_admin(make_app(operations, TOKEN, VERSION, ["admin.test"]), listening))

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = Thread(target=run)
    thread.start()
    server = AdminServer(operations, loop, task)
    server.address = f"127.0.0.1:{port}"
    try:
        yield server
    finally:
        with suppress(RuntimeError):  # it has been stopped
            server.stop()
        thread.join(timeout=20)
