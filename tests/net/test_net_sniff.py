"""The first bytes of a connection: which protocol, and what if there are none."""

import gc
import os
import resource
import socket
import threading
from pathlib import Path

import pytest
import uvloop
from http2_memory import HEADERS, SETTINGS, Http2World, frame, frames
from in_memory import request
from test_net_grpc_interop import Live

from dukou.net.http2 import PREFACE


@pytest.mark.parametrize("cut", range(1, len(PREFACE)))
def test_a_preface_may_come_in_pieces(cut: int) -> None:
    """Cut anywhere."""
    with Http2World() as world:
        client = world.raw(PREFACE[:cut], PREFACE[cut:] + frame(SETTINGS))

        assert client.frames[0][0] == SETTINGS
        assert not client.over


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_request_of_http1_may_begin_like_a_preface(cut: int) -> None:
    """`P` is also the first letter of POST and PUT."""
    with Http2World() as world:
        whole = request("POST", "/predict", b'{"X": [[5.1, 3.5, 1.4, 0.2]]}')

        client = world.raw(whole[:cut], whole[cut:])

        assert client.transport.out.endswith(b'{"y_pred":[0]}')


def test_bytes_behind_the_preface_are_read_at_once() -> None:
    """All in one packet."""
    with Http2World() as world:
        client = world.raw(PREFACE + frame(SETTINGS) + frame(HEADERS, 5, 1, b"\x82\x86\x84\x41\x01a"))

        assert HEADERS in {one[0] for one in client.frames}


def test_a_drain_closes_connections_that_have_said_nothing() -> None:
    """Nothing is under way there."""
    with Http2World() as world:
        clients = [world.raw(), world.raw(b"PRI")]

        world.turn(lambda: world.server.connections.drain(lambda: None))

        assert [client.transport.closed for client in clients] == [True, True]


def test_a_connection_that_says_nothing_is_counted_until_it_is_lost() -> None:
    """As any other."""
    with Http2World() as world:
        client = world.raw()
        assert len(world.server.connections) == 1

        client.vanish()

        assert len(world.server.connections) == 0


@pytest.mark.socket
@pytest.mark.slow
def test_ten_thousand_idle_connections_cost_little_memory() -> None:
    """Each a few kilobytes, HTTP/2 with its tables included; a call among them is answered as ever."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 10_000
    if soft < 2 * count + 500:
        count = (soft - 500) // 2
    if count < 4000:
        pytest.skip(f"only {soft} files may be open")
    statm = Path(f"/proc/{os.getpid()}/statm")
    if not statm.exists():
        pytest.skip("no /proc here")

    def resident() -> int:
        gc.collect()
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with Live(uvloop.new_event_loop, None) as live:
        before = resident()
        clients = []
        try:
            for _ in range(count):
                client = socket.create_connection(live.place, timeout=10)
                client.sendall(PREFACE + frame(SETTINGS))
                clients.append(client)
            for client in clients[1 :: count // 50]:
                assert client.recv(9)
            each = (resident() - before) / count
            first = clients[0]
            first.sendall(frame(HEADERS, 5, 1, b"\x82\x86\x84\x41\x01a"))
            said = b""
            while HEADERS not in {kind for kind, _, _, _ in frames(said)}:
                said += first.recv(1000)
        finally:
            for client in clients:
                client.close()

    assert each < 25_000, f"{each:.0f} bytes for each"
    assert threading.active_count() < 20
