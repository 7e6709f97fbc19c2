"""The Open Inference Protocol over gRPC: messages to requests, responses to messages."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from oip_grpc_messages import REF, answered, arrays_of, bound, echo, message, raw_message, response

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES
from dukou.core.version import ModelRef, ModelVersion
from dukou.engine.batch import cut
from dukou.protos import pool
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import oip_grpc
from dukou.wire.oip_bind import Form
from dukou.wire.protobuf import MOST_FIELDS
from dukou.wire.raw_array import SMALL_BYTES

ONE = echo(TensorSpec("x", "FP32", (-1, 2)), batched=True, max_request_rows=8)
TWO = echo(TensorSpec("a", "INT32", (-1,)), TensorSpec("b", "INT32", (-1,)), batched=True)
X = np.array([[1, 2], [3, 4]], np.float32)


def stated(datatype: str = "FP32", shape: Any = (2, 2), name: str = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def refusal(body: bytes, version: Served = ONE) -> tuple[Code, str]:
    with pytest.raises(DukouError) as caught:
        bound(body, version)
    return caught.value.code, oip_grpc.refuse(caught.value).decode()


# What goes in comes out.


@given(
    st.sampled_from([name for name in DTYPES if name not in ("BYTES", "BF16", "BOOL")]).flatmap(
        lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    )
)
def test_numbers_come_back_as_they_were_sent(array: NDArray[Any]) -> None:
    """Bit by bit, in every datatype and shape; also when the same message comes again."""
    name = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
    version = echo(TensorSpec("x", name))

    for _ in range(2):
        said = answered(raw_message({"x": array}), version)

        assert said.outputs[0].datatype == name
        assert tuple(said.outputs[0].shape) == array.shape
        assert list(said.raw_output_contents) == [array.tobytes()]


@given(hnp.arrays(object, hnp.array_shapes(max_dims=2, max_side=4), elements=st.binary(max_size=8)))
def test_strings_come_back_as_they_were_sent(array: NDArray[Any]) -> None:
    """Each with its length before it."""
    body = raw_message({"x": array})

    said = answered(body, echo(TensorSpec("x", "BYTES")))

    assert list(said.raw_output_contents) == list(pool.parse("inference.ModelInferRequest", body).raw_input_contents)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_comes_raw(datatype: str) -> None:
    """As its bits."""
    array = np.arange(4, dtype=np.uint16).view(DTYPES[datatype])

    said = answered(raw_message({"x": array}), echo(TensorSpec("x", datatype)))

    assert said.outputs[0].datatype == datatype
    assert said.raw_output_contents[0] == array.tobytes()


def test_booleans_are_true_or_false() -> None:
    """Any byte but 0 is true, also when the same message comes again."""
    body = message([stated("BOOL", [4])], [b"\x00\x01\x02\xff"])
    version = echo(TensorSpec("x", "BOOL"))

    for _ in range(2):
        request = bound(body, version)

        assert request.inputs["x"].tobytes() == b"\x00\x01\x01\x01"


def test_a_large_tensor_is_not_copied_where_it_is_aligned() -> None:
    """What is read is the message itself, or an aligned copy."""
    version = echo(TensorSpec("x", "UINT8", (-1,)), batched=True)
    array = np.arange(SMALL_BYTES + 1, dtype=np.uint8)

    request = bound(raw_message({"x": array}), version)

    assert not request.inputs["x"].flags.owndata
    assert (request.inputs["x"] == array).all()


@pytest.mark.parametrize("extra", range(8))
def test_large_numbers_are_aligned_wherever_they_lie_in_the_message(extra: int) -> None:
    """The length of the id moves the data."""
    array = np.arange(SMALL_BYTES, dtype=np.float64).reshape(-1, 2)
    version = echo(TensorSpec("x", "FP64", (-1, 2)), batched=True)

    for _ in range(2):
        request = bound(raw_message({"x": array}, id="i" * extra), version)

        assert request.inputs["x"].flags.aligned
        assert (request.inputs["x"] == array).all()


CONTENTS = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-128, 127]),
    ("INT16", "int_contents", [-32768, 32767]),
    ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
    ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
    ("UINT8", "uint_contents", [0, 255]),
    ("UINT16", "uint_contents", [0, 65535]),
    ("UINT32", "uint_contents", [0, 2**32 - 1]),
    ("UINT64", "uint64_contents", [0, 2**64 - 1]),
    ("FP32", "fp32_contents", [0.5, -1.5]),
    ("FP64", "fp64_contents", [0.1, 1e300]),
    ("BYTES", "bytes_contents", [b"", b"\xff\x00"]),
]


@pytest.mark.parametrize(("datatype", "field", "values"), CONTENTS)
def test_typed_contents_are_read_and_answered_raw(datatype: str, field: str, values: list[Any]) -> None:
    """Each datatype from its own field."""
    body = message([stated(datatype, [2], contents={field: values})])
    version = echo(TensorSpec("x", datatype, (-1,)), batched=True)

    request = bound(body, version)
    said = answered(body, version)

    assert request.inputs["x"].dtype == DTYPES[datatype]
    assert request.inputs["x"].tolist() == values
    assert not said.outputs[0].HasField("contents")
    assert len(said.raw_output_contents) == 1


# What is wrong with the data.


@pytest.mark.parametrize(
    ("inputs", "raw", "text"),
    [
        ([stated()], [X.tobytes()[1:]], "input byte size mismatch for input 'x' for model 'm'. Expected 16, got 15"),
        ([stated()], [], "unable to find data for input tensor 'x' for model 'm' in request."),
        ([stated()], [X.tobytes()] * 2, "2 raw_input_contents came for the 1 inputs for model 'm'"),
        (
            [stated(contents={"fp32_contents": [1, 2, 3, 4]})],
            [X.tobytes()],
            "contents field must not be specified when using raw_input_contents for 'x' for model 'm'",
        ),
        (
            [stated(contents={"fp32_contents": [1, 2, 3]})],
            [],
            "input byte size mismatch for input 'x' for model 'm'. Expected 16, got 12",
        ),
        (
            [stated(contents={"int_contents": [1, 2, 3, 4]})],
            [],
            "unexpected explicit tensor data for input tensor 'x' of type 'INT32', expected datatype 'FP32'",
        ),
        (
            [stated(contents={"fp32_contents": [1, 2, 3, 4], "fp64_contents": [1]})],
            [],
            "unexpected explicit tensor data for input tensor 'x' of type 'FP64', expected datatype 'FP32'",
        ),
        ([stated("INT32")], [X.tobytes()], "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'"),
        ([stated("NONE")], [X.tobytes()], "inference input 'x' data-type is 'NONE', but model 'm' expects 'FP32'"),
        (
            [stated(shape=[1, 4])],
            [X.tobytes()],
            "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,4]. ",
        ),
        ([stated(shape=[-2, -2])], [X.tobytes()], "no tensor has the stated shape"),
        ([stated(shape=[2**31, 2**31])], [X.tobytes()], "byte size mismatch"),
        ([stated(shape=[2**62, 4])], [X.tobytes()], "no tensor has the stated shape"),
        ([stated(shape=[1] * 100)], [b"1234"], "no tensor has the stated shape"),
        ([stated(shape=[2**31, 0])], [b""], "unexpected shape"),
        ([stated(shape=[0, 2])], [b""], "no rows came"),
        ([stated(shape=[9, 2])], [bytes(72)], "inference request batch-size must be <= 8 for 'm'"),
        ([stated(), stated()], [X.tobytes()] * 2, "input 'x' already exists in request"),
        ([stated(name="z")], [X.tobytes()], "unexpected inference input 'z' for model 'm'"),
        (
            [],
            [],
            "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['x']. "
            "Please provide all required input(s).",
        ),
        (
            [stated(parameters={"shared_memory_region": {"string_param": "r"}})],
            [],
            "shared memory is not supported",
        ),
    ],
)
def test_wrong_data_is_refused_in_tritons_words(inputs: list[Any], raw: list[bytes], text: str) -> None:
    """With INVALID_ARGUMENT, but for what is not supported at all."""
    code, said = refusal(message(inputs, raw))

    assert text in said
    assert code is (Code.UNIMPLEMENTED if "not supported" in text else Code.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("datatype", "contents", "text"),
    [
        ("INT8", {"int_contents": [1, 128]}, "128 came where INT8 is wanted"),
        ("UINT16", {"uint_contents": [1, 65536]}, "65536 came where UINT16 is wanted"),
        ("FP16", {}, "FP16 data has no typed contents"),
        ("BF16", {"uint_contents": [1, 2]}, "of type 'UINT32', expected datatype 'BF16'"),
        (
            "BYTES",
            {"bytes_contents": [b"a"]},
            "expected 2 string elements for inference input 'x' for model 'm', got 1",
        ),
    ],
)
def test_contents_must_be_those_of_the_datatype(datatype: str, contents: dict[str, Any], text: str) -> None:
    """Also numbers that only their wire type can hold."""
    version = echo(TensorSpec("x", datatype, (-1,)), batched=True)

    code, said = refusal(message([stated(datatype, [2], contents=contents)]), version)

    assert text in said
    assert code is Code.INVALID_ARGUMENT


def test_inputs_may_come_in_any_order_with_their_data() -> None:
    """The request has them in the signature's order, also when the same message comes again."""
    b, a = np.array([1], np.int32), np.array([2], np.int32)

    for _ in range(2):
        request = bound(raw_message({"b": b, "a": a}), TWO)

        assert list(request.inputs) == ["a", "b"]
        assert request.inputs["a"].tolist() == [2]


