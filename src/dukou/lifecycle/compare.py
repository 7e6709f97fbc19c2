"""The answers of two versions to the same rows, compared.

The only file of this room that needs NumPy: model processes and replays import it, the supervisor does not.
"""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.comparison import BOUNDS, Agreement, Comparison, Differences, Tally, commonest, merge
from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors, datatype_of, widen

NOISE = 1e-6
"""Numbers that differ by no more agree whatever their size: two ways to the same probability of 0 differ by as much."""

NOT_A_NUMBER = "NaN"
"""The label of a row of scores that are not all numbers."""

_TEXT, _LABELS, _SCORES, _NUMBERS = "text", "labels", "scores", "numbers"
_MOST_TEXT = 64
_BUCKETS = len(BOUNDS) + 1
_BOUNDS = np.array(BOUNDS)
_BF16 = DTYPES["BF16"]


def compare(
    signature: Signature,
    inputs: Tensors,
    primary_outputs: Tensors,
    candidate_outputs: Tensors | None,
    *,
    slice_by: str = "",
    tolerance: float = 1e-3,
) -> Comparison:
    """What the two say about the same rows; `candidate_outputs` is None where the candidate failed on all of them.

    `signature` is the candidate's. Labels are integers, booleans and strings, and the entry of the highest score where
    the signature names the entries (`columns`); everything else is numbers, which agree when they differ by `tolerance`
    relative to the larger, or by NOISE. NaN agrees with NaN only. An output that the candidate does not have, or has in
    another shape, disagrees in every row. `slice_by` is an input with one value a row, or a column of an input.
    """
    first = next(iter(primary_outputs.values()), None)
    rows = 0 if first is None else first.shape[0] if signature.batched else 1
    found = Comparison(rows)
    if candidate_outputs is None:
        disagree = np.ones(rows, np.bool_)
        found.failed = rows
    else:
        disagree = np.zeros(rows, np.bool_)
        classes = {spec.name: spec.columns for spec in signature.outputs}
        for name, primary in primary_outputs.items():
            disagree |= _compare_output(
                found,
                name,
                primary,
                candidate_outputs.get(name),
                rows=rows,
                classes=classes.get(name, ()),
                tolerance=tolerance,
            )
    found.disagreed = int(disagree.sum())
    if slice_by:
        found.slices = _slices(_values(signature, inputs, slice_by, rows), disagree)
    return merge(Comparison(), found)  # within its bounds


def bind(signature: Signature, inputs: Tensors) -> Tensors:
    """The primary's inputs as the candidate's signature wants them: by name, numbers widened where nothing is lost,
    floats to the signature's own width as if the caller had sent no datatype.

    Raises DukouError INPUT_MISSING, INPUT_UNEXPECTED, WRONG_DATATYPE, WRONG_SHAPE.
    """
    wanted = {spec.name: spec for spec in signature.inputs}
    if missing := [name for name in wanted if name not in inputs]:
        facts = {"wanted": list(wanted), "got": list(inputs), "missing": missing}
        raise DukouError(Reason.INPUT_MISSING, **facts)
    for name in inputs:
        if name not in wanted:
            raise DukouError(Reason.INPUT_UNEXPECTED, tensor=name, wanted=list(wanted))
    return {name: _bind(spec, inputs[name]) for name, spec in wanted.items()}


