"""GRPCInferenceService: what it tells of the server and its models."""

import asyncio
from typing import Any

import pytest
from rpc_rig import ListRpc, Service

from dukou import __version__
from dukou.core.errors import DukouError, Reason
from dukou.core.message import Table
from dukou.core.model import DEFAULT_SIGNATURE, ModelVersion, Signature, State, TensorSpec
from dukou.core.statistics import BatchStatistics, Timing, VersionStatistics
from dukou.core.verb import Load, Unload, Verb
from dukou.net import services_oip, status
from dukou.net.rpc import GrpcError, Unary
from dukou.protos import pool
from dukou.protos.pool import parse
from dukou.protos.tree import to_message, to_tree
from dukou.testing.models import iris_like, manifest, served, table
from dukou.wire import oip_grpc

PATH = "/inference.GRPCInferenceService/"
INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, UNAVAILABLE = 3, 5, 12, 14

IRIS = table(iris_like("iris", 1), iris_like("iris", 2), iris_like("loading", 1, State.LOADING))


def ask(method: str, of: Table = IRIS, dialect: str = "", statistics: Any = None, /, **request: Any) -> Any:
    """The response of a method."""
    service = Service(services_oip.methods, of, dialect, statistics)
    message = pool.message(f"inference.{method}Request")(**request).SerializeToString()
    return pool.parse(f"inference.{method}Response", service.call(PATH + method, message))


def refusal(method: str, of: Table = IRIS, dialect: str = "", /, **request: Any) -> tuple[int, str]:
    with pytest.raises(GrpcError) as caught:
        ask(method, of, dialect, None, **request)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize("dialect", ["", "triton", "kserve", "mlserver"])
def test_every_method_of_the_service_is_answered(dialect: str) -> None:
    """Those that the protobuf service has, and no others."""
    described = pool.pool().FindServiceByName("inference.GRPCInferenceService").methods_by_name

    methods = Service(services_oip.methods, IRIS, dialect).methods

    assert set(methods) == {f"{PATH}{name}".encode() for name in described}


def test_tensorflow_servings_dialect_does_not_have_the_service() -> None:
    """Its clients know another one."""
    assert Service(services_oip.methods, IRIS, "tensorflow-serving").methods == {}


def test_infer_goes_through_the_data_plane() -> None:
    """With gRPC's statuses."""
    method = Service(services_oip.methods, IRIS).methods[f"{PATH}ModelInfer".encode()]

    assert isinstance(method, Unary)
    assert method.api.codec is oip_grpc
    assert method.api.ok == 0
    assert method.api.refuse(DukouError(Reason.QUEUE_FULL)).status == status.GRPC[Reason.QUEUE_FULL.code]


def test_what_is_full_or_late_is_unavailable_to_tritons_clients() -> None:
    """In their dialect."""
    method = Service(services_oip.methods, IRIS, "triton").methods[f"{PATH}ModelInfer".encode()]

    assert isinstance(method, Unary)
    answer = method.api.refuse(DukouError(Reason.QUEUE_FULL, model="m", got=9, wanted=8))
    assert answer.status == UNAVAILABLE
    assert answer.body.startswith(b"Exceeds maximum queue size")
    late = method.api.refuse(DukouError(Reason.DEADLINE_EXCEEDED))
    assert (late.status, late.body) == (UNAVAILABLE, b"Request timeout expired")


# Health.


def test_a_server_that_answers_lives() -> None:
    """Whatever it serves."""
    assert ask("ServerLive", table()).live


@pytest.mark.parametrize("dialect", ["", "triton", "kserve", "mlserver"])
def test_a_server_is_ready_when_its_models_are(dialect: str) -> None:
    """All of them."""
    assert ask("ServerReady", table(iris_like()), dialect).ready
    assert not ask("ServerReady", IRIS, dialect).ready


def test_a_server_that_shuts_down_is_not_ready() -> None:
    """Nor are its models."""
    service = Service(services_oip.methods, table(iris_like()))
    service.draining = True

    ready = service.call(f"{PATH}ServerReady", b"")
    model = service.call(
        f"{PATH}ModelReady", pool.message("inference.ModelReadyRequest")(name="iris").SerializeToString()
    )

    assert not pool.parse("inference.ServerReadyResponse", ready).ready
    assert not pool.parse("inference.ModelReadyResponse", model).ready


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("iris", "", True),
        ("iris", "1", True),
        ("iris", "9", False),
        ("loading", "", False),
        ("nobody", "", False),
    ],
)
def test_a_model_is_ready_or_not(name: str, version: str, ready: bool) -> None:
    """One that there is not is not ready, as Triton has it."""
    assert ask("ModelReady", name=name, version=version).ready is ready


@pytest.mark.parametrize("dialect", ["kserve", "mlserver"])
def test_a_model_that_there_is_not_is_an_error_to_others(dialect: str) -> None:
    """NOT_FOUND."""
    assert refusal("ModelReady", IRIS, dialect, name="nobody")[0] == NOT_FOUND


# Metadata and configuration.


