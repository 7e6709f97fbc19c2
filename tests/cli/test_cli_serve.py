"""`dukou serve`, `demo` and `predict` against a running server."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dukou
from dukou.cli.demo import TRAIN, free_port
from dukou.cli.main import run
from dukou.cli.serve import announcement, example


def tensor(name: str, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


@pytest.mark.parametrize(
    ("inputs", "instance"),
    [
        ([tensor("X", [-1, 4])], [0, 0, 0, 0]),
        ([tensor("X", [-1, 2, 2])], [[0, 0], [0, 0]]),
        ([tensor("X", [-1, 1])], [0]),
        (
            [tensor("a", [-1]), tensor("b", [-1, 1], "BYTES"), tensor("c", [-1], "BOOL")],
            {"a": 0, "b": ["a"], "c": False},
        ),
        ([tensor("X", [-1, 17])], None),
        ([tensor("X", [-1])], None),
        ([tensor("X", [4, 4])], None),
        ([tensor(str(n), [-1, 1]) for n in range(17)], None),
        ([], None),
    ],
)
def test_an_example_is_a_row_of_the_models_tensors(inputs: list[Any], instance: Any) -> None:
    """A row that the server takes; none where it would be too long to read or its shape is not known."""
    assert example(inputs) == instance


def test_the_announcement_has_a_call_to_copy() -> None:
    """Models, addresses, the call; the first address that curl understands."""
    lines = announcement(
        [("unix:/x", ""), ("http://127.0.0.1:2", "triton"), ("http://127.0.0.1:1", "")],
        [("iris", 1), ("iris", 2)],
        lambda url, model: [tensor("X", [-1, 2])],
    )

    assert list(lines) == [
        "serving iris 1, iris 2 by HTTP and gRPC",
        "  unix:/x",
        "  http://127.0.0.1:2 (triton)",
        "  http://127.0.0.1:1",
        "try it:  curl -s http://127.0.0.1:1/v1/models/iris:predict -d '{\"instances\": [[0, 0]]}'",
        "Ctrl-C stops.",
    ]


def test_a_model_without_an_example_is_named_all_the_same() -> None:
    """The metadata says what it takes."""
    lines = announcement([("http://h:1", "")], [("iris", 1)], lambda url, model: [])

    assert "what it takes:  curl -s http://h:1/v2/models/iris" in list(lines)


def test_the_training_script_is_python() -> None:
    """What the demo writes can be run."""
    compile(TRAIN, "train.py", "exec")


@pytest.mark.parametrize(
    ("dialect", "path"), [("triton", "/v2/models/iris"), ("tensorflow-serving", "/v1/models/iris/metadata")]
)
def test_where_there_is_only_one_dialect_its_metadata_is_shown(dialect: str, path: str) -> None:
    """A call of another protocol would not be answered there."""
    lines = announcement([("http://h:1", dialect)], [("iris", 1)], lambda url, model: [tensor("X", [-1, 2])])

    assert f"what it takes:  curl -s http://h:1{path}" in list(lines)


@pytest.mark.socket
def test_a_taken_port_is_not_free() -> None:
    """The demo then takes another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port(taken.getsockname()[1]) == 0


def started(*words: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A command that serves, and what it said up to its last line of announcement."""
    process = subprocess.Popen([sys.executable, "-m", "dukou", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line.rstrip())
        if "Ctrl-C" in line:
            break
    return process, said


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[list[str]]:
    process, said = started("serve", str(repository), "--port", "0")
    yield said
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.fixture
def url(server: list[str]) -> str:
    return server[1].strip()


@pytest.mark.socket
@pytest.mark.slow
def test_serve_announces_what_it_serves(server: list[str], url: str) -> None:
    """The model, the address, and a call that can be copied and works."""
    assert server[0] == "serving sums 1 by HTTP and gRPC"
    command = server[2].removeprefix("try it:  ")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(done.stdout) == {"predictions": [0.0]}


@pytest.mark.socket
@pytest.mark.slow
def test_the_client_and_the_server_understand_each_other(url: str) -> None:
    """predict, metadata, readiness and the list of models, over our own server."""
    with dukou.Client(url, model="sums") as client:
        assert client.predict([[1, 2], [3, 4]]).tolist() == [3.0, 7.0]
        assert client.metadata().inputs[0].name == "X"
        assert client.ready()
        assert [(listed.name, listed.version) for listed in client.models()] == [("sums", "1")]


@pytest.mark.socket
@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "/v2/models/sums", "/v1/models/sums/versions/1:predict"])
def test_predict_by_a_server(path: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The only model need not be named."""
    code = run(["predict", url + path, "1,2", "-3,4", "--json"])

    assert code == 0
    assert capsys.readouterr().out == '{"sum":[3.0,1.0]}\n'


@pytest.mark.socket
@pytest.mark.slow
def test_predict_of_a_model_that_the_server_does_not_have(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The server's words and its status, in a line."""
    code = run(["predict", url, "1,2", "--model", "iris"])

    assert code == 1
    assert "iris" in capsys.readouterr().err


@pytest.mark.socket
def test_a_port_in_use_is_said(url: str, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line with the address, exit code 1."""
    code = run(["serve", str(repository), "--port", url.rpartition(":")[2]])

    err = capsys.readouterr().err
    assert code == 1
    assert url.removeprefix("http://") in err
    assert "Traceback" not in err


@pytest.mark.socket
@pytest.mark.slow
def test_the_demo_runs_through(tmp_path: Path) -> None:
    """Train, pack, serve, call, stop: one command, every step shown."""
    done = subprocess.run(
        [sys.executable, "-m", "dukou", "demo", "--once", "--folder", str(tmp_path), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "[0, 1, 2]" in done.stdout
    assert done.stdout.count("curl -s") == 4
    assert (tmp_path / "models" / "iris" / "1" / "manifest.toml").exists()
