"""Adding up comparisons: nothing is lost, nothing grows without bound."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.core.comparison import (
    MOST_OUTPUTS,
    MOST_PAIRS,
    MOST_SLICES,
    OTHER,
    Agreement,
    Comparison,
    Differences,
    Tally,
    commonest,
    merge,
)

COUNT = st.integers(0, 1000)
WORD = st.sampled_from("abcdef")
HISTOGRAM: st.SearchStrategy[list[int]] = st.just([]) | st.lists(COUNT, min_size=3, max_size=3)
COMPARISONS = st.builds(
    Comparison,
    rows=COUNT,
    disagreed=COUNT,
    failed=COUNT,
    copies=COUNT,
    dropped=COUNT,
    labels=st.dictionaries(
        WORD,
        st.builds(
            Agreement,
            rows=COUNT,
            agreed=COUNT,
            confusion=st.dictionaries(WORD, st.dictionaries(WORD, COUNT, min_size=1)),
            other=COUNT,
        ),
    ),
    numbers=st.dictionaries(
        WORD,
        st.builds(Differences, values=COUNT, absolute=HISTOGRAM, relative=HISTOGRAM, largest=st.floats(0.0, 1e300)),
    ),
    slices=st.dictionaries(WORD, st.builds(Tally, rows=COUNT, disagreed=COUNT)),
    primary_s=HISTOGRAM,
    candidate_s=HISTOGRAM,
)


FEWER = settings(max_examples=40)  # they are large


def in_order(comparison: Comparison) -> bytes:
    """The same bytes for comparisons that differ in the order of their dictionaries alone."""
    return msgspec.json.encode(comparison, order="deterministic")


@FEWER
@given(COMPARISONS, COMPARISONS)
def test_the_order_does_not_matter_while_there_is_room(a: Comparison, b: Comparison) -> None:
    """Deltas of two model processes may come in any order."""
    assert in_order(merge(a, b)) == in_order(merge(b, a))


@FEWER
@given(COMPARISONS, COMPARISONS, COMPARISONS)
def test_deltas_can_be_added_up_before_they_are_added(a: Comparison, b: Comparison, c: Comparison) -> None:
    """In whatever groups they come."""
    assert in_order(merge(merge(a, b), c)) == in_order(merge(a, merge(b, c)))


@FEWER
@given(COMPARISONS)
def test_nothing_added_changes_nothing(a: Comparison) -> None:
    """An empty comparison is where adding up begins."""
    assert in_order(merge(Comparison(), a)) == in_order(a)


@FEWER
@given(COMPARISONS, COMPARISONS)
def test_what_was_added_stays_as_it_was(a: Comparison, b: Comparison) -> None:
    """A comparison that was handed out is not changed behind anyone's back."""
    before = in_order(a), in_order(b)

    merge(a, b)

    assert (in_order(a), in_order(b)) == before


def test_of_many_pairs_of_labels_the_commonest_stay() -> None:
    """The others are counted together."""
    a = Comparison(labels={"y": Agreement(rows=10, confusion={"rare": {str(n): 1 for n in range(MOST_PAIRS)}})})
    b = Comparison(labels={"y": Agreement(rows=5, confusion={"common": {"x": 5}})})

    merged = merge(a, b).labels["y"]

    assert merged.confusion["common"] == {"x": 5}
    assert sum(len(each) for each in merged.confusion.values()) == MOST_PAIRS
    assert merged.other == 1
    assert merged.rows == 15


def test_a_slice_once_begun_stays_and_new_ones_are_counted_together_when_there_is_no_room() -> None:
    """What is judged by a slice has to see all of its rows, from its beginning."""
    a = Comparison(slices={str(n): Tally(1, 0) for n in range(MOST_SLICES)})
    b = Comparison(slices={"late": Tally(100, 7), "0": Tally(2, 1)})

    merged = merge(a, b).slices

    assert merged["0"] == Tally(3, 1)
    assert merged[OTHER] == Tally(100, 7)
    assert len(merged) == MOST_SLICES + 1


def test_of_new_slices_the_larger_take_the_places_left() -> None:
    """They say more."""
    a = Comparison(slices={str(n): Tally(1, 0) for n in range(MOST_SLICES - 1)})
    b = Comparison(slices={"small": Tally(3, 1), "large": Tally(100, 7)})

    merged = merge(a, b).slices

    assert merged["large"] == Tally(100, 7)
    assert merged[OTHER] == Tally(3, 1)


def test_there_are_never_more_outputs_than_allowed() -> None:
    """A model may have thousands."""
    a = Comparison(numbers={str(n): Differences(values=1) for n in range(MOST_OUTPUTS)})
    b = Comparison(numbers={"late": Differences(values=1), "0": Differences(values=2)})

    merged = merge(a, b).numbers

    assert merged["0"].values == 3
    assert len(merged) == MOST_OUTPUTS


def test_the_commonest_pairs_and_the_rest() -> None:
    """Ties go by the labels' order, so that the same counts always make the same answer."""
    confusion, rest = commonest({("a", "b"): 2, ("a", "a"): 9, ("b", "a"): 2, ("c", "c"): 1}, most=2)

    assert confusion == {"a": {"a": 9, "b": 2}}
    assert rest == 3
