"""What callers may have the control plane do: who may, how it is asked for, how its end is told."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from in_memory import HandPlane, Said, World, request

from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.message import Table
from dukou.core.verb import Load, ReloadFile, Unload, Verb
from dukou.core.version import State
from dukou.net.commands import check_caller
from dukou.testing.models import iris_like, table

LOCAL = ("127.0.0.1", 5000)
ELSEWHERE = ("192.0.2.1", 5000)
WITH_FILE = ModelsConfig(config_file="/models/models.config")
EXPLICIT = ModelsConfig(control="explicit")


class Plane:
    """A control plane that notes what it is asked for, and then has `then` happen to the table served."""

    def __init__(self, then: Callable[[], Table | DukouError | Exception]) -> None:
        self.asked: list[tuple[Verb, str]] = []
        self.data = HandPlane(table(iris_like()))
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._then = then

    async def do(self, verb: Verb, who: str) -> None:
        self.asked.append((verb, who))
        await self.may_end.wait()
        found = self._then()
        if isinstance(found, Exception):
            raise found
        self.data.table = found


def two() -> Table:
    """Another version has become AVAILABLE."""
    return table(iris_like(), iris_like(version=2))


def ask(
    target: str,
    models: ModelsConfig,
    body: bytes = b"",
    *fields: str,
    then: Callable[[], Any] = two,
    peer: object = LOCAL,
    dialect: str = "",
) -> tuple[Said, Plane]:
    """The answer to a POST, and the control plane that was perhaps asked."""

    async def run() -> tuple[Said, Plane]:
        plane = Plane(then)
        with World(plane=plane.data, control=plane, models=models) as world:
            client = world.client(dialect, peer=peer).send(request("POST", target, body, *fields))
            async with asyncio.timeout(5.0):
                while not client.transport.out:
                    await asyncio.sleep(0)
            (said,) = client.answers()
        plane.data.close()
        return said, plane

    return asyncio.run(run())


def error(said: Said) -> tuple[int, str]:
    return said.status, json.loads(said.body)["error"]


RELOAD = "/v1/models/iris/versions/2/reload"


def test_a_reload_ends_when_the_version_answers() -> None:
    """With its state, as a status request would tell it; the body is not looked at."""
    said, plane = ask(RELOAD, WITH_FILE, b"anything")

    assert plane.asked == [(ReloadFile("iris", 2), "127.0.0.1:5000")]
    assert said.status == 200
    assert json.loads(said.body) == {
        "model_version_status": [
            {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }


def test_a_reload_may_be_of_all_versions() -> None:
    """Whatever the config has of the model."""
    said, plane = ask("/v1/models/iris/reload", WITH_FILE)

    assert plane.asked == [(ReloadFile("iris"), "127.0.0.1:5000")]
    assert [each["version"] for each in json.loads(said.body)["model_version_status"]] == ["2", "1"]


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [
        (DukouError(Reason.CONFIG_INVALID, detail="line 3", text="line 3"), (400, "line 3")),
        (
            DukouError(Reason.MODEL_NOT_FOUND, model="iris", version=2, served="none"),
            (404, "Servable not found for request: Specific(iris, 2)"),
        ),
        (DukouError(Reason.NOT_SERVING, detail="the control plane is away"), (503, "the control plane is away")),
        (ValueError("secret"), (500, "the server failed; its log says why")),
    ],
)
def test_what_a_reload_fails_with_is_told(raised: Exception, wanted: tuple[int, str]) -> None:
    """In the protocol's words and statuses."""
    said, _ = ask(RELOAD, WITH_FILE, then=lambda: raised)

    assert error(said) == wanted


