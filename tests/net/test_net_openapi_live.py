"""Requests made from the OpenAPI document, right and wrong ones, against a server on a real socket."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from in_memory import HandPlane, World
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dukou.config import PlainConfig
from dukou.core.tensor import Tensors
from dukou.net.openapi import openapi
from dukou.net.sockets import bind, close_all
from dukou.testing.models import Direct, FunctionModel, served, table


def constant(inputs: Tensors) -> Tensors:
    """The same for each row, whatever it holds."""
    rows = len(inputs["X"])
    return {"label": np.ones(rows, np.int64), "probabilities": np.full((rows, 3), 0.25, np.float32)}


MODELS = table(served(stage=Direct(FunctionModel(constant))))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


async def end(world: World) -> None:
    """Drop every connection, and let the loop close them."""
    world.server.close()
    while len(world.server.connections):
        await asyncio.sleep(0)


@contextmanager
def serving(dialect: str) -> Iterator[str]:
    """A server in a thread; gives its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    sockets = bind(["127.0.0.1:0"])
    with World(plane=HandPlane(MODELS)) as world:
        thread.start()
        asyncio.run_coroutine_threadsafe(world.server.serve([(sockets[0], dialect)]), loop).result(10)
        try:
            host, port = sockets[0].getsockname()
            yield f"http://{host}:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(end(world), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()
            close_all(sockets)


@pytest.mark.slow
@pytest.mark.socket
@pytest.mark.parametrize("dialect", ["", "tensorflow-serving", "triton", "kserve", "mlserver"])
def test_the_server_does_what_its_document_says(dialect: str) -> None:
    """No request is a server error, and no answer has a status, a type or a form that the document does not have."""
    document = openapi(MODELS, dialect, PlainConfig())
    # Triton says 500 to what is no JSON.
    checks = CHECKS[1:] if dialect == "triton" else CHECKS
    with serving(dialect) as url, requests.Session() as session:
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=url)
        for found in schema.get_all_operations():
            operation = found.ok()
            cases = st.one_of(
                operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
                operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
            )

            @settings(max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(cases)
            def run(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=checks, session=session)

            run()
