"""gRPC over HTTP/2 without I/O: messages to bytes and back, timeouts, statuses, metadata.

The protocol is https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, the choice of statuses statuscodes.md
beside it.
"""

import math
import re
from collections.abc import Mapping
from enum import IntEnum
from urllib.parse import quote_from_bytes

from dukou.net.body import Body
from dukou.net.http2 import Fields
from dukou.net.rpc import GrpcError
from dukou.wire.codec import Headers

PREFIX_BYTES = 5
MAX_STATUS_MESSAGE_BYTES = 2048
ENCODINGS = (b"identity", b"deflate", b"gzip")
ACCEPTED = b", ".join(ENCODINGS)

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Mapping[bytes, float] = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_CONTENT_TYPES = (b"application/grpc", b"application/grpc+proto")


class Status(IntEnum):
    """The gRPC statuses that the protocol itself gives; those of errors are in `dukou.net.status`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


HEADERS: Fields = ((b":status", b"200"), (b"content-type", b"application/grpc"))
HEADERS_GZIP: Fields = (*HEADERS, (b"grpc-encoding", b"gzip"))
OK: Fields = ((b"grpc-status", b"0"),)


def is_grpc(headers: Headers) -> bool:
    """Whether a request is a call with Protocol Buffers, by its content type (gRPC-Web is not, nor is JSON)."""
    content_type = headers.get(b"content-type", b"")
    return content_type in _CONTENT_TYPES or content_type.partition(b";")[0].strip().lower() in _CONTENT_TYPES


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout`. Raises GrpcError INTERNAL for what is none, as clients see it elsewhere."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        shown = value[:40].decode("latin-1")
        raise GrpcError(Status.INTERNAL, f"malformed grpc-timeout: {shown!r}")
    return int(match[1]) * _UNIT_S[match[2]]


def deadline(headers: Headers, arrived_s: float) -> float:
    """When the caller gives up; infinite for one that waits. Raises GrpcError."""
    timeout = headers.get(b"grpc-timeout")
    return math.inf if timeout is None else arrived_s + parse_timeout(timeout)


def request_encoding(headers: Headers) -> bytes:
    """How the messages whose flag is set are compressed. Raises GrpcError UNIMPLEMENTED for what is not understood."""
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding not in ENCODINGS:
        shown = encoding[:40].decode("latin-1")
        raise GrpcError(Status.UNIMPLEMENTED, f"the grpc-encoding {shown!r} is not supported")
    return encoding


def accepts_gzip(headers: Headers) -> bool:
    """Whether the client reads messages compressed with gzip."""
    return b"gzip" in headers.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")


def prefix(length: int, compressed: bool = False) -> bytes:
    """What goes before a message of `length` bytes."""
    return (compressed << 32 | length).to_bytes(PREFIX_BYTES)


def message_bytes(start: bytes, limit: int) -> int:
    """The length of the message that `start` begins, from its first 5 bytes. Raises GrpcError beyond `limit`."""
    if start[0] > 1:
        raise GrpcError(Status.INTERNAL, f"a message begins with flag {start[0]}, which is neither 0 nor 1")
    length = int.from_bytes(start[1:PREFIX_BYTES])
    if length > limit:
        raise too_large(length, limit)
    return length


def too_large(length: int, limit: int) -> GrpcError:
    """The error of a message beyond the limit, in the words that clients know."""
    return GrpcError(Status.RESOURCE_EXHAUSTED, f"Received message larger than max ({length} vs. {limit})")


def percent_encode(text: str) -> bytes:
    """A status message fit for a header, cut where it is longer than anybody reads."""
    cut = text.encode("utf-8", "replace")[:MAX_STATUS_MESSAGE_BYTES].decode("utf-8", "ignore")
    return quote_from_bytes(cut.encode("utf-8"), safe=_PLAIN).encode("ascii")


def trailers(status: int, message: str = "", metadata: Fields = ()) -> Fields:
    """The end of a call."""
    fields = [(b"grpc-status", b"%d" % status)]
    if message:
        fields.append((b"grpc-message", percent_encode(message)))
    return [*fields, *metadata]


def unimplemented(path: bytes, services: frozenset[bytes]) -> GrpcError:
    """The error of a call whose path (`/package.Service/Method`) is not served; `services` are."""
    service, _, method = path.removeprefix(b"/").partition(b"/")
    if service in services:
        detail = f"unknown method {method[:100].decode('latin-1')} for service {service.decode('latin-1')}"
    else:
        detail = f"unknown service {service[:100].decode('latin-1')}"
    return GrpcError(Status.UNIMPLEMENTED, detail)


class MessageReader:
    """Bytes of DATA frames in, messages out, each with its compressed flag."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._start = b""
        self._length = 0
        self._body = Body()

    @property
    def between(self) -> bool:
        """Whether no message has been begun."""
        return not self._start

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """The messages that `data` completes. Raises GrpcError."""
        found: list[tuple[bool, bytes]] = []
        at = 0
        while at < len(data):
            if len(self._start) < PREFIX_BYTES:
                take = PREFIX_BYTES - len(self._start)
                self._start += data[at : at + take]
                at += take
                if len(self._start) < PREFIX_BYTES:
                    break
                self._length = message_bytes(self._start, self._limit)
            part = data[at : at + self._length - self._body.size]
            at += len(part)
            self._body.add(part)
            if self._body.size == self._length:
                found.append((self._start[0] == 1, self._body.take()))
                self._start = b""
        return found
