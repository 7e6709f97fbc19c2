"""The clock that is set by hand."""

import pytest

from dukou.testing.clock import HandClock


def test_it_stands_still_until_told() -> None:
    """Only `advance` moves the time."""
    clock = HandClock(10.0)

    clock.advance(2.5)

    assert (clock(), clock()) == (12.5, 12.5)


def test_it_never_goes_back() -> None:
    """A monotonic clock refuses a negative span."""
    with pytest.raises(ValueError, match="does not go back"):
        HandClock().advance(-1.0)
