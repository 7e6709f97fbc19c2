"""Inference whose responses come one by one, over HTTP: one object, or server-sent events."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context
from dukou.net import streaming
from dukou.net.api import Api, Generation
from dukou.net.exchange import Answer, Exchange
from dukou.net.facts import Facts
from dukou.wire.codec import JSON

EVENTS_TYPE = b"text/event-stream; charset=utf-8"

_log = logging.getLogger("dukou.net")


class Generations:
    """Answers exchanges by models that may give several responses; each exchange is an ordinary task.

    Every response must come within `timeout_s` of the one before, or of the request.
    """

    def __init__(self, facts: Facts, timeout_s: float, max_body_bytes: int) -> None:
        self._facts = facts
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes

    def answer(self, exchange: Exchange, asked: Generation) -> None:
        """Answer `exchange` once, later."""
        exchange.run = asyncio.get_running_loop().create_task(self._answer(exchange, asked))

    async def _answer(self, exchange: Exchange, asked: Generation) -> None:
        replies = self._replies(exchange, asked)
        try:
            first = await anext(replies)
            if asked.events:
                # What fails from here on is an event.
                events = Events(first, replies, asked.api)
                exchange.answer(Answer(200, b"", EVENTS_TYPE, ((b"cache-control", b"no-cache"),), events))
                return
            async with aclosing(replies):
                async for _ in replies:
                    raise _not_one("several")
            exchange.answer(Answer(200, first))
        except StopAsyncIteration:
            exchange.answer(Answer(200, b"", EVENTS_TYPE) if asked.events else asked.api.refuse(_not_one("none")))
        except DukouError as error:
            exchange.answer(asked.api.refuse(error))
        except Exception:
            _log.exception("request %s failed", exchange.id)
            exchange.answer(asked.api.refuse(DukouError(Reason.INTERNAL)))

    async def _replies(self, exchange: Exchange, asked: Generation) -> AsyncGenerator[bytes, None]:
        """The responses as JSON. Raises DukouError."""
        facts, codec, headers, body = self._facts, asked.api.codec, exchange.headers, exchange.body
        if b"content-encoding" in headers:
            body = asked.api.decompress(headers[b"content-encoding"], body, self._max_body_bytes)
        context = Context(exchange.id, exchange.arrived_s, exchange.arrived_s + self._timeout_s)
        context.entry = asked.api.entry
        async with aclosing(streaming.responses(facts, codec, asked.ref, headers, body, context)) as responses:
            async for request, response in responses:
                reply = await streaming.encode(facts, codec, request, response)
                if reply.content_type != JSON:
                    raise DukouError(Reason.MALFORMED_REQUEST, detail="responses that come one by one have no raw data")
                yield reply.body
                request.context.deadline_s = facts.clock() + self._timeout_s


class Events:
    """Server-sent events: one for each response; one with the error, and no more, if the rest fails."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], api: Api) -> None:
        self._first: bytes | None = first
        self._rest = rest
        self._api = api

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> bytes:
        """The next event."""
        if self._first is not None:
            body, self._first = self._first, None
        else:
            try:
                body = await anext(self._rest)
            except DukouError as error:  # which has ended the generator
                body = self._api.refuse(error).body
        return b"data: " + body + b"\n\n"

    async def aclose(self) -> None:
        """End the work behind it."""
        await self._rest.aclose()


def _not_one(number: str) -> DukouError:
    return DukouError(
        Reason.NOT_SUPPORTED,
        detail=f"this call is for models with exactly one response, and {number} came; use a stream",
    )
