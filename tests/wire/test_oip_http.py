"""Infer calls of the Open Inference Protocol over HTTP: what they ask for, what they are answered, error texts."""

import json
from typing import Any

import numpy as np
import pytest
from oip_rig import GOOD, ONE, TWO, answer, body_of, bound, of, refusal, tensor

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.testing.models import manifest, served
from dukou.wire import oip_http


@pytest.mark.parametrize(
    ("data", "shape", "flat"),
    [
        ([1, 2, 3, 4], [2, 2], [1.0, 2.0, 3.0, 4.0]),
        ([[1, 2], [3, 4]], [2, 2], [1.0, 2.0, 3.0, 4.0]),
        ([0.1, float("nan")], [1, 2], None),
        ([1, float("inf")], [1, 2], [1.0, float("inf")]),
    ],
)
def test_data_comes_flat_or_nested_and_goes_out_flat(data: Any, shape: list[int], flat: Any) -> None:
    """In row-major order, with not-finite numbers as tokens."""
    result = answer(body_of(tensor(data, shape)))

    (output,) = result["outputs"]
    assert output["shape"] == shape
    assert output["datatype"] == "FP32"
    assert flat is None or output["data"] == flat
    assert np.allclose(np.ravel(data), output["data"], equal_nan=True)


def test_the_answer_names_the_model_its_version_and_the_request() -> None:
    """`id` is there only where one was sent."""
    assert answer(body_of(tensor([1, 2], [1, 2]), id="7")) == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }
    assert "id" not in answer(body_of(tensor([1, 2], [1, 2])))
    assert answer(body_of(tensor([1, 2], [1, 2]), id=""))["id"] == ""


def test_outputs_are_those_asked_for_in_that_order() -> None:
    """None asked for means all."""
    inputs = [tensor([1], [1], "a", "INT32"), tensor([2], [1], "b", "INT32")]

    every = answer(body_of(*inputs), TWO)
    one = answer(body_of(*inputs, outputs=[{"name": "b"}]), TWO)
    turned = answer(body_of(*inputs, outputs=[{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}]), TWO)

    assert [output["name"] for output in every["outputs"]] == ["a", "b"]
    assert [output["name"] for output in one["outputs"]] == ["b"]
    assert [output["name"] for output in turned["outputs"]] == ["b", "a"]


def test_inputs_may_come_in_any_order_and_parameters_reach_the_model() -> None:
    """What concerns the form of the answer does not."""
    request = bound(
        body_of(
            tensor([2], [1], "b", "INT32"),
            tensor([1], [1], "a", "INT32", parameters={"content_type": "np"}),
            parameters={"temperature": 0.5, "binary_data_output": False},
        ),
        TWO,
    )

    assert list(request.inputs) == ["a", "b"]
    assert request.parameters == {"temperature": 0.5}


@pytest.mark.parametrize("value", ["null", "é", ""])
def test_strings_are_text_both_ways(value: str) -> None:
    """BYTES in JSON is UTF-8; the word null stays a word."""
    result = answer(body_of(tensor([value], [1], datatype="BYTES")), of(TensorSpec("x", "BYTES", (-1,))))

    assert result["outputs"][0]["data"] == [value]


def test_a_large_body_is_as_exact_as_a_small_one() -> None:
    """Above 4 KB another parser reads it."""
    data = [[2**53 + row, -row] for row in range(1000)]

    result = answer(body_of(tensor(data, [1000, 2], datatype="INT64")), of(TensorSpec("x", "INT64", (-1, 2))))

    assert result["outputs"][0]["data"] == [value for row in data for value in row]


