"""Bad input and faults, over sockets, against a real server: the right answer, and the server goes on."""

import gzip
import http.client
import json
import shutil
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from app_server import Server, run

ROW = '{"X": [[5.1, 3.5, 1.4, 0.2]]}'

pytestmark = [pytest.mark.socket, pytest.mark.slow]


def large(row: str, rows: int = 2000) -> str:
    """A large body whose last row is `row`."""
    return '{"X": [' + "[5.1, 3.5, 1.4, 0.2]," * rows + row + "]}"


BAD_INPUT = {
    "not JSON": ("/predict", "{bad", 400, "JSON"),
    "empty": ("/predict", "", 400, "empty"),
    "100,000 levels": ("/predict", '{"X": ' + "[" * 100_000 + "]" * 100_000 + "}", 400, "nested"),
    "wrong key": ("/predict", '{"data": [[1, 2, 3, 4]]}', 400, '"X"'),
    "ragged": ("/predict", '{"X": [[1, 2, 3, 4], [1, 2, 3]]}', 400, "row 1"),
    "ragged, large": ("/predict", large("[1, 2, 3]"), 400, "row 2000"),
    "too narrow": ("/predict", '{"X": [[1, 2, 3]]}', 400, "3 values came, 4 are wanted"),
    "too wide, large": ("/predict", large("[1, 2, 3, 4]").replace("0.2]", "0.2, 1]").replace("4]", "4, 1]"), 400, "5"),
    "one row without rows": ("/predict", '{"X": [5.1, 3.5, 1.4, 0.2]}', 400, "[[...]]"),
    "strings": ("/predict", '{"X": [[1, 2, 3, "4"]]}', 400, "row 0"),
    "strings, large": ("/predict", large('[1, 2, 3, "4"]'), 400, "row 2000"),
    "no rows": ("/predict", '{"X": []}', 400, "no rows"),
    "empty row": ("/predict", '{"X": [[]]}', 400, "came"),
    "null": ("/predict", '{"X": null}', 400, "null"),
    "unknown model": ("/predict/nope", ROW, 404, "nope"),
    "unknown model, OIP": ("/v2/models/nope/infer", '{"inputs": []}', 404, "nope"),
    "unknown version, OIP": ("/v2/models/iris/versions/9/infer", '{"inputs": []}', 404, "9"),
    "unknown model, TF": ("/v1/models/nope:predict", '{"instances": [[1]]}', 404, "Latest(nope)"),
    "unknown version, TF": ("/v1/models/iris/versions/9:predict", '{"instances": [[1]]}', 404, "Specific(iris, 9)"),
    "no such path": ("/nothing", ROW, 404, "Not Found"),
    "wrong datatype, OIP": (
        "/v2/models/iris/infer",
        '{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "INT32", "data": [1, 2, 3, 4]}]}',
        400,
        "INT32",
    ),
    "wrong count, OIP": (
        "/v2/models/iris/infer",
        '{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3]}]}',
        400,
        "X",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_a_clear_error_and_the_server_goes_on(server: Server, case: str) -> None:
    """The status and the words say what is wrong; the next request is answered."""
    path, body, status, words = BAD_INPUT[case]

    answer = server.post(path, body)

    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert server.post("/predict", ROW).json() == {"y_pred": [0]}


def test_a_body_of_100_mb_is_refused_early(server: Server) -> None:
    """Content-Length says too much: 413 before the body is read."""
    with raw(server) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n" + b"[" * 1000)

        assert status_of(connection) == 413


def test_a_bomb_of_gzip_is_refused(server: Server) -> None:
    """A small body that would inflate beyond the limit is 413."""
    bomb = gzip.compress(b" " * (80 * 1024 * 1024))

    answer = server.post("/predict", bomb, **{"Content-Encoding": "gzip"})

    assert answer.status_code == 413


def test_a_compressed_body_is_read(server: Server) -> None:
    """gzip bodies are understood."""
    answer = server.post("/predict", gzip.compress(ROW.encode()), **{"Content-Encoding": "gzip"})

    assert answer.json() == {"y_pred": [0]}


def test_a_truncated_body_ends_only_its_connection(server: Server) -> None:
    """The client closes in the middle of a body: nothing happens to others."""
    with raw(server) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")

    assert server.post("/predict", ROW).status_code == 200


def test_a_flood_of_headers_is_refused(server: Server) -> None:
    """More headers than allowed: 431."""
    with raw(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(500)) + b"\r\n")

        assert status_of(connection) == 431


def test_a_half_closed_connection_gets_its_answer(server: Server) -> None:
    """The client has said all and still listens."""
    with raw(server) as connection:
        body = ROW.encode()
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.shutdown(socket.SHUT_WR)

        assert status_of(connection) == 200


def test_a_client_that_goes_mid_batch_harms_nobody(server: Server) -> None:
    """Many send and go at once; the one who stays is answered."""
    body = ROW.encode()
    request = b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for _ in range(50):
        with raw(server) as connection:
            connection.sendall(request)

    assert server.post("/predict", ROW).json() == {"y_pred": [0]}


def test_a_damaged_file_is_named_and_not_served(repository: Path, tmp_path: Path) -> None:
    """One changed byte: its digest does not match, and the server says so, once, and exits 1."""
    shutil.copytree(repository, tmp_path / "models")
    damaged = tmp_path / "models" / "iris" / "1" / "model.onnx"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    done = run("serve", tmp_path / "models", "--port", "0", "--workers", "2")

    assert done.returncode == 1
    assert "model.onnx" in done.stderr
    assert done.stderr.count("SHA-256") == 1


def test_a_damaged_version_does_not_keep_others_from_serving(repository: Path, tmp_path: Path) -> None:
    """The good model answers; the bad one shows as END with its error."""
    shutil.copytree(repository, tmp_path / "models")
    shutil.copytree(repository / "iris", tmp_path / "models" / "broken")
    (tmp_path / "models" / "broken" / "1" / "model.onnx").write_bytes(b"\x08garbage")

    with Server(tmp_path / "models", "--port", "0") as server:
        status = server.get("/v1/models/broken").json()["model_version_status"][0]
        refused = server.post("/predict/broken", ROW)
        answered = server.post("/predict/iris", ROW)

    assert status["state"] == "END"
    assert "SHA-256" in status["status"]["error_message"]
    assert refused.status_code == 503
    assert answered.json() == {"y_pred": [0]}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"this is no model"), "model.joblib"),
        (lambda path: path.mkdir(), "empty"),
    ],
    ids=["missing", "empty", "garbage", "folder"],
)
def test_what_is_no_model_is_explained(make, words: str, tmp_path: Path) -> None:
    """A path that cannot be served ends the command with one clear line and exit code 1."""
    path = tmp_path / "model.joblib"
    make(path)

    done = run("serve", path, "--port", "0", environment=[("DUKOU_MODELS__CACHE_DIR", str(tmp_path / "cache"))])

    assert done.returncode == 1, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(server: Server, repository: Path) -> None:
    """Two servers cannot have one port; the second says which one it wanted."""
    port = urlsplit(server.url).port

    done = run("serve", repository, "--port", str(port))

    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "in use" in done.stderr


