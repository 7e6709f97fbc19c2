"""Which values a model takes. A graph has no opinion on missing numbers or unknown categories and answers something;
where its original refused them, so does the server.
"""

import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec

FLOAT32_MAX = 3.4028235677973362e38
"""The largest float64 that rounds to a finite float32."""

_FEW = 10_000
"""Numbers up to which one dot product looks at them all: 0.7 µs, where isfinite and all take 1.7. Beyond, BLAS would
start threads for it."""


class InputDomain(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one input takes. Columns are places in a row, counted from 0.

    `missing`: whether NaN is taken, in all columns, in none, or in those listed; `infinite` the same for numbers beyond
    ±`largest`. `categories`: the only values that a column takes besides NaN; its key is the column, in digits.
    """

    missing: bool | tuple[int, ...] = True
    infinite: bool | tuple[int, ...] = True
    largest: float = sys.float_info.max
    categories: Mapping[str, tuple[str | float, ...]] = {}


class Gate:
    """Lets an input's values pass or refuses them."""

    def __init__(self, spec: TensorSpec, domain: InputDomain) -> None:
        self._spec = spec
        self._numbers = spec.datatype.startswith("FP") and not (domain.missing is True and domain.infinite is True)
        self._largest = domain.largest
        # Where the sum of squares is at most this, so is every square, and nothing is NaN.
        self._square = min(domain.largest * domain.largest, sys.float_info.max)
        width = int(np.prod((spec.shape or (-1,))[1:], dtype=np.int64))
        self._may_be_missing = _mask(domain.missing, width)
        self._may_be_infinite = _mask(domain.infinite, width)
        self._categories = {int(column): frozenset(values) for column, values in domain.categories.items()}

    def check(self, array: NDArray[Any]) -> None:
        """Raise DukouError MODEL_REFUSED_INPUT naming the first row that holds what is not taken.

        An array that does not fit the input's spec passes: its shape is refused elsewhere.
        """
        if self._numbers and not (array.size <= _FEW and np.vdot(array, array) <= self._square):
            self._check_numbers(array)
        if self._categories:
            self._check_categories(array)

    def _check_numbers(self, array: NDArray[Any]) -> None:
        if not self._spec.fits(array.shape):
            return
        table = array.reshape(len(array), -1)
        missing = np.isnan(table) & ~self._may_be_missing
        beyond = (np.abs(table) > self._largest) & ~self._may_be_infinite
        refused = missing | beyond
        if refused.any():
            row, column = (int(place) for place in np.argwhere(refused)[0])
            value = table[row, column]
            if missing[row, column]:
                said = "it takes no missing numbers"
            else:
                said = "it takes finite numbers only" if np.isinf(value) else f"it takes ±{self._largest:.2g} at most"
            raise self._refusal(row, column, "NaN" if np.isnan(value) else f"{value:g}", said)

    def _check_categories(self, array: NDArray[Any]) -> None:
        if not self._spec.fits(array.shape):
            return
        table = array.reshape(len(array), -1)
        for column, known in self._categories.items():
            values = table[:, column].tolist()
            if known.issuperset(values):
                continue
            for row, value in enumerate(values):
                if value not in known and value == value:  # noqa: PLR0124  NaN is a number's affair
                    shown = ", ".join(sorted(map(repr, known))[:5])
                    more = f" and {len(known) - 5} more" if len(known) > 5 else ""
                    raise self._refusal(row, column, f"{value!r:.80}", f"it knows {shown}{more}")

    def _refusal(self, row: int, column: int, got: str, said: str) -> DukouError:
        spec = self._spec
        place = f" in column {column}" if len(self._may_be_missing) > 1 else ""
        if spec.columns:
            place = f" in column {spec.columns[column]!r}"
        return DukouError(Reason.MODEL_REFUSED_INPUT, tensor=spec.name, row=row, detail=f"{got}{place}; {said}")


def _mask(taken: bool | tuple[int, ...], width: int) -> NDArray[np.bool_]:
    if isinstance(taken, bool):
        return np.full(width, taken)
    mask: NDArray[np.bool_] = np.zeros(width, dtype=np.bool_)
    mask[[column for column in taken if column < width]] = True
    return mask


def read_domain(option: Any) -> dict[str, InputDomain]:
    """The manifest's option `domain`: a table for each input. Raises ValueError with a sentence for people."""
    domains = msgspec.convert(option, dict[str, InputDomain])
    for name, domain in domains.items():
        for key in domain.categories:
            if not key.isdecimal():
                raise ValueError(f"{name!r} has categories for column {key!r}, which is no number")
    return domains
