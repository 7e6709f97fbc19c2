"""The decision: which form serves, and whether its sentence tells a newcomer why and what to do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from packing_models import DIABETES, IRIS, fit, original

from dukou.core.errors import DukouError, Reason
from dukou.core.tensor import Tensors
from dukou.packing.form import Form, choose_form
from dukou.packing.pack import ignore
from dukou.runtimes.domain import FLOAT32_MAX, InputDomain
from dukou.testing.clock import HandClock
from dukou.testing.models import FunctionModel


def decide(
    name: str,
    compiled: Callable[[str], FunctionModel],
    data: Tensors | None = None,
    clock: HandClock | None = None,
    slow_s: float = 0.0,
) -> Form:
    """The form chosen for a model whose compiled form in a precision is `compiled(precision)`. The original takes
    `slow_s` on the clock."""
    model, signature = original(name)
    hand = clock or HandClock()

    def answer(inputs: Tensors) -> Tensors:
        hand.advance(slow_s)
        return model.infer(signature.name, inputs, signature.output_names(), {})

    return choose_form(
        fit(name),
        signature,
        FunctionModel(answer),
        data=data,
        data_name="rows.csv",
        open_compiled=lambda graph, domain: compiled(graph.precision),
        report=ignore,
        clock=hand,
    )


def exact(name: str, off: float = 0.0, clock: HandClock | None = None, takes_s: float = 0.0) -> FunctionModel:
    """A compiled form that answers as the original does, its numbers shifted by `off`."""
    model, signature = original(name)

    def answer(inputs: Tensors) -> Tensors:
        if clock is not None:
            clock.advance(takes_s)
        got = model.infer(signature.name, inputs, signature.output_names(), {})
        return {name: array + off if array.dtype.kind == "f" else array for name, array in got.items()}

    return FunctionModel(answer)


def lax(name: str) -> FunctionModel:
    """As `exact`, but missing numbers are zeros to it."""
    model, signature = original(name)
    return FunctionModel(
        lambda inputs: model.infer(
            signature.name, {key: np.nan_to_num(array) for key, array in inputs.items()}, signature.output_names(), {}
        )
    )


def test_a_form_that_agrees_serves() -> None:
    """On derived rows, in float32."""
    form = decide("scaler", lambda precision: exact("scaler"))

    assert form.model is not None
    assert (form.evidence.form, form.evidence.source) == ("compiled", "derived")
    assert form.evidence.reason == (
        "The compiled form serves: it gave the same answers as the original on 4096 rows derived from its fitted means "
        "and scales."
    )


@pytest.mark.parametrize(("name", "gaps"), [("scaler", True), ("histogram", True), ("logistic-text", False)])
def test_rows_have_gaps_where_the_original_takes_them(name: str, gaps: bool) -> None:
    """How missing numbers are treated is compared too, but not where the original refuses them."""
    form = decide(name, lambda precision: exact(name))

    assert form.rows is not None
    assert bool(np.isnan(form.rows["X"]).any()) is gaps


def test_a_form_that_answers_what_the_original_refuses_does_not_serve() -> None:
    """Were it not told its domain, or did it not keep to it."""
    form = decide("logistic-text", lambda precision: lax("logistic-text"))

    assert form.model is None
    assert form.evidence.reason == (
        "The original serves: it refuses nan in X[0], which the compiled form would answer."
    )


def test_the_domain_of_a_float32_graph_ends_where_float32_does() -> None:
    """The original's own float64 numbers go further."""
    form = decide("logistic-text", lambda precision: exact("logistic-text"))

    assert form.domain == {"X": InputDomain(missing=False, infinite=False, largest=FLOAT32_MAX)}


def test_float64_is_tried_where_float32_disagrees() -> None:
    """And the reason says so."""
    form = decide("scaler", lambda precision: exact("scaler", off=0.1 if precision == "float32" else 0.0))

    assert form.model is not None
    assert "in float64, because float32 was not exact enough" in form.evidence.reason


def test_the_original_serves_where_both_disagree_and_the_reason_says_what_to_do() -> None:
    """By how much it is off, and that real rows may help."""
    form = decide("scaler", lambda precision: exact("scaler", off=0.1))

    assert form.model is None
    assert form.evidence.reason == (
        "The original serves: the compiled form gave other answers on 4096 rows derived from its fitted means and "
        "scales: transformed off by up to 0.1. If you have rows like those it will be asked, pack it with them; the "
        "compiled, faster form serves if it agrees on them: `dukou pack FILE --data rows.csv`."
    )


def test_given_rows_that_disagree_leave_no_advice() -> None:
    """Asking for rows again would be odd."""
    form = decide("scaler", lambda precision: exact("scaler", off=0.1), data={"X": IRIS})

    assert form.evidence.source == "data"
    assert form.evidence.reason.endswith("on 150 rows of rows.csv: transformed off by up to 0.1.")


def test_without_any_rows_float32_is_not_even_tried() -> None:
    """A linear model tells nothing, so only a float64 graph may prove itself."""
    tried: list[str] = []

    def compiled(precision: str) -> FunctionModel:
        tried.append(precision)
        return exact("linear")

    form = decide("linear", compiled)

    assert tried == ["float64"]
    assert (form.evidence.form, form.evidence.source) == ("compiled", "none")
    assert "computes in float64 as the original does" in form.evidence.reason


@pytest.mark.parametrize("off", [1e-2, 1e3])
def test_without_any_rows_the_tolerance_is_that_of_float64(off: float) -> None:
    """Answers of up to 1e12 may not be off by a hundredth where small ones are compared too."""
    form = decide("linear", lambda precision: exact("linear", off=off * 1e6))

    assert form.model is None
    assert "dukou pack FILE --data rows.csv" in form.evidence.reason


def test_a_compiled_form_that_is_slower_is_not_worth_having() -> None:
    """Both times are in the reason."""
    clock = HandClock()

    form = decide("scaler", lambda p: exact("scaler", clock=clock, takes_s=3e-4), clock=clock, slow_s=1e-4)

    assert form.model is None
    assert "takes 300 µs for one row where the original takes 100 µs" in form.evidence.reason
    assert "--data" not in form.evidence.reason


def test_a_graph_that_cannot_be_opened_is_a_reason() -> None:
    """ONNX Runtime's own words, without the path of a temporary folder."""

    def broken(precision: str) -> Any:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path="/tmp/x/model.onnx", detail="no such operator")

    form = decide("scaler", broken)

    assert form.model is None
    assert "ONNX Runtime cannot open its compiled form (no such operator)" in form.evidence.reason
    assert "/tmp" not in form.evidence.reason


def test_no_converter_is_a_reason_without_advice() -> None:
    """Rows would not help."""

    def never(precision: str) -> FunctionModel:
        raise AssertionError("there is nothing to open")

    form = decide("centroid", never)

    assert form.evidence.reason == "The original serves: there is no ONNX form of NearestCentroid."


def test_the_rows_of_the_comparison_are_handed_on() -> None:
    """They are the probe rows of what follows."""
    data = {"X": DIABETES[:20]}

    form = decide("linear", lambda precision: exact("linear"), data=data)

    assert form.rows is not None
    np.testing.assert_array_equal(form.rows["X"], DIABETES[:20])
