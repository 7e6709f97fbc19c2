"""TensorFlow Serving's REST API: forms of a predict body, order and texts of its errors, answers, status."""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES
from dukou.core.version import ModelRef, ModelVersion, State
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import tf_errors, tf_rest

REF = ModelRef("m")


def of(*inputs: TensorSpec, batched: bool = False) -> Served:
    """A model that answers with its inputs under the same names."""
    signature = Signature(DEFAULT_SIGNATURE, inputs, inputs, batched=batched)
    return served(manifest("m", 1, (signature,)), Direct(FunctionModel(dict)))


def spec(name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] | None = None) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


OPEN = of(spec())
PAIR = of(spec("a"), spec("b"))
WORDS = of(spec("s", "BYTES"))
IRIS = served()


def bound(body: bytes, version: Served = OPEN) -> InferenceRequest:
    return tf_rest.bind(tf_rest.parse(REF, {}, body), version, Context())


def answer(body: bytes, version: Served = OPEN) -> str:
    request = bound(body, version)
    assert version.stage is not None
    return tf_rest.encode(request, asyncio.run(version.stage.infer(request))).body.decode()


def text_of(body: bytes, version: Served = OPEN) -> str:
    """The error text of a refused body."""
    with pytest.raises(DukouError) as caught:
        bound(body, version)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return str(json.loads(tf_rest.refuse(caught.value))["error"])


@pytest.mark.parametrize(
    ("body", "version", "expected"),
    [
        (b'{"instances": [1, 2.5]}', OPEN, '{"predictions":[1.0,2.5]}'),
        (b'{"instances": [[1], [2]]}', OPEN, '{"predictions":[[1.0],[2.0]]}'),
        (b'{"instances": [{"x": 1}, {"x": 2}]}', OPEN, '{"predictions":[1.0,2.0]}'),
        (b'{"instances": [{"x": [1, 2]}]}', OPEN, '{"predictions":[[1.0,2.0]]}'),
        (b'{"inputs": 4}', OPEN, '{"outputs":4.0}'),
        (b'{"inputs": []}', OPEN, '{"outputs":[]}'),
        (b'{"inputs": [[1, 2]]}', OPEN, '{"outputs":[[1.0,2.0]]}'),
        (b'{"inputs": {"x": [1]}}', OPEN, '{"outputs":[1.0]}'),
        (b'{"inputs": {"x": [1], "ignored": "yes"}}', OPEN, '{"outputs":[1.0]}'),
        (b'{"instances": [NaN, Infinity, -Infinity]}', OPEN, '{"predictions":[NaN,Infinity,-Infinity]}'),
        (b'{"instances": [1e300, -1e300]}', OPEN, '{"predictions":[Infinity,-Infinity]}'),
        (b'{"instances": [1], "unknown": {"a": []}} trailing', OPEN, '{"predictions":[1.0]}'),
        (b'{"signature_name": "serving_default", "instances": [1]}', OPEN, '{"predictions":[1.0]}'),
        (b'{"signature_name": "", "instances": [1]}', OPEN, '{"predictions":[1.0]}'),
        (
            b'{"instances": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]}',
            PAIR,
            '{"predictions":[{"a":1.0,"b":2.0},{"a":3.0,"b":4.0}]}',
        ),
        (b'{"inputs": {"a": [1, 3], "b": [[2], [4]]}}', PAIR, '{"outputs":{"a":[1.0,3.0],"b":[[2.0],[4.0]]}}'),
        (b'{"instances": [{"a": [1, 2], "b": [[3]]}]}', PAIR, '{"predictions":[{"a":[1.0,2.0],"b":[[3.0]]}]}'),
        (b'{"instances": ["x", {"b64": "aGk="}]}', WORDS, '{"predictions":["x","hi"]}'),
        (b'{"instances": [{"b64": "aGk="}]}', WORDS, '{"predictions":["hi"]}'),
        (b'{"instances": [{"s": {"b64": "aGk="}}]}', WORDS, '{"predictions":["hi"]}'),
        (b'{"inputs": {"b64": "aGk="}}', WORDS, '{"outputs":"hi"}'),
        (b'{"instances": [true, false]}', of(spec("x", "BOOL")), '{"predictions":[true,false]}'),
        (b'{"instances": [9007199254740993]}', of(spec("x", "INT64")), '{"predictions":[9007199254740993]}'),
        (b'{"instances": [1, 2]}', of(spec("x", "FP32", (-1, 1)), batched=True), '{"predictions":[[1.0],[2.0]]}'),
    ],
)
def test_a_predict_body_is_answered_in_its_own_form(body: bytes, version: Served, expected: str) -> None:
    """Rows for rows, columns for columns; one output bare, several named."""
    assert answer(body, version) == expected


