"""Which of a model's versions should be served: `latest:N`, `all`, or numbers such as `1,3`. Pure."""

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from dukou.core.errors import DukouError, Reason


class Latest(msgspec.Struct, frozen=True):
    """The `count` highest versions."""

    count: int = 1

    def __str__(self) -> str:
        return f"latest:{self.count}"


class All(msgspec.Struct, frozen=True):
    """Every version."""

    def __str__(self) -> str:
        return "all"


class Specific(msgspec.Struct, frozen=True):
    """These versions and no others."""

    versions: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.versions))


Policy: TypeAlias = Latest | All | Specific


def parse(text: str) -> Policy:
    """The policy that `text` says; `str(policy)` says it back. Raises DukouError CONFIG_INVALID."""
    word, colon, rest = (part.strip() for part in text.partition(":"))
    if word == "all" and not colon:
        return All()
    if word == "latest" and not colon:
        return Latest()
    if word == "latest":
        count = _number(rest)
        if count:
            return Latest(count)
    elif not colon:
        numbers = [_number(part.strip()) for part in text.split(",")]
        found = sorted({number for number in numbers if number is not None}, reverse=True)
        if None not in numbers:
            return Specific(tuple(found))
    raise DukouError(
        Reason.CONFIG_INVALID,
        detail=f"version policy {text!r}; there are `latest:N` (N at least 1), `all`, and numbers such as `1,3`",
    )


def wanted(policy: Policy, available: Iterable[int]) -> tuple[int, ...]:
    """The versions of `available` that the policy asks for, highest first."""
    ordered = tuple(sorted(set(available), reverse=True))
    match policy:
        case Latest(count):
            return ordered[:count]
        case All():
            return ordered
        case Specific(versions):
            return tuple(version for version in ordered if version in versions)


def missing(policy: Policy, available: Iterable[int]) -> tuple[int, ...]:
    """The versions that the policy names and that are not available, highest first."""
    if not isinstance(policy, Specific):
        return ()
    return tuple(sorted(set(policy.versions) - set(available), reverse=True))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None
