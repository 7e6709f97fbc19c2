"""A fitted scikit-learn estimator as an ONNX graph that takes and gives exactly what the estimator's signature says.

A converted graph proves nothing by itself: converters have given wrong shapes and wrong numbers without a word. What
comes out of here serves only after `dukou.packing.evidence` has compared it with the original.
"""

import contextlib
import copy
import io
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec

from dukou.core.model import Signature, TensorSpec
from dukou.packing.conversions import own_conversions
from dukou.packing.derive import positions
from dukou.packing.graph import UnmatchedError, dress, keep_roots_real, let_trees_take_float32
from dukou.runtimes.columns import members

MAX_NODES = 3_000_000
"""Tree nodes beyond which compiling is not tried: the converter needs about 10 µs for each, and memory to match."""

MAX_S = 60.0
"""How long one conversion may take; those of ordinary models take 0.05 to 5 s."""

MAX_BYTES = 1 << 30
"""Largest graph accepted; ONNX files end at 2 GiB."""

OPSETS = {"": 18, "ai.onnx.ml": 3}
"""ai.onnx.ml 3 is the newest that the converters of outlier detectors know; every ONNX Runtime we support reads it."""

WORDS = {r"(?u)\b\w\w+\b": r"[\p{L}\p{N}_]{2,}", r"(?u)\b\w+\b": r"[\p{L}\p{N}_]+"}
"""Python's patterns of words in the words of RE2, where `\\w` is ASCII. The converter's own pattern cuts "naïve" in two
and keeps words of one letter, which scikit-learn drops before it makes pairs of words."""


class Compiled(msgspec.Struct, frozen=True):
    """An ONNX model, serialized. `precision` is "float32" or "float64": what it computes in."""

    model: bytes
    precision: str


class NotCompiled(msgspec.Struct, frozen=True):
    """There is no compiled form; `reason` is a sentence for people."""

    reason: str


def compile_estimator(estimator: Any, signature: Signature, *, precision: str = "float32") -> Compiled | NotCompiled:
    """The estimator as an ONNX graph whose inputs and outputs are those of `signature`: names, datatypes, shapes.

    The graph computes in `precision`; values are cast where they enter and leave. Whatever the converter prints or
    warns of is swallowed, because the comparison that follows says what matters.
    """
    name = type(estimator).__name__
    nodes = count_tree_nodes(estimator)
    if nodes > MAX_NODES:
        return NotCompiled(f"{name} has {nodes:,} tree nodes, more than the {MAX_NODES:,} that are compiled")
    try:
        with _quiet(), _bounded(MAX_S):
            graph = _convert(prepare(estimator, signature), signature, precision)
            dressed = dress(graph, signature)
            model = dressed.SerializeToString()
    except UnmatchedError as error:
        return NotCompiled(str(error))
    except TimeoutError:
        return NotCompiled(f"compiling {name} takes longer than {MAX_S} s")
    except Exception as error:  # the converter raises anything, from RuntimeError to AttributeError
        return NotCompiled(_explain(name, error))
    if len(model) > MAX_BYTES:
        return NotCompiled(f"the compiled form would be {len(model) >> 20} MiB, the most is {MAX_BYTES >> 20} MiB")
    return Compiled(model, precision)


def count_tree_nodes(estimator: Any) -> int:
    """How many decision tree nodes the estimator holds, those of its parts included."""
    if hasattr(estimator, "tree_"):
        return int(estimator.tree_.node_count)
    if hasattr(estimator, "_predictors"):
        return sum(len(tree.nodes) for trees in estimator._predictors for tree in trees)
    return sum(count_tree_nodes(part) for part in _parts(estimator))


def _parts(estimator: Any) -> Iterator[Any]:
    """The fitted estimators directly inside this one."""
    if hasattr(estimator, "steps"):
        yield from (step for _, step in estimator.steps)
    for attribute in ("best_estimator_", "estimator_", "final_estimator_"):
        if hasattr(estimator, attribute):
            yield getattr(estimator, attribute)
    yield from members(estimator)


