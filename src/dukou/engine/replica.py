"""A model in a process of its own, as a worker calls it."""

from collections.abc import Iterator, Mapping
from socket import AF_UNIX, MSG_PEEK, SOCK_STREAM, socket
from threading import Lock
from typing import Any

from dukou.core.clock import Clock, monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.frame import (
    PREFIX_BYTES,
    Answer,
    Call,
    Failure,
    Part,
    body_size,
    decode,
    encode_call,
)
from dukou.core.model import ModelManifest
from dukou.core.tensor import Tensors

CONCURRENCY = 4
"""Calls under way at a time from one worker; those that the process has no thread for wait there."""

TIMEOUT_S = 60.0
_JOINED_BYTES = 65_536
"""Up to so many bytes are written at once: one system call more takes longer than copying them."""


class RemoteModel:
    """A LoadedModel whose `infer` asks the model process at `address`.

    Each call has a connection to itself, which is kept for the next; there are as many as calls were under way at once.
    A call that is under way when the process ends, and every call while there is none, is NOT_SERVING. A process that
    was started again is found by the next call.
    """

    def __init__(
        self,
        address: str,
        manifest: ModelManifest,
        *,
        concurrency: int = CONCURRENCY,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = monotonic,
    ) -> None:
        self._address = address
        self._version = manifest.id
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = Lock()
        self._idle: list[socket] = []
        self._closed = False

    @property
    def concurrency(self) -> int:
        """How many calls may be under way at once."""
        return self._concurrency

    @property
    def holds_gil(self) -> bool:
        """False: a call waits for a socket."""
        return False

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """The process's answer. Raises what the model raises there, NOT_SERVING where it has gone, and
        DEADLINE_EXCEEDED after `timeout_s`."""
        return self.ask(signature, inputs, outputs, parameters).outputs

    def ask(self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]) -> Answer:
        """The same, with the time that the model took there."""
        parts = encode_call(Call(signature, inputs, outputs, parameters))
        until_s = self._clock() + self._timeout_s
        connection = self._connect()
        try:
            self._send(connection, parts, until_s)
            prefix = self._receive(connection, PREFIX_BYTES, until_s)
            frame = decode(self._receive(connection, body_size(prefix), until_s))
        except TimeoutError:
            connection.close()
            raise DukouError(Reason.DEADLINE_EXCEEDED, **self._named) from None
        except OSError as error:
            connection.close()
            raise self._away("it has ended") from error
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        match frame:
            case Answer():
                return frame
            case Failure():
                raise frame.error()
            case _:
                raise DukouError(Reason.INTERNAL, **self._named)

    def stream(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Iterator[Tensors]:
        """Raises NOT_SUPPORTED: a model process answers each call once."""
        detail = "a version in a model process does not stream"
        raise DukouError(Reason.NOT_SUPPORTED, **self._named, detail=detail)

    def close(self) -> None:
        """Close what is kept open. A call under way ends as it would; later ones are NOT_SERVING."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __del__(self) -> None:
        """A version that is unloaded is let go of; its connections go with it."""
        self.close()

    @property
    def _named(self) -> Mapping[str, Any]:
        return {"model": self._version.name, "version": self._version.version}

    def _away(self, what: str) -> DukouError:
        return DukouError(Reason.NOT_SERVING, **self._named, detail=f"its model process cannot be asked: {what}")

    def _connect(self) -> socket:
        """A connection that is kept, if the process still has its end, or else a new one."""
        while True:
            with self._lock:
                if self._closed:
                    raise self._away("it has been closed")
                if not self._idle:
                    break
                connection = self._idle.pop()
            if _is_open(connection):
                return connection
            connection.close()
        connection = socket(AF_UNIX, SOCK_STREAM)
        try:
            connection.settimeout(self._timeout_s)
            connection.connect(self._address)
        except OSError as error:
            connection.close()
            raise self._away("it is not there") from error
        return connection

    def _keep(self, connection: socket) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < self._concurrency:
                self._idle.append(connection)
                return
        connection.close()

    def _send(self, connection: socket, parts: list[Part], until_s: float) -> None:
        joined = len(parts) > 1 and sum(map(len, parts)) <= _JOINED_BYTES
        for part in [b"".join(parts)] if joined else parts:
            connection.settimeout(self._left(until_s))
            connection.sendall(part)

    def _receive(self, connection: socket, size: int, until_s: float) -> memoryview:
        """Exactly `size` bytes. Raises TimeoutError, ConnectionError."""
        received = memoryview(bytearray(size))
        start = 0
        while start < size:
            connection.settimeout(self._left(until_s))
            count = connection.recv_into(received[start:])
            if not count:
                raise ConnectionResetError
            start += count
        return received

    def _left(self, until_s: float) -> float:
        left = until_s - self._clock()
        if left <= 0.0:
            raise TimeoutError
        return left


def _is_open(idle: socket) -> bool:
    """Whether the other end is still there; it has nothing to say before it is asked."""
    idle.setblocking(False)
    try:
        idle.recv(1, MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
