"""Which block of counters counts for which version."""

from collections.abc import Collection

from dukou.core.errors import DukouError, Reason
from dukou.core.version import ModelVersion
from dukou.telemetry.layout import MOST_BLOCKS


class Blocks:
    """Gives each version a block of its own for the life of the server; block 0 is for calls of no version.

    When all are given out, the ones of versions that are served no more are given again, the oldest first.
    """

    def __init__(self, most: int = MOST_BLOCKS) -> None:
        self._most = most
        self._of: dict[ModelVersion, int] = {}

    def of(self, version: ModelVersion) -> int:
        """The block of a version. Raises DukouError CONFIG_INVALID when there is none left."""
        block = self._of.get(version)
        if block is None:
            block = self._of[version] = self._next()
        return block

    def keep(self, used: Collection[ModelVersion]) -> None:
        """Only these versions' blocks are in use; the others may be given again once there are no fresh ones."""
        if len(self._of) + 1 >= self._most:
            self._of = {version: block for version, block in self._of.items() if version in used}

    def _next(self) -> int:
        taken = set(self._of.values())
        for block in range(1, self._most):
            if block not in taken:
                return block
        raise DukouError(Reason.CONFIG_INVALID, detail=f"one server has {self._most - 1} versions at most")
