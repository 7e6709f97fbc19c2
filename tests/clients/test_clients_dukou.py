"""dukou's own client against a live server: HTTP and gRPC answer alike, sync and async."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from app.app_server import LIMIT_S, Server
from dukou.client.client import AsyncClient, Client
from dukou.client.errors import InvalidInput, NotFound, Refused, TimedOut
from dukou.protos import pool
from dukou.testing.conformance import build_models
from live import DIALECTS, Live
from net.certificates import make_certificate

pytestmark = [pytest.mark.socket, pytest.mark.slow]

V2 = [dialect for dialect in DIALECTS if dialect != "tensorflow-serving"]


@pytest.fixture(params=["http", "grpc"])
def scheme(request: pytest.FixtureRequest) -> str:
    scheme: str = request.param
    return scheme


@pytest.fixture
def url(live: Live, scheme: str) -> str:
    return f"{scheme}://{live.target()}"


@pytest.mark.parametrize("dialect", V2, ids=lambda dialect: dialect or "default")
def test_every_dialect_is_understood(live: Live, scheme: str, dialect: str) -> None:
    """Metadata, inference and readiness, whatever the server is called."""
    with Client(f"{scheme}://{live.target(dialect)}", "addsub") as client:
        outputs = client.infer({"INPUT0": [[1, 2, 3, 4]], "INPUT1": [[4, 3, 2, 1]]})
        one = client.infer({"INPUT0": [[1, 2, 3, 4]], "INPUT1": [[4, 3, 2, 1]]}, "OUTPUT1")
        ready = client.ready()

    assert {name: array.tolist() for name, array in outputs.items()} == {
        "OUTPUT0": [[5, 5, 5, 5]],
        "OUTPUT1": [[-3, -1, 1, 3]],
    }
    assert [*one] == ["OUTPUT1"]
    assert ready is True


def test_arrays_come_back_as_they_went(url: str) -> None:
    """Datatypes without a form in JSON, text, and an array of 600 KB."""
    image = np.random.default_rng(1).random((1, 150_528), np.float32)

    with (
        Client(url, "identity_fp16") as halves,
        Client(url, "identity_fp32") as floats,
        Client(url, "echo_bytes") as text,
    ):
        half, whole, said = halves.predict([[0.5, -np.inf]]), floats.predict(image), text.predict(["été", "b"])

    assert (half.dtype, half.tolist()) == (np.float16, [[0.5, -np.inf]])
    np.testing.assert_array_equal(whole, image)
    assert said.tolist() == ["été", "b"]


def test_a_stream(url: str) -> None:
    """Each response as it comes; a model that does not stream gives one."""
    with Client(url, "counter") as counter, Client(url, "labelled") as plain:
        numbers = [response["NUMBER"].tolist() for response in counter.stream([3])]
        nothing = [*counter.stream([0])]
        one = [response["PROBABILITIES"].shape for response in plain.stream([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])]

    assert numbers == [[0], [1], [2]]
    assert nothing == []
    assert one == [(2, 3)]


def test_a_stream_that_is_left_leaves_the_client_usable(url: str) -> None:
    """Who has seen enough stops."""
    with Client(url, "counter") as client:
        responses = client.stream([1_000_000])
        next(responses)
        responses.close()

        assert client.ready()


def test_the_async_client(url: str) -> None:
    """Calls side by side, and a stream."""

    async def calls() -> tuple[list[Any], list[Any]]:
        async with AsyncClient(url, "identity_fp32") as client, AsyncClient(url, "counter") as counter:
            answers = await asyncio.gather(*(client.predict([[n, n]]) for n in range(8)))
            return [array.tolist() for array in answers], [one["NUMBER"][0] async for one in counter.stream([2])]

    assert asyncio.run(calls()) == ([[[n, n]] for n in range(8)], [0, 1])


def test_the_list_of_models(url: str) -> None:
    """Names, versions and states, the same by both protocols."""
    with Client(url) as client:
        models = {(model.name, model.version, model.state) for model in client.models()}

    assert ("half_plus_two", "123", "READY") in models


def test_errors_are_the_same(url: str) -> None:
    """Their classes, whatever their statuses."""
    with Client(url, "nope") as client, pytest.raises(NotFound, match="nope"):
        client.metadata()
    with Client(url, "addsub", version=9) as client, pytest.raises(NotFound):
        client.metadata()
    with Client(url, "addsub") as client, pytest.raises(InvalidInput, match="batch-size must be <= 8"):
        client.infer({"INPUT0": np.zeros((9, 4), int), "INPUT1": np.zeros((9, 4), int)})
    with Client(url, "counter") as client, pytest.raises(Refused, match="decoupled"):
        client.predict([1])
    with Client(url, "slow", timeout_s=0.3) as client, pytest.raises(TimedOut):
        client.predict([1])


def test_tls_by_both_protocols(tmp_path: Path) -> None:
    """One port with a certificate: https:// and grpcs:// are told apart by ALPN, and check the certificate."""
    build_models(tmp_path / "models")
    certificate, key = make_certificate(tmp_path)
    code = """
import sys, dukou
for url in sys.argv[1:]:
    with dukou.Client(url, "identity_fp32", retries=0) as client:
        print(client.predict([[1.0, 2.0]]).tolist())
"""
    trusted = {"SSL_CERT_FILE": str(certificate), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate)}
    settings = [f"server.tls_certificate={certificate}", f"server.tls_key={key}"]

    with Server(tmp_path / "models", "--port", "0", *(word for one in settings for word in ("--set", one))) as server:
        urls = [server.url, server.url.replace("https://", "grpcs://")]
        runs = [
            subprocess.run(
                [sys.executable, "-c", code, *asked],
                env=os.environ | environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            for environment, asked in ((trusted, urls), ({}, urls[:1]), ({}, urls[1:]))
        ]

    assert runs[0].stdout == "[[1.0, 2.0]]\n" * 2, runs[0].stderr
    assert all("ConnectionFailed" in refused.stderr for refused in runs[1:])


def test_a_watch_of_health_is_told_of_the_end_and_does_not_hold_it_up(tmp_path: Path) -> None:
    """SERVING, then NOT_SERVING when the server is asked to stop, which then ends at once."""
    build_models(tmp_path / "models")
    with Server(tmp_path / "models", "--port", "0") as server:
        target = server.url.removeprefix("http://")
        with grpc.insecure_channel(target) as channel:
            call = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=LIMIT_S)
            answers = (pool.parse("grpc.health.v1.HealthCheckResponse", message).status for message in call)
            first = next(answers)
            server.process.send_signal(signal.SIGTERM)
            second = next(answers)
            with pytest.raises(grpc.RpcError) as ended:
                next(answers)

    assert (first, second) == (1, 2)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not any("were not answered" in line for line in server.log)
