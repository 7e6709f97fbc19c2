"""The control plane put together: store, reconciler, judge, model processes, repository, admin API.

Imported after the workers are started, while they import what they need.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Coroutine, Mapping
from pathlib import Path
from socket import socket
from typing import Any, ParamSpec

from dukou.app.blocks import Blocks
from dukou.app.control_plane import ControlPlane
from dukou.app.declare import Place
from dukou.app.following import Following
from dukou.app.judging import Judging
from dukou.app.measuring import Counted
from dukou.app.operating import Operating
from dukou.app.program import program
from dukou.app.state import PREFIX
from dukou.config import AdminConfig, Config, parse_address, token_file
from dukou.control.replicas import Replica, Replicas
from dukou.control.store import Store
from dukou.control.token import read_or_make
from dukou.core.clock import monotonic, wall
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Applied, Apply, Assignment
from dukou.core.verb import Verb
from dukou.core.version import ModelVersion, State
from dukou.lifecycle.reconciler import Reconciler
from dukou.lifecycle.retry import Failures
from dukou.net.sockets import bind, describe

STORE = "store.db"

_BEAT_S = 0.5
"""How often rollouts are judged and failed versions tried again."""

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

_LONGEST_FOLDER = 80
"""In bytes; the path of a Unix socket has 107 at most, 103 on macOS."""

_log = logging.getLogger("dukou.control")

_What = ParamSpec("_What")


class Controlling:
    """The control plane of one server. `publish` tells the workers a table and returns its generation.

    `begin` first; `run` once the workers answer calls.
    """

    def __init__(self, config: Config, state: Path, places: tuple[Place, ...], publish: Callable[[Apply], int]) -> None:
        self._config = config
        self._state = state
        models, load_timeout_s = config.models, config.server.load_timeout_s
        self._publish = publish
        long = len(os.fsencode(state.absolute())) > _LONGEST_FOLDER
        self._short = tempfile.mkdtemp(prefix=PREFIX) if long else ""
        self._sockets = Path(self._short or state.absolute())
        self._listening: socket | None = None
        self._token = ""
        self._blocks = Blocks()
        self._store = Store.open(state / STORE)
        failures = Failures(models.load_retries, models.load_retry_s)
        self._reconciler = Reconciler(self._blocks.of, self._address, failures)
        self._plane = ControlPlane(
            self._reconciler, self._store, self._tell, self._run_processes, clock=monotonic, wall_clock=wall
        )
        self._replicas = Replicas(
            lambda link_fd, address: program("_model", str(state), str(link_fd), address),
            _surviving(self._plane.shadow_heard),
            _surviving(self._plane.compared),
            load_timeout_s=load_timeout_s,
        )
        self._following = Following(self._plane, models, places)
        self._operating = Operating(
            self._plane, self._following, models, load_timeout_s=load_timeout_s, wall_clock=wall
        )
        self._judging = Judging(self._plane, Counted(state), self._blocks.of, clock=monotonic)
        self.heard: Callable[[Applied], None] = _surviving(self._plane.heard)
        self.freed: Callable[[int], None] = _surviving(self._plane.freed)

    async def begin(self) -> tuple[str, ...]:
        """Publish the first table; returns warnings. Raises DukouError for what cannot be served."""
        self._listening = self._listen()
        if self._listening is not None:
            self._token = read_or_make(token_file(self._config.admin))
        if self._store.problem:
            _log.error("%s", self._store.problem)
        warnings = await self._following.begin()
        self._reconciler.resume(self._store.published())
        self._plane.reconcile()
        self._check_start(warnings)
        return warnings

    def _check_start(self, warnings: tuple[str, ...]) -> None:
        """That there is something to serve, or that nobody wants anything served. Raises DukouError CONFIG_INVALID."""
        models = self._reconciler.models
        loading = {one.id for one in self._reconciler.table.assignments if one.wanted is State.AVAILABLE}
        for name, model in models.items():
            if model.declared is not None and model.overrides.labels is None and not self._config.models.labels_ahead:
                _check_labels(name, model.declared.labels, loading)
        if loading or any(model.overrides.unloaded for model in models.values()):
            return
        problems = [model.problem for model in models.values() if model.problem]
        whys = [
            f"model {name!r}, version {number}: {why}"
            for name in models
            for number, why in self._plane.whys(name).items()
        ]
        detail = "; ".join((*problems, *whys, *warnings)) or "no version fits the policy"
        raise DukouError(Reason.CONFIG_INVALID, detail=f"there is nothing to serve: {detail}")

    async def run(self) -> None:
        """Follow, judge and take verbs until cancelled."""
        keeping = asyncio.create_task(self._replicas.run())
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._following.run, self._beat, self._admin):
                    tasks.create_task(_again(work))
        finally:
            self._replicas.stop()
            await keeping

    async def asked(self, verb: Verb, who: str) -> None:
        """Do what a caller of a worker asks for, where the settings allow it. Raises DukouError."""
        await self._operating.do(verb, who)

    def close(self) -> None:
        """Close the store and the admin API's socket."""
        if self._listening is not None:
            self._listening.close()
        self._store.close()
        if self._short:
            shutil.rmtree(self._short, ignore_errors=True)

    def _tell(self, table: Apply) -> int:
        self._blocks.keep({one.id for one in table.assignments})
        return self._publish(table)

    def _run_processes(self, wanted: Mapping[ModelVersion, Assignment]) -> None:
        replicas = {}
        for version, assignment in wanted.items():
            rollout = self._reconciler.models[version.name].rollout
            assert rollout is not None, "shadows belong to rollouts"
            replicas[version] = Replica(assignment, rollout.plan.slice_by, rollout.plan.tolerance)
        self._replicas.apply(replicas)

    def _address(self, version: ModelVersion) -> str:
        """The socket of a version's model process; its path has to be short, and names may be long."""
        name = hashlib.sha256(f"{version.name}/{version.version}".encode()).hexdigest()[:16]
        return str(self._sockets / f"{name}.sock")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            self._judging.tick()
            self._plane.reconcile()

    async def _admin(self) -> None:
        """The admin API."""
        if self._listening is None:
            return
        host, _ = parse_address(self._config.admin.listen)
        app = await asyncio.to_thread(_make_admin, self._operating, self._token, host)
        from dukou.control.admin import serve_admin

        _log.debug("admin API at http://%s", describe(self._listening))
        await serve_admin(app, self._listening)

    def _listen(self) -> socket | None:
        """Where the admin API is to listen; None where it is not wanted or the default port is taken. Raises DukouError
        for another address that is."""
        listen = self._config.admin.listen
        if not listen:
            return None
        try:
            return bind([listen])[0]
        except DukouError as error:
            if listen != AdminConfig().listen:
                raise
            _log.warning(
                "without an admin API, so that `dukou status` and the like cannot reach this server: %s; "
                "--set admin.listen=127.0.0.1:PORT takes another port, and --admin 127.0.0.1:PORT then asks there",
                error,
            )
            return None


