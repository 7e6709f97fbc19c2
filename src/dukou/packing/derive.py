"""Rows that a fitted scikit-learn estimator itself tells of: where its data lay and where its answers change.

Scalers keep means and ranges, trees their thresholds, support vector machines some of the training rows, encoders the
categories. Rows made from these show whether a compiled form agrees where the model works; random numbers show nothing.
What stands behind transformers is carried back through their inverses, so all rows are rows of the estimator's input.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.model import Signature
from dukou.core.tensor import DTYPES, Tensors
from dukou.packing.states import STATES, Chance, Known, columns_told, inside, plain, unknown_category, width_of
from dukou.runtimes.columns import members

MAX_ROWS = 4096
MAX_CELLS = 4_000_000
"""Bounds of what is made: rows, and rows times width."""


class Derived(msgspec.Struct, frozen=True):
    """Rows of the estimator's input, and a sentence part that says where they came from ("tree thresholds, ...").

    `complete` is False when the fitted state tells nothing about some columns and those hold plain random numbers.
    """

    rows: Tensors
    said: str
    complete: bool


def derive(estimator: Any, signature: Signature, seed: int = 7) -> Derived | None:
    """Rows from the fitted state, at most MAX_ROWS, the same for the same seed; None when it tells nothing."""
    width = max(width_of(estimator), 1)
    rows = max(16, min(MAX_ROWS, MAX_CELLS // width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            known = _rows(estimator, rows, np.random.default_rng(seed), None)
        except (ArithmeticError, LookupError, TypeError, ValueError):  # state of a kind not met before tells nothing
            return None
    if known is None or not known.columns.any() or not len(known.values):
        return None
    tensors = _as_tensors(known.values[:rows], estimator, signature)
    if tensors is None:
        return None
    said = ", ".join(dict.fromkeys(known.sources))
    return Derived(tensors, said, bool(known.columns.all()))


def _rows(estimator: Any, rows: int, chance: Chance, base: Known | None) -> Known | None:
    """Rows of `estimator`'s input from its fitted state. `base` are plausible rows of the same space, if any."""
    if estimator is None or isinstance(estimator, str):
        return base
    inner = inside(estimator)
    if inner is not None:
        return _rows(inner, rows, chance, base)
    if hasattr(estimator, "steps"):
        return _pipeline(estimator, rows, chance, base)
    if hasattr(estimator, "output_indices_"):
        return _columns(estimator, rows, chance, base)
    if hasattr(estimator, "transformer_list"):
        return _first(estimator.transformer_list, rows, chance, base)
    for source, state in STATES:
        made = state(estimator, rows, chance, base)
        if made is not None:
            return Known(made, columns_told(estimator, made.shape[1]), (source,))
    # The members of an ensemble that take its own columns, not some of them.
    parts = [] if hasattr(estimator, "estimators_features_") else list(members(estimator))
    found = [known for part in parts[:8] if (known := _rows(part, max(rows // min(len(parts), 8), 16), chance, base))]
    return _together(found, rows, chance) if found else base


def _first(named: Sequence[Any], rows: int, chance: Chance, base: Known | None) -> Known | None:
    for entry in named:
        made = _rows(entry[1], rows, chance, base)
        if made is not None:
            return made
    return base


def _together(found: Sequence[Known], rows: int, chance: Chance) -> Known:
    """The rows of several, mixed; a column is known when every one knows it."""
    width = {known.values.shape[1:] for known in found}
    if len(width) > 1:
        return found[0]
    kind = object if any(known.values.dtype == object for known in found) else np.float64
    values = np.concatenate([known.values.astype(kind) for known in found])
    picked = chance.permutation(len(values))[:rows]
    sources = tuple(source for known in found for source in known.sources)
    return Known(values[picked], np.logical_and.reduce([known.columns for known in found]), sources)


def _pipeline(pipeline: Any, rows: int, chance: Chance, base: Known | None) -> Known | None:
    """Rows for each step from its own state, carried back to the front through the inverses of the steps before."""
    found: list[Known] = []
    here = base
    passed: list[Any] = []
    for _, step in pipeline.steps:
        made = _rows(step, rows, chance, here)
        if made is not None and made is not here:
            back: Known | None = made
            for earlier in reversed(passed):
                back = _backward(earlier, back) if back is not None else None
            if back is not None:
                found.append(back)
            here = made
        passed.append(step)
        here = _forward(step, here) if here is not None else None
    complete = [known for known in found if known.columns.all()]
    if complete:
        return _together(complete, rows, chance)
    return _together(found, rows, chance) if found else base


def _forward(step: Any, known: Known) -> Known | None:
    """The rows behind `step`."""
    if step is None or isinstance(step, str):
        return known
    if not hasattr(step, "transform"):
        return None
    try:
        values = step.transform(_with_names(step, known.values))
        values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    except Exception:  # a transformer may refuse made rows in any way; then nothing is known behind it
        return None
    if values.ndim != 2:
        return None
    columns = np.full(values.shape[1], known.columns.all())
    if hasattr(step, "output_indices_"):
        for name, _, picked in step.transformers_:
            columns[step.output_indices_[name]] = known.columns[positions(step, picked)].all()
    elif values.shape[1] == len(known.columns):
        columns = known.columns
    return Known(values, columns, known.sources)


def _backward(step: Any, known: Known) -> Known | None:
    """Rows in front of `step` that it turns into `known`; None where it has no inverse."""
    if step is None or isinstance(step, str):
        return known
    if hasattr(step, "output_indices_"):
        return _columns_backward(step, known)
    values = _inverse(step, known.values)
    if values is None:
        return None
    columns = known.columns if values.shape[1] == len(known.columns) else np.full(values.shape[1], known.columns.all())
    return Known(values, columns, known.sources)


def _inverse(step: Any, values: NDArray[Any]) -> NDArray[Any] | None:
    name = type(step).__name__
    if name in {"SimpleImputer", "KNNImputer", "IterativeImputer"}:
        return values if values.shape[1] == step.n_features_in_ else None
    if name == "PolynomialFeatures":
        alone = (step.powers_.sum(axis=1) == 1).nonzero()[0]
        return values[:, alone] if len(alone) == step.n_features_in_ else None
    if not hasattr(step, "inverse_transform"):
        return None
    try:
        back = step.inverse_transform(values.astype(np.float64))
        back = back.toarray() if hasattr(back, "toarray") else np.asarray(back)
    except Exception:  # made rows may be outside of what an inverse takes
        return None
    if back.dtype == object:
        return _with_unknown(step, back)
    good = np.isfinite(back).all(axis=1)
    if not good.any():
        return None
    back[~good] = back[good][0]  # rows stay in their places, beside those of other columns
    return back


def _with_unknown(encoder: Any, values: NDArray[Any]) -> NDArray[Any]:
    """An encoder's inverse, with an unknown category where it found none, or a known one where it takes no unknown."""
    for column, known in enumerate(getattr(encoder, "categories_", ())):
        missing = np.array([item is None for item in values[:, column]])
        if missing.any():
            unknown = known[0] if encoder.handle_unknown == "error" else unknown_category(known)
            values[missing, column] = unknown
    return values


def positions(transformer: Any, picked: Any) -> NDArray[np.intp]:
    """Column positions of a ColumnTransformer's entry, which may be names, numbers, a slice or a mask."""
    names = list(getattr(transformer, "feature_names_in_", ()))
    every = np.arange(transformer.n_features_in_)
    if isinstance(picked, str):
        return np.array([names.index(picked)])
    if isinstance(picked, slice):
        if isinstance(picked.start, str) or isinstance(picked.stop, str):
            start = names.index(picked.start) if picked.start is not None else 0
            stop = names.index(picked.stop) + 1 if picked.stop is not None else len(names)
            return every[start:stop]
        return every[picked]
    items = np.atleast_1d(np.asarray(picked, dtype=object))
    if not len(items):
        return every[:0]
    if isinstance(items[0], str):
        return np.array([names.index(name) for name in items])
    return np.asarray(every[np.asarray(items.tolist())])


def _columns(transformer: Any, rows: int, chance: Chance, base: Known | None) -> Known:
    """A ColumnTransformer's rows: each entry's own, side by side; what no entry tells about is random."""
    values = np.empty((rows, transformer.n_features_in_), dtype=object)
    values[:] = chance.standard_normal(values.shape)
    columns = np.zeros(transformer.n_features_in_, dtype=bool)
    sources: list[str] = []
    for _, entry, picked in transformer.transformers_:
        where = positions(transformer, picked)
        if isinstance(entry, str) and entry == "drop":
            columns[where] = True
            continue
        part = None if base is None else Known(base.values[:, where], base.columns[where], ())
        made = _rows(entry, rows, chance, part) if len(where) else None
        if made is None:
            continue
        block = made.values.reshape(len(made.values), -1)
        values[:, where] = block[chance.integers(0, len(block), rows)]
        columns[where] = made.columns
        sources += made.sources
    return Known(plain(values), columns, tuple(sources))


def _columns_backward(transformer: Any, known: Known) -> Known | None:
    rows = len(known.values)
    values = np.zeros((rows, transformer.n_features_in_), dtype=object)
    columns = np.zeros(transformer.n_features_in_, dtype=bool)
    for name, entry, picked in transformer.transformers_:
        where = positions(transformer, picked)
        if not len(where):
            continue
        if isinstance(entry, str) and entry == "drop":
            columns[where] = True
            continue
        there = transformer.output_indices_[name]
        part: Known | None = Known(known.values[:, there], known.columns[there], ())
        for step in [step for _, step in entry.steps][::-1] if hasattr(entry, "steps") else [entry]:
            part = _backward(step, part) if part is not None else None
        if part is None or len(part.values) != rows:
            return None
        values[:, where] = part.values
        columns[where] = part.columns
    return Known(plain(values), columns, known.sources)


def _with_names(step: Any, values: NDArray[Any]) -> Any:
    """A frame for a ColumnTransformer that was fitted on one and needs names, the array itself for everything else."""
    if hasattr(step, "vocabulary_"):
        return values.ravel()
    names = getattr(step, "feature_names_in_", None)
    if names is None:
        return values
    import pandas

    frame = pandas.DataFrame(values, columns=list(names))
    return frame.infer_objects()


def _as_tensors(values: NDArray[Any], estimator: Any, signature: Signature) -> Tensors | None:
    """The rows as the signature's inputs: one matrix, or a column each."""
    inputs = signature.inputs
    table = values.reshape(len(values), -1)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    try:
        if len(inputs) == 1:
            spec = inputs[0]
            shape = (len(values), *(spec.shape[1:] if spec.shape is not None else table.shape[1:]))
            return {spec.name: np.ascontiguousarray(table.reshape(shape).astype(DTYPES[spec.datatype]))}
        made = {}
        for position, spec in enumerate(inputs):
            column = table[:, names.index(spec.name) if spec.name in names else position]
            made[spec.name] = column.reshape((len(values), *(spec.shape[1:] if spec.shape else ()))).astype(
                DTYPES[spec.datatype]
            )
        return made
    except (ValueError, TypeError, IndexError):
        return None
