"""tensorflow-serving-api changes what is served: python config_reload.py HOST:PORT FOLDER

FOLDER has the models `slope`, versions 1 and 2, which multiply by their version; `other`, version 1, the same; and
`broken`, version 1, which cannot be loaded. The server was started with `slope` alone, any version, latest first.
"""

import sys

import grpc
import tensorflow as tf
from scenarios import refused, run
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

LIMIT_S = 60.0


def model(name, versions=(), labels=None, platform="tensorflow", base_path=None):
    said = model_server_config_pb2.ModelConfig(name=name, model_platform=platform)
    said.base_path = f"{FOLDER}/{name}" if base_path is None else base_path
    if versions:
        said.model_version_policy.specific.versions.extend(versions)
    for label, version in (labels or {}).items():
        said.version_labels[label] = version
    return said


def reload(channel, *models):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.extend(models)
    response = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, LIMIT_S)
    return [response.HasField("status"), response.status.error_code, response.status.error_message]


def code_of(channel, *models):
    error = refused(reload, channel, *models)
    return [error.code().name, error.details()]


def answer(channel, name, version=None, label=None):
    """What the model makes of 1, or the status of the refusal."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    try:
        outputs = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, LIMIT_S).outputs
    except grpc.RpcError as error:
        return error.code().name
    return outputs["y"].float_val[0]


def states(channel, name):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    found = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, LIMIT_S).model_version_status
    return {each.version: get_model_status_pb2.ModelVersionStatus.State.Name(each.state) for each in found}


def before(channel):
    """The highest version, alone."""
    return [answer(channel, "slope"), answer(channel, "slope", version=1)]


def add_a_model(channel):
    """It answers when the call returns."""
    return [
        answer(channel, "other"),
        reload(channel, model("slope"), model("other")),
        answer(channel, "other"),
        answer(channel, "slope"),
    ]


def change_a_policy(channel):
    """One version, then two, then the other one."""
    seen = []
    for versions in ([1], [1, 2], [2]):
        reload(channel, model("slope", versions))
        found = states(channel, "slope")
        seen.append([
            [number for number in (1, 2) if found.get(number) == "AVAILABLE"],
            answer(channel, "slope"),
        ])  # fmt: skip
    return seen


def move_a_label(channel):
    """To a version that is loaded first: the label has an answer at every moment."""
    stable = {"stable": 1}
    reload(channel, model("slope", [1]))
    reload(channel, model("slope", [1], stable))
    seen = [answer(channel, "slope", label="stable")]
    seen.append(code_of(channel, model("slope", [1, 2], {"stable": 2})))
    seen.append([answer(channel, "slope", label="stable"), answer(channel, "slope", version=2)])
    reload(channel, model("slope", [1, 2], stable))
    seen.append(answer(channel, "slope", label="stable"))
    reload(channel, model("slope", [1, 2], {"stable": 2}))
    seen.append(answer(channel, "slope", label="stable"))
    reload(channel, model("slope", [2], {"stable": 2}))
    seen.append([answer(channel, "slope", label="stable"), answer(channel, "slope", version=1)])
    return seen


def bad_configs(channel):
    """Each is refused whole; what was there answers on."""
    reload(channel, model("slope"))
    seen = [
        code_of(channel, model("slope"), model("other"), model("other")),
        code_of(channel, model("slope"), model("other", base_path="relative/path")),
        code_of(channel, model("slope"), model("other", platform="")),
        code_of(channel, model("slope", platform="caffe")),
        code_of(channel, model("slope"), model("other", platform="caffe")),
        code_of(channel, model("slope"), model("other", base_path="s3://bucket/other")),
    ]
    return [seen, answer(channel, "slope"), answer(channel, "other")]


def a_model_that_does_not_load(channel):
    """The caller is told; the others are served as asked."""
    code, text = code_of(channel, model("slope"), model("broken"), model("other"))
    return [code, "broken" in text, answer(channel, "slope"), answer(channel, "other"), answer(channel, "broken")]


def absent_models_are_unloaded(channel):
    """The config is the whole truth; nothing at all is a truth, too."""
    reload(channel, model("slope"), model("other"))
    reload(channel, model("other"))
    seen = [answer(channel, "slope"), answer(channel, "other")]
    reload(channel)
    return [*seen, answer(channel, "other")]


def by_an_address(channel):
    """`file://` is a path."""
    return [reload(channel, model("slope", base_path=f"file://{FOLDER}/slope")), answer(channel, "slope")]


if __name__ == "__main__":
    FOLDER = sys.argv[2]
    with grpc.insecure_channel(sys.argv[1]) as channel:
        scenarios = (
            before, add_a_model, change_a_policy, move_a_label, bad_configs, a_model_that_does_not_load,
            absent_models_are_unloaded, by_an_address,
        )  # fmt: skip
        run(*scenarios, given=[channel])
