"""KServe's clients, tensorflow-serving-api, grpcio's health and reflection, and JavaScript, against a live server."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_programs import ROOT, Saw, environment, node, python
from clients_models import build_mnist

from app.app_server import Server
from live import Live

pytestmark = [pytest.mark.clients, pytest.mark.socket, pytest.mark.slow]

SUM, DIFFERENCE = [[11, 22, 33, 44]], [[-9, -18, -27, -36]]
ANSWER = ["7", "addsub", SUM, DIFFERENCE]


@pytest.fixture(scope="module")
def kserve(live: Live) -> Saw:
    return python("kserve", "kserve_clients.py", live.target("kserve"))


@pytest.fixture(scope="module", params=["", "tensorflow-serving"], ids=["default", "tensorflow-serving"])
def serving(live: Live, request: pytest.FixtureRequest) -> Saw:
    return python("tensorflow", "serving_stubs.py", live.target(request.param))


@pytest.fixture(scope="module")
def grpcio(live: Live) -> Saw:
    return python("grpc", "grpc_services.py", live.target())


@pytest.fixture(scope="module")
def fetch(live: Live) -> Saw:
    return node("fetch.mjs", live.target())


@pytest.fixture(scope="module")
def grpc_js(live: Live) -> Saw:
    proto = ROOT / "src" / "dukou" / "protos" / "inference.proto"
    return node("grpc_js.mjs", live.target(), str(proto), str(environment("javascript")))


# KServe.


def test_kserve_over_rest_v1(kserve: Saw) -> None:
    """Liveness at the root, readiness and prediction as its own server answers."""
    assert kserve("rest_v1") == [True, True, {"predictions": [3.0, 3.5, 4.0]}]


def test_kserve_over_rest_v2(kserve: Saw) -> None:
    """Health has bodies that the client reads; tensors as JSON and as binary data."""
    assert kserve("rest_v2") == [[True, True, True], ANSWER, ANSWER]


def test_kserve_reads_errors(kserve: Saw) -> None:
    """In its server's words."""
    status, text = kserve("rest_errors")

    assert status == 404
    assert "Model with name no does not exist." in text


def test_kserve_over_grpc(kserve: Saw) -> None:
    """Values in the message and raw data."""
    assert kserve("grpc") == [[True, True, True], ANSWER, ANSWER]


# TensorFlow Serving.


def test_our_messages_live_beside_tensorflow_s(serving: Saw) -> None:
    """Both in one process, each reading what the other wrote."""
    assert serving("beside_ours") == [2.0, [2.0], 1]


def test_predict_takes_every_form_of_a_tensor(serving: Saw) -> None:
    """As tf.make_tensor_proto writes them: content, values, one value for many, scalars."""
    assert serving("tensors_in_every_form") == {
        "vector": [3.0, 3.5, 4.0],
        "one_value": [3.0],
        "filled": [[2.5, 2.5, 2.5], [2.5, 2.5, 2.5]],
        "scalar": 4.0,
        "array": [[3.0], [4.0]],
    }


def test_predict_answers_in_values_and_says_who_answered(serving: Saw) -> None:
    """Name, version and the effective signature."""
    assert serving("answer_s_own_form") == [[3.0, 3.5], "half_plus_two", 123, "serving_default"]


def test_predict_by_version_and_label(serving: Saw) -> None:
    """Both lead to version 123."""
    assert serving("versions_and_labels") == [123, 123]


def test_predict_with_an_output_filter(serving: Saw) -> None:
    """Only what was asked for."""
    assert serving("output_filter") == ["diff"]


def test_predict_strings(serving: Saw) -> None:
    """Text and bytes."""
    assert serving("strings") == ["été", "plain"]


def test_classify(serving: Saw) -> None:
    """A score for each example; the model has no labels."""
    assert serving("classify") == [[["", 3.0]], [["", 4.0]]]


def test_regress_with_context(serving: Saw) -> None:
    """An example without the feature takes it from the context."""
    assert serving("regress") == [3.0, 4.0]


def test_multi_inference(serving: Saw) -> None:
    """Two signatures of one model, one input."""
    assert serving("multi_inference") == [3.0, 3.0]


def test_metadata_of_signatures(serving: Saw) -> None:
    """All of them, in an Any."""
    assert serving("metadata") == [
        ["classify_x_to_y", "regress_x_to_y", "serving_default"],
        "tensorflow/serving/predict",
        ["x:0", 1, [-1, 1]],
        123,
    ]


def test_model_status(serving: Saw) -> None:
    """One version, available, no error."""
    assert serving("status") == [123, "AVAILABLE", 0]


