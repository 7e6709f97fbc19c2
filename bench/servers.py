"""The servers under test, each started the way its documentation says, pinned to one core."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from payloads import GRPC, HTTP, OIP_GRPC, TFS_GRPC, Payload

PEERS = Path(__file__).parent / "peers"
TRITON = Path(__file__).parent.parent / ".bench-venv" / "triton"
BIN = Path(sys.executable).parent
SERVER_CORE = "0"
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Ports:
    """Where a server listens; one that speaks everything on one port uses `http` for both."""

    http: int
    grpc: int


Formats = Mapping[str, str]
"""The path of each format that a server speaks; `{model}` stands for the model's name."""


@dataclass(frozen=True)
class Server:
    """How to start one server, and which paths answer in which format."""

    name: str
    command: Callable[[Ports, Path], list[str]]
    formats: Formats
    environment: dict[str, str] = field(default_factory=dict)
    one_port: bool = True

    def path(self, model: str, kind: str) -> str:
        """Where `model` is asked in a format."""
        return self.formats[kind].replace("{model}", model)


def nginx_command(ports: Ports, folder: Path) -> list[str]:
    config = folder / f"nginx-{ports.http}.conf"
    server = "server {{ listen 127.0.0.1:{port}{http2}; location / {{ return 200 '{{\"y_pred\":[0]}}'; }} }}\n"
    config.write_text(
        f"worker_processes 1; daemon off; error_log stderr crit; pid {folder}/nginx-{ports.http}.pid;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; client_max_body_size 64m; keepalive_requests 100000000;\n"
        "  default_type application/json;\n"
        f"  {server.format(port=ports.http, http2='')}"
        f"  {server.format(port=ports.grpc, http2=' http2')} }}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(config)]


def triton_command(ports: Ports, folder: Path) -> list[str]:
    home = triton_folder()
    return [
        *(str(home / "bin" / "tritonserver"), "--backend-directory", str(home / "backends")),
        *("--model-repository", str(PEERS / "triton"), "--allow-metrics=false"),
        *("--http-address", "127.0.0.1", "--http-port", str(ports.http)),
        *("--grpc-address", "127.0.0.1", "--grpc-port", str(ports.grpc)),
    ]


def triton_folder() -> Path:
    """The folder of Triton's server inside the environment that `peers/make_triton` made."""
    return next(TRITON.glob("lib/python3*/site-packages/pytriton/tritonserver"))


def servers(repository: Path) -> tuple[Server, ...]:
    """All of them; `repository` holds the packed models that dukou serves."""
    oip = {"json": "/v2/models/{model}/infer", "grpc": OIP_GRPC}
    chosen = [
        Server(
            "nginx `return 200`",
            nginx_command,
            {"simple": "/predict", "grpc": OIP_GRPC},
            one_port=False,
        ),
        Server(
            "dukou",
            lambda ports, _: [str(BIN / "dukou"), "serve", str(repository), "--port", str(ports.http)],
            {"simple": "/predict/{model}", "binary": "/v2/models/{model}/infer", **oip, "predict": TFS_GRPC},
        ),
        Server(
            "uvicorn, bare ASGI",
            lambda ports, _: [
                *(str(BIN / "uvicorn"), "asgi_echo:app", "--app-dir", str(PEERS), "--port", str(ports.http)),
                *("--no-access-log", "--log-level", "warning"),
            ],
            {"simple": "/predict"},
        ),
        Server(
            "grpcio, 8 threads",
            lambda ports, _: [sys.executable, str(PEERS / "grpc_server.py"), str(ports.http), str(repository)],
            {"grpc": OIP_GRPC},
        ),
        Server(
            "Flask + gunicorn, 2 workers",
            lambda ports, _: [
                *(str(BIN / "gunicorn"), "-w", "2", "--pythonpath", str(PEERS), "flask_app:app"),
                *("-b", f"127.0.0.1:{ports.http}", "--log-level", "warning"),
            ],
            {"simple": "/predict/{model}"},
            THREADS,
        ),
        Server(
            "Flask dev server",
            lambda ports, _: [sys.executable, str(PEERS / "flask_app.py"), str(ports.http)],
            {"simple": "/predict/{model}"},
            THREADS,
        ),
    ]
    if (TRITON / "made").exists():
        site = {"SITE_PACKAGES": str(triton_folder().parent.parent)}
        chosen.append(Server("Triton, Python backend", triton_command, oip, THREADS | site, one_port=False))
    return tuple(chosen)


class Running:
    """A started server: its process tree's CPU time and memory, and its end."""

    def __init__(self, server: Server, folder: Path, payload: Payload) -> None:
        self.server = server
        http_port = free_port()
        self.ports = Ports(http_port, http_port if server.one_port else free_port())
        begun = time.monotonic()
        self.process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *server.command(self.ports, folder)],
            cwd=folder,
            env=os.environ | server.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.first_answer_s = self._await_answer(payload, begun)
        except BaseException:
            self.stop()
            raise

    def check(self, payloads: Iterable[Payload]) -> None:
        """Ask in every format once, so that no error is taken for a fast answer."""
        for payload in payloads:
            for kind in self.server.formats:
                if kind in HTTP or not self.server.name.startswith("nginx"):  # which speaks no gRPC
                    self.ask(payload, kind)

    def ask(self, payload: Payload, kind: str) -> bytes:
        """The answer to one request. Raises OSError while there is no server, RuntimeError for an error."""
        path = self.server.path(payload.model, kind)
        if kind in GRPC:
            return self._ask_grpc(path, payload.bodies[kind])
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.http, timeout=10)
        try:
            connection.request("POST", path, payload.bodies[kind], dict(payload.headers[kind]))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status in (400, 503) and self.server.name.startswith("Triton"):
            raise ConnectionError("it is loading its models")
        if answer.status != 200:
            raise RuntimeError(f"{self.server.name} answered {answer.status}: {text[:200]!r}")
        return text

    def _ask_grpc(self, path: str, message: bytes) -> bytes:
        with grpc.insecure_channel(f"127.0.0.1:{self.ports.grpc}") as channel:
            try:
                return bytes(channel.unary_unary(path)(message, timeout=10))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise ConnectionError(error.details()) from None
                raise RuntimeError(f"{self.server.name} answered {error.code()}: {error.details()}") from None

    def _await_answer(self, payload: Payload, begun: float, limit_s: float = 60.0) -> float:
        kind = next(iter(self.server.formats))
        while (waited := time.monotonic() - begun) < limit_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.server.name} ended with exit code {self.process.returncode}")
            try:
                self.ask(payload, kind)
                return time.monotonic() - begun
            except OSError:
                time.sleep(0.002)
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
        if self.process.poll() is None:
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
