"""One row that fits a signature, as each protocol's clients would send it: for people to copy. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dukou.core.model import Signature, TensorSpec

MOST_VALUES = 64
"""In a row that is worth showing."""

_VALUES: Mapping[str, Any] = {"BOOL": True, "BYTES": "text", "FP16": 1.0, "BF16": 1.0, "FP32": 1.0, "FP64": 1.0}


def is_showable(signature: Signature) -> bool:
    """Whether a row is small enough, and can be written as JSON."""
    return all(
        math.prod(row_shape(spec, signature)) <= MOST_VALUES and spec.datatype not in ("FP16", "BF16")
        for spec in signature.inputs
    )


def row_shape(spec: TensorSpec, signature: Signature) -> list[int]:
    """The shape of one row of a tensor, 1 where any size goes."""
    shape = spec.stated or () if spec.shape is None else spec.shape
    return [1 if size < 0 else size for size in (shape[1:] if signature.batched else shape)]


def row(signature: Signature) -> Any:
    """One row as people write it: a list for one input, a record where columns or several inputs have names."""
    first = signature.inputs[0]
    if len(signature.inputs) == 1 and first.columns:
        return {column: _VALUES.get(first.datatype, 1) for column in first.columns}
    values = {spec.name: _filled(row_shape(spec, signature), _value(spec)) for spec in signature.inputs}
    return values[first.name] if len(values) == 1 else values


def tensors(signature: Signature) -> list[dict[str, Any]]:
    """One row as the inputs of an Open Inference Protocol call."""
    return [
        {
            "name": spec.name,
            "shape": [1, *row_shape(spec, signature)] if signature.batched else row_shape(spec, signature),
            "datatype": spec.datatype,
            "data": [_value(spec)] * math.prod(row_shape(spec, signature)),
        }
        for spec in signature.inputs
    ]


def members(signature: Signature) -> dict[str, Any]:
    """One row as the members of a generate call."""
    return {spec.name: _filled(row_shape(spec, signature), _value(spec)) for spec in signature.inputs}


def _value(spec: TensorSpec) -> Any:
    return _VALUES.get(spec.datatype, 1)


def _filled(shape: Sequence[int], value: Any) -> Any:
    return [_filled(shape[1:], value) for _ in range(shape[0])] if shape else value
