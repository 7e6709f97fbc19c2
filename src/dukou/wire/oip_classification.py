"""The classification extension: the largest values of an output with the classes that they belong to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.tensor import DTYPES, widen


def classify(array: NDArray[Any], k: int, labels: Sequence[str], batched: bool) -> NDArray[Any]:
    """The `k` largest values, largest first, as texts `value:index[:label]`; of equal values the first comes first.

    BYTES, of shape `[rows, min(k, classes)]`, without rows where the model is not `batched`; a row's classes are all
    its values, which are numbers. NaN counts as minus infinity. Floats have six digits after the point, which is how
    Triton writes them.
    """
    if array.dtype == DTYPES["BF16"]:
        array = widen(array)
    rows = array.shape[0] if batched else 1
    values = array.reshape(rows, -1 if rows else 0)
    places = _largest(values, k)
    best = np.take_along_axis(values, places, axis=1)
    number = "%f" if values.dtype.kind == "f" else "%d"
    named = len(labels)
    texts = np.empty(places.shape, object)
    texts[...] = [
        [
            f"{number % value}:{place}:{labels[place]}" if place < named else f"{number % value}:{place}"
            for value, place in zip(*row, strict=True)
        ]
        for row in zip(best.tolist(), places.tolist(), strict=True)
    ]
    return texts if batched else texts.reshape(-1)


def _largest(values: NDArray[Any], k: int) -> NDArray[np.intp]:
    """The places of the `k` largest values of each row, largest first."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -np.inf, values)
    # An ascending stable sort of the reversed row, read from its end, has the first of equals first; negated numbers
    # would not do, since the least integer has no negative.
    ascending = np.argsort(values[:, ::-1], axis=1, kind="stable")[:, ::-1]
    places: NDArray[np.intp] = values.shape[1] - 1 - ascending[:, :k]
    return places
