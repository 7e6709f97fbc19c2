"""What operators ask for, with workers that do as they are told when the test says so."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest
from control_rig import NAME, OPERATOR, Rig

from dukou.app.following import Following
from dukou.app.operating import Operating
from dukou.config import ModelsConfig
from dukou.control.store import Store
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Applied, LoadReport
from dukou.core.verb import ReloadFile
from dukou.core.version import State
from dukou.lifecycle.wanted import Declared

A_WHILE = 20
"""Turns of the loop."""


def test_a_reload_that_asks_for_a_version_that_is_not_wanted_is_refused_at_once(tmp_path: Path) -> None:
    """As soon as what is wanted is served: nothing would ever load it."""
    folder = tmp_path / "m"
    for number in ("1", "2"):
        (folder / number).mkdir(parents=True)
        (folder / number / "model.onnx").write_text("taken for one by workers that do as they are told")
    file = tmp_path / "models.config"
    file.write_text(f'model_config_list {{ config {{ name: "{NAME}" base_path: "{folder}" model_platform: "onnx" }} }}')

    async def scenario(rig: Rig) -> None:
        config = ModelsConfig(config_file=str(file))
        following = Following(rig.plane, config, ())
        operating = Operating(rig.plane, following, config, load_timeout_s=3600.0, wall_clock=lambda: 1e9)
        await following.begin()
        rig.plane.reconcile()
        rig.settle()
        async with asyncio.timeout(20.0):
            await operating.do(ReloadFile(NAME, 1), "a caller")

    with closing(Store.open(tmp_path / "store.db")) as store, pytest.raises(DukouError) as refused:
        asyncio.run(scenario(Rig(store)))

    assert refused.value.reason is Reason.LOAD_FAILED
    assert "it is not wanted by the configuration" in str(refused.value)


async def turns() -> None:
    for _ in range(A_WHILE):
        await asyncio.sleep(0)


def test_a_rollback_returns_when_the_version_before_answers(tmp_path: Path) -> None:
    """Not while that one is still loaded, as it was not kept, and the bad one goes on."""

    async def scenario(rig: Rig) -> tuple[bool, int | None]:
        config = ModelsConfig()
        following = Following(rig.plane, config, ())
        operating = Operating(rig.plane, following, config, load_timeout_s=1.0, wall_clock=lambda: 1e9)
        rig.declare(Declared(NAME), 1)
        rig.declare(Declared(NAME), 1, 2)
        going_back = asyncio.create_task(operating.rollback(NAME, OPERATOR))
        await turns()
        rig.plane.heard(
            Applied(
                len(rig.tables),
                tuple(
                    LoadReport(one.id, State.LOADING if one.id.version == 1 else one.wanted)
                    for one in rig.tables[-1].assignments
                ),
            )
        )
        await turns()
        early = going_back.done()
        rig.settle()
        status = await going_back
        return early, next((one.version for one in status.versions if one.share == 1.0), None)

    with closing(Store.open(tmp_path / "store.db")) as store:
        early, answers = asyncio.run(scenario(Rig(store)))

    assert not early
    assert answers == 1
