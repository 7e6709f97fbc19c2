"""A live server for tests of clients: `dukou serve` as a process, with a listener for each dialect."""

import socket
from pathlib import Path

from app.app_server import LIMIT_S, Server

__all__ = ["DIALECTS", "LIMIT_S", "Live"]

DIALECTS = ("", "tensorflow-serving", "triton", "kserve", "mlserver")


class Live:
    """A running server of `words`; a context manager. `address(dialect)` is where a dialect is spoken."""

    def __init__(self, *words: str | Path) -> None:
        self._ports = dict(zip(DIALECTS, free_ports(len(DIALECTS)), strict=True))
        listen = [f"127.0.0.1:{port},{dialect}".rstrip(",") for dialect, port in self._ports.items()]
        self._server = Server(*words, *(word for address in listen for word in ("--listen", address)))

    def address(self, dialect: str = "") -> str:
        """`http://host:port`; gRPC is at the same port."""
        return f"http://{self.target(dialect)}"

    def target(self, dialect: str = "") -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._ports[dialect]}"

    def __enter__(self) -> "Live":
        self._server.__enter__()
        return self

    def __exit__(self, *exit_: object) -> None:
        self._server.__exit__(*exit_)


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