@pytest.mark.parametrize(
    ("body", "version", "text"),
    [
        (
            b"{bad",
            ONE,
            "failed to parse the request JSON buffer: Expecting property name enclosed in double quotes at offset 1",
        ),
        (b"[1]", ONE, "Expected `object`, got `array`"),
        (b"{}", ONE, "Object missing required field `inputs`"),
        (body_of({"name": "x"}), ONE, "Object missing required field `shape` - at `$.inputs[0]`"),
        (body_of(tensor([1, 2], [1, "2"])), ONE, "Expected `int`, got `str` - at `$.inputs[0].shape[1]`"),
        (
            body_of({"name": "x", "shape": [1, 2], "datatype": "FP32"}),
            ONE,
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            "'shared_memory_region' in 'parameters'. Input 'x' for model 'm' sets none of them",
        ),
        (body_of(GOOD, GOOD), ONE, "input 'x' already exists in request"),
        (
            body_of(),
            ONE,
            "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['x']. "
            "Please provide all required input(s).",
        ),
        (
            body_of(tensor([1], [1], "a", "INT32")),
            TWO,
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], but missing required input(s) "
            "['b']. Please provide all required input(s).",
        ),
        (
            body_of(GOOD, tensor([1], [1], "y")),
            ONE,
            "expected 1 inputs but got 2 inputs for model 'm'. Got input(s) ['x', 'y'], wanted are ['x'].",
        ),
        (body_of(tensor([1, 2], [1, 2], "y")), ONE, "unexpected inference input 'y' for model 'm'"),
        (
            body_of(tensor([1, 2], [1, 2], datatype="INT32")),
            ONE,
            "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
        ),
        (
            body_of(tensor([1, 2], [1, 2], datatype="BF16")),
            ONE,
            "inference input 'x' data-type is 'BF16', but model 'm' expects 'FP32'",
        ),
        (
            body_of(tensor([1, 2, 3], [1, 3])),
            ONE,
            "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,3]. ",
        ),
        (body_of(tensor([1, 2], [2])), ONE, "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [2]. "),
        (
            body_of(tensor([1, 2, 3], [1, 2])),
            ONE,
            "unable to parse 'data' of input 'x' for model 'm': shape [1,2] does not match true shape of 'data', "
            "which has 3 elements",
        ),
        (
            body_of(tensor([1, 2], [-1, -2])),
            ONE,
            "unable to parse 'data' of input 'x' for model 'm': shape [-1,-2] does not match true shape of 'data', "
            "which has 2 elements",
        ),
        (body_of(tensor([0] * 18, [9, 2])), ONE, "inference request batch-size must be <= 8 for 'm'"),
        (body_of(tensor([], [0, 2])), ONE, "model 'm', version 1: no rows came"),
        (
            body_of(tensor([1, 2], [2], "a", "INT32"), tensor([1], [1], "b", "INT32")),
            TWO,
            "input 'b' batch size does not match other inputs for 'm'",
        ),
        (
            body_of(tensor([[1, 2], [3]], [1, 3])),
            ONE,
            "model 'm', version 1, input 'x', row 1: the rows have different shapes: [1] came after [2]",
        ),
        (
            body_of(tensor([1, "2"], [1, 2])),
            ONE,
            "model 'm', version 1, input 'x', row 0: \"2\" came where FP32 is wanted",
        ),
        (
            body_of(tensor([1, 2, 3, None], [2, 2])),
            ONE,
            "model 'm', version 1, input 'x', row 1: null came where FP32 is wanted",
        ),
        (
            body_of(tensor([[1, 2], [3, True]], [2, 2])),
            ONE,
            "model 'm', version 1, input 'x', row 1: true came where FP32 is wanted",
        ),
        (
            body_of(tensor([1.5], [1], "a", "INT32"), tensor([1], [1], "b", "INT32")),
            TWO,
            "model 'm', version 1, input 'a', row 0: 1.5 came where INT32 is wanted",
        ),
        (body_of(GOOD, outputs=[{"name": "z"}]), ONE, "unexpected inference output 'z' for model 'm'"),
        (body_of(GOOD, outputs=[{"name": "x"}, {"name": "x"}]), ONE, "output 'x' already exists in request"),
        (
            body_of(tensor([1], [1], datatype="FP16")),
            of(TensorSpec("x", "FP16", (-1,))),
            "model 'm', version 1: sending FP16 data via JSON is not supported. Please use the binary data format for "
            "input 'x'",
        ),
    ],
)
def test_a_wrong_request_is_refused_in_these_words(body: bytes, version: Served, text: str) -> None:
    """Triton's where clients look for them."""
    assert refusal(body, version) == (Code.INVALID_ARGUMENT, text)


