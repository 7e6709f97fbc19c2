"""The reference page of the settings, written from the tree."""

import json
from typing import Any

from dukou.config.fields import Setting, sections
from dukou.config.load import OWN_VARIABLES

_INTRODUCTION = """\
# Settings

<!-- Written by `dukou config --reference`; change src/dukou/config/tree.py instead. -->

Every setting has a default. A TOML file (`--config dukou.toml`) goes over the defaults, the environment over the file,
flags over the environment. `dukou config` shows each value and who said it.

| Where | How |
|---|---|
| TOML file | `[engine]`, then `max_batch_rows = 128` |
| environment | `DUKOU_ENGINE__MAX_BATCH_ROWS=128` |
| flag of `dukou serve` and `dukou config` | `--set engine.max_batch_rows=128`; the usual ones have their own |

In the environment and after `--set`, a list is words with spaces between them or a TOML array, and a table is a TOML
inline table. Names that are not below are refused, and so are values of the wrong type or out of range: all mistakes
are reported together.
"""


def reference() -> str:
    """The page as Markdown; `docs/reference/config.md` is this text."""
    parts = [_INTRODUCTION]
    for name, doc, group in sections():
        parts.append(f"\n## {name}\n\n{doc}\n\n| Setting | Type | Default | Meaning |\n|---|---|---|---|\n")
        parts += [_row(setting) for setting in group]
    parts.append("\n## Other variables\n\n| Variable | Meaning |\n|---|---|\n")
    parts += [f"| `{name}` | {doc} |\n" for name, doc in OWN_VARIABLES.items()]
    return "".join(parts)


def written(value: Any) -> str:
    """A value as a TOML file has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(written(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)} = {written(item)}" for key, item in value.items()) + "}"
    return str(value)


def _row(setting: Setting) -> str:
    name = setting.path.partition(".")[2]
    kind = ", ".join(filter(None, (setting.kind, setting.unit and f"in {setting.unit}", _range(setting))))
    return f"| `{name}` | {kind} | `{written(setting.default)}` | {setting.doc} |\n"


def _range(setting: Setting) -> str:
    if setting.choices:
        return "one of " + ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.least is not None and setting.most is not None:
        return f"{setting.least} to {setting.most}"
    return f"at least {setting.least}" if setting.least is not None else ""
