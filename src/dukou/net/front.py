"""The HTTP side of one dialect: which request is meant for what, and who answers it."""

import logging

from dukou.config import PlainConfig
from dukou.core.errors import Code, DukouError, Reason
from dukou.net.api import Call
from dukou.net.calls import Calls
from dukou.net.exchange import Answer, Exchange, OnRefused, error_body
from dukou.net.facts import Facts
from dukou.net.pages import Pages
from dukou.net.routes import Page, Route, route
from dukou.net.status import CODES

KNOWN_ROUTES = 1024
KNOWN_TARGET_BYTES = 256

_log = logging.getLogger("dukou.net")


class Front:
    """Answers the exchanges of every listener that has this dialect; `respond` is a Responder.

    `facts` is the server as pages tell of it, `calls` runs inferences, `plain` is the simple route. `tell_refused` is
    told of each exchange whose answer is a refusal.
    """

    def __init__(
        self,
        dialect: str,
        facts: Facts,
        calls: Calls,
        plain: PlainConfig,
        tell_refused: OnRefused,
        *,
        cors: bool = False,
        serving_metrics_path: str = "",
    ) -> None:
        self._calls = calls
        self._pages = Pages(facts)
        self._tell_refused = tell_refused
        self.known_routes: dict[tuple[bytes, bytes], Route] = {}
        """Method and target to what `route` said of them."""

    def respond(self, exchange: Exchange) -> None:
        """Answer an exchange; what goes wrong here is answered too."""
        head = exchange.head
        assert head is not None, "what was no request is answered by the connection"
        try:
            key = (head.method, head.target)
            target = self.known_routes.get(key) or self._find_route(key)
            if isinstance(target, Call):
                self._calls.answer(exchange, target)
            elif isinstance(target, Page):
                self._pages.answer(exchange, target)
            else:
                if target.status >= 400:
                    self._tell_refused(exchange, CODES[target.status])
                exchange.answer(target)
        except Exception:
            _log.exception("request %s failed", exchange.id)
            self._tell_refused(exchange, Code.INTERNAL)
            exchange.answer(Answer(500, error_body(DukouError(Reason.INTERNAL).what())))

    def _find_route(self, key: tuple[bytes, bytes]) -> Route:
        found = route(*key)
        if len(key[1]) <= KNOWN_TARGET_BYTES:
            if len(self.known_routes) >= KNOWN_ROUTES:
                self.known_routes.clear()
            self.known_routes[key] = found
        return found