def test_a_reload_that_waits_holds_nobody_up() -> None:
    """Others are answered meanwhile; a caller that goes is waited for no longer."""

    async def run() -> None:
        plane = Plane(two)
        plane.may_end.clear()
        with World(plane=plane.data, control=plane, models=WITH_FILE) as world:
            waiting = world.client(peer=LOCAL).send(request("POST", RELOAD))
            await asyncio.sleep(0)
            other = world.client().send(request("GET", "/v1/models/iris"))

            assert (len(plane.asked), waiting.statuses, other.statuses) == (1, [], [200])

            waiting.vanish()
            await asyncio.sleep(0)
            plane.may_end.set()
            await asyncio.sleep(0)
            assert waiting.transport.out == b""
            assert 2 not in plane.data.table.models["iris"]
        plane.data.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("target", "models", "fields"),
    [
        (RELOAD, WITH_FILE, ("X-Forwarded-For: 127.0.0.1",)),
        (RELOAD, WITH_FILE, ("Origin: http://example.org",)),
        ("/v2/repository/models/iris/load", EXPLICIT, ("Origin: http://example.org",)),
        ("/v2/repository/models/iris/unload", EXPLICIT, ("Origin: null",)),
    ],
)
def test_some_callers_are_refused(target: str, models: ModelsConfig, fields: tuple[str, ...]) -> None:
    """Whoever comes through a proxy may be anyone; a page in a browser is not its reader."""
    said, plane = ask(target, models, b"", *fields)

    assert said.status in (400, 403)
    assert "may" in error(said)[1]
    assert plane.asked == []


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("127.0.0.1:5000", True),
        ("127.8.9.1:5000", True),
        ("::1:5000", True),
        ("::ffff:127.0.0.1:5000", True),
        ("unix", True),
        ("192.0.2.1:5000", False),
        ("::ffff:192.0.2.1:5000", False),
        ("2001:db8::1:5000", False),
        ("fe80::1%eth0:5000", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_callers_of_this_machine(peer: str, local: bool) -> None:
    """Of every family of addresses; one that is not known is none."""
    check_caller(peer, {})

    if local:
        check_caller(peer, {}, only_local=True)
    else:
        with pytest.raises(DukouError) as caught:
            check_caller(peer, {}, only_local=True)
        assert caught.value.reason is Reason.CALLER_REFUSED


def test_a_page_of_this_server_may_ask() -> None:
    """Its documentation has buttons."""
    check_caller("unix", {b"origin": b"http://localhost:8501", b"host": b"localhost:8501"}, only_local=True)


def test_a_reload_from_elsewhere_is_forbidden() -> None:
    """Over HTTP, with its status."""
    said, plane = ask(RELOAD, WITH_FILE, peer=ELSEWHERE)

    assert error(said) == (403, "only callers of the server's own machine may ask for this")
    assert plane.asked == []


@pytest.mark.parametrize("models", [ModelsConfig(), EXPLICIT])
def test_without_a_config_file_there_is_nothing_to_reload(models: ModelsConfig) -> None:
    """The answer says how there would be."""
    said, plane = ask(RELOAD, models)

    assert said.status == 404
    assert "--model_config_file" in error(said)[1]
    assert plane.asked == []


@pytest.mark.parametrize(
    ("dialect", "loaded", "unloaded"),
    [
        ("", b"", b""),
        ("triton", b"", b""),
        ("mlserver", b"", b""),
        ("kserve", b'{"name":"iris","load":true}', b'{"name":"iris","unload":true}'),
    ],
)
def test_models_are_loaded_and_unloaded_where_callers_may(dialect: str, loaded: bytes, unloaded: bytes) -> None:
    """From anywhere; each dialect answers in its own way."""
    for verb, body, wanted in ((Load("iris"), b"", loaded), (Unload("iris"), b"{}", unloaded)):
        target = f"/v2/repository/models/iris/{type(verb).__name__.lower()}"

        said, plane = ask(target, EXPLICIT, body, peer=ELSEWHERE, dialect=dialect)

        assert (said.status, said.body) == (200, wanted)
        assert plane.asked == [(verb, "192.0.2.1:5000")]


def test_what_a_load_fails_with_is_told_in_known_words() -> None:
    """Clients look for how the sentence begins."""
    failure = DukouError(Reason.ARTIFACT_UNREADABLE, path="model.onnx", detail="it is empty")

    said, _ = ask("/v2/repository/models/iris/load", EXPLICIT, then=lambda: failure, dialect="triton")

    assert error(said) == (500, "failed to load 'iris', model.onnx: it is empty")


@pytest.mark.parametrize(
    ("verb", "body", "status", "text"),
    [
        ("load", {"config": "{}"}, 501, "failed to load 'iris', the server loads what its repository holds"),
        ("load", {"file:1/model.onnx": "AAAA"}, 501, "not files of the request (file:1/model.onnx)"),
        ("load", {"colour": 1}, 400, "failed to load 'iris', unknown parameter 'colour'"),
        ("unload", {"colour": 1}, 400, "failed to unload 'iris', unknown parameter 'colour'"),
        ("unload", {"unload_dependents": 1}, 400, "neither true nor false"),
    ],
)
def test_parameters_that_are_not_understood_are_refused(
    verb: str, body: dict[str, Any], status: int, text: str
) -> None:
    """Rather than to load something else than was asked for."""
    said, plane = ask(f"/v2/repository/models/iris/{verb}", EXPLICIT, json.dumps({"parameters": body}).encode())

    assert error(said)[0] == status
    assert text in error(said)[1]
    assert plane.asked == []


@pytest.mark.parametrize("body", [b"[]", b"{bad", b'{"parameters": 1}', b" " * 70_000 + b"{}"])
def test_bodies_that_are_none_are_refused(body: bytes) -> None:
    """Before anything is done."""
    said, plane = ask("/v2/repository/models/iris/load", EXPLICIT, body)

    assert said.status in (400, 413)
    assert plane.asked == []


def test_dependents_may_be_unloaded() -> None:
    """There are none."""
    body = b'{"parameters": {"unload_dependents": true}}'

    said, plane = ask("/v2/repository/models/iris/unload", EXPLICIT, body)

    assert said.status == 200
    assert plane.asked == [(Unload("iris"), "127.0.0.1:5000")]


def test_an_unloaded_model_stays_in_the_index() -> None:
    """As one that could be loaded."""
    said, plane = ask("/v2/repository/models/iris/unload", EXPLICIT, then=lambda: table(iris_like(state=State.END)))

    with World(plane=plane.data) as world:
        (index,) = world.client().send(request("POST", "/v2/repository/index")).answers()

    assert said.status == 200
    assert json.loads(index.body) == [{"name": "iris", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
