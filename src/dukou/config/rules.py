"""What must hold between settings, as a pure function."""

import re
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

from dukou.config.address import parse_address, parse_listen
from dukou.config.tree import Config, PlainConfig, ServerConfig

_ROUTE = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_TAKEN_ROUTES = re.compile(r"/(v1|v2|metrics|docs|openapi\.json|invocations|ping|health|version)(/.*)?")


def violations(config: Config) -> Iterator[tuple[str, str]]:
    """Every rule that `config` breaks: the path of the setting to change, and what is wrong."""
    yield from _listen(config.server)
    yield from _plain(config.plain)
    yield from _admin(config)
    if config.capture.redact and not all(config.capture.redact):
        yield "capture.redact", "an input's name is empty"
    path = config.telemetry.serving_metrics_path
    if path and not _ROUTE.fullmatch(path):
        yield "telemetry.serving_metrics_path", f"{path!r} is not a path such as /monitoring/prometheus/metrics"
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
            listen = parse_listen(text)
            host, port = parse_address(listen.address)
        except ValueError as error:
            yield "server.listen", str(error)
            continue
        if (host, port) in seen and port != 0:
            yield "server.listen", f"{text} is there twice"
        seen.add((host, port))
        if port is not None and reaches_out(host):
            reachable.append(listen.address)
    if reachable and not server.insecure:
        yield (
            "server.listen",
            f"other machines can reach {', '.join(reachable)}, and whoever reaches it may call; "
            "say --insecure (server.insecure = true) if that is wanted, or listen on 127.0.0.1",
        )


def _admin(config: Config) -> Iterator[tuple[str, str]]:
    text = config.admin.listen
    if not text:
        return
    try:
        host, port = parse_address(text)
    except ValueError as error:
        yield "admin.listen", str(error)
        return
    if port is None:
        yield "admin.listen", f"{text!r} is not `host:port`"
    elif reaches_out(host) and not config.server.insecure:
        yield (
            "admin.listen",
            f"other machines can reach {text}, and whoever has the token may change what is served; "
            "say --insecure (server.insecure = true) if that is wanted, or listen on 127.0.0.1",
        )
    elif port and (host, port) in _addresses(config.server):
        yield "admin.listen", f"{text} is one of server.listen; the admin API has a port of its own"


def _addresses(server: ServerConfig) -> Iterator[tuple[str, int | None]]:
    for text in server.listen:
        with suppress(ValueError):
            yield parse_address(parse_listen(text).address)


def _plain(plain: PlainConfig) -> Iterator[tuple[str, str]]:
    if not _ROUTE.fullmatch(plain.route):
        yield "plain.route", f"{plain.route!r} is not a path such as /predict"
    elif _TAKEN_ROUTES.fullmatch(plain.route):
        yield "plain.route", f"{plain.route} means something else here; choose another path"
    for name in ("input_key", "output_key"):
        if not getattr(plain, name):
            yield f"plain.{name}", "it must not be empty"


def reaches_out(host: str) -> bool:
    """Whether other machines can reach a socket bound to `host`; a name other than localhost is taken to reach out."""
    if host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True
