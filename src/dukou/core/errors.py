"""What can go wrong, said once: a Code for machines, a Reason and facts from which each protocol writes its own text.

The core knows no HTTP or gRPC status; `dukou.net.status` holds those tables and a test keeps them total.
"""

from enum import Enum, unique
from typing import Any


class Code(Enum):
    """The kinds of failure, as in gRPC's list, plus PAYLOAD_TOO_LARGE."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    ABORTED = "ABORTED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"
    DATA_LOSS = "DATA_LOSS"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


@unique
class Reason(Enum):
    """Why a call was refused: its Code, and a text with the facts it needs in braces.

    The text says what is wrong; where (model, version, tensor, row) is put in front by `DukouError`. A protocol whose
    clients look for other words overrides the text by Reason, never the Code.
    """

    MALFORMED_JSON = (Code.INVALID_ARGUMENT, "the body is not JSON: {detail}")
    MALFORMED_REQUEST = (Code.INVALID_ARGUMENT, "{detail}")
    WRONG_MEDIA_TYPE = (Code.INVALID_ARGUMENT, "the content type {got!r} is not understood; these are: {wanted}")
    TOO_DEEP = (Code.INVALID_ARGUMENT, "the JSON is nested deeper than {wanted} levels")
    MODEL_NOT_FOUND = (Code.NOT_FOUND, "there is no such model; served are: {served}")
    MODEL_UNNAMED = (Code.INVALID_ARGUMENT, "several models are served ({served}); name one in the path")
    VERSION_NOT_FOUND = (Code.NOT_FOUND, "there is no such version; there are: {served}")
    LABEL_NOT_FOUND = (Code.INVALID_ARGUMENT, "there is no label {label!r}")
    SIGNATURE_NOT_FOUND = (Code.INVALID_ARGUMENT, "there is no signature {signature!r}; there are: {served}")
    INPUT_MISSING = (Code.INVALID_ARGUMENT, "inputs {wanted} are needed, {got} came; missing: {missing}")
    INPUT_UNEXPECTED = (Code.INVALID_ARGUMENT, "this input is not in the signature, whose inputs are {wanted}")
    INPUT_DUPLICATE = (Code.INVALID_ARGUMENT, "this input came twice")
    COLUMN_MISSING = (Code.INVALID_ARGUMENT, "column {missing} is missing; the model was trained on {wanted}")
    COLUMN_UNEXPECTED = (Code.INVALID_ARGUMENT, "column {got!r} is unknown; the model was trained on {wanted}")
    ROWS_DIFFER = (Code.INVALID_ARGUMENT, "{got} rows came, but the inputs before it have {wanted}")
    OUTPUT_DUPLICATE = (Code.INVALID_ARGUMENT, "output {got!r} was asked for twice")
    OUTPUT_UNEXPECTED = (Code.INVALID_ARGUMENT, "output {got!r} was asked for, the signature's outputs are {wanted}")
    WRONG_DATATYPE = (Code.INVALID_ARGUMENT, "datatype {got} came, {wanted} is wanted")
    WRONG_SHAPE = (Code.INVALID_ARGUMENT, "shape {got} came, {wanted} is wanted")
    WRONG_WIDTH = (Code.INVALID_ARGUMENT, "{got} values came, {wanted} are wanted")
    WRONG_BYTES = (Code.INVALID_ARGUMENT, "{got} bytes of data came, {wanted} are wanted")
    WRONG_STRINGS = (Code.INVALID_ARGUMENT, "{got} strings came, {wanted} are wanted")
    WRONG_VALUE = (Code.INVALID_ARGUMENT, "{got} came where {wanted} is wanted")
    RAGGED = (Code.INVALID_ARGUMENT, "the rows have different shapes: {got} came after {wanted}")
    NO_ROWS = (Code.INVALID_ARGUMENT, "no rows came")
    BATCH_TOO_LARGE = (Code.INVALID_ARGUMENT, "{got} rows came in one request, {wanted} is the most")
    MODEL_REFUSED_INPUT = (Code.INVALID_ARGUMENT, "the model cannot take these values: {detail}")
    TOO_MANY_VALUES = (
        Code.PAYLOAD_TOO_LARGE,
        "the body holds {got} values that are not plain rectangular numbers, {wanted} is the most",
    )
    BODY_TOO_LARGE = (Code.PAYLOAD_TOO_LARGE, "the body is larger than {wanted} bytes")
    PRECONDITION_FAILED = (Code.FAILED_PRECONDITION, "{detail}")
    QUEUE_FULL = (Code.RESOURCE_EXHAUSTED, "{got} rows are waiting, {wanted} is the most; try again soon")
    OVERLOADED = (Code.RESOURCE_EXHAUSTED, "{got} requests are under way, {wanted} is the most; try again soon")
    MODEL_NOT_READY = (Code.UNAVAILABLE, "this version is {state}, not AVAILABLE{detail}")
    DRAINING = (Code.UNAVAILABLE, "the server is shutting down")
    DEADLINE_EXCEEDED = (Code.DEADLINE_EXCEEDED, "no answer within the time allowed")
    CANCELLED = (Code.CANCELLED, "the caller has gone")
    NOT_SUPPORTED = (Code.UNIMPLEMENTED, "{detail}")
    MODEL_FAILED = (Code.INTERNAL, "the model failed; the server's log says why")
    OUTPUT_NOT_ROWS = (
        Code.INTERNAL,
        "the model's output {output!r} has shape {got} for {wanted} rows; unless the model is said not to be batched, "
        "axis 0 of each output has to be these rows",
    )
    INTERNAL = (Code.INTERNAL, "the server failed; its log says why")
    ARTIFACT_UNREADABLE = (Code.DATA_LOSS, "{path}: {detail}")
    DIGEST_MISMATCH = (
        Code.DATA_LOSS,
        "{path}: its SHA-256 is {got}, the manifest says {wanted}; the file was changed or damaged since it was packed",
    )
    MANIFEST_INVALID = (Code.DATA_LOSS, "{path} is not a valid manifest: {detail}")
    PICKLE_REFUSED = (Code.PERMISSION_DENIED, "{path}: {detail}")
    CODE_REFUSED = (
        Code.PERMISSION_DENIED,
        "{path}: it is Python code, which runs with the server's rights; where you trust it, "
        "--trust-python (setting models.trust_python) serves it",
    )
    ARTIFACT_UNSUPPORTED = (Code.INVALID_ARGUMENT, "{path}: {detail}")
    ALREADY_PACKED = (Code.ALREADY_EXISTS, "{path} exists already; a version never changes, so choose another number")
    PATH_NOT_FOUND = (Code.NOT_FOUND, "{path}: there is no such file or folder{detail}")
    DISK_FULL = (Code.RESOURCE_EXHAUSTED, "{path}: there is no space left to write it; nothing was kept")
    CALLER_REFUSED = (Code.PERMISSION_DENIED, "{detail}")
    NOT_WRITABLE = (Code.PERMISSION_DENIED, "{path}: it cannot be written here ({detail}); nothing was kept")
    RUNTIME_NOT_FOUND = (Code.FAILED_PRECONDITION, "there is no runtime {runtime!r}; installed are: {served}")
    RUNTIME_UNAVAILABLE = (Code.FAILED_PRECONDITION, "the runtime {runtime!r} cannot be imported: {detail}")
    NOT_PACKED = (Code.ABORTED, "{detail}")
    NOT_SERVING = (Code.UNAVAILABLE, "{detail}")
    TOKEN_WRONG = (Code.UNAUTHENTICATED, "{detail}")
    ROLLOUT_NOT_FOUND = (Code.NOT_FOUND, "there has been no rollout; `dukou deploy --plan` starts one")
    LOAD_FAILED = (Code.ABORTED, "it could not be loaded: {detail}")
    STORE_UNAVAILABLE = (Code.UNAVAILABLE, "the store {path}: {detail}; nothing was changed")
    CONFIG_INVALID = (Code.INVALID_ARGUMENT, "the settings are not valid: {detail}")

    @property
    def code(self) -> Code:
        """The Code that every protocol derives its status from."""
        return self.value[0]

    @property
    def text(self) -> str:
        """The default text, a format string over the facts."""
        return self.value[1]


class DukouError(Exception):
    """A refusal or failure: a Reason and the facts (model, version, tensor, row, got, wanted, ...).

    `str(error)` is the default sentence. Raised everywhere; foreign exceptions are turned into it at the border where
    they enter. Facts hold short values only, fit to be shown to the caller.
    """

    def __init__(self, reason: Reason, /, **facts: Any) -> None:
        super().__init__(reason, facts)
        self.reason = reason
        self.facts = facts

    @property
    def code(self) -> Code:
        """The reason's Code."""
        return self.reason.code

    def within(self, **facts: Any) -> "DukouError":
        """The same error with facts that only an outer layer knows (the model's name); facts already there win.

        What caused it stays known, for the log.
        """
        more = DukouError(self.reason, **(facts | self.facts))
        more.__cause__ = self.__cause__
        return more

    def where(self) -> str:
        """`model 'iris', version 1, input 'X', row 3`, as far as known."""
        parts = []
        for key in ("model", "version", "tensor", "row"):
            value = self.facts.get(key)
            if value is not None:
                word = "input" if key == "tensor" else key
                parts.append(f"{word} {value!r}")
        return ", ".join(parts)

    def what(self) -> str:
        """The reason's text with its facts filled in; a fact that is missing shows as `?`."""
        return self.reason.text.format_map(_Facts(self.facts))

    def __str__(self) -> str:
        where = self.where()
        return f"{where}: {self.what()}" if where else self.what()


class _Facts(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"
