"""The model configuration extension: any version described as Triton's ModelConfig, as a tree of plain values."""

from collections.abc import Iterable, Mapping
from typing import Any

from dukou.config import EngineConfig
from dukou.core.message import Served
from dukou.core.model import Signature, TensorSpec
from dukou.wire.oip_metadata import BACKENDS, platform, stated_shape

_INT64 = frozenset(
    {
        "dims",
        "shape",
        "versions",
        "max_queue_delay_microseconds",
        "default_timeout_microseconds",
        "max_sequence_idle_microseconds",
    }
)
"""Fields that protobuf's JSON writes as texts, and Triton's as numbers."""


def model_config(served: Served, max_request_rows: int = EngineConfig().max_request_rows) -> dict[str, Any]:
    """The configuration of a version: what its default signature says, and over that what its own `config.pbtxt` said.

    Sizes of a batched model leave out the row axis. `max_request_rows` is the most rows of a request where the version
    itself says nothing. Raises DukouError SIGNATURE_NOT_FOUND.
    """
    manifest = served.manifest
    signature = manifest.signature("")
    options = manifest.options
    backend = BACKENDS.get(manifest.runtime, manifest.runtime)
    derived: dict[str, Any] = {
        "name": manifest.id.name,
        "platform": platform(manifest),
        "backend": backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": options.get("max_request_rows", max_request_rows) if signature.batched else 0,
        "input": [_tensor(spec, signature) for spec in signature.inputs],
        "output": [_tensor(spec, signature) for spec in signature.outputs],
        "instance_group": [{"name": manifest.id.name, "kind": "KIND_CPU", "count": options.get("concurrency", 1)}],
        "default_model_filename": manifest.serving,
        "model_transaction_policy": {"decoupled": signature.streaming},
        "parameters": {},
        "metric_tags": {},
        "model_warmup": [],
    }
    said = _with_numbers(options.get("triton", {}))
    if signature.batched and manifest.evidence.independent_rows and "sequence_batching" not in said:
        derived["dynamic_batching"] = {"preferred_batch_size": [], "max_queue_delay_microseconds": 0}
    return {
        **derived,
        **said,
        "input": _merged(derived["input"], said.get("input", ())),
        "output": _merged(derived["output"], said.get("output", ())),
    }


def _tensor(spec: TensorSpec, signature: Signature) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": spec.name, "data_type": _data_type(spec.datatype)}
    dims = list(stated_shape(spec))[1 if signature.batched else 0 :]
    # A configuration's dims are never empty: a value for each row is said as one that is reshaped.
    return {**tensor, "dims": dims} if dims else {**tensor, "dims": [1], "reshape": {"shape": []}}


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _merged(derived: Iterable[dict[str, Any]], said: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each tensor with what was said of it."""
    by_name = {tensor.get("name"): tensor for tensor in said}
    merged = []
    for tensor in derived:
        own = by_name.get(tensor["name"], {})
        base = {key: value for key, value in tensor.items() if key != "reshape"} if "dims" in own else tensor
        merged.append({**base, **own})
    return merged


def _with_numbers(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {
            key: _as_numbers(value) if key in _INT64 and not isinstance(value, Mapping) else _with_numbers(value)
            for key, value in tree.items()
        }
    return [_with_numbers(one) for one in tree] if isinstance(tree, list | tuple) else tree


def _as_numbers(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_numbers(one) for one in value]
    return int(value) if isinstance(value, str) else value
