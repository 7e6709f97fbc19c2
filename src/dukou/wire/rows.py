"""Rows as people write them to the inputs of a signature: shapes, row counts, records and columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Served
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors
from dukou.wire.json_array import is_b64, to_array
from dukou.wire.json_write import quote


def fit(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """The array in a shape that the spec allows: `[rows]` becomes `[rows, 1]` where that is declared.

    Raises DukouError NO_ROWS, WRONG_WIDTH where only the last axis differs, else WRONG_SHAPE; `shape` and `spec_shape`
    are in the facts.
    """
    shape, wanted = array.shape, spec.shape
    if wanted is None or (len(shape) == len(wanted) == 2 and wanted[0] == -1 and shape[1] == wanted[1]):
        return array
    if spec.fits(shape):
        return array
    if wanted[-1:] == (1,) and spec.fits((*shape, 1)):
        return array.reshape(*shape, 1)
    if shape[:1] == (0,) and wanted[:1] == (-1,):
        raise DukouError(Reason.NO_ROWS, tensor=spec.name)
    facts = {"tensor": spec.name, "shape": list(shape), "spec_shape": list(wanted)}
    if len(shape) > 1 and spec.fits((*shape[:-1], wanted[-1])):
        row = 0 if wanted[0] == -1 else None
        raise DukouError(Reason.WRONG_WIDTH, row=row, got=shape[-1], wanted=wanted[-1], **facts)
    raise DukouError(Reason.WRONG_SHAPE, got=list(shape), wanted=list(wanted), **facts)


def count(inputs: Tensors, signature: Signature, served: Served) -> int:
    """The rows of a request: the common size of axis 0, 1 for a signature that is not batched.

    Raises DukouError NO_ROWS, ROWS_DIFFER, BATCH_TOO_LARGE (more than the version's option `max_request_rows`) and
    WRONG_SHAPE for a single value.
    """
    if not signature.batched:
        return 1
    rows = -1
    for name, array in inputs.items():
        shape = array.shape
        if not shape:
            raise DukouError(Reason.WRONG_SHAPE, tensor=name, got=[], wanted="[rows, ...]", shape=[])
        if shape[0] != rows >= 0:
            raise DukouError(Reason.ROWS_DIFFER, tensor=name, got=shape[0], wanted=rows)
        rows = shape[0]
    if rows <= 0:
        raise DukouError(Reason.NO_ROWS)
    most = served.manifest.options.get("max_request_rows")
    if most is not None and rows > most:
        raise DukouError(Reason.BATCH_TOO_LARGE, got=rows, wanted=most)
    return rows


def from_rows(rows: Any, signature: Signature, numbers: bool = False) -> dict[str, NDArray[Any]]:
    """Inputs of the rows that people write.

    For one input: nested lists `[rows, ...]`, or records of its `columns`. For several inputs: positional rows with one
    value for each input, or records by input name. Either also as one object of columns, `{"column": [...], ...}`.
    `numbers` as in `to_array`. Raises DukouError, with the row, for what fits neither the names nor the shapes.
    """
    specs = signature.inputs
    if numbers and len(specs) == 1:
        return {specs[0].name: fit(to_array(rows, specs[0], True), specs[0])}
    if isinstance(rows, dict):
        return from_columns(rows, signature)
    if len(specs) == 1:
        spec = specs[0]
        if type(rows) is list and rows and type(rows[0]) is dict and not is_b64(rows[0]):
            return from_records(rows, signature)
        return {spec.name: fit(to_array(rows, spec), spec)}
    if isinstance(rows, np.ndarray) and rows.ndim > 1:
        return _from_matrix(rows, signature)
    if isinstance(rows, np.ndarray):
        raise _not_rows(rows[0].item(), 0)
    if type(rows) is not list or not rows:
        raise DukouError(Reason.NO_ROWS) if rows == [] else _not_rows(rows, 0)
    if type(rows[0]) is dict:
        return from_records(rows, signature)
    for place, row in enumerate(rows):
        if type(row) is not list:
            raise _not_rows(row, place)
        if len(row) != len(specs):
            raise DukouError(Reason.WRONG_WIDTH, row=place, got=len(row), wanted=len(specs))
    columns = zip(*rows, strict=True)
    return {spec.name: fit(to_array(list(column), spec), spec) for spec, column in zip(specs, columns, strict=True)}


def _from_matrix(rows: NDArray[Any], signature: Signature) -> dict[str, NDArray[Any]]:
    specs = signature.inputs
    if rows.shape[1] != len(specs):
        raise DukouError(Reason.WRONG_WIDTH, row=0, got=rows.shape[1], wanted=len(specs))
    inputs = {}
    for place, spec in enumerate(specs):
        column = rows[:, place]
        if DTYPES[spec.datatype].kind in "iu":
            column = _as_integers(column)
        inputs[spec.name] = fit(to_array(column, spec), spec)
    return inputs


def _as_integers(column: NDArray[Any]) -> NDArray[Any]:
    """A column of integers, which are floats because another column holds some; others as they are."""
    if column.dtype.kind != "f" or not ((np.abs(column) < 2**53) & (column == np.trunc(column))).all():
        return column
    return column.astype(np.int64)


def from_records(records: Sequence[Any], signature: Signature) -> dict[str, NDArray[Any]]:
    """Inputs of `[{"column": value, ...}, ...]`; a column is an entry of the only input's last axis, or an input."""
    names = _columns(signature)
    wanted = set(names)
    for place, record in enumerate(records):
        if type(record) is not dict:
            raise _not_rows(record, place, "an object")
        if record.keys() != wanted:
            raise _other_columns(record, signature, place)
    if len(signature.inputs) == 1 and signature.inputs[0].columns:
        spec = signature.inputs[0]
        return {spec.name: fit(to_array([[record[name] for name in names] for record in records], spec), spec)}
    return {
        spec.name: fit(to_array([record[spec.name] for record in records], spec), spec) for spec in signature.inputs
    }


def from_columns(columns: Mapping[str, Any], signature: Signature) -> dict[str, NDArray[Any]]:
    """Inputs of `{"column": [value of each row], ...}`; a column as in `from_records`."""
    names = _columns(signature)
    if columns.keys() != set(names):
        raise _other_columns(columns, signature, None)
    if len(signature.inputs) > 1 or not signature.inputs[0].columns:
        return {spec.name: fit(to_array(columns[spec.name], spec), spec) for spec in signature.inputs}
    spec = signature.inputs[0]
    arrays = [to_array(columns[name], TensorSpec(name, spec.datatype)) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise DukouError(Reason.ROWS_DIFFER, tensor=name, got=list(array.shape), wanted=list(arrays[0].shape))
    return {spec.name: fit(np.stack(arrays, axis=-1), spec)}


def _columns(signature: Signature) -> tuple[str, ...]:
    specs = signature.inputs
    return (len(specs) == 1 and specs[0].columns) or tuple(spec.name for spec in specs)


def _other_columns(came: Mapping[str, Any], signature: Signature, row: int | None) -> DukouError:
    specs, names = signature.inputs, _columns(signature)
    if len(specs) == 1 and not specs[0].columns:
        wanted = "a list of values (this model has no column names)"
        return DukouError(Reason.WRONG_VALUE, tensor=specs[0].name, row=row, got=quote(came, 64), wanted=wanted)
    unknown = [name for name in came if name not in names]
    wanted = ", ".join(names)
    if unknown:
        return DukouError(Reason.COLUMN_UNEXPECTED, row=row, got=unknown[0][:64], wanted=wanted)
    missing = ", ".join(repr(name) for name in names if name not in came)
    return DukouError(Reason.COLUMN_MISSING, row=row, missing=missing, wanted=wanted)


def _not_rows(value: Any, row: int, wanted: str = "a list") -> DukouError:
    return DukouError(Reason.WRONG_VALUE, row=row, got=quote(value, 64), wanted=wanted)
