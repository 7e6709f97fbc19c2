"""What must hold between settings, as a pure function, and what an address means."""

import re
from collections.abc import Iterator
from ipaddress import ip_address

from dukou.config.tree import Config, ServerConfig

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")


def violations(config: Config) -> Iterator[tuple[str, str]]:
    """Every rule that `config` breaks: the path of the setting to change, and what is wrong."""
    yield from _listen(config.server)
    server = config.server
    if bool(server.tls_certificate) != bool(server.tls_key):
        missing, there = ("tls_key", "tls_certificate") if server.tls_certificate else ("tls_certificate", "tls_key")
        yield f"server.{missing}", f"it is needed together with server.{there}"


def _listen(server: ServerConfig) -> Iterator[tuple[str, str]]:
    if not server.listen:
        yield "server.listen", "at least one address is needed"
    seen: set[tuple[str, int]] = set()
    reachable: list[str] = []
    for text in server.listen:
        try:
            host, port = parse_address(text)
        except ValueError as error:
            yield "server.listen", str(error)
            continue
        if (host, port) in seen and (port or host.startswith("unix:")):
            yield "server.listen", f"{text} is there twice"
        seen.add((host, port))
        if reaches_out(host):
            reachable.append(text)
    if reachable and not server.insecure:
        yield (
            "server.listen",
            f"other machines can reach {', '.join(reachable)}, and whoever reaches it may call; "
            "say --insecure (server.insecure = true) if that is wanted, or listen on 127.0.0.1",
        )


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; `unix:/path` is its own host, port 0. An empty host is every
    interface.

    Raises ValueError where `text` is none of them.
    """
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ValueError(f"{text!r} names no path")
        return text, 0
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"{text!r} is not `host:port`, `[v6]:port` or `unix:/path`")
    return match["v6"] or match["host"] or "", int(match["port"])


def reaches_out(host: str) -> bool:
    """Whether other machines can reach a socket bound to `host`; a name other than localhost is taken to reach out."""
    if host.startswith("unix:") or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True
