"""The classes of an output."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dukou.core.tensor import narrow
from dukou.wire.oip_classification import classify


@pytest.mark.parametrize(
    ("array", "k", "labels", "texts"),
    [
        (np.array([[0.1, 0.7, 0.2]], np.float32), 2, (), [["0.700000:1", "0.200000:2"]]),
        (np.array([[0.1, 0.7, 0.2]]), 1, ("a", "b", "c"), [["0.700000:1:b"]]),
        (np.array([[1, 3], [4, 2]]), 9, (), [["3:1", "1:0"], ["4:0", "2:1"]]),
        (np.array([[1.0, 2.0]]), 2, ("only",), [["2.000000:1", "1.000000:0:only"]]),
        (np.array([[5, 5, 5]]), 2, (), [["5:0", "5:1"]]),
        (np.array([[np.nan, -np.inf, 1.0, np.inf]]), 4, (), [["inf:3", "1.000000:2", "nan:0", "-inf:1"]]),
        (np.array([-128, 127], np.int8), 1, (), [["-128:0"], ["127:0"]]),
        (np.array([[-128, 127]], np.int8), 2, (), [["127:1", "-128:0"]]),
        (np.array([[0, 2**64 - 1]], np.uint64), 1, (), [["18446744073709551615:1"]]),
        (np.array([[True, False]]), 1, (), [["1:0"]]),
        (np.array([[[1, 2], [3, 4]]]), 1, (), [["4:3"]]),
        (np.array([[1.5, 2.5]], np.float16), 1, (), [["2.500000:1"]]),
        (narrow(np.array([[1.5, 2.5]], np.float32)), 1, (), [["2.500000:1"]]),
        (np.zeros((2, 0)), 3, (), [[], []]),
        (np.zeros((0, 3)), 3, (), []),
    ],
)
def test_the_largest_values_come_first(array: Any, k: int, labels: tuple[str, ...], texts: Any) -> None:
    """As value, place and, where it has one, label; of equal values the first."""
    assert classify(array, k, labels, batched=True).tolist() == texts


@pytest.mark.parametrize(
    ("array", "texts"),
    [(np.array([3, 1, 2]), ["3:0", "2:2"]), (np.array(7), ["7:0"]), (np.array([[1], [2]]), ["2:1", "1:0"])],
)
def test_without_rows_there_is_one_list(array: Any, texts: list[str]) -> None:
    """Of all values of the output."""
    assert classify(array, 2, (), batched=False).tolist() == texts


@given(
    hnp.arrays(st.sampled_from([np.float32, np.int64, np.uint8]), st.tuples(st.integers(1, 3), st.integers(1, 6))),
    st.integers(1, 8),
)
def test_each_row_has_its_own_classes_in_order(array: Any, k: int) -> None:
    """As many as there are, at most k, each place once, no value before a larger one."""
    texts = classify(array, k, (), batched=True)

    assert texts.shape == (len(array), min(k, array.shape[1]))
    for row, found in zip(array, texts, strict=True):
        places = [int(text.split(":")[1]) for text in found]
        values = np.where(np.isnan(row[places]), -np.inf, row[places])
        assert len(set(places)) == len(places)
        assert (values[:-1] >= values[1:]).all()
