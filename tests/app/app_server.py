"""A real `dukou serve` for tests: a process tree on a free port, its log, its end."""

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    """A running server; a context manager that stops it and checks that it exits 0. `on_line` is told each line of its
    log, in another thread; `prefix` is a program that runs the command."""

    def __init__(
        self,
        *words: str | Path,
        environment: dict[str, str] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._on_line = on_line
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "dukou", "serve", *map(str, words)],
            env=os.environ | _OF_TESTS | (environment or {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.session = requests.Session()
        try:
            self.url = self.await_line(r"https?://\S+|unix:\S+")
        except BaseException:
            if self.process.poll() is None:
                self.kill_all()
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:  # which workers have too: they may outlive a supervisor that is killed
            for line in lines:
                self._lines.put(line)
                self._on_line(line)
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
        return self._children("_worker")

    def model_processes(self) -> list[int]:
        """The process ids of the model processes."""
        return self._children("_model")

    def _children(self, word: str) -> list[int]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if word in child.cmdline():
                    found.append(child.pid)
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.session.close()
        self.process.send_signal(number)
        code = self.process.wait(LIMIT_S)
        while (line := self._lines.get(timeout=LIMIT_S)) is not None:
            self.log.append(line)
        return code

    def tree(self) -> list[psutil.Process]:
        """All processes, the supervisor first."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def kill(self) -> None:
        """SIGKILL to the supervisor alone; returns when it has ended, while its workers may still be there."""
        self.session.close()
        self.process.kill()
        self.process.wait(LIMIT_S)

    def kill_all(self) -> None:
        """SIGKILL to all processes, as if the machine had stopped; returns when they have ended."""
        self.session.close()
        tree = self.tree()
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(LIMIT_S)
        psutil.wait_procs(tree, LIMIT_S)

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
