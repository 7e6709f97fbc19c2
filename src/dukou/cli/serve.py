"""`dukou serve`: models as a service."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from dukou.cli.flags import NO_FLAGS, Flags
from dukou.cli.terminal import CommandError, Progress, say
from dukou.cli.tf_flags import NO_TF_FLAGS, NO_TRITON_FLAGS, TfFlags, TritonFlags
from dukou.config import Config

LONGEST_EXAMPLE = 16
"""Values in a row that is still worth printing."""

LAST_LINE = "Ctrl-C stops."
"""Ends the announcement, for people and for programs that wait for it."""

command = App(
    name="serve",
    help_epilogue="""Examples:

  dukou serve model.joblib                     on 127.0.0.1:8501 and :8500
  dukou serve model.onnx --name iris --port 9000
  dukou serve models/                          every model of a repository
  dukou serve models/ --version-policy all --workers 2
  dukou serve models/ --host 0.0.0.0 --insecure
  dukou serve models/ --listen 127.0.0.1:8000,triton --listen 127.0.0.1:8080,kserve
  dukou serve --config dukou.toml
  dukou serve --port=8500 --rest_api_port=8501 --model_config_file=models.config""",
)


@command.default
def serve(
    *paths: Annotated[Path, Parameter(help="Model files, packed versions, or folders of them.")],
    flags: Flags = NO_FLAGS,
    tf_flags: TfFlags = NO_TF_FLAGS,
    triton_flags: TritonFlags = NO_TRITON_FLAGS,
) -> int:
    """Serve models until Ctrl-C, for TensorFlow Serving, Open Inference Protocol and plain /predict clients."""
    config, warnings = settings(paths, flags, tf_flags, triton_flags)
    for warning in warnings:
        say(f"warning: {warning}")
    if not config.models.paths and not config.models.config_file:
        raise CommandError("there is nothing to serve: give a path, as in `dukou serve model.joblib`")
    from dukou.app.ready import Ready
    from dukou.app.server import serve as run_server

    progress = Progress()

    def on_ready(ready: Ready) -> None:
        progress.close()
        for warning in ready.warnings:
            say(f"warning: {warning}")
        models = [(model.name, model.version) for model in ready.models]
        places = list(zip(ready.urls, ready.dialects, strict=True))
        for line in announcement(places, models, _inputs):
            say(line)

    with progress:
        return run_server(config, progress, on_ready)


def settings(
    paths: Sequence[Path], flags: Flags, tf_flags: TfFlags, triton_flags: TritonFlags
) -> tuple[Config, Sequence[str]]:
    """What the whole command line means, and warnings about it. Raises CommandError, DukouError CONFIG_INVALID."""
    given, warnings = tf_flags.given()
    given += triton_flags.given()
    if len([one for one in given if one.path in ("models.paths", "models.config_file")]) + bool(paths) > 1:
        raise CommandError(
            "say once what is to be served: by paths, --model_config_file, --model_base_path or --model-repository"
        )
    if tf_flags.grpc_socket_path is not None:
        flags = replace(flags, listen=(*flags.listen, f"unix:{tf_flags.grpc_socket_path}"))
    return flags.load(map(str, paths), given).config, warnings


def announcement(
    places: list[tuple[str, str]], models: list[tuple[str, int]], inputs: Callable[[str, str], list[Any]]
) -> Iterator[str]:
    """What is said once requests are answered: the models, the addresses with their dialects, and a call to copy for
    the first model. Each address answers HTTP and gRPC.

    `inputs(url, model)` are the tensors of a model's metadata.
    """
    yield f"serving {', '.join(f'{name} {version}' for name, version in models) or 'nothing'} by HTTP and gRPC"
    yield from (f"  {url} ({dialect})" if dialect else f"  {url}" for url, dialect in places)
    web = sorted((place for place in places if place[0].startswith("http://")), key=lambda place: place[1] != "")
    if web and models:
        (url, dialect), name = web[0], models[0][0]
        instance = None if dialect else example(inputs(url, name))
        if instance is not None:
            body = json.dumps({"instances": [instance]})
            yield f"try it:  curl -s {url}/v1/models/{name}:predict -d '{body}'"
        elif dialect == "tensorflow-serving":
            yield f"what it takes:  curl -s {url}/v1/models/{name}/metadata"
        else:
            yield f"what it takes:  curl -s {url}/v2/models/{name}"
    yield LAST_LINE


def example(inputs: list[Any]) -> Any:
    """A row of zeros for the tensors of a model's metadata; None where it would say nothing or be long."""
    values = {}
    for tensor in inputs:
        rows, *inner = tensor["shape"]
        if rows != -1 or (not inner and len(inputs) == 1) or math.prod(map(abs, inner)) > LONGEST_EXAMPLE:
            return None
        value: Any = {"BYTES": "a", "BOOL": False}.get(tensor["datatype"], 0)
        for size in reversed(inner):
            value = [value] * abs(size)
        values[tensor["name"]] = value
    if not 1 <= len(values) <= LONGEST_EXAMPLE:
        return None
    return values if len(values) > 1 else next(iter(values.values()))


def _inputs(url: str, model: str) -> list[Any]:
    """What our own server says that a model takes; nothing where it does not say it at once. The client would do it
    too, but would cost this process NumPy and 100 ms."""
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import quote, urlsplit

    connection = HTTPConnection(urlsplit(url).netloc, timeout=1.0)
    try:
        connection.request("GET", f"/v2/models/{quote(model)}")
        inputs: list[Any] = json.loads(connection.getresponse().read())["inputs"]
    except (OSError, HTTPException, ValueError, KeyError):
        return []
    finally:
        connection.close()
    return inputs
