"""Rows from a file, typed by a signature: CSV, JSON or a NumPy array."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors

MAX_BYTES = 1 << 30
"""Largest file read."""

MAX_ROWS = 1_000_000


class Rows(msgspec.Struct, frozen=True):
    """`inputs` fit the signature and have `count` rows. `note` says what was left out, empty when nothing was. `aside`
    are the cells of the column that was set aside."""

    inputs: Tensors
    count: int
    note: str = ""
    aside: Sequence[str] = ()


def read_rows(path: Path, signature: Signature, limit: int = MAX_ROWS, aside: str = "") -> Rows:
    """The rows of a .csv, .tsv, .json, .jsonl or .npy file, at most `limit`, as the signature's inputs.

    `aside` is a column of a CSV that is no input, such as the label; it needs a header, and is given back as text.

    A CSV with a header gives columns by name: those of the signature in any order, others are left out with a note.
    Without a header the columns are taken in the signature's order. JSON is a list of rows (lists or objects), an
    object of columns, or one of these under "instances" or "inputs". Raises DukouError: PATH_NOT_FOUND,
    ARTIFACT_UNREADABLE, ARTIFACT_UNSUPPORTED, MALFORMED_JSON, COLUMN_MISSING, WRONG_WIDTH, WRONG_VALUE, WRONG_SHAPE,
    NO_ROWS.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        detail = f"rows come from {', '.join(readers)} files"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
    try:
        if path.stat().st_size > MAX_BYTES:
            detail = f"it has more than {MAX_BYTES >> 20} MiB; a sample of some thousand rows is enough"
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
        rows = _read_csv(path, signature, limit, aside) if reader is _read_csv else reader(path, signature, limit)
    except FileNotFoundError as error:
        raise DukouError(Reason.PATH_NOT_FOUND, path=str(path), detail="") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error)) from error
    if not rows.count:
        raise DukouError(Reason.NO_ROWS)
    return rows


def _read_csv(path: Path, signature: Signature, limit: int, aside: str = "") -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(8192)
        file.seek(0)
        records = (record for record in csv.reader(file, delimiter=_delimiter(path, start)) if record)
        first = next(records, None)
        if first is None:
            raise DukouError(Reason.NO_ROWS)
        header = [name.strip() for name in first] if aside or _is_header(first, signature) else None
        kept = list(islice(records if header is not None else _with(first, records), limit))
    width = len(header if header is not None else first)
    for number, record in enumerate(kept):
        if len(record) != width:
            raise DukouError(Reason.WRONG_WIDTH, row=number, got=len(record), wanted=width)
    beside: list[str] = []
    if header is not None and aside:
        if aside not in header:
            detail = f"there is no column {aside!r}; there are: {', '.join(header)}"
            raise DukouError(Reason.MALFORMED_REQUEST, detail=detail)
        place = header.index(aside)
        beside = [record.pop(place).strip() for record in kept]
        del header[place]
    places, note = _places(header, len(header if header is not None else first), signature)
    columns = {name: [record[place].strip() for record in kept] for name, place in places.items()}
    return Rows(_assemble(columns, signature), len(kept), note, beside)


def _with(first: list[str], rest: Iterable[list[str]]) -> Iterable[list[str]]:
    yield first
    yield from rest


