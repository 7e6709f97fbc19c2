"""States that a pickle gives to NumPy's dtypes and arrays, checked before they reach memory. Pure."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.runtimes.globals import RefusedError


def is_dtype_state(state: Any) -> bool:
    """Whether this is what `numpy.dtype.__reduce__` gives as a state: version, byte order, (base, shape) or None, names
    of fields or None, fields or None, size, alignment, flags, and for times their unit."""
    if not isinstance(state, tuple) or len(state) not in {8, 9}:
        return False
    version, order, base, names, fields, *numbers = state[:8]
    return (
        version in {3, 4}
        and order in {"<", ">", "=", "|"}
        and (base is None or (isinstance(base, tuple) and len(base) == 2 and isinstance(base[0], np.dtype)))
        and (names is None) == (fields is None)
        and (names is None or (isinstance(names, tuple) and all(isinstance(name, str) for name in names)))
        and (
            fields is None
            or (isinstance(fields, dict) and set(fields) == set(names or ()) and all(map(_is_field, fields.values())))
        )
        and all(isinstance(number, int) for number in numbers)
    )


def _is_field(field: Any) -> bool:
    return isinstance(field, tuple) and len(field) == 2 and isinstance(field[0], np.dtype) and isinstance(field[1], int)


def agrees(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds objects only if it is `object` itself, and no part lies outside of it."""
    if dtype.itemsize < 0 or (dtype.kind == "U" and dtype.itemsize % 4):
        return False
    if dtype.hasobject or dtype.kind == "O":
        return dtype.hasobject and dtype.kind == "O" and dtype.names is None and dtype.subdtype is None
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return not base.hasobject and base.itemsize * math.prod(shape) == dtype.itemsize
    return all(
        not field.hasobject and offset >= 0 and offset + field.itemsize <= dtype.itemsize
        for field, offset, *_ in (dtype.fields or {}).values()
    )


def check_array(array: NDArray[Any], state: Any) -> None:
    """An array gets its data once, and as many objects as its shape says; NumPy counts bytes, but not objects."""
    if array.shape != (0,) or array.dtype != np.int8:
        raise RefusedError("a change of a NumPy array")
    _, shape, dtype, _, data, *_ = state
    if dtype.hasobject and not (isinstance(data, list) and len(data) == math.prod(shape)):
        raise RefusedError("a NumPy array with fewer objects than its shape says")
