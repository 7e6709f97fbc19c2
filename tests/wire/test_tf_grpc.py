"""Predict over gRPC: what a request may say, order and texts of its errors, answers, and requests that come again."""

import asyncio
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.core.version import ModelRef, ModelVersion
from dukou.engine.batch import cut
from dukou.protos.pool import message
from dukou.testing.models import Direct, FunctionModel, iris_request, manifest, served
from dukou.wire import tf_grpc, tf_known
from dukou.wire.tf_kinds import KINDS

NOTHING = ModelRef("")


def of(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (), batched: bool = False, version: int = 7) -> Served:
    """A model called m that answers with its inputs under the same names."""
    signature = Signature(DEFAULT_SIGNATURE, inputs, outputs or inputs, batched=batched)
    return served(manifest("m", version, (signature,)), Direct(FunctionModel(dict)))


def spec(name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] | None = None) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def body(inputs: Mapping[str, Any], *, content: bool = True, outputs: tuple[str, ...] = (), **model: Any) -> bytes:
    """A PredictRequest with arrays, as tensor_content or as lists."""
    said = message("tensorflow.serving.PredictRequest")(output_filter=outputs)
    said.model_spec.name = "m"
    for key, value in model.items():
        if key == "version":
            said.model_spec.version.value = value
        else:
            setattr(said.model_spec, key, value)
    for name, value in inputs.items():
        put(said.inputs[name], value, content=content)
    written: bytes = said.SerializeToString()
    return written


def put(tensor: Any, value: Any, *, content: bool) -> None:
    array = np.asarray(value)
    datatype = datatype_of(array)
    tensor.dtype = KINDS[datatype].number
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if content and datatype != "BYTES":
        tensor.tensor_content = array.tobytes()
    else:
        getattr(tensor, KINDS[datatype].field).extend(array.ravel().tolist())


