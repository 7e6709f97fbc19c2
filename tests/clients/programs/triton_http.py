"""tritonclient over HTTP: python triton_http.py HOST:PORT"""

import sys

import numpy as np
import tritonclient.http as triton
from scenarios import refused, run
from tritonclient.utils import InferenceServerException

FOUR = np.array([[1, 2, 3, 4]], np.int32)


def inputs(binary=True, a=FOUR, b=FOUR * 10):
    made = []
    for name, array in (("INPUT0", a), ("INPUT1", b)):
        one = triton.InferInput(name, list(array.shape), "INT32")
        one.set_data_from_numpy(array, binary_data=binary)
        made.append(one)
    return made


def health(client):
    return [
        client.is_server_live(),
        client.is_server_ready(),
        client.is_model_ready("addsub"),
        client.is_model_ready("no"),
    ]


def metadata(client):
    return [client.get_server_metadata(), client.get_model_metadata("addsub")]


def config(client):
    return client.get_model_config("addsub")


def index(client):
    return client.get_model_repository_index()


def binary_both_ways(client):
    """What the client does without being told otherwise."""
    answer = client.infer("addsub", inputs(), request_id="7")
    return [answer.as_numpy("OUTPUT0"), answer.as_numpy("OUTPUT1"), answer.get_response()["id"]]


def json_both_ways(client):
    wanted = [triton.InferRequestedOutput(name, binary_data=False) for name in ("OUTPUT0", "OUTPUT1")]
    answer = client.infer("addsub", inputs(binary=False), outputs=wanted, model_version="1")
    return [answer.as_numpy("OUTPUT0"), answer.as_numpy("OUTPUT1"), answer.get_response()["model_version"]]


def mixed(client):
    wanted = [triton.InferRequestedOutput("OUTPUT0", binary_data=True), triton.InferRequestedOutput("OUTPUT1", False)]
    made = inputs(binary=True)
    made[1].set_data_from_numpy(FOUR * 10, binary_data=False)
    answer = client.infer("addsub", made, outputs=wanted)
    return [answer.as_numpy("OUTPUT0"), answer.as_numpy("OUTPUT1")]


def compressed(client):
    return [
        client.infer(
            "addsub", inputs(), request_compression_algorithm=how, response_compression_algorithm=how
        ).as_numpy("OUTPUT0")
        for how in ("gzip", "deflate")
    ]


def at_once(client):
    """Several calls under way on the client's own pool."""
    calls = [client.async_infer("addsub", inputs(a=FOUR * n)) for n in range(8)]
    return [call.get_result().as_numpy("OUTPUT0")[0, 0] for call in calls]


def half_floats(client):
    array = np.array([[0.5, -2.0]], np.float16)
    one = triton.InferInput("INPUT0", [1, 2], "FP16")
    one.set_data_from_numpy(array)
    answer = client.infer("identity_fp16", [one]).as_numpy("OUTPUT0")
    return [str(answer.dtype), answer]


def strings(client):
    array = np.array(["été".encode(), b""], np.object_)
    seen = []
    for binary in (True, False):
        one = triton.InferInput("s", [2], "BYTES")
        one.set_data_from_numpy(array, binary_data=binary)
        wanted = [triton.InferRequestedOutput("out_bytes", binary_data=binary)]
        answer = client.infer("echo_bytes", [one], outputs=wanted).as_numpy("out_bytes")
        seen.append([value.decode() if isinstance(value, bytes) else value for value in answer])
    return seen


def classes(client):
    one = triton.InferInput("SCORES", [2, 3], "FP32")
    one.set_data_from_numpy(np.array([[0.1, 0.7, 0.2], [3, 2, 1]], np.float32))
    wanted = [triton.InferRequestedOutput("PROBABILITIES", class_count=2)]
    return client.infer("labelled", [one], outputs=wanted).as_numpy("PROBABILITIES")


def statistics(client):
    before = client.get_inference_statistics("identity_fp32")["model_stats"][0]
    one = triton.InferInput("INPUT0", [1, 2], "FP32")
    one.set_data_from_numpy(np.array([[1, 2]], np.float32))
    for _ in range(3):
        client.infer("identity_fp32", [one])
    after = client.get_inference_statistics("identity_fp32")["model_stats"][0]
    success = [stats["inference_stats"]["success"] for stats in (before, after)]
    return {
        "counted": after["inference_count"] - before.get("inference_count", 0),
        "succeeded": success[1]["count"] - success[0].get("count", 0),
        "took": success[1]["ns"] > success[0].get("ns", 0),
        "sizes": [batch["batch_size"] for batch in after["batch_stats"]],
    }


def errors(client):
    def text(call, *arguments):
        error = refused(call, *arguments)
        assert isinstance(error, InferenceServerException), repr(error)
        return [error.status(), error.message()]

    wrong = triton.InferInput("INPUT0", [1, 4], "FP32")
    wrong.set_data_from_numpy(FOUR.astype(np.float32))
    many = np.zeros((9, 4), np.int32)
    return {
        "model": text(client.infer, "no", inputs()),
        "datatype": text(client.infer, "addsub", [wrong, inputs()[1]]),
        "missing": text(client.infer, "addsub", inputs()[:1]),
        "batch": text(client.infer, "addsub", inputs(a=many, b=many)),
        "shared_memory": text(client.register_system_shared_memory, "region", "/region", 16),
        "load": text(client.load_model, "addsub"),
        "trace": text(client.get_trace_settings),
    }


if __name__ == "__main__":
    with triton.InferenceServerClient(sys.argv[1], concurrency=4) as client:
        scenarios = (
            health, metadata, config, index, binary_both_ways, json_both_ways, mixed, compressed, at_once, half_floats,
            strings, classes, statistics, errors,
        )  # fmt: skip
        run(*scenarios, given=[client])
