"""How long ModelInfer takes from message to arrays and back, by size, beside protobuf alone doing the same.

Run: python bench/grpc_codec.py
Prints the best of several runs in microseconds. `new` is a message whose head is too long to be remembered, `known`
one whose head is; `protobuf` reads and writes through message objects, unchecked.
"""

import timeit
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dukou.core.message import Context, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, ModelRef, Signature, TensorSpec
from dukou.protos import pool
from dukou.testing.models import manifest, served
from dukou.wire import oip_grpc

REF, CONTEXT = ModelRef(""), Context()
REQUEST, RESPONSE = pool.message(oip_grpc.REQUEST), pool.message(oip_grpc.RESPONSE)


def best_us(call: Callable[[], object]) -> float:
    """Microseconds of one call: the best of seven runs of about 30 ms each."""
    once = max(timeit.timeit(call, number=1), 1e-7)
    number = max(1, int(0.03 / once))
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1e6


def message(array: NDArray[np.float32], model: str = "model") -> bytes:
    """A request with raw contents."""
    stated = {"name": "x", "datatype": "FP32", "shape": array.shape}
    made = REQUEST(model_name=model, id="1", inputs=[stated], raw_input_contents=[array.tobytes()])
    return bytes(made.SerializeToString())


def read(body: bytes, version: Served) -> object:
    """A request, bound."""
    return oip_grpc.bind(oip_grpc.parse(REF, {}, body), version, CONTEXT)


def read_by_protobuf(body: bytes) -> object:
    """An array."""
    said = REQUEST.FromString(body)
    return np.frombuffer(said.raw_input_contents[0], np.float32).reshape(tuple(said.inputs[0].shape))


def write_by_protobuf(array: NDArray[np.float32]) -> bytes:
    """A response."""
    stated = {"name": "x", "datatype": "FP32", "shape": array.shape}
    made = RESPONSE(
        model_name="model", model_version="1", id="1", outputs=[stated], raw_output_contents=[array.tobytes()]
    )
    return bytes(made.SerializeToString())


def main() -> None:
    """Print the table."""
    print(f"{'floats':>8} {'read new':>9} {'read known':>10} {'protobuf':>9} {'write':>7} {'protobuf':>9}")
    for columns in (4, 1000, 150_528):
        spec = TensorSpec("x", "FP32", (-1, columns))
        version = served(manifest("model", 1, (Signature(DEFAULT_SIGNATURE, (spec,), (spec,)),)))
        array = np.random.default_rng(0).random((1, columns), dtype=np.float32)
        body = message(array)
        new = message(array, "m" * oip_grpc.KNOWN_HEAD_BYTES)
        request = oip_grpc.bind(oip_grpc.parse(REF, {}, body), version, CONTEXT)
        response = InferenceResponse(version.id, {"x": array})
        figures = (
            best_us(lambda new=new, version=version: read(new, version)),
            best_us(lambda body=body, version=version: read(body, version)),
            best_us(lambda body=body: read_by_protobuf(body)),
            best_us(lambda request=request, response=response: oip_grpc.encode(request, response)),
            best_us(lambda array=array: write_by_protobuf(array)),
        )
        print(
            f"{columns:8d} {figures[0]:9.1f} {figures[1]:10.1f} {figures[2]:9.1f} {figures[3]:7.1f} {figures[4]:9.1f}"
        )


if __name__ == "__main__":
    main()