def f32(*values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def bound(raw: bytes, version: Served) -> InferenceRequest:
    return tf_grpc.bind(tf_grpc.parse(NOTHING, {}, raw), version, Context())


def answer(raw: bytes, version: Served) -> Any:
    request = bound(raw, version)
    assert version.stage is not None
    reply = tf_grpc.encode(request, asyncio.run(version.stage.infer(request)))
    return message("tensorflow.serving.PredictResponse").FromString(reply.body)


def refusal(raw: bytes, version: Served) -> DukouError:
    with pytest.raises(DukouError) as caught:
        bound(raw, version)
    return caught.value


def text_of(error: DukouError) -> str:
    return tf_grpc.refuse(error).decode()


@pytest.mark.parametrize(
    ("model", "ref"),
    [
        ({}, ModelRef("m")),
        ({"version": 5}, ModelRef("m", 5)),
        ({"version": 0}, ModelRef("m", 0)),
        ({"version_label": "stable"}, ModelRef("m", None, "stable")),
        ({"version_label": ""}, ModelRef("m", None, "")),
    ],
)
def test_the_message_names_its_model(model: dict[str, Any], ref: ModelRef) -> None:
    """The version is a wrapper: 0 is a version that was asked for, not none."""
    assert tf_grpc.parse(NOTHING, {}, body({}, **model)).ref == ref


def test_a_request_names_a_model() -> None:
    """Without a model_spec, and with one that has no name, in that server's words."""
    texts = []
    for raw in (b"", body({}, name="")):
        with pytest.raises(DukouError) as caught:
            tf_grpc.parse(NOTHING, {}, raw)
        assert caught.value.code is Code.INVALID_ARGUMENT
        texts.append(text_of(caught.value))

    assert texts == ["Missing ModelSpec", "ModelSpec has no name specified."]


@given(st.binary(max_size=80))
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    """Whatever bytes come, nothing but a DukouError is raised, at any step."""
    version = of(spec())
    try:
        told = "".join(bound(raw, version).inputs).encode()
    except DukouError as error:
        told = tf_grpc.refuse(error)
    assert told


def outcome(raw: bytes, version: Served) -> Any:
    """What becomes of a request: its inputs to the bit and what else is asked for, or the refusal."""
    try:
        request = bound(raw, version)
    except DukouError as error:
        return tf_grpc.refuse(error)
    inputs = {name: (array.dtype, array.shape, array.tobytes()) for name, array in request.inputs.items()}
    return list(inputs), inputs, request.outputs, request.rows, request.version


FORMS = [
    body({"x": f32([1, 2])}),
    body({"x": f32([1, 2], [3, 4])}, content=False, outputs=("x",)),
    body({"x": np.array([[1, 2]], np.uint8)}, version=7),
]


@given(st.sampled_from(FORMS), st.data())
def test_a_known_form_never_makes_another_request(raw: bytes, data: st.DataObject) -> None:
    """Bytes changed anywhere: what is known of the first changes nothing for the second, nor the other way round."""
    version = of(spec(datatype="FP64", shape=(-1, 2)), batched=True)
    changed = bytearray(raw)
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        changed[place] = data.draw(st.integers(0, 255) | st.sampled_from([0x12, 0x22, 0x2A, 0x32, 0x08, 0x0A]))
    alone = []
    for each in (raw, bytes(changed)):
        tf_known.forget()
        alone.append(outcome(each, version))

    tf_known.forget()

    assert [outcome(each, version) for each in (raw, bytes(changed), raw, bytes(changed))] == alone * 2


def test_half_plus_two_takes_any_shape() -> None:
    """A signature whose rank is open states [-1, 1], and takes [3] all the same."""
    version = of(TensorSpec("x", "FP32", None, stated=(-1, 1)))

    response = answer(body({"x": f32(2, 3, 4)}), version)

    assert list(response.outputs["x"].float_val) == [2, 3, 4]
    assert [axis.size for axis in response.outputs["x"].tensor_shape.dim] == [3]


def test_the_answer_tells_what_has_answered() -> None:
    """Name, effective signature and served version, also where the request named none."""
    response = answer(body({"x": f32(1)}), of(spec()))

    assert response.model_spec.name == "m"
    assert response.model_spec.version.value == 7
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.WhichOneof("version_choice") == "version"


@pytest.mark.parametrize("content", [True, False], ids=["content", "lists"])
def test_both_forms_are_answered_with_lists(content: bool) -> None:
    """Clients index `float_val`, however they asked."""
    response = answer(body({"x": f32([1.5, 2.5])}, content=content), of(spec()))

    assert list(response.outputs["x"].float_val) == [1.5, 2.5]
    assert response.outputs["x"].dtype == 1


def test_one_value_stands_for_all() -> None:
    """make_tensor_proto(1.0, shape=[2, 3]) sends a single float_val."""
    said = message("tensorflow.serving.PredictRequest").FromString(body({"x": f32([0, 0, 0], [0, 0, 0])}))
    said.inputs["x"].ClearField("tensor_content")
    said.inputs["x"].float_val.append(1.0)

    request = bound(said.SerializeToString(), of(spec(shape=(-1, 3)), batched=True))

    assert request.inputs["x"].tolist() == [[1, 1, 1]] * 2
    assert request.rows == 2


def test_rows_of_one_value_may_come_flat() -> None:
    """[rows] becomes [rows, 1] where that is declared, as everywhere in dukou."""
    request = bound(body({"x": f32(1, 2)}), of(spec(shape=(-1, 1)), batched=True))

    assert request.inputs["x"].shape == (2, 1)


@pytest.mark.parametrize(
    ("came", "wanted"),
    [("FP32", "FP64"), ("UINT8", "FP32"), ("INT32", "FP64"), ("INT32", "INT64"), ("FP16", "FP32"), ("UINT8", "INT16")],
)
def test_a_datatype_that_loses_nothing_is_taken(came: str, wanted: str) -> None:
    """Python clients send float for a model of doubles, and uint8 for images."""
    array = np.array([[1, 2]], DTYPES[came])

    request = bound(body({"x": array}), of(spec(datatype=wanted, shape=(-1, 2)), batched=True))

    assert request.inputs["x"].dtype == DTYPES[wanted]
    assert request.inputs["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("came", "wanted", "text"),
    [
        (np.array([b"a"], object), "FP32", "to be float but string is provided"),
        (np.array([1.0]), "FP32", "to be float but double is provided"),
        (np.array([1], np.int32), "FP32", "to be float but int32 is provided"),
        (np.array([True]), "INT32", "to be int32 but bool is provided"),
        (np.array([1.0], np.float32), "BYTES", "to be string but float is provided"),
        (np.array([1], np.int64), "UINT64", "to be uint64 but int64 is provided"),
    ],
)
def test_other_datatypes_are_refused(came: NDArray[Any], wanted: str, text: str) -> None:
    """In the words of TensorFlow's executor."""
    error = refusal(body({"x": came}), of(spec(datatype=wanted)))

    assert error.code is Code.INVALID_ARGUMENT
    assert text in text_of(error)
    assert "(input x)" in text_of(error)


def test_a_datatype_of_nobody_is_refused_by_its_name() -> None:
    """Complex tensors have no datatype here."""
    said = message("tensorflow.serving.PredictRequest").FromString(body({"x": f32(1)}))
    said.inputs["x"].dtype = 8

    assert "to be float but complex64 is provided" in text_of(refusal(said.SerializeToString(), of(spec())))


def test_an_unknown_signature_is_a_failed_precondition() -> None:
    """REST says INVALID_ARGUMENT and another sentence."""
    error = refusal(body({"x": f32(1)}, signature_name="nope"), of(spec()))

    assert error.code is Code.FAILED_PRECONDITION
    assert text_of(error) == 'Serving signature key "nope" not found.'


PAIR = of(spec("a"), spec("b"))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            {"a": f32(1)},
            "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
            "Missing but required: {b}.",
        ),
        (
            {"a": f32(1), "b": f32(1), "c": f32(1)},
            "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). Sent extra: {c}. "
            "Missing but required: {}.",
        ),
        (
            {"a": f32(1), "c": f32(1)},
            "input tensor alias not found in signature: c. Inputs expected to be in the set {a,b}.",
        ),
    ],
)
def test_inputs_must_be_the_signatures(inputs: Mapping[str, Any], text: str) -> None:
    """Missing, extra and other names, in that server's words."""
    error = refusal(body(inputs), PAIR)

    assert error.code is Code.INVALID_ARGUMENT
    assert text_of(error) == text


