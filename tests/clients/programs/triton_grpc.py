"""tritonclient over gRPC: python triton_grpc.py HOST:PORT"""

import queue
import sys

import grpc
import numpy as np
import tritonclient.grpc as triton
from scenarios import refused, run
from tritonclient.utils import InferenceServerException

FOUR = np.array([[1, 2, 3, 4]], np.int32)
LIMIT_S = 20


def inputs(a=FOUR, b=FOUR * 10):
    made = []
    for name, array in (("INPUT0", a), ("INPUT1", b)):
        one = triton.InferInput(name, list(array.shape), "INT32")
        one.set_data_from_numpy(array)
        made.append(one)
    return made


def count_to(number):
    one = triton.InferInput("COUNT", [1], "INT32")
    one.set_data_from_numpy(np.array([number], np.int32))
    return [one]


def slow():
    one = triton.InferInput("IN", [1], "INT32")
    one.set_data_from_numpy(np.array([1], np.int32))
    return [one]


def health(client):
    return [
        client.is_server_live(),
        client.is_server_ready(),
        client.is_model_ready("addsub"),
        client.is_model_ready("no"),
    ]


def metadata(client):
    return [client.get_server_metadata(as_json=True), client.get_model_metadata("addsub", as_json=True)]


def config(client):
    return client.get_model_config("addsub", as_json=True)["config"]


def index(client):
    return client.get_model_repository_index(as_json=True)["models"]


def infer(client):
    wanted = [triton.InferRequestedOutput("OUTPUT1")]
    whole = client.infer("addsub", inputs(), request_id="7")
    one = client.infer("addsub", inputs(), model_version="1", outputs=wanted)
    names = [output.name for output in one.get_response().outputs]
    return [whole.as_numpy("OUTPUT0"), whole.get_response().id, one.as_numpy("OUTPUT1"), names]


def explicit_contents(client):
    """Values in the message instead of raw data, by the generated stub; the answer is raw all the same."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="addsub", model_version="")
    for name in ("INPUT0", "INPUT1"):
        one = request.inputs.add(name=name, datatype="INT32", shape=[1, 4])
        one.contents.int_contents[:] = [1, 2, 3, 4]
    with grpc.insecure_channel(sys.argv[1]) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=LIMIT_S)
    return [np.frombuffer(raw, np.int32).tolist() for raw in answer.raw_output_contents]


def compressed(client):
    return [
        client.infer("addsub", inputs(), compression_algorithm=how).as_numpy("OUTPUT0") for how in ("gzip", "deflate")
    ]


def at_once(client):
    answers = queue.Queue()
    for n in range(8):
        client.async_infer("addsub", inputs(a=FOUR * n), lambda result, error: answers.put((result, error)))
    came = [answers.get(timeout=LIMIT_S) for _ in range(8)]
    assert not any(error for _, error in came)
    return sorted(int(result.as_numpy("OUTPUT0")[0, 0]) for result, _ in came)


def half_floats(client):
    one = triton.InferInput("INPUT0", [1, 2], "FP16")
    one.set_data_from_numpy(np.array([[0.5, -2.0]], np.float16))
    answer = client.infer("identity_fp16", [one]).as_numpy("OUTPUT0")
    return [str(answer.dtype), answer]


def strings(client):
    one = triton.InferInput("s", [2], "BYTES")
    one.set_data_from_numpy(np.array(["été".encode(), b""], np.object_))
    return [value.decode() for value in client.infer("echo_bytes", [one]).as_numpy("out_bytes")]


def classes(client):
    one = triton.InferInput("SCORES", [2, 3], "FP32")
    one.set_data_from_numpy(np.array([[0.1, 0.7, 0.2], [3, 2, 1]], np.float32))
    wanted = [triton.InferRequestedOutput("PROBABILITIES", class_count=2)]
    return client.infer("labelled", [one], outputs=wanted).as_numpy("PROBABILITIES")


def statistics(client):
    stats = client.get_inference_statistics("addsub", as_json=True)["model_stats"][0]
    return [stats["name"], stats["version"], int(stats["inference_count"]) > 0]


def stream(client):
    """Several requests on one stream, to a model that may answer at once or many times."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("counter", count_to(3), request_id="three")
    seen = [answers.get(timeout=LIMIT_S) for _ in range(3)]
    client.async_stream_infer("addsub", inputs(), request_id="plain")
    seen.append(answers.get(timeout=LIMIT_S))
    client.stop_stream()
    assert not any(error for _, error in seen), seen
    numbers = [result.as_numpy("NUMBER") for result, _ in seen[:3]]
    return [numbers, [result.get_response().id for result, _ in seen], seen[3][0].as_numpy("OUTPUT0")]


def end_of_a_stream(client):
    """The last response says that it is; without responses it comes alone, where it was asked for."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("counter", count_to(0), enable_empty_final_response=True)
    result, error = answers.get(timeout=LIMIT_S)
    client.stop_stream()
    assert error is None, error
    response = result.get_response()
    return [response.parameters["triton_final_response"].bool_param, len(response.outputs)]


def error_in_a_stream(client):
    """It is told in the stream, which goes on."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("no", inputs())
    _, error = answers.get(timeout=LIMIT_S)
    client.async_stream_infer("addsub", inputs())
    result, _ = answers.get(timeout=LIMIT_S)
    client.stop_stream()
    return [str(error), result.as_numpy("OUTPUT0")]


def errors(client):
    def text(call, *arguments, **named):
        error = refused(call, *arguments, **named)
        assert isinstance(error, InferenceServerException), repr(error)
        return [error.status(), error.message()]

    wrong = triton.InferInput("INPUT0", [1, 4], "FP32")
    wrong.set_data_from_numpy(FOUR.astype(np.float32))
    return {
        "model": text(client.infer, "no", inputs()),
        "datatype": text(client.infer, "addsub", [wrong, inputs()[1]]),
        "missing": text(client.infer, "addsub", inputs()[:1]),
        "decoupled": text(client.infer, "counter", count_to(1)),
        "deadline": text(client.infer, "slow", slow(), client_timeout=0.1),
        "shared_memory": text(client.register_system_shared_memory, "region", "/region", 16),
        "load": text(client.load_model, "addsub"),
        "trace": text(client.get_trace_settings),
        "log": text(client.get_log_settings),
    }


def many_calls_on_one_channel(client):
    return [int(client.infer("addsub", inputs(a=FOUR * n)).as_numpy("OUTPUT0")[0, 0]) for n in range(50)][-1]


if __name__ == "__main__":
    with triton.InferenceServerClient(sys.argv[1]) as client:
        scenarios = (
            health, metadata, config, index, infer, explicit_contents, compressed, at_once, half_floats, strings,
            classes, statistics, stream, end_of_a_stream, error_in_a_stream, errors, many_calls_on_one_channel,
        )  # fmt: skip
        run(*scenarios, given=[client])
