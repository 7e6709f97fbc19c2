"""What single fitted estimators tell of their data, each by the attributes that it keeps, whatever its class."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.runtimes.columns import members

Chance: TypeAlias = np.random.Generator

UNKNOWN_CATEGORY = "dukou-unknown-category"


class Known(msgspec.Struct):
    """Rows `[n, width]` (float64, or object where there is text) and which columns the state tells about, `[width]`."""

    values: NDArray[Any]
    columns: NDArray[np.bool_]
    sources: tuple[str, ...]


def plain(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers where there are only numbers, objects otherwise."""
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        return values


def _from_trees(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
    """Each feature at its thresholds: the float32 just below or at one, the float32 just above, and places between.

    HistGradientBoosting compares in float64, so its thresholds themselves are taken too, unless the way back through
    transformers would round them anyway.
    """
    splits = list(_splits(estimator, None))
    if not splits:
        return None
    width = width_of(estimator)
    features = np.concatenate([feature for feature, _ in splits])
    thresholds = np.concatenate([threshold for _, threshold in splits])
    finite = np.isfinite(thresholds)  # a split between missing and not has an infinite threshold
    features, thresholds = features[finite], thresholds[finite]
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
        usual = between if context is None else values[:, feature]
        kind = chance.integers(0, 4, rows)
        exact = chosen if hasattr(estimator, "_predictors") and base is None else usual
        values[:, feature] = np.select([kind == 0, kind == 1, kind == 2], [below, above, exact], usual)
    return values.astype(np.float64)


def columns_told(estimator: Any, width: int) -> NDArray[np.bool_]:
    """Which columns the state tells about, `[width]`. What trees alone never split on is of no account; where something
    else takes part (a linear model in a vote, a stack's last estimator), only what they split on is told."""
    splits = list(_splits(estimator, None))
    if not splits or _is_trees_only(estimator):
        return np.ones(width, dtype=bool)
    return np.isin(np.arange(width), np.concatenate([feature for feature, _ in splits]))


def _is_trees_only(estimator: Any) -> bool:
    if hasattr(estimator, "tree_") or hasattr(estimator, "_predictors"):
        return True
    if hasattr(estimator, "final_estimator_") or _starts_from_a_model(estimator):
        return False
    parts = list(members(estimator))
    return bool(parts) and all(_is_trees_only(part) for part in parts)


def inside(estimator: Any) -> Any:
    """The one fitted estimator that a search, a threshold tuner or a freezer wraps; None for everything else."""
    if type(estimator).__name__ == "FrozenEstimator":
        return estimator.estimator
    if hasattr(estimator, "estimators_"):
        return None  # an ensemble's `estimator_` is only the pattern of its members
    return getattr(estimator, "best_estimator_", getattr(estimator, "estimator_", None))


def _starts_from_a_model(estimator: Any) -> bool:
    """Whether boosting starts from a fitted model of the user's instead of a constant."""
    start = getattr(estimator, "init_", None)
    return start is not None and not isinstance(start, str) and not type(start).__name__.startswith("Dummy")


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
        parts = list(members(estimator))
        maps = getattr(estimator, "estimators_features_", [features] * len(parts))
        for part, mapped in zip(parts, maps, strict=False):
            yield from _splits(part, mapped)


def _from_points(*attributes: str) -> Callable[[Any, int, Chance, Known | None], NDArray[np.float64] | None]:
    def made(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
        """The points themselves, places between two of them, and places around them."""
        for attribute in attributes:
            points: Any = getattr(estimator, attribute, None)
            if hasattr(points, "toarray"):
                points = points.toarray()
            if not isinstance(points, np.ndarray) or points.ndim != 2 or not len(points) or points.dtype.kind != "f":
                continue
            if len(points) == 1 or points.shape[1] != width_of(estimator):
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
        around = chance.standard_normal((rows, width_of(estimator))) * np.sqrt(
            getattr(estimator, "noise_variance_", 0.0)
        )
        return np.asarray(estimator.mean_ + weights @ estimator.components_ + around, dtype=np.float64)
    elif isinstance(getattr(estimator, "mean_", None), np.ndarray) and getattr(estimator, "var_", None) is not None:
        centre, scale = estimator.mean_, np.sqrt(estimator.var_)
    elif getattr(estimator, "center_", None) is not None and getattr(estimator, "scale_", None) is not None:
        centre, scale = estimator.center_, estimator.scale_
    else:
        return None
    width = width_of(estimator)
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
            unknown = np.flatnonzero(chance.uniform(size=rows) < 0.05)
            values[unknown, column] = chance.choice(np.array(_unknown_categories(choices), dtype=object), len(unknown))
    return plain(values) if not isinstance(values[0, 0], str) else values


def _from_vocabulary(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[Any] | None:
    """Texts of no to thirty words of the fitted vocabulary and some others, joined as in writing."""
    vocabulary = getattr(estimator, "vocabulary_", None)
    if not isinstance(vocabulary, dict) or not hasattr(estimator, "token_pattern"):
        return None
    words = np.array([*sorted(vocabulary), *_ODD_WORDS], dtype=object)
    texts = []
    for turn in range(min(rows, 512)):
        chosen = chance.choice(words, chance.integers(0, 31))
        text = "".join(word + joint for word, joint in zip(chosen, chance.choice(_JOINTS, len(chosen)), strict=True))
        texts.append(_STYLES[turn % len(_STYLES)](text))
    return np.array(texts, dtype=object).reshape(-1, 1)


_ODD_WORDS = ("unheardof", "don't", "café", "naïve", "3.14", "x", "日本語")
_JOINTS = (" ", " ", " ", " ", ", ", ". ", "-", "\n", "\t", "/", "'", "  ", "é", " a ")
_STYLES = (str.capitalize, str, str.upper, str, str, lambda text: text[: len(text) // 8])
"""What real texts hold besides their words, and where tokenizers differ; the last makes short and empty ones."""


def _from_counts(estimator: Any, rows: int, chance: Chance, base: Known | None) -> NDArray[np.float64] | None:
    """Counts as a multinomial or complement naive Bayes model saw them."""
    counts = getattr(estimator, "feature_count_", None)
    if counts is None or np.any(counts < 0):
        return None
    share = (counts + 1e-9) / (counts + 1e-9).sum(axis=1, keepdims=True)
    picked = share[chance.integers(0, len(share), rows)]
    length = chance.integers(1, 100, (rows, 1))
    return np.asarray(chance.poisson(picked * length), dtype=np.float64)


STATES: tuple[tuple[str, Callable[[Any, int, Chance, Known | None], NDArray[Any] | None]], ...] = (
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


def width_of(estimator: Any) -> int:
    """How many columns the estimator takes; 1 for text."""
    found = getattr(estimator, "n_features_in_", None)
    return int(found) if found is not None else 1


def unknown_category(known: Any) -> Any:
    """A category that is none of `known`, of their kind."""
    return _unknown_categories(known)[0]


def _unknown_categories(known: Any) -> list[Any]:
    """Categories that are none of `known`, of their kind: numbers beyond, between, and so near that float32 knows no
    difference."""
    if any(isinstance(item, str) for item in known):
        return [UNKNOWN_CATEGORY]
    between = [item + 0.25 for item in known if item + 0.25 not in known]
    beside = [float(np.nextafter(item, np.inf)) for item in known]
    return [max(known) + 1, *between[:32], *beside[:32]]
