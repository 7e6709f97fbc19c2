"""Addresses as people write them."""

import pytest

from dukou.config import DIALECTS, Listen, parse_address, parse_listen


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8501", "127.0.0.1", 8501),
        ("[::1]:0", "::1", 0),
        (":80", "", 80),
        ("unix:/run/a b.sock", "/run/a b.sock", None),
        ("unix:relative", "relative", None),
        ("localhost:0", "localhost", 0),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int | None) -> None:
    """Every written form means one host and port."""
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "8501", "host", "::1:80", "host:", "host:65536", "host:-1", "host:²", "[]:1", "unix:", "[::1]"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """A form that could be read two ways, or not at all, is refused with the text itself."""
    with pytest.raises(ValueError, match="'"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "address", "dialect"),
    [
        ("127.0.0.1:8501", "127.0.0.1:8501", ""),
        ("[::1]:0,triton", "[::1]:0", "triton"),
        ("unix:/run/a.sock,kserve", "unix:/run/a.sock", "kserve"),
    ],
)
def test_a_dialect_follows_a_comma(text: str, address: str, dialect: str) -> None:
    """Without one the listener speaks all protocols side by side."""
    assert parse_listen(text) == Listen(address, dialect)


@pytest.mark.parametrize("text", ["127.0.0.1:1,", "127.0.0.1:1,tf", "127.0.0.1:1,triton,kserve", "x,triton", ",triton"])
def test_what_is_no_listener_is_refused(text: str) -> None:
    """A dialect that nobody speaks, or no address before it."""
    with pytest.raises(ValueError, match="'"):
        parse_listen(text)


def test_an_unknown_dialect_is_told_the_known_ones() -> None:
    """They stand in the message."""
    with pytest.raises(ValueError, match="'tf' is not a dialect; there are " + ", ".join(DIALECTS)):
        parse_listen("127.0.0.1:1,tf")