def test_inputs_of_one_call_have_the_same_number_of_rows() -> None:
    """As far as they have rows."""
    body = raw_message({"a": np.zeros(1, np.int32), "b": np.zeros(2, np.int32)})

    assert refusal(body, TWO)[1] == "input 'b' batch size does not match other inputs for 'm'"


# What is remembered of a message.


def test_a_message_that_came_before_is_checked_against_the_version_that_answers_now() -> None:
    """Another version of the model, or its data in another size."""
    body = raw_message({"x": X})
    other = echo(TensorSpec("x", "FP64", (-1, 2)), batched=True)
    bound(body, ONE)

    with pytest.raises(DukouError) as caught:
        bound(body, other)
    code, text = refusal(message([stated()], [X.tobytes() * 2]))

    assert caught.value.reason is Reason.WRONG_DATATYPE
    assert (code, text.rpartition(". ")[2]) == (Code.INVALID_ARGUMENT, "Expected 16, got 32")


def test_what_is_remembered_is_not_the_data_nor_the_id() -> None:
    """Nor the context."""
    first = bound(raw_message({"x": X}, id="1"), ONE)
    draft = oip_grpc.parse(REF, {}, raw_message({"x": X + 1}, id="2"))

    second = oip_grpc.bind(draft, ONE, Context(id="second"))

    assert (second.inputs["x"] == X + 1).all()
    assert (first.inputs["x"] == X).all()
    assert second.reply.id == "2"
    assert second.context.id == "second"
    assert second.rows == first.rows == 2