@pytest.mark.parametrize(
    ("dialect", "name"), [("", "dukou"), ("triton", "triton"), ("kserve", "kserve"), ("mlserver", "mlserver")]
)
def test_a_server_has_the_name_that_its_clients_look_for(dialect: str, name: str) -> None:
    """And its own version."""
    said = ask("ServerMetadata", IRIS, dialect)

    assert (said.name, said.version) == (name, __version__)


def test_extensions_are_told() -> None:
    """Those of Triton's that there are."""
    assert "binary_tensor_data" in ask("ServerMetadata", IRIS, "triton").extensions


def test_a_model_is_described() -> None:
    """Its versions and tensors."""
    said = ask("ModelMetadata", name="iris", version="1")

    assert to_tree(said) == {
        "name": "iris",
        "versions": ["1", "2"],
        "platform": "function",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": ["-1", "4"]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": ["-1"]},
            {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]},
        ],
    }


def test_the_only_model_need_not_be_named() -> None:
    """As in the path of the simple route."""
    assert ask("ModelMetadata", table(iris_like("iris", 1))).name == "iris"
    assert refusal("ModelMetadata")[0] == INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_what_there_is_not_is_not_described(name: str) -> None:
    """In Triton's words; a version is a number."""
    assert refusal(name, name="nobody") == (NOT_FOUND, "Request for unknown model: 'nobody' is not found")
    assert refusal(name, name="iris", version="9") == (
        NOT_FOUND,
        "Request for unknown model: 'iris' version 9 is not found",
    )
    code, text = refusal(name, name="iris", version="one")
    assert code == INVALID_ARGUMENT
    assert text.startswith("failed to get model version from specified version string 'one'")


def test_a_model_is_described_as_triton_configures_it() -> None:
    """Sizes of a batched model without the rows, datatypes by Triton's names."""
    spec = TensorSpec("x", "BYTES", (-1, 2))
    signature = Signature(DEFAULT_SIGNATURE, (spec,), (TensorSpec("y", "FP32", (-1,)),), streaming=True)

    config = ask("ModelConfig", table(served(manifest("m", 1, (signature,)))), name="m").config

    assert config.name == "m"
    assert config.max_batch_size > 0
    assert to_tree(config.input[0]) == {"name": "x", "data_type": "TYPE_STRING", "dims": ["2"]}
    assert to_tree(config.output[0]) == {"name": "y", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}}
    assert config.model_transaction_policy.decoupled


# Statistics.

STATISTICS = VersionStatistics(
    last_inference_ms=1_700_000_000_000,
    inference_count=7,
    execution_count=3,
    success=Timing(4, 400),
    fail=Timing(1, 10),
    queue=Timing(4, 40),
    compute_infer=Timing(3, 2**60),
    batches=(BatchStatistics(2, compute_infer=Timing(3, 300)),),
)


def test_statistics_are_told_in_counts_and_nanoseconds() -> None:
    """Of one version."""
    said = ask("ModelStatistics", IRIS, "", {ModelVersion("iris", 2): STATISTICS}, name="iris", version="2")

    (model,) = said.model_stats
    assert (model.name, model.version, model.last_inference) == ("iris", "2", 1_700_000_000_000)
    assert (model.inference_count, model.execution_count) == (7, 3)
    assert (model.inference_stats.success.count, model.inference_stats.success.ns) == (4, 400)
    assert model.inference_stats.compute_infer.ns == 2**60
    assert model.inference_stats.HasField("cache_hit")
    assert (model.batch_stats[0].batch_size, model.batch_stats[0].compute_infer.ns) == (2, 300)


def test_statistics_of_all_models_are_told_where_none_is_named() -> None:
    """Also of those that have done nothing."""
    said = ask("ModelStatistics", IRIS, "", {ModelVersion("iris", 2): STATISTICS})

    counts = {(model.name, model.version): model.inference_count for model in said.model_stats}
    assert counts == {("iris", "1"): 0, ("iris", "2"): 7, ("loading", "1"): 0}


# The repository.


def test_the_index_lists_versions_and_their_states() -> None:
    """All, or those that answer."""
    failed = DukouError(Reason.ARTIFACT_UNREADABLE, path="model.onnx", detail="it is empty")
    of = table(iris_like("iris", 1), served(manifest("iris", 2), state=State.END, error=failed))

    everything = ask("RepositoryIndex", of).models
    ready = ask("RepositoryIndex", of, ready=True).models

    assert [(one.name, one.version, one.state) for one in everything] == [
        ("iris", "1", "READY"),
        ("iris", "2", "UNAVAILABLE"),
    ]
    assert "model.onnx" in everything[1].reason
    assert [one.version for one in ready] == ["1"]


@pytest.mark.parametrize("name", ["RepositoryModelLoad", "RepositoryModelUnload"])
@pytest.mark.parametrize("model", ["iris", "nobody"])
def test_models_are_not_loaded_by_their_callers(name: str, model: str) -> None:
    """In Triton's words."""
    text = "explicit model load / unload is not allowed if polling is enabled"
    assert refusal(name, model_name=model) == (UNAVAILABLE, text)


