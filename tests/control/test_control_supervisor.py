"""The supervisor with real processes, real sockets and real signals. Every wait is for something that happens."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dukou.config import ServerConfig
from dukou.control.decisions import Record, restart_pause_s
from dukou.control.process import Command, WorkerProcess, WorkerSlot
from dukou.control.slot import Patience
from dukou.control.supervisor import Ending, Supervisor
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Applied, Assignment
from dukou.core.verb import Unload, Verb
from dukou.core.version import ModelVersion, State

pytestmark = pytest.mark.socket

TOY = Path(__file__).with_name("toy_worker.py")
LIMIT_S = 20.0
PATIENCE = Patience()
IRIS = ModelVersion("iris", 1)
WINE = ModelVersion("wine", 1)
PauseS = Callable[[Record, bool], float | None]


def toy(slot: WorkerSlot) -> Sequence[str]:
    """The toy worker's command line."""
    return [sys.executable, str(TOY), str(slot.link_fd), ",".join(map(str, slot.listen_fds))]


def listening(count: int = 1) -> tuple[list[list[socket.socket]], int]:
    """One listening socket for each of `count` slots, all on one port that the system chose."""
    slots: list[list[socket.socket]] = []
    port = 0
    for _ in range(count):
        each = socket.socket()
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        each.bind(("127.0.0.1", port))
        each.listen()
        port = each.getsockname()[1]
        slots.append([each])
    return slots, port


