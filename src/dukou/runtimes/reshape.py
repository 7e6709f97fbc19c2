"""Tensors that callers see in another shape than the model does."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors

Shape = tuple[int, ...]
"""Without the rows where the signature is batched; -1 is any size."""


class Reshaped:
    """A LoadedModel around another: inputs are reshaped for the model, outputs for the caller.

    `inputs` and `outputs` give the target shape of those that differ; the n-th -1 of a target is the size that the
    n-th -1 of `free`, the shape it comes in, has in the array. Axis 0 is rows and stays where `batched` is true.
    """

    def __init__(
        self,
        model: LoadedModel,
        inputs: Mapping[str, tuple[Shape, Shape]],
        outputs: Mapping[str, tuple[Shape, Shape]],
        batched: bool,
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._outputs = outputs
        self._batched = batched

    @property
    def concurrency(self) -> int:
        """The model's."""
        return self._model.concurrency

    @property
    def holds_gil(self) -> bool:
        """The model's."""
        return self._model.holds_gil

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """The model's outputs, in the callers' shapes. Raises what the model raises; MODEL_FAILED for an output that
        has another number of elements than its shape."""
        answer = self._model.infer(signature, self._reshape(inputs, self._inputs), outputs, parameters)
        return self._reshape(answer, self._outputs)

    def stream(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Iterator[Tensors]:
        """The model's responses, in the callers' shapes. Raises as `infer`."""
        model: Any = self._model
        responses = model.stream(signature, self._reshape(inputs, self._inputs), outputs, parameters)
        return (self._reshape(answer, self._outputs) for answer in responses)

    def _reshape(self, tensors: Tensors, targets: Mapping[str, tuple[Shape, Shape]]) -> Tensors:
        changed = {
            name: reshape(array, *targets[name], batched=self._batched)
            for name, array in tensors.items()
            if name in targets
        }
        return {**tensors, **changed}


def reshape(array: NDArray[Any], free: Shape, target: Shape, *, batched: bool) -> NDArray[Any]:
    """`array`, whose shape (behind the rows) fits `free`, in the shape `target`; a view where NumPy can make one.

    Raises DukouError MODEL_FAILED when the elements do not fill it.
    """
    first = 1 if batched else 0
    sizes = iter([size for size, wanted in zip(array.shape[first:], free, strict=False) if wanted == -1])
    shape = (*array.shape[:first], *(next(sizes, -1) if size == -1 else size for size in target))
    try:
        return np.reshape(array, shape)
    except ValueError as error:
        raise DukouError(Reason.MODEL_FAILED) from error
