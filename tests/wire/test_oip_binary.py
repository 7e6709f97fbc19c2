"""The binary tensor extension: where the JSON ends, which data belongs to which tensor, raw calls, clients."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oip_rig import ONE, REF, TWO, of

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.wire import oip_binary, oip_http
from dukou.wire.codec import Reply

HALF = of(TensorSpec("h", "FP16", (-1, 2)), TensorSpec("b", "BF16", (-1, 2)), TensorSpec("s", "BYTES", (-1,)))


def raw(name: str, size: Any, shape: Any = (1, 2), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}, **more}


def call(tree: Any, data: bytes = b"") -> tuple[Mapping[bytes, bytes], bytes]:
    """The headers and the body of a call with data behind its JSON."""
    text = json.dumps(tree).encode()
    return {b"inference-header-content-length": b"%d" % len(text)}, text + data


def bound(headers: Mapping[bytes, bytes], body: bytes, version: Served = ONE) -> InferenceRequest:
    return oip_http.bind(oip_http.parse(REF, headers, body), version, Context())


def answered(headers: Mapping[bytes, bytes], body: bytes, version: Served = ONE) -> tuple[Any, bytes, Reply]:
    """The JSON of the answer, what is behind it, and the answer itself."""
    request = bound(headers, body, version)
    assert version.stage is not None
    reply = oip_http.encode(request, asyncio.run(version.stage.infer(request)))
    sizes = [int(value) for name, value in reply.headers if name == b"inference-header-content-length"]
    end = sizes[0] if sizes else len(reply.body)
    return json.loads(reply.body[:end]), reply.body[end:], reply


def refusal(headers: Mapping[bytes, bytes], body: bytes, version: Served = ONE) -> tuple[Code, str]:
    with pytest.raises(DukouError) as caught:
        bound(headers, body, version)
    return caught.value.code, json.loads(oip_http.refuse(caught.value))["error"]


DATA = np.array([1, 2], np.float32).tobytes()


def test_data_comes_and_goes_behind_the_json() -> None:
    """In the order of the tensors, those in JSON left out."""
    inputs = [raw("b", 4, [1], "INT32"), {"name": "a", "shape": [1], "datatype": "INT32", "data": [7]}]
    headers, body = call({"inputs": inputs, "parameters": {"binary_data_output": True}, "id": "9"}, b"\x05\0\0\0")

    said, data, reply = answered(headers, body, TWO)

    assert said == {
        "model_name": "m",
        "model_version": "1",
        "id": "9",
        "outputs": [
            {"name": "a", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}},
            {"name": "b", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}},
        ],
    }
    assert data == b"\x07\0\0\0\x05\0\0\0"
    assert reply.content_type == b"application/octet-stream"


@pytest.mark.parametrize(
    ("default", "own", "binary"),
    [
        (None, {}, []),
        (True, {}, ["a", "b"]),
        (False, {}, []),
        (None, {"a": True}, ["a"]),
        (True, {"a": False}, ["b"]),
        (False, {"b": True}, ["b"]),
    ],
)
def test_each_output_may_be_wanted_otherwise_than_the_rest(default: Any, own: Mapping[str, bool], binary: Any) -> None:
    """What an output says wins over what is said for all; the header is there only with data."""
    outputs = [{"name": name, "parameters": {"binary_data": own[name]} if name in own else {}} for name in "ab"]
    parameters = {} if default is None else {"binary_data_output": default}
    inputs = [{"name": name, "shape": [1], "datatype": "INT32", "data": [7]} for name in "ab"]
    tree = {"inputs": inputs, "outputs": outputs, "parameters": parameters}

    said, data, reply = answered({}, json.dumps(tree).encode(), TWO)

    assert [output["name"] for output in said["outputs"] if "data" not in output] == binary
    assert data == b"\x07\0\0\0" * len(binary)
    assert (reply.content_type == b"application/octet-stream") == bool(binary) == bool(reply.headers)


def test_classes_may_be_wanted_as_data() -> None:
    """They are strings then, with their lengths."""
    output = {"name": "x", "parameters": {"classification": 1, "binary_data": True}}
    headers, body = call({"inputs": [raw("x", 8)], "outputs": [output]}, DATA)

    said, data, _ = answered(headers, body)

    assert said["outputs"][0] == {
        "name": "x",
        "datatype": "BYTES",
        "shape": [1, 1],
        "parameters": {"binary_data_size": 14},
    }
    assert data == b"\x0a\0\0\x002.000000:1"


def test_outputs_without_any_data_need_no_header() -> None:
    """Their size is said all the same, and they may be asked for so."""
    version = of(TensorSpec("x", "FP32", (-1, -1)))
    tree = {"inputs": [raw("x", 0, [2, 0])], "parameters": {"binary_data_output": True}}

    said, data, reply = answered({}, json.dumps(tree).encode(), version)

    assert said["outputs"][0] == {
        "name": "x",
        "datatype": "FP32",
        "shape": [2, 0],
        "parameters": {"binary_data_size": 0},
    }
    assert data == b""
    assert (reply.content_type, reply.headers) == (b"application/json", ())


def test_what_has_no_json_form_is_sent_and_answered_as_data() -> None:
    """FP16, BF16 and bytes that are no text."""
    h, b, s = b"\x00\x3c\x00\x40", b"\x80\x3f\x00\x40", b"\x01\0\0\0\xff"
    inputs = [raw("h", 4, [1, 2], "FP16"), raw("b", 4, [1, 2], "BF16"), raw("s", 5, [1], "BYTES")]
    headers, body = call({"inputs": inputs, "parameters": {"binary_data_output": True}}, h + b + s)

    said, data, _ = answered(headers, body, HALF)

    assert [output["datatype"] for output in said["outputs"]] == ["FP16", "BF16", "BYTES"]
    assert data == h + b + s


def test_an_aligned_input_is_a_view_of_the_body() -> None:
    """A large tensor is not copied on its way to the model."""
    array = np.ones((1, 3, 224, 224), np.float32)
    version = of(TensorSpec("x", "FP32", (-1, 3, 224, 224)), batched=True)
    body, length = oip_binary.encode_request({"x": array})

    request = bound({b"inference-header-content-length": b"%d" % length}, body, version)

    assert np.shares_memory(request.inputs["x"], np.frombuffer(body, np.uint8))
    assert oip_http.encode(request, InferenceResponse(version.id, request.inputs)).body.endswith(array.tobytes())


GOOD = {"inputs": [raw("x", 8)]}


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        (
            *call({"inputs": [raw("x", 8)]}, DATA[:5]),
            "unexpected size for input 'x', expecting 3 additional bytes for model 'm'",
        ),
        (*call({"inputs": [raw("x", 8)]}), "unexpected size for input 'x', expecting 8 additional bytes for model 'm'"),
        (
            *call({"inputs": [raw("x", 10**30)]}, DATA),
            "unexpected size for input 'x', expecting 9223372036854775800 additional bytes for model 'm'",
        ),
        (*call(GOOD, DATA + b"!!"), "unexpected additional input data for model 'm': 2 bytes"),
        (
            *call({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}, b"!"),
            "unexpected additional input data for model 'm': 1 bytes",
        ),
        (
            {},
            json.dumps(GOOD).encode() + b"12345678",
            "failed to parse the request JSON buffer: more follows the first value at offset 103",
        ),
        (
            {},
            json.dumps(GOOD).encode(),
            "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when passing "
            "inputs in binary data format",
        ),
        (
            *call({"inputs": [raw("x", 4)]}, DATA[:4]),
            "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 4",
        ),
        (*call({"inputs": [raw("x", 0)]}), "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 0"),
        (
            *call({"inputs": [raw("x", 12, [1, 3])]}, DATA + b"1234"),
            "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,3]. ",
        ),
        (
            *call({"inputs": [raw("x", 72, [9, 2])]}, DATA * 9),
            "inference request batch-size must be <= 8 for 'm'",
        ),
        (
            *call({"inputs": [raw("x", 8, [2**31, 2**31])]}, DATA),
            "input byte size mismatch for input 'x' for model 'm'. Expected 18446744073709551616, got 8",
        ),
        (
            *call({"inputs": [raw("x", 8, [-1, -2])]}, DATA),
            "model 'm', version 1, input 'x': no tensor has the stated shape",
        ),
        (*call({"inputs": [raw("x", -8)]}, DATA), "'binary_data_size' of input 'x' must be a number of bytes"),
        (*call({"inputs": [raw("x", "8")]}, DATA), "'binary_data_size' of input 'x' must be a number of bytes"),
        (*call({"inputs": [raw("x", True)]}, DATA), "'binary_data_size' of input 'x' must be a number of bytes"),
        (
            *call({"inputs": [raw("x", 8, data=[1, 2])]}, DATA),
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            "'shared_memory_region' in 'parameters'. Input 'x' for model 'm' sets 2 of them",
        ),
        (
            *call({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32"}]}),
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            "'shared_memory_region' in 'parameters'. Input 'x' for model 'm' sets none of them",
        ),
        (*call({"inputs": [raw("x", 8), raw("x", 8)]}, DATA * 2), "input 'x' already exists in request"),
        (*call({"inputs": [raw("y", 8)]}, DATA), "unexpected inference input 'y' for model 'm'"),
        (
            *call({"inputs": [raw("x", 8, datatype="INT32")]}, DATA),
            "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
        ),
        (
            *call({"inputs": [raw("x", 8)], "parameters": {"binary_data_output": "yes"}}, DATA),
            "the parameter 'binary_data_output' must be true or false",
        ),
        (
            *call({"inputs": [raw("x", 8)], "outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}, DATA),
            "the parameter 'binary_data' must be true or false",
        ),
    ],
)
def test_data_that_does_not_add_up_is_refused_in_these_words(
    headers: Mapping[bytes, bytes], body: bytes, text: str
) -> None:
    """Triton's where clients look for them."""
    assert refusal(headers, body) == (Code.INVALID_ARGUMENT, text)


