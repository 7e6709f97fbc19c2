"""Versions come and go while tables change: what is loaded when, what answers meanwhile, and what is given back."""

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest

from dukou.app.opening import Opened
from dukou.app.versions import Versions
from dukou.config import EngineConfig
from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Apply, Assignment, LoadReport
from dukou.core.message import Table
from dukou.core.model import ModelVersion, State
from dukou.core.tensor import Tensors
from dukou.engine.router import Engine
from dukou.testing.models import iris_request, manifest

LIMIT_S = 10.0
SIGNATURES = manifest().signatures
ONE, TWO = ModelVersion("iris", 1), ModelVersion("iris", 2)


class Model:
    """Answers its number; a call waits for `go`."""

    concurrency = 4
    holds_gil = False

    def __init__(self, number: int) -> None:
        self.number = number
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """The number, for each row."""
        self.entered.set()
        assert self.go.wait(LIMIT_S)
        return {name: np.full(len(inputs["X"]), self.number) for name in outputs}


def assigned(version: ModelVersion, *, attempt: int = 0, wanted: State = State.AVAILABLE, why: str = "") -> Assignment:
    """A version's place in a table."""
    return Assignment(version, "/models", version.version, {}, wanted, why, attempt)


class Rig:
    """Versions behind an engine. What `hold` names is not opened before it is told to; `fail` names what cannot be."""

    def __init__(self, pool: ThreadPoolExecutor, load_timeout_s: float = LIMIT_S) -> None:
        self.engine = Engine(EngineConfig(tick_budget_s=0.0), asyncio.get_running_loop(), monotonic, (), pool)
        self.versions = Versions(
            self.engine, self._open, load_timeout_s, changed=self._in_force, freed=self.freed_events.put_nowait
        )
        self.generation = 0
        self.hold: dict[ModelVersion, threading.Event] = {}
        self.opening = threading.Event()
        self.fail: dict[ModelVersion, Exception] = {}
        self.models: list[weakref.ref[Model]] = []
        self.loads: list[asyncio.Task[None]] = []

    @property
    def freed_events(self) -> "asyncio.Queue[int]":
        if not hasattr(self, "_freed"):
            self._freed: asyncio.Queue[int] = asyncio.Queue()
        return self._freed

    def _open(self, assignment: Assignment) -> Opened:
        self.opening.set()
        if assignment.id in self.hold:
            assert self.hold[assignment.id].wait(LIMIT_S)
        if assignment.id in self.fail:
            raise self.fail[assignment.id]
        model = Model(10 * assignment.id.version + assignment.attempt)
        self.models.append(weakref.ref(model))
        of = manifest("iris", assignment.id.version)
        return Opened(msgspec.structs.replace(of, runtime="onnx"), model)

    def _in_force(self) -> None:
        self.engine.swap(Table(self.engine.table.generation + 1, self.versions.served()))

    def apply(self, *assignments: Assignment) -> "asyncio.Task[None]":
        """As a host does; the task is the loading."""
        self.generation += 1
        to_load = self.versions.want(Apply(self.generation, assignments))
        self._in_force()
        self.versions.tell_freed()
        task = asyncio.get_running_loop().create_task(self.versions.load(to_load))
        self.loads.append(task)
        return task

    async def ask(self, version: int) -> int:
        """Which model answers; the version number chosen must be served."""
        request = msgspec.structs.replace(iris_request([[1, 2, 3, 4]]), version=ModelVersion("iris", version))
        return int((await self.engine.infer(request)).outputs["label"][0])

    def states(self) -> dict[int, State]:
        """Of the table in force."""
        return {number: served.state for number, served in self.engine.table.models.get("iris", {}).items()}

    def report(self, version: ModelVersion) -> LoadReport:
        """What is told of a version."""
        return next(report for report in self.versions.reports() if report.id == version)

    async def freed(self, generation: int) -> None:
        """Return when all before this table is told to be gone."""
        while await self.freed_events.get() < generation:
            pass


