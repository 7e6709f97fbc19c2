"""Which protocol a client speaks, by ALPN or by its first bytes."""

import asyncio
from typing import cast

from dukou.net.connection import Connection
from dukou.net.connections import Connections
from dukou.net.http2 import PREFACE
from dukou.net.http2_connection import Http2Connection, Site


class FirstBytes(asyncio.Protocol):
    """A connection that has not said yet what it speaks. It hands over to another protocol, and is forgotten."""

    def __init__(self, shared: Connections, site: Site) -> None:
        self._shared = shared
        self._site = site
        self._transport: asyncio.Transport | None = None
        self._seen = b""
        self._begun_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; one of TLS may have said already what it speaks."""
        if not self._shared.opened(self):
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)
        self._begun_s = self._shared.clock()
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._hand_over(Http2Connection(self._shared, self._site))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone without a word that decides."""
        self._transport = None
        self._shared.closed(self)

    def data_received(self, data: bytes) -> None:
        """Look at the first bytes: HTTP/2 begins with what is no request of HTTP/1.1 (RFC 9113 section 3.4)."""
        seen = self._seen + data if self._seen else data
        if seen.startswith(PREFACE):
            self._hand_over(Http2Connection(self._shared, self._site), seen)
        elif PREFACE.startswith(seen):
            self._seen = seen
        else:
            self._hand_over(Connection(self._shared, self._site.respond), seen)

    def _hand_over(self, to: Connection | Http2Connection, seen: bytes = b"") -> None:
        transport = self._transport
        assert transport is not None
        self._transport = None
        self._shared.replace(self, to)
        transport.set_protocol(to)
        to.begin(transport)
        if seen:
            to.data_received(seen)

    def sweep(self, now: float) -> None:
        """Cut the client off if it has said nothing, or not enough, for too long."""
        limits = self._shared.limits
        allowed_s = limits.header_timeout_s if self._seen else limits.idle_timeout_s
        if now - self._begun_s > allowed_s:
            self.close_when_idle()

    def close_when_idle(self) -> None:
        """Nothing is under way here."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()
