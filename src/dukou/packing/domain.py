"""What an original refuses, found by asking it, so that its compiled form can refuse the same.

scikit-learn refuses missing and infinite numbers where an estimator cannot take them, and categories that an encoder
was not fitted on. A graph answers all of these with some number.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError
from dukou.core.model import Signature
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors
from dukou.packing.derive import positions
from dukou.packing.states import UNKNOWN_CATEGORY, inside
from dukou.runtimes.domain import FLOAT32_MAX, InputDomain

SAMPLE = 64
"""Columns of an input that are asked first; where they all agree, they speak for the others."""

MAX_ASKED = 2048
"""Columns that are asked where they do not agree; the rest counts as refusing."""

MAX_CATEGORIES = 10_000
"""Categories of one column that are recorded. With more, nothing is, and the original serves (see `laxer`)."""

ODD_NUMBERS = (np.nan, np.inf, -np.inf, 1e39, -1.0, 0.0, 0.1234)
"""What an estimator may refuse: missing, infinite, beyond float32, not positive, not a whole number."""

Place = tuple[str, int]
"""A cell of a row: an input's name, and the column within it."""


class Asker:
    """Asks a model single rows that differ from a good one in some cells."""

    def __init__(self, model: LoadedModel, signature: Signature, row: Tensors) -> None:
        self._model = model
        self._signature = signature
        self._row = row

    def takes(self, cells: Mapping[Place, Any]) -> bool:
        """Whether the model answers the row with these values in these cells."""
        row = {name: array.copy() for name, array in self._row.items()}
        for (name, column), value in cells.items():
            row[name].reshape(-1)[column] = value
        return self._answers(row)

    def taken(self, place: Place, values: Sequence[Any]) -> Sequence[Any]:
        """Those of the values that the model takes in one cell; asked together first, which is mostly enough."""
        name, column = place
        rows = {key: np.repeat(array, len(values), axis=0) for key, array in self._row.items()}
        rows[name].reshape(len(values), -1)[:, column] = values
        if self._answers(rows):
            return values
        return [value for value in values if self.takes({place: value})]

    def _answers(self, rows: Tensors) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._model.infer(self._signature.name, rows, self._signature.output_names(), {})
            except DukouError:
                return False
        return True


def find_domain(estimator: Any, original: LoadedModel, signature: Signature, row: Tensors) -> dict[str, InputDomain]:
    """What each input of the original takes; inputs that take everything are not in it. `row` is one it answers."""
    asker = Asker(original, signature, row)
    found = {}
    for name, array in row.items():
        places = [(name, column) for column in range(array.size)]
        missing: bool | tuple[int, ...] = True
        infinite: bool | tuple[int, ...] = True
        largest = InputDomain().largest
        if array.dtype.kind == "f":
            missing = _taken(asker, places, np.nan)
            infinite = _taken(asker, places, np.inf)
            if infinite is not True and not asker.takes(dict.fromkeys(places, 1e39)):
                largest = FLOAT32_MAX
        domain = InputDomain(missing, infinite, largest, _categories(asker, estimator, signature, name, array))
        if domain != InputDomain():
            found[name] = domain
    return found


def within_float32(domain: Mapping[str, InputDomain]) -> dict[str, InputDomain]:
    """The domain of a graph that computes in float32: what that cannot hold is refused too, where infinity is."""
    return {
        name: one if one.infinite is True else msgspec.structs.replace(one, largest=min(one.largest, FLOAT32_MAX))
        for name, one in domain.items()
    }


def laxer(original: LoadedModel, compiled: LoadedModel, signature: Signature, row: Tensors) -> str:
    """A value that the original refuses and the compiled form answers, in words; empty when there is none.

    The compiled form knows its domain, so this finds what a domain cannot say: a logarithm's positive numbers, say.
    """
    strict, lax = Asker(original, signature, row), Asker(compiled, signature, row)
    for kind, odd in (("f", ODD_NUMBERS), ("O", (UNKNOWN_CATEGORY, ""))):
        places = [
            (name, place) for name, array in row.items() if array.dtype.kind == kind for place in range(array.size)
        ]
        for value in odd if places else ():
            if strict.takes(dict.fromkeys(places, value)):
                continue
            for place in _spread(places, SAMPLE):
                if not strict.takes({place: value}) and lax.takes({place: value}):
                    said = "an unknown category" if value == UNKNOWN_CATEGORY else repr(value)
                    return f"{said} in {place[0]}" + (f"[{place[1]}]" if row[place[0]].size > 1 else "")
    return ""