def test_outputs_are_filtered_in_the_order_asked_for() -> None:
    """Only what is asked for is computed and told."""
    request = bound(body({"a": f32(1), "b": f32(2)}, outputs=("b", "a")), PAIR)

    assert request.outputs == ("b", "a")
    assert set(answer(body({"a": f32(1), "b": f32(2)}, outputs=("b",)), PAIR).outputs) == {"b"}


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (("z",), "output tensor alias not found in signature: z Outputs expected to be in the set {a,b}."),
        (("a", "a"), "duplicate output tensor alias: a"),
    ],
)
def test_outputs_must_be_the_signatures(outputs: tuple[str, ...], text: str) -> None:
    """Unknown and repeated names."""
    error = refusal(body({"a": f32(1), "b": f32(2)}, outputs=outputs), PAIR)

    assert error.code is Code.INVALID_ARGUMENT
    assert text_of(error) == text


def test_inputs_are_judged_before_outputs() -> None:
    """As in that server, which reads tensors before it looks at the filter."""
    said = message("tensorflow.serving.PredictRequest").FromString(body({"x": f32(1)}, outputs=("z",)))
    said.inputs["x"].tensor_shape.dim[0].size = 9

    assert "tensor parsing error: x" in text_of(refusal(said.SerializeToString(), of(spec())))


