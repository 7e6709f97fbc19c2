"""Listening sockets: what is bound, what is refused, what workers share."""

import os
import socket
import ssl
import stat
from pathlib import Path

import pytest
from certificates import make_certificate

from dukou.config import Listen
from dukou.core.errors import DukouError, Reason
from dukou.net.sockets import bind, close_all, describe, is_in_use, open_slots, tls_context


def test_what_is_no_address_is_refused() -> None:
    """The error names it."""
    with pytest.raises(DukouError) as caught:
        bind(["nonsense"])

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert "cannot listen on nonsense:" in str(caught.value)


def test_port_0_is_chosen_by_the_system() -> None:
    """And described with its number."""
    (one,) = bind(["127.0.0.1:0"])

    with one:
        assert describe(one) == f"127.0.0.1:{one.getsockname()[1]}"
        assert one.getsockname()[1] > 0


def test_a_port_in_use_is_refused_and_nothing_is_left_open() -> None:
    """Also where its holder would share it: a forgotten server must not take half of the traffic."""
    (((holder, _),), ((other, _),)) = open_slots([Listen("127.0.0.1:0")], 2)

    with holder, other:
        with pytest.raises(DukouError) as caught:
            bind(["127.0.0.1:0", describe(holder)])

        assert caught.value.reason is Reason.NOT_SERVING
        assert describe(holder) in str(caught.value)
        assert "in use" in str(caught.value)


def test_an_address_of_another_machine_is_refused() -> None:
    """192.0.2.0/24 belongs to nobody."""
    with pytest.raises(DukouError, match="no such address"):
        bind(["192.0.2.1:0"])


def test_an_address_in_use_is_told_from_others_that_cannot_be_had(tmp_path: Path) -> None:
    """It may be free a moment later; one that this machine does not have will not."""
    (tcp, unix) = bind(["127.0.0.1:0", f"unix:{tmp_path}/s.sock"])

    with tcp, unix:
        for address, in_use in ((describe(tcp), True), (describe(unix), True), ("192.0.2.1:0", False)):
            with pytest.raises(DukouError) as caught:
                bind([address])
            assert is_in_use(caught.value) is in_use


def test_a_host_that_is_not_known_is_refused() -> None:
    """The reserved domain .invalid never resolves."""
    with pytest.raises(DukouError, match="not known"):
        bind(["nowhere.invalid:80"])


def has_ipv6() -> bool:
    """Whether this machine can bind ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6_is_written_in_brackets() -> None:
    """And described so."""
    (one,) = bind(["[::1]:0"])

    with one:
        assert describe(one) == f"[::1]:{one.getsockname()[1]}"


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_worker_gets_a_socket_for_each_address(workers: int, tmp_path: Path) -> None:
    """All on the same port, the system's choice included."""
    slots = open_slots([Listen("127.0.0.1:0"), Listen(f"unix:{tmp_path}/s", "triton")], workers)

    try:
        assert len(slots) == workers
        assert len({tuple(describe(one) for one, _ in slot) for slot in slots}) == 1
        assert all(not one.getblocking() for slot in slots for one, _ in slot)
        assert all([dialect for _, dialect in slot] == ["", "triton"] for slot in slots)
    finally:
        for slot in slots:
            close_all([one for one, _ in slot])


def test_connections_are_spread_over_the_workers() -> None:
    """By the kernel, so each worker's socket gets some of many."""
    slots = open_slots([Listen("127.0.0.1:0")], 2)
    address = slots[0][0][0].getsockname()
    clients = [socket.create_connection(address) for _ in range(64)]

    try:
        assert [accepted(slot[0][0]) > 0 for slot in slots] == [True, True]
    finally:
        for one in (*clients, *(listening for slot in slots for listening, _ in slot)):
            one.close()


def accepted(listening: socket.socket) -> int:
    """How many connections wait in the socket's backlog."""
    count = 0
    try:
        while True:
            connection, _ = listening.accept()
            connection.close()
            count += 1
    except BlockingIOError:
        return count


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    """One that a killed server left behind; and `close_all` leaves none."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)

    opened = bind([f"unix:{path}"])

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_all(opened)
    assert not path.exists()


def test_a_unix_socket_where_a_server_answers_is_refused(tmp_path: Path) -> None:
    """And stays that server's."""
    path = tmp_path / "s"
    opened = bind([f"unix:{path}"])

    with pytest.raises(DukouError, match="a server answers there"):
        bind([f"unix:{path}"])

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_all(opened)


def test_a_file_is_not_taken_for_a_stale_socket(tmp_path: Path) -> None:
    """It is left alone."""
    path = tmp_path / "s"
    path.write_text("precious")

    with pytest.raises(DukouError, match="no socket"):
        bind([f"unix:{path}"])

    assert path.read_text() == "precious"


def test_a_unix_socket_in_no_folder_is_refused(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(DukouError, match="the folder does not exist"):
        bind([f"unix:{tmp_path}/none/s"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_a_privileged_port_is_refused() -> None:
    """With the reason."""
    with pytest.raises(DukouError, match="privileges"):
        bind(["127.0.0.1:1"])


def test_tls_is_1_2_or_newer(tmp_path: Path) -> None:
    """Whatever the platform's default is."""
    certificate, key = make_certificate(tmp_path)

    context = tls_context(str(certificate), str(key))

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("content", [None, "this is no certificate"])
def test_a_certificate_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    """The error names the files."""
    path = tmp_path / "certificate.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(DukouError) as caught:
        tls_context(str(path), "")

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert str(path) in str(caught.value)
