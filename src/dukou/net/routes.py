"""Which request is meant for what: method and target to a Route. Pure.

What the paths are is data, one table for each dialect (`dukou.net.dialects`). Names are percent-decoded after the
match.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from dukou.config import PlainConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.version import ModelRef
from dukou.net.api import Api, Call, Generation
from dukou.net.exchange import Answer, error_body
from dukou.net.facts import Facts
from dukou.wire.codec import Headers

INT64_MAX = 2**63 - 1


class View(msgspec.Struct, frozen=True):
    """The server as readers of a dialect see it.

    `server` is its name. `bodies`: health and readiness have JSON bodies. `unready` and `model_unready` are the
    statuses of a server and of a model that cannot be called yet. `plain` is the simple route, None where there is
    none.
    """

    facts: Facts
    dialect: str = ""
    server: str = "dukou"
    extensions: tuple[str, ...] = ()
    bodies: bool = True
    unready: int = 503
    model_unready: int = 400
    plain: PlainConfig | None = None


class Asked(msgspec.Struct, frozen=True):
    """What a page or a command is told of the request for it."""

    ref: ModelRef
    headers: Headers
    body: bytes
    peer: str = ""


Show: TypeAlias = Callable[[View, Asked], Answer]
"""Makes a page. Raises DukouError."""


class Page(msgspec.Struct, frozen=True):
    """Something to read, of `ref` where it is about a model; `api` tells its errors. `in_pool`: it reads files."""

    show: Show
    api: Api
    ref: ModelRef = ModelRef("")
    in_pool: bool = False


Act: TypeAlias = Callable[[View, Asked], Awaitable[Answer]]
"""Has something done, and answers when it is. Raises DukouError."""


class Command(msgspec.Struct, frozen=True):
    """Something to be done about `ref`, as an ordinary task; `api` tells its errors."""

    act: Act
    api: Api
    ref: ModelRef


Route: TypeAlias = Call | Generation | Page | Command | Answer
"""What a request is meant for; an Answer is one that is known without looking further."""

Make: TypeAlias = Callable[[ModelRef], Route]
Methods: TypeAlias = Mapping[bytes, Make]
"""By HTTP method; GET stands for HEAD too."""

NOT_FOUND = Answer(404, error_body("Not Found"))
NOT_ALLOWED = "Method Not Allowed"
_NO_NAME = ModelRef("")


class Path(msgspec.Struct, frozen=True):
    """Paths of one form. The groups of `pattern` that matter are `model`, `version`, `label` and `verb`; `verbs` says
    what each verb means, "" being no verb. `not_allowed` is the error of other methods than those."""

    pattern: re.Pattern[bytes]
    verbs: Mapping[bytes, Methods]
    not_allowed: str = NOT_ALLOWED


class Routes(msgspec.Struct, frozen=True):
    """A dialect's paths: those that stand for themselves, those with names in them, and perhaps TensorFlow Serving's,
    which are asked first. `missing` is the answer to all others."""

    fixed: Mapping[bytes, Methods]
    paths: Sequence[Path] = ()
    v1: "TfPaths | None" = None
    missing: Answer = NOT_FOUND

    def find(self, method: bytes, target: bytes) -> Route:
        """What a request is meant for. `target` is the request target as it came, in origin or absolute form."""
        path = path_of(target)
        try:
            if self.v1 is not None and (found := self.v1.find(method, path)) is not None:
                return found
            if (methods := self.fixed.get(path)) is not None:
                return _by_method(methods, method, _NO_NAME)
            for form in self.paths:
                if match := form.pattern.fullmatch(path):
                    return _by_match(form, match.groupdict(), method) or self.missing
        except UnicodeDecodeError:
            return Answer(400, error_body("the name in the path is not UTF-8"))
        if method == b"OPTIONS" and path == b"*":
            return _allow((b"GET", b"HEAD", b"POST"))
        return self.missing


def path_of(target: bytes) -> bytes:
    """The path of a request target (RFC 9112 section 3.2), still percent-encoded."""
    if not target.startswith(b"/") and b"://" in target:
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    return target.partition(b"?")[0].partition(b"#")[0]


def name_of(raw: bytes) -> str:
    """A name in a path. Raises UnicodeDecodeError."""
    return unquote_to_bytes(raw).decode("utf-8")


def int64(digits: bytes) -> int | None:
    """The number, or None when it is above INT64_MAX. (Python refuses to read thousands of digits, even of zeros.)"""
    significant = digits.lstrip(b"0") or b"0"
    return int(significant) if len(significant) <= 19 and int(significant) <= INT64_MAX else None


def _by_match(form: Path, groups: Mapping[str, bytes | None], method: bytes) -> Route | None:
    methods = form.verbs.get(groups.get("verb") or b"")
    if methods is None:
        return None
    model, version = groups.get("model"), groups.get("version")
    number = int64(version) if version else None
    if version and number is None:
        return None
    return _by_method(methods, method, ModelRef(name_of(model) if model else "", number), form.not_allowed)


def _by_method(methods: Methods, method: bytes, ref: ModelRef, not_allowed: str = NOT_ALLOWED) -> Route:
    make = methods.get(b"GET" if method == b"HEAD" else method)
    if make is not None:
        return make(ref)
    names = tuple(name for known in methods for name in ((b"GET", b"HEAD") if known == b"GET" else (known,)))
    allow = _allow(names)
    return allow if method == b"OPTIONS" else Answer(405, error_body(not_allowed), headers=allow.headers)


def _allow(methods: Sequence[bytes]) -> Answer:
    return Answer(204, content_type=b"", headers=((b"allow", b", ".join((*methods, b"OPTIONS"))),))


# TensorFlow Serving's paths match without regard to case and refuse as a whole what does not match. Reloading is an
# addition.

_TF_CALL = re.compile(
    rb"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(predict|classify|regress)", re.IGNORECASE
)
_TF_RELOAD = re.compile(rb"/v1/models/([^/:]+)(?:/versions/([0-9]+))?/reload", re.IGNORECASE)
_TF_READ = re.compile(rb"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(/metadata)?", re.IGNORECASE)


class TfPaths(msgspec.Struct, frozen=True):
    """Everything below `/v1/`, as TensorFlow Serving has it: the protocol of each verb, pages, and `reload`."""

    calls: Mapping[bytes, Api]
    status: Make
    metadata: Make
    reload: Make
    options: Route

    def find(self, method: bytes, path: bytes) -> Route | None:
        """What a request is meant for; None for a path that is not below `/v1/`. Raises UnicodeDecodeError."""
        if path[:4].lower() != b"/v1/":
            return None
        if method == b"OPTIONS":
            return self.options
        if method == b"POST" and (match := _TF_CALL.fullmatch(path)):
            *names, verb = match.groups()
            api = self.calls.get(verb)
            if api is not None:
                return self._of_model(names, lambda ref: Call(api, ref))
        if method == b"POST" and (match := _TF_RELOAD.fullmatch(path)):
            return self._of_model((*match.groups(), b""), self.reload)
        if method == b"GET" and (match := _TF_READ.fullmatch(path)):
            *names, metadata = match.groups()
            if names[0] is None:
                return self._refuse("Missing model name in request.")
            return self._of_model(names, self.metadata if metadata else self.status)
        return self._refuse(f"Malformed request: {method.decode('ascii')} {path.decode('latin-1')}")

    def _of_model(self, names: Sequence[bytes], make: Make) -> Route:
        name, version, label = names
        number = int64(version) if version else None
        if version and number is None:
            return self._refuse(f"Failed to convert version: {version.decode('ascii')} to numeric.")
        return make(ModelRef(name_of(name), number, name_of(label) if label else None))

    def _refuse(self, detail: str) -> Answer:
        api = self.calls[b"predict"]
        return api.refuse(DukouError(Reason.MALFORMED_REQUEST, detail=detail, text=detail))
