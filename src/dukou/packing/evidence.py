"""Does the compiled form answer as the original does? The tolerances, and the sentence that goes into the manifest.

Tolerances are in units of how much the answers vary, not of how large they are: a model whose answers lie around
1.7e9 (unix seconds) and vary by hours may not be off by a minute, though that is only 3.5e-8 of the value.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.clock import Clock, monotonic
from dukou.core.errors import Code, DukouError
from dukou.core.model import Signature
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors

CHUNK = 256
"""Rows run together in a comparison; when a chunk is refused, its rows are tried one by one."""

BUDGET_S = 30.0
"""How long a comparison may take: a kernel machine with many support vectors needs minutes for 4096 rows."""


MAX_FLIPS = 0.01
"""The share of labels that may differ where the original is undecided. Beyond it they are chosen by another rule: a
classifier may choose by scores that its probabilities, cut off at 0 and 1, no longer tell apart."""


class Tolerance(msgspec.Struct, frozen=True):
    """How far two answers may be apart: `probability`, absolute, for probabilities; for other numbers `spread` times
    how much that output varies, plus `resolution` times the value itself."""

    probability: float
    spread: float
    resolution: float = 0.0


FLOAT32 = Tolerance(probability=1e-5, spread=1e-4)
"""For a compiled form on rows that show where the model works: ten to a hundred times what float32 usually costs."""

FLOAT64 = Tolerance(probability=1e-9, spread=1e-9, resolution=1e-12)
"""For a graph that must do the same arithmetic as the original, on rows that show nothing but that."""


class Comparison(msgspec.Struct, frozen=True):
    """The outcome over `rows` rows. `said` names the first thing that differs too much; empty when `agrees`.

    `max_rel_difference` is in units of how much the output varies.
    """

    agrees: bool
    rows: int
    said: str = ""
    max_abs_difference: float = 0.0
    max_rel_difference: float = 0.0
    label_differences: int = 0


def judge(
    original: LoadedModel,
    compiled: LoadedModel,
    signature: Signature,
    rows: Tensors,
    tolerance: Tolerance,
    *,
    clock: Clock = monotonic,
) -> Comparison:
    """Run both on `rows` and compare, as many as BUDGET_S allows. Rows that the original itself refuses say nothing and
    are left out."""
    ends_s = clock() + BUDGET_S
    outputs = signature.output_names()
    theirs: list[Tensors] = []
    ours: list[Tensors] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # made-up rows lead to overflows that say nothing about the model
        for part, want in _answered(original, signature, rows):
            if theirs and clock() > ends_s:
                break
            try:
                got = compiled.infer(signature.name, part, outputs, {})
            except DukouError as error:
                said = f"it fails on rows that the original answers ({error.what()})"
                return Comparison(False, count(rows), said)
            theirs.append(want)
            ours.append(got)
    if not theirs:
        return Comparison(False, 0, "the original refused every row")
    shapes = [(a[name].shape, b[name].shape) for a, b in zip(theirs, ours, strict=True) for name in outputs]
    wrong = next(((a, b) for a, b in shapes if a != b), None)
    if wrong is not None:
        return Comparison(False, count(rows), f"shape {list(wrong[1])} where the original gives {list(wrong[0])}")
    return compare(_joined(theirs, outputs), _joined(ours, outputs), tolerance)


def compare(original: Tensors, other: Tensors, tolerance: Tolerance, among: Tensors | None = None) -> Comparison:
    """Compare two answers to the same rows, output by output; axis 0 is rows.

    How much an output varies is taken from `among`, the original's own answers where not given. Labels may differ only
    where the original itself was undecided by less than the tolerance, and on few rows. NaN and infinity must be in
    the same places. Datatypes must be equal.
    """
    rows = count(original)
    worst_abs = worst_rel = 0.0
    flips = 0
    said = ""
    for name, want in original.items():
        got = other[name]
        if got.shape != want.shape or _kind(got) != _kind(want):
            said = said or f"{name} is {got.dtype}{list(got.shape)}, the original gives {want.dtype}{list(want.shape)}"
        elif want.dtype.kind == "f":
            apart, scaled, fits = _numbers(name, want, got, tolerance, want if among is None else among[name])
            worst_abs, worst_rel = max(worst_abs, apart), max(worst_rel, scaled)
            said = said or ("" if fits else f"{name} off by up to {apart:.3g}")
        else:
            differ = np.asarray(want != got).reshape(rows, -1).any(axis=1)
            flips += int(differ.sum())
            undecided = _undecided(original, tolerance) if name == "label" else np.zeros(rows, dtype=bool)
            decided = int((differ & ~undecided).sum())
            too_many = flips if flips > max(2, MAX_FLIPS * rows) else 0
            said = said or (f"{name} differs on {decided or too_many} of {rows} rows" if decided or too_many else "")
    return Comparison(not said, rows, said, worst_abs, worst_rel, flips)


def _numbers(
    name: str, want: NDArray[Any], got: NDArray[Any], tolerance: Tolerance, among: NDArray[Any]
) -> tuple[float, float, bool]:
    """The largest difference, the same in units of the spread, and whether every value is within tolerance."""
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(got)) or not np.array_equal(want[~finite], got[~finite], equal_nan=True):
        return float("inf"), float("inf"), False
    exact = np.where(finite, want, 0.0).astype(np.float64)
    apart = np.abs(np.where(finite, got, 0.0) - exact)
    scale = spread(exact, np.where(np.isfinite(among), among, 0.0).astype(np.float64))
    allowed = np.full(exact.shape, tolerance.probability) if name == "probabilities" else tolerance.spread * scale
    allowed = allowed + tolerance.resolution * np.abs(exact)
    relative = apart / np.where(scale > 0, scale, 1.0)
    return float(apart.max(initial=0.0)), float(relative.max(initial=0.0)), bool((apart <= allowed).all())


def spread(values: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much each column of `among` `[rows, ...]` varies, for every one of `values`: the column's standard deviation
    plus the value's own distance from its median. For a column that does not vary, the resolution of float32."""
    if not len(among):
        return np.zeros_like(values)
    typical = among.std(axis=0, keepdims=True)
    scale = typical + np.abs(values - np.median(among, axis=0, keepdims=True))
    still = np.abs(values) * (np.finfo(np.float32).eps / FLOAT32.spread)
    return np.where(typical > 1e-12 * np.abs(among).max(axis=0, keepdims=True), scale, still)


