"""`dukou config`: every setting, its value and who said it."""

import json
import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from dukou.cli.flags import NO_FLAGS, Flags
from dukou.cli.options import Json
from dukou.config import Settings

command = App(
    name="config",
    help_epilogue="""Examples:

  dukou config                            what holds now, and who said it
  dukou config --config dukou.toml        what would hold with this file
  dukou config --workers 2 > dukou.toml   a file to start from
  dukou config --json
  dukou config --reference                the reference page, as Markdown""",
)


@command.default
def config(
    *,
    show: Annotated[bool, Parameter(help="Print each setting and its source, as without flags.", negative="")] = False,
    json: Json = False,
    reference: Annotated[bool, Parameter(help="Print the reference page of all settings.", negative="")] = False,
    flags: Flags = NO_FLAGS,
) -> None:
    """Show every setting, its value and where the value comes from."""
    if reference:
        from dukou.config.reference import reference as page

        sys.stdout.write(page())
    else:
        settings = flags.load()
        print(as_json(settings) if json else as_toml(settings))


def values(settings: Settings) -> dict[str, Any]:
    """Every setting's value by its path."""
    found = {}
    for path in settings.sources:
        section, _, field = path.partition(".")
        found[path] = getattr(getattr(settings.config, section), field)
    return found


def as_toml(settings: Settings) -> str:
    """A settings file that says the same, each line with its source as a comment."""
    from dukou.config.reference import written

    lines = {path: f"{path} = {written(value)}" for path, value in values(settings).items()}
    width = min(60, max(len(line) for line in lines.values()))
    return "\n".join(f"{line:<{width}}  # {settings.sources[path]}" for path, line in lines.items())


def as_json(settings: Settings) -> str:
    """`{"section.field": {"value": ..., "source": ...}}`."""
    table = {path: {"value": value, "source": settings.sources[path]} for path, value in values(settings).items()}
    return json.dumps(table, indent=2, ensure_ascii=False)
