"""PredictionService and ModelService, called without a connection."""

from typing import Any

import numpy as np
import pytest
from rpc_rig import Service

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import RequestRefused
from dukou.core.message import Table
from dukou.core.model import DEFAULT_SIGNATURE, Signature, State, TensorSpec
from dukou.core.tensor import Tensors
from dukou.core.verb import ReloadConfig, Verb
from dukou.net import services_tf, status
from dukou.net.rpc import GrpcError, Unary
from dukou.protos.pool import parse, pool
from dukou.protos.tree import to_message, to_tree
from dukou.testing.models import Direct, FunctionModel, iris_like, manifest, served, table
from dukou.wire import tf_grpc, tf_grpc_examples
from dukou.wire.tf_says import says

INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, UNIMPLEMENTED, UNAVAILABLE = 3, 5, 9, 12, 14
PACKAGE = "tensorflow.serving"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"

X = TensorSpec("x", "FP32", (-1, 1))
HALF_PLUS_TWO = manifest(
    "half_plus_two",
    123,
    (
        Signature(DEFAULT_SIGNATURE, (X,), (TensorSpec("y", "FP32", (-1, 1)),)),
        Signature("classify_x_to_y", (X,), (TensorSpec("scores", "FP32", (-1, 1), tensor="y:0"),), "classify"),
        Signature("regress_x_to_y", (X,), (TensorSpec("outputs", "FP32", (-1, 1), tensor="y:0"),), "regress"),
    ),
)


def halve(inputs: Tensors) -> Tensors:
    half = inputs["x"] / 2 + np.float32(2)
    return {"y": half, "scores": half, "outputs": half}


MODELS = table(
    served(HALF_PLUS_TWO, Direct(FunctionModel(halve))),
    iris_like("iris", 1),
    iris_like("iris", 2),
    iris_like("loading", 1, State.LOADING),
    labels={"half_plus_two": {"stable": 123}},
)


def path(method: str) -> str:
    service = "ModelService" if method in ("GetModelStatus", "HandleReloadConfigRequest") else "PredictionService"
    return f"/{PACKAGE}.{service}/{method}"


MESSAGES = {"HandleReloadConfigRequest": "ReloadConfig"}


def ask(method: str, said: Any, of: Table = MODELS) -> Any:
    """The response to a request, which is a tree or bytes."""
    name = MESSAGES.get(method, method)
    raw = said if isinstance(said, bytes) else to_message(said, f"{PACKAGE}.{name}Request").SerializeToString()
    return parse(f"{PACKAGE}.{name}Response", Service(services_tf.methods, of).call(path(method), raw))


def refusal(method: str, said: Any, of: Table = MODELS) -> tuple[int, str]:
    with pytest.raises(GrpcError) as caught:
        ask(method, said, of)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize("dialect", ["", "tensorflow-serving"])
def test_every_method_of_the_services_is_answered(dialect: str) -> None:
    """Those that the protobuf services have, and no others."""
    described = {
        path(method)
        for service in ("PredictionService", "ModelService")
        for method in pool().FindServiceByName(f"{PACKAGE}.{service}").methods_by_name
    }

    methods = Service(services_tf.methods, MODELS, dialect).methods

    assert {name.decode() for name in methods} == described


@pytest.mark.parametrize("dialect", ["triton", "kserve", "mlserver"])
def test_other_dialects_do_not_have_the_services(dialect: str) -> None:
    """Their clients know others."""
    assert Service(services_tf.methods, MODELS, dialect).methods == {}


@pytest.mark.parametrize(
    ("method", "codec"),
    [
        ("Predict", tf_grpc),
        ("Classify", tf_grpc_examples.CLASSIFY),
        ("Regress", tf_grpc_examples.REGRESS),
    ],
)
def test_inference_goes_through_the_data_plane(method: str, codec: Any) -> None:
    """With gRPC's statuses, of which 0 is fine."""
    found = Service(services_tf.methods, MODELS).methods[path(method).encode()]

    assert isinstance(found, Unary)
    assert found.api.codec is codec
    assert found.api.ok == 0
    assert found.api.statuses is status.GRPC