def test_rows_come_out_with_the_values_of_their_row() -> None:
    """Also above the size where floats are written together, with strings beside them."""
    version = of(spec("a"), spec("s", "BYTES"), spec("m_bytes", "BYTES"))
    rows = [{"a": row / 8, "s": f"t,{row}", "m_bytes": {"b64": "aGk="}} for row in range(100)]

    result = json.loads(answer(json.dumps({"instances": rows}).encode(), version))

    assert result == {"predictions": rows}


@pytest.mark.parametrize(
    ("body", "version", "text"),
    [
        (b"", OPEN, "JSON Parse error: The document is empty"),
        (b"{bad", OPEN, "JSON Parse error: Expecting property name enclosed in double quotes at offset 1"),
        (b"[1]", OPEN, "JSON Value: [1] Is not object"),
        (
            b'{"signature_name": 1}',
            OPEN,
            "JSON Value: {\"signature_name\": 1} not formatted correctly. 'signature_name' key must be a string value.",
        ),
        (b'{"signature_name": "no", "x": 1}', OPEN, 'Serving signature name: "no" not found in signature def'),
        (b"{}", OPEN, "Missing 'inputs' or 'instances' key"),
        (
            b'{"instances": [1], "inputs": [1]}',
            OPEN,
            'JSON Value: {"instances": [1], "inputs": [1]} Not formatted correctly expecting only one of '
            "'inputs' or 'instances' keys to exist ",
        ),
        (b'{"instances": 1}', OPEN, "JSON Value: {\"instances\": 1} Excepting 'instances' to be an list/array"),
        (b'{"instances": []}', OPEN, "JSON Value: {\"instances\": []} No values in 'instances' array"),
        (
            b'{"instances": [1]}',
            PAIR,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        (
            b'{"inputs": [1]}',
            PAIR,
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        (b'{"inputs": {"a": [1]}}', PAIR, "Missing named input: b in 'inputs' object."),
        (b'{"instances": [{"x": 1}, 2]}', OPEN, "Expecting object but got list at item 1 of input list"),
        (b'{"instances": [1, {"x": 2}]}', OPEN, "Expecting value/list but got object at item 1 of input list"),
        (
            b'{"instances": [{"a": 1, "b": 1}, {"a": 1}]}',
            PAIR,
            "Failed to process element: 1 of 'instances' list. JSON object: {\"a\": 1} keys must be equal to: a,b",
        ),
        (
            b'{"instances": [{"x": 1, "y": 2}]}',
            OPEN,
            "Failed to process element: 0 of 'instances' list. "
            'JSON object: {"x": 1, "y": 2} keys must be equal to: x',
        ),
    ],
)
def test_a_body_of_another_form_is_refused_in_these_words(body: bytes, version: Served, text: str) -> None:
    """Clients look for them."""
    assert text_of(body, version) == text


ELEMENT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("instances", "version", "text"),
    [
        ('["x", "y"]', OPEN, ELEMENT.format(0) + 'JSON Value: "x" Type: String is not of expected type: float'),
        ("[1, null]", OPEN, ELEMENT.format(1) + "JSON Value: null Type: Null is not of expected type: float"),
        ("[1, true]", OPEN, ELEMENT.format(1) + "JSON Value: true Type: True is not of expected type: float"),
        ("[[1], [false]]", OPEN, ELEMENT.format(1) + "JSON Value: false Type: False is not of expected type: float"),
        ("[[{}]]", OPEN, ELEMENT.format(0) + "JSON Value: {} Type: Object is not of expected type: float"),
        ("[[1, 2], [3, 4], [5, 6, 7]]", OPEN, ELEMENT.format(2) + "Expecting tensor size: 2 but got: 3"),
        ("[1, [2]]", OPEN, ELEMENT.format(1) + "Expecting shape [] but got: [1]"),
        ("[[1, 2], [[1], [2]]]", OPEN, ELEMENT.format(1) + "Expecting shape [2] but got: [2,1]"),
        (
            "[[[1], [1, 2]]]",
            OPEN,
            ELEMENT.format(0) + "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        ("[[1, [2]]]", OPEN, ELEMENT.format(0) + "Encountered list at unexpected level: 1 expected < 1"),
        (
            "[[[1], 2]]",
            OPEN,
            ELEMENT.format(0) + "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            '[{"a": 1, "b": "x"}]',
            PAIR,
            ELEMENT.format("0 key: b") + 'JSON Value: "x" Type: String is not of expected type: float',
        ),
        (
            "[1.0]",
            of(spec("x", "INT32")),
            ELEMENT.format(0) + "JSON Value: 1.0 Type: Number is not of expected type: int32",
        ),
        (
            "[2147483648]",
            of(spec("x", "INT32")),
            ELEMENT.format(0) + "JSON Value: 2147483648 Type: Number is not of expected type: int32",
        ),
        (
            "[-1]",
            of(spec("x", "UINT64")),
            ELEMENT.format(0) + "JSON Value: -1 Type: Number is not of expected type: uint64",
        ),
        ("[1]", of(spec("x", "BOOL")), ELEMENT.format(0) + "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("[1]", WORDS, ELEMENT.format(0) + "JSON Value: 1 Type: Number is not of expected type: string"),
        ('[{"b64": "!"}]', WORDS, ELEMENT.format(0) + "Unable to base64 decode"),
        ('[[{"b64": 1}]]', WORDS, ELEMENT.format(0) + 'JSON Value: {"b64": 1} not formatted correctly for base64 data'),
    ],
)
def test_an_element_that_is_no_tensor_is_named(instances: str, version: Served, text: str) -> None:
    """By its place, in that server's order: its own shape and values, its size, then its shape beside the first's."""
    assert text_of(b'{"instances": ' + instances.encode() + b"}", version) == text


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ("[1, [2]]", "Encountered list at unexpected level: 1 expected < 1"),
        ("[[1, 2], [3]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ("[[1], 2]", "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('"x"', 'JSON Value: "x" Type: String is not of expected type: float'),
        ('{"x": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
    ],
)
def test_a_column_that_is_no_tensor_is_named(inputs: str, text: str) -> None:
    """Without an element's place."""
    assert text_of(b'{"inputs": ' + inputs.encode() + b"}") == text


def test_a_mistake_in_a_large_body_is_named_as_in_a_small_one() -> None:
    """Whichever parser read it."""
    rows = [[1.0, 2.0]] * 5000

    assert text_of(json.dumps({"instances": [*rows, [1.0]]}).encode()) == (
        ELEMENT.format(5000) + "Expecting tensor size: 2 but got: 1"
    )
    assert text_of(json.dumps({"instances": rows}).encode(), of(spec("x", "INT64"))) == (
        ELEMENT.format(0) + "JSON Value: 1.0 Type: Number is not of expected type: int64"
    )
    assert "Excepting" not in text_of(json.dumps({"instances": rows, "inputs": 1}).encode())
    assert text_of(b'{"inputs": [], "instances": [1]}') == text_of(b'{"inputs": [], "instances": [1]}' + b" " * 5000)


@pytest.mark.parametrize(
    ("rows", "version", "place"),
    [
        ([[1.0, 2.0]] * 50_000 + [[1.0, "x"]], OPEN, 50_000),
        ([[1.0, "x"], *[[1.0, 2.0]] * 50_000, [1.0]], OPEN, 0),
        ([[1.0, 2.0]] * 50_000 + [[1.0]], OPEN, 50_000),
        ([{"x": [1.0] * 3000}] * 30 + [{"x": [1.0] * 3001}], OPEN, 30),
        ([{"x": [1] * 3000}] * 30 + [{"x": [1.5] * 3000}], of(spec("x", "INT64")), 30),
        ([{"x": [1.0, 2.0]}] * 30_000 + [{"x": [1.0, None]}], OPEN, 30_000),
        ([1] * 50_000 + [1.5], of(spec("x", "INT64")), 50_000),
    ],
)
def test_the_mistake_is_named_without_a_walk_through_all_rows(rows: Any, version: Served, place: int) -> None:
    """A text costs what its element costs: looking at each value once more held up everybody."""
    body = json.dumps({"instances": rows}).encode()
    looked_at = 0

    def count_calls(frame: Any, event: str, _: Any) -> None:
        nonlocal looked_at
        looked_at += event == "call" and frame.f_globals["__name__"] == tf_errors.__name__

    sys.setprofile(count_calls)
    try:
        text = text_of(body, version)
    finally:
        sys.setprofile(None)

    assert text.startswith(f"Failed to process element: {place} ")
    assert looked_at < 50


@pytest.mark.parametrize("datatype", ["FP16", "UINT16"])
def test_datatypes_without_a_json_form_are_unimplemented(datatype: str) -> None:
    """As that server answers."""
    with pytest.raises(DukouError) as caught:
        bound(b'{"instances": [1]}', of(spec("x", datatype)))

    assert caught.value.code is Code.UNIMPLEMENTED
    assert "Conversion of JSON Value: [1] to type: " in tf_rest.refuse(caught.value).decode()


def test_json_is_judged_before_the_model_and_the_tensors_after() -> None:
    """`parse` refuses what is no JSON and leaves every other mistake to `bind`."""
    assert tf_rest.parse(REF, {}, b'{"instances": 1, "inputs": {}}').signature_name == ""
    assert tf_rest.parse(REF, {}, b'{"signature_name": "s"}').signature_name == "s"
    with pytest.raises(DukouError) as caught:
        tf_rest.parse(REF, {}, b"{bad")
    assert caught.value.reason is Reason.MALFORMED_JSON


def test_deep_nesting_is_a_clean_refusal() -> None:
    """Hundreds of thousands of levels do not reach the stack."""
    with pytest.raises(DukouError) as caught:
        tf_rest.parse(REF, {}, b'{"instances": ' + b"[" * 400_000 + b"]" * 400_000 + b"}")

    assert caught.value.reason is Reason.TOO_DEEP


def test_a_shape_that_the_signature_declares_is_checked() -> None:
    """With the model, the tensor and the row; a shape of unknown rank takes anything."""
    assert text_of(b'{"instances": [[1, 2, 3]]}', IRIS) == (
        "model 'iris', version 1, input 'X', row 0: 3 values came, 4 are wanted"
    )
    assert text_of(b'{"instances": [1, 2, 3, 4]}', IRIS) == (
        "model 'iris', version 1, input 'X': shape [4] came, [-1, 4] is wanted"
    )


def test_records_of_a_frame_are_rows() -> None:
    """A model with named columns takes objects of columns."""
    version = of(TensorSpec("X", "FP32", (-1, 2), ("w", "l")), batched=True)

    assert (
        answer(b'{"instances": [{"l": 2, "w": 1}, {"w": 3, "l": 4}]}', version)
        == '{"predictions":[[1.0,2.0],[3.0,4.0]]}'
    )


def test_one_input_for_each_column_takes_named_rows() -> None:
    """Scalars of a row become `[rows, 1]`."""
    version = of(spec("age", "FP32", (-1, 1)), spec("work", "BYTES", (-1, 1)), batched=True)

    request = bound(b'{"instances": [{"age": 39, "work": "Private"}, {"work": "Self", "age": 1}]}', version)

    assert request.rows == 2
    assert request.inputs["age"].tolist() == [[39.0], [1.0]]
    assert request.inputs["work"].tolist() == [["Private"], ["Self"]]


def encoded(outputs: Mapping[str, Any], by_row: bool = True) -> str:
    request = InferenceRequest(
        ModelVersion("m", 1), Signature("s", (), ()), {}, tuple(outputs), 1, Context(), reply=by_row
    )
    return tf_rest.encode(request, InferenceResponse(request.version, outputs)).body.decode()


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"y": np.array(1.0, np.float32)}, "Tensor name: y has no shape information "),
        (
            {"a": np.zeros(2), "b": np.zeros(3)},
            "Tensor name: b has inconsistent batch size: 3 expecting: 2",
        ),
    ],
)
def test_outputs_that_are_no_rows_are_refused_in_row_form(outputs: Mapping[str, Any], text: str) -> None:
    """Even though the model ran; the column form can say them."""
    with pytest.raises(DukouError) as caught:
        encoded(outputs)

    assert json.loads(tf_rest.refuse(caught.value)) == {"error": text}
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert json.loads(encoded(outputs, by_row=False))


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"y": np.zeros((0, 3), np.float32)}, '{"predictions":[]}'),
        ({"a": np.zeros(0), "b": np.zeros(0)}, '{"predictions":[]}'),
        ({"y": np.array([1, 2])}, '{"predictions":[1,2]}'),
        ({"y": np.array(["a", "b"], object)}, '{"predictions":["a","b"]}'),
        ({"y_bytes": np.array([b"hi"], object)}, '{"predictions":[{"b64":"aGk="}]}'),
        ({"y_bytes": np.array([1.0])}, '{"predictions":[1.0]}'),
        ({"y": np.array([2.05, 0.1], np.float32)}, '{"predictions":[2.05,0.1]}'),
        ({"y": np.array([np.nan]), "z": np.array([[np.inf]])}, '{"predictions":[{"y":NaN,"z":[Infinity]}]}'),
    ],
)
def test_outputs_are_written_by_name_and_datatype(outputs: Mapping[str, Any], text: str) -> None:
    """Strings whose name ends in _bytes are base64."""
    assert encoded(outputs) == text