async def ask(port: int, line: str = "who") -> str:
    """One call: connect, send a line, read all that comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{line}\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


async def both_answer(port: int, pids: set[str]) -> None:
    """Ask until two workers have answered, and note who they are."""
    while len(pids) < 2:
        pids.add(await ask(port))


@pytest.fixture
def said() -> Iterator["asyncio.Queue[str]"]:
    """What the supervisor logs, line by line."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    handler = logging.Handler()
    handler.emit = lambda record: lines.put_nowait(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dukou.control.supervisor")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


class Running:
    """A supervisor under test, and what it told."""

    def __init__(
        self,
        slots: list[list[socket.socket]],
        command: Command,
        config: ServerConfig,
        patience: Patience,
        pause_s: PauseS,
    ) -> None:
        self.told: asyncio.Queue[Applied] = asyncio.Queue()
        self.gone: asyncio.Queue[int] = asyncio.Queue()
        self.asked: list[tuple[Verb, str]] = []
        self.supervisor = Supervisor(
            config,
            slots,
            command,
            self.told.put_nowait,
            on_freed=self.gone.put_nowait,
            on_ask=self.do,
            patience=patience,
            pause_s=pause_s,
        )

    async def do(self, verb: Verb, who: str) -> None:
        """What is asked is noted; models called `nobody` are not there."""
        self.asked.append((verb, who))
        if isinstance(verb, Unload) and verb.model == "nobody":
            raise DukouError(Reason.MODEL_NOT_FOUND, model=verb.model, served="none")

    async def ready(self) -> Applied:
        """What `on_applied` was called with, once it is."""
        return await self.told.get()

    async def reached(self, state: State, version: ModelVersion) -> Applied:
        """The first news by which all workers have the version in this state."""
        while True:
            applied = await self.told.get()
            if any(report.id == version and report.state is state for report in applied.reports):
                return applied

    async def freed(self, generation: int) -> None:
        """Return when that generation is told to be freed."""
        while await self.gone.get() < generation:
            pass


Scenario = Callable[[Running], Awaitable[None]]


def supervise(
    scenario: Scenario,
    slots: list[list[socket.socket]],
    assignments: Sequence[Assignment] | None = (),
    *,
    command: Command = toy,
    grace_s: float = 10.0,
    load_timeout_s: float = 10.0,
    patience: Patience = PATIENCE,
    pause_s: PauseS = restart_pause_s,
) -> Ending:
    """Run a supervisor and a scenario beside it; stopping it is the scenario's part."""

    async def both() -> Ending:
        running = Running(
            slots, command, ServerConfig(grace_s=grace_s, load_timeout_s=load_timeout_s), patience, pause_s
        )
        if assignments is not None:
            running.supervisor.apply(assignments)
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(running.supervisor.run())
            tasks.create_task(scenario(running))
        return ending.result()

    return asyncio.run(both())


async def nothing(running: Running) -> None:
    """For a supervisor that ends by itself."""


def test_a_killed_worker_is_replaced_and_who_waited_in_the_backlog_is_answered() -> None:
    """The listening socket stays open, so a connection made while nobody accepts is served by the successor."""
    slots, port = listening()
    pids: list[str] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        pids.append(await ask(port))
        os.kill(int(pids[0]), signal.SIGKILL)
        pids.append(await ask(port))
        running.supervisor.stop()

    ending = supervise(scenario, slots)

    assert ending == Ending(0)
    assert pids[0] != pids[1]


def test_two_workers_share_one_port_and_only_the_dead_one_is_replaced() -> None:
    """Each slot has its own listening socket; the system spreads connections over them."""
    slots, port = listening(2)
    before: set[str] = set()
    after: set[str] = set()

    async def scenario(running: Running) -> None:
        await running.ready()
        await both_answer(port, before)
        os.kill(int(min(before)), signal.SIGKILL)
        await asyncio.gather(*(ask(port) for _ in range(20)))
        await both_answer(port, after)
        running.supervisor.stop()

    supervise(scenario, slots)

    assert before & after == {max(before)}


def test_a_successor_that_cannot_load_does_not_listen_while_its_neighbour_serves(
    tmp_path: Path, said: "asyncio.Queue[str]"
) -> None:
    """No caller is told that a version is missing which another worker has; loading is tried again."""
    slots, port = listening(2)
    folder = tmp_path / "iris"
    folder.mkdir()
    before: set[str] = set()
    after: set[str] = set()

    async def scenario(running: Running) -> None:
        await running.ready()
        await both_answer(port, before)
        folder.rmdir()
        os.kill(int(min(before)), signal.SIGKILL)
        while "there is no iris" not in await said.get():
            pass
        folder.mkdir()
        await both_answer(port, after)
        running.supervisor.stop()

    supervise(scenario, slots, [Assignment(IRIS, str(folder), 1)])

    assert before & after == {max(before)}


def test_a_slot_that_cannot_be_filled_is_closed_and_the_others_go_on(said: "asyncio.Queue[str]") -> None:
    """Its share of the connections goes to the workers that serve; it does not hold up that they are ready."""
    slots, port = listening(2)
    pids: list[str] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        pids.extend(await asyncio.gather(*(ask(port) for _ in range(20))))
        running.supervisor.stop()

    ending = supervise(
        scenario,
        slots,
        command=lambda slot: toy(slot) if slot.index == 0 else ["/bin/sh", "-c", "exit 3"],
        pause_s=lambda record, others_listen: None if others_listen and record.failed_starts >= 2 else 0.0,
    )

    assert ending == Ending(0)
    assert len(set(pids)) == 1
    assert any("given up" in said.get_nowait() for _ in range(said.qsize()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_was_taken_is_answered(number: signal.Signals) -> None:
    """Stopping loses no request that a worker has accepted."""
    slots, port = listening()
    answers: list[str] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"slow\n")
        answers.append((await reader.readline()).decode())
        os.kill(os.getpid(), number)
        answers.append((await reader.readline()).decode())
        writer.close()
        await writer.wait_closed()

    ending = supervise(scenario, slots)

    assert answers == ["taken\n", "done\n"]
    assert ending == Ending(0)


def test_after_the_end_the_port_refuses() -> None:
    """Nobody is left waiting in the backlog of a server that has gone."""
    slots, port = listening()

    async def scenario(running: Running) -> None:
        await running.ready()
        running.supervisor.stop()

    supervise(scenario, slots)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)


@pytest.mark.parametrize("again", [True, False], ids=["second signal", "grace is over"])
def test_a_worker_that_does_not_finish_is_killed(again: bool) -> None:
    """A request that takes too long is lost, at the end of the grace or at the second signal."""
    slots, port = listening()
    rest: list[bytes] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"never\n")
        await reader.readline()
        running.supervisor.stop()
        if again:
            running.supervisor.stop()
        rest.append(await reader.read())
        writer.close()

    ending = supervise(
        scenario, slots, grace_s=LIMIT_S if again else 0.05, patience=Patience(goodbye_s=0.05 if not again else 1.0)
    )

    assert rest == [b""]
    assert ending == Ending(0)


def test_what_cannot_be_started_is_given_up() -> None:
    """After five tries in succession it ends with a message and a failing exit code."""
    slots, _ = listening()

    ending = supervise(nothing, slots, command=lambda _: ["/bin/sh", "-c", "exit 3"])

    assert ending == Ending(1, "worker 0 ended 5 times before it could serve")


