"""A real server of versions that stand as they are: labels, streams, warnings, code that has to be trusted, the end."""

import json
from pathlib import Path

import pytest
from app_server import Server, run

from dukou.testing.conformance import build_models

pytestmark = pytest.mark.socket

COUNT = """
class Model:
    inputs = {"n": ("INT64", [1])}
    outputs = {"i": ("INT64", [1])}

    def load(self, context):
        self.folder = context.folder

    def predict(self, inputs):
        for i in range(inputs["n"][0]):
            if i == 3:
                raise ValueError("a secret")
            yield {"i": [i]}

    def unload(self):
        (self.folder / "unloaded").touch()
"""
LABELS = "models.labels={half_plus_two = {stable = 123}}"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conformance models, one of them with a field that has no effect, and a Python model."""
    root = tmp_path_factory.mktemp("repository")
    build_models(root)
    with (root / "addsub" / "config.pbtxt").open("a") as config:
        config.write("response_cache { enable: true }\n")
    (root / "count").mkdir()
    (root / "count" / "model.py").write_text(COUNT)
    return root


def test_a_mixed_repository_is_served_to_its_end(repository: Path) -> None:
    """Labels, a stream that fails half-way, one answer refused, warnings at the start, `unload` at the end."""
    counted = '{"n": [%d]}'
    asked = '{"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [2]}]}'

    with Server(repository, "--port", "0", "--trust-python", "--set", LABELS) as server:
        labelled = server.post("/v1/models/half_plus_two/labels/stable:predict", '{"instances": [2.0]}')
        events = server.post("/v2/models/count/generate_stream", counted % 5).text.split("\n\n")
        refused = server.post("/v2/models/count/infer", asked)
        statistics = server.get("/v2/models/count/stats").json()["model_stats"][0]

    assert labelled.json() == {"predictions": [3.0]}
    parts = [json.loads(event.removeprefix("data: ")) for event in events if event]
    assert [part.get("i") for part in parts] == [0, 1, 2, None]
    assert list(parts[-1]) == ["error"]
    assert "secret" not in parts[-1]["error"]
    assert (refused.status_code, "decoupled transaction policy" in refused.text) == (501, True)
    assert statistics["inference_stats"]["fail"]["count"] == 2
    log = "".join(server.log)
    assert "response_cache has no effect here: answers are not cached" in log
    assert "ValueError: a secret" in log
    assert (repository / "count" / "unloaded").exists()


def test_code_that_is_not_trusted_stops_nobody_else(repository: Path) -> None:
    """Its model has failed, with the flag to use, and is named in the warning; the others are served."""
    with Server(repository, "--port", "0") as server:
        state = server.get("/v1/models/count").json()["model_version_status"][0]
        ready = server.get("/v2/models/addsub/ready")
    (warning,) = (line for line in server.log if "--trust-python" in line and line.startswith("warning: "))

    assert state["state"] == "END"
    assert "--trust-python" in state["status"]["error_message"]
    assert ready.status_code == 200
    assert warning.startswith("warning: model 'count', version 1: ")
    assert warning.count("version 1") == 1


def test_a_label_of_a_version_that_is_not_served_ends_the_start(repository: Path) -> None:
    """In one sentence, before anything is loaded."""
    done = run("serve", repository, "--port", "0", "--set", LABELS.replace("123", "7"))

    assert done.returncode != 0
    assert "models.labels.half_plus_two.stable is 7, which is not served; served are: 123" in done.stderr
    assert "Traceback" not in done.stderr
