"""A client of the admin API, for the command line and for scripts.

By the standard library: httpx takes 0.2 s to import, which a rollback does not have, and it would ask proxies for the
way to this machine.
"""

import json
import os
import pwd
import socket
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from dukou.client.errors import BadAnswer, ClientError, ConnectionFailed, TimedOut, http_refusal
from dukou.config import AdminConfig, token_file

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 150.0
"""Longer than a version may take to load."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024


class Admin:
    """Asks the admin API of one server: `address` is `host:port` or a URL, `caller` is who asks, for the audit.

    Every call raises ClientError: ConnectionFailed, TimedOut, BadAnswer, or a Refused with the server's own words.
    """

    def __init__(self, address: str, token: str, *, caller: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        try:
            url = urlsplit(address if "://" in address else f"http://{address}")
            self._secure = {"http": False, "https": True}[url.scheme]
            self._host, self._port = url.hostname or "127.0.0.1", url.port
        except (ValueError, KeyError):
            raise ClientError(f"{address!r} is not an address such as 127.0.0.1:8600") from None
        self.address = address
        self._headers = {
            "authorization": f"Bearer {token}",
            "x-dukou-as": _ascii(user() if caller is None else caller),
            "accept": "application/json",
        }
        self._timeout_s = timeout_s

    def get(self, path: str, kind: type[T], **query: str | int) -> T:
        """What is at `path`, as a `kind`."""
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, kind, None)

    def post(self, path: str, kind: type[T], body: Mapping[str, Any]) -> T:
        """What came of it."""
        return self._ask("POST", path, kind, body)

    def put(self, path: str, kind: type[T], body: Mapping[str, Any]) -> T:
        """What came of it."""
        return self._ask("PUT", path, kind, body)

    def delete(self, path: str, kind: type[T], **query: str) -> T:
        """What came of it."""
        return self._ask("DELETE", f"{path}?{urlencode(query)}" if query else path, kind, None)

    def _ask(self, method: str, path: str, kind: type[T], body: Mapping[str, Any] | None) -> T:
        status, answer = self._exchange(method, path, body)
        if status >= 400:
            raise http_refusal(status, self._said(answer))
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise BadAnswer(f"what answers at {self.address} is not the admin API of this dukou: {error}") from error

    def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body)
        headers = self._headers | ({"content-type": "application/json"} if body is not None else {})
        kind = HTTPSConnection if self._secure else HTTPConnection
        try:
            with closing(kind(self._host, self._port, timeout=CONNECT_TIMEOUT_S)) as connection:
                connection.connect()
                connection.sock.settimeout(self._timeout_s)
                connection.request(method, path, content, headers)
                response = connection.getresponse()
                answer = response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError:
            raise TimedOut(f"{self.address} did not answer in time") from None
        except ConnectionRefusedError:
            raise ConnectionFailed(
                f"nobody answers at {self.address}: is `dukou serve` running, and is that its admin.listen?"
            ) from None
        except (OSError, HTTPException) as error:
            raise ConnectionFailed(f"{self.address}: {error or type(error).__name__}") from error
        if len(answer) > MAX_ANSWER_BYTES:
            raise BadAnswer(f"the answer of {self.address} is larger than {MAX_ANSWER_BYTES} bytes")
        return response.status, answer

    def _said(self, answer: bytes) -> str:
        try:
            return str(json.loads(answer)["error"])
        except (ValueError, KeyError, TypeError):
            return f"what answers at {self.address} is not the admin API of dukou"


def of_settings(admin: AdminConfig, *, caller: str | None = None, timeout_s: float = TIMEOUT_S) -> Admin:
    """The admin API of the server that runs with these settings. Raises ClientError when there is no token to read."""
    if not admin.listen:
        raise ClientError("the settings say that there is no admin API: admin.listen is empty")
    return Admin(admin.listen, read_token(token_file(admin)), caller=caller, timeout_s=timeout_s)


def read_token(path: Path) -> str:
    """What a server has written there. Raises ClientError."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ClientError(
            f"{path}: there is no token. A server makes it when it starts: is `dukou serve` running, as this user?"
        ) from None
    except PermissionError:
        raise ClientError(f"{path}: the token may be read by the user only who runs the server") from None
    except (OSError, ValueError) as error:
        raise ClientError(f"{path}: no token can be read there: {error}") from error


def model_path(name: str, *below: str) -> str:
    """The path of a model, or of what is `below` it: `labels`, `stable`."""
    return "/".join(("/v1/models", *(quote(part, safe="") for part in (name, *below))))


def user() -> str:
    """`alice@host`: who runs this process, and where."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = str(number)
    return f"{name}@{socket.gethostname()}"


def _ascii(text: str) -> str:
    return "".join(each if " " <= each <= "~" else "?" for each in text)[:200]
