"""tritonclient against a live server, over HTTP and gRPC, sync and async, with all it does by default."""

from typing import Any

import pytest
from client_programs import Saw, python

from live import Live

pytestmark = [pytest.mark.clients, pytest.mark.socket, pytest.mark.slow]

SUM, DIFFERENCE = [[11, 22, 33, 44]], [[-9, -18, -27, -36]]
"""Of [1, 2, 3, 4] and ten times as much."""

NAMES = {
    "addsub",
    "addsub_named",
    "counter",
    "echo_bytes",
    "half_plus_two",
    "identity_fp16",
    "identity_fp32",
    "labelled",
    "slow",
}


@pytest.fixture(scope="module", params=["", "triton"], ids=["default", "triton"])
def dialect(request: pytest.FixtureRequest) -> str:
    """The superset and Triton's own dialect answer alike."""
    dialect: str = request.param
    return dialect


@pytest.fixture(scope="module")
def http(live: Live, dialect: str) -> Saw:
    return python("triton", "triton_http.py", live.target(dialect))


@pytest.fixture(scope="module")
def grpc(live: Live, dialect: str) -> Saw:
    return python("triton", "triton_grpc.py", live.target(dialect))


@pytest.fixture(scope="module")
def aio(live: Live, dialect: str) -> Saw:
    return python("triton", "triton_aio.py", live.target(dialect))


@pytest.fixture(params=["http", "grpc"])
def either(request: pytest.FixtureRequest, http: Saw, grpc: Saw) -> Saw:
    """Either of the two protocols."""
    return {"http": http, "grpc": grpc}[request.param]


def test_health(either: Saw) -> None:
    """Live, ready, the model is ready; a model that there is not is not."""
    assert either("health") == [True, True, True, False]


def test_metadata(either: Saw) -> None:
    """The server's extensions and the model's tensors."""
    server, model = either("metadata")

    assert {"classification", "binary_tensor_data", "statistics"} <= set(server["extensions"])
    assert [(one["name"], one["datatype"], [*map(int, one["shape"])]) for one in model["inputs"]] == [
        ("INPUT0", "INT32", [-1, 4]),
        ("INPUT1", "INT32", [-1, 4]),
    ]


def test_model_config(either: Saw) -> None:
    """As config.pbtxt says, without the batch axis."""
    config = either("config")

    assert (config["name"], config["max_batch_size"]) == ("addsub", 8)
    assert [(one["name"], one["data_type"], [*map(int, one["dims"])]) for one in config["output"]] == [
        ("OUTPUT0", "TYPE_INT32", [4]),
        ("OUTPUT1", "TYPE_INT32", [4]),
    ]


def test_the_repository_index(either: Saw) -> None:
    """Every version with its state."""
    index = either("index")

    assert {one["name"] for one in index} == NAMES
    assert {one["state"] for one in index} == {"READY"}


def test_infer_with_binary_tensors(http: Saw) -> None:
    """What the client does by default."""
    assert http("binary_both_ways") == [SUM, DIFFERENCE, "7"]


def test_infer_with_json_tensors(http: Saw) -> None:
    """With a version in the path."""
    assert http("json_both_ways") == [SUM, DIFFERENCE, "1"]


def test_infer_with_both(http: Saw) -> None:
    """One tensor each way, each way."""
    assert http("mixed") == [SUM, DIFFERENCE]


def test_infer_over_grpc(grpc: Saw) -> None:
    """All outputs or those asked for; the id comes back."""
    assert grpc("infer") == [SUM, "7", DIFFERENCE, ["OUTPUT1"]]


def test_values_in_the_message(grpc: Saw) -> None:
    """`contents` instead of raw data, answered raw."""
    assert grpc("explicit_contents") == [[2, 4, 6, 8], [0, 0, 0, 0]]


def test_compression(either: Saw) -> None:
    """gzip and deflate."""
    assert either("compressed") == [SUM, SUM]


def test_calls_side_by_side(either: Saw) -> None:
    """Each caller gets its own answer."""
    assert either("at_once") == [10 + n for n in range(8)]


def test_half_floats(either: Saw) -> None:
    """FP16 has no form but raw data."""
    assert either("half_floats") == ["float16", [[0.5, -2.0]]]


def test_strings_over_http(http: Saw) -> None:
    """Binary and JSON."""
    assert http("strings") == [["été", ""]] * 2


