"""What the workers have counted of one version, as rollouts are judged by it."""

from pathlib import Path

from dukou.lifecycle.measured import Counts
from dukou.telemetry.totals import read_totals


class Counted:
    """The counters of all workers of a server, in its state folder."""

    def __init__(self, state_folder: Path) -> None:
        self._folder = state_folder

    def counts(self, block: int) -> Counts:
        """What was counted in a block since the server began: by a worker that has died, too. Reads a file for each
        worker, half a millisecond; one that is not there yet has counted nothing. Raises OSError."""
        totals = read_totals(self._folder, (block,)).blocks.get(block)
        if totals is None:
            return Counts()
        answered = max(0, totals.executed - totals.unsaid)
        return Counts(answered, sum(totals.errors.values()), totals.fine, totals.crashes)