def test_metadata_is_packed_under_its_type() -> None:
    """An Any whose type every client of that server knows."""
    said = {"model_spec": {"name": "half_plus_two"}, "metadata_field": ["signature_def"]}

    response = ask("GetModelMetadata", said)

    packed = response.metadata["signature_def"]
    signatures = parse(f"{PACKAGE}.SignatureDefMap", packed.value).signature_def
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert set(signatures) == {DEFAULT_SIGNATURE, "classify_x_to_y", "regress_x_to_y"}
    assert signatures["classify_x_to_y"].outputs["scores"].name == "y:0"
    assert signatures[DEFAULT_SIGNATURE].inputs["x"].dtype == 1
    assert to_tree(response.model_spec) == {"name": "half_plus_two", "version": "123"}


@pytest.mark.parametrize(
    ("spec", "version"),
    [({"version": 1}, 1), ({}, 2), ({"version": "2"}, 2)],
)
def test_metadata_is_of_the_version_asked_for(spec: dict[str, Any], version: int) -> None:
    """Or else of the latest."""
    said = {"model_spec": {"name": "iris", **spec}, "metadata_field": ["signature_def"]}

    assert ask("GetModelMetadata", said).model_spec.version.value == version


def test_metadata_of_a_label_is_that_of_its_version() -> None:
    """Other than the status of one."""
    said = {"model_spec": {"name": "half_plus_two", "version_label": "stable"}, "metadata_field": ["signature_def"]}

    assert ask("GetModelMetadata", said).model_spec.version.value == 123


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"metadata_field": ["signature_def"]}, (INVALID_ARGUMENT, "Missing ModelSpec")),
        (
            {"model_spec": {"name": "iris"}},
            (INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"),
        ),
        (
            {"model_spec": {"name": "iris"}, "metadata_field": ["signature_def", "x"]},
            (INVALID_ARGUMENT, "Metadata field x is not supported"),
        ),
        (
            {"model_spec": {"name": ""}, "metadata_field": ["signature_def"]},
            (INVALID_ARGUMENT, "ModelSpec has no name specified."),
        ),
        (
            {"model_spec": {"name": "nope"}, "metadata_field": ["signature_def"]},
            (NOT_FOUND, "Servable not found for request: Latest(nope)"),
        ),
        (
            {"model_spec": {"name": "iris", "version": 9}, "metadata_field": ["signature_def"]},
            (NOT_FOUND, "Servable not found for request: Specific(iris, 9)"),
        ),
        (
            {"model_spec": {"name": "iris", "version_label": "l"}, "metadata_field": ["signature_def"]},
            (INVALID_ARGUMENT, "Unrecognized servable version label: l"),
        ),
    ],
)
def test_metadata_refuses_in_that_servers_words(said: dict[str, Any], wanted: tuple[int, str]) -> None:
    """The fields are judged before the model."""
    assert refusal("GetModelMetadata", said) == wanted


def test_status_lists_all_versions_highest_first() -> None:
    """With their states and no error."""
    states = ask("GetModelStatus", {"model_spec": {"name": "iris"}}).model_version_status

    assert [(each.version, each.state, each.status.error_code) for each in states] == [(2, 30, 0), (1, 30, 0)]


def test_status_of_one_version_and_of_a_label() -> None:
    """A label is not resolved: the answer is about all versions."""
    one = ask("GetModelStatus", {"model_spec": {"name": "iris", "version": 1}}).model_version_status
    all_of_them = ask("GetModelStatus", {"model_spec": {"name": "iris", "version_label": "l"}}).model_version_status

    assert [each.version for each in one] == [1]
    assert [each.version for each in all_of_them] == [2, 1]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, (INVALID_ARGUMENT, "Missing ModelSpec")),
        ({"model_spec": {"name": "nope"}}, (NOT_FOUND, "Could not find any versions of model nope")),
        ({"model_spec": {"name": "iris", "version": 9}}, (NOT_FOUND, "Could not find version 9 of model iris")),
    ],
)
def test_status_refuses_in_that_servers_words(said: dict[str, Any], wanted: tuple[int, str]) -> None:
    """Scripts look for these."""
    assert refusal("GetModelStatus", said) == wanted


