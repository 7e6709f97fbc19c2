"""A server that comes back: one command, fixed ports, one state folder, an admin API; what it says, and its store."""

import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
from app_server import LIMIT_S, Server

from dukou.client.admin import Admin, read_token
from dukou.client.errors import ClientError
from dukou.control.operations import Audited, ModelStatus
from dukou.control.store import Store
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.wanted import Overrides

NAME = "m"


class Place:
    """A server that comes back: always the same command, ports and state folder. `what` it serves is
    `folder / "models"` unless it is said, `prefix` is the program that runs its command."""

    def __init__(self, folder: Path, *what: str | Path, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self._prefix = prefix
        self.models = folder / "models"
        self.state = folder / "state"
        self.port, self.admin_port = steady_ports(2)
        token = folder / "token"
        self.words = (
            *(what or (self.models,)),
            *("--port", str(self.port), "--trust-python"),
            *("--set", f"admin.listen=127.0.0.1:{self.admin_port}", "--set", f"admin.token_file={token}"),
            *("--set", f"telemetry.state_dir={self.state}", "--set", "models.poll_s=0.2"),
        )
        self.server = self.start()
        self.admin = Admin(f"127.0.0.1:{self.admin_port}", self._token(token), caller="test", timeout_s=LIMIT_S)

    def start(self, on_line: Callable[[str], None] = lambda line: None) -> Server:
        self.server = Server(*self.words, on_line=on_line, prefix=self._prefix)
        return self.server

    def end(self) -> None:
        """If it has not ended, kill it."""
        if self.server.process.poll() is None:
            self.server.kill_all()

    def _token(self, path: Path) -> str:
        until(path.exists, "a token")
        return read_token(path)

    # What it says.

    def status(self) -> ModelStatus:
        """Once the admin API answers."""
        return eventually(lambda: self.admin.get(f"/v1/models/{NAME}", ModelStatus))

    def shares(self) -> dict[int, float]:
        return {one.version: one.share for one in self.status().versions if one.share}

    def shadows(self) -> dict[int, float]:
        return {one.version: one.shadow for one in self.status().versions if one.shadow}

    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = eventually(lambda: self.admin.get(f"/v1/models/{NAME}/rollout", dict[str, Any]))
        return found

    def where(self) -> tuple[int, str, int]:
        """The rollout under way, its status, and the number of its step."""
        said = self.rollout()
        return said["id"], said["status"], next(one["number"] for one in said["steps"] if one["state"] == "now")

    def compared(self) -> int:
        """Rows of copies that were compared."""
        return int((self.rollout()["answers"] or {"rows": 0})["rows"])

    def verb(self, verb: str, **body: Any) -> ModelStatus:
        return self.admin.post(f"/v1/models/{NAME}:{verb}", ModelStatus, body)

    def answers(self, calls: int) -> Counter[int]:
        """How many of so many calls each version answers, by what it adds."""
        return Counter(int(ask(self.port)) for _ in range(calls))

    # Nobody serves.

    def audit(self) -> list[Audited]:
        """What the store has, the latest first; its last entry is how things are. Nothing is there by half."""
        with closing(Store.open(self.state / "store.db")) as store:
            assert store.problem == ""
            history = store.history(NAME, 10_000)
            overrides, rollouts = store.overrides(), {one.model: one for one in store.rollouts()}
        assert [one.id for one in history] == list(range(len(history), 0, -1))
        change = next((one for one in history if one.verb not in {"follow", "configure"}), None)
        assert change is not None
        said = dict(change.after)
        del said["calls"]
        rollout = rollouts.get(NAME)
        assert said.pop("rollout", None) == (rollout and outline(rollout))
        assert as_json(Overrides()) | said == as_json(overrides[NAME])
        return history


def outline(rollout: Rollout) -> dict[str, Any]:
    """As the audit tells it."""
    status = rollout.status.value
    return {"id": rollout.id, "candidate": rollout.candidate, "step": rollout.step, "status": status}


def as_json(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return found


def ask(port: int) -> float:
    """What the model adds. Raises OSError, HTTPException where nobody answers."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)) as connection:
        connection.request("POST", f"/v1/models/{NAME}:predict", '{"instances": [0.0]}')
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status == 200, f"{answer.status} {body!r}"
    number: float = msgspec.json.decode(body)["predictions"][0]
    return number


def eventually(get: Callable[[], Any]) -> Any:
    """What `get` returns once the admin API answers."""
    give_up_s = time.monotonic() + LIMIT_S
    while True:
        try:
            return get()
        except ClientError:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.02)


def until(fits: Callable[[], bool], what: str) -> None:
    """Return once `fits` is true."""
    give_up_s = time.monotonic() + LIMIT_S
    while not fits():
        assert time.monotonic() < give_up_s, f"there never was {what}"
        time.sleep(0.02)


def steady_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that the system gives to no caller while the server is away."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found
