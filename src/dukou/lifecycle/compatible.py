"""Whether a candidate can take the calls of a primary: what a caller may send and read must stay as it is."""

from collections.abc import Iterator, Mapping

from dukou.core.model import Signature, TensorSpec


def differences(primary: Mapping[str, Signature], candidate: Mapping[str, Signature]) -> tuple[str, ...]:
    """Why the candidate cannot take every call that the primary takes, a sentence for each reason; none if it can.

    It may take more: other signatures, any size where the primary wants one, more outputs. It may not want another
    datatype, not even a wider one: callers of the binary protocols state theirs, and are refused when it is not the
    signature's.
    """
    return tuple(_differences(primary, candidate))


def _differences(primary: Mapping[str, Signature], candidate: Mapping[str, Signature]) -> Iterator[str]:
    for name, signature in primary.items():
        other = candidate.get(name)
        if other is None:
            yield f"it has no signature {name!r}; it has {_names(candidate)}"
            continue
        where = f"signature {name!r}: " if len(primary) > 1 else ""
        for sentence in (*_kinds(signature, other), *_inputs(signature, other), *_outputs(signature, other)):
            yield where + sentence


def _kinds(primary: Signature, candidate: Signature) -> Iterator[str]:
    if primary.method != candidate.method:
        yield f"its method is {candidate.method}, not {primary.method}"
    if primary.batched != candidate.batched:
        yield "it is batched" if candidate.batched else "it is not batched: axis 0 of its inputs is not rows"
    if primary.streaming != candidate.streaming:
        yield "it streams its answers" if candidate.streaming else "it does not stream its answers"


def _inputs(primary: Signature, candidate: Signature) -> Iterator[str]:
    before, after = _by_name(primary.inputs), _by_name(candidate.inputs)
    for name in after:
        if name not in before:
            yield f"it wants an input {name!r}, which callers do not send; they send {_names(before)}"
    for name, spec in before.items():
        other = after.get(name)
        if other is None:
            yield f"it has no input {name!r}; it has {_names(after)}"
            continue
        if other.datatype != spec.datatype:
            yield f"its input {name!r} is {other.datatype}, not {spec.datatype}"
        if not _takes(other.shape, spec.shape):
            yield f"its input {name!r} has shape {_shape(other)}, where {_shape(spec)} was taken"
        if other.columns and spec.columns and other.columns != spec.columns:
            yield f"its input {name!r} has the columns {_names(other.columns)}, not {_names(spec.columns)}"
        elif spec.columns and not other.columns:
            yield f"its input {name!r} has no named columns; callers may name {_names(spec.columns)}"


def _outputs(primary: Signature, candidate: Signature) -> Iterator[str]:
    before, after = _by_name(primary.outputs), _by_name(candidate.outputs)
    for name, spec in before.items():
        other = after.get(name)
        if other is None:
            yield f"it has no output {name!r}; it has {_names(after)}"
            continue
        if other.datatype != spec.datatype:
            yield f"its output {name!r} is {other.datatype}, not {spec.datatype}"
        if not _takes(spec.shape, other.shape):
            yield f"its output {name!r} has shape {_shape(other)}, where callers expect {_shape(spec)}"
        if spec.columns and other.columns != spec.columns:
            yield f"its output {name!r} has the entries {_names(other.columns)}, not {_names(spec.columns)}"


def _takes(wider: tuple[int, ...] | None, narrower: tuple[int, ...] | None) -> bool:
    """Whether every array of the second shape is one of the first."""
    if wider is None:
        return True
    if narrower is None or len(wider) != len(narrower):
        return False
    return all(size in (-1, other) for size, other in zip(wider, narrower, strict=True))


def _by_name(specs: tuple[TensorSpec, ...]) -> Mapping[str, TensorSpec]:
    return {spec.name: spec for spec in specs}


def _shape(spec: TensorSpec) -> str:
    return "any" if spec.shape is None else str(list(spec.shape))


def _names(names: Mapping[str, object] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "none"