def test_kserves_form_of_a_load_is_understood() -> None:
    """With the name in the first field: what is served is loaded."""
    said = ask("RepositoryModelLoad", repository_name="iris")

    assert (said.model_name, said.isLoaded) == ("iris", True)
    assert refusal("RepositoryModelUnload", repository_name="iris")[0] == UNAVAILABLE
    assert refusal("RepositoryModelLoad", IRIS, "kserve", repository_name="nobody")[0] == NOT_FOUND
    assert refusal("RepositoryModelLoad", repository_name="a-repository")[0] == UNAVAILABLE


class Plane:
    """A control plane that notes what it is asked for, and ends as it is told."""

    def __init__(self, error: DukouError | None = None) -> None:
        self.asked: list[Verb] = []
        self._error = error

    async def do(self, verb: Verb, who: str) -> None:
        self.asked.append(verb)
        if self._error is not None:
            raise self._error


def change(plane: Plane, name: str, dialect: str = "", **fields: Any) -> Any:
    """The response to a load or an unload of a server whose callers may ask for it."""
    service = Service(services_oip.methods, IRIS, dialect, control=plane, explicit=True)
    said = to_message(fields, f"inference.{name}Request").SerializeToString()
    return to_tree(parse(f"inference.{name}Response", service.call(PATH + name, said)))


@pytest.mark.parametrize(
    ("name", "verb", "told"),
    [
        ("RepositoryModelLoad", Load("new"), {"model_name": "new", "isLoaded": True}),
        ("RepositoryModelUnload", Unload("new"), {"model_name": "new", "isUnloaded": True}),
    ],
)
def test_models_are_loaded_and_unloaded_where_callers_may(name: str, verb: Verb, told: dict[str, Any]) -> None:
    """In Triton's form, whose responses are empty, and in KServe's, which has the name in the first field."""
    plane = Plane()

    assert change(plane, name, model_name="new") == {}
    assert change(plane, name, repository_name="new") == told
    assert change(plane, name, "kserve", repository_name="new") == told

    assert plane.asked == [verb] * 3


@pytest.mark.parametrize(
    ("name", "parameters", "wanted"),
    [
        ("RepositoryModelLoad", {"config": {"string_param": "{}"}}, (UNIMPLEMENTED, "not another config")),
        ("RepositoryModelLoad", {"file:1/m.onnx": {"bytes_param": "AAAA"}}, (UNIMPLEMENTED, "file:1/m.onnx")),
        ("RepositoryModelUnload", {"x": {"bool_param": True}}, (INVALID_ARGUMENT, "unknown parameter 'x'")),
    ],
)
def test_parameters_that_are_not_understood_are_refused(
    name: str, parameters: dict[str, Any], wanted: tuple[int, str]
) -> None:
    """Before anything is done."""
    plane = Plane()

    with pytest.raises(GrpcError) as caught:
        change(plane, name, model_name="iris", parameters=parameters)

    assert caught.value.status == wanted[0]
    assert wanted[1] in caught.value.message
    assert plane.asked == []


def test_dependents_may_be_unloaded() -> None:
    """There are none."""
    plane = Plane()

    change(plane, "RepositoryModelUnload", model_name="iris", parameters={"unload_dependents": {"bool_param": True}})

    assert plane.asked == [Unload("iris")]


def test_what_a_load_fails_with_is_told_in_known_words() -> None:
    """Clients look for how the sentence begins."""
    unknown = DukouError(Reason.MODEL_NOT_FOUND, model="new", served="iris")

    with pytest.raises(GrpcError) as caught:
        change(Plane(unknown), "RepositoryModelLoad", model_name="new")

    assert caught.value.status == NOT_FOUND
    assert caught.value.message == "failed to load 'new', Request for unknown model: 'new' is not found"


# What there is not.


@pytest.mark.parametrize(
    "name",
    [
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_extensions_that_are_not_supported_say_so(name: str) -> None:
    """UNIMPLEMENTED, with what."""
    code, text = refusal(name)

    assert code == UNIMPLEMENTED
    assert text.startswith("the server does not support ")


@pytest.mark.parametrize("name", ["ModelMetadata", "RepositoryIndex", "ModelStatistics"])
def test_what_is_no_message_is_refused(name: str) -> None:
    """As INVALID_ARGUMENT."""
    with pytest.raises(GrpcError) as caught:
        Service(services_oip.methods, IRIS).call(PATH + name, b"\xff")

    assert caught.value.status == INVALID_ARGUMENT
    assert f"inference.{name}Request" in caught.value.message


def test_a_call_without_a_message_is_refused() -> None:
    """As gRPC's own servers do."""

    async def call() -> None:
        rpc = ListRpc()
        rpc.end()
        await Service(services_oip.methods, IRIS).handler(f"{PATH}ServerLive")(rpc)

    with pytest.raises(GrpcError) as caught:
        asyncio.run(call())

    assert caught.value.status == UNIMPLEMENTED
