"""Everything that the README and the docs show is run: Python blocks, shell blocks, and the answers under them.

A page runs in order, in one folder and one Python namespace. `dukou serve` goes to the background and is waited for;
the ports of the page are replaced by free ones. A `json` block under a shell block is what that block must print.

Blocks for a public client ("```python triton", "```javascript") run in that client's environment, once for each that a
page needs: see `tests/clients`. What JavaScript prints must be what its comments say.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from clients import client_programs

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "docs/tutorial.md", "docs/tutorial-change.md", "docs/reference/http.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
DEFAULT_PORT = "8501"
ADMIN_PORT = "8600"
SLOW = {"tutorial-change": pytest.mark.timeout(400)}
"""Pages that wait for something to be certain."""
LIMIT_S = 200
ELSEWHERE = re.compile(r"^(pip install|npm install|scripts/)")
"""Lines that the continuous check runs itself, in a fresh environment."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its lines, and whose environment it needs."""

    language: str
    text: str
    environment: str = ""


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w+)(?: (\w+))?\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [
        Block(language, text, "javascript" if language == "javascript" else environment)
        for language, environment, text in found
    ]


def cases() -> Iterator[Any]:
    """Each page as a whole without the blocks of public clients, and then with those of each that it needs."""
    for page in PAGES:
        yield pytest.param(page, "", id=page.stem, marks=SLOW.get(page.stem, ()))
        for environment in sorted({block.environment for block in blocks(page)} - {""}):
            yield pytest.param(page, environment, id=f"{page.stem}-{environment}", marks=pytest.mark.clients)


class Page:
    """A page being run: its folder, its namespace, its servers and the ports that stand for those it shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, object] = {"__name__": "page"}
        self.ports = {ADMIN_PORT: free_port()}
        self.servers: list[subprocess.Popen[str]] = []
        self.printed = ""
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DUKOU_MODELS__CACHE_DIR": str(folder / "cache"),
            "DUKOU_ADMIN__LISTEN": f"127.0.0.1:{self.ports[ADMIN_PORT]}",
            "HOME": str(folder / "home"),
            "NO_COLOR": "1",
        }
        self.environment.pop("XDG_STATE_HOME", None)

    def with_ports(self, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            return match.group(1) + self.ports.setdefault(match.group(2), free_port())

        return re.sub(r"(127\.0\.0\.1:|localhost:|--(?:rest_api_)?port )(\d{4,5})", replace, text)

    def run(self, block: Block) -> None:
        if block.language == "python":
            exec(compile(self.with_ports(block.text), "page", "exec"), self.names)
        elif block.language == "bash":
            self.printed = "".join(self.shell(line) for line in commands(block.text))
        elif block.language == "json" and self.printed:
            assert json.loads(self.printed) == json.loads(block.text)

    def client(self, block: Block) -> None:
        """Run a block of a public client."""
        folder = client_programs.environment(block.environment)
        if block.language == "python":
            self.process(str(folder / "bin" / "python"), "-c", self.with_ports(block.text))
            return
        for name, target in {"node_modules": folder / "node_modules", "protos": ROOT / "src/dukou/protos"}.items():
            if not (self.folder / name).exists():
                (self.folder / name).symlink_to(target.resolve())
        (self.folder / "page.mjs").write_text(self.with_ports(block.text), encoding="utf-8")
        printed = self.process(*client_programs.node_command(), "page.mjs")
        assert printed.splitlines() == re.findall(r"console\.log.*; // (.*)", block.text)

    def process(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def shell(self, line: str) -> str:
        if ELSEWHERE.match(line):
            return ""
        if line.startswith("dukou serve"):
            self.serve(line)
            return ""
        return self.process("bash", "-euo", "pipefail", "-c", self.with_ports(line))

    def serve(self, line: str) -> None:
        if "--port" not in line:
            line = f"{line.partition('#')[0].rstrip()} --port {DEFAULT_PORT}"
        for server in self.servers:
            stop(server)
        self.servers.clear()
        server = subprocess.Popen(
            ["bash", "-c", f"exec {self.with_ports(line)}"],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.servers.append(server)
        assert server.stderr is not None
        seen = []
        for text in server.stderr:
            seen.append(text)
            if "http://" in text:
                return
        raise AssertionError(f"{line} ended:\n{''.join(seen)}")


def commands(text: str) -> Iterator[str]:
    """Line by line; a line that ends in `<<'END'` goes on to the line END."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        if line.endswith("<<'END'"):
            yield "\n".join((line, *takewhile(lambda more: more != "END", lines), "END"))
        elif line.strip() and not line.startswith("#"):
            yield line


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def stop(server: "subprocess.Popen[str]") -> None:
    server.terminate()
    try:
        _, rest = server.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        raise
    assert server.returncode == 0, rest


@pytest.mark.socket
@pytest.mark.slow
@pytest.mark.parametrize(("path", "environment"), [*cases()])
def test_what_a_page_shows_works(path: Path, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python and shell block of the page runs, in order, and prints what the page says."""
    if environment:
        client_programs.environment(environment)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUKOU_MODELS__CACHE_DIR", str(tmp_path / "cache"))
    page = Page(tmp_path)
    train_iris(tmp_path)
    try:
        for block in blocks(path):
            if block.environment == "":
                if not environment or block.language != "python":
                    page.run(block)
            elif block.environment == environment:
                page.client(block)
    finally:
        for background in tmp_path.glob("*.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(background.read_text()), signal.SIGKILL)
        for server in page.servers:
            stop(server)
        for value in page.names.values():
            if hasattr(value, "close") and not isinstance(value, type):
                value.close()


def train_iris(folder: Path) -> None:
    from joblib import dump
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    X, y = load_iris(return_X_y=True)
    dump(LogisticRegression(max_iter=1000).fit(X, y), folder / "model.joblib")
    dump(LogisticRegression(max_iter=2000, C=2.0).fit(X, y), folder / "better.joblib")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    """Every relative link of a page names a file or folder of the repository."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / unquote(target)).exists(), f"{path.name} links to {target}"