def test_a_message_with_parameters_is_read_each_time() -> None:
    """They may say how long the call may take."""
    body = raw_message({"x": X}, parameters={"timeout": 1_000_000, "priority": 3, "free": "yes"})
    contexts = [Context(arrived_s=10.0), Context(arrived_s=20.0)]

    requests = [oip_grpc.bind(oip_grpc.parse(REF, {}, body), ONE, context) for context in contexts]

    assert [request.context.deadline_s for request in requests] == [11.0, 21.0]
    assert [request.parameters for request in requests] == [{"free": "yes"}] * 2
    assert requests[0].context.priority == 3


# Names, versions, parameters, outputs.


@pytest.mark.parametrize(("version", "number"), [("", None), ("3", 3), ("007", 7)])
def test_the_message_names_the_model_and_version(version: str, number: int | None) -> None:
    """An empty version is the latest."""
    body = message([], model="other", model_version=version)

    assert oip_grpc.parse(REF, {}, body).ref == ModelRef("other", number)


@pytest.mark.parametrize("version", ["0", "-1", "v1", "1.0", "٣", "9" * 19, "9" * 100_000])
def test_a_version_is_a_positive_number(version: str) -> None:
    """Anything else is refused in Triton's words."""
    with pytest.raises(DukouError) as caught:
        oip_grpc.parse(REF, {}, message([], model_version=version))

    text = oip_grpc.refuse(caught.value).decode()
    assert text.startswith("failed to get model version from specified version string '")
    assert text.endswith("version should be an integral value > 0")


