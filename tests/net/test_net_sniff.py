"""The first bytes of a connection: which protocol, and what if there are none."""

import gc
import os
import resource
import socket
import subprocess
import sys
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


CLIENTS = """
import socket, sys
host, port, count, preface = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])
clients = [socket.create_connection((host, port), timeout=10) for _ in range(count)]
for client in clients:
    client.sendall(preface)
for client in clients:
    assert client.recv(9)
print("open", flush=True)
sys.stdin.read()
"""
"""Opens idle connections, and keeps them until its input ends; in a process of its own, which has its own files."""


@pytest.mark.socket
@pytest.mark.slow
def test_ten_thousand_idle_connections_cost_little_memory() -> None:
    """Each a few kilobytes, HTTP/2 with its tables included; a call among them is answered as ever."""
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"only {hard} files may be open")
    statm = Path(f"/proc/{os.getpid()}/statm")
    if not statm.exists():
        pytest.skip("no /proc here")

    def resident() -> int:
        gc.collect()
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with Live(uvloop.new_event_loop, None) as live:
            host, port = live.place
            said_first = (PREFACE + frame(SETTINGS)).hex()
            before = resident()
            command = [sys.executable, "-c", CLIENTS, host, str(port), str(count), said_first]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
                assert clients.stdout is not None
                assert clients.stdout.readline() == "open\n"
                opened = live.call(lambda: len(live.server.connections))
                each = (resident() - before) / count
                with socket.create_connection(live.place, timeout=10) as caller:
                    caller.sendall(PREFACE + frame(SETTINGS) + frame(HEADERS, 5, 1, b"\x82\x86\x84\x41\x01a"))
                    said = b""
                    while HEADERS not in {kind for kind, _, _, _ in frames(said)}:
                        said += caller.recv(1000)
                clients.communicate()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert opened == count
    assert each < 25_000, f"{each:.0f} bytes for each"
    assert threading.active_count() < 20
