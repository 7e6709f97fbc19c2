"""What is the same in every form of the Open Inference Protocol: a call's inputs, outputs and parameters, checked
against a signature. JSON, binary data and gRPC differ in how they write a tensor's data, and in nothing else."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest, Served
from dukou.core.model import Signature, TensorSpec
from dukou.core.tensor import Tensors
from dukou.wire.json_write import quote
from dukou.wire.oip_classification import classify
from dukou.wire.rows import count, fit


class Stated(Protocol):
    """An input as its sender describes it."""

    @property
    def name(self) -> str:
        """The input's name."""

    @property
    def datatype(self) -> str:
        """Its datatype, perhaps one that does not exist."""


class Asked(Protocol):
    """An output that is asked for."""

    @property
    def name(self) -> str:
        """The output's name."""

    @property
    def parameters(self) -> Mapping[str, Any] | None:
        """How it is wanted."""


class Form(msgspec.Struct):
    """How the answer is to be written; the `reply` of an InferenceRequest.

    `id` is echoed. The outputs in `classes` are wanted as so many classes each, those in `binary` as binary data.
    """

    id: str | None = None
    classes: Mapping[str, int] | None = None
    binary: Collection[str] = ()


S = TypeVar("S", bound=Stated)

CLASS_BYTES = 32
"""The text of a class, about: a number, a place, a short label."""


def bind(
    served: Served,
    context: Context,
    *,
    inputs: Sequence[S],
    read: Callable[[S, TensorSpec], NDArray[Any]],
    outputs: Sequence[Asked],
    parameters: Mapping[str, Any],
    form: Form,
    signature_name: str = "",
) -> InferenceRequest:
    """The call, typed by the signature; all its outputs where none are named.

    `read` gives the array of an input whose datatype is the spec's, in the shape that the sender stated. `classes` of
    `form` are set here. Raises DukouError, with the model and version.
    """
    try:
        signature = served.manifest.signature(signature_name)
        arrays = _inputs(inputs, signature, read)
        rows = count(arrays, signature, served)
        names = signature.output_names()
        if outputs:
            names = _outputs(outputs, names)
            form.classes = _classes(outputs, signature)
        if parameters:
            parameters, context = settings(parameters, context)
    except DukouError as error:
        raise error.within(model=served.id.name, version=served.id.version) from None
    return InferenceRequest(served.id, signature, arrays, names, rows, context, parameters, form)


