"""What serving a packed model opens and imports, and how a server ends."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from app_server import Server

from dukou.app.program import program

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
    from dukou.core.link import Apply, Assignment
    from dukou.core.message import Context
    from dukou.core.version import ModelRef, ModelVersion
    from dukou.wire.plain import Plain
    sys.addaudithook(watch)
    host = Host(Config(), Path(state), 0)
    await host.apply(Apply(1, (Assignment(ModelVersion("iris", 1), folder, 1),)))
    served = host.engine.choose(ModelRef("iris"), "")
    plain = Plain()
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
    assert {Path(name).name for name in said["opened"] if Path(name).exists()} <= {"manifest.toml", "model.onnx"}
    assert said["unpickled"] == 0
    assert said["sklearn"] is False
    assert said["pickle_libraries"] == []


@pytest.mark.socket
@pytest.mark.slow
def test_sigterm_answers_what_was_taken_and_exits_0(repository: Path) -> None:
    """A request whose head was taken before the signal sends its body after it, when nobody else is let in any more."""
    body = ROW.encode()
    with Server(repository, "--port", "0") as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=20) as taken:
            taken.sendall(
                b"POST /predict HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            assert taken.recv(1000).startswith(b"HTTP/1.1 100 ")
            server.process.send_signal(signal.SIGTERM)
            await_refusal(address.hostname or "", address.port or 0)

            taken.sendall(body)

            answer = http.client.HTTPResponse(taken)
            answer.begin()
            assert (answer.status, json.loads(answer.read())) == (200, {"y_pred": [0]})
            answer.close()
        assert server.process.wait(30) == 0
        server.stop()  # has ended: this only closes its pipe


def await_refusal(host: str, port: int) -> None:
    """Return once nobody accepts connections there."""
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            return
    raise AssertionError("the server goes on accepting connections")


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

    assert 'dukou_requests_total{model="iris",version="1"} 20' in text
    assert 'dukou_request_errors_total{model="",version="",code="INVALID_ARGUMENT"} 1' in text
    assert "dukou_workers 2\n" in text


@pytest.mark.socket
@pytest.mark.slow
def test_a_unix_socket_is_served(repository: Path, tmp_path: Path) -> None:
    """`--listen unix:/path` answers there."""
    path = tmp_path / "dukou.sock"
    with Server(repository, "--listen", f"unix:{path}"):
        answer = ask_by_unix_socket(path)

    assert answer == {"y_pred": [0]}


def ask_by_unix_socket(path: Path) -> object:
    """The answer to ROW, once a server listens at `path`."""
    until_s = time.monotonic() + 20
    connection = http.client.HTTPConnection("localhost")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection.sock:
        connection.sock.settimeout(20)
        while connection.sock.connect_ex(str(path)) and time.monotonic() < until_s:
            time.sleep(0.01)
        connection.request("POST", "/predict", ROW)
        return json.loads(connection.getresponse().read())


@pytest.mark.socket
@pytest.mark.slow
def test_nobody_needs_to_read_what_it_says(repository: Path, tmp_path: Path) -> None:
    """`dukou serve ... 2>&1 | head -1`: announcements and logs go nowhere, requests are answered, the end is clean."""
    reading, writing = os.pipe()
    os.close(reading)
    address = tmp_path / "dukou.sock"
    server = subprocess.Popen([*program("serve"), repository, "--listen", f"unix:{address}"], stderr=writing)
    os.close(writing)

    first = ask_by_unix_socket(address)
    (worker,) = psutil.Process(server.pid).children()
    worker.kill()
    worker.wait(20)
    second = ask_by_unix_socket(address)
    server.terminate()

    assert (first, second) == ({"y_pred": [0]}, {"y_pred": [0]})
    assert server.wait(20) == 0


@pytest.mark.socket
@pytest.mark.slow
def test_sigterm_while_packing_ends_at_once(iris_file: Path, tmp_path: Path) -> None:
    """The child that packs goes with the server, and leaves nothing half made."""
    server = subprocess.Popen(
        [*program("serve"), iris_file, "--port", "0", "--set", f"models.cache_dir={tmp_path}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    assert "opening" in server.stderr.readline()
    children = psutil.Process(server.pid).children()

    server.terminate()
    said = server.communicate(timeout=20)[1]

    assert server.returncode == 0
    assert "Traceback" not in said
    assert not any(child.is_running() for child in children)
