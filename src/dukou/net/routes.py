"""Which request is meant for what: method and target to a Route. Pure.

TensorFlow Serving's paths match without regard to case and refuse as a whole what does not match (`/v1/...` is 400);
the others are 404 and 405 as usual. Names are percent-decoded after the match.
"""

import enum
import re
from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.version import ModelRef
from dukou.net import status
from dukou.net.api import Api, Call
from dukou.net.exchange import Answer, error_body
from dukou.wire import oip_http, plain, tf_rest

INT64_MAX = 2**63 - 1


class PageKind(enum.Enum):
    """What can be read, apart from inference."""

    LANDING = enum.auto()
    METRICS = enum.auto()
    LIVE = enum.auto()
    READY = enum.auto()
    SERVER_METADATA = enum.auto()
    MODEL_METADATA = enum.auto()
    MODEL_READY = enum.auto()
    TF_STATUS = enum.auto()
    TF_OPTIONS = enum.auto()


class Page(msgspec.Struct, frozen=True):
    """Something to read, of `ref` where it is about a model."""

    kind: PageKind
    ref: ModelRef = ModelRef("")


Route: TypeAlias = Call | Page | Answer
"""What a request is meant for; an Answer is one that is known without looking further."""

PLAIN = Api(plain, status.HTTP)
TF_REST = Api(tf_rest, status.TF_REST)
OIP_JSON = Api(oip_http, status.HTTP)

_NOT_FOUND = Answer(404, error_body("Not Found"))
_PAGES: Mapping[bytes, PageKind] = {
    b"/": PageKind.LANDING,
    b"/metrics": PageKind.METRICS,
    b"/v2": PageKind.SERVER_METADATA,
    b"/v2/": PageKind.SERVER_METADATA,
    b"/v2/health/live": PageKind.LIVE,
    b"/v2/health/ready": PageKind.READY,
}
_PREDICT = re.compile(rb"/predict(?:/([^/]+))?")
_OIP = re.compile(rb"/v2/models/([^/]+)(?:/versions/([0-9]+))?(?:/(infer|ready))?")
_TF_CALL = re.compile(
    rb"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(predict|classify|regress)", re.IGNORECASE
)
_TF_READ = re.compile(rb"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(/metadata)?", re.IGNORECASE)


def route(method: bytes, target: bytes) -> Route:
    """What a request is meant for. `target` is the request target as it came, in origin or absolute form."""
    path = _path(target)
    try:
        if path[:4].lower() == b"/v1/":
            return _route_tf(method, path)
        return _route_other(method, path)
    except UnicodeDecodeError:
        return Answer(400, error_body("the name in the path is not UTF-8"))


def _path(target: bytes) -> bytes:
    """The path of a request target (RFC 9112 section 3.2), still percent-encoded."""
    if not target.startswith(b"/") and b"://" in target:
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    return target.partition(b"?")[0].partition(b"#")[0]


def _route_other(method: bytes, path: bytes) -> Route:
    kind = _PAGES.get(path)
    if kind is not None:
        return _read(method, Page(kind))
    if match := _PREDICT.fullmatch(path):
        return _call(method, Call(PLAIN, ModelRef(_name(match[1]) if match[1] else "")))
    if match := _OIP.fullmatch(path):
        version = _int64(match[2]) if match[2] else None
        if match[2] and version is None:
            return _NOT_FOUND
        ref = ModelRef(_name(match[1]), version)
        if match[3] == b"infer":
            return _call(method, Call(OIP_JSON, ref))
        return _read(method, Page(PageKind.MODEL_READY if match[3] else PageKind.MODEL_METADATA, ref))
    if method == b"OPTIONS" and path == b"*":
        return _allow(204, b"GET, HEAD, POST, OPTIONS")
    return _NOT_FOUND


def _read(method: bytes, page: Page) -> Route:
    if method in (b"GET", b"HEAD"):
        return page
    return _allow(204 if method == b"OPTIONS" else 405, b"GET, HEAD, OPTIONS")


def _call(method: bytes, call: Call) -> Route:
    if method == b"POST":
        return call
    return _allow(204 if method == b"OPTIONS" else 405, b"POST, OPTIONS")


def _allow(number: int, methods: bytes) -> Answer:
    headers = ((b"allow", methods),)
    if number == 204:
        return Answer(204, content_type=b"", headers=headers)
    return Answer(number, error_body("Method Not Allowed"), headers=headers)


def _route_tf(method: bytes, path: bytes) -> Route:
    if method == b"OPTIONS":
        return Page(PageKind.TF_OPTIONS)
    if method == b"POST" and (match := _TF_CALL.fullmatch(path)):
        name, version, label, verb = match.groups()
        if verb == b"predict":
            ref = _tf_ref(name, version, label)
            return ref if isinstance(ref, Answer) else Call(TF_REST, ref)
        if verb in (b"classify", b"regress"):
            return _refuse_tf(Reason.NOT_SUPPORTED, f"{verb.decode()} is not supported yet; use predict")
    if method == b"GET" and (match := _TF_READ.fullmatch(path)):
        name, version, label, metadata = match.groups()
        if name is None:
            return _refuse_tf(Reason.MALFORMED_REQUEST, "Missing model name in request.")
        if metadata:
            return _refuse_tf(Reason.NOT_SUPPORTED, "metadata is not supported yet; GET /v2/models/NAME has it")
        ref = _tf_ref(name, version, label)
        return ref if isinstance(ref, Answer) else Page(PageKind.TF_STATUS, ref)
    text = path.decode("latin-1")
    return _refuse_tf(Reason.MALFORMED_REQUEST, f"Malformed request: {method.decode('ascii')} {text}")


def _tf_ref(name: bytes, version: bytes | None, label: bytes | None) -> ModelRef | Answer:
    number = _int64(version) if version else None
    if version and number is None:
        return _refuse_tf(Reason.MALFORMED_REQUEST, f"Failed to convert version: {version.decode('ascii')} to numeric.")
    return ModelRef(_name(name), number, _name(label) if label else None)


def _int64(digits: bytes) -> int | None:
    """The number, or None when it is above INT64_MAX. (Python refuses to read thousands of digits, even of zeros.)"""
    significant = digits.lstrip(b"0") or b"0"
    return int(significant) if len(significant) <= 19 and int(significant) <= INT64_MAX else None


def _refuse_tf(reason: Reason, detail: str) -> Answer:
    return TF_REST.refuse(DukouError(reason, detail=detail))


def _name(raw: bytes) -> str:
    return unquote_to_bytes(raw).decode("utf-8")
