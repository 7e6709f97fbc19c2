"""The one loader: defaults < TOML file < environment < flags, every mistake reported at once with who made it."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dukou.config.fields import PREFIX, Setting, read, settings
from dukou.config.rules import violations
from dukou.config.tree import AdminConfig, Config
from dukou.core.errors import DukouError, Reason

DEFAULT = "default"
DEBUG = "DUKOU_DEBUG"
OWN_VARIABLES: Mapping[str, str] = {
    DEBUG: "Set to anything: the command line shows where in the code an error was raised.",
}
"""Variables with the prefix that are no settings of the tree."""

MAX_FILE_BYTES = 1_048_576

TOP_LEVEL: Mapping[str, str] = {"deployment": "models.deployment"}
"""Settings that a file has as tables of their own, beside the sections."""


@dataclass(frozen=True, slots=True)
class Given:
    """One setting as somebody gave it: `value` at `path`, said by `source` (a file, a variable, a flag).

    `text`: the value is still to be parsed as the setting's type.
    """

    path: str
    value: Any
    source: str
    text: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The tree, and for each setting (`section.field`) who said its value: "default", a file, a variable or a flag."""

    config: Config
    sources: Mapping[str, str]


def load(
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Iterable[Given] = (),
) -> Settings:
    """All settings, later layers over earlier ones: defaults, `file` (TOML), `environ` (the process's own if None),
    `flags`.

    Raises DukouError CONFIG_INVALID; its fact `problems` holds every mistake as `path (source): what is wrong`.
    """
    known = settings()
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources = dict.fromkeys(known, DEFAULT)
    layers = (
        _from_file(Path(file), problems) if file is not None else (),
        _from_environment(os.environ if environ is None else environ, known, problems),
        flags,
    )
    for given in (given for layer in layers for given in layer):
        setting = known.get(given.path)
        if setting is None:
            problems.append(_problem(given.path, given.source, _unknown(given, known)))
            continue
        try:
            values[given.path] = read(setting, given.value, text=given.text)
            sources[given.path] = given.source
        except ValueError as error:
            problems.append(_problem(given.path, given.source, str(error)))
    config = _tree(values)
    problems += [_problem(path, sources[path], text) for path, text in violations(config)]
    if problems:
        raise _invalid(problems)
    return Settings(config, sources)


def debugging() -> bool:
    """Whether DUKOU_DEBUG asks for tracebacks."""
    return bool(os.environ.get(DEBUG))


def keep_runtimes_silent() -> None:
    """Tell ONNX Runtime, before it is imported, not to report its use to its makers nor to keep an identifier in the
    user's home, as its packages do by default. Who wants that sets ORT_DISABLE_TELEMETRY=0."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def user_cache_dir() -> Path:
    """Where this user's caches belong: XDG_CACHE_HOME, else ~/.cache, of which dukou takes a folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dukou"


def user_state_dir() -> Path:
    """Where this user's servers keep their state: dukou's folder in XDG_STATE_HOME, else in ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "dukou"


def token_file(admin: AdminConfig) -> Path:
    """Where the token of the admin API is kept: `admin.token_file`, else one for all servers of this user."""
    return Path(admin.token_file) if admin.token_file else user_state_dir() / "admin.token"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the name nearest to `word`, or nothing."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def _unknown(given: Given, known: Mapping[str, Setting]) -> str:
    """What is wrong with a path that is no setting; how to write it where it would be inside one."""
    for path, setting in known.items():
        if setting.kind == "table" and given.path.startswith(f"{path}."):
            first, *below = given.path.removeprefix(f"{path}.").split(".")
            table = given.value
            for key in reversed((first, *below)):
                table = f"{{{key}={table}}}"
            return (
                f"{path} is one setting, a table; write --set '{path}={table}', or [{path}.{first}] in a settings file"
            )
    return "there is no such setting" + nearest(given.path, known)


def _from_file(path: Path, problems: list[str]) -> Iterator[Given]:
    import tomllib

    source = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
        document = tomllib.loads(content.decode())
    except OSError as error:
        problems.append(f"{source}: {error.strerror or error}")
        return
    except ValueError as error:
        problems.append(f"{source}: {error}")
        return
    sections = [*(field.name for field in fields(Config)), *TOP_LEVEL]
    for name, table in document.items():
        if name in TOP_LEVEL:
            section, _, field = TOP_LEVEL[name].partition(".")
            other = document.get(section)
            if isinstance(other, dict) and field in other:
                problems.append(_problem(name, source, f"it is also there as [{section}.{field}]; say it once"))
            yield Given(TOP_LEVEL[name], table, source)
        elif name not in sections:
            problems.append(_problem(name, source, "there is no such section" + nearest(name, sections)))
        elif not isinstance(table, dict):
            problems.append(_problem(name, source, f"{table!r} is not a table; write [{name}]"))
        else:
            yield from (Given(f"{name}.{key}", value, source) for key, value in table.items())


def _from_environment(environ: Mapping[str, str], known: Mapping[str, Setting], problems: list[str]) -> Iterator[Given]:
    variables = {setting.variable: path for path, setting in known.items()}
    for name in sorted(environ):
        if name in variables:
            yield Given(variables[name], environ[name], name, text=True)
        elif name.startswith(PREFIX) and name not in OWN_VARIABLES:
            hint = nearest(name, (*variables, *OWN_VARIABLES))
            problems.append(f"{name}: this variable sets nothing{hint}")


def _tree(values: Mapping[str, Any]) -> Config:
    parts: dict[str, Any] = {}
    for section in fields(Config):
        kind: Any = section.type
        start = f"{section.name}."
        parts[section.name] = kind(
            **{path.removeprefix(start): value for path, value in values.items() if path.startswith(start)}
        )
    return Config(**parts)


def _problem(path: str, source: str, text: str) -> str:
    return f"{path} ({source}): {text}"


def _invalid(problems: list[str]) -> DukouError:
    detail = problems[0] if len(problems) == 1 else "".join(f"\n  {problem}" for problem in problems)
    return DukouError(Reason.CONFIG_INVALID, detail=detail, problems=tuple(problems))
