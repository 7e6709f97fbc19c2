"""`dukou serve`: the supervisor's process, which also is the control plane."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import msgspec

from dukou.app.passing import Packer
from dukou.app.program import SETTINGS, program
from dukou.app.ready import Ready
from dukou.app.state import state_dir, state_folder
from dukou.config import Config, parse_listen
from dukou.control.process import WorkerSlot
from dukou.control.supervisor import Ending, Supervisor
from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Applied, Apply, LoadReport
from dukou.core.verb import Verb
from dukou.core.version import State
from dukou.net.sockets import Listener, describe, is_in_use, open_slots, tls_context
from dukou.telemetry.counters import clear
from dukou.telemetry.log import Lines, configure, write_stderr

_PREDECESSOR_S = 15.0
"""So long the workers of a server that was killed may hold its addresses."""

_AGAIN_S = 0.05

_log = logging.getLogger("dukou")


def serve(config: Config, report: Callable[[str], None], on_ready: Callable[[Ready], None]) -> int:
    """Serve until stopped; returns the exit code.

    Raises DukouError for what is wrong before anything is served: an address, a path, a file, the store.
    """
    if config.server.tls_certificate:
        tls_context(config.server.tls_certificate, config.server.tls_key)
    for path in config.models.paths:
        if not Path(path).exists():
            from dukou.repository.local import classify

            classify(Path(path))  # raises with what might have been meant
    with state_folder(state_dir(config)) as state, closing(Lines(write_stderr)) as lines:
        configure(config.telemetry, lines)
        with _settings_in(state, config) as killed:
            ending = asyncio.run(_Serving(config, state, report, on_ready, patient=killed).run())
    if ending.message:
        raise DukouError(Reason.NOT_SERVING, detail=ending.message)
    return ending.exit_code


@contextmanager
def _settings_in(state: Path, config: Config) -> Iterator[bool]:
    """The settings for the workers, as long as there are any; yields whether the server before could not remove its
    own, having been killed. Raises DukouError NOT_WRITABLE."""
    path = state / SETTINGS
    killed = path.exists()
    try:
        clear(state)  # an earlier server's blocks stood for other versions
        path.write_bytes(msgspec.json.encode(config))
    except OSError as error:
        raise DukouError(Reason.NOT_WRITABLE, path=str(path), detail=error.strerror or str(error)) from error
    try:
        yield killed
    finally:
        with suppress(OSError):
            path.unlink()


class ControlSide(Protocol):
    """What the workers speak to; it is imported when they are started."""

    def heard(self, applied: Applied) -> None:
        """They answer to a table."""

    def freed(self, generation: int) -> None:
        """They have let go of what tables before this one had."""

    async def asked(self, verb: Verb, who: str) -> None:
        """A caller of theirs asks for this."""


class _Serving:
    """One server, from its sockets to its end. A `patient` one waits a while for addresses that are in use."""

    def __init__(
        self,
        config: Config,
        state: Path,
        report: Callable[[str], None],
        on_ready: Callable[[Ready], None],
        *,
        patient: bool,
    ) -> None:
        self._config = config
        self._state = state
        self._patience_s = _PREDECESSOR_S if patient else 0.0
        self._report = report
        self._on_ready = on_ready
        self._warnings: list[str] = []
        self._ready = asyncio.Event()
        self._urls: tuple[str, ...] = ()
        self._dialects: tuple[str, ...] = ()
        self._controlling: ControlSide | None = None

    async def run(self) -> Ending:
        """Until told to stop, or until nothing can be served."""
        server = self._config.server
        slots = await self._open_slots()
        scheme = "https" if server.tls_certificate else "http"
        self._dialects = tuple(dialect for _, dialect in slots[0])
        self._urls = tuple(_url(scheme, describe(each)) for each, _ in slots[0])
        supervisor = Supervisor(
            server,
            [[each for each, _ in slot] for slot in slots],
            self._worker,
            self._heard,
            on_freed=self._freed,
            on_ask=self._asked,
        )
        running = asyncio.create_task(supervisor.run())
        packer = Packer(self._config.models, self._report)
        # The workers import what they need while this process makes up its mind.
        controlling = asyncio.create_task(self._control(supervisor, packer))
        try:
            await asyncio.wait((controlling, running), return_when=asyncio.FIRST_COMPLETED)
            if controlling.done():
                controlling.result()
        finally:
            if not running.done():
                supervisor.stop()
            packer.stop()
            ending = await running
            controlling.cancel()
            with suppress(asyncio.CancelledError, DukouError):
                await controlling
        return ending

    async def _control(self, supervisor: Supervisor, packer: Packer) -> None:
        """The control plane, until cancelled. Raises DukouError for what cannot be served."""
        from dukou.app.controlling import Controlling
        from dukou.app.declare import places as places_of

        places = await asyncio.to_thread(places_of, self._config.models, packer.pack)

        def publish(table: Apply) -> int:
            return supervisor.apply(table.assignments, table.routes, table.labels)

        with closing(Controlling(self._config, self._state, places, publish)) as controlling:
            self._controlling = controlling
            self._warnings += await controlling.begin()
            await self._ready.wait()
            await controlling.run()

    async def _open_slots(self) -> list[list[Listener]]:
        """The sockets of each worker. Workers of a server that was killed go when they notice, which may be only after
        what they are at."""
        server = self._config.server
        listens = [parse_listen(text) for text in server.listen]
        give_up_s, said = monotonic() + self._patience_s, False
        while True:
            try:
                return open_slots(listens, server.workers, server.backlog)
            except DukouError as error:
                if not is_in_use(error) or monotonic() >= give_up_s:
                    raise
                if not said:
                    said = True
                    _log.warning("%s; its workers may be finishing what they have: waiting", error)
            await asyncio.sleep(_AGAIN_S)

    def _worker(self, slot: WorkerSlot) -> list[str]:
        listening = [f"{number},{dialect}" for number, dialect in zip(slot.listen_fds, self._dialects, strict=True)]
        return program("_worker", str(self._state), str(slot.index), str(slot.link_fd), *listening)

    def _heard(self, applied: Applied) -> None:
        assert self._controlling is not None, "it has published what the workers answer"
        if not self._ready.is_set():
            self._ready.set()
            self._announce(applied)
        self._controlling.heard(applied)

    def _freed(self, generation: int) -> None:
        if self._controlling is not None:
            self._controlling.freed(generation)

    async def _asked(self, verb: Verb, who: str) -> None:
        if self._controlling is None:
            raise DukouError(Reason.NOT_SERVING, detail="the server has only begun to start")
        await self._controlling.asked(verb, who)

    def _announce(self, applied: Applied) -> None:
        for item in applied.reports:
            self._warnings.extend(item.warnings)
            if item.error:
                self._warnings.append(_named(item))
        served = tuple(item.id for item in applied.reports if item.state is State.AVAILABLE)
        said = Ready(self._urls, self._dialects, served, tuple(dict.fromkeys(self._warnings)))
        # In a thread: it may ask the server it speaks of, and a worker that dies meanwhile is to be replaced at once.
        asyncio.get_running_loop().run_in_executor(None, self._on_ready, said)


def _named(report: LoadReport) -> str:
    """Why a version does not serve, with its name: what was decided here does not say it, errors do."""
    where = f"model {report.id.name!r}, version {report.id.version}: "
    return where + report.error.removeprefix(where)


def _url(scheme: str, address: str) -> str:
    return address if address.startswith("unix:") else f"{scheme}://{address}"