def test_a_valid_config_is_not_loaded_and_says_so() -> None:
    """Nothing is changed by half."""
    models = [{"name": "iris", "base_path": "/models/iris", "model_platform": "tensorflow"}]

    number, text = refusal("HandleReloadConfigRequest", {"config": {"model_config_list": {"config": models}}})

    assert number == UNIMPLEMENTED
    assert "not enabled" in text


def test_an_invalid_config_is_refused_for_what_it_is() -> None:
    """Before it is said that none would be loaded."""
    models = [{"name": "iris", "base_path": "iris", "model_platform": "tensorflow"}]

    number, text = refusal("HandleReloadConfigRequest", {"config": {"model_config_list": {"config": models}}})

    assert number == INVALID_ARGUMENT
    assert "absolute path" in text


class Plane:
    """A control plane that notes what it is asked for, and ends as it is told."""

    def __init__(self, error: DukouError | None = None) -> None:
        self.asked: list[tuple[Verb, str]] = []
        self._error = error

    async def do(self, verb: Verb, who: str) -> None:
        self.asked.append((verb, who))
        if self._error is not None:
            raise self._error


NEW = {"model_config_list": {"config": [{"name": "iris", "base_path": "/m", "model_platform": "tensorflow"}]}}
RELOAD = to_message({"config": NEW, "metric_names": ["x"]}, f"{PACKAGE}.ReloadConfigRequest").SerializeToString()
ELSEWHERE = "192.0.2.1:5000"


@pytest.mark.parametrize(
    ("allowed", "peer"),
    [({"reloads": True}, "127.0.0.1:5000"), ({"explicit": True}, ELSEWHERE)],
)
def test_a_config_is_put_in_force_where_it_may(allowed: dict[str, bool], peer: str) -> None:
    """The control plane judges it; the response says that all is well."""
    plane = Plane()
    service = Service(services_tf.methods, MODELS, control=plane, peer=peer, **allowed)

    response = parse(f"{PACKAGE}.ReloadConfigResponse", service.call(path("HandleReloadConfigRequest"), RELOAD))

    assert response.HasField("status")
    assert (response.status.error_code, response.status.error_message) == (0, "")
    config = to_message(NEW, f"{PACKAGE}.ModelServerConfig").SerializeToString()
    assert plane.asked == [(ReloadConfig(config), peer)]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (says("Illegal to list model m multiple times in config list"), INVALID_ARGUMENT),
        (says("Request to assign label", Reason.PRECONDITION_FAILED), FAILED_PRECONDITION),
        (DukouError(Reason.NOT_SERVING, detail="1 model did not become available"), UNAVAILABLE),
    ],
)
def test_a_config_that_is_refused_is_the_status_of_the_call(error: DukouError, wanted: int) -> None:
    """With the control plane's words."""
    service = Service(services_tf.methods, MODELS, control=Plane(error), reloads=True)

    with pytest.raises(GrpcError) as caught:
        service.call(path("HandleReloadConfigRequest"), RELOAD)

    assert (caught.value.status, caught.value.message) == (wanted, error.facts["detail"])


def test_a_config_from_another_machine_is_refused() -> None:
    """Unless all callers may change what is served."""
    plane = Plane()
    service = Service(services_tf.methods, MODELS, control=plane, peer=ELSEWHERE, reloads=True)

    with pytest.raises(GrpcError) as caught:
        service.call(path("HandleReloadConfigRequest"), RELOAD)

    assert caught.value.status == status.GRPC[Code.PERMISSION_DENIED]
    assert plane.asked == []


def task(signature: str, method: str, name: str = "half_plus_two", **spec: Any) -> dict[str, Any]:
    return {"model_spec": {"name": name, "signature_name": signature, **spec}, "method_name": method}


def one_example(value: float = 2.0) -> dict[str, Any]:
    feature = {"x": {"float_list": {"value": [value]}}}
    return {"example_list": {"examples": [{"features": {"feature": feature}}]}}


BOTH = [task("classify_x_to_y", CLASSIFY), task("regress_x_to_y", REGRESS)]