def test_a_command_that_is_not_there_is_given_up() -> None:
    """A failing spawn counts like a death."""
    slots, _ = listening()

    ending = supervise(nothing, slots, command=lambda _: ["/there/is/no/such/program"])

    assert ending.exit_code == 1


def test_when_nothing_can_be_loaded_it_ends_with_the_errors(tmp_path: Path) -> None:
    """A server that could answer nothing does not start; every error is told."""
    slots, _ = listening()
    assignments = [
        Assignment(IRIS, str(tmp_path / "gone"), 1),
        Assignment(WINE, str(tmp_path / "away"), 2),
    ]

    ending = supervise(nothing, slots, assignments)

    assert ending == Ending(1, "iris: there is no gone\nwine: there is no away")


def test_when_some_can_be_loaded_it_serves_and_tells_both(tmp_path: Path) -> None:
    """One damaged version does not keep the others from being served."""
    slots, _ = listening()
    assignments = [Assignment(IRIS, str(tmp_path), 1), Assignment(WINE, str(tmp_path / "away"), 2)]
    told: list[Applied] = []

    async def scenario(running: Running) -> None:
        told.append(await running.ready())
        running.supervisor.stop()

    ending = supervise(scenario, slots, assignments)

    assert ending == Ending(0)
    assert [(report.id, report.state) for report in told[0].reports] == [(IRIS, State.AVAILABLE), (WINE, State.END)]


def test_what_a_successor_lacks_is_logged(tmp_path: Path, said: "asyncio.Queue[str]") -> None:
    """The announcement was made with its predecessor: that the only worker serves less now is told by the log."""
    slots, port = listening()
    (tmp_path / "iris").mkdir()
    (tmp_path / "wine").mkdir()
    assignments = [Assignment(IRIS, str(tmp_path / "iris"), 1), Assignment(WINE, str(tmp_path / "wine"), 2)]
    lines: list[str] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        pid = int(await ask(port))
        (tmp_path / "wine").rmdir()
        os.kill(pid, signal.SIGKILL)
        await ask(port)
        while not said.empty():
            lines.append(said.get_nowait())
        running.supervisor.stop()

    supervise(scenario, slots, assignments)

    assert lines[0].endswith("was ended by SIGKILL")
    assert lines[1:] == [
        "worker 0 is started again",
        "worker 0 serves without what it could not load: wine: there is no wine",
    ]


def test_assignments_may_come_after_the_workers_were_spawned_and_change(tmp_path: Path) -> None:
    """Each generation is told once, when every worker serves it."""
    slots, _ = listening(2)
    told: list[Applied] = []

    async def scenario(running: Running) -> None:
        for folders in ([tmp_path], [tmp_path, tmp_path / "away"]):
            names = zip((IRIS, WINE), folders, strict=False)
            running.supervisor.apply([Assignment(name, str(folder), 1) for name, folder in names])
            told.append(await running.ready())
        running.supervisor.stop()

    supervise(scenario, slots, assignments=None)

    assert [(applied.generation, len(applied.reports)) for applied in told] == [(1, 1), (2, 2)]


def test_a_worker_that_sends_nonsense_is_killed_and_given_up(said: "asyncio.Queue[str]") -> None:
    """What comes over the link is checked before it is believed."""
    slots, _ = listening()
    program = "import os, sys, time; os.write(int(sys.argv[1]), b'\\xff' * 8); time.sleep(60)"

    ending = supervise(
        nothing,
        slots,
        command=lambda slot: [sys.executable, "-S", "-c", program, str(slot.link_fd)],
        pause_s=lambda *_: None,
    )

    assert ending.exit_code == 1
    assert "4294967295 bytes" in said.get_nowait()


@pytest.mark.slow
def test_a_worker_that_does_not_answer_is_replaced() -> None:
    """A process that is there but stands still is as bad as a dead one."""
    slots, port = listening()
    pids: list[str] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        pids.append(await ask(port))
        os.kill(int(pids[0]), signal.SIGSTOP)
        pids.append(await ask(port))
        running.supervisor.stop()

    supervise(scenario, slots, patience=Patience(ping_s=0.05, silence_s=1.0))

    assert pids[0] != pids[1]