def prepare(estimator: Any, signature: Signature) -> Any:
    """The estimator in the form that the converter knows, answering the same; the one given is not changed.

    A search is its best estimator. A voting classifier is converted only with `flatten_transform=False`, which changes
    `transform` but no prediction. A ColumnTransformer's columns are numbers when the signature has one matrix, and
    names when it has an input for each column, because the converter looks them up among the inputs.
    """
    if hasattr(estimator, "best_estimator_"):
        return prepare(estimator.best_estimator_, signature)
    if type(estimator).__name__ == "FrozenEstimator":
        return prepare(estimator.estimator, signature)
    same = copy.copy(estimator)
    if hasattr(estimator, "steps"):
        same.steps = [(name, prepare(step, signature)) for name, step in estimator.steps]
    elif hasattr(estimator, "flatten_transform"):
        same.flatten_transform = False
    elif hasattr(estimator, "output_indices_"):
        names = list(getattr(estimator, "feature_names_in_", ())) if len(signature.inputs) > 1 else []
        same.transformers_ = [
            (name, part, [names[place] if names else int(place) for place in positions(estimator, picked)])
            for name, part, picked in estimator.transformers_
        ]
    else:
        return estimator
    return same


def _convert(estimator: Any, signature: Signature, precision: str) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common import data_types

    number = data_types.DoubleTensorType if precision == "float64" else data_types.FloatTensorType
    kinds = {"BYTES": data_types.StringTensorType, "BOOL": data_types.BooleanTensorType}
    kinds |= dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"), data_types.Int64TensorType)
    types = [(spec.name, kinds.get(spec.datatype, number)([None, *_inner_shape(spec)])) for spec in signature.inputs]
    options: dict[Any, Any] = {}
    if hasattr(estimator, "classes_"):
        # Classifiers without probabilities have no ZipMap to switch off, and one converter refuses the attempt.
        options[id(estimator)] = {"raw_scores": True} if type(estimator).__name__ == "LinearSVC" else {"zipmap": False}
    for text in _vectorizers(estimator):
        # ONNX Runtime has no locale but C in slim containers, and fails at load with the converter's default en_US.
        options[id(text)] = {"locale": "C"}
        if text.analyzer == "word" and text.token_pattern in WORDS:
            options[id(text)]["tokenexp"] = WORDS[text.token_pattern]
    model = convert_sklearn(
        estimator,
        name="dukou",
        initial_types=types,
        target_opset=OPSETS,
        options=options,
        custom_conversion_functions=own_conversions(),
    )
    keep_roots_real(model.graph)
    if precision == "float64":
        let_trees_take_float32(model.graph)
    return model


def _inner_shape(spec: TensorSpec) -> list[int]:
    """The converter's shape of an input beyond its rows: a column is a matrix of width 1."""
    return [1] if not spec.shape or len(spec.shape) == 1 else list(spec.shape[1:])


def _vectorizers(estimator: Any) -> Iterator[Any]:
    if hasattr(estimator, "stop_words") and hasattr(estimator, "vocabulary_"):
        yield estimator
    for _, part in getattr(estimator, "steps", ()):
        yield from _vectorizers(part)
    for entry in getattr(estimator, "transformers_", getattr(estimator, "transformer_list", ())):
        yield from _vectorizers(entry[1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside after so long. Only in the main thread, where `dukou pack` and `dukou serve` compile: a
    signal reaches no other, and nothing else ends a converter."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _explain(name: str, error: Exception) -> str:
    """A sentence part for an exception of the converter; the class that it does not know, where that is the reason."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed, which compiles models; `pip install 'dukou[sklearn]'` brings it"
    text = str(error).strip()
    unknown = re.search(r"type '<class '[\w.]*?(\w+)'>'", text)
    if type(error).__name__ in {"MissingShapeCalculator", "MissingConverter"} and unknown:
        return f"there is no ONNX form of {unknown[1]}"
    line = text.splitlines()[0][:200] if text else ""
    return f"{name} cannot be turned into an ONNX graph ({type(error).__name__}: {line})"
