"""tensorflow-serving-api changes what a live server serves, as it does with tensorflow_model_server."""

import numpy as np
import pytest
from client_programs import Saw, python
from clients_models import save
from onnx import helper

from app.app_server import Server

pytestmark = [pytest.mark.clients, pytest.mark.socket, pytest.mark.slow]

OK = [True, 0, ""]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Saw:
    folder = tmp_path_factory.mktemp("reload")
    for name, version in (("slope", 1), ("slope", 2), ("other", 1)):
        nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
        factor = {"factor": np.array([float(version)])}
        save(folder / name / str(version), nodes, ("x", ["rows"]), ("y", ["rows"]), factor)
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "model.onnx").write_bytes(b"nothing of the kind")
    config = folder / "models.config"
    config.write_text(
        f"model_config_list {{ config {{ name: 'slope' base_path: '{folder}/slope' model_platform: 'tensorflow' }} }}",
        encoding="utf-8",
    )
    with Server(f"--model_config_file={config}", "--port=0") as server:
        return python("tensorflow", "config_reload.py", server.url.removeprefix("http://"), str(folder))


def test_the_file_says_what_is_served(seen: Saw) -> None:
    """The latest version and no other."""
    assert seen("before") == [2.0, "NOT_FOUND"]


def test_a_model_is_added(seen: Saw) -> None:
    """The call returns when it answers, with a status that says so; the others are not touched."""
    assert seen("add_a_model") == ["NOT_FOUND", OK, 1.0, 2.0]


def test_a_policy_is_changed(seen: Saw) -> None:
    """Versions come and go; the highest answers."""
    assert seen("change_a_policy") == [[[1], 1.0], [[1, 2], 2.0], [[2], 2.0]]


def test_a_label_is_moved_in_two_steps(seen: Saw) -> None:
    """Not before its version is loaded; a refusal changes nothing, versions included."""
    first, refusal, after, loaded, moved, alone = seen("move_a_label")

    assert (first, loaded, moved) == (1.0, 1.0, 2.0)
    assert refusal == [
        "FAILED_PRECONDITION",
        "Request to assign label to version 2 of model slope, which is not currently available for inference",
    ]
    assert after[0] == 1.0
    assert after[1] == "NOT_FOUND"
    assert alone == [2.0, "NOT_FOUND"]


def test_bad_configs_change_nothing(seen: Saw) -> None:
    """Each is refused in that server's words; its file systems are not ours."""
    refusals, slope, other = seen("bad_configs")

    assert {code for code, _ in refusals} == {"INVALID_ARGUMENT"}
    for (_, text), word in zip(
        refusals,
        ["multiple times", "absolute path", "setting neither", "Illegal to change", "unsupported platform", "s3://"],
        strict=True,
    ):
        assert word in text
    assert (slope, other) == (2.0, "NOT_FOUND")


def test_a_model_that_does_not_load_is_told(seen: Saw) -> None:
    """And the rest of the config is in force."""
    code, named, slope, other, broken = seen("a_model_that_does_not_load")

    assert code not in {"OK", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED"}
    assert named
    assert (slope, other) == (2.0, 1.0)
    assert broken in {"NOT_FOUND", "UNAVAILABLE"}


def test_models_that_are_absent_are_unloaded(seen: Saw) -> None:
    """All of them, if there are none."""
    slope, other, nothing = seen("absent_models_are_unloaded")

    assert slope in {"NOT_FOUND", "UNAVAILABLE"}
    assert other == 1.0
    assert nothing in {"NOT_FOUND", "UNAVAILABLE"}


def test_a_base_path_may_be_an_address(seen: Saw) -> None:
    """Of a local file."""
    assert seen("by_an_address") == [OK, 2.0]
