"""Traffic to replay: calls that were recorded, or that people have in files of their own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import orjson

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Served
from dukou.core.model import DEFAULT_SIGNATURE, ModelManifest, ModelRef, Signature, State
from dukou.core.tensor import Tensors
from dukou.packing.rows import read_rows
from dukou.telemetry.recording import Record, Report, is_recording, read
from dukou.wire import oip_http, tf_rest
from dukou.wire.codec import Codec
from dukou.wire.rows import count, from_rows

BODIES = (".json", ".jsonl")
TABLES = (".csv", ".tsv", ".npy")


class Asked(msgspec.Struct):
    """One call: what it asked a version, and what else is known of it.

    `labels` is the right answer of each row, where somebody has said it. `answered` is what `version` answered, where
    that was recorded; of the inputs and columns named in `redacted` no value was.
    """

    signature: str
    inputs: Tensors
    outputs: tuple[str, ...]
    rows: int
    parameters: Mapping[str, Any] = {}
    labels: Sequence[str] = ()
    version: int = 0
    answered: Tensors | None = None
    redacted: tuple[str, ...] = ()


def recorded(records: Iterable[Record]) -> Iterator[Asked]:
    """The calls of recorded executions."""
    for record in records:
        copy = record.copy
        yield Asked(
            copy.signature,
            copy.inputs,
            tuple(copy.outputs),
            copy.rows,
            copy.parameters,
            (),
            copy.version.version,
            copy.outputs,
            record.redacted,
        )


def read_traffic(
    path: Path, manifest: ModelManifest, report: Report, labels: str = "", limit: int | None = None
) -> Iterator[Asked]:
    """The first `limit` calls of a file: recorded executions, request bodies, or rows, typed by `manifest`.

    A line of .jsonl, or an element of a .json list, is the body of a predict or infer call, or a row: a list, or an
    object of columns. Each row of a .csv, .tsv or .npy file is a call of its own. `labels` names the column, or the key
    of a body, that holds the right answers. `report` is told what was left out.

    Raises DukouError for a file that is none, and, while the calls are taken, with the line, for one that does not fit.
    """
    kind = path.suffix.lower()
    try:
        if is_recording(path):
            if labels:
                raise _refused(f"{path} holds recorded calls, and those have no labels; leave them out")
            return recorded(islice(read([path], report), limit))
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error.strerror)) from error
    if kind in BODIES:
        return islice(_bodies(path, manifest, labels), limit)
    if kind in TABLES:
        return _rows(path, manifest, report, labels, limit)
    detail = f"this is no file of recorded calls; others are read from {', '.join((*BODIES, *TABLES))}"
    raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)


def _rows(path: Path, manifest: ModelManifest, report: Report, labels: str, limit: int | None) -> Iterator[Asked]:
    signature = _default(manifest)
    if not signature.batched:
        raise _refused(f"{path}: one call to this model is not a number of rows; give request bodies, one a line")
    if labels and path.suffix.lower() == ".npy":
        raise _refused(
            f"{path}: an array has no column {labels!r}; labels come from .csv, .tsv, .json and .jsonl files"
        )
    rows = read_rows(path, signature, aside=labels) if limit is None else read_rows(path, signature, limit, labels)
    if rows.note:
        report(rows.note)
    outputs = signature.output_names()
    for place in range(rows.count):
        inputs = {name: array[place : place + 1] for name, array in rows.inputs.items()}
        yield Asked(signature.name, inputs, outputs, 1, labels=rows.aside[place : place + 1])


def _bodies(path: Path, manifest: ModelManifest, labels: str) -> Iterator[Asked]:
    for place, value in _values(path):
        try:
            right = _take_labels(value, labels) if labels else ()
            asked = _body(value, manifest)
            if labels and len(right) != asked.rows:
                raise _refused(f"{len(right)} labels came for {asked.rows} rows")
        except DukouError as error:
            raise _refused(f"{path}, {place}: {error}") from error
        asked.labels = right
        yield asked


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """What a JSON file holds, each with its place in words."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".json":
                content = _parse(path, "", file.read())
                for number, value in enumerate(content if isinstance(content, list) else [content]):
                    yield f"element {number}", value
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", _parse(path, f", line {number}", line)
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error.strerror)) from error


def _parse(path: Path, place: str, text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _refused(f"{path}{place}: this is not JSON: {error}") from error


def _take_labels(value: Any, key: str) -> list[str]:
    if not isinstance(value, dict) or key not in value:
        there = f"; there are: {', '.join(value)}" if isinstance(value, dict) else ""
        raise _refused(f"there is no {key!r} beside the rows{there}")
    said = value.pop(key)
    return [str(each) for each in (said if isinstance(said, list) else [said])]


def _body(value: Any, manifest: ModelManifest) -> Asked:
    """One line: the body of a call as callers send it, or else a row."""
    if isinstance(value, dict) and ("instances" in value or "inputs" in value):
        inputs = value.get("inputs")
        infers = isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) and "datatype" in inputs[0]
        codec: Codec = oip_http if infers else tf_rest
        served = Served(manifest.id, manifest, State.AVAILABLE)
        draft = codec.parse(ModelRef(manifest.id.name), {}, orjson.dumps(value))
        request = codec.bind(draft, served, Context())
        return Asked(request.signature.name, request.inputs, request.outputs, request.rows, request.parameters)
    signature = _default(manifest)
    found = from_rows([value], signature)
    rows = count(found, signature, Served(manifest.id, manifest, State.AVAILABLE))
    return Asked(signature.name, found, signature.output_names(), rows)


def _default(manifest: ModelManifest) -> Signature:
    """The signature of calls that name none."""
    if DEFAULT_SIGNATURE not in manifest.signatures and len(manifest.signatures) == 1:
        return next(iter(manifest.signatures.values()))
    return manifest.signature("")


def _refused(detail: str) -> DukouError:
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)
