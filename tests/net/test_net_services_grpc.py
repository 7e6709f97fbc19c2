"""gRPC health and reflection: what they tell, and when it changes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Table
from dukou.core.model import State
from dukou.net.facts import Facts
from dukou.net.rpc import GrpcError
from dukou.net.services import methods as all_methods
from dukou.net.services_grpc import NOT_SERVING, SERVICE_UNKNOWN, SERVING, methods, reflection, serving_status
from dukou.protos import pool
from dukou.testing.models import iris_like, table

SERVICES = {"inference.GRPCInferenceService", "tensorflow.serving.PredictionService"}
V1 = "grpc.reflection.v1"
LIMIT_S = 10.0


class Plane:
    """A data plane that only has a table."""

    def __init__(self, of: Table) -> None:
        self.table = of
        self.draining = False


class CallRpc:
    """The messages of one call, in the test's hand."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = [*messages]
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive(self) -> bytes | None:
        return self._messages.pop(0) if self._messages else None

    async def send(self, message: bytes) -> None:
        self.sent.put_nowait(message)

    async def next_status(self) -> int:
        message = await asyncio.wait_for(self.sent.get(), LIMIT_S)
        status: int = pool.parse("grpc.health.v1.HealthCheckResponse", message).status
        return status


def facts(plane: Plane) -> Facts:
    return Facts(
        plane=plane,  # type: ignore[arg-type]
        pool=ThreadPoolExecutor(1),
        statistics=dict,
        metrics=lambda dialect: b"",
        serving_metrics=lambda: b"",
        is_draining=lambda: plane.draining,
    )


def asked(service: str) -> bytes:
    message: bytes = pool.message("grpc.health.v1.HealthCheckRequest")(service=service).SerializeToString()
    return message


def handler(plane: Plane, name: str) -> Any:
    return methods(facts(plane), SERVICES, grain_s=0.0)[f"/grpc.health.v1.Health/{name}".encode()]


LOADING = table(iris_like(state=State.LOADING))
READY = table(iris_like(version=1), iris_like(version=2, state=State.UNLOADING))


@pytest.mark.parametrize(
    ("of", "draining", "service", "status"),
    [
        (READY, False, "", SERVING),
        (READY, False, "inference", SERVING),
        (READY, False, "iris", SERVING),
        (READY, True, "", NOT_SERVING),
        (READY, True, "iris", NOT_SERVING),
        (LOADING, False, "", NOT_SERVING),
        (LOADING, False, "iris", NOT_SERVING),
        (Table(), False, "", NOT_SERVING),
        (READY, False, "other", SERVICE_UNKNOWN),
        (READY, True, "other", SERVICE_UNKNOWN),
    ],
)
def test_a_service_serves_when_the_server_is_ready_and_a_model_when_it_is(
    of: Table, draining: bool, service: str, status: int
) -> None:
    """The whole decision, as a table."""
    assert serving_status(of, draining, service, services={"", "inference"}) == status


def test_check_knows_the_server_its_services_and_tensorflow_serving_s_short_names() -> None:
    """Each name that a probe may ask for is answered SERVING."""

    async def scenario() -> list[int]:
        check = handler(Plane(READY), "Check")
        statuses = []
        for name in ("", *sorted(SERVICES), "PredictionService", "grpc.health.v1.Health", "iris"):
            rpc = CallRpc(asked(name))
            await check(rpc)
            statuses.append(await rpc.next_status())
        return statuses

    assert asyncio.run(scenario()) == [SERVING] * 6


@pytest.mark.parametrize(
    ("messages", "status"),
    [((asked("nothing"),), 5), ((asked("ModelService"),), 5), ((), 3)],
    ids=["unknown", "service of another dialect", "no message"],
)
def test_check_refuses_what_it_does_not_know(messages: tuple[bytes, ...], status: int) -> None:
    """NOT_FOUND for a name that is none here, INVALID_ARGUMENT for a call without a request."""
    with pytest.raises(GrpcError) as refused:
        asyncio.run(handler(Plane(READY), "Check")(CallRpc(*messages)))

    assert refused.value.status == status


def test_watch_tells_the_status_and_then_each_change() -> None:
    """A model that loads and unloads is told once at each step, an unknown one as SERVICE_UNKNOWN."""

    async def scenario() -> list[int]:
        plane = Plane(Table())
        rpc = CallRpc(asked("iris"))
        watch = asyncio.ensure_future(handler(plane, "Watch")(rpc))
        told = [await rpc.next_status()]
        for of in (LOADING, READY):
            plane.table = of
            told.append(await rpc.next_status())
        plane.table = table(iris_like())
        for _ in range(3):
            await asyncio.sleep(0)
        plane.table = Table()
        told.append(await rpc.next_status())
        watch.cancel()
        return told

    assert asyncio.run(scenario()) == [SERVICE_UNKNOWN, NOT_SERVING, SERVING, SERVICE_UNKNOWN]


