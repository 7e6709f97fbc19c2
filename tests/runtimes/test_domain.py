"""Gates: what passes, what is refused, and what is said."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec
from dukou.runtimes.domain import FLOAT32_MAX, Gate, InputDomain, read_domain

PAIR = TensorSpec("X", "FP64", (-1, 2))
FINITE = InputDomain(missing=False, infinite=False)
NUMBERS = st.one_of(st.floats(), st.sampled_from([FLOAT32_MAX, math.nextafter(FLOAT32_MAX, math.inf), 1e200, -1e200]))


def refused(gate: Gate, rows: Any, dtype: Any = np.float64) -> str:
    """What the gate says; empty when the rows pass."""
    try:
        gate.check(np.array(rows, dtype=dtype))
    except DukouError as error:
        if error.reason is Reason.MODEL_REFUSED_INPUT:
            return str(error)
        raise
    return ""


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5), st.sampled_from([FLOAT32_MAX, 1.7e308]))
def test_the_quick_way_says_what_the_slow_one_does(rows: Sequence[tuple[float, float]], largest: float) -> None:
    """A sum of squares decides for most; it neither refuses nor passes what each number alone would not."""
    gate = Gate(PAIR, InputDomain(missing=False, infinite=False, largest=largest))

    said = refused(gate, rows)

    assert bool(said) is not all(abs(number) <= largest for row in rows for number in row)


@pytest.mark.parametrize(
    ("domain", "passes", "refuses"),
    [
        (InputDomain(missing=False), [1.0, math.inf], [1.0, math.nan]),
        (InputDomain(infinite=False), [math.nan, 1.0], [1.0, -math.inf]),
        (InputDomain(missing=(0,), infinite=(1,)), [math.nan, math.inf], [math.inf, 1.0]),
        (InputDomain(missing=(0,), infinite=(1,)), [math.nan, math.inf], [1.0, math.nan]),
        (InputDomain(categories={"1": (1.0, 2.0)}), [7.0, 2.0], [1.0, 7.0]),
        (InputDomain(categories={"1": (1.0, 2.0)}), [7.0, math.nan], [1.0, 0.0]),
    ],
)
def test_columns_may_differ(domain: InputDomain, passes: list[float], refuses: list[float]) -> None:
    """In what they take of NaN, of infinity, and of categories."""
    gate = Gate(PAIR, domain)

    assert refused(gate, [passes, passes]) == ""
    assert "row 1" in refused(gate, [passes, refuses])


@pytest.mark.parametrize(
    ("spec", "domain", "rows", "said"),
    [
        (PAIR, FINITE, [[0, math.nan]], "NaN in column 1; it takes no missing numbers"),
        (PAIR, FINITE, [[-math.inf, 0]], "-inf in column 0; it takes finite numbers only"),
        (
            TensorSpec("X", "FP64", (-1, 2), ("age", "fare")),
            InputDomain(infinite=False, largest=FLOAT32_MAX),
            [[0, 1e39]],
            "1e+39 in column 'fare'; it takes ±3.4e+38 at most",
        ),
        (TensorSpec("age", "FP64", (-1, 1)), FINITE, [[math.nan]], "NaN; it takes no missing numbers"),
    ],
)
def test_the_sentence_names_row_and_column(spec: TensorSpec, domain: InputDomain, rows: Any, said: str) -> None:
    """And what would be taken."""
    assert refused(Gate(spec, domain), rows) == (
        f"input {spec.name!r}, row 0: the model cannot take these values: {said}"
    )


def test_many_categories_are_not_all_listed() -> None:
    """Five say what they look like."""
    gate = Gate(TensorSpec("city", "BYTES", (-1, 1)), InputDomain(categories={"0": tuple("abcdefgh")}))

    assert refused(gate, [["a"], ["x"]], object).endswith("'x'; it knows 'a', 'b', 'c', 'd', 'e' and 3 more")


def test_many_numbers_are_looked_at_too() -> None:
    """More than one dot product is taken for."""
    rows = np.zeros((20_000, 2))
    rows[12_345, 1] = np.nan

    assert "row 12345" in refused(Gate(PAIR, FINITE), rows)


@pytest.mark.parametrize("rows", [[math.nan], [[math.nan] * 3], math.nan])
def test_wrong_shapes_pass(rows: Any) -> None:
    """They are refused elsewhere, as such."""
    gate = Gate(PAIR, InputDomain(missing=False, categories={"1": (1.0,)}))

    assert refused(gate, rows) == ""


@pytest.mark.parametrize("option", [[], {"X": 1}, {"X": {"mising": True}}, {"X": {"categories": {"a": []}}}])
def test_an_option_that_is_no_domain_is_said(option: Any) -> None:
    """Misspelt keys too."""
    with pytest.raises(ValueError, match=r".+"):
        read_domain(option)