def test_free_parameters_reach_the_model() -> None:
    """Of any kind; those of the protocol do not."""
    parameters = {"a": True, "b": -1, "c": 0.5, "d": "text", oip_grpc.EMPTY_FINAL: True}

    request = bound(raw_message({"x": X}, parameters=parameters), ONE)

    assert request.parameters == {"a": True, "b": -1, "c": 0.5, "d": "text"}


@pytest.mark.parametrize("name", ["triton_other", "headers"])
def test_reserved_parameters_are_refused(name: str) -> None:
    """As the protocol says."""
    code, text = refusal(raw_message({"x": X}, parameters={name: "x"}))

    assert code is Code.INVALID_ARGUMENT
    assert "reserved for Triton usage" in text


def test_a_parameter_has_a_value() -> None:
    """Of one of the kinds."""
    body = pool.message("inference.ModelInferRequest")(parameters={"p": {}}).SerializeToString()

    assert refusal(body) == (Code.INVALID_ARGUMENT, "the parameter 'p' has no value")


def test_only_the_outputs_asked_for_are_answered_in_that_order() -> None:
    """Without any all are."""
    body = raw_message({"a": np.zeros(1, np.int32), "b": np.ones(1, np.int32)}, outputs=["b", "a"])

    said = answered(body, TWO)

    assert [output.name for output in said.outputs] == ["b", "a"]
    assert arrays_of(said)["b"].tolist() == [1]


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (["z"], "unexpected inference output 'z' for model 'm'"),
        (["x", "x"], "output 'x' already exists in request"),
        ([{"name": "x", "parameters": {"classification": {"int64_param": -1}}}], "'classification'"),
        ([{"name": "x", "parameters": {"shared_memory_region": {"string_param": "r"}}}], "shared memory"),
    ],
)
def test_outputs_that_cannot_be_answered_are_refused(outputs: Any, text: str) -> None:
    """Unknown ones, one twice, or in a form that there is not."""
    assert text in refusal(raw_message({"x": X}, outputs=outputs))[1]


def test_an_output_is_answered_as_classes() -> None:
    """As BYTES of `[rows, k]`, also when the same message comes again."""
    output = TensorSpec("x", "FP32", (-1, 2), columns=("left", "right"))
    signature = Signature(DEFAULT_SIGNATURE, (output,), (output,))
    version = served(manifest("m", 3, (signature,)), Direct(FunctionModel(dict)))
    outputs = [{"name": "x", "parameters": {"classification": {"int64_param": 1}}}]

    for _ in range(2):
        said = answered(raw_message({"x": X}, outputs=outputs), version)

        assert (said.outputs[0].datatype, list(said.outputs[0].shape)) == ("BYTES", [2, 1])
        first = b"2.000000:1:right"
        assert said.raw_output_contents[0].startswith(len(first).to_bytes(4, "little") + first)


# Answers.


def test_the_answer_says_whose_it_is() -> None:
    """The model, the version that answered, and the request's id."""
    said = answered(raw_message({"x": X}, id="wörld"), ONE)

    assert (said.model_name, said.model_version, said.id) == ("m", "3", "wörld")
    assert not said.parameters