HUGE = [10**4000] * 1000


@pytest.mark.timeout(10)
@pytest.mark.parametrize("data", [[1, 2], [1, None]])
@pytest.mark.parametrize("shape", [HUGE, [-1, *HUGE], [0, *HUGE], [1] * 33, [2**49], [-(2**49)], [1, 10**400]])
def test_no_time_is_spent_on_shapes_that_no_tensor_has(data: Any, shape: list[int]) -> None:
    """The product of many large numbers would take minutes."""
    code, text = refusal(body_of(tensor(data, shape)))

    assert code is Code.INVALID_ARGUMENT
    assert "no tensor has the stated shape" in text or "null came where FP32 is wanted" in text


@pytest.mark.parametrize("nested", [True, False])
def test_the_row_of_a_wrong_value_is_named_in_large_bodies_too(nested: bool) -> None:
    """Flat or nested, by the stated shape."""
    rows = np.zeros((1000, 2), int).tolist()
    rows[7][1] = 2**40
    data = rows if nested else [value for row in rows for value in row]

    code, text = refusal(body_of(tensor(data, [1000, 2], datatype="INT32")), of(TensorSpec("x", "INT32", (-1, 2))))

    assert code is Code.INVALID_ARGUMENT
    assert text == "model 'm', version 1, input 'x', row 7: 1099511627776 came where INT32 is wanted"


@pytest.mark.parametrize(
    "body",
    [
        body_of({"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}),
        body_of(GOOD, outputs=[{"name": "x", "parameters": {"shared_memory_region": "r"}}]),
        body_of(GOOD, parameters={"sequence_id": 3}),
    ],
)
def test_extensions_that_are_not_there_are_said_to_be_missing(body: bytes) -> None:
    """UNIMPLEMENTED, instead of an answer to another question."""
    assert refusal(body)[0] is Code.UNIMPLEMENTED


def test_an_fp16_output_is_refused_before_the_model_runs() -> None:
    """Unless it is not asked for."""
    signature = Signature(
        DEFAULT_SIGNATURE, (TensorSpec("x", "FP32"),), (TensorSpec("h", "FP16"), TensorSpec("f", "FP32")), batched=False
    )
    version = served(manifest("m", 1, (signature,)))

    assert refusal(body_of(GOOD), version) == (
        Code.INVALID_ARGUMENT,
        "model 'm', version 1: receiving FP16 data via JSON is not supported. Please use the binary data format for "
        "output 'h'",
    )
    assert bound(body_of(GOOD, outputs=[{"name": "f"}]), version).outputs == ("f",)


@pytest.mark.parametrize("array", [np.array([1], np.float16), np.array([b"\xff"], object)])
def test_an_output_that_json_cannot_carry_is_refused(array: Any) -> None:
    """FP16 and bytes that are no text."""
    request = bound(body_of(GOOD))

    with pytest.raises(DukouError):
        oip_http.encode(request, InferenceResponse(request.version, {"x": array}))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DukouError(Reason.MODEL_NOT_FOUND, model="no", served="a"), "Request for unknown model: 'no' is not found"),
        (
            DukouError(Reason.VERSION_NOT_FOUND, model="m", version=9),
            "Request for unknown model: 'm' version 9 is not found",
        ),
        (
            DukouError(Reason.QUEUE_FULL, model="m", got=9, wanted=8),
            "Exceeds maximum queue size for model 'm': 9 rows are waiting, 8 is the most; try again soon",
        ),
    ],
)
def test_errors_of_other_steps_have_this_protocols_words(error: DukouError, text: str) -> None:
    """Where clients look for them; the rest keep the default sentence."""
    assert json.loads(oip_http.refuse(error)) == {"error": text}
