"""What can be read beside inference: health, metadata, status, metrics, and what is served."""

import asyncio
import logging
import re

import orjson

from dukou import __version__
from dukou.core.errors import DukouError, Reason
from dukou.core.version import ModelRef
from dukou.net import landing
from dukou.net.exchange import Answer, Exchange, error_body
from dukou.net.facts import Facts
from dukou.net.health import server_ready
from dukou.net.routes import OIP_JSON, TF_REST, Page, PageKind
from dukou.wire import oip_metadata, tf_rest
from dukou.wire.codec import Headers

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
HTML_TYPE = b"text/html; charset=utf-8"

_log = logging.getLogger("dukou.net")
_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")


class Pages:
    """Answers exchanges with pages about the server."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._plane = facts.plane
        self._is_draining = facts.is_draining

    def answer(self, exchange: Exchange, page: Page) -> None:
        """Answer `exchange` once, now or later."""
        if page.kind is PageKind.METRICS:
            future = asyncio.get_running_loop().run_in_executor(self._facts.pool, self._facts.metrics, "")
            exchange.run = future
            future.add_done_callback(lambda done: _answer_metrics(exchange, done))
            return
        try:
            answer = self._page(page, exchange.headers)
        except DukouError as error:
            answer = (TF_REST if page.kind is PageKind.TF_STATUS else OIP_JSON).refuse(error)
        exchange.answer(answer)

    def _page(self, page: Page, headers: Headers) -> Answer:
        match page.kind:
            case PageKind.LIVE:
                return Answer(200, b'{"live":true}')
            case PageKind.READY:
                ready = server_ready(self._plane.table) and not self._is_draining()
                return Answer(200 if ready else 503, orjson.dumps({"ready": ready}))
            case PageKind.MODEL_READY:
                return self._model_ready(page.ref)
            case PageKind.SERVER_METADATA:
                return Answer(200, oip_metadata.server_metadata("dukou", __version__, ()))
            case PageKind.MODEL_METADATA:
                return self._model_metadata(page.ref)
            case PageKind.TF_STATUS:
                return self._tf_status(page.ref)
            case PageKind.TF_OPTIONS:
                origin = headers.get(b"origin", b"")
                return Answer(200 if b"http://" in origin or b"https://" in origin else 400)
            case _:
                return self._landing(headers)

    def _model_ready(self, ref: ModelRef) -> Answer:
        try:
            self._plane.choose(ref, "")
            ready = not self._is_draining()
        except DukouError as error:
            if error.reason is not Reason.MODEL_NOT_READY:
                raise
            ready = False
        return Answer(200 if ready else 400, orjson.dumps({"name": ref.name, "ready": ready}))

    def _model_metadata(self, ref: ModelRef) -> Answer:
        served = self._plane.choose(ref, "")
        return Answer(200, oip_metadata.model_metadata(ref.name, self._plane.table.models[ref.name], served))

    def _tf_status(self, ref: ModelRef) -> Answer:
        # A label is not resolved here: TensorFlow Serving tells of all versions.
        versions = self._plane.table.models.get(ref.name, {})
        return Answer(200, tf_rest.model_status(ref.name, versions, ref.version))

    def _landing(self, headers: Headers) -> Answer:
        table = self._plane.table
        vary = ((b"vary", b"accept"),)
        if landing.wants_json(headers.get(b"accept", b"")):
            return Answer(200, landing.as_json(table, __version__), headers=vary)
        host = headers.get(b"host", b"")
        name = host.decode("ascii") if _HOST.fullmatch(host) else "localhost"
        return Answer(200, landing.as_html(table, __version__, f"{self._facts.scheme()}://{name}"), HTML_TYPE, vary)


def _answer_metrics(exchange: Exchange, done: "asyncio.Future[bytes]") -> None:
    if done.cancelled():
        return
    error = done.exception()
    if error is None:
        exchange.answer(Answer(200, done.result(), METRICS_TYPE))
    else:
        _log.error("request %s: the metrics failed", exchange.id, exc_info=error)
        exchange.answer(Answer(500, error_body(DukouError(Reason.INTERNAL).what())))
