"""CPU of a call with binary tensor data, from its body to its answer: parse, bind and encode, without a model.

python bench/raw_tensor.py
"""

import timeit
from collections.abc import Callable

import numpy as np

from dukou.core.message import Context, InferenceResponse
from dukou.core.model import DEFAULT_SIGNATURE, ModelRef, Signature, TensorSpec
from dukou.testing.models import manifest, served
from dukou.wire import oip_binary, oip_http

REF = ModelRef("m")


def best_us(call: Callable[[], object]) -> float:
    """Microseconds of one call: the best of seven runs of about 30 ms each."""
    once = max(timeit.timeit(call, number=1), 1e-7)
    number = max(1, int(0.03 / once))
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1e6


def main() -> None:
    """Print the table."""
    random = np.random.default_rng(0)
    arrays = {
        "FP32 1x4": random.random((1, 4)).astype(np.float32),
        "FP32 1x3x224x224": random.random((1, 3, 224, 224)).astype(np.float32),
        "BYTES 10000 of 8": np.array([b"%8d" % number for number in range(10_000)], object),
    }
    for name, array in arrays.items():
        spec = TensorSpec("x", name.split()[0], (-1,) * array.ndim)
        version = served(manifest("m", 1, (Signature(DEFAULT_SIGNATURE, (spec,), (spec,)),)))
        body, json_bytes = oip_binary.encode_request({"x": array})
        for shift in (0, 1):  # data that begins at any odd place must be copied
            shifted = body[:json_bytes] + b" " * shift + body[json_bytes:]
            headers = {oip_binary.HEADER: b"%d" % (json_bytes + shift)}

            def call(headers: dict[bytes, bytes] = headers, body: bytes = shifted) -> object:
                request = oip_http.bind(oip_http.parse(REF, headers, body), version, Context())  # noqa: B023
                return oip_http.encode(request, InferenceResponse(version.id, request.inputs))  # noqa: B023

            print(f"{name:18} {'aligned' if not shift else 'unaligned':10} {best_us(call):>10,.1f} us", flush=True)


if __name__ == "__main__":
    main()