@pytest.mark.parametrize("length", [b"", b"-1", b"106", b"1e2", b"12, 12", b"9" * 5000, b"\xb2", b"0x10"])
def test_a_header_that_states_no_place_in_the_body_is_refused(length: bytes) -> None:
    """With what came, as far as it can be shown."""
    code, text = refusal({b"inference-header-content-length": length}, json.dumps(GOOD).encode())

    assert code is Code.INVALID_ARGUMENT
    assert text.startswith("inference header size should be in range (0, 103), got: ")
    assert len(text) < 120


def test_shared_memory_is_said_to_be_unsupported() -> None:
    """UNIMPLEMENTED, for inputs and outputs."""
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    inside = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": region}

    assert refusal(*call({"inputs": [inside]}))[0] is Code.UNIMPLEMENTED
    assert refusal(*call({**GOOD, "outputs": [{"name": "x", "parameters": region}]}, DATA))[0] is Code.UNIMPLEMENTED


RAW = {b"inference-header-content-length": b"0"}


@pytest.mark.parametrize(
    ("spec", "batched", "body", "shape", "values"),
    [
        (TensorSpec("x", "FP32", (-1, 2)), True, DATA, (1, 2), [[1.0, 2.0]]),
        (TensorSpec("x", "UINT8", (-1, -1)), True, b"\x01\x02\x03", (1, 3), [[1, 2, 3]]),
        (TensorSpec("x", "UINT8", (-1, 2, -1)), True, b"\x01\x02\x03\x04", (1, 2, 2), [[[1, 2], [3, 4]]]),
        (TensorSpec("x", "UINT8", (-1,)), True, b"\x07", (1,), [7]),
        (TensorSpec("x", "UINT8", (-1,)), False, b"\x07\x08", (2,), [7, 8]),
        (TensorSpec("x", "UINT8"), False, b"\x07\x08", (2,), [7, 8]),
        (TensorSpec("x", "BYTES", (-1, 1)), True, b"\xffa", (1, 1), [[b"\xffa"]]),
        (TensorSpec("x", "BYTES", (-1, -1)), True, b"", (1, 1), [[b""]]),
        (TensorSpec("x", "BYTES", (1,)), False, b"ab", (1,), [b"ab"]),
    ],
)
def test_a_raw_call_is_one_row_of_the_only_input(
    spec: TensorSpec, batched: bool, body: bytes, shape: tuple[int, ...], values: Any
) -> None:
    """Its size decides the one size that the signature leaves open; a string stands there as it is."""
    version = of(spec, batched=batched)

    request = bound(RAW, body, version)
    _, data, reply = answered(RAW, body, version)

    assert request.inputs["x"].shape == shape
    assert request.inputs["x"].tolist() == values
    assert data.endswith(body)
    assert reply.content_type == b"application/octet-stream"