def test_bytes_that_are_no_text_need_a_name_that_says_so() -> None:
    """Rather than a wrong letter."""
    with pytest.raises(DukouError) as caught:
        encoded({"y": np.array([b"\xff"], object)})

    assert caught.value.reason is Reason.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DukouError(Reason.MODEL_NOT_FOUND, model="half", served="a"), "Servable not found for request: Latest(half)"),
        (
            DukouError(Reason.MODEL_NOT_FOUND, model="half", version=3),
            "Servable not found for request: Specific(half, 3)",
        ),
        (
            DukouError(Reason.VERSION_NOT_FOUND, model="m", version=99),
            "Servable not found for request: Specific(m, 99)",
        ),
        (DukouError(Reason.LABEL_NOT_FOUND, model="m", label="nope"), "Unrecognized servable version label: nope"),
        (DukouError(Reason.MALFORMED_JSON, detail="what"), "JSON Parse error: what"),
        (
            DukouError(Reason.MODEL_NOT_READY, model="m", version=1, state="LOADING", detail=""),
            "model 'm', version 1: this version is LOADING, not AVAILABLE",
        ),
        (
            DukouError(Reason.MODEL_FAILED, model="m", version=1),
            "model 'm', version 1: the model failed; the server's log says why",
        ),
    ],
)
def test_errors_of_other_steps_have_this_protocols_words(error: DukouError, text: str) -> None:
    """Where clients look for them; the rest keep the default sentence."""
    assert json.loads(tf_rest.refuse(error)) == {"error": text}