def _undecided(original: Tensors, tolerance: Tolerance) -> NDArray[np.bool_]:
    """Rows whose two best classes the original has closer together than the tolerance; `[rows]`."""
    rows = count(original)
    for name in ("probabilities", "scores", "score", "distances"):
        scores = original.get(name)
        if scores is None or scores.dtype.kind != "f" or scores.ndim > 2:
            continue
        limit = tolerance.probability if name == "probabilities" else tolerance.spread * float(np.std(scores))
        if scores.ndim == 1 or scores.shape[1] == 1:
            return np.asarray(np.abs(scores).reshape(rows) <= limit)
        ordered = np.sort(-scores if name == "distances" else scores, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2] <= 2 * limit)
    return np.zeros(rows, dtype=bool)


def _kind(array: NDArray[Any]) -> str:
    return "text" if array.dtype.kind in "OUS" else array.dtype.str


def _answered(model: LoadedModel, signature: Signature, rows: Tensors) -> Iterator[tuple[Tensors, Tensors]]:
    """Pieces of the rows with the model's answers, without the rows that it refuses."""
    for chunk in _chunks(rows, CHUNK):
        answer = _answer(model, signature, chunk)
        if answer is not None:
            yield chunk, answer
            continue
        for single in _chunks(chunk, 1):
            answer = _answer(model, signature, single)
            if answer is not None:
                yield single, answer


def _answer(model: LoadedModel, signature: Signature, rows: Tensors) -> Tensors | None:
    try:
        return model.infer(signature.name, rows, signature.output_names(), {})
    except DukouError as error:
        if error.code in {Code.INVALID_ARGUMENT, Code.INTERNAL}:
            return None
        raise


def answered_row(model: LoadedModel, signature: Signature, rows: Tensors | None) -> Tensors | None:
    """The first of at most 64 of the rows that the model answers; given rows may hold some that it refuses."""
    total = count(rows or {})
    for place in np.unique(np.linspace(0, total - 1, min(total, 64)).astype(int)):
        row = {name: array[place : place + 1] for name, array in (rows or {}).items()}
        try:
            model.infer(signature.name, row, signature.output_names(), {})
        except DukouError:
            continue
        return row
    return None


def count(tensors: Tensors) -> int:
    """How many rows: the size of axis 0."""
    return next((len(array) for array in tensors.values()), 0)


def _chunks(rows: Tensors, size: int) -> Iterator[Tensors]:
    for start in range(0, count(rows), size):
        yield {name: array[start : start + size] for name, array in rows.items()}


def _joined(parts: list[Tensors], names: tuple[str, ...]) -> Mapping[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
