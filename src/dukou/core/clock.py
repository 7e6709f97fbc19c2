"""Time as an argument: nothing else in dukou reads a clock, so tests can own it."""

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Returns seconds. Deadlines and durations use a monotonic clock, stamps for people use the wall clock."""

monotonic: Clock = time.monotonic
wall: Clock = time.time
