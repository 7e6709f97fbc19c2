"""How long a request body takes from JSON bytes to a bound request, by size and protocol.

Run: python bench/json_decode.py
Prints the best of several runs in microseconds; the first column is the body's size in bytes.
"""

import json
import re
import timeit
from collections.abc import Callable

import numpy as np
import orjson

from dukou.core.errors import DukouError
from dukou.core.message import Context, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.version import ModelRef
from dukou.testing.models import manifest, served
from dukou.wire import oip_http, tf_rest
from dukou.wire.codec import Codec
from dukou.wire.json_array import to_array
from dukou.wire.plain import Plain

plain = Plain()

REF = ModelRef("model")


def best_us(call: Callable[[], object]) -> float:
    """Microseconds of one call: the best of seven runs of about 30 ms each."""
    once = max(timeit.timeit(call, number=1), 1e-7)
    number = max(1, int(0.03 / once))
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1e6


def bound(codec: Codec, body: bytes, version: Served) -> Callable[[], object]:
    """The whole way of a body: parse and bind."""
    return lambda: codec.bind(codec.parse(REF, {}, body), version, Context())


def refused(codec: Codec, body: bytes, version: Served) -> Callable[[], object]:
    """As `bound`, of a body that is no tensor."""

    def refuse() -> DukouError:
        try:
            bound(codec, body, version)()
        except DukouError as error:
            return error
        raise AssertionError("the body was not refused")

    return refuse


def main() -> None:
    """Print the table."""
    random = np.random.default_rng(0)
    for shape in ((1, 4), (16, 4), (256, 4), (37_500, 4), (1, 3, 224, 224)):
        array = random.random(shape).astype(np.float32)
        spec = TensorSpec("X", "FP32", (-1, *shape[1:]))
        version = served(manifest(signatures=(Signature(DEFAULT_SIGNATURE, (spec,), (spec,)),)))
        rows = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
        flat = orjson.dumps(array.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
        as_float64 = json.dumps({"X": array.tolist()}).encode()
        with_nan = b'{"X":' + re.sub(rb"[0-9][^],]*", b"NaN", rows, count=max(1, array.size // 10)) + b"}"
        ragged = b'{"X":' + rows[:-1] + b",[1]]}"
        tensor = b'{"name":"X","datatype":"FP32","shape":%b,"data":%b}' % (json.dumps(shape).encode(), flat)
        cases = {
            "plain": bound(plain, b'{"X":' + rows + b"}", version),
            "plain, 17 digits": bound(plain, as_float64, version),
            "plain, with NaN": bound(plain, with_nan, version),
            "plain, ragged": refused(plain, ragged, version),
            "tf_rest": bound(tf_rest, b'{"instances":' + rows + b"}", version),
            "oip_http": bound(oip_http, b'{"inputs":[' + tensor + b"]}", version),
            "json.loads": lambda body=rows, spec=spec: to_array(json.loads(body), spec),
        }
        for name, call in cases.items():
            print(f"{shape!s:20} {len(rows):>9,} bytes  {name:18} {best_us(call):>12,.1f} us")


if __name__ == "__main__":
    main()