def test_a_worker_whose_table_never_comes_is_killed_and_given_up() -> None:
    """A start that hangs counts as a death before listening."""
    slots, _ = listening()

    ending = supervise(
        nothing,
        slots,
        command=lambda _: ["/bin/sh", "-c", "exec sleep 60"],
        patience=Patience(start_s=0.05, ping_s=0.05),
        pause_s=lambda record, _: None if record.failed_starts >= 2 else 0.0,
    )

    assert ending == Ending(1, "worker 0 ended 2 times before it could serve")


def test_sigterm_to_a_worker_alone_drains_it_and_another_comes() -> None:
    """Someone may recycle a worker by hand; nothing it had taken is lost."""
    slots, port = listening()
    answers: list[str] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        first = await ask(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"slow\n")
        answers.append((await reader.readline()).decode())
        os.kill(int(first), signal.SIGTERM)
        answers.append((await reader.readline()).decode())
        writer.close()
        await writer.wait_closed()
        answers.append("another" if await ask(port) != first else "the same")
        running.supervisor.stop()

    supervise(scenario, slots)

    assert answers == ["taken\n", "done\n", "another"]


def test_a_worker_outlives_its_supervisor_only_to_drain() -> None:
    """When the link closes, a worker finishes and exits by itself, with status 0."""
    slots, _ = listening()

    async def scenario() -> int:
        async with asyncio.timeout(LIMIT_S):
            worker = await WorkerProcess.spawn(toy, 0, slots[0])
            await worker.channel.close()
            return await worker.wait()

    try:
        status = asyncio.run(scenario())
    finally:
        slots[0][0].close()

    assert status == 0


def waiting(version: ModelVersion, folder: Path, go: Path, attempt: int = 0, **options: str) -> Assignment:
    """A version that is loaded when `go` exists."""
    return Assignment(version, str(folder), 1, {"wait": str(go), **options}, attempt=attempt)


def test_a_version_that_loads_is_told_of_and_the_others_answer_meanwhile(tmp_path: Path) -> None:
    """It is AVAILABLE when every worker has it."""
    slots, port = listening(2)
    states: list[list[State]] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        go = tmp_path / "go"
        generation = running.supervisor.apply([Assignment(IRIS, str(tmp_path), 1), waiting(WINE, tmp_path, go)])
        loading = await running.reached(State.LOADING, WINE)
        await ask(port)
        go.touch()
        loaded = await running.reached(State.AVAILABLE, WINE)
        states.extend([[report.state for report in applied.reports] for applied in (loading, loaded)])
        assert generation == loading.generation == loaded.generation == 2
        running.supervisor.stop()

    supervise(scenario, slots, [Assignment(IRIS, str(tmp_path), 1)])

    assert states == [[State.AVAILABLE, State.LOADING], [State.AVAILABLE, State.AVAILABLE]]


def test_a_table_does_not_wait_for_what_the_one_before_it_loads(tmp_path: Path) -> None:
    """Going back is as quick while the version that is gone back from is still being loaded."""
    slots, _ = listening()
    told: list[Applied] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        running.supervisor.apply([waiting(WINE, tmp_path, tmp_path / "never")])
        await running.reached(State.LOADING, WINE)
        generation = running.supervisor.apply([Assignment(IRIS, str(tmp_path), 1)])
        told.append(await running.ready())
        await running.freed(generation)
        running.supervisor.stop()

    supervise(scenario, slots, [Assignment(IRIS, str(tmp_path), 1)])

    assert [(one.generation, [report.id for report in one.reports]) for one in told] == [(3, [IRIS])]


def test_a_worker_listens_only_when_nothing_of_its_first_table_is_loading(tmp_path: Path) -> None:
    """Nobody is told that a version is loading by the server that has just begun to answer."""
    slots, port = listening()

    async def scenario(running: Running) -> None:
        asking = asyncio.create_task(ask(port))
        go = tmp_path / "go"
        running.supervisor.apply([waiting(IRIS, tmp_path, go)])
        done, _ = await asyncio.wait([asking], timeout=0.3)
        assert not done
        assert running.told.empty()
        go.touch()
        await asking
        assert (await running.ready()).reports[0].state is State.AVAILABLE
        running.supervisor.stop()

    supervise(scenario, slots, None)


