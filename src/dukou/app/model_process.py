"""A model process: `dukou _model STATE LINK_FD ADDRESS`, started by the supervisor.

It holds one version, alone: a model that is slow, keeps the interpreter or crashes takes nothing from anybody else.
Workers connect to ADDRESS with calls, which are answered, and with copies of what the primary answered, which are asked
again here and compared. One thread for each connection waits for its own socket: what the model cannot keep up with is
not read, and workers drop it.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import msgspec
import uvloop

from dukou.app.answering import Answering
from dukou.app.opening import Opened, open_version
from dukou.app.program import SETTINGS
from dukou.config import Config
from dukou.control.channel import Channel
from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.frame import PREFIX_BYTES, Call, Dropped, body_size, decode
from dukou.core.link import Applied, Apply, Assignment, CompareBy, Compared, Drain, LoadReport, Ping, Pong
from dukou.core.message import Copy
from dukou.core.version import State
from dukou.engine.router import Engine
from dukou.telemetry.log import Lines, configure, write_stderr

_MOST_CONNECTIONS = 512
_TOLD_EVERY_S = 1.0
_LOOKED_EVERY_S = 0.05
_FAREWELL_S = 1.0

_log = logging.getLogger("dukou")


def model_process(argv: Sequence[str]) -> int:
    """Answer until the supervisor has gone; does not return."""
    state, link_fd, address = argv
    config = msgspec.json.decode((Path(state) / SETTINGS).read_bytes(), type=Config)
    with closing(Lines(write_stderr)) as lines:
        configure(config.telemetry, lines)
        uvloop.run(_serve(config, socket.socket(fileno=int(link_fd)), address))
    os._exit(0)  # a thread that hangs in a model would otherwise keep the process


async def _serve(config: Config, link: socket.socket, address: str) -> None:
    for ignored in (signal.SIGINT, signal.SIGHUP):  # the supervisor's to act upon
        signal.signal(ignored, signal.SIG_IGN)
    process = _Process(config, await Channel.open(link), address)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, process.stop, config.server.grace_s)
    await process.run()


class _Process:
    """The supervisor's side: loads what it is told to, says what came of it, and what the copies have shown."""

    def __init__(self, config: Config, channel: Channel, address: str) -> None:
        self._config = config
        self._channel = channel
        self._address = address
        self._compare_by = CompareBy()
        self._answering: Answering | None = None
        self._door: Door | None = None
        self._loading: asyncio.Task[None] | None = None
        self._grace_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def stop(self, grace_s: float) -> None:
        """Let nobody in, give what is under way so much time, then end."""
        if not self._grace_s.done():
            self._grace_s.set_result(grace_s)

    async def run(self) -> None:
        obeying = asyncio.create_task(self._obey())
        telling = asyncio.create_task(self._tell())
        until_s = await self._grace_s + monotonic()
        if self._door is not None:
            self._door.close()
            while self._door.callers and monotonic() < until_s:
                await asyncio.sleep(_LOOKED_EVERY_S)
        for task in (obeying, telling, self._loading):
            if task is not None:
                task.cancel()
        self._tell_compared()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._channel.close()

    async def _obey(self) -> None:
        try:
            async for message in self._channel:
                match message:
                    case Apply() if self._loading is None:
                        self._loading = asyncio.create_task(self._load(message))
                    case CompareBy():
                        self._compare_by = message
                        if self._answering is not None:
                            self._answering.compare_by = message
                    case Ping():
                        self._channel.send(Pong())
                    case Drain():
                        self.stop(message.grace_s)
                    case _:
                        pass  # what only workers hear
        finally:
            # The supervisor has gone; its workers go on for a while, and have calls to be answered here.
            self.stop(self._config.server.grace_s)

    async def _load(self, apply: Apply) -> None:
        (assignment,) = apply.assignments
        begun_s = monotonic()
        self._report(apply, LoadReport(assignment.id, State.LOADING, attempt=assignment.attempt))
        try:
            opened = await self._open(assignment)
            self._answering = Answering(opened.manifest, opened.model, self._compare_by)
            self._door = Door(self._address, self._answering)
        except (Exception, SystemExit) as error:  # a model may not end its process without a word
            known = error if isinstance(error, DukouError) else DukouError(Reason.INTERNAL)
            known = known.within(model=assignment.id.name, version=assignment.id.version)
            if not isinstance(error, DukouError):
                _log.error("%s", known, exc_info=error)
            self._report(apply, LoadReport(assignment.id, State.END, str(known), attempt=assignment.attempt))
            return
        report = LoadReport(
            assignment.id,
            State.AVAILABLE,
            warnings=opened.warnings,
            load_s=monotonic() - begun_s,
            attempt=assignment.attempt,
            signatures=opened.manifest.signatures,
        )
        self._report(apply, report)

    async def _open(self, assignment: Assignment) -> Opened:
        """The version, loaded and warm. Raises DukouError, and whatever a model's own code raises."""
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(1, thread_name_prefix="dukou")
        opened = await loop.run_in_executor(pool, open_version, assignment, self._config.models)
        await Engine(self._config.engine, loop, monotonic, (), pool).stage_for(opened.manifest, opened.model).warm()
        pool.shutdown(wait=False)
        return opened

    def _report(self, apply: Apply, report: LoadReport) -> None:
        self._channel.send(Applied(apply.generation, (report,)))

    async def _tell(self) -> None:
        """Once a second, what the copies have shown."""
        while True:
            await asyncio.sleep(_TOLD_EVERY_S)
            self._tell_compared()

    def _tell_compared(self) -> None:
        if self._answering is not None and (comparison := self._answering.taken()) is not None:
            self._channel.send(Compared(self._answering.version, comparison))


