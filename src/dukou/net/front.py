"""The HTTP side of one dialect: which request is meant for what, and who answers it."""

import asyncio
import logging

import msgspec

from dukou.config import PlainConfig
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.version import ModelRef
from dukou.net.api import Api, Call, Generation
from dukou.net.calls import Calls
from dukou.net.dialects import surface
from dukou.net.exchange import Answer, Exchange, OnRefused, error_body
from dukou.net.facts import Facts
from dukou.net.generate import Generations
from dukou.net.routes import Asked, Command, Page, Route
from dukou.net.status import CODES

KNOWN_ROUTES = 1024
KNOWN_TARGET_BYTES = 256

_log = logging.getLogger("dukou.net")


class Front:
    """Answers the exchanges of every listener that has this dialect; `respond` is a Responder.

    `facts` is the server as pages tell of it, `calls` runs inferences, `plain` is the simple route. `tell_refused` is
    told of each exchange whose answer is a refusal. `cors` and `serving_metrics_path` as in `dukou.net.dialects`.
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
        self._surface = surface(dialect, facts, plain, cors=cors, serving_metrics_path=serving_metrics_path)
        self._facts = facts
        self._calls = calls
        self._generations = Generations(facts, calls.timeout_s, calls.max_body_bytes)
        self._tell_refused = tell_refused
        self.known_routes: dict[tuple[bytes, bytes], Route] = {}
        """Method and target to what they mean."""

    def respond(self, exchange: Exchange) -> None:
        """Answer an exchange; what goes wrong here is answered too."""
        head = exchange.head
        assert head is not None, "what was no request is answered by the connection"
        try:
            key = (head.method, head.target)
            route = self.known_routes.get(key) or self._find_route(key)
            if isinstance(route, Call):
                self._calls.answer(exchange, route)
            elif isinstance(route, Page):
                self._show(exchange, route)
            elif isinstance(route, Generation):
                self._generations.answer(exchange, route)
            elif isinstance(route, Command):
                exchange.run = asyncio.get_running_loop().create_task(self._obey(exchange, route))
            else:
                if route.status >= 400:
                    self._tell_refused(exchange, CODES[route.status])
                exchange.answer(route)
        except Exception:
            self._fail(exchange)

    def _find_route(self, key: tuple[bytes, bytes]) -> Route:
        found = self._surface.routes.find(*key)
        if len(key[1]) <= KNOWN_TARGET_BYTES:
            if len(self.known_routes) >= KNOWN_ROUTES:
                self.known_routes.clear()
            self.known_routes[key] = found
        return found

    def _show(self, exchange: Exchange, page: Page) -> None:
        if not page.in_pool:
            exchange.answer(self._page(exchange, page))
            return
        future = asyncio.get_running_loop().run_in_executor(self._facts.pool, self._page, exchange, page)
        exchange.run = future
        future.add_done_callback(lambda done: self._shown(exchange, done))

    def _page(self, exchange: Exchange, page: Page) -> Answer:
        try:
            answer = page.show(self._surface.view, _asked(exchange, page.ref))
        except DukouError as error:
            return page.api.refuse(error)
        return _with_headers(answer, page.api)

    def _shown(self, exchange: Exchange, done: "asyncio.Future[Answer]") -> None:
        if done.cancelled():
            return
        if done.exception() is None:
            exchange.answer(done.result())
        else:
            self._fail(exchange, done.exception())

    async def _obey(self, exchange: Exchange, command: Command) -> None:
        try:
            answer = await command.act(self._surface.view, _asked(exchange, command.ref))
            exchange.answer(_with_headers(answer, command.api))
        except DukouError as error:
            exchange.answer(command.api.refuse(error))
        except Exception as error:
            self._fail(exchange, error)

    def _fail(self, exchange: Exchange, error: BaseException | None = None) -> None:
        """What went wrong here is logged, counted, and answered."""
        _log.error("request %s failed", exchange.id, exc_info=error or True)
        self._tell_refused(exchange, Code.INTERNAL)
        exchange.answer(Answer(500, error_body(DukouError(Reason.INTERNAL).what())))


def _asked(exchange: Exchange, ref: ModelRef) -> Asked:
    return Asked(ref, exchange.headers, exchange.body, exchange.peer)


def _with_headers(answer: Answer, api: Api) -> Answer:
    return msgspec.structs.replace(answer, headers=(*answer.headers, *api.headers)) if api.headers else answer