def _check_labels(name: str, labels: Mapping[str, int], served: Collection[ModelVersion]) -> None:
    for label, number in sorted(labels.items()):
        if ModelVersion(name, number) not in served:
            numbers = sorted(version.version for version in served if version.name == name)
            known = ", ".join(map(str, numbers)) or "none of this name"
            detail = f"models.labels.{name}.{label} is {number!r}, which is not served; served are: {known}"
            raise DukouError(Reason.CONFIG_INVALID, detail=detail)


def _surviving(hear: Callable[_What, None]) -> Callable[_What, None]:
    """`hear` for those who keep processes, and must not end of it: what goes wrong is logged, and what follows from
    what was heard is decided again at the next beat."""

    def heard(*what: _What.args, **named: _What.kwargs) -> None:
        try:
            hear(*what, **named)
        except Exception:
            _log.exception("the control plane failed; what is served stays as it is")

    return heard


async def _again(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do `work` until it returns; should it fail, say so and begin again in a while: serving goes on meanwhile."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await work()
        except Exception:
            _log.exception("a part of the control plane failed and is started again in %g s", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _make_admin(operating: Operating, token: str, host: str) -> Any:
    """In a thread: importing what the admin API needs takes long."""
    from dukou import __version__
    from dukou.control.admin import make_app

    return make_app(operating, token, __version__, [host])
