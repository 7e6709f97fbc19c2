"""A worker obeys its link: run in this process, with a host that records, under asyncio and uvloop."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from socket import socket, socketpair

import pytest
import uvloop

from dukou.control.asking import Asking
from dukou.control.channel import Channel
from dukou.control.worker import run_worker
from dukou.core.link import (
    Applied,
    Apply,
    Ask,
    Assignment,
    Drain,
    Freed,
    Listen,
    Listening,
    LoadReport,
    Message,
    Ping,
    Pong,
    Told,
)
from dukou.core.verb import Unload
from dukou.core.version import ModelVersion, State

IRIS = Assignment(ModelVersion("iris", 1), "/models/iris/1", 1)
WINE = Assignment(ModelVersion("wine", 1), "/models/wine/1", 2)
LOADING = LoadReport(IRIS.id, State.LOADING)
LOADED = LoadReport(IRIS.id, State.AVAILABLE)


class RecordingHost:
    """A data plane that notes what it is told; loading waits for `load`, draining for `finish`."""

    wanted = Apply(0, ())

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.load = asyncio.Event()
        self.load.set()
        self.finish = asyncio.Event()
        self.finish.set()

    async def apply(self, wanted: Apply, tell: Callable[[Applied | Freed], None]) -> None:
        self.calls.append(("apply", [each.id.name for each in wanted.assignments]))
        self.wanted = wanted
        if not self.load.is_set():
            tell(self.applied(State.LOADING))
            await self.load.wait()
        tell(self.applied(State.AVAILABLE))
        tell(Freed(self.wanted.generation))

    def applied(self, state: State) -> Applied:
        return Applied(self.wanted.generation, tuple(LoadReport(each.id, state) for each in self.wanted.assignments))

    async def serve(self, sockets: Sequence[socket]) -> None:
        self.calls.append("serve")

    async def drain(self, grace_s: float) -> None:
        self.calls.append(("drain", grace_s))
        await self.finish.wait()


class Far:
    """The supervisor's end of the link."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._messages: AsyncIterator[Message] = aiter(channel)

    async def hear(self) -> Message | None:
        """The next message, None at the end."""
        return await anext(self._messages, None)


Scenario = Callable[[RecordingHost, Far], Awaitable[None]]


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A worker sets its process's signals; this process gets its own back."""
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], RecordingHost]:
    """Runs a scenario against a worker and returns its host; both must be done within five seconds."""

    def run(scenario: Scenario) -> RecordingHost:
        async def both() -> RecordingHost:
            ours, theirs = socketpair()
            host = RecordingHost()
            far = Far(await Channel.open(ours))
            try:
                async with asyncio.timeout(5.0):
                    worker = asyncio.create_task(run_worker(theirs, [], host, grace_s=7.0))
                    await scenario(host, far)
                    await worker
            finally:
                await far.channel.close()
            return host

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(both())

    return run


def test_it_accepts_only_when_its_table_is_applied_and_it_is_told_to(
    play: Callable[[Scenario], RecordingHost],
) -> None:
    """The order is Apply, Applied, Freed, Listen, Listening, Drain, end."""
    heard: list[Message | None] = []

    async def scenario(host: RecordingHost, far: Far) -> None:
        far.channel.send(Apply(1, (IRIS,)))
        heard.extend([await far.hear(), await far.hear()])
        far.channel.send(Listen())
        heard.append(await far.hear())
        far.channel.send(Drain(3.0))
        heard.append(await far.hear())

    host = play(scenario)

    assert heard == [Applied(1, (LOADED,)), Freed(1), Listening(), None]
    assert host.calls == [("apply", ["iris"]), "serve", ("drain", 3.0)]


def test_it_answers_pings_while_it_loads_and_while_it_drains(play: Callable[[Scenario], RecordingHost]) -> None:
    """Long work is not silence."""
    heard: list[Message | None] = []

    async def scenario(host: RecordingHost, far: Far) -> None:
        host.load.clear()
        host.finish.clear()
        for message in (Apply(1, (IRIS,)), Ping()):
            far.channel.send(message)
            heard.append(await far.hear())
        host.load.set()
        heard.extend([await far.hear(), await far.hear()])
        far.channel.send(Drain(3.0))
        far.channel.send(Ping())
        heard.append(await far.hear())
        host.finish.set()
        heard.append(await far.hear())

    play(scenario)

    assert heard == [Applied(1, (LOADING,)), Pong(), Applied(1, (LOADED,)), Freed(1), Pong(), None]


