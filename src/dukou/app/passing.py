"""Bare model files are packed in passing, in a child process that exits: conversion is heavy, and needs frameworks that
a server should not carry.

The child writes one JSON object a line into a pipe of its own: `{"step": ...}` as it goes, then `{"folder": ...}` or
`{"error": ...}`. What the model's code prints goes to standard error.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from dukou.app.program import program
from dukou.config import ModelsConfig, user_cache_dir
from dukou.control.process import ended_how, interrupt_blocked
from dukou.core.errors import DukouError, Reason

_STANDARD_ERROR = 2


class Packer:
    """Packs model files, one at a time; `report` gets each step. `stop`, from another thread, ends it for good."""

    def __init__(self, config: ModelsConfig, report: Callable[[str], None]) -> None:
        self._trust_pickle = config.trust_pickle
        self._cache_dir = Path(config.cache_dir) if config.cache_dir else user_cache_dir()
        self._report = report
        self._lock = Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def pack(self, path: Path, name: str) -> Path:
        """The folder of `path` as a packed version, from the cache or made now. Raises DukouError NOT_PACKED."""
        last: dict[str, str] = {}
        reading, writing = os.pipe()
        with os.fdopen(reading) as lines:
            try:
                child = self._start(path, name, writing)
            finally:
                os.close(writing)
            try:
                for line in lines:
                    last = json.loads(line)
                    if "step" in last:
                        self._report(last["step"])
            except BaseException:
                child.kill()
                raise
            finally:
                child.wait()
        if "folder" in last:
            return Path(last["folder"])
        silent = f"{path}: the process that packs it {ended_how(child.returncode)}"
        raise DukouError(Reason.NOT_PACKED, path=str(path), detail=last.get("error", silent))

    def stop(self) -> None:
        """End the child, if there is one, and start no more."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def _start(self, path: Path, name: str, writing: int) -> "subprocess.Popen[bytes]":
        words = ("_pack", str(writing), str(path), name, str(self._cache_dir), str(int(self._trust_pickle)))
        with self._lock, interrupt_blocked():
            if self._stopped:
                raise DukouError(Reason.NOT_PACKED, path=str(path), detail=f"{path}: packing was stopped")
            self._child = subprocess.Popen(
                program(*words), stdin=subprocess.DEVNULL, stdout=_STANDARD_ERROR, pass_fds=(writing,)
            )
            return self._child


def pack_file(argv: Sequence[str]) -> int:
    """The child: `dukou _pack PIPE_FD FILE NAME CACHE TRUST`; returns the exit code."""
    from dukou.packing.cache import pack_in_passing

    pipe, source, name, cache_dir, trust = argv
    with os.fdopen(int(pipe), "w", buffering=1) as told:

        def tell(**words: str) -> None:
            told.write(json.dumps(words) + "\n")

        try:
            folder = pack_in_passing(
                Path(source),
                name=name,
                cache_dir=Path(cache_dir),
                trust_pickle=trust == "1",
                report=lambda step: tell(step=step),
            )
        except DukouError as error:
            tell(error=str(error))
            return 1
        tell(folder=str(folder))
        return 0
