"""The client's side of the Open Inference Protocol in JSON."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oip_rig import bound, of

from dukou.core.errors import DukouError, Reason
from dukou.core.message import InferenceResponse
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.core.version import ModelVersion
from dukou.wire import oip_http, oip_json


@pytest.mark.parametrize("body", [b"", b"{}", b'{"inputs": 1, "outputs": 2}', b"\xff"])
def test_what_is_no_metadata_or_response_is_refused(body: bytes) -> None:
    """As a DukouError, never another exception."""
    for decode in (oip_json.decode_metadata, oip_json.decode_response):
        with pytest.raises(DukouError):
            decode(body)


@pytest.mark.parametrize(
    ("version", "number"), [('"3"', 3), ("3", 3), ('"v1.2"', 0), ("null", 0), ('"99999999999999999999"', 0)]
)
def test_a_client_takes_any_version(version: str, number: int) -> None:
    """Free text in the protocol; 0 where it is no number."""
    body = f'{{"model_name": "m", "model_version": {version}, "outputs": []}}'.encode()

    assert oip_json.decode_response(body).version == ModelVersion("m", number)
    assert oip_json.decode_response(b'{"outputs": []}').version == ModelVersion("", 0)


def test_a_client_reads_datatypes_that_servers_send_against_the_protocol() -> None:
    """FP16 as JSON numbers is read, a datatype without a NumPy form is refused."""
    body = b'{"model_name": "m", "outputs": [{"name": "h", "datatype": "%b", "shape": [2], "data": [1, 0.5]}]}'

    assert oip_json.decode_response(body % b"FP16").outputs["h"].dtype == np.float16
    with pytest.raises(DukouError) as caught:
        oip_json.decode_response(body % b"BF16")
    assert caught.value.reason is Reason.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"error": 1}', '{"error": 1}'),
        (b"<html>", "<html>"),
        (b"\xff", "�"),
        (b"[" * 2000, "[" * 500),
    ],
)
def test_a_client_finds_the_message_of_any_error(body: bytes, text: str) -> None:
    """The body itself where it has another form."""
    assert oip_json.decode_error(body) == text


def tensors() -> st.SearchStrategy[Mapping[str, Any]]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
    numbers = st.sampled_from([name for name in DTYPES if name not in ("BYTES", "FP16", "BF16")]).flatmap(
        lambda name: hnp.arrays(DTYPES[name], shapes)
    )
    words = hnp.arrays(object, shapes, elements=st.text(st.characters(codec="utf-8"), max_size=4), fill=st.nothing())
    return st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), numbers | words, min_size=1, max_size=3)


@given(tensors(), st.text(st.characters(codec="utf-8"), max_size=4))
def test_every_array_goes_to_a_server_and_back(inputs: Mapping[str, Any], name: str) -> None:
    """encode_request, parse, bind, encode and decode_response leave names, datatypes, shapes and values as they are."""
    version = of(*(TensorSpec(key, datatype_of(array)) for key, array in inputs.items()))

    request = bound(oip_json.encode_request(inputs, list(inputs)[:1], {"p": 1}, name), version)
    reply = oip_http.encode(request, InferenceResponse(request.version, inputs))
    response = oip_json.decode_response(reply.body)

    (first,) = response.outputs
    assert first == next(iter(inputs))
    assert request.parameters == {"p": 1}
    assert json.loads(reply.body).get("id", "") == name
    for key, array in inputs.items():
        assert request.inputs[key].dtype == array.dtype
        assert request.inputs[key].shape == array.shape
        assert np.array_equal(request.inputs[key], array, equal_nan=array.dtype.kind == "f")
    assert np.array_equal(response.outputs[first], inputs[first], equal_nan=inputs[first].dtype.kind == "f")


def test_a_client_cannot_send_what_json_cannot_carry() -> None:
    """FP16 and bytes that are no text."""
    for array in (np.zeros(1, np.float16), np.array([b"\xff"], object)):
        with pytest.raises(DukouError):
            oip_json.encode_request({"x": array})
