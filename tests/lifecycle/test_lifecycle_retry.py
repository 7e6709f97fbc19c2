"""When a version that failed to load is tried again."""

import pytest

from dukou.core.seen import Found, Seen
from dukou.core.version import ModelVersion
from dukou.lifecycle.retry import Failures

IRIS_2 = ModelVersion("iris", 2)


def failed(times: int, *, retries: int = 5, longest_s: float = 60.0) -> Failures:
    """After so many tries that failed at second 100."""
    failures = Failures(retries, longest_s)
    for _ in range(times):
        failures.failed(IRIS_2, "a", 100.0, "no memory")
    return failures


@pytest.mark.parametrize(("times", "pause_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0)], ids=str)
def test_each_pause_is_twice_the_one_before(times: int, pause_s: float) -> None:
    """From a second on."""
    failures = failed(times)

    assert not failures.due(IRIS_2, "a", 100.0)
    assert not failures.due(IRIS_2, "a", 99.9 + pause_s)
    assert failures.due(IRIS_2, "a", 100.0 + pause_s)


@pytest.mark.parametrize("times", [8, 1000, 5000])
def test_pauses_grow_no_longer_than_the_longest(times: int) -> None:
    """However often it has failed."""
    failures = failed(times, retries=10_000, longest_s=60.0)

    assert not failures.due(IRIS_2, "a", 159.9)
    assert failures.due(IRIS_2, "a", 160.0)


def test_it_is_tried_again_only_so_often() -> None:
    """Five retries are six tries; then it waits for other files."""
    failures = failed(6)

    assert failures.exhausted(IRIS_2, "a")
    assert not failures.due(IRIS_2, "a", 1e9)
    assert not failed(5).exhausted(IRIS_2, "a")


def test_without_retries_the_first_failure_is_the_last() -> None:
    """`load_retries = 0`."""
    assert failed(1, retries=0).exhausted(IRIS_2, "a")


def test_other_files_are_tried_at_once_and_counted_anew() -> None:
    """A changed mark makes it a new beginning."""
    failures = failed(6)

    assert failures.due(IRIS_2, "b", 100.0)
    assert not failures.exhausted(IRIS_2, "b")
    failures.failed(IRIS_2, "b", 200.0)
    assert not failures.due(IRIS_2, "b", 200.9)
    assert failures.due(IRIS_2, "b", 201.0)


def test_what_has_never_failed_or_is_loaded_is_due() -> None:
    """Nothing is remembered of it."""
    failures = failed(6)
    failures.succeeded(IRIS_2)

    assert failures.due(IRIS_2, "a", 100.0)
    assert failures.due(ModelVersion("iris", 3), "a", 0.0)


def test_a_clock_that_goes_backwards_keeps_nothing_waiting() -> None:
    """What seems to have failed in the future may be tried."""
    assert failed(3).due(IRIS_2, "a", 40.0)


def test_errors_are_told_until_it_is_due() -> None:
    """Of this model's versions as they are in the repository; other files have not failed."""
    failures = failed(1)
    failures.failed(ModelVersion("iris", 3), "a", 100.0, "no file")
    failures.failed(ModelVersion("wine", 1), "a", 100.0, "no file")
    seen = Seen({1: Found("1", "a"), 2: Found("2", "a"), 3: Found("3", "b")})

    assert failures.errors("iris", seen, 100.5) == {2: "no memory"}
    assert failures.errors("iris", seen, 101.0) == {}


@pytest.mark.parametrize(
    ("others", "barred", "held"),
    [
        ({1: Found("1", "a")}, (), True),
        ({1: Found("1", "a")}, (1,), False),
        ({1: Found("1", "a", "broken")}, (), False),
        ({}, (), False),
    ],
)
def test_where_a_try_costs_what_is_served_there_is_none(
    others: dict[int, Found], barred: tuple[int, ...], held: bool
) -> None:
    """As long as another version can be served."""
    seen = Seen({2: Found("2", "a"), **others})

    errors = failed(1).errors("iris", seen, 1000.0, again=False, barred=barred)

    assert errors == ({2: "no memory"} if held else {})


def test_what_is_no_more_is_forgotten() -> None:
    """Failures do not pile up."""
    failures = failed(1)
    failures.failed(ModelVersion("wine", 1), "a", 100.0)

    failures.forget(lambda version: version.name == "wine")

    assert failures.due(IRIS_2, "a", 100.0)
    assert not failures.due(ModelVersion("wine", 1), "a", 100.0)


@pytest.mark.parametrize(("mark", "wanted"), [("a", {2: "no memory"}), ("b", {})])
def test_the_last_error_is_known_while_it_is_tried_again(mark: str, wanted: dict[int, str]) -> None:
    """Whoever waits for the version is told; other files have not failed yet."""
    assert failed(1).last("iris", Seen({2: Found("/iris/2", mark)})) == wanted
    assert failed(1).last("wine", Seen({2: Found("/wine/2", mark)})) == {}
