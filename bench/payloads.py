"""The requests that every server gets, in each of the formats that some of them speak."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dukou.protos import pool
from dukou.wire import oip_binary

HTTP = ("simple", "json", "binary")
GRPC = ("grpc", "predict")
LABELS = {"simple": "", "json": "OIP JSON", "binary": "OIP binary", "grpc": "ModelInfer", "predict": "Predict"}
"""How a row of the tables names a format."""

OIP_GRPC = "/inference.GRPCInferenceService/ModelInfer"
TFS_GRPC = "/tensorflow.serving.PredictionService/Predict"
_TFS_TYPES = {np.dtype(np.float32): 1, np.dtype(np.float64): 2}


@dataclass(frozen=True)
class Load:
    """So many connections with so many requests under way on each, in these formats."""

    connections: int
    streams: int = 1
    formats: tuple[str, ...] = HTTP + GRPC

    def __str__(self) -> str:
        text = f"{self.connections} connection{'s' if self.connections > 1 else ''}"
        return text if self.streams == 1 else f"{text} x {self.streams} streams"


@dataclass(frozen=True)
class Payload:
    """One workload: the model it goes to, its bodies by format, and the loads it is measured at."""

    name: str
    model: str
    bodies: Mapping[str, bytes]
    headers: Mapping[str, Mapping[str, str]]
    loads: tuple[Load, ...]


def payloads() -> tuple[Payload, ...]:
    """One iris row, 256 iris-like rows, one 1x3x224x224 tensor (602 KB); seeded."""
    random = np.random.default_rng(0)
    row = np.array([[5.1, 3.5, 1.4, 0.2]])
    rows = random.uniform(0.1, 8.0, size=(256, 4)).round(1)
    image = random.random((1, 3, 224, 224), dtype=np.float32).round(6)
    return (
        payload("one row", "iris", "label", row, (Load(1), Load(64, 1, HTTP), Load(8, 8, GRPC))),
        payload("256 rows", "iris", "label", rows, (Load(8),)),
        payload("1x3x224x224", "mean", "y", image, (Load(1), Load(8))),
    )


def payload(name: str, model: str, output: str, X: NDArray, loads: tuple[Load, ...]) -> Payload:
    """The bodies that ask `model` for the output of `X`."""
    datatype = {"f4": "FP32", "f8": "FP64"}[X.dtype.str[1:]]
    stated = {"name": "X", "shape": list(X.shape), "datatype": datatype}
    binary, json_bytes = oip_binary.encode_request({"X": X}, [output])
    infer = pool.message("inference.ModelInferRequest")(
        model_name=model, inputs=[stated], outputs=[{"name": output}], raw_input_contents=[X.tobytes()]
    )
    tensor = {
        "dtype": _TFS_TYPES[X.dtype],
        "tensor_shape": {"dim": [{"size": size} for size in X.shape]},
        "tensor_content": X.tobytes(),
    }
    predict = pool.message("tensorflow.serving.PredictRequest")(
        model_spec={"name": model}, inputs={"X": tensor}, output_filter=[output]
    )
    bodies = {
        "simple": json.dumps({"X": X.tolist()}).encode(),
        "json": json.dumps({"inputs": [stated | {"data": X.ravel().tolist()}], "outputs": [{"name": output}]}).encode(),
        "binary": bytes(binary),
        "grpc": infer.SerializeToString(),
        "predict": predict.SerializeToString(),
    }
    as_json = {"Content-Type": "application/json"}
    as_bytes = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(json_bytes)}
    headers = {"simple": as_json, "json": as_json, "binary": as_bytes, "grpc": {}, "predict": {}}
    return Payload(name, model, bodies, headers, loads)


def wrk_script(payload: Payload, kind: str, folder: Path) -> Path:
    """A wrk script that POSTs the body; the body is read from a file, whatever its size."""
    body = _write(payload, kind, folder, payload.bodies[kind])
    script = body.with_suffix(".lua")
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in payload.headers[kind].items())
    read = f'local file = io.open("{body}", "rb")\nwrk.body = file:read("*a")\nfile:close()\n'
    script.write_text(f'wrk.method = "POST"\n{headers}{read}')
    return script


def grpc_file(payload: Payload, kind: str, folder: Path) -> Path:
    """The message as gRPC frames it, in a file for h2load."""
    message = payload.bodies[kind]
    return _write(payload, kind, folder, b"\0" + len(message).to_bytes(4) + message)


def _write(payload: Payload, kind: str, folder: Path, body: bytes) -> Path:
    path = folder / f"{payload.name.replace(' ', '-')}-{kind}.body"
    path.write_bytes(body)
    return path
