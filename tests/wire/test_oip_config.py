"""Versions described as Triton's ModelConfig."""

from typing import Any

import msgspec
import pytest

from dukou.core.message import Served
from dukou.core.model import DATATYPES, DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.protos.tree import to_message
from dukou.testing.models import manifest, served
from dukou.wire.oip_config import model_config


def version(
    *specs: TensorSpec, batched: bool = True, runtime: str = "onnx", streaming: bool = False, **more: Any
) -> Served:
    signature = Signature(DEFAULT_SIGNATURE, specs, specs, batched=batched, streaming=streaming)
    return served(msgspec.structs.replace(manifest("m", 3, (signature,), **more), runtime=runtime))


def test_a_version_is_told_as_its_signature_has_it() -> None:
    """Sizes without the row axis; rows of different callers share batches on evidence only."""
    one = version(
        TensorSpec("x", "FP32", (-1, 4)), TensorSpec("s", "BYTES", (-1, -1, 2)), options={"max_request_rows": 8}
    )

    config = model_config(one)

    assert config == {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [4]},
            {"name": "s", "data_type": "TYPE_STRING", "dims": [-1, 2]},
        ],
        "output": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [4]},
            {"name": "s", "data_type": "TYPE_STRING", "dims": [-1, 2]},
        ],
        "instance_group": [{"name": "m", "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": "model.py",
        "model_transaction_policy": {"decoupled": False},
        "parameters": {},
        "metric_tags": {},
        "model_warmup": [],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
    }
    assert "dynamic_batching" not in model_config(version(*one.manifest.signature("").inputs, independent_rows=False))


@pytest.mark.parametrize(
    ("spec", "batched", "told"),
    [
        (TensorSpec("x", "FP32", (-1,)), True, {"dims": [1], "reshape": {"shape": []}}),
        (TensorSpec("x", "FP32", (-1,)), False, {"dims": [-1]}),
        (TensorSpec("x", "FP32", ()), False, {"dims": [1], "reshape": {"shape": []}}),
        (TensorSpec("x", "FP32"), False, {"dims": [-1]}),
        (TensorSpec("x", "FP32", stated=(-1, 3)), True, {"dims": [3]}),
    ],
)
def test_dims_are_never_empty(spec: TensorSpec, batched: bool, told: Any) -> None:
    """One value for each row is a 1 that is reshaped; an open rank is told as it is stated."""
    (tensor,) = model_config(version(spec, batched=batched))["input"]

    assert tensor == {"name": "x", "data_type": "TYPE_FP32", **told}


@pytest.mark.parametrize(("batched", "rows"), [(True, 1_000_000), (False, 0)])
def test_a_model_without_rows_has_no_batches(batched: bool, rows: int) -> None:
    """A batched one takes as many as the server takes."""
    one = version(TensorSpec("x", "FP32", (-1, 2)), batched=batched)

    assert model_config(one)["max_batch_size"] == rows
    assert model_config(one, 7)["max_batch_size"] == min(7, rows)
    assert ("dynamic_batching" in model_config(one)) == batched


def test_what_the_models_own_configuration_said_stands() -> None:
    """Of the model and of each tensor; 64-bit integers, which its tree has as texts, are numbers."""
    said = {
        "name": "m",
        "platform": "tensorrt_plan",
        "max_batch_size": 4,
        "input": [{"name": "x", "dims": ["2", "-1"], "reshape": {"shape": ["-1", "2"]}}],
        "output": [{"name": "x", "label_filename": "labels.txt"}, {"name": "gone", "dims": ["1"]}],
        "version_policy": {"specific": {"versions": ["1", "3"]}},
        "dynamic_batching": {"preferred_batch_size": [2, 4], "max_queue_delay_microseconds": "100"},
        "parameters": {"k": {"string_value": "7"}, "shape": {"string_value": "8"}},
    }

    config = model_config(version(TensorSpec("x", "FP32", (-1,)), options={"triton": said, "max_request_rows": 4}))

    assert config["platform"] == "tensorrt_plan"
    assert config["backend"] == "onnxruntime"
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2, -1], "reshape": {"shape": [-1, 2]}}]
    assert config["output"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [1], "reshape": {"shape": []}, "label_filename": "labels.txt"}
    ]
    assert config["version_policy"] == {"specific": {"versions": [1, 3]}}
    assert config["dynamic_batching"] == {"preferred_batch_size": [2, 4], "max_queue_delay_microseconds": 100}
    assert config["parameters"] == {"k": {"string_value": "7"}, "shape": {"string_value": "8"}}


def test_a_sequence_batcher_has_no_other_beside_it() -> None:
    """A configuration holds one way of scheduling."""
    said = {"sequence_batching": {"max_sequence_idle_microseconds": "5"}}

    config = model_config(version(TensorSpec("x", "FP32", (-1, 2)), options={"triton": said}))

    assert config["sequence_batching"] == {"max_sequence_idle_microseconds": 5}
    assert "dynamic_batching" not in config


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_configuration_is_a_message(datatype: str) -> None:
    """The tree has no field and no name that `inference.ModelConfig` lacks."""
    one = version(TensorSpec("x", datatype, (-1, 2)), runtime="python", streaming=True)

    message = to_message(model_config(one), "inference.ModelConfig")

    assert message.input[0].dims == [2]
    assert message.input[0].data_type > 0
    assert message.backend == message.platform == "python"
    assert message.model_transaction_policy.decoupled
