"""A client of the admin API: what it sends, and what it makes of answers that are none."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from control.admin_server import TOKEN, MemoryModel, MemoryOperations, admin_server
from dukou.client.admin import Admin, model_path, of_settings, read_token, user
from dukou.client.errors import BadAnswer, ClientError, ConnectionFailed, Forbidden, NotFound, Refused, TimedOut
from dukou.config import AdminConfig
from dukou.control.answers import Models
from dukou.control.operations import ModelStatus

pytestmark = pytest.mark.socket

STRANGE = "team/iris:1 é"


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A port that answers one connection with these bytes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(content)

    thread = Thread(target=answer, daemon=True)
    thread.start()
    with listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(timeout=10)


def test_a_model_is_read_and_changed() -> None:
    """Typed answers; the audit names the caller, whatever letters the name has."""
    operations = MemoryOperations(MemoryModel(STRANGE, [1, 2], serving=1))
    with admin_server(operations) as server:
        admin = Admin(f"http://{server.address}", TOKEN, caller="zoë\n@host")

        models = admin.get("/v1/models", Models).models
        deployed = admin.post(f"{model_path(STRANGE)}:deploy", ModelStatus, {"version": 2})
        labelled = admin.put(model_path(STRANGE, "labels", "a/b"), ModelStatus, {"version": 2})
        cleared = admin.delete(model_path(STRANGE, "labels", "a/b"), ModelStatus, why="done & gone")

    assert [each.serving for each in (*models, deployed)] == [1, 2]
    assert [each.versions[0].labels for each in (labelled, cleared)] == [("a/b",), ()]
    assert [each.cause.who for each in operations.audit] == ["zo??@host (token)"] * 3
    assert operations.audit[-1].cause.why == "done & gone"


def test_refusals_have_the_servers_words() -> None:
    """By kind, so that a script can tell them apart."""
    with admin_server(MemoryOperations(MemoryModel("iris", [1], serving=1))) as server:
        admin = Admin(server.address, TOKEN)
        with pytest.raises(NotFound, match="there is no such model; served are: iris"):
            admin.get(model_path("wine"), ModelStatus)
        with pytest.raises(Refused, match="there is no version to go back to") as refused:
            admin.post(f"{model_path('iris')}:rollback", ModelStatus, {})
        with pytest.raises(Forbidden, match="that is not this server's token"):
            Admin(server.address, "another-token-of-tests").get("/v1/models", Models)

    assert refused.value.status == 409


def test_nobody_there_is_said_with_what_to_do() -> None:
    """The commonest mistake: no server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    with pytest.raises(ConnectionFailed, match=f"nobody answers at {address}: is `dukou serve` running"):
        Admin(address, TOKEN).get("/v1/models", Models)


def test_a_server_that_does_not_answer_is_not_waited_for() -> None:
    """The time of a call is bounded."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        admin = Admin(f"127.0.0.1:{silent.getsockname()[1]}", TOKEN, timeout_s=0.05)

        with pytest.raises(TimedOut):
            admin.get("/v1/models", Models)


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", BadAnswer, "is not the admin API"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", BadAnswer, "Expected `object`, got `array`"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello", NotFound, "is not the admin API"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n[]", NotFound, "is not the admin API"),
        (b"SSH-2.0-OpenSSH\r\n", ConnectionFailed, "SSH-2.0"),
        (b"", ConnectionFailed, "without response"),
    ],
)
def test_another_program_at_that_port_is_told_apart(content: bytes, kind: type[ClientError], text: str) -> None:
    """Never a traceback of the standard library."""
    with answering(content) as address, pytest.raises(kind, match=text):
        Admin(address, TOKEN).get("/v1/models", Models)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:8600", "127.0.0.1:port", "127.0.0.1:99999"])
def test_what_is_no_address_is_said(address: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ClientError, match="is not an address such as"):
        Admin(address, TOKEN)


def test_the_token_is_found_by_the_settings(tmp_path: Path) -> None:
    """And where it is not, the error says who makes it."""
    path = tmp_path / "token"
    with pytest.raises(ClientError, match="A server makes it when it starts"):
        read_token(path)
    with pytest.raises(ClientError, match=r"admin\.listen is empty"):
        of_settings(AdminConfig(listen="", token_file=str(path)))
    path.write_text(f"{TOKEN}\n")

    with admin_server(MemoryOperations()) as server:
        admin = of_settings(AdminConfig(listen=server.address, token_file=str(path)))

        assert admin.get("/v1/models", Models).models == []


def test_who_asks_is_an_account_of_this_machine() -> None:
    """`alice@host`."""
    name, at, host = user().partition("@")

    assert name
    assert at
    assert host == socket.gethostname()
