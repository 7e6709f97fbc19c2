"""tensorflow-serving-api beside our own messages in one process: python serving_stubs.py HOST:PORT"""

import sys

from dukou.protos import pool  # before TensorFlow registers its messages of the same names

OURS = pool.message("tensorflow.TensorProto")(dtype=1, float_val=[2.0]).SerializeToString()

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from scenarios import refused, run  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

LIMIT_S = 20.0


def beside_ours(channel):
    """Bytes of either are messages of the other, and both pools live."""
    theirs = tf.make_tensor_proto([2.0])
    ours = pool.parse("tensorflow.TensorProto", theirs.SerializeToString())
    return [tf.make_ndarray(type(theirs).FromString(OURS)), list(ours.float_val), ours.dtype]


def predict(channel, **more):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    for name, value in more.items():
        request.inputs[name].CopyFrom(value)
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, LIMIT_S)


def tensors_in_every_form(channel):
    """tensor_content, float_val, one value for many, and scalars."""
    forms = {
        "vector": tf.make_tensor_proto([2.0, 3.0, 4.0]),
        "one_value": tf.make_tensor_proto([2.0]),
        "filled": tf.make_tensor_proto(1.0, shape=[2, 3]),
        "scalar": tf.make_tensor_proto(4.0),
        "array": tf.make_tensor_proto(np.array([[2.0], [4.0]], np.float32)),
    }
    return {name: tf.make_ndarray(predict(channel, x=form).outputs["y"]) for name, form in forms.items()}


def answer_s_own_form(channel):
    """Examples read float_val; the spec tells the version and the signature that answered."""
    answer = predict(channel, x=tf.make_tensor_proto([2.0, 3.0]))
    spec = answer.model_spec
    return [list(answer.outputs["y"].float_val), spec.name, spec.version.value, spec.signature_name]


def versions_and_labels(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    seen = []
    for spec in ({"version": {"value": 123}}, {"version_label": "stable"}):
        request = predict_pb2.PredictRequest(model_spec={"name": "half_plus_two", **spec})
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([2.0]))
        seen.append(stub.Predict(request, LIMIT_S).model_spec.version.value)
    return seen


def output_filter(channel):
    request = predict_pb2.PredictRequest(model_spec={"name": "addsub_named"}, output_filter=["diff"])
    for name in ("a", "b"):
        request.inputs[name].CopyFrom(tf.make_tensor_proto([2.0]))
    return sorted(prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, LIMIT_S).outputs)


def strings(channel):
    request = predict_pb2.PredictRequest(model_spec={"name": "echo_bytes"})
    request.inputs["s"].CopyFrom(tf.make_tensor_proto(["été", b"plain"]))
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, LIMIT_S)
    return [value.decode() for value in tf.make_ndarray(answer.outputs["out_bytes"])]


def example(value):
    return tf.train.Example(features=tf.train.Features(feature={"x": feature(value)}))


def feature(value):
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def classify(channel):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "classify_x_to_y"
    request.input.example_list.examples.extend([example(2.0), example(4.0)])
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Classify(request, LIMIT_S)
    return [[[one.label, one.score] for one in row.classes] for row in answer.result.classifications]


def regress(channel):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "regress_x_to_y"
    request.input.example_list_with_context.examples.extend([tf.train.Example(), example(4.0)])
    request.input.example_list_with_context.context.CopyFrom(example(2.0))
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Regress(request, LIMIT_S)
    return [one.value for one in answer.result.regressions]


def multi_inference(channel):
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in (("classify_x_to_y", "classify"), ("regress_x_to_y", "regress")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "half_plus_two", signature
    request.input.example_list.examples.append(example(2.0))
    results = prediction_service_pb2_grpc.PredictionServiceStub(channel).MultiInference(request, LIMIT_S).results
    return [
        results[0].classification_result.classifications[0].classes[0].score,
        results[1].regression_result.regressions[0].value,
    ]


def metadata(channel):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, LIMIT_S)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    x = default.inputs["x"]
    return [
        sorted(signatures.signature_def),
        default.method_name,
        [x.name, x.dtype, [dim.size for dim in x.tensor_shape.dim]],
        answer.model_spec.version.value,
    ]


def status(channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    (one,) = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, LIMIT_S).model_version_status
    return [one.version, get_model_status_pb2.ModelVersionStatus.State.Name(one.state), one.status.error_code]


def reload(channel):
    """A configuration that says what cannot be: refused, as a status."""
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="m", base_path="relative/path", model_platform="tensorflow")
    error = refused(model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest, request, LIMIT_S)
    return error.code().name


def errors(channel):
    def text(**spec):
        request = predict_pb2.PredictRequest(model_spec=spec)
        request.inputs[spec.pop("input", "x")].CopyFrom(tf.make_tensor_proto([2.0]))
        error = refused(prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict, request, LIMIT_S)
        return [error.code().name, error.details()]

    return {
        "model": text(name="no"),
        "unnamed": text(),
        "version": text(name="half_plus_two", version={"value": 9}),
        "label": text(name="half_plus_two", version_label="nope"),
        "signature": text(name="half_plus_two", signature_name="nope"),
        "inputs": text(name="addsub_named"),
    }


def large(channel):
    """More than gRPC's default limit of 4 MiB, in and out."""
    array = np.arange(1_500_000, dtype=np.float32)
    return bool((tf.make_ndarray(predict(channel, x=tf.make_tensor_proto(array)).outputs["y"]) == array / 2 + 2).all())


if __name__ == "__main__":
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(sys.argv[1], options) as channel:
        scenarios = (
            beside_ours, tensors_in_every_form, answer_s_own_form, versions_and_labels, output_filter, strings,
            classify, regress, multi_inference, metadata, status, reload, errors, large,
        )  # fmt: skip
        run(*scenarios, given=[channel])
