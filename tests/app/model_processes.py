"""Real model processes for tests: a Python model that fails, hangs and dies as its input says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from dukou.app.program import SETTINGS, program
from dukou.config import Config, ModelsConfig
from dukou.control.replicas import Replica, Replicas
from dukou.core.comparison import Comparison, merge
from dukou.core.link import Assignment, LoadReport
from dukou.core.version import ModelVersion, State

VERSION = ModelVersion("sum", 2)
LIMIT_S = 60.0
REFUSED, DIES, HANGS = 100.0, 200.0, 300.0

CODE = """
import os, signal, time

class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1]), "positive": ("BOOL", [-1])}
    independent_rows = True

    def predict(self, inputs):
        largest = inputs["x"].max()
        if largest == 300.0:
            time.sleep(1000)
        if largest == 200.0:
            os.kill(os.getpid(), signal.SIGKILL)
        if largest == 100.0:
            raise ValueError("a secret")
        total = inputs["x"].sum(axis=1)
        return {"y": total, "positive": total > 0}
"""


class Kept:
    """A model process under test, and what was told of it."""

    def __init__(self, folder: Path, code: str = CODE) -> None:
        self.address = str(folder / "m.sock")
        self.reports: asyncio.Queue[LoadReport] = asyncio.Queue()
        self.compared = Comparison()
        self.news = asyncio.Event()
        (folder / SETTINGS).write_bytes(msgspec.json.encode(Config(models=ModelsConfig(trust_python=True))))
        (folder / "2").mkdir()
        (folder / "2" / "model.py").write_text(code)
        self.replica = Replica(Assignment(VERSION, str(folder / "2"), 1, process=self.address))
        self.replicas = Replicas(
            lambda link_fd, address: program("_model", str(folder), str(link_fd), address),
            lambda _, report: self.reports.put_nowait(report),
            self._add,
        )

    def _add(self, version: ModelVersion, comparison: Comparison) -> None:
        assert version == VERSION
        self.compared = merge(self.compared, comparison)
        self.news.set()

    async def until(self, state: State) -> LoadReport:
        """The next report of this state."""
        while (report := await self.reports.get()).state is not state:
            pass
        return report

    async def until_rows(self, rows: int) -> Comparison:
        """What was compared, once it is so many rows."""
        while self.compared.rows < rows:
            self.news.clear()
            await self.news.wait()
        return self.compared


@asynccontextmanager
async def kept(folder: Path, code: str = CODE) -> AsyncIterator[Kept]:
    """A model process that is AVAILABLE, and gone afterwards."""
    under_test = Kept(folder, code)
    async with asyncio.timeout(LIMIT_S):
        running = asyncio.create_task(under_test.replicas.run())
        under_test.replicas.apply({VERSION: under_test.replica})
        try:
            await under_test.until(State.AVAILABLE)
            yield under_test
        finally:
            under_test.replicas.stop()
            await running
