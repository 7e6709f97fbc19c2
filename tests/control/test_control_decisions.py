"""The supervisor's decisions, as tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.control.decisions import (
    MOST_FAILED_STARTS,
    Life,
    Record,
    Verdict,
    judge_table,
    merge_reports,
    restart_pause_s,
)
from dukou.core.link import LoadReport
from dukou.core.version import ModelVersion, State

IRIS = ModelVersion("iris", 1)
WINE = ModelVersion("wine", 4)

LOADED = LoadReport(IRIS, State.AVAILABLE, load_s=0.1)
FAILED = LoadReport(IRIS, State.END, error="iris: damaged")
WINE_LOADED = LoadReport(WINE, State.AVAILABLE, load_s=0.2)
WINE_FAILED = LoadReport(WINE, State.END, error="wine: damaged")

LONG = Life(3600.0, listened=True)
SHORT = Life(0.5, listened=True)
STILLBORN = Life(0.5, listened=False)
STUCK = Life(90.0, listened=False)


@pytest.mark.parametrize(
    ("lives", "others_listen", "pause_s"),
    [
        ([LONG], False, 0.0),
        ([LONG] * 20, False, 0.0),
        ([SHORT], False, 0.0),
        ([SHORT] * 2, False, 0.1),
        ([SHORT] * 3, False, 0.2),
        ([SHORT] * 50, False, 5.0),
        ([*[SHORT] * 50, LONG], False, 0.0),
        ([STILLBORN], False, 0.0),
        ([STILLBORN] * 4, False, 0.4),
        ([STILLBORN] * 5, False, None),
        ([STUCK] * 5, False, None),
        ([STILLBORN] * 5, True, 0.8),
        ([STILLBORN] * 9, True, 5.0),
        ([STILLBORN] * 10, True, None),
        ([*[STILLBORN] * 4, LONG, *[STILLBORN] * 4], False, 0.4),
    ],
)
def test_a_worker_is_started_again_at_once_then_after_pauses_then_not(
    lives: list[Life], others_listen: bool, pause_s: float | None
) -> None:
    """Only what cannot come to serve is given up; a worker that has served is always replaced."""
    record = Record()
    for life in lives:
        record = record.after(life)

    assert restart_pause_s(record, others_listen) == (None if pause_s is None else pytest.approx(pause_s))


@given(st.lists(st.builds(Life, st.floats(0, 1e5), st.booleans())), st.booleans())
def test_pauses_are_bounded_and_giving_up_needs_failed_starts(lives: list[Life], others_listen: bool) -> None:
    """Whatever happened, a pause is at most five seconds, and giving up means that the last starts all failed."""
    record = Record()
    for life in lives:
        record = record.after(life)

    pause_s = restart_pause_s(record, others_listen)

    if pause_s is None:
        assert all(not life.listened for life in lives[-MOST_FAILED_STARTS:])
    else:
        assert 0.0 <= pause_s <= 5.0


@pytest.mark.parametrize(
    ("reports", "elsewhere", "failed_starts", "verdict"),
    [
        ([], set(), 0, Verdict.LISTEN),
        ([LOADED], set(), 0, Verdict.LISTEN),
        ([LOADED, WINE_FAILED], set(), 0, Verdict.LISTEN),
        ([FAILED], set(), 0, Verdict.NOTHING_LOADED),
        ([FAILED, WINE_FAILED], set(), 9, Verdict.NOTHING_LOADED),
        ([FAILED], {IRIS}, 0, Verdict.REPLACE),
        ([FAILED], {WINE}, 9, Verdict.REPLACE),
        ([LOADED, WINE_FAILED], {IRIS, WINE}, 0, Verdict.REPLACE),
        ([LOADED, WINE_FAILED], {IRIS, WINE}, 2, Verdict.REPLACE),
        ([LOADED, WINE_FAILED], {IRIS, WINE}, 3, Verdict.LISTEN),
        ([LOADED, WINE_FAILED], {IRIS}, 0, Verdict.LISTEN),
        ([LOADED], {WINE}, 0, Verdict.LISTEN),
    ],
)
def test_a_worker_listens_unless_it_lacks_what_its_neighbours_serve(
    reports: list[LoadReport], elsewhere: set[ModelVersion], failed_starts: int, verdict: Verdict
) -> None:
    """A version that is no longer wanted does not count; in the end some versions are better than none."""
    assert judge_table(reports, elsewhere, failed_starts) is verdict


def test_a_version_is_available_only_when_it_is_so_in_every_worker() -> None:
    """The failing worker's report speaks for the version, whichever worker it is."""
    merged = merge_reports([[LOADED, WINE_FAILED], [FAILED, WINE_LOADED]])

    assert {(report.id, report.state, report.error) for report in merged} == {
        (IRIS, State.END, "iris: damaged"),
        (WINE, State.END, "wine: damaged"),
    }


def test_merged_reports_say_each_warning_once_and_the_slowest_load() -> None:
    """Every worker warns of the same thing; people read it once."""
    one = LoadReport(IRIS, State.AVAILABLE, warnings=("old", "big"), load_s=0.5)
    two = LoadReport(IRIS, State.AVAILABLE, warnings=("old",), load_s=0.7)

    merged = merge_reports([[one], [two]])

    assert merged == (LoadReport(IRIS, State.AVAILABLE, warnings=("old", "big"), load_s=0.7),)
