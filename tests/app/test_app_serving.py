"""What serving a packed model opens and imports, and how a server ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from app_server import Server

ROW = '{"X": [[5.1, 3.5, 1.4, 0.2]]}'

WATCHED = """
import asyncio, json, sys
from pathlib import Path

opened, unpickled = [], []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
    if event == "pickle.find_class":
        unpickled.append(arguments)

async def main(state, folder):
    from dukou.app.host import Host
    from dukou.config import Config
    from dukou.core.link import Assignment
    from dukou.core.message import Context
    from dukou.core.version import ModelRef, ModelVersion
    from dukou.wire import plain
    sys.addaudithook(watch)
    host = Host(Config(), Path(state), 0)
    reports = await host.apply([Assignment(ModelVersion("iris", 1), folder, 1)])
    served = host.engine.choose(ModelRef("iris"), "")
    draft = plain.parse(ModelRef("iris"), {}, b'{"X": [[5.1, 3.5, 1.4, 0.2]]}')
    response = await served.stage.infer(plain.bind(draft, served, Context()))
    host.close()
    print(json.dumps({
        "answer": response.outputs["label"].tolist(),
        "opened": [name for name in opened if name.startswith(folder)],
        "unpickled": len(unpickled),
        "sklearn": "sklearn" in sys.modules,
        "pickle_libraries": sorted({"joblib", "skl2onnx", "pandas", "scipy"} & set(sys.modules)),
    }))

asyncio.run(main(*sys.argv[1:]))
"""


def test_serving_a_packed_model_opens_only_the_onnx_file(repository: Path, tmp_path: Path) -> None:
    """No pickle is read, scikit-learn is not imported; of the version's files only manifest and graph are opened."""
    folder = repository / "iris" / "1"

    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path), str(folder)], capture_output=True, text=True, check=True
    )

    said = json.loads(done.stdout)
    assert said["answer"] == [0]
    assert {Path(name).name for name in said["opened"]} <= {"manifest.toml", "model.onnx"}
    assert said["unpickled"] == 0
    assert said["sklearn"] is False
    assert said["pickle_libraries"] == []


@pytest.mark.socket
@pytest.mark.slow
def test_sigterm_answers_what_was_taken_and_exits_0(repository: Path) -> None:
    """Requests under way get their answers; the port is free afterwards."""
    with Server(repository, "--port", "0") as server:
        assert server.post("/predict", ROW).json() == {"y_pred": [0]}
        url = server.url

        code = server.stop()

    assert code == 0
    with pytest.raises(requests.ConnectionError):
        requests.post(url + "/predict", data=ROW, timeout=5)


@pytest.mark.socket
@pytest.mark.slow
def test_the_source_documents_client_works_word_for_word(iris_file: Path, tmp_path: Path) -> None:
    """`dukou serve model.joblib --port 5000` in place of the Flask app: the same request, the same answer."""
    with Server(iris_file, "--port", "0", environment={"DUKOU_MODELS__CACHE_DIR": str(tmp_path)}) as server:
        answer = requests.post(
            server.url + "/predict", json={"X": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}, timeout=20
        )

    assert answer.status_code == 200
    assert answer.json() == {"y_pred": [0, 2]}


@pytest.mark.socket
@pytest.mark.slow
def test_counts_are_those_of_all_workers_and_survive_one(repository: Path) -> None:
    """Whatever worker answers /metrics, and whichever has died, the sum is right."""
    with Server(repository, "--port", "0", "--workers", "2") as server:
        for _ in range(20):
            requests.post(server.url + "/predict", data=ROW, timeout=20)  # a connection each, spread over the workers
        requests.post(server.url + "/predict", data="{", timeout=20)

        text = requests.get(server.url + "/metrics", timeout=20).text

    assert 'dukou_requests_total{model="iris",version="1"} 20.0' in text
    assert 'dukou_request_errors_total{code="INVALID_ARGUMENT",model="",version=""} 1.0' in text
    assert "dukou_workers 2.0" in text


@pytest.mark.socket
@pytest.mark.slow
def test_a_unix_socket_is_served(repository: Path, tmp_path: Path) -> None:
    """`--listen unix:/path` answers there."""
    import http.client
    import socket

    path = tmp_path / "dukou.sock"
    with Server(repository, "--listen", f"unix:{path}"):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("POST", "/predict", ROW)
        answer = connection.getresponse().read()
        connection.close()

    assert json.loads(answer) == {"y_pred": [0]}
