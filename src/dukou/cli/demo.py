"""`dukou demo`: train, pack, serve and call a small model, one visible step after another."""

import importlib.util
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import IO, Annotated

from cyclopts import App, Parameter

from dukou.app.program import program
from dukou.cli.serve import LAST_LINE
from dukou.cli.terminal import FAILED, CommandError

command = App(
    name="demo",
    help_epilogue="""Examples:

  dukou demo
  dukou demo --once             stop after the first predictions
  dukou demo --folder iris      keep the files""",
)

TRAIN = """\
import numpy as np
from joblib import dump
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

X, y = load_iris(return_X_y=True)

clf = LogisticRegression()
clf.fit(X, y)

dump(clf, "model.joblib")
np.savetxt("rows.csv", X, delimiter=",", fmt="%g")
"""

FLOWERS = [[5.1, 3.5, 1.4, 0.2], [5.7, 2.8, 4.5, 1.3], [6.3, 3.3, 6.0, 2.5]]
SPECIES = ("setosa", "versicolor", "virginica")
PORT = 8501
STOP_TIMEOUT_S = 15.0


@command.default
def demo(
    *,
    once: Annotated[bool, Parameter(help="Stop after the first predictions.", negative="")] = False,
    folder: Annotated[Path | None, Parameter(help="Where to put the files; without it a temporary folder.")] = None,
    port: Annotated[int | None, Parameter(help="Port to serve on; without it 8501, or a free one.")] = None,
) -> int:
    """Train, pack, serve and call a small model, printing every step so that it can be repeated."""
    if importlib.util.find_spec("sklearn") is None:
        raise CommandError("the demo trains a model with scikit-learn: pip install 'dukou[sklearn]'", FAILED)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return _demo(folder, once, port)
    with tempfile.TemporaryDirectory(prefix="dukou-demo-") as made:
        return _demo(Path(made), once, port)


def _demo(folder: Path, once: bool, port: int | None) -> int:
    _say(f"1. Train: the iris flowers and a logistic regression, in {folder}")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    _run(folder, ["python", "train.py"])
    _say("2. Pack: compile it, compare both forms on the training rows, keep it as version 1")
    if (folder / "models" / "iris" / "1").exists():
        _say("   it is there already")
    else:
        _run(folder, ["dukou", "pack", "model.joblib", "--name", "iris", "--version", "1", "--data", "rows.csv"])
    _say("3. Serve")
    with _served(folder, free_port(PORT) if port is None else port) as (server, url):
        _say("4. Call")
        _call(url)
        if not once:
            _say(f"Serving {url} until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                return server.wait()
    if once:
        _say("Done, the server has stopped. Without --once it goes on; --folder keeps the files.")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _run(folder: Path, words: Sequence[str]) -> None:
    """Run a command as the user would type it. Raises CommandError with what it said where it fails."""
    _say(f"   $ {shlex.join(words)}")
    done = subprocess.run(_command(words), cwd=folder, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        _say(f"     {line}")
    if done.returncode:
        raise CommandError(f"`{shlex.join(words)}` failed:\n{done.stderr.strip()}", FAILED)


def _command(words: Sequence[str]) -> list[str]:
    """`python` and `dukou` are those that run now, wherever PATH points."""
    command = {"python": [sys.executable], "dukou": program()}[words[0]]
    return [*command, *words[1:]]


def free_port(port: int) -> int:
    """`port`, or 0 (any) where something else listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


@contextmanager
def _served(folder: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the folder's models while the context lasts: its process and its address."""
    words = ["dukou", "serve", "models", "--port", str(port)]
    _say(f"   $ {shlex.join(words)}")
    # A stop by SIGTERM takes the server along, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server = subprocess.Popen(_command(words), cwd=folder, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    rest = Thread(target=_relay, args=(server.stderr,), daemon=True)
    try:
        url = _address(server.stderr)
        rest.start()
        yield server, url
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if rest.ident is not None:
            rest.join()
        server.stderr.close()


def _address(lines: IO[str]) -> str:
    """The first address of the server's announcement, which is passed on. Raises CommandError where it ends without."""
    said = []
    for line in lines:
        if line.strip() == LAST_LINE:
            break
        said.append(line.rstrip())
        _say(f"     {line.rstrip()}")
    url = next((line.strip() for line in said if line.strip().startswith("http://")), None)
    if url is None:
        raise CommandError("the server did not start; what it said is above", FAILED)
    return url


def _relay(lines: IO[str]) -> None:
    for line in lines:
        _say(f"     {line.rstrip()}")


def _call(url: str) -> None:
    from dukou.client.client import Client

    with Client(url, model="iris") as client:
        labels = client.predict(FLOWERS)
        first = client.metadata().inputs[0]
    _say(f"   >>> dukou.Client({url!r}, model='iris').predict({FLOWERS})")
    _say(f"   {labels.tolist()}   ({', '.join(SPECIES[int(label)] for label in labels)})")
    row = FLOWERS[0]
    tensor = f'{{"name": "{first.name}", "shape": [1, 4], "datatype": "{first.datatype}", "data": {row}}}'
    _say("   The same by hand, for clients of TensorFlow Serving, Open Inference Protocol and plain services:")
    _say(f"   curl -s {url}/v1/models/iris:predict -d '{{\"instances\": [{row}]}}'")
    _say(f"   curl -s {url}/v2/models/iris/infer -d '{{\"inputs\": [{tensor}]}}'")
    _say(f"   curl -s {url}/predict -d '{{\"X\": [{row}]}}'")
