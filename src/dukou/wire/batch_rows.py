"""Answers to requests that ran together, one row each: written together, which costs a part of writing each alone."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from dukou.core.message import Batch, InferenceRequest, InferenceResponse

MOST_ROW_BYTES = 4096
"""Of a row that is written together with the others: of larger ones copying is most of the work."""

WriteRows: TypeAlias = Callable[[InferenceRequest, InferenceResponse], Sequence[bytes]]
"""All rows of the response's batch, each as the whole answer to a request; nothing where that is not worth it."""


def row_of(request: InferenceRequest, response: InferenceResponse, name: str, write: WriteRows) -> bytes | None:
    """The answer to a request of one row, out of those that `write` makes once for its batch; None where it has none.

    `name` is that of the protocol's answers: requests of several protocols may share a batch.
    """
    batch, row = response.batch, response.start
    if batch is None or batch.requests != batch.rows or response.end - row != 1:
        return None
    rows: Sequence[bytes] | None = batch.written.get(name)
    if rows is None:
        rows = batch.written[name] = write(request, response)
    return rows[row] if rows else None


def are_small_numbers(batch: Batch) -> bool:
    """Whether all outputs are numbers or booleans, and some, but not many of them in a row."""
    if batch.row_bytes > MOST_ROW_BYTES:
        return False
    return all(array.dtype.kind in "biuf" and array.size for array in batch.outputs.values())
