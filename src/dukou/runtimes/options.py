"""Options of a version that several runtimes know."""

from collections.abc import Mapping
from typing import Any

from dukou.core.errors import DukouError, Reason


def read_threads(options: Mapping[str, Any]) -> int:
    """The option `threads`, 1 where it is not given. Raises DukouError CONFIG_INVALID."""
    threads = options.get("threads", 1)
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise DukouError(Reason.CONFIG_INVALID, detail=f"option threads is {threads!r}, 1 or more is wanted")
    return threads
