"""What a caller has (arrays, lists, frames, dicts) as the tensors of a signature. No value changes in silence."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES, datatype_of, narrow, widen


def typed(X: Any, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """The inputs that `specs` name, in their datatypes.

    `X` is a dict of arrays by input name; a frame (pandas, polars), whose columns are matched by name; or an array or
    nested lists: the only input, or one column [rows, inputs] for each input. A dict or frame may also hold the columns
    of the only input, where the signature names them.

    Raises DukouError INPUT_MISSING, INPUT_UNEXPECTED, COLUMN_MISSING, COLUMN_UNEXPECTED, WRONG_DATATYPE, WRONG_SHAPE,
    WRONG_WIDTH, WRONG_VALUE, MALFORMED_REQUEST (ragged rows), NOT_SUPPORTED (a datatype that is not known).
    """
    if not specs:
        raise DukouError(Reason.MALFORMED_REQUEST, detail="the model takes no inputs")
    if _is_frame(X):
        named = {str(name): X[name].to_numpy() for name in X.columns}
        return _frame(X, named, specs)
    if isinstance(X, Mapping):
        return _by_name(X, specs, spare=False)
    return _by_position(X, specs)


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "to_numpy")


def _frame(frame: Any, named: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    (first, *more) = specs
    if not more and not first.columns and first.name not in named:
        return {first.name: cast_to(frame.to_numpy(), first)}
    return _by_name(named, specs, spare=True)


def _by_name(named: Mapping[str, Any], specs: Sequence[TensorSpec], *, spare: bool) -> dict[str, NDArray[Any]]:
    """`spare`: names that no input has are allowed, as the other columns of a frame are."""
    (first, *more) = specs
    if not more and first.columns and first.name not in named:
        _check_columns(named, first, spare)
        return {first.name: np.stack([cast_to(named[name], _column(first, name)) for name in first.columns], axis=-1)}
    _check_names(named, [spec.name for spec in specs], spare)
    return {spec.name: cast_to(_as_wide(_array(named[spec.name], spec), spec), spec) for spec in specs}


def _by_position(X: Any, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    if len(specs) == 1:
        return {specs[0].name: cast_to(X, specs[0])}
    rows = X if _is_row(X) else [X]
    for number, row in enumerate(rows):
        width = len(row) if _is_row(row) else 1
        if width != len(specs) or not _is_row(row):
            names = ", ".join(spec.name for spec in specs)
            raise DukouError(Reason.WRONG_WIDTH, row=number, got=width, wanted=f"{len(specs)} ({names})")
    columns = {spec.name: [row[index] for row in rows] for index, spec in enumerate(specs)}
    return _by_name(columns, specs, spare=False)


def _is_row(values: Any) -> bool:
    return isinstance(values, list | tuple) or getattr(values, "ndim", 0) > 0


def _check_names(named: Mapping[str, Any], wanted: Sequence[str], spare: bool) -> None:
    missing = [name for name in wanted if name not in named]
    if missing:
        raise DukouError(
            Reason.INPUT_MISSING, wanted=", ".join(wanted), got=", ".join(named), missing=", ".join(missing)
        )
    extra = [name for name in named if name not in wanted]
    if extra and not spare:
        raise DukouError(Reason.INPUT_UNEXPECTED, tensor=extra[0], wanted=", ".join(wanted))


def _check_columns(named: Mapping[str, Any], spec: TensorSpec, spare: bool) -> None:
    wanted = ", ".join(spec.columns)
    for name in spec.columns:
        if name not in named:
            raise DukouError(Reason.COLUMN_MISSING, tensor=spec.name, missing=name, wanted=wanted)
    for name in named:
        if name not in spec.columns and not spare:
            raise DukouError(Reason.COLUMN_UNEXPECTED, tensor=spec.name, got=name, wanted=wanted)


def _column(spec: TensorSpec, name: str) -> TensorSpec:
    return TensorSpec(name, spec.datatype, None if spec.shape is None else spec.shape[:-1])


def _as_wide(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """A column [rows] where [rows, 1] is wanted."""
    if spec.shape is not None and array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] == 1:
        return array[:, np.newaxis]
    return array


def _array(values: Any, spec: TensorSpec) -> NDArray[Any]:
    try:
        if spec.datatype == "BYTES" and not isinstance(values, np.ndarray):
            # NumPy's own text dtypes would cut trailing zero bytes and turn numbers among the text into text.
            return np.asarray(values, dtype=object)
        return np.asarray(values)
    except ValueError:
        raise DukouError(Reason.MALFORMED_REQUEST, tensor=spec.name, detail="the rows have different lengths") from None


def cast_to(values: Any, spec: TensorSpec) -> NDArray[Any]:
    """`values` in the datatype and shape of `spec`; precision may be lost (FP64 to FP32), range and meaning may not."""
    array = _array(values, spec)
    # A server also writes [-1] for a shape of unknown rank, so that one is left for it to check.
    if spec.shape != (-1,) and not spec.fits(array.shape):
        raise DukouError(
            Reason.WRONG_SHAPE, tensor=spec.name, got=list(array.shape), wanted=list(cast(tuple[int, ...], spec.shape))
        )
    if spec.datatype == "BYTES":
        return _as_text(array, spec)
    wanted = DTYPES.get(spec.datatype)
    if wanted is None:
        raise DukouError(
            Reason.NOT_SUPPORTED, tensor=spec.name, detail=f"datatype {spec.datatype} needs another client"
        )
    if array.dtype == wanted:
        return array
    if spec.datatype == "BF16":
        return _as_bf16(array, spec)
    if array.dtype == object:
        array = _unboxed(array, spec)
    if array.dtype.kind not in "biuf":
        came = "BYTES" if array.dtype.kind in "USO" else str(array.dtype)
        raise DukouError(Reason.WRONG_DATATYPE, tensor=spec.name, got=came, wanted=spec.datatype)
    with np.errstate(all="ignore"):
        result = array.astype(wanted, copy=False)
        kept = np.isfinite(result) | ~np.isfinite(array) if wanted.kind == "f" else result == array
    if not kept.all():
        _refuse_value(array, int(np.argmin(kept)), spec)
    return result


def _as_bf16(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if array.dtype.name == "bfloat16":  # that of ml_dtypes, which JAX and others have
        return array.view(DTYPES["BF16"])
    wide = cast_to(array, TensorSpec(spec.name, "FP32", spec.shape))
    result = narrow(wide)
    kept = np.isfinite(widen(result)) | ~np.isfinite(wide)
    if not kept.all():
        _refuse_value(array, int(np.argmin(kept)), spec)
    return result


def _as_text(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype.kind not in "OT":
        raise DukouError(Reason.WRONG_DATATYPE, tensor=spec.name, got=_name_of(array), wanted="BYTES")
    array = array.astype(object, copy=False)
    for index, value in enumerate(array.flat):
        if not isinstance(value, str | bytes):
            _refuse_value(array, index, spec)
    return array


def _unboxed(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Numbers out of an object array, as a frame with columns of several types gives them."""
    for index, value in enumerate(array.flat):
        if value is not None and not isinstance(value, int | float | np.number | np.bool_):
            _refuse_value(array, index, spec)
    return np.array([np.nan if value is None else value for value in array.flat]).reshape(array.shape)


def _name_of(array: NDArray[Any]) -> str:
    try:
        return datatype_of(array)
    except KeyError:
        return str(array.dtype)


def _refuse_value(array: NDArray[Any], index: int, spec: TensorSpec) -> None:
    at = np.unravel_index(index, array.shape)
    value = array[at]
    raise DukouError(
        Reason.WRONG_VALUE,
        tensor=spec.name,
        row=int(at[0]) if at else None,
        got=repr(value.item() if isinstance(value, np.generic) else value),
        wanted=spec.datatype,
    )
