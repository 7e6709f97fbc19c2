"""gRPC without I/O: timeouts, messages, statuses."""

import contextlib
import math
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.net import grpc_wire
from dukou.net.grpc_wire import MAX_STATUS_MESSAGE_BYTES, MessageReader, Status
from dukou.net.rpc import GrpcError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1S", 1.0),
        (b"2M", 120.0),
        (b"3H", 10_800.0),
        (b"250m", 0.25),
        (b"5u", 5e-6),
        (b"7n", 7e-9),
        (b"0n", 0.0),
        (b"99999999H", 99_999_999 * 3600.0),
    ],
)
def test_a_timeout_is_up_to_eight_digits_and_a_unit(value: bytes, seconds: float) -> None:
    """As the protocol says."""
    assert grpc_wire.parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"S", b"1", b"1s", b"-1S", b"+1S", b"1.5S", b"123456789S", b"1S ", b"1SS", b"1 S"]
)
def test_what_is_no_timeout_is_refused(value: bytes) -> None:
    """Not guessed at: a call without its deadline is a call that never ends."""
    with pytest.raises(GrpcError, match="malformed grpc-timeout") as caught:
        grpc_wire.parse_timeout(value)

    assert caught.value.status == Status.INTERNAL


def test_a_call_without_a_timeout_has_no_deadline() -> None:
    """It waits for ever."""
    assert grpc_wire.deadline({}, 5.0) == math.inf
    assert grpc_wire.deadline({b"grpc-timeout": b"2S"}, 5.0) == 7.0


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/gRPC", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc+json", False),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_a_call_is_known_by_its_content_type(content_type: bytes, expected: bool) -> None:
    """gRPC-Web and JSON look alike, and are something else."""
    assert grpc_wire.is_grpc({b"content-type": content_type}) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (b"identity, deflate, gzip", True),
        (b"gzip", True),
        (b"identity,gzip", True),
        (b"identity", False),
        (b"xgzip", False),
    ],
)
def test_gzip_is_used_for_clients_that_say_so(headers: bytes, expected: bool) -> None:
    """Word by word."""
    assert grpc_wire.accepts_gzip({b"grpc-accept-encoding": headers}) is expected


@given(st.text())
def test_a_status_message_is_printable_and_comes_back(text: str) -> None:
    """Whatever it says; a long one is cut between characters."""
    encoded = grpc_wire.percent_encode(text)

    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote_to_bytes(encoded).decode("utf-8") == text.encode("utf-8", "replace").decode("utf-8")


def test_a_long_status_message_is_cut_between_characters() -> None:
    """Headers are small, and clients limit them."""
    decoded = unquote_to_bytes(grpc_wire.percent_encode("ß" * 5000)).decode("utf-8")

    assert decoded == "ß" * (MAX_STATUS_MESSAGE_BYTES // 2)


def test_only_what_must_be_is_percent_encoded() -> None:
    """Space stays, the percent sign does not."""
    assert grpc_wire.percent_encode("a b/c:d 100%\n") == b"a b/c:d 100%25%0A"


@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=8), st.lists(st.integers(1, 20), max_size=60)
)
def test_messages_come_out_however_the_bytes_are_cut(messages: list[tuple[bool, bytes]], cuts: list[int]) -> None:
    """A frame may hold half a prefix or many messages."""
    data = b"".join(grpc_wire.prefix(len(body), flag) + body for flag, body in messages)
    reader = MessageReader(limit=40)
    found = []
    for cut in [*cuts, len(data)]:
        found += reader.feed(data[:cut])
        data = data[cut:]

    assert found == messages
    assert reader.between


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_refused(data: bytes) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(GrpcError):
        found = MessageReader(limit=50).feed(data)
        assert all(len(body) <= 50 for _, body in found)


def test_a_message_beyond_the_limit_is_refused_by_its_prefix() -> None:
    """Before a byte of it has come, in the words that clients look for."""
    with pytest.raises(GrpcError) as caught:
        MessageReader(limit=4).feed(b"\0\0\0\0\5")

    assert caught.value.status == Status.RESOURCE_EXHAUSTED
    assert caught.value.message == "Received message larger than max (5 vs. 4)"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"/a.B/C", "unknown method C for service a.B"),
        (b"/a.X/C", "unknown service a.X"),
        (b"/", "unknown service "),
        (b"", "unknown service "),
        (b"/" + b"x" * 5000, "unknown service " + "x" * 100),
    ],
)
def test_what_is_not_served_is_told_by_name(path: bytes, text: str) -> None:
    """Service or method, cut where it is longer than a name."""
    error = grpc_wire.unimplemented(path, frozenset([b"a.B"]))

    assert (error.status, error.message) == (Status.UNIMPLEMENTED, text)
