"""Nothing that a caller sends makes another exception than DukouError, in any protocol, at any step."""

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.core.errors import DukouError
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES
from dukou.core.version import ModelRef
from dukou.testing.models import manifest, served
from dukou.wire import oip_http, oip_json, tf_rest
from dukou.wire.codec import Codec
from dukou.wire.json_text import SMALL
from dukou.wire.plain import Plain

plain = Plain()

CODECS: list[Codec] = [plain, tf_rest, oip_http]
REF = ModelRef("m")


def version_of(*inputs: TensorSpec, batched: bool = True) -> Served:
    signature = Signature(DEFAULT_SIGNATURE, inputs, inputs, batched=batched)
    return served(manifest("m", 1, (signature,), options={"max_request_rows": 1000}))


VERSIONS = [
    version_of(TensorSpec("x", "FP32", (-1, 2))),
    version_of(TensorSpec("x", "FP64", (-1, 2), columns=("a", "b"))),
    version_of(TensorSpec("x", "INT64", (-1, 1)), TensorSpec("y", "BYTES", (-1, 1))),
    version_of(TensorSpec("x", "BYTES", (-1,))),
    *(version_of(TensorSpec("x", datatype), batched=False) for datatype in DTYPES),
]


def answered(codec: Codec, body: bytes, version: Served) -> InferenceRequest | DukouError:
    """What becomes of a body: a request that fits the signature, whose echo can be encoded, or a refusal."""
    try:
        draft = codec.parse(REF, {}, body)
        request = codec.bind(draft, version, Context())
        assert_fits(request)
        codec.encode(request, InferenceResponse(version.id, {name: request.inputs[name] for name in request.outputs}))
        return request
    except DukouError as error:
        refused = error
    assert isinstance(json.loads(codec.refuse(refused))["error"], str)
    return refused


def assert_fits(request: InferenceRequest) -> None:
    """The promise of `bind`: the signature's names, dtypes and shapes."""
    assert list(request.inputs) == [spec.name for spec in request.signature.inputs]
    for spec in request.signature.inputs:
        array = request.inputs[spec.name]
        assert array.dtype == DTYPES[spec.datatype]
        assert spec.fits(array.shape)
        assert not request.signature.batched or len(array) == request.rows


def both_sizes(body: bytes) -> tuple[bytes, bytes]:
    """The body as it is, and padded to where another parser reads it."""
    return body, body + b" " * SMALL


TEXT = st.sampled_from(["x", "y", "a", "b", "b64", "aGk=", "", "5", "\x00", "é", "FP32", "INT64", "BYTES"])
NUMBERS = (
    st.sampled_from([0, 1, -1, 2, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 0.5, 1.0, -0.0, 1e300, 1e-300]) | st.floats()
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=10
)
ROWS = TREES | st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=4)
TENSORS = st.fixed_dictionaries(
    {
        "name": TEXT | TREES,
        "datatype": st.sampled_from([*DTYPES, "BF16", "", 1]),
        "shape": st.lists(st.sampled_from([1, 2, 0, -1, 3, 2**70, None, 1.0]), max_size=3) | TREES,
        "data": ROWS,
    },
    optional={"parameters": TREES},
)
BODIES = {
    plain: st.fixed_dictionaries({"X": ROWS}),
    tf_rest: st.fixed_dictionaries(
        {}, optional={"instances": ROWS, "inputs": ROWS | st.fixed_dictionaries({"x": ROWS}), "signature_name": TREES}
    ),
    oip_http: st.fixed_dictionaries(
        {"inputs": st.lists(TENSORS, max_size=2) | TREES},
        optional={
            "outputs": st.lists(st.fixed_dictionaries({"name": TEXT}), max_size=2) | TREES,
            "id": TREES,
            "parameters": TREES,
        },
    ),
}


