"""Options of a version: their names, and those that several runtimes know."""

from collections.abc import Mapping
from typing import Any

from dukou.core.errors import DukouError, Reason

OPTIONS = frozenset(
    {
        "concurrency",
        "domain",
        "independent_rows",
        "max_batch_rows",
        "max_queue_delay_s",
        "max_request_rows",
        "threads",
        "warm",
    }
)
"""All that the engine and the runtimes read; a Python model reads what it likes."""


def read_threads(options: Mapping[str, Any]) -> int:
    """The option `threads`, 1 where it is not given. Raises DukouError CONFIG_INVALID."""
    return _count("threads", options, 1)


def read_concurrency(options: Mapping[str, Any], default: int) -> int:
    """The option `concurrency`: how many calls of the model may run at a time. Raises DukouError CONFIG_INVALID."""
    return _count("concurrency", options, default)


def _count(name: str, options: Mapping[str, Any], default: int) -> int:
    count = options.get(name, default)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise DukouError(Reason.CONFIG_INVALID, detail=f"option {name} is {count!r}, 1 or more is wanted")
    return count