def test_status_lists_versions_highest_first_with_their_errors() -> None:
    """A version that failed to load stays listed as END with its error; versions are strings."""
    broken = DukouError(Reason.DIGEST_MISMATCH, path="model.onnx", got="1", wanted="2")
    large = DukouError(Reason.BODY_TOO_LARGE, wanted=1)
    versions = {
        1: served(manifest("m", 1), state=State.END, error=broken),
        2: served(manifest("m", 2)),
        3: served(manifest("m", 3), state=State.LOADING),
        4: served(manifest("m", 4), state=State.END, error=large),
    }

    every = json.loads(tf_rest.model_status("m", versions, None))["model_version_status"]
    one = json.loads(tf_rest.model_status("m", versions, 2))["model_version_status"]

    assert [(status["version"], status["state"]) for status in every] == [
        ("4", "END"),
        ("3", "LOADING"),
        ("2", "AVAILABLE"),
        ("1", "END"),
    ]
    assert every[0]["status"]["error_code"] == "RESOURCE_EXHAUSTED"
    assert every[3]["status"] == {"error_code": "DATA_LOSS", "error_message": str(broken)}
    assert one == [{"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]


@given(
    st.sampled_from(["BOOL", "INT64", "FP32", "FP64"]).flatmap(
        lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3))
    )
)
def test_each_row_has_its_own_values(array: Any) -> None:
    """Whatever the shape: a column is written once and split."""
    outputs = {"y": array, "s": np.array([f'"],[{row}' for row in range(len(array))], object)}
    signature = OPEN.manifest.signature("")
    request = InferenceRequest(ModelVersion("m", 1), signature, {}, ("y", "s"), 1, Context(), reply=True)

    rows = json.loads(tf_rest.encode(request, InferenceResponse(ModelVersion("m", 1), outputs)).body)["predictions"]

    assert len(rows) == len(array)
    for row, wanted, text in zip(rows, array, outputs["s"], strict=True):
        np.testing.assert_array_equal(np.array(row["y"], array.dtype).ravel(), wanted.ravel())
        assert row["s"] == text


