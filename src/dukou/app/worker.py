"""A worker's process: `dukou _worker STATE SLOT LINK_FD LISTEN_FD,DIALECT...`, started by the supervisor."""

import logging
import resource
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import uvloop

from dukou.app.host import Host
from dukou.app.program import SETTINGS
from dukou.app.release import keep_one_heap
from dukou.config import Config
from dukou.control.asking import Asking
from dukou.control.worker import run_worker
from dukou.telemetry.log import AccessLog, Lines, configure, write_stderr

_OTHER_FILES = 128
"""Beside connections: listening sockets, model files, libraries."""

_log = logging.getLogger("dukou")


def worker(argv: Sequence[str]) -> int:
    """Serve until the supervisor says otherwise; returns the exit code."""
    keep_one_heap()
    state, slot, link_fd, *listeners = argv
    config = msgspec.json.decode((Path(state) / SETTINGS).read_bytes(), type=Config)
    with closing(Lines(write_stderr)) as lines:
        configure(config.telemetry, lines)
        allow_open_files(config.http.max_connections + _OTHER_FILES)
        link = socket.socket(fileno=int(link_fd))
        descriptors, dialects = zip(*(listener.split(",") for listener in listeners), strict=True)
        listening = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
        observers = (AccessLog(lines),) if config.telemetry.access_log else ()

        async def work() -> None:
            asking = Asking()
            host = Host(config, Path(state), int(slot), observers, dialects, control=asking)
            try:
                await run_worker(link, listening, host, config.server.grace_s, asking)
            finally:
                host.close()

        uvloop.run(work())
    return 0


def allow_open_files(wanted: int) -> None:
    """Let this process have `wanted` open files, or as many as the system allows, with a warning."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # the kernel's own bound may be lower
        allowed = soft
    if allowed < wanted:
        _log.warning(
            "the system allows this process %d open files, http.max_connections needs %d: "
            "beyond that connections are closed at once; `ulimit -n` raises it",
            allowed,
            wanted,
        )