@pytest.mark.parametrize(
    ("version", "body", "text"),
    [
        (TWO, b"", "raw binary data is for models with exactly one input, model 'm' has 2"),
        (
            of(TensorSpec("x", "UINT8", (-1, -1))),
            b"1",
            "raw binary data does not tell the shape of input 'x' for model 'm', [-1, -1] is all that is known",
        ),
        (ONE, b"123", "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 3"),
        (ONE, DATA * 2, "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 16"),
        (
            of(TensorSpec("x", "FP32", (-1, -1)), batched=True),
            b"12345",
            "input byte size mismatch for input 'x' for model 'm'. Expected 4, got 5",
        ),
        (
            of(TensorSpec("x", "BYTES", (2,))),
            b"12345",
            "expected 2 string elements for inference input 'x' for model 'm', got 1",
        ),
    ],
)
def test_a_raw_call_that_leaves_something_open_is_refused(version: Served, body: bytes, text: str) -> None:
    """Several inputs, several open sizes, bytes that make no tensor."""
    assert refusal(RAW, body, version) == (Code.INVALID_ARGUMENT, text)


def tensors() -> st.SearchStrategy[Mapping[str, Any]]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
    numbers = st.sampled_from([name for name in DTYPES if name not in ("BYTES", "BF16")]).flatmap(
        lambda name: hnp.arrays(DTYPES[name], shapes)
    )
    bf16 = hnp.arrays(np.uint16, shapes).map(lambda bits: bits.view(DTYPES["BF16"]))
    texts = hnp.arrays(object, shapes, elements=st.binary(max_size=4), fill=st.nothing())
    return st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5), numbers | bf16 | texts, min_size=1, max_size=3
    )


