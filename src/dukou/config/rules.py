"""What must hold between settings, as a pure function."""

from collections.abc import Iterator
from ipaddress import ip_address

from dukou.config.address import parse_address
from dukou.config.tree import Config, ServerConfig


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
    seen: set[tuple[str, int | None]] = set()
    reachable: list[str] = []
    for text in server.listen:
        try:
            host, port = parse_address(text)
        except ValueError as error:
            yield "server.listen", str(error)
            continue
        if (host, port) in seen and port != 0:
            yield "server.listen", f"{text} is there twice"
        seen.add((host, port))
        if port is not None and reaches_out(host):
            reachable.append(text)
    if reachable and not server.insecure:
        yield (
            "server.listen",
            f"other machines can reach {', '.join(reachable)}, and whoever reaches it may call; "
            "say --insecure (server.insecure = true) if that is wanted, or listen on 127.0.0.1",
        )


def reaches_out(host: str) -> bool:
    """Whether other machines can reach a socket bound to `host`; a name other than localhost is taken to reach out."""
    if host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True