def play(scenario: Callable[[Rig], Awaitable[None]], load_timeout_s: float = LIMIT_S) -> None:
    """Run a scenario, with the collector off: what ends must end by itself."""

    async def bounded() -> None:
        with ThreadPoolExecutor(2) as pool:
            async with asyncio.timeout(LIMIT_S):
                rig = Rig(pool, load_timeout_s)
                await scenario(rig)
                await asyncio.gather(*rig.loads)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(bounded())
    finally:
        gc.enable()


def test_what_is_not_to_be_loaded_is_told_of_and_refused() -> None:
    """START and END stand in the table without being loaded, with the reason."""

    async def scenario(rig: Rig) -> None:
        await rig.apply(assigned(ONE, wanted=State.START), assigned(TWO, wanted=State.END, why="half of it is missing"))

        assert rig.states() == {2: State.END, 1: State.START}
        assert rig.report(TWO) == LoadReport(TWO, State.END, "half of it is missing")
        with pytest.raises(DukouError, match="END, not AVAILABLE: half of it is missing"):
            await rig.ask(2)
        assert rig.models == []

    play(scenario)


def test_the_old_version_answers_while_the_new_one_is_loaded() -> None:
    """A table is in force at once, and what is loading is told of as LOADING."""

    async def scenario(rig: Rig) -> None:
        await rig.apply(assigned(ONE))
        go = rig.hold[TWO] = threading.Event()
        loading = rig.apply(assigned(TWO), assigned(ONE))
        await asyncio.sleep(0)

        assert rig.states() == {2: State.LOADING, 1: State.AVAILABLE}
        assert rig.report(TWO).state is State.LOADING
        assert await rig.ask(1) == 10
        go.set()
        await loading
        assert rig.states() == {2: State.AVAILABLE, 1: State.AVAILABLE}
        assert rig.report(TWO).signatures == SIGNATURES
        assert await rig.ask(2) == 20

    play(scenario)


def test_a_version_that_is_kept_is_not_loaded_again() -> None:
    """Neither a new table nor another block of counters touches what is loaded."""

    async def scenario(rig: Rig) -> None:
        await rig.apply(assigned(ONE))
        await rig.apply(msgspec.structs.replace(assigned(ONE), block=7), assigned(TWO))

        assert len(rig.models) == 2

    play(scenario)


def test_a_dropped_version_answers_the_call_under_way_and_is_gone_after_it() -> None:
    """Its memory is given back without the collector, and only then it is told to be freed."""

    async def scenario(rig: Rig) -> None:
        await rig.apply(assigned(ONE), assigned(TWO))
        held = rig.models[0]()
        assert held is not None
        entered, go = held.entered, held.go
        del held
        entered.clear()
        go.clear()
        asking = asyncio.create_task(rig.ask(1))
        await asyncio.to_thread(entered.wait, LIMIT_S)
        await rig.freed(1)
        rig.apply(assigned(TWO))
        await asyncio.sleep(0.02)

        assert rig.freed_events.empty()
        assert rig.models[0]() is not None
        go.set()
        assert await asking == 10
        await rig.freed(2)
        assert rig.models[0]() is None
        assert rig.models[1]() is not None
        with pytest.raises(DukouError, match="no such version"):
            await rig.ask(1)

    play(scenario)


def test_who_has_chosen_a_version_may_still_use_it_after_it_was_dropped() -> None:
    """Between the choice and the call a body may wait to be read; its version answers all the same."""

    async def scenario(rig: Rig) -> None:
        await rig.apply(assigned(ONE))
        await rig.freed(1)
        chosen = rig.engine.table.models["iris"][1]
        rig.apply()
        await asyncio.sleep(0.02)

        assert rig.freed_events.empty()
        assert chosen.stage is not None
        response = await chosen.stage.infer(iris_request([[1, 2, 3, 4]]))
        assert int(response.outputs["label"][0]) == 10
        del chosen, response
        await rig.freed(2)
        assert rig.models[0]() is None

    play(scenario)


