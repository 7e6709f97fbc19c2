"""What the supervisor does next, as pure functions over what it has seen."""

from collections.abc import Collection, Sequence
from enum import Enum

import msgspec

from dukou.core.link import LoadReport
from dukou.core.version import ModelVersion, State

QUICK_S = 10.0
"""A worker that lived for less than this died quickly."""

MOST_FAILED_STARTS = 5
"""After this many deaths in succession before it could serve, a worker is given up, when no other serves either."""

MOST_FAILED_STARTS_BESIDE_OTHERS = 10
"""The same while others serve. Connections wait in the slot's backlog meanwhile, so this cannot go on for ever."""

MOST_PARTIAL_STARTS = 3
"""So often a worker that lacks what others serve is started anew; then it serves what it has."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class Life(msgspec.Struct, frozen=True):
    """How one worker of a slot lived: for how long, and whether it came to accept connections."""

    lived_s: float
    listened: bool


class Record(msgspec.Struct, frozen=True):
    """What is remembered of a slot's dead workers: how many in succession died quickly, how many before listening."""

    quick_deaths: int = 0
    failed_starts: int = 0

    def after(self, life: Life) -> "Record":
        """The record with one more death."""
        return Record(
            quick_deaths=self.quick_deaths + 1 if life.lived_s < QUICK_S else 0,
            failed_starts=0 if life.listened else self.failed_starts + 1,
        )


def restart_pause_s(record: Record, others_listen: bool) -> float | None:
    """Seconds until a slot's next worker is started; None to give the slot up.

    The first worker to die is replaced at once, those that die quickly one after the other after growing pauses. A
    worker that did listen before it died is always replaced.
    """
    if record.failed_starts >= (MOST_FAILED_STARTS_BESIDE_OTHERS if others_listen else MOST_FAILED_STARTS):
        return None
    repeated = max(record.quick_deaths, record.failed_starts) - 1
    if repeated <= 0:
        return 0.0
    return float(min(_FIRST_PAUSE_S * 2 ** min(repeated - 1, 16), _LONGEST_PAUSE_S))


class Verdict(Enum):
    """What a worker may do with the table it applied."""

    LISTEN = "LISTEN"
    REPLACE = "REPLACE"
    NOTHING_LOADED = "NOTHING_LOADED"


def judge_table(reports: Collection[LoadReport], elsewhere: Collection[ModelVersion], failed_starts: int) -> Verdict:
    """Whether a worker that has applied its first table, and loads nothing any more, may accept connections.

    `reports` are of the versions that were to be loaded. `elsewhere` are the versions that listening workers serve: a
    worker that lacks one would answer 503 for what its neighbour answers, so it is replaced, but not for ever, as
    connections wait for it. `failed_starts` is how often that happened before. Where no other serves, some versions are
    better than none.
    """
    available = {report.id for report in reports if report.state is State.AVAILABLE}
    if reports and not available:
        return Verdict.REPLACE if elsewhere else Verdict.NOTHING_LOADED
    lacking = {report.id for report in reports if report.id in elsewhere} - available
    return Verdict.REPLACE if lacking and failed_starts < MOST_PARTIAL_STARTS else Verdict.LISTEN


def merge_reports(by_worker: Sequence[Sequence[LoadReport]]) -> tuple[LoadReport, ...]:
    """One report for each version, of all workers together.

    A version is LOADING while it is so in any worker, AVAILABLE when it is so in every one; else the first failure
    speaks for it. Warnings are told once, and the slowest load counts.
    """
    merged: dict[ModelVersion, LoadReport] = {}
    for reports in by_worker:
        for report in reports:
            before = merged.get(report.id)
            merged[report.id] = _merge(before, report) if before else report
    return tuple(merged.values())


_SPEAKS_FIRST = (State.LOADING, State.END, State.UNLOADING, State.START, State.AVAILABLE)


def _merge(first: LoadReport, second: LoadReport) -> LoadReport:
    speaks, other = sorted((first, second), key=lambda report: _SPEAKS_FIRST.index(report.state))
    return msgspec.structs.replace(
        speaks,
        error=speaks.error or (other.error if other.state is speaks.state else ""),
        warnings=tuple(dict.fromkeys(first.warnings + second.warnings)),
        load_s=max(first.load_s, second.load_s),
    )
