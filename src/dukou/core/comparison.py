"""What comparing the answers of two versions to the same rows has shown: counts that can be added up and kept.

Light: the supervisor adds them up and judges by them. What makes them is `dukou.lifecycle.compare`.
"""

import msgspec


class Tally(msgspec.Struct):
    """Of so many rows, in how many the two versions disagreed."""

    rows: int = 0
    disagreed: int = 0


class Agreement(msgspec.Struct):
    """Answers that are labels: `confusion[primary's][candidate's]` rows, the commonest pairs only; `other` the rest."""

    rows: int = 0
    agreed: int = 0
    confusion: dict[str, dict[str, int]] = {}
    other: int = 0


class Differences(msgspec.Struct):
    """Answers that are numbers: how many values fell into which bucket of absolute and of relative difference
    (`dukou.core.comparison.BOUNDS`; one more bucket takes what is larger or not a number on one side only)."""

    values: int = 0
    absolute: list[int] = []
    relative: list[int] = []
    largest: float = 0.0


BOUNDS = (0.0, *(10.0 ** (exponent / 2) for exponent in range(-24, 13)))
"""Upper bounds of the buckets of differences: 0, then half decades from 1e-12 to 1e6."""


class Comparison(msgspec.Struct):
    """All of it, for one pair of versions.

    A row disagrees when one of its labels differs, or one of its numbers by more than the tolerance. `failed` are rows
    that the candidate refused or failed on (they are in `rows`, and disagree). `labels` and `numbers` are by output,
    `slices` by the value of the input that the deployment names (the commonest values only, then `other`).
    `copies` arrived and `dropped` did not: the candidate was busy or away. `primary_s` and `candidate_s` are the times
    of the models themselves, batches in the buckets of `dukou.telemetry.layout.SECONDS`.
    """

    rows: int = 0
    disagreed: int = 0
    failed: int = 0
    copies: int = 0
    dropped: int = 0
    labels: dict[str, Agreement] = {}
    numbers: dict[str, Differences] = {}
    slices: dict[str, Tally] = {}
    primary_s: list[int] = []
    candidate_s: list[int] = []
