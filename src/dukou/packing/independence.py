"""May rows of different callers share a batch? Only if a row's answer does not depend on its company.

Mixing models are common: a softmax or a mean over axis 0, a sequence model whose first axis is time, a cumulative sum,
a model that keeps state. Batching would show one caller something of another, so it is allowed only after probe rows
have been answered alone and in company, in several orders and sizes, with the same result.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError
from dukou.core.model import Signature, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import DTYPES, Tensors
from dukou.packing.evidence import Tolerance, compare, count

PROBES = 8
"""Rows that are asked alone; enough for batches of several sizes, few enough for a model of 100 ms a row."""

CROWD = 64
CROWD_ELEMENTS = 1_000_000
"""The largest batch tried, while its inputs stay below this many numbers."""

SAME = Tolerance(probability=1e-5, spread=1e-5, resolution=4 * float(np.finfo(np.float32).eps))
"""Batch sizes take different ways through BLAS, so bit for bit equality is not to be had: sums in another order are a
few float32 steps apart. Mixing shows in the size of the differences between rows, five orders of magnitude above."""

MAGNITUDES = (1.0, 0.01, 100.0)
FREE_SIZES = (8, 1, 32, 224)
"""Sizes tried for a dimension that the signature leaves open."""


class Independence(msgspec.Struct, frozen=True):
    """Whether rows are independent, and the sentence that says how that was shown or why not."""

    shown: bool
    said: str


def independence(model: LoadedModel, signature: Signature, rows: Tensors | None = None) -> Independence:
    """Ask probe rows alone, together, in other orders and sizes, and again. `rows` are real ones, where there are any;
    otherwise rows are made from the signature."""
    if not signature.batched:
        return Independence(False, "the first axis of this model is not rows, so every request runs alone")
    asked = 0
    refused = ""
    for group in _groups(signature, rows):
        for probes in group:
            try:
                varied = _try(model, signature, probes)
            except DukouError as error:
                refused = refused or str(error)
                continue
            except _MixesError as error:
                return Independence(False, f"rows are not batched with those of other callers: {error}")
            asked += count(probes)
            if varied:
                return Independence(True, f"{asked} probe rows got the same answers alone and in batches")
    if not asked:
        return Independence(False, f"rows are not batched: no probe row could be answered ({refused})")
    return Independence(False, "rows are not batched: all probe rows got the same answer, which shows nothing")


class _MixesError(Exception):
    """Rows influence one another, or the model keeps state; the text says how it showed."""


def _try(model: LoadedModel, signature: Signature, probes: Tensors) -> bool:
    """Whether the probes got different answers. Raises _MixesError, and DukouError when a single row is refused."""
    rows = count(probes)
    names = signature.output_names()

    def ask(order: NDArray[np.intp]) -> Tensors:
        answer = model.infer(signature.name, {name: array[order] for name, array in probes.items()}, names, {})
        for name, array in answer.items():
            if array.ndim == 0 or len(array) != len(order):
                raise _MixesError(f"output {name} has shape {list(array.shape)} for {len(order)} rows")
        return answer

    alone = [ask(np.array([row])) for row in range(rows)]
    want = {name: np.concatenate([answer[name] for answer in alone]) for name in names} if _stack(alone) else None
    if want is None:
        raise _MixesError("a row's answer has another shape than its neighbour's")
    for said, order in _orders(rows, probes):
        try:
            got = ask(order)
        except DukouError as error:
            raise _MixesError(f"{said} failed where single rows did not ({error.what()})") from error
        outcome = compare({name: array[order] for name, array in want.items()}, got, SAME, among=want)
        if not outcome.agrees:
            raise _MixesError(f"{said} got other answers than each row alone ({outcome.said})")
    return any(len(array) > 1 and bool(np.any(array[1:] != array[:1])) for array in want.values())


def _stack(answers: list[Tensors]) -> bool:
    return all(
        answer[name].shape == answers[0][name].shape and answer[name].dtype == answers[0][name].dtype
        for answer in answers
        for name in answers[0]
    )


def _orders(rows: int, probes: Tensors) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """What is asked after the single rows, each with words for it. Single rows come again last, to find state."""
    every = np.arange(rows)
    yield f"{rows} rows together", every
    yield f"{rows} rows together, a second time,", every
    yield f"{rows} rows in reverse", every[::-1]
    for size in {2, 3, rows - 1} & set(range(2, rows)):
        yield f"{size} rows together", every[-size:]
    yield "a row beside copies of another", np.array([0, *[rows - 1] * 3])
    elements = sum(array[:1].size for array in probes.values())
    crowd = min(CROWD, max(rows, CROWD_ELEMENTS // max(elements, 1)))
    yield f"{crowd} rows together", np.resize(every, crowd)
    for row in every[::-1]:
        yield "a single row, asked again,", np.array([row])


def _groups(signature: Signature, rows: Tensors | None) -> Iterator[Iterator[Tensors]]:
    """Probe rows: real ones first, then made ones, for each size that open dimensions may have."""
    if rows is not None and count(rows):
        picked = np.unique(np.linspace(0, count(rows) - 1, PROBES).astype(int))
        yield iter([{name: array[picked] for name, array in rows.items()}])
    for free in FREE_SIZES if any(-1 in _inner(spec) for spec in signature.inputs) else (1,):
        yield (made_rows(signature, PROBES, magnitude, free) for magnitude in MAGNITUDES)


def made_rows(signature: Signature, rows: int, magnitude: float, free: int = 1) -> Mapping[str, NDArray[Any]]:
    """Rows made from nothing but the signature: numbers around `magnitude`, small positive integers, short words.

    Dimensions that the signature leaves open get the size `free`.
    """
    chance = np.random.default_rng(20)
    made: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        shape = (rows, *(free if size < 0 else size for size in _inner(spec)))
        if spec.datatype == "BYTES":
            words = np.array(["a", "b", "yes", "no", "1", "text of several words"], dtype=object)
            made[spec.name] = chance.choice(words, size=shape)
        elif spec.datatype == "BOOL":
            made[spec.name] = chance.integers(0, 2, shape).astype(bool)
        elif DTYPES[spec.datatype].kind in "iu":
            made[spec.name] = chance.integers(1, 2 + int(min(magnitude, 20)), shape).astype(DTYPES[spec.datatype])
        else:
            made[spec.name] = (chance.standard_normal(shape) * magnitude).astype(DTYPES[spec.datatype])
    return made


def _inner(spec: TensorSpec) -> tuple[int, ...]:
    return (1,) if spec.shape is None else spec.shape[1:]