def test_a_killed_worker_is_replaced_and_only_its_own_requests_are_lost(repository: Path) -> None:
    """SIGKILL under load: connections wait in the backlog of its socket, all later requests are answered."""
    with Server(repository, "--port", "0", "--workers", "2") as server:
        load = Load(server.url)
        with load:
            load.await_answers(200)
            victim = server.workers()[0]
            psutil.Process(victim).kill()
            server.await_line("SIGKILL")
            load.await_answers(load.answered + 1000)
        pids = server.workers()

    assert victim not in pids
    assert len(pids) == 2
    assert load.wrong == []
    assert load.lost <= Load.CLIENTS
    assert load.longest_s < 5.0


class Load:
    """Clients that ask without pause, each with its own connection, and connect again when they lose it."""

    CLIENTS = 8

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url)
        self.answered = 0
        self.lost = 0
        self.longest_s = 0.0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._some = threading.Condition()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.CLIENTS)]

    def _ask(self) -> None:
        connection = None
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=20)
                connection.request("POST", "/predict", ROW)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                with self._some:
                    self.lost += 1
                connection.close()
                connection = None
                continue
            with self._some:
                self.answered += 1
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                if answer.status != 200 or json.loads(text) != {"y_pred": [0]}:
                    self.wrong.append(f"{answer.status} {text!r}")
                self._some.notify_all()
        if connection is not None:
            connection.close()

    def await_answers(self, number: int) -> None:
        with self._some:
            assert self._some.wait_for(lambda: self.answered >= number, timeout=30)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exit_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def raw(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=20)


def status_of(connection: socket.socket) -> int:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.close()
    return answer.status
