"""`dukou serve`: the supervisor's process."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from dukou.app.passing import Packer
from dukou.app.program import SETTINGS, program
from dukou.app.ready import Ready
from dukou.app.state import state_folder
from dukou.config import Config, parse_listen
from dukou.control.process import WorkerSlot
from dukou.control.supervisor import Ending, Supervisor
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Applied
from dukou.core.version import State
from dukou.net.sockets import describe, open_slots, tls_context
from dukou.telemetry.counters import clear
from dukou.telemetry.log import Lines, configure, write_stderr


def serve(config: Config, report: Callable[[str], None], on_ready: Callable[[Ready], None]) -> int:
    """Serve until stopped; returns the exit code.

    Raises DukouError for what is wrong before anything is served: an address, a path, a file.
    """
    if config.server.tls_certificate:
        tls_context(config.server.tls_certificate, config.server.tls_key)
    for path in config.models.paths:
        if not Path(path).exists():
            from dukou.repository.local import classify

            classify(Path(path))  # raises with what might have been meant
    with state_folder(config.telemetry.state_dir) as state:
        clear(state)  # an earlier server's blocks stood for other versions
        (state / SETTINGS).write_bytes(msgspec.json.encode(config))
        with closing(Lines(write_stderr)) as lines:
            configure(config.telemetry, lines)
            ending = asyncio.run(_supervise(config, state, report, on_ready))
    if ending.message:
        raise DukouError(Reason.NOT_SERVING, detail=ending.message)
    return ending.exit_code


async def _supervise(
    config: Config, state: Path, report: Callable[[str], None], on_ready: Callable[[Ready], None]
) -> Ending:
    listens = [parse_listen(text) for text in config.server.listen]
    slots = open_slots(listens, config.server.workers, config.server.backlog)
    dialects = [dialect for _, dialect in slots[0]]
    scheme = "https" if config.server.tls_certificate else "http"
    urls = tuple(_url(scheme, describe(each)) for each, _ in slots[0])
    warnings: list[str] = []

    def command(slot: WorkerSlot) -> list[str]:
        listening = [f"{number},{dialect}" for number, dialect in zip(slot.listen_fds, dialects, strict=True)]
        return program("_worker", str(state), str(slot.index), str(slot.link_fd), *listening)

    said_so = False

    def applied_everywhere(applied: Applied) -> None:
        nonlocal said_so
        if said_so:
            return
        said_so = True
        for item in applied.reports:
            warnings.extend(item.warnings)
            if item.error:
                warnings.append(item.error)
        served = tuple(item.id for item in applied.reports if item.state is State.AVAILABLE)
        said = Ready(urls, tuple(dialects), served, tuple(dict.fromkeys(warnings)))
        # In a thread: it may ask the server it speaks of, and a worker that dies meanwhile is to be replaced at once.
        asyncio.get_running_loop().run_in_executor(None, on_ready, said)

    supervisor = Supervisor(config.server, [[each for each, _ in slot] for slot in slots], command, applied_everywhere)
    running = asyncio.create_task(supervisor.run())
    packer = Packer(config.models, report)
    try:
        # The workers import what they need while the plan is made.
        from dukou.app.plan import make_plan

        planning = asyncio.create_task(asyncio.to_thread(make_plan, config.models, packer.pack))
        await asyncio.wait((planning, running), return_when=asyncio.FIRST_COMPLETED)
        if planning.done():
            plan = planning.result()
            warnings.extend(plan.warnings)
            supervisor.apply(plan.assignments, labels=config.models.labels)
    except BaseException:
        supervisor.stop()
        await running
        raise
    finally:
        packer.stop()
    return await running


def _url(scheme: str, address: str) -> str:
    return address if address.startswith("unix:") else f"{scheme}://{address}"
