"""Generate: a flat object in, one out."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oip_rig import REF, of

from dukou.core.errors import Code, DukouError
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import TensorSpec
from dukou.core.tensor import DTYPES
from dukou.wire import oip_generate
from dukou.wire.json_text import SMALL

TEXT = of(TensorSpec("text", "BYTES", (-1, 1)), TensorSpec("n", "INT32", (-1, 1)), batched=True)
ROW = of(TensorSpec("x", "FP32", (-1, 2)), batched=True)
OPEN = of(TensorSpec("x", "FP32"))


def bound(tree: Any, version: Served = TEXT) -> InferenceRequest:
    body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return oip_generate.bind(oip_generate.parse(REF, {}, body), version, Context())


def answer(outputs: Mapping[str, Any], tree: Any, version: Served = TEXT, **parameters: Any) -> Any:
    request = bound(tree, version)
    return json.loads(oip_generate.encode(request, InferenceResponse(version.id, outputs, parameters)).body)


def refusal(tree: Any, version: Served = TEXT) -> tuple[Code, str]:
    with pytest.raises(DukouError) as caught:
        bound(tree, version)
    return caught.value.code, json.loads(oip_generate.refuse(caught.value))["error"]


def test_members_named_like_inputs_are_inputs_the_rest_are_parameters() -> None:
    """Those may stand together as well; all outputs are wanted."""
    request = bound({"text": "hi", "n": 3, "stream": False, "parameters": {"top": 5, "stream": True}, "off": None})

    assert {name: array.tolist() for name, array in request.inputs.items()} == {"text": [["hi"]], "n": [[3]]}
    assert request.parameters == {"top": 5, "stream": False}
    assert request.outputs == ("text", "n")
    assert request.rows == 1


@pytest.mark.parametrize(
    ("version", "value", "shape"),
    [
        (ROW, [1, 2], (1, 2)),
        (ROW, [[1, 2], [3, 4]], (2, 2)),
        (of(TensorSpec("x", "FP32", (-1,)), batched=True), 1, (1,)),
        (of(TensorSpec("x", "FP32", (1, 1, 1))), 1, (1, 1, 1)),
        (of(TensorSpec("x", "FP32", ())), 1, ()),
        (OPEN, 1, (1,)),
        (OPEN, [1, 2], (2,)),
        (of(TensorSpec("x", "FP32", (-1, -1)), batched=True), list(range(5000)), (1, 5000)),
    ],
)
def test_a_value_with_fewer_axes_stands_for_one_row(version: Served, value: Any, shape: tuple[int, ...]) -> None:
    """Axes of size 1 are put before its own."""
    assert bound({"x": value}, version).inputs["x"].shape == shape


def test_an_answer_is_one_object() -> None:
    """Outputs of one value are that value, others are flat; a response of several need not have all."""
    said = answer(
        {"text": np.array([["a"]], object), "n": np.array([[1, 2], [3, 4]], np.int32)},
        {"text": "x", "n": 1, "id": "7"},
        fin=True,
    )

    assert said == {"model_name": "m", "model_version": "1", "id": "7", "fin": True, "text": "a", "n": [1, 2, 3, 4]}
    assert answer({}, {"text": "x", "n": 1}) == {"model_name": "m", "model_version": "1"}
    assert answer({"n": np.array([], np.int32)}, {"text": "x", "n": 1})["n"] == []
    assert answer({"n": np.array(7)}, {"text": "x", "n": 1})["n"] == 7


@pytest.mark.parametrize(
    ("tree", "version", "text"),
    [
        (b"", TEXT, "failed to parse the request JSON buffer: The document is empty"),
        ([1], TEXT, "a JSON object is wanted, with a member for each input"),
        ({"parameters": 1, "text": "x", "n": 1}, TEXT, "'parameters' must be an object"),
        (
            {"text": "x", "n": 1, "k": [1]},
            TEXT,
            "model 'm', version 1: the parameter 'k' must be a string, a number or a boolean, not [1]",
        ),
        (
            {"text": "x"},
            TEXT,
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['text'], but missing required input(s) "
            "['n']. Please provide all required input(s).",
        ),
        (
            {"text": "x", "n": "1"},
            TEXT,
            "model 'm', version 1, input 'n': \"1\" came where INT32 is wanted",
        ),
        ({"x": [1, 2, 3]}, ROW, "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,3]. "),
        (
            {"x": [[1, 2], [3]]},
            ROW,
            "model 'm', version 1, input 'x', row 1: the rows have different shapes: [1] came after [2]",
        ),
        (
            {"x": 1},
            of(TensorSpec("x", "FP16")),
            "model 'm', version 1: sending FP16 data via JSON is not supported. Please use the binary data format for "
            "input 'x'",
        ),
        (
            {"x": [1, 2], "triton_x": 1},
            ROW,
            "model 'm', version 1: the parameter 'triton_x' is reserved for Triton usage, use another",
        ),
    ],
)
def test_other_calls_are_refused(tree: Any, version: Served, text: str) -> None:
    """In the words of the protocol."""
    assert refusal(tree, version) == (Code.INVALID_ARGUMENT, text)


def test_an_output_without_a_json_form_is_refused() -> None:
    """As everywhere in JSON."""
    with pytest.raises(DukouError):
        answer({"n": np.zeros(1, np.float16)}, {"text": "x", "n": 1})


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(["x", "text", "n", "id", "parameters", "timeout", "p"]), TREES, max_size=5) | TREES,
    st.sampled_from([TEXT, ROW, OPEN, *(of(TensorSpec("x", datatype)) for datatype in DTYPES)]),
    st.booleans(),
)
def test_any_json_value_is_a_request_or_a_refusal(tree: Any, version: Served, large: bool) -> None:
    """And what it echoes can be written."""
    try:
        request = bound(json.dumps(tree).encode() + b" " * (SMALL if large else 0), version)
        oip_generate.encode(request, InferenceResponse(version.id, request.inputs))
    except DukouError as error:
        json.loads(oip_generate.refuse(error))
