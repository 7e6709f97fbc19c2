"""The flags that set something, shared by `serve` and `config`; their help is the setting's own documentation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dukou.config import Given, Settings, load
from dukou.config.fields import settings

HTTP_PORT = 8501
GRPC_PORT = 8500
"""The ports of the default addresses, which `--host` alone keeps."""

PATHS = {
    "name": "models.name",
    "workers": "server.workers",
    "insecure": "server.insecure",
    "version_policy": "models.version_policy",
    "trust_pickle": "models.trust_pickle",
    "trust_python": "models.trust_python",
    "access_log": "telemetry.access_log",
}
"""The setting behind each flag that sets one by itself."""

_DOCS = {flag: settings()[path].doc for flag, path in PATHS.items()}


def _flag(field: str) -> Parameter:
    return Parameter(help=_DOCS[field], negative="")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line sets; None and () are left to the layers below."""

    name: Annotated[str | None, _flag("name")] = None
    port: Annotated[
        int | None, Parameter(help="The one port to listen on, for every protocol; without it 8501 and 8500.")
    ] = None
    host: Annotated[str | None, Parameter(help="Where the ports are opened; without it 127.0.0.1.")] = None
    rest_api_port: Annotated[
        int | None,
        Parameter(name="--rest_api_port", help="A second port beside --port, as tensorflow_model_server names it."),
    ] = None
    listen: Annotated[
        tuple[str, ...],
        Parameter(
            help="An address to listen on, beside the ports above; repeatable: `host:port`, `[v6]:port`, `unix:/path`. "
            "After a comma it may have a dialect: `tensorflow-serving`, `triton`, `kserve` or `mlserver`.",
            negative="",
            metavar="ADDRESS[,DIALECT]",
            show_default=False,
        ),
    ] = ()
    insecure: Annotated[bool | None, _flag("insecure")] = None
    workers: Annotated[int | None, _flag("workers")] = None
    version_policy: Annotated[str | None, _flag("version_policy")] = None
    trust_pickle: Annotated[bool | None, _flag("trust_pickle")] = None
    trust_python: Annotated[bool | None, _flag("trust_python")] = None
    access_log: Annotated[bool | None, _flag("access_log")] = None
    config: Annotated[Path | None, Parameter(help="Settings file (TOML).", metavar="FILE")] = None
    sets: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            help="Any setting, as in `--set engine.max_batch_rows=128`; repeatable. `dukou config` lists them.",
            negative="",
            metavar="SECTION.FIELD=VALUE",
            show_default=False,
        ),
    ] = ()

    def load(self, paths: Iterable[str] = (), more: Iterable[Given] = ()) -> Settings:
        """The settings with these flags, `paths` and `more` flags on top. Raises DukouError CONFIG_INVALID."""
        return load(self.config, flags=[*self._given(), *_paths(paths), *more])

    def _given(self) -> Iterator[Given]:
        for text in self.sets:
            path, _, value = text.partition("=")
            yield Given(path.strip(), value, f"--set {path.strip()}", text=True)
        for field, path in PATHS.items():
            said: Any = getattr(self, field)
            if said is not None:
                yield Given(path, said, "--" + field.replace("_", "-"))
        listen = addresses(self.host, self.port, self.rest_api_port, self.listen)
        if listen:
            flags = {"--host": self.host, "--port": self.port, "--rest_api_port": self.rest_api_port}
            names = [flag for flag, given in flags.items() if given is not None] + ["--listen"] * bool(self.listen)
            yield Given("server.listen", listen, ", ".join(names))


NO_FLAGS = Flags()


def _paths(paths: Iterable[str]) -> list[Given]:
    given = tuple(paths)
    return [Given("models.paths", given, "command line")] if given else []


def addresses(
    host: str | None, port: int | None, rest_api_port: int | None, listen: Sequence[str]
) -> tuple[str, ...] | None:
    """The addresses that the flags name, or None where they name none.

    `--port` alone is exactly that port; `--rest_api_port` is a second one, and alone it leaves the other at 8500;
    `--host` alone moves both default ports; `--listen` adds.
    """
    ports: tuple[int, ...]
    if port is not None:
        ports = (port,) if rest_api_port is None else (rest_api_port, port)
    elif rest_api_port is not None:
        ports = (rest_api_port, GRPC_PORT)
    else:
        ports = (HTTP_PORT, GRPC_PORT) if host is not None else ()
    name = host if host is not None else "127.0.0.1"
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    found = (*(f"{name}:{number}" for number in ports), *listen)
    return found or None
