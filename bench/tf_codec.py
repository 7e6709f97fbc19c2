"""How long Predict over gRPC takes from message to arrays and back, by form and size, beside ModelInfer.

Run: python bench/tf_codec.py
Prints the best of several runs in microseconds. `new` is a message of a form that was not seen before, `known` one of a
form that was; `ModelInfer` is the Open Inference Protocol's call with the same numbers, known as well.
"""

import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukou.core.message import Context, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, ModelRef, Signature, TensorSpec
from dukou.protos import pool
from dukou.testing.models import manifest, served
from dukou.wire import oip_grpc, tf_grpc, tf_known

REF, CONTEXT = ModelRef(""), Context()


def best_us(call: Callable[[], object]) -> float:
    """Microseconds of one call: the best of seven runs of about 30 ms each."""
    once = max(timeit.timeit(call, number=1), 1e-7)
    number = max(1, int(0.03 / once))
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1e6


def predict(array: NDArray[np.float32], *, content: bool) -> bytes:
    """A PredictRequest with tensor_content, or with float_val."""
    made = pool.message(tf_grpc.REQUEST)(model_spec={"name": "model"})
    tensor = made.inputs["x"]
    tensor.dtype = 1
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if content:
        tensor.tensor_content = array.tobytes()
    else:
        tensor.float_val.extend(array.ravel().tolist())
    return bytes(made.SerializeToString())


def infer(array: NDArray[np.float32]) -> bytes:
    """A ModelInferRequest with raw contents."""
    stated = {"name": "x", "datatype": "FP32", "shape": array.shape}
    made = pool.message(oip_grpc.REQUEST)(model_name="model", inputs=[stated], raw_input_contents=[array.tobytes()])
    return bytes(made.SerializeToString())


def there_and_back(codec: Any, body: bytes, version: Served, response: InferenceResponse) -> None:
    """A request read and bound, and its answer written."""
    codec.encode(codec.bind(codec.parse(REF, {}, body), version, CONTEXT), response)


def as_new(body: bytes, version: Served, response: InferenceResponse) -> None:
    """The same of a request whose form is not known."""
    tf_known.forget()
    there_and_back(tf_grpc, body, version, response)


def main() -> None:
    """Print the table."""
    print(f"{'floats':>8} {'form':>14} {'new':>8} {'known':>8} {'ModelInfer':>11}")
    for columns in (4, 1000, 150_528):
        spec = TensorSpec("x", "FP32", (-1, columns))
        version = served(manifest("model", 1, (Signature(DEFAULT_SIGNATURE, (spec,), (spec,)),)))
        array = np.random.default_rng(0).random((1, columns), dtype=np.float32)
        response = InferenceResponse(version.id, {"x": array})
        raw = infer(array)
        beside = best_us(lambda raw=raw, to=(version, response): there_and_back(oip_grpc, raw, *to))
        for form in ("tensor_content", "float_val"):
            body = predict(array, content=form == "tensor_content")
            new = best_us(lambda raw=body, to=(version, response): as_new(raw, *to))
            known = best_us(lambda raw=body, to=(version, response): there_and_back(tf_grpc, raw, *to))
            print(f"{columns:8d} {form:>14} {new:8.1f} {known:8.1f} {beside:11.1f}")


if __name__ == "__main__":
    main()
