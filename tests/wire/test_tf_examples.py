"""Classify and regress, by REST and gRPC: examples to inputs, outputs to classes and values, and what is refused."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors
from dukou.core.version import ModelRef
from dukou.protos.pool import message
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import tf_examples, tf_grpc_examples, tf_rest_examples
from dukou.wire.codec import Codec
from dukou.wire.tf_examples import Examples, Feature, to_inputs

REF = ModelRef("m")
CLASSIFY, REGRESS = tf_rest_examples.CLASSIFY, tf_rest_examples.REGRESS


def of(
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    fn: Callable[[Tensors], Tensors] = dict,
    method: str = "predict",
    *,
    batched: bool = True,
) -> Served:
    signature = Signature(DEFAULT_SIGNATURE, inputs, outputs, method, batched)
    return served(manifest("m", 3, (signature,), options={"max_request_rows": 100}), Direct(FunctionModel(fn)))


def spec(name: str, datatype: str = "FP32", shape: tuple[int, ...] | None = (-1, 1), **more: Any) -> TensorSpec:
    return TensorSpec(name, datatype, shape, **more)


def half_plus_two(inputs: Tensors) -> Tensors:
    return {name: inputs["x"] / 2 + np.float32(2) for name in ("scores", "outputs")}


HALVES = of((spec("x"),), (spec("scores"),), half_plus_two, "classify")
VALUES = of((spec("x"),), (spec("outputs"),), half_plus_two, "regress")


def iris(inputs: Tensors) -> Tensors:
    rows = len(next(iter(inputs.values())))
    return {
        "label": np.full(rows, 2, np.int64),
        "probabilities": np.tile([0.25, 0.5, 0.25], (rows, 1)),
        "y": np.arange(rows) / 4,
    }


LABEL = spec("label", "INT64", (-1,))
PROBABILITIES = spec("probabilities", "FP64", (-1, 3))
NAMED = spec("probabilities", "FP64", (-1, 3), columns=("setosa", "versicolor", "virginica"))
FLOWER = spec("X", "FP64", (-1, 2), columns=("length", "width"))


def bound(codec: Codec, body: bytes, version: Served) -> InferenceRequest:
    return codec.bind(codec.parse(REF, {}, body), version, Context())


def answer(codec: Codec, body: bytes, version: Served) -> bytes:
    request = bound(codec, body, version)
    assert version.stage is not None
    return codec.encode(request, asyncio.run(version.stage.infer(request))).body


def rest(codec: Codec, said: Any, version: Served) -> Any:
    return json.loads(answer(codec, json.dumps(said).encode(), version))


def refusal(codec: Codec, said: Any, version: Served = HALVES) -> tuple[Code, str]:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    with pytest.raises(DukouError) as caught:
        answer(codec, body, version)
    told = codec.refuse(caught.value)
    return caught.value.code, json.loads(told)["error"] if told.startswith(b"{") else told.decode()


def feature(value: Any) -> dict[str, Any]:
    """A Feature as its list says it."""
    values = value if isinstance(value, list) else [value]
    kind = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(values[0])]
    return {kind: {"value": values}}


def example(features: Mapping[str, Any]) -> dict[str, Any]:
    return {"features": {"feature": {name: feature(value) for name, value in features.items()}}}


def grpc(
    name: str, examples: list[Mapping[str, Any]], context: Mapping[str, Any] | None = None, signature: str = ""
) -> bytes:
    kind = "example_list" if context is None else "example_list_with_context"
    held: dict[str, Any] = {"examples": [example(each) for each in examples]}
    if context is not None:
        held["context"] = example(context)
    said = message(f"tensorflow.serving.{name}Request")(
        model_spec={"name": "m", "signature_name": signature}, input={kind: held}
    )
    written: bytes = said.SerializeToString()
    return written


def test_classes_are_pairs_of_label_and_score() -> None:
    """A label that the model does not have is empty; the numbers are TensorFlow Serving's."""
    body = b'{"examples": [{"x": 2.0}, {"x": 0.1}]}'

    assert answer(CLASSIFY, body, HALVES) == b'{"results":[[["",3.0]],[["",2.05]]]}'