def odd_rows(domain: Mapping[str, InputDomain], rows: Tensors) -> Tensors:
    """The rows, every fourth with a missing or infinite number in one cell that may hold it."""
    cells = [
        (name, column, value)
        for name, array in rows.items()
        if array.dtype.kind == "f"
        for one in [domain.get(name, InputDomain())]
        for taken, values in ((one.missing, (np.nan,)), (one.infinite, (np.inf, -np.inf)))
        for column in (range(array[:1].size) if taken is True else taken or ())
        for value in values
    ]
    if not cells:
        return rows
    chance = np.random.default_rng(11)
    made = {name: array.copy() for name, array in rows.items()}
    for place in range(3, len(next(iter(rows.values()))), 4):
        name, column, value = cells[chance.integers(len(cells))]
        made[name][place].reshape(-1)[column] = value
    return made


def _taken(asker: Asker, places: Sequence[Place], value: float) -> bool | tuple[int, ...]:
    """Which columns of an input take a value: all, none, or these."""
    if asker.takes(dict.fromkeys(places, value)):
        return True
    answers = {place: asker.takes({place: value}) for place in _spread(places, SAMPLE)}
    if any(answers.values()):
        answers |= {place: asker.takes({place: value}) for place in places[:MAX_ASKED] if place not in answers}
    return tuple(sorted(column for (_, column), taken in answers.items() if taken)) or False


def _categories(
    asker: Asker, estimator: Any, signature: Signature, name: str, array: NDArray[Any]
) -> dict[str, tuple[str | float, ...]]:
    """For each column of an input that refuses unknown categories those that it takes."""
    names = [spec.name for spec in signature.inputs]
    single = len(names) == 1
    width = array.size if single else 1
    known: dict[int, dict[str | float, None]] = {}
    columns = np.arange(int(getattr(estimator, "n_features_in_", width)))
    fitted_on = [str(column) for column in getattr(estimator, "feature_names_in_", ())] or names
    for column, values in _fitted_categories(estimator, columns):
        if single or fitted_on[column] == name:
            known.setdefault(int(column) if single else 0, {}).update(dict.fromkeys(values))
    found = {}
    for column, values in known.items():
        of_kind = [value for value in values if isinstance(value, str) == (array.dtype.kind == "O")]
        unknown = UNKNOWN_CATEGORY if array.dtype.kind == "O" else 0.1234
        if of_kind and len(of_kind) <= MAX_CATEGORIES and not asker.takes({(name, column): unknown}):
            found[str(column)] = tuple(asker.taken((name, column), of_kind))
    return found


def _fitted_categories(estimator: Any, columns: NDArray[np.intp]) -> Iterator[tuple[int, Iterable[str | float]]]:
    """The categories of every encoder inside, each with the column of the estimator's input that it reads."""
    if estimator is None or isinstance(estimator, str):
        return
    if (inner := inside(estimator)) is not None:
        yield from _fitted_categories(inner, columns)
    elif hasattr(estimator, "steps"):
        for _, step in estimator.steps:
            if getattr(step, "n_features_in_", len(columns)) != len(columns):
                return  # behind a step that changes the columns no encoder reads the input's own
            for column in columns:  # an imputer's mark is replaced before the encoder sees it
                yield int(column), list(_plain([getattr(step, "missing_values", None)]))
            yield from _fitted_categories(step, columns)
    elif hasattr(estimator, "output_indices_"):
        for _, part, picked in estimator.transformers_:
            yield from _fitted_categories(part, columns[positions(estimator, picked)])
    elif hasattr(estimator, "transformer_list"):
        for _, part in estimator.transformer_list:
            yield from _fitted_categories(part, columns)
    elif isinstance(categories := getattr(estimator, "categories_", None), list) and len(categories) == len(columns):
        for column, known in zip(columns, categories, strict=True):
            yield int(column), list(_plain(known))


def _plain(values: Iterable[Any]) -> Iterator[str | float]:
    for value in values:
        if isinstance(value, str):
            yield str(value)
        elif isinstance(value, int | float | np.number | np.bool_) and not np.isnan(value):
            yield float(value)


def _spread(places: Sequence[Place], most: int) -> list[Place]:
    """At most so many of the places, evenly over all."""
    picked = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int))
    return [places[int(place)] for place in picked]
