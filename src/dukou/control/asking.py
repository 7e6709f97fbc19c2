"""How a worker asks the control plane for something, and how the supervisor tells it what became of that."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from logging import getLogger
from typing import Any

from dukou.core.errors import DukouError, Reason
from dukou.core.link import Ask, Message, Told
from dukou.core.verb import Verb

MOST_ASKED = 64
"""Verbs of one worker under way; more are refused as OVERLOADED."""

LONGEST_S = 900.0
"""How long one may take: loading large models takes minutes. A caller that gives up earlier just goes."""

_MOST_TEXT = 4096
_MOST_VALUES = 64

logger = getLogger(__name__)


class Asking:
    """The control plane as a worker has it: a `dukou.core.verb.Control` over the link to the supervisor."""

    def __init__(self, *, most: int = MOST_ASKED, longest_s: float = LONGEST_S) -> None:
        self._most = most
        self._longest_s = longest_s
        self._send: Callable[[Message], None] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def connect(self, send: Callable[[Message], None]) -> None:
        """From now on verbs go out by `send`."""
        self._send = send

    async def do(self, verb: Verb, who: str) -> None:
        """Ask for `verb`, which `who` wants; returns when it is done.

        Raises the DukouError that the supervisor raised, OVERLOADED while too many are under way, DEADLINE_EXCEEDED
        after `longest_s`, NOT_SERVING when there is no supervisor (any more).
        """
        if self._send is None:
            raise _away()
        if len(self._waiting) >= self._most:
            raise DukouError(Reason.OVERLOADED, got=len(self._waiting), wanted=self._most)
        number = next(self._numbers)
        told = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Ask(number, verb, who))
            async with asyncio.timeout(self._longest_s):
                await told
        except TimeoutError:
            raise DukouError(Reason.DEADLINE_EXCEEDED) from None
        finally:
            del self._waiting[number]

    def hear(self, told: Told) -> None:
        """Take the supervisor's answer. One to a verb that nobody waits for any more is dropped."""
        waiting = self._waiting.get(told.number)
        if waiting is None or waiting.done():
            return
        if told.reason:
            waiting.set_exception(_error(told))
        else:
            waiting.set_result(None)

    def close(self) -> None:
        """The link has ended: whatever waits fails, as does what comes later."""
        self._send = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(_away())


def told(number: int, error: BaseException | None = None) -> Told:
    """The answer to the Ask of that number: done, or what went wrong. What is no DukouError is logged, and told as
    INTERNAL."""
    if error is None:
        return Told(number)
    if not isinstance(error, DukouError):
        logger.error("what a worker asked for failed", exc_info=error)
        error = DukouError(Reason.INTERNAL)
    return Told(number, error.reason.name, _plain(error.facts))


def _error(told: Told) -> DukouError:
    reason = Reason.__members__.get(told.reason, Reason.INTERNAL)
    return DukouError(reason, **told.facts)


def _away() -> DukouError:
    return DukouError(Reason.NOT_SERVING, detail="the control plane is away; ask again in a while")


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they can travel: plain values, lists of those, and texts for everything else."""
    return {name: _plain_value(value) for name, value in facts.items()}


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, list | tuple):
        return [_plain_value(each) for each in value[:_MOST_VALUES]]
    return str(value)[:_MOST_TEXT]
