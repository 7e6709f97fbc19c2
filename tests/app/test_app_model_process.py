"""A version in a process of its own: asked, compared, killed, hung, started again."""

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_processes import CODE, DIES, HANGS, REFUSED, VERSION, Kept, kept
from numpy.typing import NDArray

from dukou.app.answering import Answering
from dukou.app.model_process import Door
from dukou.app.opening import open_version
from dukou.config import ModelsConfig
from dukou.core.comparison import Tally
from dukou.core.errors import DukouError, Reason
from dukou.core.event import CopiesSent, Event
from dukou.core.link import CompareBy
from dukou.core.message import Copy
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion, State
from dukou.core.route import Shadow
from dukou.engine.replica import RemoteModel
from dukou.engine.shadow import Shadowing
from dukou.testing.models import FunctionModel, manifest

pytestmark = [pytest.mark.socket, pytest.mark.slow]

OUTPUTS = ("y", "positive")


def rows(*firsts: float) -> dict[str, NDArray[Any]]:
    """Inputs, a row `[first, 1]` each."""
    return {"x": np.array([[first, 1.0] for first in firsts], np.float32)}


def copy_of(*firsts: float) -> Copy:
    """What a primary answered that says 0 to everything."""
    count = len(firsts)
    outputs = {"y": np.zeros(count, np.float32), "positive": np.zeros(count, np.bool_)}
    return Copy(ModelVersion("sum", 1), DEFAULT_SIGNATURE, rows(*firsts), outputs, count, {}, 1e-4)


def remote(under_test: Kept, **settings: Any) -> RemoteModel:
    return RemoteModel(under_test.address, manifest("sum", 2), **settings)


async def ask(model: RemoteModel, *firsts: float) -> Mapping[str, NDArray[Any]]:
    """One call, in a thread as an executor makes it."""
    return await asyncio.to_thread(model.infer, DEFAULT_SIGNATURE, rows(*firsts), OUTPUTS, {})


def test_calls_are_answered_as_in_process(tmp_path: Path) -> None:
    """To the bit; several at a time; over one connection after the other."""

    async def scenario() -> None:
        async with kept(tmp_path) as under_test:
            local = open_version(under_test.replica.assignment, ModelsConfig(trust_python=True)).model
            model = remote(under_test)

            answers = await asyncio.gather(*[ask(model, float(n), -float(n)) for n in range(12)])

            for n, answer in enumerate(answers):
                wanted = local.infer(DEFAULT_SIGNATURE, rows(float(n), -float(n)), OUTPUTS, {})
                assert {name: array.tolist() for name, array in answer.items()} == {
                    name: array.tolist() for name, array in wanted.items()
                }
            model.close()

    asyncio.run(scenario())


def test_the_models_errors_are_told_and_its_own_text_is_not(tmp_path: Path) -> None:
    """As in process: MODEL_FAILED; a call after it is answered."""

    async def scenario() -> None:
        async with kept(tmp_path) as under_test:
            model = remote(under_test)

            with pytest.raises(DukouError) as raised:
                await ask(model, REFUSED)

            assert raised.value.reason is Reason.MODEL_FAILED
            assert "secret" not in str(raised.value)
            assert (await ask(model, 1.0))["y"].tolist() == [2.0]
            model.close()

    asyncio.run(scenario())


def test_a_process_that_dies_in_a_call_is_not_serving_until_it_is_back(tmp_path: Path) -> None:
    """The call under way is told at once; the next one after its start is answered, by a new connection."""

    async def scenario() -> None:
        async with kept(tmp_path) as under_test:
            model = remote(under_test)
            await ask(model, 1.0)

            with pytest.raises(DukouError) as raised:
                await ask(model, DIES)

            assert raised.value.reason is Reason.NOT_SERVING
            report = await under_test.until(State.LOADING)
            assert "SIGKILL" in report.error
            await under_test.until(State.AVAILABLE)
            assert (await ask(model, 1.0))["y"].tolist() == [2.0]
            model.close()

    asyncio.run(scenario())


def test_a_call_that_hangs_ends_in_time(tmp_path: Path) -> None:
    """The others' connections are not touched by it."""

    async def scenario() -> None:
        async with kept(tmp_path) as under_test:
            model = remote(under_test, timeout_s=0.2)

            with pytest.raises(DukouError) as raised:
                await ask(model, HANGS)

            assert raised.value.reason is Reason.DEADLINE_EXCEEDED
            model.close()

    asyncio.run(scenario())


