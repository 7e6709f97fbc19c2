"""Addresses as people write them."""

import pytest

from dukou.config import parse_address


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
