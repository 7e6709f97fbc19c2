"""Addresses to listen on, as people write them."""

import re

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