def test_copies_are_compared_and_one_rows_fault_is_counted_alone(tmp_path: Path) -> None:
    """Of four rows one is refused, two disagree; the same by slices."""
    told: list[Event] = []

    async def scenario() -> None:
        async with kept(tmp_path) as under_test:
            loop = asyncio.get_running_loop()
            shadowing = Shadowing(Shadow(2, under_test.address), VERSION, loop, [told.append], beat_s=0.01)

            shadowing(copy_of(1.0, REFUSED, -1.0, 2.0))

            found = await under_test.until_rows(4)
            shadowing.close()
            assert (found.copies, found.rows, found.failed, found.disagreed) == (1, 4, 1, 3)
            assert found.labels["positive"].confusion == {"False": {"False": 1, "True": 2}}
            assert found.numbers["y"].values == 3
            assert (sum(found.primary_s), sum(found.candidate_s)) == (1, 0)

    asyncio.run(scenario())
    assert told == [CopiesSent(VERSION, 1, 0)]


def test_what_it_compares_by_can_be_changed(tmp_path: Path) -> None:
    """The process goes on; no report comes."""

    async def scenario() -> None:
        async with kept(
            tmp_path, CODE.replace('"x": ("FP32", [-1, 2])', '"x": ("FP32", [-1, 2]), "who": ("BYTES", [-1])')
        ) as under_test:
            changed = type(under_test.replica)(under_test.replica.assignment, slice_by="who", tolerance=10.0)
            under_test.replicas.apply({VERSION: changed})
            shadowing = Shadowing(Shadow(2, under_test.address), VERSION, asyncio.get_running_loop())
            copy = copy_of(-1.0, -1.5)
            who = np.array(["a", "b"], object)

            shadowing(Copy(copy.version, copy.signature, {**copy.inputs, "who": who}, copy.outputs, 2))

            found = await under_test.until_rows(2)
            shadowing.close()
            assert found.slices == {"a": Tally(1, 0), "b": Tally(1, 0)}
            assert under_test.reports.empty()

    asyncio.run(scenario())


def test_a_signature_that_the_candidate_does_not_have_fails(tmp_path: Path) -> None:
    """All rows of it."""

    async def scenario() -> None:
        async with kept(tmp_path) as under_test:
            shadowing = Shadowing(Shadow(2, under_test.address), VERSION, asyncio.get_running_loop())
            copy = copy_of(1.0, 2.0)
            copy.signature = "other"

            shadowing(copy)

            found = await under_test.until_rows(2)
            shadowing.close()
            assert (found.failed, found.disagreed) == (2, 2)

    asyncio.run(scenario())


def test_only_its_owner_may_ask_it(tmp_path: Path) -> None:
    """The socket has mode 0600, and is gone with the process."""

    async def scenario() -> None:
        async with kept(tmp_path) as under_test:
            assert stat.S_IMODE(os.stat(under_test.address).st_mode) == 0o600
        assert not os.path.exists(under_test.address)

    asyncio.run(scenario())


def test_a_version_that_cannot_be_loaded_is_told_and_not_tried_again(tmp_path: Path) -> None:
    """Until its assignment changes."""

    async def scenario() -> None:
        under_test = Kept(tmp_path, "class Model: pass")
        async with asyncio.timeout(60.0):
            running = asyncio.create_task(under_test.replicas.run())
            under_test.replicas.apply({VERSION: under_test.replica})

            report = await under_test.until(State.END)

            assert "'sum', version 2" in report.error
            under_test.replicas.stop()
            await running
            assert under_test.reports.empty()

    asyncio.run(scenario())


def test_an_address_that_cannot_be_is_told(tmp_path: Path) -> None:
    """With the path; the version cannot be served there."""

    async def scenario() -> None:
        folder = tmp_path / ("a" * 100)
        folder.mkdir()
        under_test = Kept(folder)
        async with asyncio.timeout(60.0):
            running = asyncio.create_task(under_test.replicas.run())
            under_test.replicas.apply({VERSION: under_test.replica})

            report = await under_test.until(State.END)

            assert f"{folder}/m.sock" in report.error
            assert "path too long" in report.error
            under_test.replicas.stop()
            await running

    asyncio.run(scenario())


def test_a_process_that_goes_leaves_its_successors_socket(tmp_path: Path) -> None:
    """A server that was killed leaves a model process behind, which may still be there when the next one listens."""
    address = tmp_path / "model.sock"
    answering = Answering(manifest("m", 1), FunctionModel(lambda inputs: inputs), CompareBy())
    old = Door(str(address), answering)
    new = Door(str(address), answering)

    old.close()
    left = address.exists()
    new.close()

    assert left
    assert not address.exists()
