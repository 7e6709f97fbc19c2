"""What a new version goes through before it answers everybody: a chain of steps, each with what it needs to be left.

As text: words joined by commas, then settings. `shadow,incremental:5,50,100 least_s=30 max_disagreement=0.02`.
"""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from dukou.core.errors import DukouError, Reason

SHADOW, INCREMENTAL, BLUE_GREEN, FULL = "shadow", "incremental", "blue_green", "full"
SHARES = (1.0, 5.0, 25.0, 50.0, 100.0)
"""The steps of `incremental`, in percent."""

LEAST_REQUESTS = 100
LEAST_S = 60.0
MOST_STEPS = 32
LEAST_RATIO = 1.5
"""Latencies are known by buckets that lie 1.22 apart: a smaller ratio of them cannot be told from 1."""


class Step(msgspec.Struct, frozen=True):
    """One step: the candidate answers `share` of the calls and gets copies of `shadow` of the primary's (both 0 to 1).

    `kind` is the word of the plan it came from: `shadow`, `incremental`, `blue_green` or `full`. The step lasts at
    least `least_s` seconds and `least_requests` requests of the candidate (compared rows, where it is a shadow).
    """

    kind: str
    share: float = 0.0
    shadow: float = 0.0
    least_requests: int = 0
    least_s: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """The steps and how they are judged.

    `manual`: no step is left without a `promote`. `max_disagreement`: rows on which both versions may disagree before
    the rollout goes back; None leaves that to a human. `slice_by` names an input by whose values answers are compared
    as well, `tolerance` is how far numbers may differ, relatively, and still agree. `error_margin` and
    `latency_ratio` are how much worse the candidate may be.
    """

    steps: tuple[Step, ...]
    manual: bool = False
    max_disagreement: float | None = None
    slice_by: str = ""
    tolerance: float = 1e-3
    error_margin: float = 0.02
    latency_ratio: float = 2.0


def parse(text: str, **settings: Any) -> Plan:
    """The plan that `text` says; `settings` (those of a table but `steps`) win over those in the text.

    Raises DukouError CONFIG_INVALID, naming what is wrong and what is possible.
    """
    try:
        chain, *pairs = shlex.split(text) or [""]
    except ValueError as error:
        raise _invalid(f"{text!r} cannot be read: {error}") from None
    said: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise _invalid(f"{pair!r} in {text!r}; after the words of the plan come settings such as least_s=30")
        said[name] = value.split(",") if name in _PER_STEP and "," in value else value
    return _plan(_words(chain), said | settings)


def to_text(table: Mapping[str, Any]) -> str:
    """The text of the plan that a table of settings says: its `steps` are words and percentages, or the text of a
    plan's words. Raises DukouError CONFIG_INVALID."""
    settings = dict(table)
    steps = settings.pop("steps", f"{SHADOW},{INCREMENTAL}")
    if isinstance(steps, (list, tuple)):
        steps = _chain(steps)
    elif not isinstance(steps, str):
        raise _invalid(f"steps = {steps!r}; it is a text such as `shadow,incremental`, or a list of percentages")
    pairs = [f"{name}={_text(value)}" for name, value in settings.items()]
    text = " ".join([steps.replace(" ", ""), *map(shlex.quote, pairs)])
    parse(text)  # what is wrong is said here
    return text


def _chain(steps: Sequence[Any]) -> str:
    """`["shadow", 5, 100]` as words: percentages are those of `incremental`."""
    words: list[str] = []
    for each in steps:
        number = isinstance(each, (int, float)) and not isinstance(each, bool)
        if number and not any(word.startswith(INCREMENTAL) for word in words):
            words.append(f"{INCREMENTAL}:{each:g}")
        else:
            words.append(f"{each:g}" if number else str(each))
    return ",".join(words)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _words(chain: str) -> tuple[Step, ...]:
    """The steps that the words say, without what each of them needs."""
    steps: list[Step] = []
    words: list[str] = []
    shares: dict[int, list[float]] = {}
    for part in chain.split(","):
        word, colon, rest = (each.strip() for each in part.partition(":"))
        if words and _is_number(word) and shares.get(len(words) - 1):
            shares[len(words) - 1].append(_percent(word))
            continue
        if word not in (SHADOW, INCREMENTAL, BLUE_GREEN, FULL):
            raise _invalid(f"{part!r} in {chain!r}; {_POSSIBLE}")
        if colon and word in (BLUE_GREEN, FULL):
            raise _invalid(f"{part!r}; {word} takes no percentages")
        words.append(word)
        if colon:
            shares[len(words) - 1] = [_percent(rest)]
    _check_chain(words, chain)
    for index, word in enumerate(words):
        percentages = shares.get(index) or ([100.0] if word != INCREMENTAL else list(SHARES))
        if word == SHADOW:
            if len(percentages) > 1:
                raise _invalid(f"{chain!r}: shadow takes one percentage, the share of calls that are copied")
            steps.append(Step(SHADOW, shadow=percentages[0] / 100))
        else:
            _check_shares(percentages, chain)
            steps += [Step(word, share=percentage / 100) for percentage in percentages]
    return tuple(steps)


