"""A real server while its repository changes: by hand, by halves, in place, away, and by links to elsewhere."""

import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from app_server import LIMIT_S, Server
from onnx import TensorProto, helper, numpy_helper

pytestmark = [pytest.mark.socket, pytest.mark.slow]


def adds(number: float, path: Path) -> Path:
    """An ONNX file that adds `number`."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in "xy")
    constant = numpy_helper.from_array(np.float32([number]), "number")
    graph = helper.make_graph([helper.make_node("Add", ["x", "number"], ["y"])], "adds", [x], [y], [constant])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def answer(server: Server, model: str = "m") -> float:
    """What the model adds."""
    response = server.post(f"/v1/models/{model}:predict", '{"instances": [0.0]}')
    assert response.status_code == 200, response.text
    number: float = response.json()["predictions"][0]
    return number


def state_of(server: Server, model: str, version: int) -> tuple[str, str]:
    """A version's state once it is AVAILABLE or END, and why it is not served."""
    give_up_s = time.monotonic() + LIMIT_S
    while time.monotonic() < give_up_s:
        said = server.get(f"/v1/models/{model}/versions/{version}").json().get("model_version_status")
        if said and said[0]["state"] in {"AVAILABLE", "END"}:
            return said[0]["state"], said[0]["status"]["error_message"]
    raise AssertionError(f"version {version} of {model} is {said}")


def test_a_repository_changes_while_it_is_served(tmp_path: Path) -> None:
    """Complete versions are served, what is not one is told, and calls are answered all the time."""
    root = tmp_path / "models"
    adds(1.0, root / "m" / "1" / "model.onnx")
    with Server(root, "--port", "0") as server:
        assert answer(server) == 1.0

        # Half a copy is not there; the other half makes it whole.
        adds(2.0, root / "m" / "2" / "model.onnx.part")
        server.await_line(r"has the name of an unfinished file")
        assert answer(server) == 1.0
        (root / "m" / "2" / "model.onnx.part").rename(root / "m" / "2" / "model.onnx")
        server.await_line(r"m is answered by version 2")
        assert answer(server) == 2.0

        # A version that is changed in place goes on as it was loaded.
        adds(20.0, tmp_path / "other.onnx").replace(root / "m" / "2" / "model.onnx")
        server.await_line(r"version 2 was changed in place; it is ignored until it is reloaded")
        assert answer(server) == 2.0

        # One that is deleted while it serves is let go for the one before.
        shutil.rmtree(root / "m" / "2")
        server.await_line(r"model 'm', version 2 is not in the repository any more; it is unloaded")
        server.await_line(r"m is answered by version 1")
        assert answer(server) == 1.0

        # A link that leads out of the repository is refused.
        adds(30.0, tmp_path / "outside" / "3" / "model.onnx")
        (root / "m" / "3").symlink_to(tmp_path / "outside" / "3")
        server.await_line(r"it is a symbolic link that leads out of")
        state, why = state_of(server, "m", 3)
        assert state == "END"
        assert "leads out of" in why
        assert answer(server) == 1.0

        # One that cannot be loaded leaves the others alone, and is loaded once it is mended.
        (root / "m" / "4").mkdir()
        (root / "m" / "4" / "model.onnx").write_text("no model")
        assert state_of(server, "m", 4)[0] == "END"
        assert answer(server) == 1.0
        adds(4.0, root / "m" / "4" / "model.onnx")
        server.await_line(r"m is answered by version 4")
        assert answer(server) == 4.0

        # Another model may come.
        adds(5.0, root / "n" / "00000007" / "any.onnx")
        assert state_of(server, "n", 7)[0] == "AVAILABLE"
        assert answer(server, "n") == 5.0