def test_a_server_may_have_nothing_to_load(tmp_path: Path) -> None:
    """Versions that are only told of are no failures: the server answers."""
    slots, port = listening()
    told: list[Applied] = []
    unloaded = Assignment(IRIS, str(tmp_path / "gone"), 0, wanted=State.END, why="unloaded")

    async def scenario(running: Running) -> None:
        told.append(await running.ready())
        await ask(port)
        running.supervisor.stop()

    ending = supervise(scenario, slots, [unloaded])

    assert ending == Ending(0)
    assert [(report.state, report.error) for report in told[0].reports] == [(State.END, "unloaded")]


def test_a_version_of_whose_loading_the_worker_dies_is_not_tried_by_its_successor(tmp_path: Path) -> None:
    """What served before serves again, the attempt has failed, and a later attempt is made as it is told."""
    slots, port = listening()
    (tmp_path / "go").touch()
    iris = Assignment(IRIS, str(tmp_path), 1)
    said: list[str] = []
    pids: set[str] = set()

    async def scenario(running: Running) -> None:
        await running.ready()
        pids.add(await ask(port))
        running.supervisor.apply([iris, waiting(WINE, tmp_path, tmp_path / "go", crash="yes")])
        failed = await running.reached(State.END, WINE)
        said.extend(report.error for report in failed.reports)
        pids.add(await ask(port))
        running.supervisor.apply([iris, waiting(WINE, tmp_path, tmp_path / "go", attempt=1)])
        await running.reached(State.AVAILABLE, WINE)
        running.supervisor.stop()

    supervise(scenario, slots, [iris])

    assert said == ["", "model 'wine', version 1: the worker process ended while it was loading it"]
    assert len(pids) == 2


def test_a_worker_that_comes_later_gets_the_table_of_now(tmp_path: Path) -> None:
    """Its predecessor's memory is gone with it, so nothing of the old table is waited for."""
    slots, port = listening()
    told: list[Applied] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        pid = int(await ask(port))
        os.kill(pid, signal.SIGSTOP)
        generation = running.supervisor.apply([Assignment(WINE, str(tmp_path), 1)])
        os.kill(pid, signal.SIGKILL)
        told.append(await running.ready())
        await running.freed(generation)
        running.supervisor.stop()

    supervise(scenario, slots, [Assignment(IRIS, str(tmp_path), 1)])

    assert [(one.generation, [report.id for report in one.reports]) for one in told] == [(2, [WINE])]


@pytest.mark.slow
def test_a_version_that_loads_for_ever_costs_the_worker_its_place_however_many_tables_come(tmp_path: Path) -> None:
    """The time allowed is for what is to be loaded; a table that comes meanwhile adds none of it."""
    slots, port = listening()
    iris = Assignment(IRIS, str(tmp_path), 1)
    pids: set[str] = set()

    async def scenario(running: Running) -> None:
        await running.ready()
        pids.add(await ask(port))
        stuck = waiting(WINE, tmp_path, tmp_path / "never")

        async def keep_applying() -> None:
            while True:
                running.supervisor.apply([iris, stuck])
                await asyncio.sleep(0.02)

        applying = asyncio.create_task(keep_applying())
        await running.reached(State.END, WINE)
        applying.cancel()
        pids.add(await ask(port))
        running.supervisor.stop()

    supervise(scenario, slots, [iris], patience=Patience(start_s=0.5, ping_s=0.05), load_timeout_s=0.2)

    assert len(pids) == 2


def test_what_a_worker_asks_is_done_and_its_outcome_told() -> None:
    """A caller of the data plane reaches the control plane, and learns why not where it does not."""
    slots, port = listening()
    answers: list[str] = []
    asked: list[tuple[Verb, str]] = []

    async def scenario(running: Running) -> None:
        await running.ready()
        answers.extend([await ask(port, "unload iris"), await ask(port, "unload nobody")])
        asked.extend(running.asked)
        running.supervisor.stop()

    supervise(scenario, slots)

    assert answers == ["done", "model 'nobody': there is no such model; served are: none"]
    assert asked == [(Unload("iris"), "a test"), (Unload("nobody"), "a test")]


def test_the_supervisor_is_light() -> None:
    """It spawns the workers before anything heavy is imported, and needs none of it itself."""
    heavy = ["numpy", "onnxruntime", "uvloop", "sklearn", "fastapi", "prometheus_client", "psutil"]
    program = f"import sys, dukou.control.supervisor; print(*set({heavy}) & set(sys.modules), end='')"

    async def scenario() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(LIMIT_S):
            said, _ = await process.communicate()
        return process.returncode, said

    assert asyncio.run(scenario()) == (0, b"")
