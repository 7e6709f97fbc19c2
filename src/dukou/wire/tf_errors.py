"""Errors in TensorFlow Serving's own sentences, for clients that look for its words.

Those about JSON that is no tensor are made after a request was found wrong: the values are walked again in that
server's order, which decides which of several mistakes is named. Each error keeps its Reason and facts; `text` in the
facts is the sentence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES
from dukou.wire.json_array import from_b64, is_b64, to_array
from dukou.wire.json_write import quote
from dukou.wire.tf_kinds import KINDS
from dukou.wire.tf_says import says


def describe(error: DukouError) -> str:
    """The message of an error; the default sentence where no client looks for another."""
    facts = error.facts
    if "text" in facts:
        return str(facts["text"])
    text = _TEXTS.get(error.reason)
    return text(facts) if text else str(error)


def _servable(facts: Mapping[str, Any]) -> str:
    name, version = facts.get("model", ""), facts.get("version")
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return f"Servable not found for request: {asked}"


_TEXTS: Mapping[Reason, Callable[[Mapping[str, Any]], str]] = {
    Reason.MALFORMED_JSON: lambda facts: f"JSON Parse error: {facts.get('detail')}",
    Reason.MODEL_NOT_FOUND: _servable,
    Reason.VERSION_NOT_FOUND: _servable,
    Reason.LABEL_NOT_FOUND: lambda facts: f"Unrecognized servable version label: {facts.get('label')}",
    Reason.SIGNATURE_NOT_FOUND: lambda facts: (
        f'Serving signature name: "{facts.get("signature")}" not found in signature def'
    ),
}


def type_name(value: Any) -> str:
    """What kind of JSON value that is, by RapidJSON's name."""
    if value is None:
        return "Null"
    if type(value) is bool:
        return "True" if value else "False"
    names: dict[type, str] = {dict: "Object", list: "Array", np.ndarray: "Array", str: "String"}
    return names.get(type(value), "Number")


def in_instances(elements: Any, spec: TensorSpec, error: DukouError, key: str = "") -> DukouError:
    """`error`, found in the elements of an `instances` list (under `key` of each), in TensorFlow Serving's words."""
    error = _first(elements, spec, error)
    place: int = error.facts.get("row") or 0
    first = _first_shape(elements[place - 1]) if place else None
    for element in elements[place:]:
        shape = _first_shape(element)
        text = _fault(element, 0, shape, spec, error)
        if text is None and first is not None and math.prod(shape) != math.prod(first):
            text = f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}"
        elif text is None and first is not None and shape != first:
            text = f"Expecting shape {_shape(first)} but got: {_shape(shape)}"
        if text is not None:
            where = f"{place} key: {key}" if key else f"{place}"
            text = f"Failed to process element: {where} of 'instances' list. Error: INVALID_ARGUMENT: {text}"
            return DukouError(error.reason, **(error.facts | {"row": place, "text": text}))
        first = shape
        place += 1
    return error


def _first(elements: Any, spec: TensorSpec, error: DukouError) -> DukouError:
    """The first mistake: one of another kind than `error`, which was looked for later, may stand before it."""
    while type(elements) is list and (place := error.facts.get("row")):
        try:
            to_array(elements[:place], spec)
            break
        except DukouError as earlier:
            error = earlier
    return error


def in_inputs(value: Any, spec: TensorSpec, error: DukouError) -> DukouError:
    """`error`, found in a value of `inputs`, in TensorFlow Serving's words."""
    text = _fault(value, 0, _first_shape(value), spec, error)
    return error if text is None else DukouError(error.reason, **(error.facts | {"text": text}))


def unsupported(value: Any, spec: TensorSpec) -> DukouError:
    """A datatype that this protocol's JSON cannot carry."""
    text = f"Conversion of JSON Value: {quote(value)} to type: {KINDS[spec.datatype].name}"
    return says(text, Reason.NOT_SUPPORTED, tensor=spec.name)


def _first_shape(value: Any) -> tuple[int, ...]:
    """The shape as the first elements have it."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not len(value):
            break
        value = value[0]
    return (*shape, *value.shape) if isinstance(value, np.ndarray) else tuple(shape)


def _fault(value: Any, level: int, shape: Sequence[int], spec: TensorSpec, error: DukouError) -> str | None:
    """What is wrong with a value that should be a tensor of `shape`; None where nothing is.

    `error` says what was found wrong first; the numbers of an array are not searched again for it.
    """
    if isinstance(value, np.ndarray | np.generic):
        if value.shape == tuple(shape[level:]):
            return _not_of_type(error.facts["got"], "Number", spec) if error.reason is Reason.WRONG_VALUE else None
        return _array_fault(value, level, shape)
    if type(value) is not list:
        return _leaf_fault(value, spec) if level == len(shape) else _at_wrong_level(value, level, shape)
    fault = _list_fault(len(value), level, shape)
    if fault is not None:
        return fault
    for child in value:
        fault = _fault(child, level + 1, shape, spec, error)
        if fault is not None:
            return fault
    return None


def _array_fault(array: Any, level: int, shape: Sequence[int]) -> str | None:
    for size in array.shape:
        fault = _list_fault(size, level, shape)
        if fault is not None or not size:
            return fault
        level += 1
    return _at_wrong_level(array.flat[0].item(), level, shape)


def _list_fault(size: int, level: int, shape: Sequence[int]) -> str | None:
    if level >= len(shape):
        return f"Encountered list at unexpected level: {level} expected < {len(shape)}"
    if size != shape[level]:
        return f"Encountered list at unexpected size: {size} at level: {level} expected size: {shape[level]}"
    return None


def _at_wrong_level(value: Any, level: int, shape: Sequence[int]) -> str:
    return (
        f"JSON Value: {quote(value)} found at incorrect level: {level + 1} in the JSON DOM. "
        f"Expected at level: {len(shape)}"
    )


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
    return _not_of_type(quote(value), type_name(value), spec)


def _not_of_type(quoted: str, kind: str, spec: TensorSpec) -> str:
    return f"JSON Value: {quoted} Type: {kind} is not of expected type: {KINDS[spec.datatype].name}"


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
