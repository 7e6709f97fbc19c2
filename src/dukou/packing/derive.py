"""Rows that a fitted scikit-learn estimator itself tells of: where its data lay and where its answers change.

Scalers keep means and ranges, trees their thresholds, support vector machines some of the training rows, encoders the
categories. Rows made from these show whether a compiled form agrees where the model works; random numbers show nothing.
What stands behind transformers is carried back through their inverses, so all rows are rows of the estimator's input.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.model import Signature
from dukou.core.tensor import Tensors

MAX_ROWS = 4096
MAX_CELLS = 4_000_000
"""Bounds of what is made: rows, and rows times width."""

UNKNOWN_CATEGORY = "dukou-unknown-category"


class Derived(msgspec.Struct, frozen=True):
    """Rows of the estimator's input, and a sentence part that says where they came from ("tree thresholds, ...").

    `complete` is False when the fitted state tells nothing about some columns and those hold plain random numbers.
    """

    rows: Tensors
    said: str
    complete: bool


class Known(msgspec.Struct):
    """Rows `[n, width]` (float64, or object where there is text) and which columns the state tells about, `[width]`."""

    values: NDArray[Any]
    columns: NDArray[np.bool_]
    sources: tuple[str, ...]


def derive(estimator: Any, signature: Signature, seed: int = 7) -> Derived | None:
    """Rows from the fitted state, at most MAX_ROWS, the same for the same seed; None when it tells nothing."""
    width = max(_width(estimator), 1)
    rows = max(16, min(MAX_ROWS, MAX_CELLS // width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = _rows(estimator, rows, np.random.default_rng(seed), None)
    if known is None or not known.columns.any() or not len(known.values):
        return None
    tensors = _as_tensors(known.values[:rows], estimator, signature)
    if tensors is None:
        return None
    said = ", ".join(dict.fromkeys(known.sources))
    return Derived(tensors, said, bool(known.columns.all()))


Chance = np.random.Generator


def _rows(estimator: Any, rows: int, chance: Chance, base: Known | None) -> Known | None:
    """Rows of `estimator`'s input from its fitted state. `base` are plausible rows of the same space, if any."""
    if estimator is None or isinstance(estimator, str):
        return base
    inner = _inside(estimator)
    if inner is not None:
        return _rows(inner, rows, chance, base)
    if hasattr(estimator, "steps"):
        return _pipeline(estimator, rows, chance, base)
    if hasattr(estimator, "output_indices_"):
        return _columns(estimator, rows, chance, base)
    if hasattr(estimator, "transformer_list"):
        return _first(estimator.transformer_list, rows, chance, base)
    for source, state in _STATES:
        made = state(estimator, rows, chance, base)
        if made is not None:
            return Known(made, np.ones(made.shape[1] if made.ndim > 1 else 1, dtype=bool), (source,))
    parts = list(_members(estimator))
    found = [known for part in parts[:8] if (known := _rows(part, max(rows // min(len(parts), 8), 16), chance, base))]
    return _together(found, rows, chance) if found else base


def _inside(estimator: Any) -> Any:
    """The one fitted estimator that a search, a threshold tuner or a freezer wraps; None for everything else."""
    if type(estimator).__name__ == "FrozenEstimator":
        return estimator.estimator
    if hasattr(estimator, "estimators_"):
        return None  # an ensemble's `estimator_` is only the pattern of its members
    return getattr(estimator, "best_estimator_", getattr(estimator, "estimator_", None))


def _members(estimator: Any) -> Iterator[Any]:
    """The fitted estimators inside an ensemble or a meta-estimator that all take its own input."""
    if hasattr(estimator, "estimators_features_"):
        return
    for attribute in ("estimators_", "calibrated_classifiers_"):
        for part in np.asarray(getattr(estimator, attribute, ()), dtype=object).ravel():
            yield getattr(part, "estimator", part) if attribute == "calibrated_classifiers_" else part


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
            unknown = known[0] if encoder.handle_unknown == "error" else _unknown(known)
            values[missing, column] = unknown
    return values


def _unknown(known: Any) -> Any:
    return UNKNOWN_CATEGORY if any(isinstance(item, str) for item in known) else max(known) + 1


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
    return Known(_plain(values), columns, tuple(sources))


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
    return Known(_plain(values), columns, known.sources)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers where there are only numbers, objects otherwise."""
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        return values


# What single estimators tell: (estimator, rows, chance, base) -> rows `[n, width]`, or None.


def _from_trees(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
    """Each feature at its thresholds: the float32 just below or at one, the float32 just above, and places between.

    HistGradientBoosting compares in float64, so its thresholds themselves are taken too, unless the way back through
    transformers would round them anyway.
    """
    splits = list(_splits(estimator, None))
    if not splits:
        return None
    width = _width(estimator)
    features = np.concatenate([feature for feature, _ in splits])
    thresholds = np.concatenate([threshold for _, threshold in splits])
    usable = base is not None and base.values.dtype != object and base.values.shape[1] == width
    context = base.values[chance.integers(0, len(base.values), rows)] if base is not None and usable else None
    values = np.array(context) if context is not None else chance.standard_normal((rows, width))
    for feature in np.unique(features):
        steps = np.unique(thresholds[features == feature])
        chosen = chance.choice(steps, rows)
        below = np.asarray(chosen, dtype=np.float32)
        below = np.where(below > chosen, np.nextafter(below, np.float32(-np.inf)), below)
        above = np.nextafter(below, np.float32(np.inf))
        room = max(float(steps[-1] - steps[0]), 0.1 * abs(float(steps[0])), 1e-3)
        between = chance.uniform(steps[0] - 0.2 * room, steps[-1] + 0.2 * room, rows)
        plain = between if context is None else values[:, feature]
        kind = chance.integers(0, 4, rows)
        exact = chosen if hasattr(estimator, "_predictors") and base is None else plain
        values[:, feature] = np.select([kind == 0, kind == 1, kind == 2], [below, above, exact], plain)
    return values.astype(np.float64)


def _splits(estimator: Any, features: Any) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Every tree's split features and thresholds. `features` maps a part's features to the whole's."""
    if hasattr(estimator, "tree_"):
        tree = estimator.tree_
        inner = tree.feature >= 0
        feature = tree.feature[inner]
        yield feature if features is None else np.asarray(features)[feature], tree.threshold[inner]
    elif hasattr(estimator, "_predictors"):
        if getattr(estimator, "is_categorical_", None) is not None and np.any(estimator.is_categorical_):
            return
        for nodes in (tree.nodes for trees in estimator._predictors for tree in trees):
            inner = nodes["is_leaf"] == 0
            yield nodes["feature_idx"][inner].astype(np.intp), nodes["num_threshold"][inner].astype(np.float64)
    else:
        parts = np.asarray(getattr(estimator, "estimators_", ()), dtype=object)
        maps = getattr(estimator, "estimators_features_", [features] * len(parts))
        for part, mapped in zip(parts, maps, strict=False):
            for single in np.asarray(part, dtype=object).ravel():
                yield from _splits(single, mapped)


def _from_points(*attributes: str) -> Callable[[Any, int, Chance, Known | None], NDArray[np.float64] | None]:
    def made(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
        """The points themselves, places between two of them, and places around them."""
        for attribute in attributes:
            points: Any = getattr(estimator, attribute, None)
            if hasattr(points, "toarray"):
                points = points.toarray()
            if not isinstance(points, np.ndarray) or points.ndim != 2 or not len(points) or points.dtype.kind != "f":
                continue
            if len(points) == 1 or points.shape[1] != _width(estimator):
                continue
            first, second = points[chance.integers(0, len(points), (2, rows))]
            mixed = first + (second - first) * chance.uniform(0, 1, (rows, 1))
            around = first + points.std(axis=0) * chance.standard_normal((rows, points.shape[1])) * 0.5
            kind = chance.integers(0, 3, (rows, 1))
            return np.asarray(np.select([kind == 0, kind == 1], [first, mixed], around), dtype=np.float64)
        return None

    return made


def _from_moments(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
    """Around a fitted centre: mean ± k scale of scalers, per class for Gaussian naive Bayes."""
    if hasattr(estimator, "theta_") and hasattr(estimator, "var_"):
        picked = chance.integers(0, len(estimator.theta_), rows)
        centre, scale = estimator.theta_[picked], np.sqrt(estimator.var_[picked])
    elif hasattr(estimator, "components_") and getattr(estimator, "mean_", None) is not None:
        strength = np.sqrt(getattr(estimator, "explained_variance_", np.ones(len(estimator.components_))))
        weights = chance.standard_normal((rows, len(strength))) * strength
        around = chance.standard_normal((rows, _width(estimator))) * np.sqrt(getattr(estimator, "noise_variance_", 0.0))
        return np.asarray(estimator.mean_ + weights @ estimator.components_ + around, dtype=np.float64)
    elif isinstance(getattr(estimator, "mean_", None), np.ndarray) and getattr(estimator, "var_", None) is not None:
        centre, scale = estimator.mean_, np.sqrt(estimator.var_)
    elif getattr(estimator, "center_", None) is not None and getattr(estimator, "scale_", None) is not None:
        centre, scale = estimator.center_, estimator.scale_
    else:
        return None
    width = _width(estimator)
    return np.asarray(centre + scale * np.clip(chance.standard_normal((rows, width)) * 1.5, -4, 4), dtype=np.float64)


def _from_ranges(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
    """Between fitted limits, a little beyond, and on them."""
    if hasattr(estimator, "data_min_") and hasattr(estimator, "data_max_"):
        low, high = estimator.data_min_, estimator.data_max_
    elif hasattr(estimator, "max_abs_"):
        low, high = -estimator.max_abs_, estimator.max_abs_
    elif hasattr(estimator, "quantiles_"):
        low, high = estimator.quantiles_.min(axis=0), estimator.quantiles_.max(axis=0)
    elif hasattr(estimator, "bin_edges_"):
        low = np.array([edges[0] for edges in estimator.bin_edges_])
        high = np.array([edges[-1] for edges in estimator.bin_edges_])
    else:
        return None
    made = low + (high - low) * np.clip(chance.uniform(-0.1, 1.1, (rows, len(low))), -0.05, 1.05)
    return np.asarray(made, dtype=np.float64)


def _from_categories(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[Any] | None:
    """Each column one of its fitted categories; now and then an unknown one, where the encoder takes them."""
    categories = getattr(estimator, "categories_", None)
    if not isinstance(categories, list) or not hasattr(estimator, "handle_unknown"):
        return None
    values = np.empty((rows, len(categories)), dtype=object)
    for column, known in enumerate(categories):
        choices = np.array([item for item in known if item is not None and not _is_nan(item)], dtype=object)
        if not len(choices):
            return None
        values[:, column] = chance.choice(choices, rows)
        if estimator.handle_unknown != "error":
            unknown = chance.uniform(size=rows) < 0.05
            values[unknown, column] = _unknown(choices)
    return _plain(values) if not isinstance(values[0, 0], str) else values


def _from_vocabulary(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[Any] | None:
    """Texts of one to thirty words of the fitted vocabulary, some words unknown, in small and capital letters."""
    vocabulary = getattr(estimator, "vocabulary_", None)
    if not isinstance(vocabulary, dict) or not hasattr(estimator, "token_pattern"):
        return None
    words = np.array([*sorted(vocabulary), "unheardof"], dtype=object)
    texts = [" ".join(chance.choice(words, chance.integers(1, 31))) for _ in range(min(rows, 512))]
    texts = [text.capitalize() + "." if turn % 3 == 0 else text for turn, text in enumerate(texts)]
    return np.array(texts, dtype=object).reshape(-1, 1)


def _from_counts(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
    """Counts as a multinomial or complement naive Bayes model saw them."""
    counts = getattr(estimator, "feature_count_", None)
    if counts is None or np.any(counts < 0):
        return None
    share = (counts + 1e-9) / (counts + 1e-9).sum(axis=1, keepdims=True)
    picked = share[chance.integers(0, len(share), rows)]
    length = chance.integers(1, 100, (rows, 1))
    return np.asarray(chance.poisson(picked * length), dtype=np.float64)


_STATES: tuple[tuple[str, Callable[[Any, int, Chance, Known | None], NDArray[Any] | None]], ...] = (
    ("tree thresholds", _from_trees),
    ("support vectors", _from_points("support_vectors_")),
    ("cluster centres", _from_points("cluster_centers_")),
    ("fitted rows", _from_points("_fit_X", "X_train_")),
    ("class means", _from_points("means_", "centroids_")),
    ("categories", _from_categories),
    ("vocabulary", _from_vocabulary),
    ("feature counts", _from_counts),
    ("fitted means and scales", _from_moments),
    ("fitted ranges", _from_ranges),
)


def _is_nan(item: Any) -> bool:
    return isinstance(item, float) and np.isnan(item)


def _width(estimator: Any) -> int:
    """How many columns the estimator takes; 1 for text."""
    found = getattr(estimator, "n_features_in_", None)
    return int(found) if found is not None else 1


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
            return {spec.name: np.ascontiguousarray(table.reshape(shape).astype(spec.dtype))}
        made = {}
        for position, spec in enumerate(inputs):
            column = table[:, names.index(spec.name) if spec.name in names else position]
            made[spec.name] = column.reshape((len(values), *(spec.shape[1:] if spec.shape else ()))).astype(spec.dtype)
        return made
    except (ValueError, TypeError, IndexError):
        return None
