"""How long an answer takes from arrays to JSON bytes, by size and protocol.

Run: python bench/json_encode.py
Prints the best of several runs in microseconds.
"""

import timeit
from collections.abc import Callable

import msgspec
import numpy as np

from dukou.core.message import Context, InferenceRequest, InferenceResponse
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.version import ModelVersion
from dukou.wire import json_write, oip_http, tf_rest
from dukou.wire.oip_bind import Form
from dukou.wire.plain import Plain

plain = Plain()

VERSION = ModelVersion("model", 1)


def best_us(call: Callable[[], object]) -> float:
    """Microseconds of one call: the best of seven runs of about 30 ms each."""
    once = max(timeit.timeit(call, number=1), 1e-7)
    number = max(1, int(0.03 / once))
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1e6


def main() -> None:
    """Print the table."""
    random = np.random.default_rng(0)
    for size in (1, 3, 16, 48, 49, 1000, 150_528):
        array = random.random((size, 1)).astype(np.float32)
        spec = TensorSpec("y", "FP32", (-1, 1))
        signature = Signature(DEFAULT_SIGNATURE, (spec,), (spec,))
        request = InferenceRequest(VERSION, signature, {"y": array}, ("y",), size, Context(), reply=True)
        asked = msgspec.structs.replace(request, reply=Form())
        response = InferenceResponse(VERSION, {"y": array})
        both = InferenceResponse(VERSION, {"label": np.arange(size), "y": array})
        cases = {
            "tf_rest, two outputs": lambda one=request, other=both: tf_rest.encode(one, other),
            "plain": lambda one=request, other=response: plain.encode(one, other),
            "tf_rest": lambda one=request, other=response: tf_rest.encode(one, other),
            "oip_http": lambda one=asked, other=response: oip_http.encode(one, other),
            "six digits singly": lambda array=array: json_write._nested(array.tolist(), json_write._SINGLE[4]),
        }
        for name, call in cases.items():
            print(f"{size:>9,} floats  {name:20} {best_us(call):>12,.1f} us")


if __name__ == "__main__":
    main()
