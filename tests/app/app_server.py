"""A real `dukou serve` for tests: a process tree on a free port, its log, its end."""

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil
import requests

LIMIT_S = 60.0

_OF_TESTS = {
    "DUKOU_ADMIN__LISTEN": "",
    "XDG_STATE_HOME": tempfile.mkdtemp(prefix="dukou-tests-state-"),
}
"""Tests that want the admin API say where; none finds what another server has kept."""


class Server:
    """A running server; a context manager that stops it and checks that it exits 0."""

    def __init__(self, *words: str | Path, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dukou", "serve", *map(str, words)],
            env=os.environ | _OF_TESTS | (environment or {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        address = self.await_line(r"https?://\S+|unix:\S+")
        self.url = address
        self.session = requests.Session()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def await_line(self, pattern: str) -> str:
        """The first match of `pattern` in the lines that the server writes from now on."""
        while (line := self._lines.get(timeout=LIMIT_S)) is not None:
            self.log.append(line)
            if match := re.search(pattern, line):
                return match.group()
        raise AssertionError(f"the server ended:\n{''.join(self.log)}")

    def post(self, path: str, body: bytes | str, **headers: str) -> requests.Response:
        return self.session.post(self.url + path, data=body, headers=headers, timeout=LIMIT_S)

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, timeout=LIMIT_S)

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        children = psutil.Process(self.process.pid).children()
        return [child.pid for child in children if "_worker" in child.cmdline()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.session.close()
        self.process.send_signal(number)
        code = self.process.wait(LIMIT_S)
        while (line := self._lines.get(timeout=LIMIT_S)) is not None:
            self.log.append(line)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exit_: object) -> None:
        if self.process.poll() is None:
            code = self.stop()
            assert code == 0, "".join(self.log)


def run(*words: str | Path, environment: Sequence[tuple[str, str]] = ()) -> "subprocess.CompletedProcess[str]":
    """A `dukou` command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "dukou", *map(str, words)],
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
