"""The source document's update of a model (its section 3.3), run as it is written."""

import re
import subprocess
from pathlib import Path

import pytest
from app_server import LIMIT_S, Server
from onnx import TensorProto, helper, save

pytestmark = [pytest.mark.socket, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "document_update.sh"


def save_times(folder: Path, factor: float) -> None:
    """An ONNX model, as it stands: y = factor * x, a row each."""
    folder.mkdir(parents=True)
    row = ["rows", 1]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, folder / "model.onnx")


def test_the_update_of_the_document_runs_as_it_is_written(tmp_path: Path) -> None:
    """Copy, config, reload: with its three commands version 2 answers beside version 1, and no call fails.

    Its folder is called `2`, as the number of a version is the name of its folder; `/models` and the port are ours.
    """
    models = tmp_path / "models"
    save_times(models / "mnist" / "1", 1.0)
    save_times(tmp_path / "2", 2.0)
    config = models / "mnist" / "mnist_config.txt"
    first = re.sub(r"(?<!v1)/models/", f"{models}/", SCRIPT.read_text(encoding="utf-8"))
    text = first.partition('echo "')[2].partition('"')[0].replace("versions: 2", "")
    config.write_text(text, encoding="utf-8")
    asked = '{"instances": [[3.0]]}'

    with Server("--model_config_file", config, "--port", "0") as server:
        before = server.post("/v1/models/mnist:predict", asked).json()
        script = first.replace("new_model_dir", "2").replace("http://localhost:8501", server.url)
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        after = server.post("/v1/models/mnist:predict", asked).json()
        old = server.post("/v1/models/mnist/versions/1:predict", asked).json()
        states = server.get("/v1/models/mnist").json()["model_version_status"]

    assert before == {"predictions": [[3.0]]}
    assert "AVAILABLE" in done.stdout
    assert after == {"predictions": [[6.0]]}
    assert old == {"predictions": [[3.0]]}
    assert [(one["version"], one["state"]) for one in states] == [("2", "AVAILABLE"), ("1", "AVAILABLE")]


def test_a_reload_of_a_bad_config_changes_nothing(tmp_path: Path) -> None:
    """It is answered with the line that is wrong, and what was served before still is."""
    save_times(tmp_path / "mnist" / "1", 1.0)
    config = tmp_path / "mnist.config"
    entry = f"config {{ name: 'mnist' base_path: '{tmp_path}/mnist' model_platform: 'tensorflow' }}"
    config.write_text(f"model_config_list {{ {entry} }}", encoding="utf-8")

    with Server("--model_config_file", config, "--port", "0") as server:
        config.write_text(f"model_config_list {{\n {entry}\n bad: 1\n}}", encoding="utf-8")
        refused = server.post("/v1/models/mnist/versions/1/reload", "")
        after = server.post("/v1/models/mnist:predict", '{"instances": [[3.0]]}').json()

    assert refused.status_code == 400
    assert "line 3" in refused.json()["error"]
    assert after == {"predictions": [[3.0]]}


def test_a_version_that_is_missing_is_told(tmp_path: Path) -> None:
    """The reload of what nobody has copied."""
    save_times(tmp_path / "mnist" / "1", 1.0)
    config = tmp_path / "mnist.config"
    entry = f"config {{ name: 'mnist' base_path: '{tmp_path}/mnist' model_platform: 'tensorflow' }}"
    config.write_text(f"model_config_list {{ {entry} }}", encoding="utf-8")

    with Server("--model_config_file", config, "--port", "0") as server:
        refused = server.post("/v1/models/mnist/versions/2/reload", "")

    assert refused.status_code == 404
    assert refused.json() == {"error": "Servable not found for request: Specific(mnist, 2)"}
