"""The simple route: `{"X": [[...], ...]}` in, `{"y_pred": [...]}` out, as a few lines of Flask would answer.

The value of the input key is a list of rows, of records (`[{"column": value, ...}, ...]`) or one object of columns. The
output key holds the model's first output, which is the only one computed: labels as the estimator's own classes, or
numbers. NaN, Infinity and -Infinity are read and written as these tokens. The content type is ignored. An error is
`{"error": "..."}`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import orjson

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.version import ModelRef
from dukou.wire import text_size
from dukou.wire.batch_rows import are_small_numbers, row_of
from dukou.wire.codec import Headers, Reply
from dukou.wire.json_array import Numbers
from dukou.wire.json_text import decode, read
from dukou.wire.json_write import array_text, error_text, split_rows
from dukou.wire.rows import count, from_rows


class _Any(msgspec.Struct):
    """What stood under the input key; `numbers` would say that it was decoded as `Numbers`."""

    rows: Any
    numbers: ClassVar[bool] = False


class Plain:
    """The Codec of the simple route, whose keys are `input_key` and `output_key`."""

    def __init__(self, input_key: str = "X", output_key: str = "y_pred") -> None:
        self._input_key = input_key
        self._output_key = output_key
        self._start = b"{" + orjson.dumps(output_key) + b":"
        rows = msgspec.field(name=input_key)
        numeric = msgspec.defstruct("Numeric", [("rows", Numbers, rows)], namespace={"numbers": True})
        self._numeric: msgspec.json.Decoder[Any] = msgspec.json.Decoder(numeric)

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """The rows of a body. Raises DukouError MALFORMED_JSON, TOO_DEEP and MALFORMED_REQUEST."""
        said = decode(body, self._numeric)
        if said is not None:
            return Draft(ref, said)
        tree = read(body)
        if type(tree) is not dict or self._input_key not in tree:
            raise DukouError(
                Reason.MALFORMED_REQUEST,
                detail=f'the body must be {{"{self._input_key}": [[...], ...]}}, one list for each row',
            )
        return Draft(ref, _Any(tree[self._input_key]))

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """The rows typed by the version's default signature, asking for its first output only. Raises DukouError."""
        said: _Any = draft.payload
        try:
            signature = served.manifest.signature(draft.signature_name)
            inputs = from_rows(said.rows, signature, said.numbers)
            rows = count(inputs, signature, served)
        except DukouError as error:
            raise self._one_row(error).within(model=served.id.name, version=served.id.version) from None
        return InferenceRequest(served.id, signature, inputs, (signature.outputs[0].name,), rows, context)

    def _one_row(self, error: DukouError) -> DukouError:
        """The error of a single row given as `[...]`, for a model that wants rows: shows how to write it."""
        shape, wanted = error.facts.get("shape"), error.facts.get("spec_shape")
        if error.reason is not Reason.WRONG_SHAPE or shape is None or wanted is None or len(shape) + 1 != len(wanted):
            return error
        return DukouError(
            Reason.MALFORMED_REQUEST,
            tensor=error.facts.get("tensor"),
            detail=f"shape {shape} came, {wanted} is wanted; {self._input_key} is a list of rows, so one row is "
            "written [[...]]",
        )

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """The first output under the output key. Raises DukouError NOT_SUPPORTED for bytes that are not text."""
        return Reply(self._start + first_output(request, response) + b"}")

    def refuse(self, error: DukouError) -> bytes:
        """`{"error": "..."}`."""
        return error_text(str(error))

    def reading_bytes(self, headers: Headers, body: bytes) -> int:
        """All of the body."""
        return text_size.reading_bytes(headers, body)

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        """The text of the output."""
        return text_size.writing_bytes(request, response)


def first_output(request: InferenceRequest, response: InferenceResponse) -> bytes:
    """The first output asked for, as JSON. Raises DukouError NOT_SUPPORTED for bytes that are not text."""
    row = row_of(request, response, "first output", _write_rows)
    if row is not None:
        return row
    name = request.outputs[0]
    try:
        return array_text(response.outputs[name])
    except UnicodeError:
        raise DukouError(Reason.NOT_SUPPORTED, detail=f"output {name!r} holds bytes that are not UTF-8") from None


def _write_rows(request: InferenceRequest, response: InferenceResponse) -> Sequence[bytes]:
    batch = response.batch
    assert batch is not None
    if not are_small_numbers(batch):
        return ()
    array = batch.outputs[request.outputs[0]]
    return [b"[" + row + b"]" for row in split_rows(array_text(array), array.ndim)]