def test_a_config_that_cannot_be_is_refused(serving: Saw) -> None:
    """A path that is not absolute."""
    assert serving("reload") == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        ("model", "NOT_FOUND", "Servable not found for request: Latest(no)"),
        ("unnamed", "INVALID_ARGUMENT", "no name"),
        ("version", "NOT_FOUND", "Servable not found for request: Specific(half_plus_two, 9)"),
        ("label", "INVALID_ARGUMENT", "Unrecognized servable version label: nope"),
        ("signature", "FAILED_PRECONDITION", 'Serving signature key "nope" not found.'),
        ("inputs", "INVALID_ARGUMENT", "input size does not match signature"),
    ],
)
def test_errors_of_tensorflow_serving(serving: Saw, call: str, status: str, text: str) -> None:
    """Status and words as tensorflow_model_server's."""
    came = serving("errors")[call]

    assert came[0] == status
    assert text in came[1]


def test_tensors_above_grpc_s_default_limit(serving: Saw) -> None:
    """6 MB both ways."""
    assert serving("large") is True


def test_the_document_s_client_runs_word_for_word(tmp_path: Path) -> None:
    """It calls a model `mnist` at port 8500 with an image of a digit, and gets the digit's scores."""
    environment("tensorflow")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8500)) == 0:
            pytest.skip("something listens on port 8500, which the client has in its code")
    mnist = build_mnist(tmp_path / "models")
    right = mnist.scores.argmax(axis=1) == mnist.digits
    chosen = int(right.argmax())
    np.save(tmp_path / "image.npy", mnist.images[chosen])

    with Server(tmp_path / "models", "--listen", "127.0.0.1:8500"):
        outputs = python("tensorflow", "run_document_client.py", str(tmp_path / "image.npy"))("asked")

    assert right.mean() > 0.8
    assert np.argmax(outputs["scores"]) == mnist.digits[chosen]
    np.testing.assert_allclose(outputs["scores"], mnist.scores[[chosen]], atol=1e-5)


# gRPC's own services.


def test_health_check(grpcio: Saw) -> None:
    """The server, its services and a model are serving; another name is not found."""
    found, unknown = grpcio("check")

    assert set(found.values()) == {1}
    assert unknown == "NOT_FOUND"


def test_health_watch(grpcio: Saw) -> None:
    """SERVING, and SERVICE_UNKNOWN for a name that may come yet."""
    assert grpcio("watch") == [1, 3]


def test_reflection_lists_every_service(grpcio: Saw) -> None:
    """What tools show first."""
    assert grpcio("services") == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    ]


def test_both_versions_of_reflection_list_the_same(grpcio: Saw) -> None:
    """Newer tools ask for v1, older ones for v1alpha."""
    assert grpcio("services_by_v1") == grpcio("services")


def test_a_call_without_stubs(grpcio: Saw) -> None:
    """Reflection is enough to build the messages of a call."""
    name, outputs, methods = grpcio("a_call_by_reflection_alone")

    assert (name, outputs) == ("addsub", ["OUTPUT0", "OUTPUT1"])
    assert methods >= 12


def test_reflection_describes_every_service(grpcio: Saw) -> None:
    """Each with its methods."""
    described = grpcio("every_service_is_described")

    assert described["tensorflow.serving.PredictionService"] == 5
    assert described["grpc.health.v1.Health"] == 2


# JavaScript.


def test_fetch_infers_and_predicts(fetch: Saw) -> None:
    """JSON in both protocols, without a content type said."""
    infer, predict = fetch("infer"), fetch("predict")

    assert infer[0] == 200
    assert [output["data"] for output in infer[1]["outputs"]] == [[2, 4, 6, 8], [0, 0, 0, 0]]
    assert predict == [200, {"predictions": [3.0, 3.5]}]


def test_fetch_sees_errors(fetch: Saw) -> None:
    """A status and a message."""
    status, body = fetch("refused")

    assert status == 404
    assert "no" in body["error"]


def test_fetch_sends_typed_arrays(fetch: Saw) -> None:
    """Binary tensors are an Int32Array's own bytes."""
    assert fetch("binary") == [2, 4, 6, 8, 0, 0, 0, 0]


def test_fetch_reads_events(fetch: Saw) -> None:
    """A streaming model's responses as server-sent events."""
    kind, numbers = fetch("events")

    assert kind.startswith("text/event-stream")
    assert numbers == [0, 1, 2]


@pytest.mark.parametrize(
    ("scenario", "saw"),
    [("ready", True), ("metadata", [-1, 4]), ("infer", [[2, 4, 6, 8], [0, 0, 0, 0]]), ("stream", [0, 1, 2])],
)
def test_grpc_js(grpc_js: Saw, scenario: str, saw: Any) -> None:
    """@grpc/grpc-js with the .proto file of this repository."""
    assert grpc_js(scenario) == saw


def test_grpc_js_sees_errors(grpc_js: Saw) -> None:
    """NOT_FOUND and its message."""
    code, text = grpc_js("refused")

    assert code == 5
    assert "no" in text
