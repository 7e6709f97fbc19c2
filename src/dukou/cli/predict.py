"""`dukou predict`: answers of a model, from a server or in this process."""

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from cyclopts import App, Parameter
from numpy.typing import NDArray

from dukou.cli.options import Json, TrustPickle, TrustPython
from dukou.cli.terminal import CommandError, say
from dukou.core.model import Signature
from dukou.core.tensor import Tensors
from dukou.packing.rows import MAX_BYTES, Rows, read_rows

command = App(
    name="predict",
    version_flags=(),
    help_epilogue="""Examples:

  dukou predict model.joblib 5.1,3.5,1.4,0.2            in this process
  dukou predict models/iris/1 rows.csv --json
  dukou predict http://127.0.0.1:8501 5.1,3.5,1.4,0.2   by a server
  dukou predict http://127.0.0.1:8501/v2/models/iris rows.csv
  dukou predict grpc://127.0.0.1:8500 rows.csv
  cat rows.json | dukou predict model.onnx -""",
)

STDIN = "-"
SERVERS = ("http://", "https://", "grpc://", "grpcs://")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}(?:/.*)?")
FILES = (".csv", ".tsv", ".json", ".jsonl", ".npy")


@command.default
def predict(
    target: Annotated[str, Parameter(help="A model's path, or the address of a server.")],
    /,
    *rows: Annotated[
        str,
        Parameter(
            help="Rows such as 5.1,3.5,1.4,0.2; or one CSV, TSV, JSON, JSONL or .npy file; or - for standard input.",
            allow_leading_hyphen=True,
        ),
    ],
    model: Annotated[
        str, Parameter(help="Name of the model on the server, where it serves several.", show_default=False)
    ] = "",
    version: Annotated[int | None, Parameter(help="Version on the server; without it the server chooses.")] = None,
    json: Json = False,
    timeout_s: Annotated[float, Parameter(name="--timeout", help="Seconds that the server has to answer.")] = 30.0,
    trust_pickle: TrustPickle = False,
    trust_python: TrustPython = False,
) -> None:
    """Predict rows with a model: of a running server, or loaded into this process."""
    for row in rows:
        if row.startswith("--"):
            raise CommandError(f"unknown option {row}; `dukou predict --help` lists them")
    if target.startswith(SERVERS):
        outputs = _by_server(target, rows, model, version, timeout_s)
    elif _ADDRESS.fullmatch(target) and not Path(target).exists():
        raise CommandError(f"{target} is no file or folder; for a server say http://{target} or grpc://{target}")
    elif model or version is not None:
        raise CommandError("--model and --version are for servers; give the folder of the version, as in models/iris/1")
    else:
        outputs = _in_process(target, rows, trust_pickle, trust_python)
    print(as_json(outputs) if json else as_table(outputs))


def _by_server(url: str, rows: Sequence[str], model: str, version: int | None, timeout_s: float) -> Tensors:
    from dukou.client.client import Client

    base, named, numbered = split_url(url)
    model, version = model or named, version if version is not None else numbered
    if not model:
        model = _only_model(base, timeout_s)
    with Client(base, model, version, timeout_s=timeout_s) as client:
        return client.infer(_read(rows, client.metadata()))


def _in_process(path: str, rows: Sequence[str], trust_pickle: bool, trust_python: bool) -> Tensors:
    from dukou.app.embed import load

    with load(path, trust_pickle=trust_pickle, trust_python=trust_python) as model:
        return model.infer(_read(rows, model.signature))


def split_url(url: str) -> tuple[str, str, int | None]:
    """A server's address, the model and the version that a URL names: `http://h:1/v2/models/iris/versions/2/infer` is
    `http://h:1`, `iris`, 2. A `/v1` URL of TensorFlow Serving names them too."""
    match = re.match(
        r"(?P<base>(?:http|grpc)s?://[^/?#]+(?:/[^?#]*?)??)"
        r"(?:/v[12]/models/(?P<model>[^/?#:]+)(?:/versions/(?P<version>\d{1,18}))?(?:/infer|/ready|:predict)?)?/?$",
        url,
    )
    if match is None:
        raise CommandError(f"{url} is not the address of a server or of a model there")
    version = match["version"]
    return match["base"], unquote(match["model"] or ""), None if version is None else int(version)


def _only_model(url: str, timeout_s: float) -> str:
    from dukou.client.client import Client
    from dukou.client.errors import NotFound

    try:
        with Client(url, timeout_s=timeout_s) as client:
            names = sorted({listed.name for listed in client.models()})
    except NotFound:
        raise CommandError("the server does not list its models: say --model") from None
    if len(names) != 1:
        raise CommandError(f"say --model; the server has {', '.join(names) or 'none'}")
    return names[0]


def _read(rows: Sequence[str], signature: Signature) -> Tensors:
    """The rows of the command line, of a file or of standard input, as the signature's inputs."""
    if len(rows) == 1 and rows[0].lower().endswith(FILES):
        return _noted(read_rows(Path(rows[0]), signature))
    if not rows and sys.stdin.isatty():
        raise CommandError("there are no rows: give some (5.1,3.5,1.4,0.2), a file, or - for standard input")
    if rows in ((), (STDIN,)):
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        check_cells(rows, signature)
        content = "\n".join(rows).encode()
    with tempfile.TemporaryDirectory(prefix="dukou-") as folder:
        path = Path(folder, "rows" + suffix_of(content))
        path.write_bytes(content)
        return _noted(read_rows(path, signature))


def check_cells(rows: Sequence[str], signature: Signature) -> None:
    """Raise CommandError for text where the model takes only numbers: only a file may have a header."""
    if any(spec.datatype == "BYTES" for spec in signature.inputs):
        return
    for number, row in enumerate(rows, 1):
        for cell in row.split(","):
            try:
                float({"true": "1", "false": "0"}.get(cell.strip().lower(), cell))
            except ValueError:
                raise CommandError(f"row {number}: {cell!r} is not a number") from None


def _noted(rows: Rows) -> Tensors:
    if rows.note:
        say(rows.note)
    return rows.inputs


def suffix_of(content: bytes) -> str:
    """The kind of file that rows without a name are: NumPy's by its magic, JSON by its first character, else CSV."""
    if content.startswith(b"\x93NUMPY"):
        return ".npy"
    return ".json" if content.lstrip()[:1] in (b"[", b"{") else ".csv"


def as_json(outputs: Tensors) -> str:
    """`{"output": [...]}`; what is no finite number is null."""

    def plain(value: Any) -> Any:
        return value.decode(errors="replace") if isinstance(value, bytes) else value.tolist()

    return orjson.dumps(dict(outputs), default=plain, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def as_table(outputs: Tensors) -> str:
    """One line for each row, one column for each number of an output; aligned."""
    columns = [column for name, array in outputs.items() for column in _columns(name, array)]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _columns(name: str, array: NDArray[Any]) -> list[list[str]]:
    flat = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    show: Callable[[Any], str] = _number if array.dtype.kind == "f" else _text
    titles = [name] if flat.shape[1] == 1 else [f"{name}[{index}]" for index in range(flat.shape[1])]
    return [[title, *map(show, flat[:, index])] for index, title in enumerate(titles)]


def _number(value: Any) -> str:
    return f"{value:.6g}"


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