def test_strings_over_grpc(grpc: Saw) -> None:
    """As length and bytes."""
    assert grpc("strings") == ["été", ""]


def test_classification(either: Saw) -> None:
    """The two best classes of each row, with the names of the label file."""
    rows = [[entry.split(":") for entry in row] for row in either("classes")]

    assert [[(index, label) for _, index, label in row] for row in rows] == [
        [("1", "versicolor"), ("2", "virginica")],
        [("0", "setosa"), ("1", "versicolor")],
    ]
    assert float(rows[1][0][0]) == pytest.approx(0.665241)


def test_statistics_over_http(http: Saw) -> None:
    """Three calls of one row are three inferences."""
    statistics = http("statistics")

    assert (statistics["counted"], statistics["succeeded"], statistics["took"]) == (3, 3, True)
    assert {int(size) for size in statistics["sizes"]} == {1}


def test_statistics_over_grpc(grpc: Saw) -> None:
    """The same counts, as messages."""
    assert grpc("statistics") == ["addsub", "1", True]


def test_a_stream(grpc: Saw) -> None:
    """Three responses of a decoupled model, and one of another model on the same stream."""
    numbers, ids, total = grpc("stream")

    assert numbers == [[0], [1], [2]]
    assert ids == ["three", "three", "three", "plain"]
    assert total == SUM


def test_the_end_of_a_stream(grpc: Saw) -> None:
    """A request with no response is told as finished, to who asked for that."""
    assert grpc("end_of_a_stream") == [True, 0]


def test_an_error_in_a_stream(grpc: Saw) -> None:
    """The stream outlives it."""
    text, total = grpc("error_in_a_stream")

    assert "'no'" in text
    assert total == SUM


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        ("model", "404", "Request for unknown model: 'no' is not found"),
        ("datatype", "400", "inference input 'INPUT0' data-type is 'FP32', but model 'addsub' expects 'INT32'"),
        ("missing", "400", "expected 2 inputs but got 1 inputs for model 'addsub'"),
        ("batch", "400", "inference request batch-size must be <= 8 for 'addsub'"),
        ("shared_memory", "501", "shared memory"),
        ("load", "503", "explicit model load / unload is not allowed"),
        ("trace", "501", "trace"),
    ],
)
def test_errors_over_http(http: Saw, call: str, status: str, text: str) -> None:
    """The client reads status and message, in the words that its users look for."""
    assert_error(http("errors")[call], status, text)


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        ("model", "StatusCode.NOT_FOUND", "Request for unknown model: 'no' is not found"),
        ("datatype", "StatusCode.INVALID_ARGUMENT", "data-type is 'FP32', but model 'addsub' expects 'INT32'"),
        ("missing", "StatusCode.INVALID_ARGUMENT", "expected 2 inputs but got 1 inputs for model 'addsub'"),
        ("decoupled", "StatusCode.UNIMPLEMENTED", "decoupled transaction policy"),
        ("deadline", "StatusCode.DEADLINE_EXCEEDED", ""),
        ("shared_memory", "StatusCode.UNIMPLEMENTED", "shared memory"),
        ("load", "StatusCode.UNAVAILABLE", "explicit model load / unload is not allowed"),
        ("trace", "StatusCode.UNIMPLEMENTED", "trace"),
        ("log", "StatusCode.UNIMPLEMENTED", "log"),
    ],
)
def test_errors_over_grpc(grpc: Saw, call: str, status: str, text: str) -> None:
    """The same words as over HTTP."""
    assert_error(grpc("errors")[call], status, text)


def assert_error(came: Any, status: str, text: str) -> None:
    assert came[0] == status
    assert text in came[1]


def test_one_channel_carries_many_calls(grpc: Saw) -> None:
    """One after the other, on one connection."""
    assert grpc("many_calls_on_one_channel") == 10 + 49


@pytest.mark.parametrize("scenario", ["http", "grpc"])
def test_the_async_clients(aio: Saw, scenario: str) -> None:
    """Eight calls side by side."""
    assert aio(scenario) == [[True, True], [2 * n for n in range(8)]]


def test_the_async_stream(aio: Saw) -> None:
    """Two requests on one stream, each with as many responses as it has."""
    assert sorted(aio("stream")) == [["1", 0], ["2", 0], ["2", 1]]