def _bind(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    if not spec.fits(array.shape):
        raise DukouError(Reason.WRONG_SHAPE, tensor=spec.name, got=list(array.shape), wanted=list(spec.shape or ()))
    dtype = DTYPES[spec.datatype]
    if array.dtype == dtype:
        return array
    came = widen(array) if array.dtype == _BF16 else array
    if dtype.kind not in "OV" and came.dtype.kind in "biuf":
        floats = came.dtype.kind == "f" and dtype.kind == "f"
        if floats or np.can_cast(came.dtype, dtype, "safe"):
            with np.errstate(over="ignore"):
                bound: NDArray[Any] = came.astype(dtype)
            return bound
    raise DukouError(Reason.WRONG_DATATYPE, tensor=spec.name, got=datatype_of(array), wanted=spec.datatype)


def _compare_output(
    found: Comparison,
    name: str,
    primary: NDArray[Any],
    candidate: NDArray[Any] | None,
    *,
    rows: int,
    classes: tuple[str, ...],
    tolerance: float,
) -> NDArray[np.bool_]:
    """Add what one output shows to `found`; returns the rows that disagree."""
    ours = _by_row(primary, rows)
    kind = _kind(ours, classes)
    if candidate is not None and candidate.shape == primary.shape:
        theirs = _by_row(candidate, rows)
        kinds = {kind, _kind(theirs, classes)}
        if kinds == {_SCORES}:
            texts = (*classes, NOT_A_NUMBER)
            found.labels[name], disagree = _compare_labels(_highest(ours), _highest(theirs), texts)
            return disagree
        if kinds in ({_TEXT}, {_LABELS}):
            found.labels[name], disagree = _compare_labels(_labels(ours), _labels(theirs), ())
            return disagree
        if _TEXT not in kinds:
            found.numbers[name], disagree = _compare_numbers(_floats(ours), _floats(theirs), tolerance)
            return disagree
    if kind == _NUMBERS:
        beyond = [0] * (_BUCKETS - 1) + [ours.size]
        found.numbers[name] = Differences(ours.size, beyond, list(beyond))
    else:
        found.labels[name] = Agreement(rows, other=rows)
    return np.ones(rows, np.bool_)


def _kind(by_row: NDArray[Any], classes: tuple[str, ...]) -> str:
    if _is_text(by_row):
        return _TEXT
    if by_row.dtype.kind in "biu":
        return _LABELS
    return _SCORES if classes and by_row.shape[1] == len(classes) else _NUMBERS


def _is_text(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "OSU"


def _by_row(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """[rows, values of a row]"""
    return array.reshape(rows, array.size // rows if rows else 0)


def _floats(array: NDArray[Any]) -> NDArray[np.float64]:
    return (widen(array) if array.dtype == _BF16 else array).astype(np.float64)


def _highest(scores: NDArray[Any]) -> NDArray[Any]:
    """The index of each row's highest score, [rows, 1]; one more than the last where they are not all numbers."""
    numbers = _floats(scores)
    highest: NDArray[Any] = np.where(np.isnan(numbers).any(axis=1), numbers.shape[1], numbers.argmax(axis=1))
    return highest.reshape(-1, 1)


def _labels(array: NDArray[Any]) -> NDArray[Any]:
    """The same, strings all as text."""
    if not _is_text(array):
        return array
    texts = np.empty(array.size, object)
    texts[:] = [_text(value) for value in array.ravel().tolist()]
    return texts.reshape(array.shape)


def _compare_labels(
    ours: NDArray[Any], theirs: NDArray[Any], texts: tuple[str, ...]
) -> tuple[Agreement, NDArray[np.bool_]]:
    """Rows of several labels agree when all of them do, and only labels that are alone in their row are told apart."""
    disagree: NDArray[np.bool_] = (ours != theirs).any(axis=1)
    rows, disagreed = len(disagree), int(disagree.sum())
    if ours.shape[1] != 1:
        return Agreement(rows, rows - disagreed, other=rows), disagree
    pairs: Counter[tuple[str, str]] = Counter()
    for (our, their), count in Counter(zip(ours[:, 0].tolist(), theirs[:, 0].tolist(), strict=True)).items():
        pair = (texts[our], texts[their]) if texts else (_text(our), _text(their))
        pairs[pair] += count
    confusion, other = commonest(pairs)
    return Agreement(rows, rows - disagreed, confusion, other), disagree


def _compare_numbers(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], tolerance: float
) -> tuple[Differences, NDArray[np.bool_]]:
    with np.errstate(all="ignore"):
        absolute = np.abs(ours - theirs)
        absolute[(ours == theirs) | (np.isnan(ours) & np.isnan(theirs))] = 0.0
        relative = absolute / np.maximum(np.abs(ours), np.abs(theirs))
        relative[absolute == 0.0] = 0.0
    agree: NDArray[np.bool_] = (relative <= tolerance) | (absolute <= NOISE)
    disagree: NDArray[np.bool_] = np.logical_not(agree.all(axis=1))
    finite = absolute[np.isfinite(absolute)]
    largest = float(finite.max()) if finite.size else 0.0
    return Differences(ours.size, _histogram(absolute), _histogram(relative), largest), disagree


def _histogram(values: NDArray[np.float64]) -> list[int]:
    buckets = np.searchsorted(_BOUNDS, values.ravel())  # NaN is sorted behind all numbers
    counts: list[int] = np.bincount(buckets, minlength=_BUCKETS).tolist()
    return counts


def _values(signature: Signature, inputs: Tensors, slice_by: str, rows: int) -> list[Any] | None:
    """The value of each row in the input or column called `slice_by`; None where there is no such thing."""
    array = inputs.get(slice_by)
    if array is None:
        for spec in signature.inputs:
            table = inputs.get(spec.name)
            if slice_by in spec.columns and table is not None and table.ndim == 2:
                array = table[:, spec.columns.index(slice_by)]
    if array is None or array.size != rows:
        return None
    values: list[Any] = _floats(array).ravel().tolist() if array.dtype == _BF16 else array.ravel().tolist()
    return values


def _slices(values: list[Any] | None, disagree: NDArray[np.bool_]) -> dict[str, Tally]:
    slices: dict[str, Tally] = {}
    for value, differs in zip(values or (), disagree.tolist(), strict=values is not None):
        tally = slices.setdefault(_text(value), Tally())
        tally.rows += 1
        tally.disagreed += differs
    return slices


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value[: 4 * _MOST_TEXT].decode("utf-8", "replace")[:_MOST_TEXT]
    return f"{value:g}" if isinstance(value, float) else str(value)[:_MOST_TEXT]