def _inputs(
    came: Sequence[S], signature: Signature, read: Callable[[S, TensorSpec], NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    specs = signature.inputs
    came = _in_order(came, specs)
    arrays = {}
    for place, spec in enumerate(specs):  # zip with `strict` takes longer than the rest of this function
        tensor = came[place]
        if tensor.datatype != spec.datatype:
            raise DukouError(Reason.WRONG_DATATYPE, tensor=spec.name, got=tensor.datatype, wanted=spec.datatype)
        arrays[spec.name] = fit(read(tensor, spec), spec)
    return arrays


def _in_order(came: Sequence[S], specs: Sequence[TensorSpec]) -> Sequence[S]:
    """The inputs in the signature's order. Raises DukouError where they are others."""
    if len(came) == len(specs):
        for place, spec in enumerate(specs):
            if came[place].name != spec.name:
                break
        else:
            return came
    names = [spec.name for spec in specs]
    tensors: dict[str, S] = {}
    for tensor in came:
        if tensor.name in tensors:
            raise DukouError(Reason.INPUT_DUPLICATE, tensor=tensor.name)
        tensors[tensor.name] = tensor
    missing = [name for name in names if name not in tensors]
    if len(tensors) != len(names):
        raise DukouError(Reason.INPUT_MISSING, wanted=names, got=list(tensors), missing=missing)
    if missing:
        unexpected = next(name for name in tensors if name not in names)
        raise DukouError(Reason.INPUT_UNEXPECTED, tensor=unexpected, wanted=", ".join(names))
    return [tensors[name] for name in names]


def _outputs(asked: Sequence[Asked], names: tuple[str, ...]) -> tuple[str, ...]:
    wanted: dict[str, None] = {}
    for output in asked:
        if output.name not in names:
            raise DukouError(Reason.OUTPUT_UNEXPECTED, got=output.name, wanted=", ".join(names))
        if output.name in wanted:
            raise DukouError(Reason.OUTPUT_DUPLICATE, got=output.name)
        wanted[output.name] = None
    return tuple(wanted)


def _classes(asked: Sequence[Asked], signature: Signature) -> dict[str, int]:
    """How many classes of which outputs are wanted; 0 is said of what is wanted as it is."""
    strings = {spec.name for spec in signature.outputs if spec.datatype == "BYTES"}
    classes = {}
    for output in asked:
        if not output.parameters:
            continue
        if "shared_memory_region" in output.parameters:
            raise no_shared_memory("output", output.name)
        number = output.parameters.get("classification", 0)
        if type(number) is not int or number < 0:
            raise _wrong_parameter("classification", "a number of classes", number)
        if number and output.name in strings:
            raise DukouError(
                Reason.MALFORMED_REQUEST,
                detail=f"class result not available for output '{output.name}' due to unsupported type",
            )
        if number:
            classes[output.name] = number
    return classes


def no_shared_memory(side: str, name: str) -> DukouError:
    """The refusal of data that lies in memory of the caller's."""
    return DukouError(Reason.NOT_SUPPORTED, detail=f"shared memory is not supported, asked for with {side} '{name}'")


def settings(parameters: Mapping[str, Any], context: Context) -> tuple[Mapping[str, Any], Context]:
    """The parameters that are the model's, and the context with what the others say.

    `timeout`, in microseconds, can only bring the deadline nearer; 0 is none. What is None was not said. Raises
    DukouError MALFORMED_REQUEST for reserved names and for values that are no strings, numbers or booleans;
    NOT_SUPPORTED for calls that belong to a sequence.
    """
    free: dict[str, str | int | float] = {}
    priority, deadline_s = context.priority, context.deadline_s
    for name, value in parameters.items():
        if value is None or name == "binary_data_output":
            continue
        if not isinstance(value, str | int | float):
            raise _wrong_parameter(name, "a string, a number or a boolean", value)
        if name == "priority":
            priority = _whole(name, value)
        elif name == "timeout":
            micros = _whole(name, value)
            if micros:
                deadline_s = min(deadline_s, context.arrived_s + micros / 1e6)
        elif name in ("sequence_id", "sequence_start", "sequence_end"):
            if value not in (0, "", False):
                raise DukouError(
                    Reason.NOT_SUPPORTED, detail=f"sequences of requests are not supported ({name!r} was sent)"
                )
        elif name.startswith("triton_") or name == "headers":
            raise DukouError(
                Reason.MALFORMED_REQUEST,
                detail=f"the parameter {name!r} is reserved for Triton usage, use another",
            )
        else:
            free[name] = value
    if priority != context.priority or deadline_s != context.deadline_s:
        context = msgspec.structs.replace(context, priority=priority, deadline_s=deadline_s)
    return free, context


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise _wrong_parameter(name, "a whole number of at least 0", value)
    return value


def _wrong_parameter(name: str, wanted: str, value: Any) -> DukouError:
    detail = f"the parameter {name!r} must be {wanted}, not {quote(value, 64)}"
    return DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def written(request: InferenceRequest, outputs: Tensors) -> Tensors:
    """The outputs as the answer has them: where classes are wanted, these. Raises DukouError."""
    classes: Mapping[str, int] | None = request.reply.classes
    if not classes:
        return outputs
    columns = {spec.name: spec.columns for spec in request.signature.outputs}
    batched = request.signature.batched
    return {
        name: classify(array, classes[name], columns[name], batched) if name in classes else array
        for name, array in outputs.items()
    }