def encoded(response_: InferenceResponse, *outputs: str, id: str = "") -> Any:  # noqa: A002
    request = bound(raw_message({"x": X}), ONE)
    request.outputs = outputs
    request.reply = Form(id)
    return response(oip_grpc.encode(request, response_).body)


def test_the_models_parameters_are_told() -> None:
    """By their kinds."""
    parameters = {"a": True, "b": -1, "c": 2**63, "d": 0.5, "e": "é", "f": np.float32(0.5), "g": np.bool_(True)}

    said = encoded(InferenceResponse(ModelVersion("m", 1), {}, parameters))

    kinds = {name: value.WhichOneof("parameter_choice") for name, value in said.parameters.items()}
    assert kinds == {
        "a": "bool_param",
        "b": "int64_param",
        "c": "uint64_param",
        "d": "double_param",
        "e": "string_param",
        "f": "double_param",
        "g": "bool_param",
    }
    assert said.parameters["c"].uint64_param == 2**63


@pytest.mark.parametrize("value", [None, [1], 2**64, -(2**63) - 1, b"x", "\ud800"])
def test_parameters_that_a_message_cannot_carry_are_refused(value: Any) -> None:
    """As not supported."""
    with pytest.raises(DukouError) as caught:
        encoded(InferenceResponse(ModelVersion("m", 1), {}, {"p": value}))

    assert caught.value.reason is Reason.NOT_SUPPORTED


def test_a_response_need_not_have_all_outputs() -> None:
    """One of several has those that there are."""
    outputs = {"b": np.zeros((), np.int64)}

    said = encoded(InferenceResponse(ModelVersion("m", 1), outputs), "a", "b")

    assert [(output.name, list(output.shape)) for output in said.outputs] == [("b", [])]
    assert list(said.raw_output_contents) == [bytes(8)]