def test_a_declared_shape_holds() -> None:
    """A typed model cannot run another one."""
    error = refusal(body({"x": f32([1, 2, 3])}), of(spec(shape=(-1, 2)), batched=True))

    assert error.reason is Reason.WRONG_WIDTH
    assert error.facts["model"] == "m"


def test_long_errors_are_cut() -> None:
    """grpc-message has 1024 characters of them, and says so."""
    text = tf_grpc.refuse(DukouError(Reason.MALFORMED_REQUEST, detail="é" * 2000)).decode()

    assert text == "é" * 1024 + "...TRUNCATED"


def test_an_error_with_half_a_surrogate_pair_is_told() -> None:
    """Names come from callers."""
    assert tf_grpc.refuse(DukouError(Reason.MALFORMED_REQUEST, detail="\ud800")) == b"?"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DukouError(Reason.MODEL_NOT_FOUND, model="m", served=""), "Servable not found for request: Latest(m)"),
        (
            DukouError(Reason.VERSION_NOT_FOUND, model="m", version=9, served="1"),
            "Servable not found for request: Specific(m, 9)",
        ),
        (DukouError(Reason.LABEL_NOT_FOUND, model="m", label="l"), "Unrecognized servable version label: l"),
    ],
)
def test_clients_find_the_words_they_look_for(error: DukouError, text: str) -> None:
    """The readiness probe of that server's clients looks for `Servable`."""
    assert text_of(error) == text


def test_text_without_a_utf8_form_is_refused() -> None:
    """A model may answer with half of a surrogate pair."""
    request = bound(body({"s": np.array([b"a"], object)}), of(spec("s", "BYTES")))
    response = InferenceResponse(request.version, {"s": np.array(["\ud800"], object)})

    with pytest.raises(DukouError) as caught:
        tf_grpc.encode(request, response)

    assert caught.value.reason is Reason.NOT_SUPPORTED


VALUES = st.sampled_from(["FP32", "FP64", "INT64", "UINT8", "INT16"]).flatmap(
    lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(max_dims=3, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text(max_size=3), VALUES, min_size=1, max_size=3), st.booleans())
def test_an_answer_holds_what_was_sent(inputs: dict[str, NDArray[Any]], content: bool) -> None:
    """Through a model that answers with its inputs, in both forms, the first time and when the form is known."""
    version = of(
        *(spec(name, next(k for k, d in DTYPES.items() if d == array.dtype)) for name, array in inputs.items())
    )
    raw = body(inputs, content=content)

    for _ in range(2):
        request = bound(raw, version)

        assert request.inputs.keys() == inputs.keys()
        for name, array in inputs.items():
            assert request.inputs[name].dtype == array.dtype
            assert request.inputs[name].shape == array.shape
            assert request.inputs[name].tobytes() == array.tobytes()


ROWS = of(spec(shape=(-1, 2)), batched=True)


@pytest.mark.parametrize("content", [True, False], ids=["content", "lists"])
def test_a_form_that_is_known_takes_other_values(content: bool) -> None:
    """The second request is read without protobuf, and is another request."""
    bound(body({"x": f32([1, 2])}, content=content), ROWS)
    raw = body({"x": f32([3, 4])}, content=content)

    known = tf_known.find(raw)
    request = bound(raw, ROWS)

    assert known is not None
    assert request.inputs["x"].tolist() == [[3, 4]]
    assert request.rows == 1
    assert request.inputs["x"].flags.aligned


@pytest.mark.parametrize(("came", "wanted"), [("FP32", "FP64"), ("UINT8", "FP32"), ("INT32", "INT64")])
def test_a_known_form_is_widened(came: str, wanted: str) -> None:
    """A client that sends float to a model of doubles does so each time."""
    version = of(spec(datatype=wanted, shape=(-1, 2)), batched=True)
    bound(body({"x": np.array([[1, 2]], DTYPES[came])}), version)
    raw = body({"x": np.array([[3, 4]], DTYPES[came])})

    request = bound(raw, version)

    assert tf_known.find(raw) is not None
    assert request.inputs["x"].dtype == DTYPES[wanted]
    assert request.inputs["x"].tolist() == [[3, 4]]


