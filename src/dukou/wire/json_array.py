"""Parsed JSON to arrays: what a tensor's datatype allows, and nothing else.

A number is never made of a string or a boolean, an integer never of a number with a fraction, and integers keep all
their digits. Floats beyond FP32 become infinite, as TensorFlow Serving has it.
"""

import base64
import binascii
import math
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES
from dukou.wire.json_cut import MAX_RANK
from dukou.wire.json_write import quote

_FP32_MAX = float(np.finfo(np.float32).max)
_Number: TypeAlias = (
    Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[float, Meta(ge=-_FP32_MAX, le=_FP32_MAX)]
)
Numbers: TypeAlias = _Number | list[_Number | list[_Number | list[_Number | list[_Number]]]]
"""A type for msgspec: numbers nested up to four deep that are surely no booleans, fit INT64 where they are integers and
FP32 where they are not. What is decoded as this may go to `to_array` as `numbers`."""

_FLOATS = {"FP32": DTYPES["FP32"], "FP64": DTYPES["FP64"]}


def to_array(data: Any, spec: TensorSpec, numbers: bool = False) -> NDArray[Any]:
    """The array of `data`: a value, nested lists or an array, in the datatype (not yet the shape) of `spec`.

    BYTES elements are `str`, or `bytes` where `{"b64": ...}` came. `numbers` says that `data` was decoded as `Numbers`,
    which saves the look at every element. Raises DukouError RAGGED and WRONG_VALUE, with the row; NOT_SUPPORTED for
    BF16, which has no JSON form.
    """
    dtype = _FLOATS.get(spec.datatype)
    if numbers and dtype is not None:
        try:
            return np.array(data, dtype)
        except ValueError:
            pass  # ragged: `flatten` says where
    if spec.datatype == "BF16":
        raise DukouError(Reason.NOT_SUPPORTED, detail=f"BF16 has no JSON form; send {spec.name!r} as raw data")
    if isinstance(data, np.ndarray):
        return _from_array(data, spec)
    leaves, shape = flatten(data, spec.name)
    if np.ndarray in set(map(type, leaves)):
        return _stacked(data, spec)
    return _from_leaves(leaves, shape, spec).reshape(shape)


def _stacked(data: list[Any], spec: TensorSpec) -> NDArray[Any]:
    """The array of lists that hold arrays, of several dtypes perhaps, beside lists that were too short to be arrays."""
    arrays: list[NDArray[Any]] = []
    for row, child in enumerate(data):
        try:
            array = to_array(child, spec)
        except DukouError as error:
            raise DukouError(error.reason, **(error.facts | {"row": row})) from None
        if arrays and array.shape != arrays[0].shape:
            raise DukouError(
                Reason.RAGGED, tensor=spec.name, row=row, got=list(array.shape), wanted=list(arrays[0].shape)
            )
        arrays.append(array)
    if arrays[0].ndim >= MAX_RANK:
        raise DukouError(Reason.TOO_DEEP, tensor=spec.name, wanted=MAX_RANK)
    return np.stack(arrays)


def flatten(data: Any, tensor: str = "") -> tuple[list[Any], tuple[int, ...]]:
    """The leaves of nested lists in row-major order, and their shape; where arrays are among lists, as far as to these.

    Raises DukouError RAGGED with the row, TOO_DEEP for more axes than NumPy has.
    """
    leaves: list[Any] = [data]
    shape: tuple[int, ...] = ()
    while True:
        kinds = set(map(type, leaves))
        if list not in kinds or np.ndarray in kinds:
            return leaves, shape
        sizes = set(map(len, leaves)) if len(kinds) == 1 else set()
        if len(sizes) != 1:
            raise _ragged(leaves, shape, tensor)
        shape = (*shape, sizes.pop())
        if len(shape) > MAX_RANK:
            raise DukouError(Reason.TOO_DEEP, tensor=tensor, wanted=MAX_RANK)
        leaves = list(chain.from_iterable(leaves))


def _ragged(level: Sequence[Any], shape: tuple[int, ...], tensor: str) -> DukouError:
    """`level` holds the nodes below lists of `shape`, which differ: lists of several lengths, or beside values."""
    shapes = [[len(node)] if isinstance(node, list) else [] for node in level]
    odd = next(place for place, one in enumerate(shapes) if one != shapes[0])
    row = odd // math.prod(shape[1:]) if shape else None
    return DukouError(Reason.RAGGED, tensor=tensor, row=row, got=shapes[odd], wanted=shapes[0])


def _from_array(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Of an int64, uint64 or float64 array."""
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    wrong = np.ones(array.shape, bool)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        wrong = (
            ~np.isfinite(array) | (array != np.trunc(array))
            if array.dtype.kind == "f"
            else (array < limits.min) | (array > limits.max)
        )
        if array.dtype.kind != "f" and not wrong.any():
            return array.astype(dtype)
    place = int(np.argmax(wrong))  # the first; 0 where all are whole, but came among numbers with fractions
    raise _wrong(array.ravel()[place].item(), place, array.shape, spec)


_ALLOWED: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}, "O": {str, dict}}
"""Kind of dtype to the Python types whose values it takes."""


def _from_leaves(leaves: list[Any], shape: tuple[int, ...], spec: TensorSpec) -> NDArray[Any]:
    dtype = DTYPES[spec.datatype]
    allowed = _ALLOWED[dtype.kind]
    if not set(map(type, leaves)) <= allowed:
        place = next(place for place, leaf in enumerate(leaves) if type(leaf) not in allowed)
        raise _wrong(leaves[place], place, shape, spec)
    if dtype.kind == "O":
        return _texts(leaves, shape, spec)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if leaves and (min(leaves) < limits.min or max(leaves) > limits.max):
            place = next(place for place, leaf in enumerate(leaves) if not limits.min <= leaf <= limits.max)
            raise _wrong(leaves[place], place, shape, spec)
    try:
        with np.errstate(over="ignore"):
            return np.array(leaves, dtype)
    except OverflowError:  # an integer of more than 308 digits, for a float
        place = next(place for place, leaf in enumerate(leaves) if abs(leaf) > sys.float_info.max)
        raise _wrong(leaves[place], place, shape, spec) from None


def _texts(leaves: list[Any], shape: tuple[int, ...], spec: TensorSpec) -> NDArray[Any]:
    array = np.empty(len(leaves), object)
    for place, leaf in enumerate(leaves):
        text = leaf if type(leaf) is str else from_b64(leaf)
        if text is None:
            raise _wrong(leaf, place, shape, spec)
        array[place] = text
    return array


def is_b64(value: Any) -> bool:
    """Whether this is `{"b64": "..."}`, which stands for bytes."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def from_b64(value: Any) -> bytes | None:
    """The bytes of `{"b64": "..."}`, standard or URL-safe, padded or not; None where it is not that."""
    if not is_b64(value):
        return None
    text = value["b64"].rstrip("=").translate(_URL_SAFE)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


_URL_SAFE = str.maketrans("-_", "+/")


def _wrong(value: Any, place: int, shape: tuple[int, ...], spec: TensorSpec) -> DukouError:
    row = place // math.prod(shape[1:]) if shape else None
    return DukouError(Reason.WRONG_VALUE, tensor=spec.name, row=row, got=quote(value, 64), wanted=spec.datatype)
