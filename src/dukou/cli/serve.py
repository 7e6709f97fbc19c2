"""`dukou serve`: models as a service."""

from typing import Annotated

from cyclopts import App, Parameter

from dukou.cli.flags import NO_FLAGS, Flags
from dukou.cli.terminal import CommandError, Progress, say

command = App(
    name="serve",
    help_epilogue="""Examples:

  dukou serve model.joblib                     on 127.0.0.1:8501 and :8500
  dukou serve model.onnx --name iris --port 9000
  dukou serve models/                          every model of a repository
  dukou serve models/ --version-policy all --workers 2
  dukou serve models/ --host 0.0.0.0 --insecure
  dukou serve --config dukou.toml""",
)


@command.default
def serve(
    *paths: Annotated[str, Parameter(help="Model files, packed versions, or folders of them.")],
    flags: Flags = NO_FLAGS,
) -> int:
    """Serve models until Ctrl-C, for TensorFlow Serving, Open Inference Protocol and plain /predict clients."""
    config = flags.load(paths).config
    if not config.models.paths:
        raise CommandError("there is nothing to serve: give a path, as in `dukou serve model.joblib`")
    from dukou.app.ready import Ready
    from dukou.app.server import serve as run_server

    progress = Progress()

    def on_ready(ready: Ready) -> None:
        progress.close()
        for line in announcement(ready.urls, [(model.name, model.version) for model in ready.models]):
            say(line)

    with progress:
        return run_server(config, progress, on_ready)


def announcement(urls: tuple[str, ...], models: list[tuple[str, int]]) -> list[str]:
    """What is said once requests are answered: the models, the addresses, and what to type next."""
    lines = [f"serving {', '.join(f'{name} {version}' for name, version in models)}"]
    lines += [f"  {url}" for url in urls]
    web = next((url for url in urls if url.startswith("http")), None)
    if web is not None and models:
        lines.append(f"what it takes:  curl {web}/v2/models/{models[0][0]}")
    return [*lines, "Ctrl-C stops"]
