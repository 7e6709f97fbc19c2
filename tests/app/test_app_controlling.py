"""The control plane put together."""

import logging
from contextlib import closing
from pathlib import Path

import pytest

from dukou.app.controlling import Controlling
from dukou.config import Config
from dukou.core.link import Applied, Apply


def test_what_goes_wrong_there_does_not_end_who_keeps_the_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Hearing of a worker raises nothing, whatever follows from it; the log has it."""

    def publish(table: Apply) -> int:
        raise RuntimeError("a defect")

    with (
        closing(Controlling(Config(), tmp_path, (), publish)) as controlling,
        caplog.at_level(logging.ERROR, "dukou.control"),
    ):
        controlling.heard(Applied(1, ()))
        controlling.freed(1)

    assert [record.exc_info is not None for record in caplog.records] == [True, True]