def test_a_known_form_belongs_to_one_version() -> None:
    """Another version of the model may have another signature."""
    raw = body({"x": f32([1, 2])})
    bound(raw, ROWS)

    error = refusal(raw, of(spec(shape=(-1, 3)), batched=True, version=8))

    assert error.reason is Reason.WRONG_WIDTH
    assert bound(raw, ROWS).rows == 1


def test_a_known_form_keeps_its_model_and_outputs() -> None:
    """Requests of the same length that ask otherwise are other forms."""
    two = of(spec("a"), outputs=(spec("y"), spec("z")))
    first = body({"a": f32(1)}, outputs=("y",))
    other = body({"a": f32(2)}, outputs=("z",))

    assert [bound(raw, two).outputs for raw in (first, other, first, other)] == [("y",), ("z",)] * 2
    assert tf_grpc.parse(NOTHING, {}, body({"a": f32(1)}, name="n", outputs=("y",))).ref == ModelRef("n")


def test_large_values_of_a_known_form_are_aligned() -> None:
    """They may lie anywhere in the message."""
    for pad in range(8):
        version = of(spec("x" * (pad + 1), "FP64", (-1, 1000)), batched=True)
        raw = body({"x" * (pad + 1): np.arange(1000.0).reshape(1, -1)})
        bound(raw, version)

        array = bound(raw, version).inputs["x" * (pad + 1)]

        assert array.flags.aligned
        assert array.tolist() == [list(range(1000))]


UNLEARNED: list[tuple[str, Served, bytes]] = [
    ("text", of(spec("s", "BYTES")), body({"s": np.array([b"ab"], object)})),
    ("booleans", of(spec("s", "BOOL")), body({"s": np.array([True])})),
    ("integers in a list", of(spec("s", "INT64")), body({"s": np.array([1])}, content=False)),
]


@pytest.mark.parametrize(("version", "raw"), [case[1:] for case in UNLEARNED], ids=[case[0] for case in UNLEARNED])
def test_values_that_are_not_as_memory_are_read_each_time(version: Served, raw: bytes) -> None:
    """Their bytes on the wire are not those of the array."""
    first = bound(raw, version)

    assert tf_known.find(raw) is None
    assert bound(raw, version).inputs["s"].tolist() == first.inputs["s"].tolist()


def test_values_in_two_pieces_are_read_each_time() -> None:
    """A list that comes in two packed fields, and a tensor that comes twice."""
    said = message("tensorflow.serving.PredictRequest").FromString(body({"x": f32(1, 2)}, content=False))
    field = b"\x2a\x04"
    packed = f32(1).tobytes(), f32(2).tobytes()
    whole = said.SerializeToString()
    twice = whole.replace(b"\x2a\x08" + packed[0] + packed[1], field + packed[0] + field + packed[1])
    grown = len(twice) - len(whole)
    twice = _with_lengths(twice, grown)
    version = of(spec())

    assert [bound(twice, version).inputs["x"].tolist() for _ in range(2)] == [[1, 2]] * 2
    assert tf_known.find(twice) is None


def _with_lengths(raw: bytes, grown: int) -> bytes:
    """A request whose one input has grown by so many bytes, the lengths of its entry and tensor put right."""
    entry = raw.index(b"\x12")
    tensor = raw.index(b"\x0a\x01x\x12", entry) + 3
    fixed = bytearray(raw)
    fixed[entry + 1] += grown
    fixed[tensor + 1] += grown
    return bytes(fixed)


