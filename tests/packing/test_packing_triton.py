"""Triton's ModelConfig: what each field does here, and that none is passed over in silence."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DATATYPES
from dukou.packing.triton import (
    DATA_TYPES,
    HONOURED,
    REASONS,
    Tensor,
    TritonModel,
    Warmup,
    WarmupInput,
    datatype_of,
    read_model,
    unheeded,
)
from dukou.protos.pool import message, pool
from dukou.protos.text import parse_text
from dukou.repository.triton import version_policy

MODEL_CONFIG = "inference.ModelConfig"

BASE = """
name: "m"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
dynamic_batching { }
"""


def parsed(text: str) -> Any:
    return parse_text(text, MODEL_CONFIG)


def read(text: str, name: str = "m") -> TritonModel:
    return read_model(parsed(text), name, "m/config.pbtxt")


def outcome(config: Any) -> TritonModel | DukouError:
    try:
        return read_model(config, "m", "m/config.pbtxt")
    except DukouError as error:
        return error


def refused(text: str) -> DukouError:
    with pytest.raises(DukouError) as caught:
        read(text)
    return caught.value


def fields(descriptor: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field that holds a value, through all messages."""
    for field in descriptor.fields:
        path = (*above, field.name)
        nested = field.message_type
        if nested is not None and not nested.GetOptions().map_entry and nested.fields:
            yield from fields(nested, path)
        else:
            yield path


ALL_FIELDS = [".".join(path) for path in fields(pool().FindMessageTypeByName(MODEL_CONFIG))]

VALUES = {"int": 4, "str": "other", "bool": True, "float": 0.5}


def set_field(on: Any, path: list[str]) -> None:
    """Give the field another value than it has; of a repeated message the first, which may have to be made."""
    field = on.DESCRIPTOR.fields_by_name[path[0]]
    nested = field.message_type
    if nested is not None and nested.GetOptions().map_entry:
        value = nested.fields_by_name["value"]
        key: Any = "other" if nested.fields_by_name["key"].cpp_type == field.CPPTYPE_STRING else 4
        if value.message_type is not None:
            getattr(on, field.name)[key].SetInParent()
        else:
            getattr(on, field.name)[key] = "other"
    elif nested is not None:
        below = getattr(on, field.name)
        if field.is_repeated:
            below = below[0] if len(below) else below.add()
        below.SetInParent()
        if len(path) > 1:
            set_field(below, path[1:])
    else:
        kind = {field.CPPTYPE_STRING: "str", field.CPPTYPE_BOOL: "bool"}.get(field.cpp_type, "int")
        kind = "float" if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE) else kind
        known = field.enum_type is None or VALUES["int"] in field.enum_type.values_by_number
        value = VALUES[kind] if known else 1
        if field.is_repeated:
            getattr(on, field.name).append(value)
        else:
            setattr(on, field.name, value)


@pytest.mark.parametrize("path", ALL_FIELDS)
def test_every_field_has_an_effect_or_is_named(path: str) -> None:
    """Set alone, it changes what is served, or a warning or an error names it or the message it is in."""
    base = parsed(BASE)
    config = parsed(BASE)
    set_field(config, path.split("."))
    assert config != base

    parts = path.split(".")
    named = [".".join(parts[: count + 1]) for count in range(len(parts))]
    before, after = outcome(base), outcome(config)
    if isinstance(after, DukouError):
        assert any(name in str(after) for name in named)
        return
    changed = msgspec.structs.replace(after, warnings=()) != before
    warned = any(f": {name} " in text for name in named for text in after.warnings)
    policy = version_policy(config) != version_policy(base)
    assert changed or warned or policy


def test_the_lists_name_fields_that_exist() -> None:
    """A misspelt one would hide what it should tell."""
    known = {".".join(path.split(".")[:count]) for path in ALL_FIELDS for count in range(1, 5)}

    assert known >= HONOURED
    assert known >= set(REASONS)


def test_a_field_that_is_set_is_found_at_any_depth() -> None:
    """Each path once, as far down as it takes to tell it from what is honoured."""
    config = parsed(
        BASE
        + """
        instance_group [ { count: 2 gpus: [ 0 ] }, { count: 1 gpus: [ 1 ] rate_limiter { priority: 2 } } ]
        optimization { graph { level: 1 } cuda { graphs: true } }
        """
    )

    assert unheeded(config) == ("instance_group.gpus", "instance_group.rate_limiter", "optimization")


FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("", {"joined": False, "max_batch_size": 0, "runtime": "", "options": {}, "decoupled": False}),
    ('backend: "onnxruntime"', {"runtime": "onnx"}),
    ('platform: "onnxruntime_onnx"', {"runtime": "onnx"}),
    ('backend: "python"', {"runtime": "python"}),
    ('default_model_filename: "net.onnx"', {"filename": "net.onnx"}),
    ("max_batch_size: 8", {"max_batch_size": 8, "options": {"max_request_rows": 8, "max_batch_rows": 8}}),
    ("max_batch_size: 8 dynamic_batching { }", {"joined": True}),
    (
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 1500 }",
        {"joined": True, "options": {"max_request_rows": 8, "max_batch_rows": 4, "max_queue_delay_s": 0.0015}},
    ),
    ("dynamic_batching { }", {"joined": False}),
    ("instance_group [ { count: 2 }, { count: 3 kind: KIND_CPU } ]", {"options": {"concurrency": 5}}),
    (
        'parameters { key: "intra_op_thread_count" value { string_value: "4" } }',
        {"options": {"threads": 4}, "warnings": ()},
    ),
    ('parameters { key: "intra_op_thread_count" value { string_value: "0" } }', {"options": {}}),
    ("model_transaction_policy { decoupled: true }", {"decoupled": True}),
    (
        'input { name: "a" data_type: TYPE_STRING dims: [ 1 ] reshape { shape: [ ] } }',
        {"inputs": (Tensor("a", "BYTES", (1,), ()),)},
    ),
    (
        'output { name: "b" data_type: TYPE_BF16 dims: [ -1, 3 ] label_filename: "l.txt" }',
        {"outputs": (Tensor("b", "BF16", (-1, 3), None, "l.txt"),)},
    ),
    ('input { name: "a" }', {"inputs": (Tensor("a"),)}),
    (
        'model_warmup { name: "w" batch_size: 2 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true'
        " } } }",
        {"warmups": (Warmup("w", 2, 1, {"x": WarmupInput("FP32", (4,))}),)},
    ),
]


@pytest.mark.parametrize(("text", "means"), FIELDS, ids=[text[:50] for text, _ in FIELDS])
def test_a_field_means(text: str, means: dict[str, Any]) -> None:
    """What is honoured, field by field."""
    model = read(text)

    assert {name: getattr(model, name) for name in means} == means


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name: "other"', "m/config.pbtxt: name is 'other', but its folder is 'm', and so the model is called"),
        (
            "response_cache { enable: true }",
            "m/config.pbtxt: response_cache has no effect here: answers are not cached",
        ),
        ("instance_group { kind: KIND_GPU }", "instance_group.kind KIND_GPU has no effect here: models run on the CPU"),
        ("dynamic_batching { }", "max_batch_size is 0, so that there are no rows to join"),
        (
            "max_batch_size: 2 dynamic_batching { priority_levels: 2 }",
            "m/config.pbtxt: dynamic_batching.priority_levels has no effect here",
        ),
        ('parameters { key: "k" value { string_value: "v" } }', "parameters 'k' has no effect here"),
        (
            'backend: "onnxruntime" model_transaction_policy { decoupled: true }',
            "a graph gives one response to a request",
        ),
    ],
)
def test_a_warning_says_what_holds_instead(text: str, says: str) -> None:
    """One sentence for each field, with the file."""
    (warning,) = read(text).warnings

    assert warning.endswith(says)


def test_python_models_are_given_their_parameters() -> None:
    """So no warning is due."""
    assert read('backend: "python" parameters { key: "k" value { string_value: "v" } }').warnings == ()


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ("sequence_batching { }", Reason.ARTIFACT_UNSUPPORTED, "sequence_batching: models that keep a state"),
        ("ensemble_scheduling { }", Reason.ARTIFACT_UNSUPPORTED, "ensemble_scheduling: ensembles are not supported"),
        ('platform: "ensemble"', Reason.ARTIFACT_UNSUPPORTED, "ensemble"),
        ('backend: "pytorch"', Reason.ARTIFACT_UNSUPPORTED, "backend 'pytorch' is not supported"),
        ('platform: "tensorrt_plan"', Reason.ARTIFACT_UNSUPPORTED, "export the model to ONNX"),
        ("max_batch_size: -1", Reason.ARTIFACT_UNREADABLE, "max_batch_size is -1"),
        ("input { }", Reason.ARTIFACT_UNREADABLE, "has no name"),
        ('input { name: "x" dims: [ -2 ] }', Reason.ARTIFACT_UNREADABLE, "'x' has the size -2"),
        ('input { name: "x" reshape { shape: [ ] } }', Reason.ARTIFACT_UNREADABLE, "'x' has a reshape, but no dims"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 8 ] }",
            Reason.ARTIFACT_UNREADABLE,
            "preferred_batch_size is [8]",
        ),
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "many" } }',
            Reason.ARTIFACT_UNREADABLE,
            "intra_op_thread_count is 'many'",
        ),
        (
            'model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: -1 zero_data: true } } }',
            Reason.ARTIFACT_UNREADABLE,
            "model_warmup 'w': input 'x' needs",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(text: str, reason: Reason, says: str) -> None:
    """Rather than answered wrongly."""
    error = refused(text)

    assert error.reason is reason
    assert says in str(error)
    assert "m/config.pbtxt" in str(error)


def test_every_datatype_is_known() -> None:
    """By the numbers of `inference.DataType`."""
    kinds = pool().FindEnumTypeByName("inference.DataType").values_by_number
    names = {number: kind.name.removeprefix("TYPE_") for number, kind in kinds.items()}

    assert {number: datatype_of(number) for number in names} == {
        number: {"INVALID": "", "STRING": "BYTES"}.get(name, name) for number, name in names.items()
    }
    assert set(DATA_TYPES) - {""} == set(DATATYPES)
    assert datatype_of(99) == datatype_of(-1) == ""


@given(st.binary(max_size=200))
def test_no_message_fails_in_another_way(content: bytes) -> None:
    """Whatever a configuration holds, it is read or refused."""
    config = message(MODEL_CONFIG)()
    try:
        config.ParseFromString(content)
    except DecodeError:
        return

    found = outcome(config)

    refusals = {Reason.ARTIFACT_UNREADABLE, Reason.ARTIFACT_UNSUPPORTED}
    assert isinstance(found, TritonModel) or found.reason in refusals