def test_values_are_a_list() -> None:
    """One for each example."""
    assert answer(REGRESS, b'{"examples": [{"x": 2.0}, {"x": [3.0]}]}', VALUES) == b'{"results":[3.0,3.5]}'


def test_classify_by_grpc_answers_with_its_messages() -> None:
    """Results, and what has answered."""
    body = grpc("Classification", [{"x": 2.0}, {"x": 4.0}])

    said = message("tensorflow.serving.ClassificationResponse").FromString(
        answer(tf_grpc_examples.CLASSIFY, body, HALVES)
    )

    assert [[(each.label, each.score) for each in row.classes] for row in said.result.classifications] == [
        [("", 3.0)],
        [("", 4.0)],
    ]
    assert (said.model_spec.name, said.model_spec.version.value) == ("m", 3)
    assert said.model_spec.signature_name == "serving_default"


def test_regress_by_grpc_answers_with_its_messages() -> None:
    """Results, and what has answered."""
    body = grpc("Regression", [{"x": 2.0}, {"x": 4.0}])

    said = message("tensorflow.serving.RegressionResponse").FromString(answer(tf_grpc_examples.REGRESS, body, VALUES))

    assert [each.value for each in said.result.regressions] == [3.0, 4.0]
    assert said.model_spec.signature_name == "serving_default"


def test_a_classifier_of_scikit_learn_is_classified() -> None:
    """Its probabilities, each under the label of its column; nothing else is computed."""
    version = of((FLOWER,), (LABEL, NAMED), iris)

    assert rest(CLASSIFY, {"examples": [{"length": 1.0, "width": 2.0}]}, version) == {
        "results": [[["setosa", 0.25], ["versicolor", 0.5], ["virginica", 0.25]]]
    }
    assert bound(CLASSIFY, b'{"examples": [{"length": 1.0, "width": 2.0}]}', version).outputs == ("probabilities",)


def test_classes_without_names_have_empty_labels() -> None:
    """A model may not say what its columns are."""
    results = rest(CLASSIFY, {"examples": [{"X": [1.0, 2.0]}]}, of((FLOWER,), (LABEL, PROBABILITIES), iris))

    assert results == {"results": [[["", 0.25], ["", 0.5], ["", 0.25]]]}


def test_a_classifier_without_probabilities_tells_its_label() -> None:
    """With the score that TensorFlow Serving gives where there is none."""
    results = rest(CLASSIFY, {"examples": [{"length": 1.0, "width": 2.0}] * 2}, of((FLOWER,), (LABEL,), iris))

    assert results == {"results": [[["2", 0.0]], [["2", 0.0]]]}


def test_a_regressor_of_scikit_learn_is_regressed() -> None:
    """Its only output is one value a row."""
    version = of((FLOWER,), (spec("y", "FP64", (-1,)),), iris)

    assert rest(REGRESS, {"examples": [{"length": 1.0, "width": 2.0}] * 2}, version) == {"results": [0.0, 0.25]}


def test_classes_and_scores_belong_together() -> None:
    """A signature may answer with both, classes as texts of any kind."""
    outputs = {"classes": np.array([["a", b"b"]], object), "scores": np.array([[0.75, 0.25]], np.float32)}
    version = of((spec("x"),), (spec("classes", "BYTES", None), spec("scores", shape=None)), lambda _: outputs)

    assert rest(CLASSIFY, {"examples": [{"x": 1.0}]}, version) == {"results": [[["a", 0.75], ["b", 0.25]]]}


