"""The tree as a list: every setting with its path, type, default, documentation and range, and how text becomes one."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from dukou.config.tree import Config

PREFIX = "DUKOU_"

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the tree. `path` is `section.field`; `least` and `most` are inclusive."""

    path: str
    type: Any
    default: Any
    doc: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that sets it: `DUKOU_ENGINE__MAX_BATCH_ROWS`."""
        return PREFIX + self.path.replace(".", "__").upper()

    @property
    def kind(self) -> str:
        """The type in words."""
        return _KINDS[self.type]


_KINDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    tuple[str, ...]: "list of text",
    Mapping[str, Any]: "table",
}


def sections() -> Iterator[tuple[str, str, tuple[Setting, ...]]]:
    """Every section: its name, what it is about, its settings in order."""
    for section in fields(Config):
        tree: Any = section.type
        yield section.name, tree.__doc__, tuple(_setting(section.name, field) for field in fields(tree))


def settings() -> Mapping[str, Setting]:
    """Every setting by its path."""
    return {setting.path: setting for _, _, group in sections() for setting in group}


def _setting(section: str, field: Field[Any]) -> Setting:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return Setting(f"{section}.{field.name}", field.type, default, **field.metadata)


def read(setting: Setting, given: Any, *, text: bool) -> Any:
    """What `given` means for `setting`: text (from the environment or a flag) is parsed, all else must have the type.

    Raises ValueError, whose message says what came and what is wanted.
    """
    if setting.type is bool:
        return _read_bool(given, text)
    if setting.type is int or setting.type is float:
        return _in_range(setting, _read_number(setting, given, text))
    if setting.type is str:
        return _one_of(setting, _read_text(given))
    if text:
        given = _read_toml(given, listed=setting.type == tuple[str, ...])
    return _read_list(given) if setting.type == tuple[str, ...] else _read_table(given)


def _read_bool(given: Any, text: bool) -> bool:
    if text:
        word = given.strip().lower()
        given = word in _TRUE if word in _TRUE | _FALSE else given
    if not isinstance(given, bool):
        raise ValueError(f"{given!r} is neither true nor false")
    return given


def _read_number(setting: Setting, given: Any, text: bool) -> float:
    wanted = f"is not a {setting.kind}"
    if text:
        try:
            given = int(given) if setting.type is int else float(given)
        except ValueError:
            raise ValueError(f"{given!r} {wanted}") from None
    allowed = int if setting.type is int else (int, float)
    if isinstance(given, bool) or not isinstance(given, allowed):
        raise ValueError(f"{given!r} {wanted}")
    number: float = setting.type(given)
    if not math.isfinite(number):
        raise ValueError(f"{given!r} {wanted}")
    return number


def _in_range(setting: Setting, number: float) -> float:
    if setting.least is not None and number < setting.least:
        raise ValueError(f"{number} is below {setting.least}")
    if setting.most is not None and number > setting.most:
        raise ValueError(f"{number} is above {setting.most}")
    return number


def _read_text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{given!r} is not text")
    return given


def _one_of(setting: Setting, word: str) -> str:
    if setting.choices and word not in setting.choices:
        raise ValueError(f"{word!r} is not one of {', '.join(setting.choices)}")
    return word


def _read_toml(text: str, *, listed: bool) -> Any:
    """A TOML array or inline table; a list may also be words with spaces between them (`[::1]:8501` is such a word)."""
    if listed and not (text.lstrip().startswith("[") and text.rstrip().endswith("]")):
        return text.split()
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise ValueError(f"{text!r} is not a TOML {'array' if listed else 'inline table'}") from None


def _read_list(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(item, str) for item in given):
        raise ValueError(f"{given!r} is not a list of text")
    return tuple(given)


def _read_table(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{given!r} is not a table")
    return given