@pytest.mark.parametrize(
    ("array", "raw"),
    [
        (np.array(["a", "é"]), b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"),
        (np.array([b"a"], dtype="S1"), b"\x01\0\0\0a"),
        (np.array(["a", b"\xff"], dtype=object), b"\x01\0\0\0a\x01\0\0\0\xff"),
        (np.array([1, 2], dtype=">i2"), b"\x01\0\x02\0"),
        (np.arange(6, dtype=np.uint8).reshape(2, 3).T, bytes([0, 3, 1, 4, 2, 5])),
        (np.broadcast_to(np.uint8(7), (5000,)), b"\x07" * 5000),
    ],
)
def test_any_array_is_answered_in_row_major_little_endian_order(array: NDArray[Any], raw: bytes) -> None:
    """Texts as UTF-8."""
    said = encoded(InferenceResponse(ModelVersion("m", 1), {"y": array}), "y")

    assert list(said.raw_output_contents) == [raw]
    assert list(said.outputs[0].shape) == list(array.shape)


def test_text_without_a_utf8_form_is_refused() -> None:
    """As not supported, with the output's name."""
    with pytest.raises(DukouError) as caught:
        encoded(InferenceResponse(ModelVersion("m", 1), {"y": np.array(["\ud800"], object)}), "y")

    assert caught.value.reason is Reason.NOT_SUPPORTED
    assert "'y'" in str(caught.value)


def test_an_errors_message_is_short() -> None:
    """A name of a megabyte does not come back whole."""
    text = oip_grpc.refuse(DukouError(Reason.MODEL_NOT_FOUND, model="x" * 1_000_000))

    assert text.startswith(b"Request for unknown model: 'xxx")
    assert len(text) < 1100


# How long reading and writing take.


def test_raw_numbers_count_little_and_strings_in_full() -> None:
    """What is asked of large messages only."""
    numbers = raw_message({"x": np.zeros(64_000, np.uint8)})
    strings = raw_message({"x": np.array([b"x" * 1000] * 64, object)})
    contents = message([stated(shape=[16_000], contents={"fp32_contents": [0.0] * 16_000})])

    assert oip_grpc.reading_bytes({}, numbers) < 1100
    assert oip_grpc.reading_bytes({}, strings) > 64_000
    assert oip_grpc.reading_bytes({}, contents) > 64_000
    assert oip_grpc.reading_bytes({}, b"\xff" * 64_000) == 0


def test_written_numbers_count_little_and_strings_and_classes_more() -> None:
    """By what the request asks for."""
    request = bound(raw_message({"x": X}), ONE)
    numbers = InferenceResponse(ONE.id, {"x": np.zeros(64_000, np.uint8)})
    strings = InferenceResponse(ONE.id, {"x": np.array(["x"] * 1000, object)})

    assert oip_grpc.writing_bytes(request, numbers) == 1000
    assert oip_grpc.writing_bytes(request, strings) == 24_000
    request.reply = Form("", {"x": 1})
    assert oip_grpc.writing_bytes(request, numbers) == 64_000 * 32


# Hostile messages.


def test_a_message_with_too_many_fields_is_refused() -> None:
    """A hundred bytes of memory for each two on the wire."""
    with pytest.raises(DukouError) as caught:
        oip_grpc.parse(REF, {}, b"\x2a\x00" * (MOST_FIELDS + 1))

    assert caught.value.reason is Reason.MALFORMED_REQUEST


VALID = [
    raw_message({"x": X}, id="7", outputs=["x"], parameters={"p": 1}),
    message([stated(contents={"fp32_contents": [1, 2, 3, 4]})]),
    raw_message({"a": np.zeros(2, np.int32), "b": np.zeros(2, np.int32)}),
    raw_message({"x": np.array([b"a", b"bc"], object)}),
    raw_message({"x": np.zeros((3000, 2), np.float32)}),
]
VERSIONS = [ONE, TWO, *(echo(TensorSpec("x", datatype)) for datatype in ("BYTES", "BOOL", "FP32", "BF16", "INT8"))]


def outcome(body: bytes, version: Served) -> InferenceRequest | DukouError:
    """What becomes of a message: a request that fits the signature, whose echo can be encoded, or a refusal."""
    oip_grpc.reading_bytes({}, body)
    try:
        request = bound(body, version)
        assert list(request.inputs) == [spec.name for spec in request.signature.inputs]
        for spec in request.signature.inputs:
            assert request.inputs[spec.name].dtype == DTYPES[spec.datatype]
            assert spec.fits(request.inputs[spec.name].shape)
        oip_grpc.encode(request, InferenceResponse(version.id, request.inputs))
        return request
    except DukouError as error:
        refused = error
    assert oip_grpc.refuse(refused).decode()
    return refused


@given(st.binary(max_size=200), st.sampled_from(VERSIONS))
def test_garbage_is_refused(body: bytes, version: Served) -> None:
    """Never with anything but DukouError."""
    outcome(body, version)


@settings(max_examples=300)
@given(st.sampled_from(VALID), st.sampled_from(VERSIONS), st.randoms(use_true_random=False))
def test_messages_with_mistakes_are_refused_or_answered(body: bytes, version: Served, draw: random.Random) -> None:
    """Bytes changed, left out, put in, repeated, cut off."""
    mutated = bytearray(body)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(min(len(mutated), 120) or 1)
        match draw.randrange(5):
            case 0:
                mutated[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del mutated[place : place + draw.randint(1, 8)]
            case 2:
                mutated[place:place] = draw.randbytes(draw.randint(1, 4))
            case 3:
                mutated[place:place] = mutated[place : place + 16]
            case _:
                del mutated[place:]

    outcome(bytes(mutated), version)


# Several requests that were answered together.


@pytest.mark.parametrize("id_", ["", "7"])
@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.arange(3)},
        {"y": np.arange(6, dtype=np.float32).reshape(3, 2), "label": np.array([5, 6, 7], ">i2")},
        {"y": np.arange(6, dtype=np.uint8).reshape(2, 3).T},
        {"y": np.zeros((3, 0))},
        {"y": np.array(["a", "bc", ""], object)},
        {"y": np.arange(3 * 4096.0).reshape(3, 4096)},
    ],
)
def test_rows_of_a_batch_are_answered_as_if_each_were_alone(outputs: dict[str, NDArray[Any]], id_: str) -> None:
    """Each request gets its own row, under its own id."""
    version = ModelVersion("m", 1)

    said = [encoded(one, *outputs, id=id_) for one in cut(version, outputs, [1, 1, 1])]

    alone = [
        encoded(InferenceResponse(version, {name: array[row : row + 1] for name, array in outputs.items()}), *outputs)
        for row in range(3)
    ]
    assert [one.id for one in said] == [id_] * 3
    for one, other in zip(said, alone, strict=True):
        other.id = id_
        assert one == other