@pytest.mark.parametrize("codec", CODECS, ids=["plain", "tf_rest", "oip_http"])
@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_json_value_is_a_request_or_a_refusal(codec: Codec, data: st.DataObject) -> None:
    """Of about the right form and of any other; the size of the body does not decide which."""
    tree = data.draw(BODIES[codec] | TREES)
    version = data.draw(st.sampled_from(VERSIONS))
    body = json.dumps(tree, ensure_ascii=data.draw(st.booleans())).encode()

    small, large = (answered(codec, one, version) for one in both_sizes(body))

    assert type(small) is type(large)
    if isinstance(small, DukouError) and isinstance(large, DukouError):
        assert str(small) == str(large)


@pytest.mark.parametrize("codec", CODECS, ids=["plain", "tf_rest", "oip_http"])
@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_request_or_a_refusal(codec: Codec, data: st.DataObject) -> None:
    """A good body with bytes changed, cut off or put in between."""
    body = bytearray(json.dumps(data.draw(BODIES[codec])).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"[", b"NaN", b"\\ud800", b"1e999", b'"', b"\xff"])
        )

    for one in both_sizes(bytes(body)):
        answered(codec, one, VERSIONS[0])


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=100)
    | TREES.map(lambda tree: json.dumps(tree).encode())
    | BODIES[oip_http].map(lambda tree: json.dumps({"outputs": tree["inputs"], "inputs": []}).encode())
)
def test_any_answer_is_read_or_refused_by_a_client(body: bytes) -> None:
    """A server can send anything."""
    assert isinstance(oip_json.decode_error(body), str)
    for decode in (oip_json.decode_response, oip_json.decode_metadata):
        try:
            decode(body)
        except DukouError:
            pass


NASTY = [
    b"",
    b" ",
    b"\xef\xbb\xbf",
    b"\x00",
    b"null",
    b"[]",
    b"{}",
    b'"' * 10_000,
    b"[" * 500_000,
    b'{"a":' * 500_000,
    b'{"X":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    b'{"X":' + b"[" * 60 + b"1" + b"]" * 60 + b"}",
    b'{"instances":' + b"[" * 60 + b"1" + b"]" * 60 + b"}",
    b'{"inputs":' + b"[" * 60 + b"1" + b"]" * 60 + b"}",
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 60 + b"1" + b"]" * 60 + b"}]}",
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[' + b"1," * 70 + b'1],"data":[1]}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[' + b"99999999999," * 70 + b'0],"data":[]}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[99999999999,99999999999,0],"data":[]}]}',
    b'{"inputs":[{"name":"' + b"n" * 100_000 + b'","datatype":"FP32","shape":[1],"data":[1]}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[' + b"1," * 5000 + b'1],"data":[1]}]}',
    b'{"X":[[' + b"9" * 5000 + b"]]}",
    b'{"X":[["\\ud800"]], "\\ud800": 1}',
    b'{"X":[[1,2]],"X":[[3]]}',
    b'{"X":[["' + b"a" * 100_000 + b'"]]}',
    b'{"instances":[' + b"{}," * 5000 + b"{}]}",
    b'{"instances":[' + b'{"x":[1,2]},' * 5000 + b'{"x":[1]}]}',
    b'{"instances":[' + b'{"x":[1,2]},' * 5000 + b'{"x":[1,[2]]}]}',
]


@pytest.mark.parametrize("codec", CODECS, ids=["plain", "tf_rest", "oip_http"])
@pytest.mark.parametrize("body", NASTY, ids=range(len(NASTY)))
def test_known_traps_are_requests_or_refusals(codec: Codec, body: bytes) -> None:
    """Depth, digits, axes, surrogates, duplicates, sizes that overflow."""
    for version in VERSIONS[:4]:
        answered(codec, body, version)


def test_a_ragged_row_in_a_large_body_is_found_wherever_it_hides() -> None:
    """One value moved from any row to any other leaves their number as it was."""
    source = random.Random(0)
    for _ in range(30):
        rows: list[Any] = np.ones((2000, 2)).tolist()
        giver, taker = source.sample(range(2000), 2)
        rows[taker].append(rows[giver].pop())

        result = answered(plain, json.dumps({"X": rows}).encode(), VERSIONS[0])

        assert isinstance(result, DukouError)
        assert result.facts["row"] in (giver, taker) or min(giver, taker) == 0