def _delimiter(path: Path, start: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    line = start.partition("\n")[0]
    return max(",;\t", key=line.count) if any(mark in line for mark in ",;\t") else ","


def _is_header(first: Sequence[str], signature: Signature) -> bool:
    """A first line is a header when it holds a column's name, or text where the model takes only numbers."""
    wanted = set(_columns(signature))
    if any(cell.strip() in wanted for cell in first):
        return True
    if any(spec.datatype == "BYTES" for spec in signature.inputs):
        return False
    return any(cell.strip() and not _is_number(cell) for cell in first)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in {"true", "false"}
    return True


def _columns(signature: Signature) -> dict[str, tuple[TensorSpec, int]]:
    """Every column that the signature takes, in order: its name, its tensor and its place in that. A matrix without
    column names has `x[0]`, `x[1]`, ..."""
    found: dict[str, tuple[TensorSpec, int]] = {}
    for spec in signature.inputs:
        width = _width(spec)
        names = spec.columns or ([spec.name] if width == 1 else [f"{spec.name}[{place}]" for place in range(width)])
        found.update({name: (spec, place) for place, name in enumerate(names)})
    return found


def _width(spec: TensorSpec) -> int:
    """Numbers in one row of a tensor. Raises DukouError when a dimension is open."""
    inner = (spec.shape or (-1,))[1:]
    if any(size < 0 for size in inner) or spec.shape is None:
        detail = f"input {spec.name!r} has rows of open shape; give the rows as JSON or .npy"
        raise DukouError(Reason.NOT_SUPPORTED, detail=detail)
    return int(np.prod(inner, dtype=np.int64))


def _places(header: list[str] | None, width: int, signature: Signature) -> tuple[dict[str, int], str]:
    """Where each of the signature's columns is in a record, and a note about columns left out."""
    wanted = list(_columns(signature))
    named = header is not None and any(name in header for name in wanted)
    if header is not None and named:
        missing = [name for name in wanted if name not in header]
        if missing:
            raise DukouError(Reason.COLUMN_MISSING, missing=", ".join(missing), wanted=", ".join(wanted))
        extra = [name for name in header if name not in wanted]
        note = f"columns that the model does not take were left out: {', '.join(extra)}" if extra else ""
        return {name: header.index(name) for name in wanted}, note
    if width != len(wanted):
        raise _wrong_width(width, signature)
    return {name: place for place, name in enumerate(wanted)}, ""


def _wrong_width(got: int, signature: Signature, row: int | None = None) -> DukouError:
    """Records of `got` values do not fill the signature's inputs, which are named."""
    names, wanted = [spec.name for spec in signature.inputs], len(_columns(signature))
    if len(names) == 1:
        return DukouError(Reason.WRONG_WIDTH, tensor=names[0], row=row, got=got, wanted=wanted)
    return DukouError(Reason.WRONG_WIDTH, row=row, got=got, wanted=f"{wanted} ({', '.join(names)})")


def _assemble(columns: Mapping[str, Sequence[Any]], signature: Signature) -> dict[str, NDArray[Any]]:
    """Tensors from columns of cells."""
    parts: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in signature.inputs}
    for name, (spec, _) in _columns(signature).items():
        parts[spec.name].append(_typed(name, columns[name], spec))
    return {
        spec.name: _shaped(np.stack(parts[spec.name], axis=1), spec) for spec in signature.inputs if parts[spec.name]
    }