def test_a_version_dropped_while_it_loads_is_let_go_when_its_load_ends() -> None:
    """It never answers, and holds up nobody but the word that it is gone."""

    async def scenario(rig: Rig) -> None:
        go = rig.hold[TWO] = threading.Event()
        rig.apply(assigned(TWO))
        await asyncio.to_thread(rig.opening.wait, LIMIT_S)
        await rig.apply(assigned(ONE))

        assert await rig.ask(1) == 10
        await rig.freed(1)
        assert rig.freed_events.empty()
        go.set()
        await rig.freed(2)
        assert rig.states() == {1: State.AVAILABLE}
        assert [model() is None for model in rig.models] == [False, True]

    play(scenario)


def test_what_no_table_wants_any_more_is_not_even_opened() -> None:
    """Versions of one table come one after the other; the next table may have dropped those that wait."""

    async def scenario(rig: Rig) -> None:
        go = rig.hold[ONE] = threading.Event()
        loading = rig.apply(assigned(ONE), assigned(TWO))
        await asyncio.to_thread(rig.opening.wait, LIMIT_S)
        await rig.apply(assigned(ONE))
        go.set()
        await loading
        await rig.freed(2)

        assert len(rig.models) == 1

    play(scenario)


def test_a_version_loaded_anew_answers_until_its_successor_does() -> None:
    """A higher attempt loads it again; the copy before is given back."""

    async def scenario(rig: Rig) -> None:
        await rig.apply(assigned(ONE))
        go = rig.hold[ONE] = threading.Event()
        loading = rig.apply(assigned(ONE, attempt=1))
        await asyncio.sleep(0)

        assert rig.report(ONE) == LoadReport(ONE, State.LOADING, attempt=1)
        assert await rig.ask(1) == 10
        go.set()
        await loading
        assert rig.report(ONE).attempt == 1
        assert await rig.ask(1) == 11
        while rig.models[0]() is not None:
            await asyncio.sleep(0.001)

    play(scenario)


def test_a_version_that_cannot_be_loaded_anew_goes_on_answering() -> None:
    """The report has the error beside AVAILABLE."""

    async def scenario(rig: Rig) -> None:
        await rig.apply(assigned(ONE))
        rig.fail[ONE] = DukouError(Reason.ARTIFACT_UNREADABLE, path="m.onnx", detail="cut short")
        await rig.apply(assigned(ONE, attempt=1))
        told = rig.report(ONE)

        assert (told.state, told.attempt) == (State.AVAILABLE, 1)
        assert told.error == "model 'iris', version 1: m.onnx: cut short"
        assert told.signatures == SIGNATURES
        assert await rig.ask(1) == 10
        del rig.fail[ONE]
        await rig.apply(assigned(ONE, attempt=2))
        assert await rig.ask(1) == 12

    play(scenario)


def test_a_version_that_fails_to_load_touches_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is END with the reason; what is no DukouError is logged and told as INTERNAL."""

    async def scenario(rig: Rig) -> None:
        rig.fail[TWO] = ValueError("a defect")
        await rig.apply(assigned(TWO), assigned(ONE))

        assert rig.states() == {2: State.END, 1: State.AVAILABLE}
        assert "the server failed" in rig.report(TWO).error
        assert await rig.ask(1) == 10

    play(scenario)

    assert "a defect" in caplog.text


def test_loading_has_a_time_limit() -> None:
    """A load that hangs is given up, and what hangs keeps neither its place nor others waiting."""

    async def scenario(rig: Rig) -> None:
        go = rig.hold[TWO] = threading.Event()
        await rig.apply(assigned(TWO), assigned(ONE))

        assert rig.report(TWO).error == "model 'iris', version 2: it was not loaded within 0.05 s"
        assert await rig.ask(1) == 10
        go.set()

    play(scenario, load_timeout_s=0.05)


def test_while_it_loads_the_loop_gets_the_interpreter_sooner() -> None:
    """A thread that computes in Python gives way after half a millisecond, until nothing loads any more."""
    usual_s = sys.getswitchinterval()

    async def scenario(rig: Rig) -> None:
        go = rig.hold[ONE] = threading.Event()
        loading = rig.apply(assigned(ONE))
        await asyncio.to_thread(rig.opening.wait, LIMIT_S)

        assert sys.getswitchinterval() < usual_s
        go.set()
        await loading
        assert sys.getswitchinterval() == usual_s

    play(scenario)
