"""What shares a batch, how requests become one and how its answer is cut apart again: pure functions."""

from collections.abc import Hashable, Sequence

import numpy as np

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Batch, InferenceRequest, InferenceResponse
from dukou.core.model import ModelVersion, Signature
from dukou.core.tensor import Tensors


def has_fixed_rows(signature: Signature) -> bool:
    """Whether every row of every input has one shape, so that the signature alone says what can be joined.

    Without a row axis (`batched` is false) the whole tensor is the row.
    """
    first = 1 if signature.batched else 0
    return all(spec.shape is not None and -1 not in spec.shape[first:] for spec in signature.inputs)


def batch_key(request: InferenceRequest, fixed_rows: bool = False) -> Hashable:
    """Requests with equal keys may run together: same signature, outputs, parameters, dtypes and row shapes.

    `fixed_rows` is `has_fixed_rows(request.signature)`, known beforehand, and spares looking at the arrays. Every
    parameter counts as one that changes the answer, written out, since 1, 1.0 and True are equal but not the same.
    """
    parameters: Hashable = ()
    if request.parameters:
        parameters = tuple(sorted((name, repr(value)) for name, value in request.parameters.items()))
    if fixed_rows:
        return request.signature.name, request.outputs, parameters
    shapes = tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(request.inputs.items()))
    return request.signature.name, request.outputs, parameters, shapes


def join(requests: Sequence[InferenceRequest]) -> Tensors:
    """The inputs of all `requests`, whose keys are equal, concatenated along axis 0 in their order.

    One request's inputs are passed on as they are, not copied.
    """
    first = requests[0].inputs
    if len(requests) == 1:
        return first
    return {name: np.concatenate([request.inputs[name] for request in requests]) for name in first}


def cut(version: ModelVersion, outputs: Tensors, rows_of_each: Sequence[int]) -> Sequence[InferenceResponse]:
    """For each request its own rows of every output: the inverse of `join`.

    Raises DukouError OUTPUT_NOT_ROWS for an output whose axis 0 is not the batch's rows: cutting it would answer one
    caller with another's rows.
    """
    rows = sum(rows_of_each)
    array_bytes = 0
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise DukouError(Reason.OUTPUT_NOT_ROWS, output=name, got=list(array.shape), wanted=rows)
        array_bytes += array.nbytes
    if len(rows_of_each) == 1:
        return [InferenceResponse(version, outputs)]
    batch = Batch(outputs, len(rows_of_each), rows, array_bytes // max(rows, 1))
    responses = []
    start = 0
    for count in rows_of_each:
        end = start + count
        responses.append(InferenceResponse(version, {}, {}, batch, start, end))
        start = end
    return responses
