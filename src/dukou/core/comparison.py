"""What comparing the answers of two versions to the same rows has shown: counts that can be added up and kept.

Light: the supervisor adds them up and judges by them. What makes them is `dukou.lifecycle.compare`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

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
    of the models themselves, batches in the buckets of `dukou.core.buckets.FINE_SECONDS`.
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


_Counts = TypeVar("_Counts")

MOST_PAIRS = 256
"""So many pairs of labels of an output are told apart."""

MOST_SLICES = 64
"""So many values of the input that slices are made by have a slice of their own."""

MOST_OUTPUTS = 64
"""So many outputs are compared in detail; rows that differ in others disagree all the same."""

OTHER = "other"
"""The slice of all values that have none of their own."""


def merge(a: Comparison, b: Comparison) -> Comparison:
    """Both added up, within the bounds above.

    Slices that `a` has stay, so that what is judged by them goes on where it was; those of `b` take the places left,
    the larger first, and the rest goes to OTHER. Of pairs of labels the commonest stay.
    """
    return Comparison(
        rows=a.rows + b.rows,
        disagreed=a.disagreed + b.disagreed,
        failed=a.failed + b.failed,
        copies=a.copies + b.copies,
        dropped=a.dropped + b.dropped,
        labels=_by_output(a.labels, b.labels, _merge_agreement),
        numbers=_by_output(a.numbers, b.numbers, _merge_differences),
        slices=_merge_slices(a.slices, b.slices),
        primary_s=_add(a.primary_s, b.primary_s),
        candidate_s=_add(a.candidate_s, b.candidate_s),
    )


def commonest(counts: Mapping[tuple[str, str], int], most: int = MOST_PAIRS) -> tuple[dict[str, dict[str, int]], int]:
    """The confusion of the `most` commonest pairs (primary's label, candidate's), and how many rows the others have."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    confusion: dict[str, dict[str, int]] = {}
    for (primary, candidate), rows in ranked[:most]:
        confusion.setdefault(primary, {})[candidate] = rows
    return confusion, sum(rows for _, rows in ranked[most:])


def _by_output(
    a: Mapping[str, _Counts], b: Mapping[str, _Counts], add: Callable[[_Counts, _Counts], _Counts]
) -> dict[str, _Counts]:
    merged = dict(a)
    for name, counts in b.items():
        if name in merged:
            merged[name] = add(merged[name], counts)
        elif len(merged) < MOST_OUTPUTS:
            merged[name] = counts
    return merged


def _merge_agreement(a: Agreement, b: Agreement) -> Agreement:
    pairs: dict[tuple[str, str], int] = {}
    for one in (a, b):
        for primary, by_candidate in one.confusion.items():
            for candidate, rows in by_candidate.items():
                pairs[primary, candidate] = pairs.get((primary, candidate), 0) + rows
    confusion, beyond = commonest(pairs)
    return Agreement(a.rows + b.rows, a.agreed + b.agreed, confusion, a.other + b.other + beyond)


def _merge_differences(a: Differences, b: Differences) -> Differences:
    return Differences(
        values=a.values + b.values,
        absolute=_add(a.absolute, b.absolute),
        relative=_add(a.relative, b.relative),
        largest=max(a.largest, b.largest),
    )


def _merge_slices(a: Mapping[str, Tally], b: Mapping[str, Tally]) -> dict[str, Tally]:
    merged = dict(a)
    for value, tally in sorted(b.items(), key=lambda item: (-item[1].rows, item[0])):
        full = len(merged) - (OTHER in merged) >= MOST_SLICES
        name = OTHER if full and value not in merged else value
        before = merged.get(name, _NOTHING)
        merged[name] = Tally(before.rows + tally.rows, before.disagreed + tally.disagreed)
    return merged


_NOTHING = Tally()


def _add(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Two histograms of the same buckets, of which either may still be empty."""
    return [x + y for x, y in zip_longest(a, b, fillvalue=0)]