@given(tensors(), st.text(st.characters(codec="utf-8"), max_size=4))
def test_every_array_goes_to_a_server_and_back(inputs: Mapping[str, Any], name: str) -> None:
    """encode_request, parse, bind, encode and decode_response leave names, datatypes, shapes and bits as they are."""
    version = of(*(TensorSpec(key, datatype_of(array)) for key, array in inputs.items()))

    body, length = oip_binary.encode_request(inputs, list(inputs)[:1], {"p": 1}, name)
    request = bound({b"inference-header-content-length": b"%d" % length}, body, version)
    reply = oip_http.encode(request, InferenceResponse(request.version, inputs))
    sizes = [int(value) for _, value in reply.headers]
    response = oip_binary.decode_response(reply.body, sizes[0] if sizes else len(reply.body))

    (first,) = response.outputs
    assert first == next(iter(inputs))
    assert request.parameters == {"p": 1}
    for key, array in inputs.items():
        assert request.inputs[key].dtype == array.dtype
        assert request.inputs[key].shape == array.shape
        assert request.inputs[key].tolist() == array.tolist() or request.inputs[key].tobytes() == array.tobytes()
    assert response.outputs[first].tolist() == inputs[first].tolist() or (
        response.outputs[first].tobytes() == inputs[first].tobytes()
    )


@given(
    st.sampled_from([ONE, TWO, HALF, of(TensorSpec("x", "BYTES"))]),
    st.lists(
        st.builds(
            raw,
            st.sampled_from(["x", "a", "b", "h", "s"]),
            st.sampled_from([0, 1, 4, 8, 16, -1, 2**31, 2**63, None, "8", 8.0, [8], True]),
            st.lists(st.sampled_from([0, 1, 2, -1, 2**31, 2**63, 2**70]), max_size=3),
            st.sampled_from([*DTYPES, "", "fp32"]),
        ),
        max_size=3,
    ),
    st.binary(max_size=40) | st.sampled_from([DATA, DATA * 2, b"\x01\0\0\0a"]),
    st.integers(-3, 3) | st.sampled_from([-10_000, 10_000, 10**30]),
)
def test_any_lengths_and_sizes_are_a_request_or_a_refusal(
    version: Served, inputs: list[Any], data: bytes, shift: int
) -> None:
    """A header that points elsewhere, sizes and shapes that do not fit, data of any length."""
    headers, body = call({"inputs": inputs}, data)
    length = int(headers[b"inference-header-content-length"]) + shift
    headers = {b"inference-header-content-length": str(length).encode()}

    try:
        request = bound(headers, body, version)
    except DukouError as error:
        json.loads(oip_http.refuse(error))
        return

    for spec in request.signature.inputs:
        assert request.inputs[spec.name].dtype == DTYPES[spec.datatype]
        assert spec.fits(request.inputs[spec.name].shape)


@given(st.binary(max_size=30), st.integers(0, 200))
def test_any_answer_is_read_or_refused_by_a_client(data: bytes, json_bytes: int) -> None:
    """A server can send anything and say anything of it."""
    body = json.dumps({"model_name": "m", "outputs": [raw("x", 8)]}).encode() + data

    try:
        oip_binary.decode_response(body, json_bytes)
    except DukouError:
        pass


def test_text_without_a_utf8_form_cannot_be_sent() -> None:
    """By a client or in an answer."""
    half = np.array(["\ud800"], object)

    with pytest.raises(DukouError) as caught:
        oip_binary.encode_request({"x": half})
    assert caught.value.reason is Reason.NOT_SUPPORTED
