"""Runs the programs of the public clients.

Each program runs once in its own environment, and its tests judge what it saw. Without the environments, which
`scripts/clients` makes, the tests are skipped; with REQUIRE_CLIENTS set they fail.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
ENVIRONMENTS = ROOT / os.environ.get("CLIENTS", ".clients")
LIMIT_S = 110.0

Saw: TypeAlias = Callable[[str], Any]
"""What a scenario of a program saw, by its name."""


def environment(name: str) -> Path:
    """The folder of an environment. Skips the test where it is not made, unless it is required."""
    folder = ENVIRONMENTS / name
    if not (folder / ".installed").exists():
        message = f"the clients of {name} are not installed: scripts/clients {name}"
        if os.environ.get("REQUIRE_CLIENTS"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def python(name: str, program: str, *words: str) -> Saw:
    """Run a Python program in an environment."""
    return run([str(environment(name) / "bin" / "python"), str(PROGRAMS / program), *words])


def node(program: str, *words: str) -> Saw:
    """Run a JavaScript program."""
    return run([*node_command(), str(PROGRAMS / program), *words])


def node_command() -> list[str]:
    """Node: the one on the PATH, else the environment's own."""
    own = environment("javascript") / "node" / "bin" / "node"
    return [str(own)] if own.exists() else ["node"]


def run(command: list[str]) -> Saw:
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    def saw(scenario: str) -> Any:
        result = seen[scenario]
        if "raised" in result:
            pytest.fail(result["raised"], pytrace=False)
        return result["saw"]

    return saw
