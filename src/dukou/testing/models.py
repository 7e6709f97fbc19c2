"""Models made of functions, and short ways to write signatures, manifests, tables and requests."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served, Stage, Table
from dukou.core.model import DEFAULT_SIGNATURE, Evidence, ModelManifest, ModelVersion, Signature, State, TensorSpec
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors


class FunctionModel:
    """A LoadedModel that answers with `fn(inputs)`: a mapping of all outputs, from which it takes those asked for."""

    def __init__(self, fn: Callable[[Tensors], Tensors], concurrency: int = 1, holds_gil: bool = False) -> None:
        self._fn = fn
        self._concurrency = concurrency
        self._holds_gil = holds_gil

    @property
    def concurrency(self) -> int:
        """How many threads may be in `infer` at once."""
        return self._concurrency

    @property
    def holds_gil(self) -> bool:
        """What the model declares; a function is not looked into."""
        return self._holds_gil

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """Call the function. Raises what it raises, and KeyError for an output that it does not give."""
        answer = self._fn(inputs)
        return {name: answer[name] for name in outputs}


class Direct:
    """A Stage that calls its model at once, on the loop, one request at a time: no batcher, no thread."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The model's answer. Raises what the model raises."""
        outputs = self._model.infer(request.signature.name, request.inputs, request.outputs, request.parameters)
        return InferenceResponse(request.version, outputs)


IRIS_SIGNATURE = Signature(
    name=DEFAULT_SIGNATURE,
    inputs=(TensorSpec("X", "FP32", (-1, 4)),),
    outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
)
"""Four floats a row in; a label and three probabilities a row out."""

_IRIS_WEIGHTS = np.array(
    [[-0.42, 0.53, -0.11], [0.97, -0.32, -0.65], [-2.52, -0.2, 2.72], [-1.08, -0.94, 2.03]],
    dtype=np.float32,
)
_IRIS_BIAS = np.array([9.8, 2.2, -12.1], dtype=np.float32)


def iris_model(concurrency: int = 1, holds_gil: bool = False) -> FunctionModel:
    """A linear classifier with IRIS_SIGNATURE; each row's answer depends on that row alone."""

    def classify(inputs: Tensors) -> Tensors:
        scores: NDArray[np.float32] = inputs["X"] @ _IRIS_WEIGHTS + _IRIS_BIAS
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return {
            "label": scores.argmax(axis=1).astype(np.int64),
            "probabilities": weights / weights.sum(axis=1, keepdims=True),
        }

    return FunctionModel(classify, concurrency, holds_gil)


def manifest(
    name: str = "iris",
    version: int = 1,
    signatures: tuple[Signature, ...] = (IRIS_SIGNATURE,),
    *,
    independent_rows: bool = True,
    options: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> ModelManifest:
    """The manifest of a version that no file belongs to."""
    return ModelManifest(
        format=1,
        id=ModelVersion(name, version),
        runtime="function",
        serving="model.py",
        signatures={signature.name: signature for signature in signatures},
        digests={"model.py": "0" * 64},
        evidence=Evidence(form="original", reason="made for a test", independent_rows=independent_rows),
        options=options or {},
        metrics=metrics or {},
    )


def served(
    of: ModelManifest | None = None,
    stage: Stage | None = None,
    state: State = State.AVAILABLE,
    error: DukouError | None = None,
) -> Served:
    """A version in `state`, by default the iris model AVAILABLE behind a Direct stage."""
    of = of or manifest()
    if stage is None and state is State.AVAILABLE:
        stage = Direct(iris_model())
    return Served(of.id, of, state, stage, error)


def iris_like(name: str = "iris", version: int = 1, state: State = State.AVAILABLE) -> Served:
    """An iris model ready for a table: input X FP32 [-1, 4], outputs label INT64 [-1], probabilities FP32 [-1, 3]."""
    return served(manifest(name, version), state=state)


def table(*versions: Served, labels: Mapping[str, Mapping[str, int]] | None = None, generation: int = 1) -> Table:
    """A Table of `versions`, each model's highest first."""
    models: dict[str, dict[int, Served]] = {}
    for one in sorted(versions, key=lambda one: (one.id.name, -one.id.version)):
        models.setdefault(one.id.name, {})[one.id.version] = one
    return Table(generation, models, labels or {})


def iris_request(rows: Any, outputs: tuple[str, ...] = ("label",), context: Context | None = None) -> InferenceRequest:
    """A request for iris version 1 with `rows`, anything that makes an array `[rows, 4]`."""
    array = np.asarray(rows, dtype=np.float32).reshape(-1, 4)
    return InferenceRequest(
        version=ModelVersion("iris", 1),
        signature=IRIS_SIGNATURE,
        inputs={"X": array},
        outputs=outputs,
        rows=len(array),
        context=context or Context(),
    )