def test_a_table_does_not_wait_for_what_the_one_before_it_loads(play: Callable[[Scenario], RecordingHost]) -> None:
    """Going back must not wait for the version that is gone back from."""
    heard: list[Message | None] = []

    async def scenario(host: RecordingHost, far: Far) -> None:
        host.load.clear()
        far.channel.send(Apply(1, (IRIS,)))
        heard.append(await far.hear())
        host.load = asyncio.Event()
        host.load.set()
        far.channel.send(Apply(2, (WINE,)))
        heard.extend([await far.hear(), await far.hear()])
        far.channel.send(Drain(1.0))

    host = play(scenario)

    assert heard == [Applied(1, (LOADING,)), Applied(2, (LoadReport(WINE.id, State.AVAILABLE),)), Freed(2)]
    assert host.calls == [("apply", ["iris"]), ("apply", ["wine"]), ("drain", 1.0)]


def test_what_a_caller_asks_travels_and_its_answer_comes_back() -> None:
    """The data plane speaks to the control plane over the same link."""

    async def both() -> tuple[Message | None, list[str]]:
        ours, theirs = socketpair()
        far = Far(await Channel.open(ours))
        asking = Asking()
        worker = asyncio.create_task(run_worker(theirs, [], RecordingHost(), 1.0, asking))
        far.channel.send(Ping())
        await far.hear()
        asked = asyncio.create_task(asking.do(Unload("iris"), "me"))
        heard = await far.hear()
        far.channel.send(Told(1, "MODEL_NOT_FOUND", {"model": "iris", "served": "none"}))
        await asyncio.wait([asked])
        left = asyncio.create_task(asking.do(Unload("iris"), "me"))
        await far.hear()
        await far.channel.close()
        await asyncio.wait([left, worker])
        return heard, [str(asked.exception()), str(left.exception())]

    async def bounded() -> tuple[Message | None, list[str]]:
        async with asyncio.timeout(5.0):
            return await both()

    heard, said = asyncio.run(bounded())

    assert heard == Ask(1, Unload("iris"), "me")
    assert said[0] == "model 'iris': there is no such model; served are: none"
    assert "control plane is away" in said[1]


def test_it_drains_when_its_supervisor_is_gone(play: Callable[[Scenario], RecordingHost]) -> None:
    """The end of the link drains it with its own grace, and it ends by itself."""

    async def scenario(host: RecordingHost, far: Far) -> None:
        await far.channel.close()

    host = play(scenario)

    assert host.calls == [("drain", 7.0)]


def test_sigterm_drains_it_even_while_it_loads(play: Callable[[Scenario], RecordingHost]) -> None:
    """A signal to the worker alone is a request to go, and loading does not hold it up."""

    async def scenario(host: RecordingHost, far: Far) -> None:
        host.load.clear()
        far.channel.send(Apply(1, (IRIS,)))
        await far.hear()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await far.hear() is None

    host = play(scenario)

    assert host.calls == [("apply", ["iris"]), ("drain", 7.0)]


def test_sigint_and_sighup_are_left_to_the_supervisor(play: Callable[[Scenario], RecordingHost]) -> None:
    """Ctrl-C in a terminal reaches all processes; a worker goes on until it is told."""

    async def scenario(host: RecordingHost, far: Far) -> None:
        far.channel.send(Ping())
        await far.hear()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        far.channel.send(Ping())
        assert await far.hear() == Pong()
        far.channel.send(Drain(0.0))

    host = play(scenario)

    assert host.calls == [("drain", 0.0)]


def test_a_host_that_fails_ends_the_worker(play: Callable[[Scenario], RecordingHost]) -> None:
    """A defect of the data plane is not hidden: the process ends and the supervisor starts another."""

    async def scenario(host: RecordingHost, far: Far) -> None:
        async def fail(wanted: Apply, tell: Callable[[Applied | Freed], None]) -> None:
            raise RuntimeError("defect")

        host.apply = fail  # type: ignore[method-assign]
        far.channel.send(Apply(1, (IRIS,)))
        assert await far.hear() is None

    with pytest.raises(ExceptionGroup) as raised:
        play(scenario)

    assert raised.group_contains(RuntimeError, match="defect")
