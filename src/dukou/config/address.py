"""Addresses to listen on, as people write them."""

import re
from dataclasses import dataclass

DIALECTS = ("tensorflow-serving", "triton", "kserve", "mlserver")
"""What a listener can speak instead of the default, which is all protocols side by side."""

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


def parse_address(text: str) -> tuple[str, int | None]:
    """`host:port`, `[v6]:port` as (host, port), an empty host being every interface; `unix:/path` as (path, None).

    Raises ValueError for what is none of them.
    """
    if text.startswith("unix:"):
        if text == "unix:":
            raise ValueError(f"{text!r} names no path")
        return text.removeprefix("unix:"), None
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not `host:port`, `[v6]:port` or `unix:/path`")
    if int(match["port"]) > 65_535:
        raise ValueError(f"{text!r}: the highest port is 65535")
    return match["v6"] or match["host"] or "", int(match["port"])


@dataclass(frozen=True, slots=True)
class Listen:
    """An entry of `server.listen`: an address as `parse_address` takes it, and a dialect, "" for the default."""

    address: str
    dialect: str = ""


def parse_listen(text: str) -> Listen:
    """`ADDRESS` or `ADDRESS,DIALECT`, where the dialect is one of DIALECTS. Raises ValueError for what is neither."""
    address, comma, dialect = text.rpartition(",")
    if not comma:
        address, dialect = text, ""
    elif dialect not in DIALECTS:
        raise ValueError(f"{text!r}: {dialect!r} is not a dialect; there are {', '.join(DIALECTS)}")
    parse_address(address)
    return Listen(address, dialect)
