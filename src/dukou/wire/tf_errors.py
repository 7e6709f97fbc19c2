"""TensorFlow Serving's own sentences about JSON that is no tensor, for clients that look for its words.

Entered only after a request was found wrong: the values are walked again in that server's order, which decides which of
several mistakes is named. Each error keeps its Reason and facts; `text` in the facts is the sentence.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES
from dukou.wire.json_array import from_b64, is_b64
from dukou.wire.json_write import quote

TYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "half",
    "FP32": "float",
    "FP64": "double",
    "BYTES": "string",
}
"""Datatype name to TensorFlow's name of it."""


def in_instances(elements: Any, spec: TensorSpec, error: DukouError, key: str = "") -> DukouError:
    """`error`, found in the elements of an `instances` list (under `key` of each), in TensorFlow Serving's words."""
    elements = elements.tolist() if isinstance(elements, np.ndarray) else elements
    first: tuple[int, ...] | None = None
    for place, element in enumerate(elements):
        shape = _first_shape(element)
        text = _fault(element, 0, shape, spec)
        if text is None and first is not None and math.prod(shape) != math.prod(first):
            text = f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}"
        elif text is None and first is not None and shape != first:
            text = f"Expecting shape {_shape(first)} but got: {_shape(shape)}"
        if text is not None:
            where = f"{place} key: {key}" if key else f"{place}"
            text = f"Failed to process element: {where} of 'instances' list. Error: INVALID_ARGUMENT: {text}"
            return DukouError(error.reason, **(error.facts | {"row": place, "text": text}))
        first = shape
    return error


def in_inputs(value: Any, spec: TensorSpec, error: DukouError) -> DukouError:
    """`error`, found in a value of `inputs`, in TensorFlow Serving's words."""
    text = _fault(value, 0, _first_shape(value), spec)
    return error if text is None else DukouError(error.reason, **(error.facts | {"text": text}))


def unsupported(value: Any, spec: TensorSpec) -> DukouError:
    """A datatype that this protocol's JSON cannot carry."""
    text = f"Conversion of JSON Value: {quote(value)} to type: {TYPES[spec.datatype]}"
    return DukouError(Reason.NOT_SUPPORTED, tensor=spec.name, detail=text, text=text)


def _first_shape(value: Any) -> tuple[int, ...]:
    """The shape as the first elements have it."""
    shape = []
    while isinstance(value, list | np.ndarray):
        shape.append(len(value))
        if not len(value):
            break
        value = value[0]
    return tuple(shape)


def _fault(value: Any, level: int, shape: Sequence[int], spec: TensorSpec) -> str | None:
    """What is wrong with a value that should be a tensor of `shape`; None where nothing is."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if type(value) is not list:
        if level != len(shape):
            return (
                f"JSON Value: {quote(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        return _leaf_fault(value, spec)
    if level >= len(shape):
        return f"Encountered list at unexpected level: {level} expected < {len(shape)}"
    if len(value) != shape[level]:
        return f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
    for child in value:
        text = _fault(child, level + 1, shape, spec)
        if text is not None:
            return text
    return None


def _leaf_fault(value: Any, spec: TensorSpec) -> str | None:
    kind = DTYPES[spec.datatype].kind
    if kind == "O":
        if type(value) is str or from_b64(value) is not None:
            return None
        if is_b64(value):
            return "Unable to base64 decode"
        if type(value) is dict:
            return f"JSON Value: {quote(value)} not formatted correctly for base64 data"
    elif kind == "b":
        if type(value) is bool:
            return None
    elif kind == "f":
        if type(value) in (int, float):
            return None
    elif type(value) is int:
        limits = np.iinfo(DTYPES[spec.datatype])
        if limits.min <= value <= limits.max:
            return None
    return f"JSON Value: {quote(value)} Type: {_type(value)} is not of expected type: {TYPES[spec.datatype]}"


def _type(value: Any) -> str:
    if value is None:
        return "Null"
    if type(value) is bool:
        return "True" if value else "False"
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
