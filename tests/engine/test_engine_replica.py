"""A model in another process, as its worker sees it; here the process is a thread that behaves as told."""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from dukou.core.errors import DukouError, Reason
from dukou.core.frame import PREFIX_BYTES, Call, body_size, decode, encode_answer, encode_copy
from dukou.core.message import Copy
from dukou.core.model import ModelVersion
from dukou.engine.replica import RemoteModel
from dukou.testing.clock import HandClock
from dukou.testing.models import manifest

pytestmark = pytest.mark.socket

X = {"x": np.arange(3.0)}
Behaviour = Callable[[socket.socket, Call], bool]
"""Answers a call; false hangs up."""


def double(connection: socket.socket, call: Call) -> bool:
    connection.sendall(b"".join(encode_answer({"y": call.inputs["x"] * 2.0})))
    return True


def hang_up(connection: socket.socket, call: Call) -> bool:
    return False


def answer_half(connection: socket.socket, call: Call) -> bool:
    connection.sendall(b"".join(encode_answer(dict(call.inputs)))[:-5])
    return False


def talk_nonsense(connection: socket.socket, call: Call) -> bool:
    connection.sendall(b"\0\0\0\5nonsense")
    return False


def send_a_copy(connection: socket.socket, call: Call) -> bool:
    connection.sendall(b"".join(encode_copy(Copy(ModelVersion("m", 1), "", {}, {}, 0))))
    return True


class Process:
    """Listens at `address` and behaves; `connections` counts how many were made to it."""

    def __init__(self, address: str, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(address)
        self._listening.listen()
        self._threads = [Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10.0)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(Thread(target=self._converse, args=(connection,)))
            self._threads[-1].start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file, suppress(OSError):
            while prefix := file.read(PREFIX_BYTES):
                call = decode(file.read(body_size(prefix)))
                assert isinstance(call, Call)
                if not self.behaviour(connection, call):
                    return


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Where the process listens."""
    return str(tmp_path / "m.sock")


@pytest.fixture
def process(address: str) -> Iterator[Process]:
    """A process that doubles, unless told otherwise."""
    running = Process(address, double)
    yield running
    running.close()


@pytest.fixture
def model(address: str) -> Iterator[RemoteModel]:
    """The model in it."""
    remote = RemoteModel(address, manifest("m", 1), timeout_s=10.0)
    yield remote
    remote.close()


def refusal(model: RemoteModel) -> DukouError:
    with pytest.raises(DukouError) as raised:
        model.infer("serving_default", X, ("y",), {})
    return raised.value


def test_calls_one_after_the_other_share_a_connection(process: Process, model: RemoteModel) -> None:
    """Connecting takes as long as asking."""
    answers = [model.infer("serving_default", X, ("y",), {})["y"].tolist() for _ in range(3)]

    assert answers == [[0.0, 2.0, 4.0]] * 3
    assert process.connections == 1


def test_large_inputs_arrive(process: Process, model: RemoteModel) -> None:
    """Those that are written array by array."""
    large = np.arange(300_000.0)

    assert model.infer("serving_default", {"x": large}, ("y",), {})["y"].tolist() == (large * 2.0).tolist()


def test_without_a_process_a_call_is_refused(model: RemoteModel) -> None:
    """At once, naming the version."""
    error = refusal(model)

    assert error.reason is Reason.NOT_SERVING
    assert "model 'm', version 1" in str(error)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (hang_up, Reason.NOT_SERVING),
        (answer_half, Reason.NOT_SERVING),
        (talk_nonsense, Reason.MALFORMED_REQUEST),
        (send_a_copy, Reason.INTERNAL),
    ],
)
def test_a_process_that_misbehaves_is_a_refusal_and_the_next_call_is_answered(
    process: Process, model: RemoteModel, behaviour: Behaviour, reason: Reason
) -> None:
    """Nothing of it is left for the next one."""
    process.behaviour = behaviour

    assert refusal(model).reason is reason

    process.behaviour = double
    assert model.infer("serving_default", X, ("y",), {})["y"].tolist() == [0.0, 2.0, 4.0]


def test_a_process_that_was_started_again_is_found(address: str, model: RemoteModel) -> None:
    """The connection kept from before is noticed to be dead before anything is asked on it."""
    before = Process(address, double)
    model.infer("serving_default", X, ("y",), {})
    before.close()
    Path(address).unlink()
    after = Process(address, double)

    answer = model.infer("serving_default", X, ("y",), {})

    after.close()
    assert answer["y"].tolist() == [0.0, 2.0, 4.0]


def test_a_call_ends_when_its_time_is_over(process: Process, address: str) -> None:
    """Whether the process takes it or not."""
    clock = HandClock()

    def dawdle(connection: socket.socket, call: Call) -> bool:
        clock.advance(6.0)
        connection.sendall(b"\0")
        return True

    process.behaviour = dawdle
    model = RemoteModel(address, manifest("m", 1), timeout_s=5.0, clock=clock)

    error = refusal(model)

    model.close()
    assert error.reason is Reason.DEADLINE_EXCEEDED


def test_after_it_is_closed_calls_are_refused(process: Process, model: RemoteModel) -> None:
    """And none is made."""
    model.infer("serving_default", X, ("y",), {})
    model.close()

    assert refusal(model).reason is Reason.NOT_SERVING
    assert process.connections == 1


def test_streams_are_not_for_model_processes(model: RemoteModel) -> None:
    """It says so."""
    with pytest.raises(DukouError, match="does not stream"):
        model.stream("serving_default", X, ("y",), {})