@pytest.mark.parametrize("rows", [[2, 1, 3], [0, 2], [2, 0, 1], [0, 0]])
def test_requests_of_several_rows_get_all_of_theirs(rows: list[int]) -> None:
    """Also where one has none."""
    outputs = {"y": np.arange(float(sum(rows)))}

    said = [encoded(one, "y") for one in cut(ModelVersion("m", 1), outputs, rows)]

    assert [list(one.outputs[0].shape) for one in said] == [[count] for count in rows]
    assert b"".join(one.raw_output_contents[0] for one in said) == outputs["y"].tobytes()


# Messages that come again with other values.


@given(st.lists(st.binary(max_size=60), min_size=2, max_size=4), st.integers(0, 2**32))
def test_a_message_is_read_alike_whatever_came_before(parts: list[bytes], seed: int) -> None:
    """Reading others of the same length first changes nothing: what begins alike is alike."""
    random_ = random.Random(seed)
    whole = [raw_message({"x": X}), raw_message({"x": X}, id="1"), raw_message({"x": X + 1}, model="n")]
    raw = b":" + bytes([16]) + bytes(16)  # another raw content, behind or between
    bodies = [random_.choice([body, body + raw, raw + body, body[:-16] + part[:16].ljust(16), part])
              for part in parts for body in whole]  # fmt: skip
    bodies += [random_.choice(bodies) for _ in range(4)]

    for body in bodies:
        fresh = read_anew(body)
        assert read_as_it_comes(body) == fresh


def read_as_it_comes(body: bytes) -> Any:
    try:
        draft = oip_grpc.parse(REF, {}, body)
    except DukouError as error:
        return str(error)
    said = draft.payload
    return draft.ref, said.id, [bytes(data) for data in said.raw], [(one.name, one.shape) for one in said.head.inputs]


def read_anew(body: bytes) -> Any:
    """By protobuf alone."""
    try:
        message_ = pool.parse(oip_grpc.REQUEST, body)
    except DukouError:
        return read_as_it_comes(body)
    ref = oip_grpc.model_ref(message_.model_name, message_.model_version)
    inputs = [(one.name, tuple(one.shape)) for one in message_.inputs]
    return ref, message_.id, list(message_.raw_input_contents), inputs


def test_a_large_message_that_comes_again_is_not_copied() -> None:
    """Its raw contents are a view."""
    array = np.zeros((SMALL_BYTES, 2), np.float32)

    for _ in range(2):
        (data,) = oip_grpc.parse(REF, {}, raw_message({"x": array})).payload.raw

        assert isinstance(data, memoryview)
        assert bytes(data) == array.tobytes()


def test_raw_contents_beside_typed_ones_are_refused_of_a_message_that_was_known_without_them() -> None:
    """Where the data is belongs to what is checked, not to what is remembered."""
    version = echo(TensorSpec("x", "FP32", (-1,)))
    typed = [{"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1.0, 2.0]}}]
    assert bound(message(typed), version).inputs["x"].tolist() == [1.0, 2.0]

    with pytest.raises(DukouError, match="contents field must not be specified"):
        bound(message(typed, [bytes(8)]), version)