def _shaped(table: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    inner = spec.shape[1:] if spec.shape is not None else table.shape[1:]
    return np.ascontiguousarray(table.reshape(len(table), *inner))


def _typed(name: str, cells: Sequence[Any], spec: TensorSpec) -> NDArray[Any]:
    """One column as an array of the tensor's dtype; an empty cell is NaN for floats and an empty text for text."""
    if spec.datatype == "BYTES":
        texts = np.empty(len(cells), dtype=object)
        texts[:] = [cell if isinstance(cell, str) else "" if cell is None else str(cell) for cell in cells]
        return texts
    made = np.empty(len(cells), dtype=DTYPES[spec.datatype])
    for row, cell in enumerate(cells):
        try:
            made[row] = _number(cell, spec)
        except (ValueError, TypeError, OverflowError) as error:
            got = repr(cell)[:80]
            raise DukouError(Reason.WRONG_VALUE, tensor=name, row=row, got=got, wanted=spec.datatype) from error
    return made


_TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def _number(cell: Any, spec: TensorSpec) -> Any:
    if spec.datatype == "BOOL":
        if str(cell).strip().lower() not in _TRUTH:
            raise ValueError(cell)
        return _TRUTH[str(cell).strip().lower()]
    if DTYPES[spec.datatype].kind in "iu":
        number = float(cell)
        if not number.is_integer():
            raise ValueError(cell)
        return int(cell) if isinstance(cell, int) or str(cell).lstrip("+-").isdigit() else int(number)
    return float("nan") if cell is None or cell == "" else float(cell)


def _read_jsonl(path: Path, signature: Signature, limit: int) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        lines = list(islice((line for line in file if line.strip()), limit))
    return _from_json([_parse(line) for line in lines], signature, limit)


def _read_json(path: Path, signature: Signature, limit: int) -> Rows:
    return _from_json(_parse(path.read_text(encoding="utf-8-sig")), signature, limit)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DukouError(Reason.MALFORMED_JSON, detail=str(error)) from error


def _from_json(content: Any, signature: Signature, limit: int) -> Rows:
    if isinstance(content, dict):
        for key in ("instances", "inputs"):
            if key in content and key not in {spec.name for spec in signature.inputs}:
                return _from_json(content[key], signature, limit)
        content = _columns_to_rows(content, signature)
    if not isinstance(content, list):
        raise DukouError(Reason.WRONG_VALUE, got=type(content).__name__, wanted="a list of rows")
    rows = content[:limit]
    if rows and all(isinstance(row, dict) for row in rows):
        return _from_objects(rows, signature)
    if len(signature.inputs) > 1:
        width = len(_columns(signature))
        for number, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != width:
                raise _wrong_width(_length(row), signature, number)
        columns = {name: [row[place] for row in rows] for place, name in enumerate(_columns(signature))}
        return Rows(_assemble(columns, signature), len(rows))
    spec = signature.inputs[0]
    return Rows({spec.name: _tensor(rows, spec)}, len(rows))


def _length(row: Any) -> int:
    return len(row) if isinstance(row, list) else 1


def _columns_to_rows(content: Mapping[str, Any], signature: Signature) -> Any:
    """`{"a": [1, 2], "b": [3, 4]}` as rows; a single tensor's values under its name stay as they are."""
    if len(signature.inputs) == 1 and signature.inputs[0].name in content:
        return content[signature.inputs[0].name]
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    if len(lists) != len(content) or len(lengths) != 1:
        return [content]
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _from_objects(rows: Sequence[Mapping[str, Any]], signature: Signature) -> Rows:
    """Rows as objects: keys are columns, or the names of tensors."""
    names = [spec.name for spec in signature.inputs]
    if all(name in rows[0] for name in names):
        absent = next(((number, name) for number, row in enumerate(rows) for name in names if name not in row), None)
        if absent is not None:
            raise DukouError(Reason.COLUMN_MISSING, row=absent[0], missing=absent[1], wanted=", ".join(names))
        tensors = {spec.name: _tensor([row[spec.name] for row in rows], spec) for spec in signature.inputs}
        return Rows(tensors, len(rows), _note(rows[0], names))
    wanted = list(_columns(signature))
    for number, row in enumerate(rows):
        missing = [name for name in wanted if name not in row]
        if missing:
            raise DukouError(Reason.COLUMN_MISSING, row=number, missing=", ".join(missing), wanted=", ".join(wanted))
    columns = {name: [row[name] for row in rows] for name in wanted}
    return Rows(_assemble(columns, signature), len(rows), _note(rows[0], wanted))


def _note(row: Mapping[str, Any], wanted: Sequence[str]) -> str:
    extra = [name for name in row if name not in wanted]
    return f"columns that the model does not take were left out: {', '.join(extra)}" if extra else ""


def _tensor(values: Any, spec: TensorSpec) -> NDArray[Any]:
    if spec.shape is not None and -1 not in spec.shape[1:] and _width(spec) == 1 and _are_scalars(values):
        return _shaped(_typed(spec.name, values, spec), spec)
    try:
        array = np.asarray(values, dtype=object if spec.datatype == "BYTES" else None)
        typed = array if spec.datatype == "BYTES" else array.astype(DTYPES[spec.datatype])
    except (ValueError, TypeError, OverflowError) as error:
        raise DukouError(Reason.WRONG_VALUE, tensor=spec.name, got=str(error)[:80], wanted=spec.datatype) from error
    if not spec.fits(typed.shape):
        raise DukouError(Reason.WRONG_SHAPE, tensor=spec.name, got=list(typed.shape), wanted=list(spec.shape or ()))
    return typed


def _are_scalars(values: Any) -> bool:
    return isinstance(values, list) and not any(isinstance(value, list | dict) for value in values)


def _read_npy(path: Path, signature: Signature, limit: int) -> Rows:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error)) from error
    if array.ndim == 0 or array.dtype.names is not None:
        raise DukouError(Reason.WRONG_SHAPE, got=list(array.shape), wanted="[rows, ...]")
    rows = np.array(array[:limit])
    if len(signature.inputs) == 1:
        return Rows({signature.inputs[0].name: _tensor(rows, signature.inputs[0])}, len(rows))
    wanted = list(_columns(signature))
    if rows.ndim != 2 or rows.shape[1] != len(wanted):
        raise DukouError(Reason.WRONG_SHAPE, got=list(rows.shape), wanted=[-1, len(wanted)])
    columns = {name: rows[:, place].tolist() for place, name in enumerate(wanted)}
    return Rows(_assemble(columns, signature), len(rows))
