"""The client's calls as gRPC messages, and back, without a network."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.client.core import Answer, Calls, Flow, ListedModel, Patience, Pause, Request
from dukou.client.errors import (
    BadAnswer,
    ClientError,
    DeadlineMissed,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Refused,
    ServerFailed,
    Unavailable,
)
from dukou.client.oip_grpc import CONTENTS, GrpcWire
from dukou.core.errors import DukouError
from dukou.core.tensor import DTYPES, narrow
from dukou.protos import pool
from dukou.testing.clock import HandClock
from dukou.wire.raw_array import from_raw, to_raw


def answer(kind: str, /, **fields: Any) -> Answer:
    return Answer(0, pool.message(f"inference.{kind}")(**fields).SerializeToString())


def tensor(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


METADATA = answer(
    "ModelMetadataResponse",
    name="iris",
    inputs=[tensor("X", "FP32", [-1, 2], columns=["a", "b"])],
    outputs=[tensor("label", "INT64", [-1])],
)
LABELS = answer(
    "ModelInferResponse",
    outputs=[tensor("label", "INT64", [2])],
    raw_output_contents=[np.array([1, 0]).tobytes()],
)


def play(flow: Flow[Any], *outcomes: Answer) -> tuple[Any, list[Request]]:
    """Run a flow with these answers; what it returned and the requests it made."""
    steps: list[Request] = []
    outcome: Answer | None = None
    coming = iter(outcomes)
    while True:
        try:
            step = flow.send(outcome)
        except StopIteration as done:
            return done.value, steps
        if isinstance(step, Pause):
            outcome = None
        else:
            steps.append(step)
            outcome = next(coming)


def calls(model: str = "iris", version: int | None = None, **patience: Any) -> Calls:
    return Calls(GrpcWire(model, version), Patience(**patience), HandClock(), lambda: 0.0)


def message(request: Request) -> Any:
    method = request.path.rpartition("/")[2].replace("ModelStreamInfer", "ModelInfer")
    return pool.parse(f"inference.{method}Request", request.body)


def test_infer_asks_for_the_signature_and_sends_raw_tensors() -> None:
    """Two calls: no extension has to be asked for."""
    outputs, (asked, sent) = play(calls(version=3).infer([[1, 2], [3, 4]], "label"), METADATA, LABELS)

    said = message(sent)
    assert outputs["label"].tolist() == [1, 0]
    assert (asked.path, message(asked).name) == ("/inference.GRPCInferenceService/ModelMetadata", "iris")
    assert sent.path == "/inference.GRPCInferenceService/ModelInfer"
    assert (said.model_name, said.model_version) == ("iris", "3")
    assert said.inputs[0] == pool.message("inference.ModelInferRequest.InferInputTensor")(
        name="X", datatype="FP32", shape=[2, 2]
    )
    assert [*said.raw_input_contents] == [np.array([1, 2, 3, 4], np.float32).tobytes()]
    assert [output.name for output in said.outputs] == ["label"]


def test_a_frame_is_matched_by_the_names_in_metadata() -> None:
    """dukou's metadata names the columns over gRPC too."""
    import pandas as pd

    frame = pd.DataFrame({"b": [2.0], "a": [1.0]})

    _, (_, sent) = play(calls().infer(frame), METADATA, LABELS)

    assert message(sent).raw_input_contents[0] == np.array([1, 2], np.float32).tobytes()


@given(st.sampled_from(sorted(CONTENTS)), st.lists(st.integers(0, 1), max_size=4))
def test_answers_whose_values_are_not_raw_are_read(datatype: str, values: list[int]) -> None:
    """KServe answers in `contents`: every datatype that has such a form comes in its own dtype."""
    plain: Any = [b"x" * value for value in values] if datatype == "BYTES" else values
    one = tensor("y", datatype, [len(values)], contents={CONTENTS[datatype]: plain})

    array = GrpcWire("m", None).outputs(answer("ModelInferResponse", outputs=[one]))["y"]

    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == plain


@pytest.mark.parametrize(
    "fields",
    [
        {"outputs": [tensor("y", "FP32", [2])], "raw_output_contents": [b"1234"]},
        {"outputs": [tensor("y", "FP32", [1])], "raw_output_contents": [b"1234", b"1234"]},
        {"outputs": [tensor("y", "FP32", [2], contents={"fp32_contents": [1.0]})]},
        {"outputs": [tensor("y", "FP32", [-1], contents={"fp32_contents": [1.0]})]},
        {"outputs": [tensor("y", "FP16", [1], contents={"fp32_contents": [1.0]})]},
        {"outputs": [tensor("y", "FP8", [1])]},
        {"outputs": [tensor("y", "BYTES", [1])], "raw_output_contents": [b"\xff\xff\xff\xff"]},
    ],
)
def test_an_answer_that_contradicts_itself_is_a_bad_answer(fields: dict[str, Any]) -> None:
    """Data and shape must agree, and the datatype be known."""
    with pytest.raises(BadAnswer):
        play(calls().infer([[1, 2]]), METADATA, answer("ModelInferResponse", **fields))


