"""From the folder of a version to a model in memory."""

from pathlib import Path

import pytest

from dukou.app.opening import bare, open_assigned, open_version
from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Assignment
from dukou.core.version import ModelVersion


def test_a_version_is_called_as_it_is_assigned_and_the_operators_options_win(repository: Path) -> None:
    """Whatever its manifest says."""
    assignment = Assignment(ModelVersion("flowers", 7), str(repository / "iris" / "1"), 1, {"warm": True})

    opened = open_version(assignment, ModelsConfig(warm=False))

    assert opened.manifest.id == ModelVersion("flowers", 7)
    assert opened.manifest.options["warm"] is True
    assert opened.warnings == ()


def test_a_model_process_that_is_not_there_serves_nothing(repository: Path, tmp_path: Path) -> None:
    """It is asked once before the version counts as opened."""
    process = str(tmp_path / "nobody.sock")
    assignment = Assignment(ModelVersion("iris", 1), str(repository / "iris" / "1"), 1, process=process)

    with pytest.raises(DukouError) as caught:
        open_assigned(assignment, ModelsConfig())

    assert caught.value.reason is Reason.NOT_SERVING


def test_of_a_version_that_is_not_opened_nothing_but_its_name_is_known() -> None:
    """It can stand in a table all the same."""
    manifest = bare(ModelVersion("iris", 2))

    assert (manifest.id, manifest.runtime, dict(manifest.signatures)) == (ModelVersion("iris", 2), "", {})


def test_an_option_that_nothing_reads_is_warned_of(repository: Path) -> None:
    """With the option that was perhaps meant."""
    assignment = Assignment(ModelVersion("iris", 1), str(repository / "iris" / "1"), 1, {"thread": 2, "warm": False})

    warnings = open_version(assignment, ModelsConfig()).warnings

    assert warnings == ("models.options.iris.thread: there is no such option; did you mean threads?",)