def test_filled_tensors_are_read_each_time() -> None:
    """Zeros that stand for missing values look like data that is not there."""
    said = message("tensorflow.serving.PredictRequest").FromString(body({"x": f32(0, 0)}))
    tensor = said.inputs["x"]
    tensor.ClearField("tensor_content")
    tensor.double_val.append(0.0)  # eight bytes of zeros, but of another list than that of floats
    raw = said.SerializeToString()

    assert bound(raw, of(spec())).inputs["x"].tolist() == [0, 0]
    assert tf_known.find(raw) is None


def test_few_forms_are_kept() -> None:
    """Of one length, whoever sends them; the newest win."""
    bodies = [body({"x": f32([1, 2])}, name=f"m{number}") for number in range(tf_known.MOST_FORMS + 1)]
    for raw in bodies:
        bound(raw, ROWS)

    assert tf_known.find(bodies[0]) is None
    assert all(tf_known.find(raw) is not None for raw in bodies[1:])


def test_requests_with_much_beside_their_values_are_not_kept() -> None:
    """What is remembered stays small."""
    said = message("tensorflow.serving.PredictRequest").FromString(body({"x": f32([1, 2])}))
    said.client_id = b"c" * tf_known.MOST_FIXED_BYTES
    raw = said.SerializeToString()

    bound(raw, ROWS)

    assert tf_known.find(raw) is None


def test_large_answers_of_floats_are_not_slow_to_write() -> None:
    """Floats are written as memory has them, integers one by one."""
    request = bound(body({"x": f32(1)}), of(spec()))
    floats, integers = np.zeros(6400, np.float32), np.zeros(6400, np.int32)

    sizes = [
        tf_grpc.writing_bytes(request, InferenceResponse(request.version, {"x": array})) for array in (floats, integers)
    ]

    assert sizes == [400, 25600]


def test_a_known_form_is_quick_to_read() -> None:
    """Its values are taken as they lie; what is not known is asked of protobuf, and may hold anything."""
    raw = body({"x": np.zeros((1000, 2), np.float32)})
    tf_known.forget()

    before = tf_grpc.reading_bytes({}, raw)
    bound(raw, ROWS)

    assert (before, tf_grpc.reading_bytes({}, raw)) == (len(raw), len(raw) // 64)
    assert tf_grpc.reading_bytes({}, b"\xff" * 100) == 100


def test_a_manifest_bounds_rows() -> None:
    """Also of known forms, whose rows are known."""
    version = msgspec.structs.replace(
        ROWS, manifest=manifest("m", 7, tuple(ROWS.manifest.signatures.values()), options={"max_request_rows": 1})
    )

    assert refusal(body({"x": f32([1, 2], [3, 4])}), version).reason is Reason.BATCH_TOO_LARGE


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.arange(3)},
        {"y": np.array([-1, -1, 300], np.int16), "scores": np.arange(6, dtype=np.float32).reshape(3, 2)},
        {"y": np.arange(3, dtype=np.float16), "b": np.array([True, False, True])},
        {"y": np.zeros((3, 0)), "z": np.zeros((3, 0), np.int64)},
        {"y": np.array(["a", "bc", ""], object)},
        {"y": np.arange(3 * 4096.0).reshape(3, 4096)},
    ],
)
@pytest.mark.parametrize("rows", [[1, 1, 1], [2, 1], [0, 2, 1]])
def test_requests_answered_together_get_what_each_would_get_alone(
    outputs: dict[str, np.ndarray[Any, Any]], rows: list[int]
) -> None:
    """Their own rows, byte for byte."""
    version = ModelVersion("m", 1)
    request = iris_request([[1, 2, 3, 4]])

    said = [tf_grpc.encode(request, one).body for one in cut(version, outputs, rows)]

    ends = list(accumulate(rows))
    for written, start, end in zip(said, [0, *ends], ends, strict=False):
        alone = InferenceResponse(version, {name: array[start:end] for name, array in outputs.items()})
        assert written == tf_grpc.encode(request, alone).body
