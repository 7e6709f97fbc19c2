"""Listening sockets and TLS. Light: the supervisor opens the sockets and imports no protocol for it."""

import errno
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from typing import TypeAlias

from dukou.config import Listen, parse_address
from dukou.core.errors import DukouError, Reason

Listener: TypeAlias = tuple[socket.socket, str]
"""A listening socket and the dialect spoken there."""

_WHY = {
    errno.EADDRINUSE: "the port is in use; another server holds it (`ss -ltnp` says which)",
    errno.EACCES: "not allowed; ports below 1024 need privileges",
    errno.EPERM: "not allowed",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "the folder does not exist",
}


def bind(addresses: Sequence[str], backlog: int = 2048) -> list[socket.socket]:
    """One listening socket for each address; a host name with several addresses gets one for each of them.

    Without SO_REUSEPORT, so that a port in use fails instead of sharing its traffic. Raises DukouError: CONFIG_INVALID
    for what is no address, NOT_SERVING for what the system refuses; nothing is left open.
    """
    return [one for one, _ in _bind_all([Listen(address) for address in addresses], backlog)]


def _bind_all(listens: Sequence[Listen], backlog: int) -> list[Listener]:
    opened: list[Listener] = []
    try:
        for listen in listens:
            host, port = _parse(listen.address)
            if port is None:
                bound = [_bind_unix(listen.address, host, backlog)]
            else:
                bound = _bind_host(listen.address, _resolve(listen.address, host, port), backlog)
            opened += [(one, listen.dialect) for one in bound]
    except BaseException:
        close_all([one for one, _ in opened])
        raise
    return opened


def is_in_use(error: DukouError) -> bool:
    """Whether an address could not be had because somebody listens there."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE


def open_slots(listens: Sequence[Listen], workers: int, backlog: int = 2048) -> list[list[Listener]]:
    """For each worker its listening sockets with their dialects, in the same order. Raises what `bind` raises.

    On Linux a port that was bound exclusively can be shared afterwards: once SO_REUSEPORT is set on the socket that
    holds it, sockets of the same user that have it too may join, also where the port was the system's choice. So the
    first bind finds out whether the port is free, and the kernel spreads connections over the workers all the same.
    A Unix socket knows no spreading: its workers accept from the same one.
    """
    first = _bind_all(listens, backlog)
    slots = [first]
    try:
        if workers > 1:
            for holder, _ in first:
                if holder.family != socket.AF_UNIX:
                    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(1, workers):
            slot: list[Listener] = []
            slots.append(slot)
            slot.extend((_join(holder, backlog), dialect) for holder, dialect in first)
    except BaseException as error:
        for slot in slots:
            close_all([one for one, _ in slot])
        if isinstance(error, OSError):
            raise _not_serving(
                ", ".join(listen.address for listen in listens),
                f"it cannot be shared by several workers: {error.strerror}",
            ) from error
        raise
    return slots


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close the sockets, and remove the files of Unix ones."""
    for one in sockets:
        path = one.getsockname() if one.family == socket.AF_UNIX and one.fileno() >= 0 else ""
        one.close()
        if path:
            _remove(path)


def describe(listening: socket.socket) -> str:
    """The address as people write it, with the port the system chose: `127.0.0.1:8501`, `[::1]:8501`, `unix:/path`."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if listening.family == socket.AF_INET6 else f"{host}:{port}"


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """A server's context from PEM files: TLS 1.2 or newer, HTTP/2 and HTTP/1.1. Raises DukouError CONFIG_INVALID."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error
        raise DukouError(
            Reason.CONFIG_INVALID, detail=f"the TLS certificate {certificate!r} with key {key!r}: {reason}"
        ) from error
    return context


def _parse(address: str) -> tuple[str, int | None]:
    try:
        return parse_address(address)
    except ValueError as error:
        raise DukouError(Reason.CONFIG_INVALID, detail=f"cannot listen on {address}: {error}") from None


def _refused(address: str, error: OSError) -> DukouError:
    return _not_serving(address, _WHY.get(error.errno or 0) or error.strerror or str(error))


def _not_serving(address: str, detail: str) -> DukouError:
    return DukouError(Reason.NOT_SERVING, detail=f"cannot listen on {address}: {detail}")


def _resolve(address: str, host: str, port: int) -> Sequence[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The addresses of a host, each once. With port 0 only the first, as each would get another port."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _not_serving(address, "the host is not known") from error
    places = list(dict.fromkeys((family, (str(place[0]), port)) for family, _, _, _, place in found))
    return places[:1] if port == 0 else places


def _bind_host(
    address: str, places: Sequence[tuple[socket.AddressFamily, tuple[str, int]]], backlog: int
) -> list[socket.socket]:
    """A socket for each place that this machine has: `localhost` is often ::1 too where there is no IPv6."""
    opened: list[socket.socket] = []
    missing: OSError | None = None
    for family, place in places:
        try:
            opened.append(_bind_tcp(family, place, backlog))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                close_all(opened)
                raise _refused(address, error) from error
            missing = error
    if missing is not None and not opened:
        raise _refused(address, missing) from missing
    return opened


def _bind_tcp(family: socket.AddressFamily, place: tuple[str, int], backlog: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it a restarted server would have to wait until the connections of the last one are forgotten.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(place)
        listening.listen(backlog)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _bind_unix(address: str, path: str, backlog: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            os.unlink(path)
        listening.bind(path)
        listening.listen(backlog)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise _not_serving(address, "a server answers there, or the path is no socket") from error
        raise _refused(address, error) from error
    return listening


def _is_stale(path: str) -> bool:
    """Whether `path` is a socket where nobody answers, left behind by a server that was killed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _join(holder: socket.socket, backlog: int) -> socket.socket:
    """Another socket for the address that `holder` holds."""
    if holder.family == socket.AF_UNIX:
        return holder.dup()
    other = socket.socket(holder.family, socket.SOCK_STREAM)
    try:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if holder.family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(holder.getsockname())
        other.listen(backlog)
        other.setblocking(False)
    except OSError:
        other.close()
        raise
    return other


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