INPUTS: list[tuple[tuple[TensorSpec, ...], list[Any], dict[str, Any]]] = [
    ((spec("x"),), [{"x": 1.5}, {"x": [2.5]}], {"x": [[1.5], [2.5]]}),
    ((spec("x", shape=(-1,)),), [{"x": 1.5}, {"x": 2.5}], {"x": [1.5, 2.5]}),
    ((spec("x", shape=(-1, 2)),), [{"x": [1.0, 2.0]}], {"x": [[1.0, 2.0]]}),
    ((spec("x", shape=(-1, 2, 2)),), [{"x": [1.0, 2.0, 3.0, 4.0]}], {"x": [[[1.0, 2.0], [3.0, 4.0]]]}),
    ((spec("x", shape=None),), [{"x": [1.0, 2.0]}], {"x": [[1.0, 2.0]]}),
    ((spec("x", shape=None, stated=(-1, 1)),), [{"x": 1.0}], {"x": [[1.0]]}),
    ((spec("x", shape=(-1, -1)),), [{"x": [1.0, 2.0]}], {"x": [[1.0, 2.0]]}),
    ((spec("x", shape=(-1, -1, 2)),), [{"x": [1.0, 2.0, 3.0, 4.0]}], {"x": [[[1.0, 2.0], [3.0, 4.0]]]}),
    ((spec("a"), spec("b", "INT64")), [{"a": 1.5, "b": 2, "c": "left out"}], {"a": [[1.5]], "b": [[2]]}),
    ((spec("x"),), [{"x": 2}], {"x": [[2.0]]}),
    ((spec("x", "INT8"),), [{"x": 7}], {"x": [[7]]}),
    ((spec("x", "BOOL"),), [{"x": True}], {"x": [[True]]}),
    ((spec("x", "BYTES"),), [{"x": "é"}, {"x": {"b64": "/w=="}}], {"x": [["é"], [b"\xff"]]}),
    ((spec("x", "FP64"),), [{"x": 0.1}], {"x": [[0.1]]}),
    ((FLOWER,), [{"length": 1.5, "width": 2}, {"width": 3.5, "length": 4}], {"X": [[1.5, 2.0], [4.0, 3.5]]}),
    ((FLOWER,), [{"X": [1.0, 2.0]}], {"X": [[1.0, 2.0]]}),
]


@pytest.mark.parametrize(("inputs", "examples", "wanted"), INPUTS)
def test_features_become_inputs(inputs: tuple[TensorSpec, ...], examples: list[Any], wanted: dict[str, Any]) -> None:
    """Each input is a feature, or each column of the only input."""
    version = of(inputs, (spec("scores"),))

    request = bound(CLASSIFY, json.dumps({"examples": examples}).encode(), version)

    assert {name: array.tolist() for name, array in request.inputs.items()} == wanted
    assert {name: array.dtype for name, array in request.inputs.items()} == {
        each.name: DTYPES[each.datatype] for each in inputs
    }
    assert request.rows == len(examples)


@pytest.mark.parametrize("codec", ["rest", "grpc"])
def test_the_context_is_in_every_example(codec: str) -> None:
    """Unless the example has its own."""
    version = of((spec("x"), spec("y")), (spec("scores"),))
    context, examples = {"x": 1.0, "y": 9.0}, [{"y": 2.0}, {"y": 3.0, "x": 4.0}]

    if codec == "rest":
        request = bound(CLASSIFY, json.dumps({"context": context, "examples": examples}).encode(), version)
    else:
        request = bound(tf_grpc_examples.CLASSIFY, grpc("Classification", examples, context), version)

    assert {name: array.tolist() for name, array in request.inputs.items()} == {
        "x": [[1.0], [4.0]],
        "y": [[2.0], [3.0]],
    }


def test_a_context_does_not_multiply_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long feature in the context of many empty examples is much memory for few bytes."""
    monkeypatch.setattr(tf_examples, "MOST_FEATURE_VALUES", 10)
    said = Examples([{}] * 5, {"x": Feature("float", [1.0] * 4)})

    with pytest.raises(DukouError) as caught:
        to_inputs(said, Signature("s", (spec("x", shape=None),), ()))

    assert caught.value.reason is Reason.TOO_MANY_VALUES


def test_examples_are_counted_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one is two bytes on the wire."""
    monkeypatch.setattr(tf_grpc_examples, "MOST_VALUES", 3)

    code, _ = refusal(tf_grpc_examples.CLASSIFY, grpc("Classification", [{}] * 4))

    assert code is Code.PAYLOAD_TOO_LARGE


