"""Two ways to find out whether nested lists are rectangular, list by list and byte by byte, come to one result."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.wire.json_cut import array_of

BY_LISTS, BY_BYTES = 0, 10**9

numbers = st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(2**62, 2**65)
nested = st.recursive(st.lists(numbers, max_size=3), lambda inner: st.lists(inner | numbers, max_size=3), max_leaves=8)


def same(one: np.ndarray[Any, Any] | None, other: np.ndarray[Any, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and one.shape == other.shape and bool(np.array_equal(one, other))


@given(nested)
def test_both_ways_agree(value: list[Any]) -> None:
    """On rectangles, on ragged lists, on lists hidden among numbers, on integers of any size."""
    text = json.dumps(value).encode()

    assert same(array_of(text, BY_LISTS), array_of(text, BY_BYTES))


@pytest.mark.parametrize("long_bytes", [BY_LISTS, BY_BYTES])
@pytest.mark.parametrize(
    "text",
    ["[[1,2],[3]]", "[[1,2,3],[4]]", "[3,[4]]", "[[3],4]", "[[[1]],[2]]", "[]", "[[]]", "[1,true]", "[1", "[1]]"],
)
def test_what_is_no_rectangle_is_no_array(text: str, long_bytes: int) -> None:
    """Whichever way it is looked at."""
    assert array_of(text.encode(), long_bytes) is None


@pytest.mark.parametrize("long_bytes", [BY_LISTS, BY_BYTES])
def test_a_rectangle_is_an_array(long_bytes: int) -> None:
    """Of its shape, integers as such."""
    array = array_of(b"[[[1,2,3],[4,5,6]]]", long_bytes)

    assert array is not None
    assert array.dtype == np.int64
    assert array.tolist() == [[[1, 2, 3], [4, 5, 6]]]