def _check_chain(words: Sequence[str], chain: str) -> None:
    if FULL in words and len(words) > 1:
        raise _invalid(f"{chain!r}: full stops the old version before the new one is loaded, so nothing goes with it")
    if SHADOW in words[1:]:
        raise _invalid(f"{chain!r}: shadow comes first and once, as nobody is answered by it")
    answering = [word for word in words if word != SHADOW]
    if len(answering) > 1:
        raise _invalid(
            f"{chain!r}: after {answering[0]} the candidate answers everybody, so {answering[1]} is too late"
        )


def _check_shares(percentages: Sequence[float], chain: str) -> None:
    if len(percentages) > MOST_STEPS:
        raise _invalid(f"{chain!r} has {len(percentages)} steps, {MOST_STEPS} is the most")
    for before, after in pairwise(percentages):
        if after <= before:
            raise _invalid(f"{chain!r}: the steps have to grow, and {after:g} % comes after {before:g} %")
    if percentages[-1] != 100:
        raise _invalid(f"{chain!r}: the last step has to be 100 %, it is {percentages[-1]:g} %")


def _plan(steps: tuple[Step, ...], said: Mapping[str, Any]) -> Plan:
    settings: dict[str, Any] = {}
    for name, value in said.items():
        if name not in _READ:
            raise _invalid(f"there is no setting {name!r}; there are: {', '.join(_READ)}")
        settings[name] = [_READ[name](name, each) for each in (value if isinstance(value, (list, tuple)) else [value])]
        if name not in _PER_STEP:
            if len(settings[name]) != 1:
                raise _invalid(f"{name} = {value!r}; it has one value")
            settings[name] = settings[name][0]
    requests = _spread("least_requests", settings.pop("least_requests", [LEAST_REQUESTS]), steps)
    seconds = _spread("least_s", settings.pop("least_s", [LEAST_S]), steps)
    if steps[0].kind == FULL:  # nothing is left to go back to in no time, so nothing is waited for
        return Plan(steps, **settings)
    needed = [
        msgspec.structs.replace(step, least_requests=int(count), least_s=time_s)
        for step, count, time_s in zip(steps, requests, seconds, strict=True)
    ]
    return Plan(tuple(needed), **settings)


def _spread(name: str, values: Sequence[float], steps: Sequence[Step]) -> Sequence[float]:
    """One value for each step; a single one is for all."""
    if len(values) == 1:
        return [values[0]] * len(steps)
    if len(values) != len(steps):
        raise _invalid(f"{name} has {len(values)} values for {len(steps)} steps; give one for all, or one for each")
    return values


def _percent(text: str) -> float:
    number = float(text) if _is_number(text) else math.nan
    if not 0 < number <= 100:
        raise _invalid(f"{text!r} is not a percentage above 0 and up to 100")
    return number


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(least: float, most: float, whole: bool = False) -> Callable[[str, Any], float]:
    def read(name: str, value: Any) -> float:
        if isinstance(value, bool) or not _is_number(str(value)) or (whole and float(value) % 1):
            raise _invalid(f"{name} = {value!r} is not a {'whole ' if whole else ''}number")
        if not least <= float(value) <= most:
            raise _invalid(f"{name} = {value!r}; it is from {least:g} to {most:g}")
        return int(float(value)) if whole else float(value)

    return read


def _flag(name: str, value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise _invalid(f"{name} = {value!r} is neither true nor false")
    return str(value).lower() == "true"


def _name(name: str, value: Any) -> str:
    return str(value)


_POSSIBLE = "a plan is shadow, incremental (or incremental:5,50,100), blue_green, shadow before one of them, or full"
_PER_STEP = ("least_requests", "least_s")
_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "least_requests": _number(0, 1e12, whole=True),
    "least_s": _number(0, 1e9),
    "manual": _flag,
    "max_disagreement": _number(0.0001, 1),  # no number of rows proves that none will ever differ
    "slice_by": _name,
    "tolerance": _number(0, 1e6),
    "error_margin": _number(0.001, 1),
    "latency_ratio": _number(LEAST_RATIO, 1000),
}


def _invalid(detail: str) -> DukouError:
    return DukouError(Reason.CONFIG_INVALID, detail=f"plan: {detail}")
