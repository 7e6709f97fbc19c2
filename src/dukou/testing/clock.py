"""A clock that is set by hand."""


class HandClock:
    """A Clock that stands still until it is told to move."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Raises ValueError when they are negative: a monotonic clock never goes back."""
        if seconds < 0.0:
            raise ValueError(f"a clock does not go back by {-seconds} s")
        self.now += seconds
