"""Triton's ModelConfig, read for a version that stands as it is: its tensors, its options, and what has no effect here.

Every field is honoured or named in a warning. HONOURED lists the former; whatever else a configuration sets is found by
walking the message and warned of, so that a field nobody thought of is not passed over in silence.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.model import TensorSpec

ONNX, PYTHON = "onnx", "python"

HONOURED = frozenset({
    *("name", "platform", "backend", "default_model_filename", "max_batch_size", "version_policy", "parameters"),
    *("input.name", "input.data_type", "input.dims", "input.reshape"),
    *("output.name", "output.data_type", "output.dims", "output.reshape", "output.label_filename"),
    *("dynamic_batching.preferred_batch_size", "dynamic_batching.max_queue_delay_microseconds"),
    *("instance_group.count", "instance_group.kind", "model_transaction_policy", "model_warmup"),
})  # fmt: skip
"""Fields with an effect, each with all that is below it."""

REASONS: Mapping[str, str] = {
    "optimization": "ONNX Runtime's own defaults hold",
    "response_cache": "answers are not cached",
    "instance_group.gpus": "models run on the CPU",
    "cc_model_filenames": "models run on the CPU",
    "input.format": "tensors are passed on as they come",
    "input.optional": "every input has to be sent",
    "input.allow_ragged_batch": "requests are joined only when their shapes agree",
    "batch_input": "the model gets the requests' own inputs only",
    "batch_output": "outputs are cut by rows only",
    "dynamic_batching.preserve_ordering": "answers come in the order in which they are ready",
    "dynamic_batching.default_queue_policy": "`engine.max_queue_rows` and `engine.request_timeout_s` bound the queue",
    "model_operations": "operators of other libraries cannot be registered",
    "model_repository_agents": "files are served as they lie",
    "metric_tags": "metrics have the labels model and version",
    "model_metrics": "metrics have the labels model and version",
}
"""What holds instead, where that helps."""

REFUSED: Mapping[str, str] = {
    "sequence_batching": "models that keep a state between requests are not supported",
    "ensemble_scheduling": "ensembles are not supported; call their models one after the other",
}
"""Fields without which the model would answer something else."""

_BACKENDS = {
    "": "",
    "onnxruntime": ONNX,
    "onnxruntime_onnx": ONNX,
    "python": PYTHON,
}
_KNOWN_PARAMETERS = {"intra_op_thread_count"}
_CPU_KINDS = {"KIND_AUTO", "KIND_CPU"}


class Tensor(msgspec.Struct, frozen=True):
    """An input or output as a configuration describes it.

    `dims` is None where it does not say, and has no batch dimension; so has `reshape`, what the model sees instead.
    `label_filename` names the file of an output's classes.
    """

    name: str
    datatype: str = ""
    dims: tuple[int, ...] | None = None
    reshape: tuple[int, ...] | None = None
    label_filename: str = ""


class Warmup(msgspec.Struct, frozen=True):
    """Made-up requests to run when loading: `count` times `batch_size` rows of `inputs`."""

    name: str
    batch_size: int
    count: int
    inputs: Mapping[str, "WarmupInput"]


class WarmupInput(msgspec.Struct, frozen=True):
    """A made-up tensor: zeros, random values, or the content of `file` when it is not empty."""

    datatype: str
    dims: tuple[int, ...]
    random: bool = False
    file: str = ""


class TritonModel(msgspec.Struct, frozen=True):
    """What a configuration wants of a version. `runtime` is "onnx", "python", or "" where the files tell.

    `joined` says that requests may share a batch: Triton does it by configuration only. `decoupled` models answer with
    any number of responses.
    """

    runtime: str = ""
    filename: str = ""
    max_batch_size: int = 0
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    joined: bool = False
    decoupled: bool = False
    options: Mapping[str, Any] = {}
    warmups: tuple[Warmup, ...] = ()
    warnings: tuple[str, ...] = ()


def read_model(config: Any, name: str, path: str) -> TritonModel:
    """What `config`, an `inference.ModelConfig` read from `path` for the model `name`, means here.

    Raises DukouError ARTIFACT_UNSUPPORTED for what cannot be served, ARTIFACT_UNREADABLE for values that mean nothing.
    """
    for field, reason in REFUSED.items():
        if config.HasField(field) or (field == "ensemble_scheduling" and config.platform == "ensemble"):
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=path, detail=f"{field}: {reason}")
    runtime = _runtime(config, path)
    if config.max_batch_size < 0:
        detail = f"max_batch_size is {config.max_batch_size}, 0 or more is wanted"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=path, detail=detail)
    return TritonModel(
        runtime=runtime,
        filename=config.default_model_filename,
        max_batch_size=config.max_batch_size,
        inputs=tuple(_tensor(one, path) for one in config.input),
        outputs=tuple(_tensor(one, path) for one in config.output),
        joined=config.HasField("dynamic_batching") and config.max_batch_size > 0,
        decoupled=config.model_transaction_policy.decoupled,
        options=_options(config, path),
        warmups=tuple(_warmup(one, path) for one in config.model_warmup),
        warnings=tuple(f"{path}: {text}" for text in _warnings(config, name, runtime)),
    )


def spec_of(tensor: Tensor, batched: bool) -> TensorSpec:
    """The spec that callers see of a tensor whose datatype and dims are known."""
    assert tensor.dims is not None
    return TensorSpec(tensor.name, tensor.datatype, (-1, *tensor.dims) if batched else tensor.dims)


def _runtime(config: Any, path: str) -> str:
    named = [(field, getattr(config, field)) for field in ("backend", "platform") if getattr(config, field)]
    for field, value in named:
        if value not in _BACKENDS:
            detail = f"{field} {value!r} is not supported; there are onnxruntime and python: export the model to ONNX"
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=path, detail=detail)
    return _BACKENDS[named[0][1]] if named else ""


def _tensor(one: Any, path: str) -> Tensor:
    if not one.name:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=path, detail="an input or output has no name")
    if one.HasField("reshape") and not one.dims:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=path, detail=f"{one.name!r} has a reshape, but no dims")
    wrong = [size for size in (*one.dims, *one.reshape.shape) if size < -1]
    if wrong:
        detail = f"{one.name!r} has the size {wrong[0]}; sizes are 0 or more, or -1 for any"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=path, detail=detail)
    return Tensor(
        one.name,
        datatype_of(one.data_type),
        tuple(one.dims) or None,
        tuple(one.reshape.shape) if one.HasField("reshape") else None,
        getattr(one, "label_filename", ""),
    )


DATA_TYPES = (
    *("", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES", "BF16"),
)
"""Our datatypes at the numbers of `inference.DataType`; 0 is none."""


def datatype_of(number: int) -> str:
    """The datatype of a number of `inference.DataType`; "" for one that is none."""
    return DATA_TYPES[number] if 0 <= number < len(DATA_TYPES) else ""


def _options(config: Any, path: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    batching = config.dynamic_batching
    if config.max_batch_size > 0:
        options["max_request_rows"] = config.max_batch_size
        sizes = [size for size in batching.preferred_batch_size if 0 < size <= config.max_batch_size]
        if len(sizes) < len(batching.preferred_batch_size):
            detail = f"preferred_batch_size is {list(batching.preferred_batch_size)}, 1 to max_batch_size is wanted"
            raise DukouError(Reason.ARTIFACT_UNREADABLE, path=path, detail=detail)
        options["max_batch_rows"] = max(sizes, default=config.max_batch_size)
    if batching.max_queue_delay_microseconds:
        options["max_queue_delay_s"] = batching.max_queue_delay_microseconds / 1e6
    instances = sum(group.count for group in config.instance_group)
    if instances > 0:
        options["concurrency"] = instances
    if "intra_op_thread_count" in config.parameters:
        text = config.parameters["intra_op_thread_count"].string_value
        if not text.isascii() or not text.isdigit() or len(text) > 4:
            detail = f"parameter intra_op_thread_count is {text!r}, a whole number is wanted"
            raise DukouError(Reason.ARTIFACT_UNREADABLE, path=path, detail=detail)
        if int(text):  # 0 leaves it to the runtime
            options["threads"] = int(text)
    return options


def _warmup(one: Any, path: str) -> Warmup:
    inputs = {}
    for name, made in one.inputs.items():
        kind = made.WhichOneof("input_data_type")
        datatype = datatype_of(made.data_type)
        if kind is None or not datatype or any(size < 0 for size in made.dims):
            detail = f"model_warmup {one.name!r}: input {name!r} needs a data_type, dims without -1, and its data"
            raise DukouError(Reason.ARTIFACT_UNREADABLE, path=path, detail=detail)
        inputs[name] = WarmupInput(datatype, tuple(made.dims), kind == "random_data", made.input_data_file)
    return Warmup(one.name, one.batch_size, one.count or 1, inputs)


def _warnings(config: Any, name: str, runtime: str) -> Iterator[str]:
    if config.name and config.name != name:
        yield f"name is {config.name!r}, but its folder is {name!r}, and so the model is called"
    for field in unheeded(config):
        reason = REASONS.get(field)
        yield f"{field} has no effect here" + (f": {reason}" if reason else "")
    kinds = {_kind(group) for group in config.instance_group} - _CPU_KINDS
    if kinds:
        yield f"instance_group.kind {', '.join(sorted(kinds))} has no effect here: models run on the CPU"
    if config.HasField("dynamic_batching") and not config.max_batch_size:
        yield "dynamic_batching has no effect here: max_batch_size is 0, so that there are no rows to join"
    if config.model_transaction_policy.decoupled and runtime == ONNX:
        yield "model_transaction_policy.decoupled has no effect here: a graph gives one response to a request"
    if runtime != PYTHON:
        for key in sorted(set(config.parameters) - _KNOWN_PARAMETERS):
            yield f"parameters {key!r} has no effect here"


def _kind(group: Any) -> str:
    name: str = group.DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number[group.kind].name
    return name


def unheeded(config: Any) -> Sequence[str]:
    """The fields set in `config` that are not in HONOURED, as paths (`dynamic_batching.priority_levels`), each once."""
    return tuple(dict.fromkeys(_walk(config, "")))


def _walk(message: Any, above: str) -> Iterator[str]:
    for field, value in message.ListFields():
        path = f"{above}{field.name}"
        if path in HONOURED:
            continue
        if not any(honoured.startswith(path + ".") for honoured in HONOURED):
            yield path
            continue
        for one in value if field.is_repeated else (value,):
            yield from _walk(one, path + ".")
