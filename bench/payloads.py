"""The request bodies that every server gets, and the wrk scripts that send them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Payload:
    """One workload: a body, the model it goes to, and the connection counts it is measured at."""

    name: str
    model: str
    body: bytes
    connections: tuple[int, ...]


def payloads() -> tuple[Payload, ...]:
    """One iris row, 256 iris-like rows, one 1x3x224x224 tensor; all as JSON, seeded."""
    random = np.random.default_rng(0)
    rows = random.uniform(0.1, 8.0, size=(256, 4)).round(1).tolist()
    image = random.random((1, 3, 224, 224), dtype=np.float32).round(6).tolist()
    return (
        Payload("one row", "iris", encode([[5.1, 3.5, 1.4, 0.2]]), (1, 64)),
        Payload("256 rows", "iris", encode(rows), (8,)),
        Payload("1x3x224x224", "mean", encode(image), (1, 8)),
    )


def encode(X: list) -> bytes:
    return json.dumps({"X": X}).encode()


def wrk_script(payload: Payload, folder: Path) -> Path:
    """A wrk script that POSTs the body; the body is read from a file, whatever its size."""
    body = folder / f"{payload.name.replace(' ', '-')}.json"
    body.write_bytes(payload.body)
    script = body.with_suffix(".lua")
    script.write_text(
        f'wrk.method = "POST"\n'
        f'wrk.headers["Content-Type"] = "application/json"\n'
        f'local file = io.open("{body}", "rb")\n'
        f'wrk.body = file:read("*a")\n'
        f"file:close()\n"
    )
    return script