def test_several_tasks_share_their_examples() -> None:
    """Each result has its kind, and says what has answered."""
    response = ask("MultiInference", {"tasks": BOTH, "input": one_example()})

    assert [to_tree(result) for result in response.results] == [
        {
            "model_spec": {"name": "half_plus_two", "version": "123", "signature_name": "classify_x_to_y"},
            "classification_result": {"classifications": [{"classes": [{"score": 3.0}]}]},
        },
        {
            "model_spec": {"name": "half_plus_two", "version": "123", "signature_name": "regress_x_to_y"},
            "regression_result": {"regressions": [{"value": 3.0}]},
        },
    ]


def test_large_examples_are_read_in_the_pool() -> None:
    """And answered all the same."""
    examples = [{"features": {"feature": {"x": {"float_list": {"value": [2.0]}}}}}] * 20_000

    response = ask("MultiInference", {"tasks": BOTH[1:], "input": {"example_list": {"examples": examples}}})

    assert len(response.results[0].regression_result.regressions) == 20_000


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"input": one_example()}, (INVALID_ARGUMENT, "ModelSpec has no name specified.")),
        (
            {"tasks": [task("", CLASSIFY, name="nope")], "input": one_example()},
            (NOT_FOUND, "Servable not found for request: Latest(nope)"),
        ),
        (
            {"tasks": [BOTH[0], task("", CLASSIFY, name="iris")], "input": one_example()},
            (INVALID_ARGUMENT, "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        ),
        (
            {"tasks": [BOTH[0], task("", CLASSIFY, name="")], "input": one_example()},
            (INVALID_ARGUMENT, "Found ModelSpec with an empty model name."),
        ),
        (
            {"tasks": [BOTH[0], BOTH[0]], "input": one_example()},
            (INVALID_ARGUMENT, "Duplicate evaluation of signature: classify_x_to_y"),
        ),
        (
            {"tasks": [task("nope", CLASSIFY)], "input": one_example()},
            (INVALID_ARGUMENT, "Requested signature not found in model graph: nope"),
        ),
        (
            {"tasks": [task("classify_x_to_y", "tensorflow/serving/predict")], "input": one_example()},
            (UNIMPLEMENTED, "Unsupported signature method_name: tensorflow/serving/predict"),
        ),
        ({"tasks": BOTH}, (INVALID_ARGUMENT, "Input is empty.")),
    ],
)
def test_tasks_are_refused_in_that_servers_words(said: dict[str, Any], wanted: tuple[int, str]) -> None:
    """The first mistake of the first task that has one."""
    assert refusal("MultiInference", said) == wanted


def test_a_task_of_the_wrong_kind_is_refused() -> None:
    """A regression signature holds no classes."""
    number, text = refusal("MultiInference", {"tasks": [task("regress_x_to_y", CLASSIFY)], "input": one_example()})

    assert number == FAILED_PRECONDITION
    assert '"classes" or "scores"' in text


def test_a_failing_model_fails_the_call_and_is_counted() -> None:
    """Once for each run of the model."""

    def fail(inputs: Tensors) -> Tensors:
        raise RuntimeError("secret")

    service = Service(services_tf.methods, table(served(HALF_PLUS_TWO, Direct(FunctionModel(fail)))))
    raw = to_message({"tasks": BOTH, "input": one_example()}, f"{PACKAGE}.MultiInferenceRequest").SerializeToString()

    with pytest.raises(GrpcError) as caught:
        service.call(path("MultiInference"), raw)

    assert caught.value.status == status.GRPC[Code.INTERNAL]
    assert "secret" not in caught.value.message
    assert [type(event) for event in service.events] == [RequestRefused] * 2


@pytest.mark.parametrize(
    "method", ["GetModelStatus", "GetModelMetadata", "MultiInference", "HandleReloadConfigRequest"]
)
def test_what_is_no_message_is_refused(method: str) -> None:
    """Bytes that protobuf cannot read, and no message at all."""
    number, text = refusal(method, b"\xff\xff\xff")

    assert number == INVALID_ARGUMENT
    assert "the message is not a tensorflow.serving." in text


def test_a_model_that_loads_is_unavailable() -> None:
    """It will be soon, which NOT_FOUND would not say."""
    said = {"model_spec": {"name": "loading"}, "metadata_field": ["signature_def"]}

    assert refusal("GetModelMetadata", said)[0] == UNAVAILABLE
