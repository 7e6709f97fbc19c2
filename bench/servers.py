"""The servers under test, each started the way its documentation says, pinned to one core."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PEERS = Path(__file__).parent / "peers"
BIN = Path(sys.executable).parent
SERVER_CORE = "0"


@dataclass(frozen=True)
class Server:
    """How to start one server, and which paths answer which model."""

    name: str
    command: Callable[[int, Path], list[str]]
    paths: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)


def nginx_command(port: int, folder: Path) -> list[str]:
    config = folder / f"nginx-{port}.conf"
    config.write_text(
        f"worker_processes 1; daemon off; error_log stderr crit; pid {folder}/nginx-{port}.pid;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; client_max_body_size 64m; keepalive_requests 100000000;\n"
        "  default_type application/json;\n"
        f"  server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{{\"y_pred\":[0]}}'; }} }} }}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(config)]


def servers(repository: Path) -> tuple[Server, ...]:
    """All of them; `repository` holds the packed models that dukou serves."""
    flask = {"iris": "/predict", "mean": "/mean"}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return (
        Server("nginx `return 200`", nginx_command, {"iris": "/predict", "mean": "/predict"}),
        Server(
            "dukou",
            lambda port, _: [str(BIN / "dukou"), "serve", str(repository), "--port", str(port)],
            {"iris": "/predict/iris", "mean": "/predict/mean"},
        ),
        Server(
            "uvicorn, bare ASGI",
            lambda port, _: [
                *(str(BIN / "uvicorn"), "asgi_echo:app", "--app-dir", str(PEERS), "--port", str(port)),
                *("--no-access-log", "--log-level", "warning"),
            ],
            {"iris": "/predict", "mean": "/predict"},
        ),
        Server(
            "Flask + gunicorn, 2 workers",
            lambda port, _: [
                *(str(BIN / "gunicorn"), "-w", "2", "--pythonpath", str(PEERS), "flask_app:app"),
                *("-b", f"127.0.0.1:{port}", "--log-level", "warning"),
            ],
            flask,
            threads,
        ),
        Server(
            "Flask dev server",
            lambda port, _: [sys.executable, str(PEERS / "flask_app.py"), str(port)],
            flask,
            threads,
        ),
    )


class Running:
    """A started server: its process tree's CPU time and memory, and its end."""

    def __init__(self, server: Server, folder: Path, model: str, body: bytes) -> None:
        self.server = server
        self.port = free_port()
        begun = time.monotonic()
        self.process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *server.command(self.port, folder)],
            cwd=folder,
            env=os.environ | server.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.first_answer_s = self._await_answer(server.paths[model], body, begun)

    def _await_answer(self, path: str, body: bytes, begun: float, limit_s: float = 60.0) -> float:
        while (waited := time.monotonic() - begun) < limit_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.server.name} ended with exit code {self.process.returncode}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{self.server.name} answered {answer.status}: {text[:200]!r}")
                return time.monotonic() - begun
            except OSError:
                time.sleep(0.002)
            finally:
                connection.close()
        raise RuntimeError(f"{self.server.name} did not answer within {limit_s} s (waited {waited:.1f} s)")

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_s(self) -> float:
        """User plus system time of the whole tree, children that have ended included."""
        total = 0.0
        for process in self.tree():
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_mb(self) -> tuple[float, float]:
        """PSS of the tree, and the resident size of its largest process, in MB (10^6 bytes)."""
        pss = sum(process.memory_full_info().pss for process in self.tree())
        largest = max(process.memory_info().rss for process in self.tree())
        return pss / 1e6, largest / 1e6

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