class Door:
    """The socket that workers connect to, for the owner of this process alone. Raises DukouError NOT_WRITABLE where it
    cannot be made: the path of a Unix socket has at most 107 bytes."""

    def __init__(self, address: str, answering: Answering) -> None:
        self.callers: set[socket.socket] = set()
        self._address = address
        self._answering = answering
        self._open: set[socket.socket] = set()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                os.unlink(address)  # of the process before
            self._listening.bind(address)
            os.chmod(address, 0o600)
            self._inode = os.stat(address).st_ino
            self._listening.listen()
        except OSError as error:
            self._listening.close()
            raise DukouError(Reason.NOT_WRITABLE, path=address, detail=error.strerror or str(error)) from error
        Thread(target=self._accept, name="dukou-door", daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # which wakes up who waits in accept
        self._listening.close()
        with suppress(OSError):
            if os.stat(self._address).st_ino == self._inode:  # else a successor of this process has taken the place
                os.unlink(self._address)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            if len(self._open) >= _MOST_CONNECTIONS:
                connection.close()
                continue
            self._open.add(connection)
            Thread(target=self._attend, args=(connection,), name="dukou-connection", daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        """One connection, until the worker closes it or sends what is no frame."""
        try:
            self._converse(connection)
        except OSError:
            pass
        except DukouError as error:
            _log.error("a worker sent what cannot be read: %s", error)
        finally:
            self.callers.discard(connection)
            self._open.discard(connection)
            connection.close()

    def _converse(self, connection: socket.socket) -> None:
        while True:
            prefix = _receive(connection, PREFIX_BYTES)
            if prefix is None:
                return
            body = _receive(connection, body_size(prefix))
            if body is None:
                return
            match decode(body):
                case Call() as call:
                    self.callers.add(connection)
                    for part in self._answering.answer(call):
                        connection.sendall(part)
                case Copy() as copy:
                    self._answering.take(copy)
                case Dropped(copies):
                    self._answering.drop(copies)
                case other:
                    _log.error("a worker sent a %s", type(other).__name__)
                    return


def _receive(connection: socket.socket, size: int) -> memoryview | None:
    """Exactly `size` bytes; None where the other end has closed before. Raises OSError."""
    received = memoryview(bytearray(size))
    start = 0
    while start < size:
        count = connection.recv_into(received[start:])
        if not count:
            return None
        start += count
    return received
