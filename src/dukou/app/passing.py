"""Bare model files are packed in passing, in a child process that exits: conversion is heavy, and needs frameworks that
a server should not carry.

The child writes one JSON object a line on standard output: `{"step": ...}` as it goes, then `{"folder": ...}` or
`{"error": ...}`.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dukou.config import ModelsConfig, user_cache_dir
from dukou.core.errors import DukouError, Reason


def packed_in_passing(path: Path, name: str, config: ModelsConfig, report: Callable[[str], None]) -> Path:
    """The folder of `path` as a packed version, from the cache or made now. Raises DukouError NOT_PACKED."""
    cache_dir = Path(config.cache_dir) if config.cache_dir else user_cache_dir()
    words = ["_pack", str(path), name, str(cache_dir), str(int(config.trust_pickle))]
    with subprocess.Popen([sys.executable, "-m", "dukou", *words], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last: dict[str, str] = {}
        try:
            for line in child.stdout:
                last = json.loads(line)
                if "step" in last:
                    report(last["step"])
        except BaseException:
            child.kill()
            raise
    if "folder" in last:
        return Path(last["folder"])
    silent = f"{path}: the process that packs it ended with status {child.returncode}"
    raise DukouError(Reason.NOT_PACKED, path=str(path), detail=last.get("error", silent))


def pack_file(argv: Sequence[str]) -> int:
    """The child: `dukou _pack FILE NAME CACHE TRUST`; returns the exit code."""
    from dukou.packing.cache import pack_in_passing

    source, name, cache_dir, trust = argv

    def say(**words: str) -> None:
        print(json.dumps(words), flush=True)

    try:
        folder = pack_in_passing(
            Path(source),
            name=name,
            cache_dir=Path(cache_dir),
            trust_pickle=trust == "1",
            report=lambda step: say(step=step),
        )
    except DukouError as error:
        say(error=str(error))
        return 1
    say(folder=str(folder))
    return 0
