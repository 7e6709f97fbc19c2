"""A worker's questions to the control plane, and the answers."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dukou.control.asking import Asking, told
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Ask, Decoder, Message, Told, encode
from dukou.core.verb import Load, Unload

IRIS = Load("iris")


class Link:
    """What a worker sent, as it arrives on the other side; answers travel back the same way."""

    def __init__(self, asking: Asking) -> None:
        self.asked: list[Ask] = []
        self._asking = asking
        asking.connect(self._send)

    def _send(self, message: Message) -> None:
        (arrived,) = Decoder().feed(encode(message))
        assert isinstance(arrived, Ask)
        self.asked.append(arrived)

    def answer(self, answer: Told) -> None:
        (arrived,) = Decoder().feed(encode(answer))
        assert isinstance(arrived, Told)
        self._asking.hear(arrived)


def play(scenario: Callable[[Asking, Link], Awaitable[None]], asking: Asking | None = None) -> None:
    async def run() -> None:
        used = asking or Asking()
        async with asyncio.timeout(5.0):
            await scenario(used, Link(used))

    asyncio.run(run())


async def begun(asking: Asking, verb: Load | Unload = IRIS) -> asyncio.Task[None]:
    task = asyncio.create_task(asking.do(verb, "127.0.0.1:5"))
    await asyncio.sleep(0)
    return task


async def error_of(task: asyncio.Task[None]) -> DukouError:
    with pytest.raises(DukouError) as caught:
        await task
    return caught.value


def test_a_verb_is_done_when_its_own_answer_comes() -> None:
    """Whatever the order of the answers."""

    async def scenario(asking: Asking, link: Link) -> None:
        first, second = await begun(asking), await begun(asking, Unload("wine"))

        link.answer(told(link.asked[1].number))
        await second

        assert [(ask.verb, ask.who) for ask in link.asked] == [
            (Load("iris"), "127.0.0.1:5"),
            (Unload("wine"), "127.0.0.1:5"),
        ]
        assert not first.done()
        link.answer(told(link.asked[0].number))
        await first

    play(scenario)


def test_a_refusal_arrives_as_it_was_raised() -> None:
    """Reason, facts and text; facts that cannot travel as they are become texts."""
    raised = DukouError(
        Reason.PATH_NOT_FOUND,
        model="iris",
        version=2,
        path=Path("/models/iris"),
        detail="",
        wanted=("a", "b"),
        big=2**90,
    )

    async def scenario(asking: Asking, link: Link) -> None:
        task = await begun(asking)
        link.answer(told(link.asked[0].number, raised))

        error = await error_of(task)

        assert (error.reason, str(error)) == (raised.reason, str(raised))
        assert error.facts["version"] == 2
        assert error.facts["wanted"] == ["a", "b"]
        assert error.facts["big"] == str(2**90)

    play(scenario)


def test_a_failure_of_ours_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """The caller learns that it failed, the log why."""
    answer = told(1, ValueError("secret"))

    assert (answer.reason, answer.facts) == ("INTERNAL", {})
    assert "secret" in caplog.text


def test_a_reason_that_is_not_known_is_a_failure() -> None:
    """A supervisor of another version may have more of them."""

    async def scenario(asking: Asking, link: Link) -> None:
        task = await begun(asking)
        link.answer(Told(link.asked[0].number, "NEWER"))

        assert (await error_of(task)).reason is Reason.INTERNAL

    play(scenario)


def test_no_more_are_asked_than_may_wait() -> None:
    """A caller beyond is refused at once; when one is done there is room again."""

    async def scenario(asking: Asking, link: Link) -> None:
        task = await begun(asking)

        assert (await error_of(await begun(asking))).reason is Reason.OVERLOADED

        link.answer(told(link.asked[0].number))
        await task
        await begun(asking)
        assert len(link.asked) == 2
        asking.close()

    play(scenario, Asking(most=1))


def test_it_waits_no_longer_than_allowed() -> None:
    """And what is told too late is dropped."""

    async def scenario(asking: Asking, link: Link) -> None:
        task = await begun(asking)

        assert (await error_of(task)).reason is Reason.DEADLINE_EXCEEDED

        link.answer(told(link.asked[0].number))

    play(scenario, Asking(longest_s=0.01))


def test_a_caller_that_goes_leaves_nothing_behind() -> None:
    """Its place is free again, and the answer is dropped."""

    async def scenario(asking: Asking, link: Link) -> None:
        task = await begun(asking)
        task.cancel()
        await asyncio.wait([task])

        link.answer(told(link.asked[0].number))
        await begun(asking)

        assert len(link.asked) == 2
        asking.close()

    play(scenario, Asking(most=1))


def test_without_a_supervisor_nothing_is_waited_for() -> None:
    """What waits when the link ends fails, and so does what comes before it or after."""

    async def scenario(asking: Asking, link: Link) -> None:
        task = await begun(asking)

        asking.close()

        assert (await error_of(task)).reason is Reason.NOT_SERVING
        assert (await error_of(await begun(asking))).reason is Reason.NOT_SERVING
        assert (await error_of(await begun(Asking()))).reason is Reason.NOT_SERVING

    play(scenario)