def test_watch_ends_with_the_server() -> None:
    """A drain is told as NOT_SERVING, then the call ends as UNAVAILABLE, so that it does not hold the drain up."""

    async def scenario() -> tuple[list[int], Reason]:
        plane = Plane(READY)
        rpc = CallRpc(asked(""))
        watch = asyncio.ensure_future(handler(plane, "Watch")(rpc))
        told = [await rpc.next_status()]
        plane.draining = True
        told.append(await rpc.next_status())
        with pytest.raises(DukouError) as ended:
            await asyncio.wait_for(watch, LIMIT_S)
        return told, ended.value.reason

    assert asyncio.run(scenario()) == ([SERVING, NOT_SERVING], Reason.DRAINING)


def ask(package: str = V1, **what: Any) -> Any:
    request = pool.message(f"{package}.ServerReflectionRequest")(host="here", **what)
    response = reflection(package, ["a.B", "c.D"], request.SerializeToString())
    answer = pool.parse(f"{package}.ServerReflectionResponse", response)
    assert (answer.valid_host, answer.original_request) == ("here", request)
    return answer


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_both_versions_of_reflection_list_the_services(package: str) -> None:
    """The names that were given, in order."""
    assert [one.name for one in ask(package, list_services="").list_services_response.service] == ["a.B", "c.D"]


@pytest.mark.parametrize(
    "what",
    [
        {"file_by_filename": "health.proto"},
        {"file_containing_symbol": "grpc.health.v1.Health"},
        {"file_containing_symbol": "grpc.health.v1.Health.Watch"},
        {"file_containing_symbol": "grpc.health.v1.HealthCheckResponse.ServingStatus"},
    ],
    ids=str,
)
def test_a_file_is_found_by_its_name_and_by_what_it_holds(what: dict[str, str]) -> None:
    """A service, a method and a nested type lead to their file."""
    (file,) = ask(**what).file_descriptor_response.file_descriptor_proto

    assert file == pool.files()["health.proto"].SerializeToString()


@pytest.mark.parametrize("name", sorted(pool.files()))
def test_a_file_comes_with_all_that_it_imports(name: str) -> None:
    """A client can build every file from one answer: the file asked for is first, none comes twice."""
    files = ask(file_by_filename=name).file_descriptor_response.file_descriptor_proto

    kind = type(pool.files()[name])
    parsed = [kind.FromString(file) for file in files]
    names = [file.name for file in parsed]
    assert names[0] == name
    assert len(set(names)) == len(names)
    assert {imported for file in parsed for imported in file.dependency} <= set(names)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ({"file_by_filename": "none.proto"}, 5),
        ({"file_containing_symbol": "no.Such"}, 5),
        ({"file_containing_symbol": ""}, 5),
        ({"all_extension_numbers_of_type": "no.Such"}, 5),
        ({"file_containing_extension": {"containing_type": "grpc.health.v1.HealthCheckRequest"}}, 5),
        ({}, 3),
    ],
    ids=str,
)
def test_what_there_is_not_is_an_error_in_the_stream(what: dict[str, Any], code: int) -> None:
    """Reflection tells errors as answers; the stream goes on."""
    assert ask(**what).error_response.error_code == code


def test_messages_have_no_extensions() -> None:
    """A known message is answered with an empty list, which is no error."""
    answer = ask(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest")

    assert answer.WhichOneof("message_response") == "all_extension_numbers_response"
    assert not answer.all_extension_numbers_response.extension_number


@given(st.binary(max_size=64))
def test_reflection_raises_only_what_is_documented(message: bytes) -> None:
    """Garbage is refused as malformed, or is answered."""
    with suppress(DukouError):
        assert reflection(V1, [], message)


def test_a_stream_of_questions_is_a_stream_of_answers() -> None:
    """One answer for each question, in order, until the caller has no more."""

    async def scenario() -> int:
        request = pool.message(f"{V1}.ServerReflectionRequest")(list_services="").SerializeToString()
        rpc = CallRpc(request, request)
        await methods(facts(Plane(READY)), SERVICES)[f"/{V1}.ServerReflection/ServerReflectionInfo".encode()](rpc)  # type: ignore[arg-type, misc]
        return rpc.sent.qsize()

    assert asyncio.run(scenario()) == 2


@pytest.mark.parametrize("dialect", ["", "tensorflow-serving", "triton", "kserve", "mlserver"])
def test_every_method_that_is_served_is_described(dialect: str) -> None:
    """Whatever a listener answers, reflection can describe: its service and its name are in the pool."""
    for path in all_methods(facts(Plane(READY)), dialect):
        _, service, method = path.decode().split("/")
        assert method in pool.pool().FindServiceByName(service).methods_by_name
