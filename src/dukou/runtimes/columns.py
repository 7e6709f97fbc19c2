"""What a fitted estimator knows of its columns: names, which it uses, and for each a value that it has seen."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec


class Columns(msgspec.Struct, frozen=True):
    """The columns of the table that an estimator takes.

    `names` are those of the frame it was fitted on, or (). `examples` has for each column a known text, a known number,
    or None: a number of which nothing is known. `used` tells the columns that a ColumnTransformer does not drop.
    `documents`: not a table at all, but one text a row.
    """

    names: tuple[str, ...] = ()
    examples: tuple[str | float | None, ...] = ()
    used: tuple[bool, ...] = ()
    documents: bool = False


def read_columns(estimator: Any) -> Columns:
    """The columns of a fitted estimator. Raises DukouError ARTIFACT_UNSUPPORTED when it does not say how many."""
    chain = list(_leading(estimator))
    if any(_takes_documents(each) for each in chain):
        return Columns(documents=True)
    width = next((each.n_features_in_ for each in chain if hasattr(each, "n_features_in_")), None)
    if width is None:
        detail = f"its {type(estimator).__name__} does not say how many columns it takes (n_features_in_)"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path="the estimator", detail=detail)
    known = _known(chain, width)
    return Columns(
        names=_names(estimator),
        examples=tuple(None if value is _DROPPED else value for value in known),
        used=tuple(value is not _DROPPED for value in known),
    )


def examples(columns: Columns, spec: TensorSpec, number: float) -> list[str | float]:
    """A row of known values for an input of the estimator's signature, `number` where nothing is known."""
    values = [number if value is None else value for value in columns.examples]
    if spec.shape != (-1, 1) or len(values) == 1:
        return values
    names = columns.names or tuple(f"x{index}" for index in range(len(values)))
    return [values[names.index(spec.name)]]


def needs_frame(estimator: Any) -> bool:
    """Whether the estimator was fitted on a frame and may pick columns from it by name.

    A ColumnTransformer does; functions and classes that are not scikit-learn's may. All others take plain arrays, which
    is 80 microseconds a call faster and needs no pandas.
    """
    if not _names(estimator):
        return False
    chain = list(_leading(estimator))
    if any(isinstance(value, str) for value in _known(chain, len(_names(estimator)))):
        return True
    return any(hasattr(each, "transformers_") or _runs_foreign_code(each) for each in chain)


def _runs_foreign_code(estimator: Any) -> bool:
    function = getattr(estimator, "func", None)
    foreign = function is not None and not isinstance(function, np.ufunc)
    return foreign or type(estimator).__module__.split(".")[0] != "sklearn"


def strip_names(estimator: Any) -> None:
    """Forget the frame's column names everywhere, so that plain arrays are taken without a warning for each call."""
    for state in states(estimator):
        state.pop("feature_names_in_", None)


def states(estimator: Any) -> Iterator[dict[str, Any]]:
    """The attributes of the estimator and of every scikit-learn object inside it, to be read or changed."""
    pending, seen = [estimator], set()
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, list | tuple):
            pending.extend(each)
        elif isinstance(each, dict):
            pending.extend(each.values())
        elif isinstance(each, np.ndarray):
            pending.extend(each.flat if each.dtype.kind == "O" else ())
        elif hasattr(each, "get_params") or type(each).__module__.split(".")[0] == "sklearn":
            state = getattr(each, "__dict__", {})
            yield state
            pending.extend(state.values())


_DROPPED: Any = object()


def _names(estimator: Any) -> tuple[str, ...]:
    names = getattr(estimator, "feature_names_in_", ())
    return tuple(map(str, names)) if all(isinstance(name, str) for name in names) else ()


