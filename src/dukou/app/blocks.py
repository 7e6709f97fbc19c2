"""Which block of counters counts for which version."""

from collections.abc import Collection

from dukou.core.version import ModelVersion
from dukou.telemetry.layout import MOST_BLOCKS


class Blocks:
    """Gives each version a block of its own for the life of the server; block 0 is for calls of no version.

    When all are given out, those of versions that are served no more are given again; a version that comes when there
    is none has block 0.
    """

    def __init__(self, most: int = MOST_BLOCKS) -> None:
        self._most = most
        self._of: dict[ModelVersion, int] = {}

    def of(self, version: ModelVersion) -> int:
        """The block of a version."""
        block = self._of.get(version)
        if block is None:
            block = self._next()
            if block:
                self._of[version] = block
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
        return 0