@pytest.mark.parametrize(
    ("versions", "version", "text"),
    [
        ({}, None, "Could not find any versions of model m"),
        ({}, 1, "Could not find any versions of model m"),
        ({1: served(manifest("m", 1))}, 2, "Could not find version 2 of model m"),
    ],
)
def test_status_of_what_is_not_there(versions: dict[int, Served], version: int | None, text: str) -> None:
    """NOT_FOUND, in these words."""
    with pytest.raises(DukouError) as caught:
        tf_rest.model_status("m", versions, version)

    assert caught.value.code is Code.NOT_FOUND
    assert json.loads(tf_rest.refuse(caught.value)) == {"error": text}


@given(
    st.sampled_from([name for name in DTYPES if name not in ("BYTES", "FP16", "BF16", "UINT16")]).flatmap(
        lambda name: st.tuples(st.just(name), hnp.arrays(DTYPES[name], hnp.array_shapes(max_dims=3)))
    ),
    st.sampled_from(["instances", "inputs"]),
)
def test_an_array_comes_back_as_it_went(typed: tuple[str, Any], key: str) -> None:
    """For every datatype with a JSON form, in both forms."""
    datatype, array = typed

    result = json.loads(answer(json.dumps({key: array.tolist()}).encode(), of(spec("x", datatype))))

    (values,) = result.values()
    assert np.array_equal(np.array(values, array.dtype), array, equal_nan=array.dtype.kind == "f")