def _leading(estimator: Any) -> Iterator[Any]:
    """The estimator, and those inside it that see the same table: what it wraps, a pipeline's first step, and so on."""
    for _ in range(16):
        yield estimator
        if hasattr(estimator, "steps"):
            steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
            yield from (step for step in steps[:-1] if hasattr(step, "func"))
            estimator = next((step for step in steps if not hasattr(step, "func")), None)
        else:
            estimator = _wrapped(estimator)
        if estimator is None:
            return


def _wrapped(estimator: Any) -> Any:
    for attribute in ("best_estimator_", "estimator_", "regressor_", "_preprocessor"):
        if getattr(estimator, attribute, None) is not None:
            return getattr(estimator, attribute)
    return next(members(estimator), getattr(estimator, "estimator", None))


def members(estimator: Any) -> Iterator[Any]:
    """The fitted estimators of an ensemble, whether it keeps them in a list, a list of lists or an array, or beside
    their calibrators."""
    for part in getattr(estimator, "estimators_", ()):
        # Pipelines and forests can be iterated over too, but are estimators themselves.
        yield from part if isinstance(part, list | np.ndarray) else [part]
    yield from (part.estimator for part in getattr(estimator, "calibrated_classifiers_", ()))


def _takes_documents(estimator: Any) -> bool:
    return hasattr(estimator, "build_analyzer")


def _known(chain: Sequence[Any], width: int) -> list[Any]:
    """For each column a str, a float, None, or _DROPPED, as the first of `chain` says that says anything."""
    for each in chain:
        if hasattr(each, "transformers_"):
            return _of_parts(((part, columns) for _, part, columns in each.transformers_), _names(each), width)
        if hasattr(each, "transformer_list"):
            return _of_parts(((part, slice(None)) for _, part in each.transformer_list), (), width)
        categories = getattr(each, "categories_", None)
        if categories is not None and len(categories) == width:
            return [_example(values) for values in categories]
        statistics = getattr(each, "statistics_", None)
        if statistics is not None and len(statistics) == width:
            return [value if isinstance(value, str) else None for value in statistics]
    return [None] * width


def _of_parts(parts: Iterator[tuple[Any, Any]], names: tuple[str, ...], width: int) -> list[Any]:
    """What the parts of a ColumnTransformer or FeatureUnion say together: text before numbers before nothing."""
    known: list[Any] = [_DROPPED] * width
    for part, columns in parts:
        indices = _indices(columns, names, width)
        if isinstance(part, str):
            values = [_DROPPED if part == "drop" else None] * len(indices)
        elif any(_takes_documents(each) for each in _leading(part)):
            values = ["text"] * len(indices)
        else:
            values = _known(list(_leading(part)), len(indices))
        for index, value in zip(indices, values, strict=True):
            if _rank(value) > _rank(known[index]):
                known[index] = value
    return known


def _rank(value: Any) -> int:
    return 0 if value is _DROPPED else 1 if value is None else 3 if isinstance(value, str) else 2


def _indices(columns: Any, names: tuple[str, ...], width: int) -> list[int]:
    """Which columns a ColumnTransformer means by a name, a number, a slice, a mask, or a list of these."""
    if isinstance(columns, slice):
        start = names.index(columns.start) if isinstance(columns.start, str) else columns.start
        stop = names.index(columns.stop) + 1 if isinstance(columns.stop, str) else columns.stop
        return list(range(*slice(start, stop, columns.step).indices(width)))
    listed: NDArray[Any] = np.atleast_1d(np.asarray(columns, dtype=object))
    if listed.size and all(isinstance(item, bool | np.bool_) for item in listed):
        return [int(index) for index in np.flatnonzero(listed.astype(bool))]
    return [names.index(item) if isinstance(item, str) else int(item) % width for item in listed]


def _example(categories: NDArray[Any]) -> str | float | None:
    """A category that is a text or a number, not a missing value."""
    for value in categories:
        if isinstance(value, str):
            return str(value)
        if isinstance(value, int | float | np.number | np.bool_) and value == value:  # noqa: PLR0124
            return float(value)
    return None