MALFORMED: list[tuple[Any, str]] = [
    (b"{bad", "JSON Parse error"),
    (b"", "JSON Parse error: The document is empty"),
    ([1], "Is not object"),
    ({"signature_name": 1}, "'signature_name' key must be a string value."),
    ({}, "When method is classify, key 'examples' is expected and was not found"),
    ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
    ({"examples": []}, "'examples' value is an empty array"),
    ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
    ({"examples": ["a"]}, "Example must be JSON object but got JSON String"),
    ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
    ({"examples": [{"x": [1, 1.0]}]}, "Unexpected element type in feature: x expecting type: int64"),
    ({"examples": [{"x": [1.0, 1]}]}, "Unexpected element type in feature: x expecting type: float"),
    ({"examples": [{"x": ["a", True]}]}, "Unexpected element type in feature: x expecting type: bytes"),
    ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    ({"examples": [{"x": [[1.0]]}]}, "Feature: x has element with unexpected JSON type: Array"),
    ({"examples": [{"x": {"a": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
    ({"examples": [{"x": {"b64": "!"}}]}, "Unable to base64 decode"),
    ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
]


@pytest.mark.parametrize("codec", [CLASSIFY, REGRESS], ids=["classify", "regress"])
@pytest.mark.parametrize(("said", "text"), MALFORMED, ids=[text for _, text in MALFORMED])
def test_malformed_examples_are_refused(codec: Codec, said: Any, text: str) -> None:
    """In TensorFlow Serving's words, which speak of classify for both."""
    code, told = refusal(codec, said)

    assert code is Code.INVALID_ARGUMENT
    assert text in told


@pytest.mark.parametrize("size", [5000, 1])
def test_long_lists_are_read_as_short_ones(size: int) -> None:
    """The parser makes arrays of long lists of numbers."""
    version = of((spec("x", shape=(-1, size)),), (spec("scores"),))

    request = bound(CLASSIFY, json.dumps({"examples": [{"x": [0.5] * size}]}).encode(), version)

    assert request.inputs["x"].tolist() == [[0.5] * size]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([2**63] * 5000, "Feature: x has uint64 element. Only int64 is supported."),
        ([[1.0]] * 5000, "Feature: x has element with unexpected JSON type: Array"),
        ([1.5] * 5000, "Data type: float but expected type: int64"),
    ],
)
def test_long_lists_are_judged_as_short_ones(values: list[Any], text: str) -> None:
    """The parser makes arrays of these too."""
    version = of((spec("x", "INT64", None),), (spec("scores"),))

    code, told = refusal(CLASSIFY, {"examples": [{"x": values}]}, version)

    assert code is Code.INVALID_ARGUMENT
    assert text in told


def test_a_long_list_of_numbers_is_no_list_of_examples() -> None:
    """Of any length."""
    code, told = refusal(CLASSIFY, {"examples": [1] * 5000})

    assert code is Code.INVALID_ARGUMENT
    assert "Example must be JSON object but got JSON Number" in told


def test_integers_of_any_size_are_numbers() -> None:
    """Those beyond 64 bits are floats, as that server's parser has it."""
    request = bound(CLASSIFY, b'{"examples": [{"x": 1' + b"0" * 30 + b'}, {"x": -1' + b"0" * 400 + b"}]}", HALVES)

    assert request.inputs["x"].tolist() == [[float(np.float32(1e30))], [float("-inf")]]


MISFITS: list[tuple[TensorSpec, Any, str]] = [
    (spec("x"), {"y": 1.0}, "Feature: x (data type: float) is required but could not be found."),
    (spec("x"), {"x": []}, "Feature: x (data type: float) is required but could not be found."),
    (spec("x"), {"x": "a"}, "Key: x.  Data types don't match. Data type: string but expected type: float"),
    (spec("x", "INT64"), {"x": 1.5}, "Key: x.  Data types don't match. Data type: float but expected type: int64"),
    (spec("x", "BYTES"), {"x": 1}, "Key: x.  Data types don't match. Data type: int64 but expected type: string"),
    (spec("x", "BF16"), {"x": 1.0}, "expected type: bfloat16"),
    (spec("x"), {"x": [1.0, 2.0]}, "Key: x, Index: 0.  Number of float values != expected.  values size: 2"),
    (spec("x", shape=(-1, 2, -1)), {"x": [1.0, 2.0, 3.0]}, "3 values do not fill the shape [2,-1]"),
    (spec("x", "UINT8"), {"x": 256}, "256 came where UINT8 is wanted"),
    (spec("x", "BOOL"), {"x": 2}, "2 came where BOOL is wanted"),
]


@pytest.mark.parametrize(("wanted", "features", "text"), MISFITS, ids=[text for _, _, text in MISFITS])
def test_features_must_fit_the_inputs(wanted: TensorSpec, features: Any, text: str) -> None:
    """In the words of TensorFlow's parser of examples."""
    code, told = refusal(CLASSIFY, {"examples": [features]}, of((wanted,), (spec("scores"),)))

    assert code is Code.INVALID_ARGUMENT
    assert text in told


def test_all_examples_have_as_many_values_as_the_first() -> None:
    """Where the signature leaves the number open."""
    version = of((spec("x", shape=None),), (spec("scores"),))

    code, told = refusal(CLASSIFY, {"examples": [{"x": [1.0, 2.0]}, {"x": [1.0]}]}, version)

    assert code is Code.INVALID_ARGUMENT
    assert "Index: 1" in told


@pytest.mark.parametrize("name", ["Classification", "Regression"])
def test_no_examples_are_an_empty_input(name: str) -> None:
    """Neither kind of input, and either without examples."""
    codec = tf_grpc_examples.CLASSIFY if name == "Classification" else tf_grpc_examples.REGRESS
    version = HALVES if name == "Classification" else VALUES
    neither = message(f"tensorflow.serving.{name}Request")(model_spec={"name": "m"}).SerializeToString()

    told = [refusal(codec, body, version) for body in (neither, grpc(name, []), grpc(name, [], {"x": 1.0}))]

    assert told == [(Code.INVALID_ARGUMENT, "Input is empty.")] * 3


@pytest.mark.parametrize("codec", [CLASSIFY, REGRESS], ids=["classify", "regress"])
def test_a_signature_must_exist(codec: Codec) -> None:
    """Said otherwise than by predict, and with another code."""
    told = refusal(codec, {"signature_name": "nope", "examples": [{"x": 1.0}]})

    assert told == (Code.INVALID_ARGUMENT, "No signature was found with the name: nope")


@pytest.mark.parametrize(
    ("codec", "version", "text"),
    [
        (CLASSIFY, VALUES, 'to contain at least one of "classes" or "scores"'),
        (REGRESS, HALVES, "No regression outputs found in SignatureDef"),
        (CLASSIFY, of((spec("x"),), (spec("y"),)), 'to contain at least one of "classes" or "scores"'),
        (REGRESS, of((spec("x"),), (spec("y", shape=(-1, 2)),)), "No regression outputs found in SignatureDef"),
        (REGRESS, of((spec("x"),), (LABEL,)), "No regression outputs found in SignatureDef"),
    ],
)
def test_a_signature_must_be_readable_so(codec: Codec, version: Served, text: str) -> None:
    """The wrong method is noticed by its outputs, before examples are looked at."""
    code, told = refusal(codec, {"examples": [{}]}, version)

    assert code is Code.FAILED_PRECONDITION
    assert text in told


def one_row(**outputs: Any) -> Served:
    """A model with these outputs, whatever comes."""
    specs = tuple(
        TensorSpec(name, "BYTES" if array.dtype.kind == "O" else "FP32", None) for name, array in outputs.items()
    )
    return of((spec("x"),), specs, lambda _: outputs, "classify")


def array(value: Any, dtype: Any = np.float32) -> NDArray[Any]:
    return np.array(value, dtype)


@pytest.mark.parametrize(
    ("codec", "version", "text"),
    [
        (CLASSIFY, one_row(scores=array([1])), "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        (CLASSIFY, one_row(scores=array([[1]], np.int32)), "Expected scores Tensor of DT_FLOAT. Got: DT_INT32"),
        (CLASSIFY, one_row(scores=array([[1], [2]])), "Expected scores output batch size of 1. Got: 2"),
        (CLASSIFY, one_row(classes=array([["a"], ["b"]], object)), "Expected classes output batch size of 1. Got: 2"),
        (CLASSIFY, one_row(classes=array([[1.0]])), "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        (CLASSIFY, one_row(classes=array("a", object)), "but got []"),
        (
            CLASSIFY,
            one_row(classes=array([["a", "b"]], object), scores=array([[1]])),
            "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
        ),
        (REGRESS, one_row(outputs=array([[1, 2]])), "to be either [batch_size] or [batch_size, 1] but got [1,2]"),
        (REGRESS, one_row(outputs=array([1, 2])), "Input batch size did not match output batch size: 1 vs. 2"),
        (REGRESS, one_row(outputs=array([1], np.int64)), "Expected output Tensor of DT_FLOAT.  Got: DT_INT64"),
    ],
)
def test_outputs_that_are_no_results_are_refused(codec: Codec, version: Served, text: str) -> None:
    """The model ran, but what it says are no classes or values of the examples."""
    code, told = refusal(codec, {"examples": [{"x": 1.0}]}, version)

    assert code is Code.INVALID_ARGUMENT
    assert text in told


def test_a_label_must_be_text() -> None:
    """Neither JSON nor a protobuf string holds other bytes."""
    version = one_row(classes=array([[b"\xff"]], object))

    assert refusal(CLASSIFY, {"examples": [{"x": 1.0}]}, version)[0] is Code.UNIMPLEMENTED
    body = grpc("Classification", [{"x": 1.0}])
    assert refusal(tf_grpc_examples.CLASSIFY, body, version)[0] is Code.UNIMPLEMENTED


def test_a_model_without_rows_is_asked_all_the_same() -> None:
    """half_plus_two takes any shape; its results are still one for each example."""
    version = of((spec("x", shape=None),), (spec("outputs", shape=None),), half_plus_two, "regress", batched=False)

    assert rest(REGRESS, {"examples": [{"x": 2.0}, {"x": 4.0}]}, version) == {"results": [3.0, 4.0]}


def test_numbers_that_json_has_not_are_written_as_tokens() -> None:
    """As in answers to predict."""
    version = one_row(scores=array([[np.nan, np.inf, -np.inf, 9e6]]))

    body = answer(CLASSIFY, b'{"examples": [{"x": 1.0}]}', version)

    assert body == b'{"results":[[["",NaN],["",Infinity],["",-Infinity],["",9e+06]]]}'


@pytest.mark.parametrize("codec", [CLASSIFY, REGRESS, tf_grpc_examples.CLASSIFY, tf_grpc_examples.REGRESS])
def test_sizes_are_estimated(codec: Codec) -> None:
    """Large bodies and answers are read and written off the event loop."""
    request = bound(CLASSIFY, b'{"examples": [{"x": 1.0}]}', HALVES)
    response = InferenceResponse(request.version, {"scores": np.zeros((10, 100), np.float32)})

    assert codec.reading_bytes({}, b"12345") == 5
    assert codec.writing_bytes(request, response) >= 1000 * 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from(["", "a", "b64", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "b64", "y"]), inner, max_size=2),
    max_leaves=8,
)


@given(
    JSON | st.fixed_dictionaries({"examples": JSON | st.lists(JSON | st.dictionaries(st.just("x"), JSON), max_size=3)}),
    st.sampled_from(["FP32", "INT8", "BOOL", "BYTES", "FP64"]),
)
def test_any_json_is_answered_or_refused(said: Any, datatype: str) -> None:
    """With nothing but a DukouError."""
    version = of(
        (spec("x", datatype),), (spec("scores"),), lambda inputs: {"scores": np.zeros((len(inputs["x"]), 1), "f4")}
    )
    try:
        told = answer(CLASSIFY, json.dumps(said).encode(), version)
    except DukouError as error:
        told = CLASSIFY.refuse(error)
    assert type(json.loads(told)) is dict


@given(st.binary(max_size=60))
def test_any_bytes_are_answered_or_refused(body: bytes) -> None:
    """With nothing but a DukouError."""
    codec = tf_grpc_examples.CLASSIFY
    spec_and_input = message("tensorflow.serving.ClassificationRequest")(model_spec={"name": "m"}).SerializeToString()
    for raw in (body, spec_and_input + body):
        try:
            told = answer(codec, raw, HALVES)
        except DukouError as error:
            told = codec.refuse(error)
        assert told