@given(st.binary(max_size=64))
def test_garbage_is_a_bad_answer_at_most(body: bytes) -> None:
    """Whatever an answer holds, only DukouError comes out."""
    wire = GrpcWire("m", None)
    for read in (wire.outputs, wire.signature, wire.is_ready):
        try:
            read(Answer(0, body))
        except DukouError:
            continue


@pytest.mark.parametrize(
    ("datatype", "array", "comes"),
    [
        ("BF16", narrow(np.array([1.5], np.float32)), [1.5]),
        ("BYTES", np.array(["é", b"\xc3\xa9"], object), ["é", "é"]),
        ("BYTES", np.array(["a", b"\xff"], object), [b"a", b"\xff"]),
        ("FP16", np.array([0.5], np.float16), [0.5]),
    ],
)
def test_outputs_come_as_callers_want_them(datatype: str, array: Any, comes: list[Any]) -> None:
    """BF16 as numbers; BYTES as text, unless some of it is none."""
    one = answer(
        "ModelInferResponse",
        outputs=[tensor("y", datatype, [len(array)])],
        raw_output_contents=[bytes(to_raw(array))],
    )

    outputs, _ = play(calls().infer([[1, 2]]), METADATA, one)

    assert outputs["y"].tolist() == comes


@pytest.mark.parametrize(
    ("model", "outcome", "ready"),
    [
        ("iris", answer("ModelReadyResponse", ready=True), True),
        ("iris", answer("ModelReadyResponse", ready=False), False),
        ("", answer("ServerReadyResponse", ready=True), True),
        ("iris", Answer(5, b"unknown"), False),
        ("", Answer(14, b"draining"), False),
    ],
)
def test_ready_is_what_the_server_says_once(model: str, outcome: Answer, ready: bool) -> None:
    """A refusal is not ready, and is not asked again."""
    answered, (request,) = play(calls(model).ready(), outcome)

    assert answered is ready
    assert request.path.endswith("/ModelReady" if model else "/ServerReady")


def test_models_is_the_repository_index() -> None:
    """Names, versions and states as the server has them."""
    index = answer("RepositoryIndexResponse", models=[{"name": "iris", "version": "1", "state": "READY"}])

    models, _ = play(calls("").models(), index)

    assert models == [ListedModel("iris", "1", "READY")]


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [
        (1, Refused, 1),
        (2, ServerFailed, 1),
        (3, InvalidInput, 1),
        (4, DeadlineMissed, 2),
        (5, NotFound, 1),
        (7, Forbidden, 1),
        (8, Overloaded, 2),
        (9, InvalidInput, 1),
        (11, InvalidInput, 1),
        (12, ServerFailed, 1),
        (13, ServerFailed, 1),
        (14, Unavailable, 2),
        (15, ServerFailed, 1),
        (16, Forbidden, 1),
        (99, Refused, 1),
    ],
)
def test_each_status_has_the_error_and_the_retries_of_its_like_in_http(
    status: int, kind: type[Refused], tries: int
) -> None:
    """The class decides both."""
    outcomes = iter([Answer(status, b"because")] * tries)

    with pytest.raises(ClientError) as caught:
        play(calls(retries=1).metadata(), *outcomes)

    assert type(caught.value) is kind
    assert isinstance(caught.value, Refused)
    assert (caught.value.status, caught.value.message) == (status, "because")
    assert next(outcomes, None) is None


def test_an_error_says_its_status_by_name() -> None:
    """gRPC's numbers mean nothing to people."""
    with pytest.raises(NotFound, match=r"^no such model \(gRPC NOT_FOUND\)$"):
        play(calls().metadata(), Answer(5, b"no such model"))


def test_a_stream_s_answers_are_read_one_by_one() -> None:
    """Outputs, an empty last answer, and an error within a good stream."""
    flow = calls()
    request, _ = play(flow.stream([[1, 2]]), METADATA)
    one = pool.parse("inference.ModelInferResponse", LABELS.body)

    first = flow.streamed(answer("ModelStreamInferResponse", infer_response=one))
    last = flow.streamed(answer("ModelStreamInferResponse", infer_response={"model_name": "iris"}))

    assert request.path.endswith("/ModelStreamInfer")
    assert request.timeout_s == Patience().timeout_s
    assert first["label"].tolist() == [1, 0]
    assert last == {}
    with pytest.raises(Refused, match="broken"):
        flow.streamed(answer("ModelStreamInferResponse", error_message="broken"))
    with pytest.raises(Unavailable):
        flow.streamed(Answer(14, b"gone"))


def test_without_a_model_nothing_can_be_inferred() -> None:
    """A client of a server says so before it sends anything."""
    with pytest.raises(InvalidInput, match="model="):
        play(calls("").metadata())


def test_text_without_a_utf_8_form_is_the_callers_mistake() -> None:
    """Half of a surrogate pair cannot be sent."""
    metadata = answer("ModelMetadataResponse", inputs=[tensor("s", "BYTES", [-1])], outputs=[])

    with pytest.raises(InvalidInput):
        play(calls().infer(["\ud800"]), metadata)


def test_raw_data_is_read_without_a_copy() -> None:
    """What a 602 KB answer costs is its parsing, not its arrays."""
    data = np.ones(4, np.float32).tobytes()

    assert from_raw(data, "FP32", [4], "y").base is not None
