"""A model inside a program: what `close` does to calls, and calls to a closed model."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import dukou
from dukou.app import embed
from dukou.core.errors import DukouError, Reason

ROW = [[5.1, 3.5, 1.4, 0.2]]
LIMIT_S = 20.0
RUN_S = 0.005
"""So long that it is run in a thread."""


class Gated:
    """A loaded model whose runs wait for `gate`."""

    concurrency = 1
    holds_gil = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def infer(self, *arguments: Any) -> Any:
        self.entered.set()
        time.sleep(RUN_S)
        assert self.gate.wait(LIMIT_S)
        return self.model.infer(*arguments)


class Call(threading.Thread):
    """`predict` in a thread: its labels or its error."""

    def __init__(self, predict: Callable[[Any], Any]) -> None:
        super().__init__(daemon=True)
        self.predict = predict
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.predict(ROW).tolist()
        except DukouError as error:
            self.outcome = error.reason


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> list[Gated]:
    """The models that are opened from now on."""
    opened: list[Gated] = []
    real = embed.open_version

    def opening(*arguments: Any) -> Any:
        version = real(*arguments)
        opened.append(Gated(version.model))
        return msgspec.structs.replace(version, model=opened[-1])

    monkeypatch.setattr(embed, "open_version", opening)
    return opened


def test_a_closed_model_says_so(repository: Path) -> None:
    """A DukouError, as often as it is asked; closing again does nothing."""
    with dukou.load(repository / "iris") as model:
        assert model.predict(ROW).tolist() == [0]

    model.close()
    for _ in range(2):
        with pytest.raises(DukouError, match="closed"):
            model.predict(ROW)


def test_close_finishes_what_runs_and_answers_what_waits(repository: Path, gated: list[Gated]) -> None:
    """Nobody is left waiting: the call that the model has gets its labels, the one behind it an error."""
    model = dukou.load(repository / "iris")
    gated[0].entered.clear()
    gated[0].gate.clear()
    running = Call(model.predict)
    assert gated[0].entered.wait(LIMIT_S)
    waiting = Call(model.predict)
    while len(asyncio.all_tasks(model._loop)) < 2:
        time.sleep(0.001)
    closing = threading.Thread(target=model.close)
    closing.start()
    waiting.join(LIMIT_S)
    gated[0].gate.set()
    running.join(LIMIT_S)
    closing.join(LIMIT_S)

    assert running.outcome == [0]
    assert waiting.outcome is Reason.DRAINING
    assert not closing.is_alive()


def test_a_model_that_fails_to_warm_up_leaves_no_thread(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop and its thread end with the error."""
    before = set(threading.enumerate())

    async def failing(self: Any) -> None:
        raise DukouError(Reason.MODEL_FAILED)

    monkeypatch.setattr("dukou.engine.batcher.Batcher.warm", failing)
    with pytest.raises(DukouError, match="failed"):
        dukou.load(repository / "iris")

    assert set(threading.enumerate()) <= before
