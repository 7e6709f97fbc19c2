"""Which form of a model serves, the compiled one or the original, and the sentence that says why."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from dukou.core.clock import Clock
from dukou.core.errors import DukouError
from dukou.core.model import Evidence, Signature
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors
from dukou.packing.compile import Compiled, NotCompiled, compile_estimator, count_tree_nodes
from dukou.packing.derive import derive
from dukou.packing.domain import find_domain, laxer, odd_rows, within_float32
from dukou.packing.evidence import FLOAT32, FLOAT64, Comparison, Tolerance, answered_row, count, judge
from dukou.packing.independence import made_rows
from dukou.runtimes.domain import InputDomain

MAGNITUDES = (1e-3, 1.0, 1e3, 1e6, 1.7e9)
"""Of rows made up to compare a float64 graph: small numbers to unix seconds. There is a row of zeros too, which has no
length or share to divide by."""

TRIALS = 15
SLOWER = 1.2
"""A compiled form that takes this much longer for one row than the original is not worth having."""


class Trial(msgspec.Struct, frozen=True):
    """Rows to compare on, where they came from ("data", "derived", "none"), the same in words, and what is asked."""

    rows: Tensors
    source: str
    said: str
    precisions: tuple[str, ...]
    tolerance: Tolerance


class Form(msgspec.Struct, frozen=True):
    """What serves: the compiled model (None: the original), its evidence, the rows that it rests on, and what the
    compiled form takes of its inputs."""

    model: LoadedModel | None
    evidence: Evidence
    rows: Tensors | None
    domain: Mapping[str, InputDomain] = {}


def choose_form(
    estimator: Any,
    signature: Signature,
    original: LoadedModel,
    *,
    data: Tensors | None,
    data_name: str,
    open_compiled: Callable[[Compiled, Mapping[str, InputDomain]], LoadedModel],
    report: Callable[[str], None],
    clock: Clock,
) -> Form:
    """Compile, compare, and decide.

    `open_compiled` loads a compiled form the way serving does, with what it is to take of its inputs, and may raise
    DukouError. The compiled form serves when it agrees on the given rows, else on derived ones; where there are
    neither, only a float64 graph may. What the original refuses it must refuse too.
    """
    trial = plan(estimator, signature, data, data_name)
    if trial is None:
        return _without_rows(estimator, signature)
    row = answered_row(original, signature, trial.rows)
    if row is None:
        return _original(f"it refused the first rows {trial.said}, so nothing could be compared", trial)
    domain = find_domain(estimator, original, signature, row)
    if trial.source != "data":
        trial = msgspec.structs.replace(trial, rows=odd_rows(domain, trial.rows))
    why = ""
    for precision in trial.precisions:
        report(f"compiling in {precision}")
        compiled = compile_estimator(estimator, signature, precision=precision)
        if isinstance(compiled, NotCompiled):
            why = why or compiled.reason
            continue
        try:
            taken = within_float32(domain) if precision == "float32" else domain
            model = open_compiled(compiled, taken)
        except DukouError as error:
            why = why or f"ONNX Runtime cannot open its compiled form ({error.facts.get('detail', error)})"
            continue
        report(f"comparing {count(trial.rows)} rows {trial.said}")
        outcome = judge(original, model, signature, trial.rows, trial.tolerance, clock=clock)
        if not outcome.agrees:
            why = f"the compiled form gave other answers on {outcome.rows} rows {trial.said}: {outcome.said}"
            continue
        slow = _slower(original, model, signature, trial.rows, clock)
        if slow:
            return _original(slow, trial)
        answered = laxer(original, model, signature, row)
        if answered:
            return _original(f"it refuses {answered}, which the compiled form would answer", trial)
        return Form(model, _agreement(outcome, trial, precision), trial.rows, taken)
    possible = trial.source != "data" and isinstance(compile_estimator(estimator, signature), Compiled)
    return _original(why, trial, ask_for_data=possible)


def _without_rows(estimator: Any, signature: Signature) -> Form:
    compiled = compile_estimator(estimator, signature)
    if isinstance(compiled, NotCompiled):
        return _original(compiled.reason)
    why = "its fitted state does not show where it works, so nothing tells whether the compiled form agrees there"
    return _original(why, ask_for_data=True)


def plan(estimator: Any, signature: Signature, data: Tensors | None, data_name: str) -> Trial | None:
    """What to compare on: given rows, else derived ones, else made-up ones for a float64 graph; None where made-up rows
    would reach nothing (text, trees)."""
    if data is not None:
        return Trial(data, "data", f"of {data_name}", ("float32", "float64"), FLOAT32)
    derived = derive(estimator, signature)
    if derived is not None and derived.complete:
        return Trial(derived.rows, "derived", f"derived from its {derived.said}", ("float32", "float64"), FLOAT32)
    if count_tree_nodes(estimator):
        return None
    rows = _made(signature) if derived is None else _stretched(derived.rows, signature)
    if rows is None:
        return None
    return Trial(rows, "none", "made up at many magnitudes", ("float64",), FLOAT64)


def _made(signature: Signature) -> Tensors | None:
    if any(spec.datatype == "BYTES" for spec in signature.inputs):
        return None
    parts = [made_rows(signature, 64, magnitude) for magnitude in MAGNITUDES]
    parts.append({name: np.zeros_like(array[:1]) for name, array in parts[0].items()})
    return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in signature.inputs}


def _stretched(rows: Tensors, signature: Signature) -> Tensors:
    """The rows with every float column multiplied by a magnitude, or by zero, that changes from row to row."""
    turn = np.resize(np.asarray([*MAGNITUDES, 0.0]), count(rows))
    return {
        name: array * turn.reshape(-1, *[1] * (array.ndim - 1)) if array.dtype.kind == "f" else array
        for name, array in rows.items()
    }


def _agreement(outcome: Comparison, trial: Trial, precision: str) -> Evidence:
    said = f"The compiled form serves: it gave the same answers as the original on {outcome.rows} rows {trial.said}"
    if trial.source == "none":
        said = (
            f"The compiled form serves: it computes in float64 as the original does, and gave the same answers on "
            f"{outcome.rows} rows {trial.said}"
        )
    details = [f"largest difference {outcome.max_abs_difference:.2g}"] if outcome.max_abs_difference else []
    if outcome.label_differences:
        details.append(f"{outcome.label_differences} labels differ where the original itself is undecided")
    if precision == "float64" and trial.source != "none":
        details.append("in float64, because float32 was not exact enough")
    reason = f"{said} ({', '.join(details)})." if details else f"{said}."
    return Evidence(
        form="compiled",
        reason=reason,
        source=trial.source,
        rows=outcome.rows,
        max_abs_difference=outcome.max_abs_difference,
        max_rel_difference=outcome.max_rel_difference,
        label_differences=outcome.label_differences,
    )


def _original(why: str, trial: Trial | None = None, *, ask_for_data: bool = False) -> Form:
    advice = (
        " If you have rows like those it will be asked, pack it with them; the compiled, faster form serves if it "
        "agrees on them: `dukou pack FILE --data rows.csv`."
        if ask_for_data
        else ""
    )
    evidence = Evidence(
        form="original", reason=f"The original serves: {why}.{advice}", source=trial.source if trial else ""
    )
    return Form(None, evidence, trial.rows if trial else None)


def _slower(original: LoadedModel, compiled: LoadedModel, signature: Signature, rows: Tensors, clock: Clock) -> str:
    """Why the compiled form is not worth having, empty when it is."""
    row = {name: array[:1] for name, array in rows.items()}
    try:
        before, after = (min(_times(model, signature, row, clock)) for model in (original, compiled))
    except DukouError:
        return ""
    if after <= SLOWER * before:
        return ""
    return (
        f"the compiled form agrees with it, but takes {after * 1e6:.0f} µs for one row where the original takes "
        f"{before * 1e6:.0f} µs"
    )


def _times(model: LoadedModel, signature: Signature, row: Tensors, clock: Clock) -> Iterator[float]:
    for _ in range(TRIALS):
        start = clock()
        model.infer(signature.name, row, signature.output_names(), {})
        yield clock() - start
