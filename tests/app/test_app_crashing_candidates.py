"""A candidate that ends its process for some calls is no better than one that answers those with an error."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from app_server import LIMIT_S, Server
from test_app_changes import adds

from dukou.client.admin import Admin, read_token

pytestmark = [pytest.mark.socket, pytest.mark.slow]

CRASHES = """
import os


class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}

    def predict(self, inputs):
        if 13 in inputs["x"]:
            os._exit(1)
        return inputs["x"] + 1
"""

UNDER_WAY = "RUNNING"


def rolled_back(folder: Path, plan: str) -> dict[str, Any]:
    """What is said of the rollout of a candidate that crashes at every other call, once it is over."""
    root, token = folder / "models", folder / "token"
    adds(1.0, root / "m" / "1" / "model.onnx")
    (root / "m" / "2").mkdir()
    (root / "m" / "2" / "model.py").write_text(CRASHES)
    port, admin_port = free_port(), free_port()
    settings = {
        "admin.listen": f"127.0.0.1:{admin_port}",
        "admin.token_file": token,
        "telemetry.state_dir": folder / "state",
        "models.version_policy": "1",
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with Server(root, "--port", str(port), "--trust-python", *words) as server:
        admin = Admin(f"127.0.0.1:{admin_port}", read_token(token), caller="test", timeout_s=LIMIT_S)
        admin.post("/v1/models/m:deploy", dict[str, Any], {"version": 2, "plan": plan})
        give_up_s, number = time.monotonic() + 3 * LIMIT_S, 0
        while time.monotonic() < give_up_s:
            for _ in range(10):
                number += 1
                ask(server, 13.0 if number % 2 else 1.0)
            said: dict[str, Any] = admin.get("/v1/models/m/rollout", dict[str, Any])
            if said["status"] != UNDER_WAY:
                return said
        raise AssertionError(said)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def ask(server: Server, number: float) -> None:
    """A caller who may lose their connection."""
    try:
        server.post("/v1/models/m:predict", f'{{"instances": [{number}]}}')
    except requests.ConnectionError:
        pass


@pytest.mark.parametrize(("plan", "why"), [("incremental:50,100", "3 workers ended"), ("shadow", "failed rows")])
def test_a_candidate_that_crashes_goes_back(tmp_path: Path, plan: str, why: str) -> None:
    """It takes a worker with it, or the model process that it has as a shadow."""
    said = rolled_back(tmp_path, f"{plan} least_s=0 least_requests=10")

    assert said["status"] == "ROLLED_BACK", said["reason"]
    assert why in said["reason"]
