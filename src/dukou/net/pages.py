"""What can be read beside inference: health, metadata, states, counts, and what is served.

Each page is a function from the view and what was asked to an Answer. Raises DukouError.
"""

import re

import orjson

from dukou import __version__
from dukou.config import PlainConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.message import Served
from dukou.core.model import ModelVersion
from dukou.core.statistics import VersionStatistics
from dukou.net import docs_page, landing
from dukou.net.compression import decompress
from dukou.net.exchange import Answer
from dukou.net.health import server_ready
from dukou.net.html import policy
from dukou.net.openapi import openapi
from dukou.net.routes import Asked, View
from dukou.wire import kserve, oip_config, oip_metadata, oip_repository, oip_statistics, tf_rest

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
HTML_TYPE = b"text/html; charset=utf-8"
TEXT_TYPE = b"text/plain; charset=utf-8"
LARGEST_BODY_BYTES = 65_536
"""Of a request for a page; those that have a body at all have a small one."""

_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")


def metrics(view: View, asked: Asked) -> Answer:
    """For Prometheus, under the names that this dialect's dashboards know."""
    return Answer(200, view.facts.metrics(view.dialect), METRICS_TYPE)


def serving_metrics(view: View, asked: Asked) -> Answer:
    """For Prometheus, under TensorFlow Serving's names."""
    return Answer(200, view.facts.serving_metrics(), METRICS_TYPE)


def live(view: View, asked: Asked) -> Answer:
    """The process works."""
    return Answer(200, b'{"live":true}') if view.bodies else Answer(200)


def ready(view: View, asked: Asked) -> Answer:
    """Everything can be called, and the server is not shutting down."""
    is_ready = server_ready(view.facts.plane.table) and not view.facts.is_draining()
    number = 200 if is_ready else view.unready
    return Answer(number, orjson.dumps({"ready": is_ready})) if view.bodies else Answer(number)


def ping(view: View, asked: Asked) -> Answer:
    """As MLflow and SageMaker ask for it: a status, and no more than a line's end."""
    return Answer(ready(view, asked).status, b"\n")


def version(view: View, asked: Asked) -> Answer:
    """The server's version."""
    return Answer(200, __version__.encode("ascii"), TEXT_TYPE)


def alive(view: View, asked: Asked) -> Answer:
    """What KServe's clients take for liveness."""
    return Answer(200, b'{"status":"alive"}')


def server_metadata(view: View, asked: Asked) -> Answer:
    """The server's name, version and extensions of the protocol."""
    return Answer(200, oip_metadata.server_metadata(view.server, __version__, view.extensions))


def model_metadata(view: View, asked: Asked) -> Answer:
    """The tensors of a model."""
    served = _chosen(view, asked)
    versions = view.facts.plane.table.models[asked.ref.name]
    return Answer(200, oip_metadata.model_metadata(asked.ref.name, versions, served))


def model_ready(view: View, asked: Asked) -> Answer:
    """Whether a model can be called. One that is not known is an error."""
    try:
        _chosen(view, asked)
        is_ready = not view.facts.is_draining()
    except DukouError as error:
        if error.reason is not Reason.MODEL_NOT_READY:
            raise
        is_ready = False
    number = 200 if is_ready else view.model_unready
    return Answer(number, orjson.dumps({"name": asked.ref.name, "ready": is_ready})) if view.bodies else Answer(number)


def model_config(view: View, asked: Asked) -> Answer:
    """Triton's configuration of a model."""
    return Answer(200, orjson.dumps(oip_config.model_config(_chosen(view, asked))))


def model_list(view: View, asked: Asked) -> Answer:
    """The names of all models, as KServe lists them."""
    return Answer(200, kserve.model_list(list(view.facts.plane.table.models)))


def statistics(view: View, asked: Asked) -> Answer:
    """What models have done: all of them, those of a name, or one version."""
    known = view.facts.statistics()
    nothing = VersionStatistics()
    entries = [(one, known.get(one, nothing)) for one in _versions(view, asked)]
    return Answer(200, oip_statistics.model_stats(entries))


def _versions(view: View, asked: Asked) -> list[ModelVersion]:
    ref, models = asked.ref, view.facts.plane.table.models
    if not ref.name:
        return [served.id for versions in models.values() for served in versions.values()]
    if ref.version is not None or ref.name not in models:
        return [_chosen(view, asked).id]
    return [served.id for served in models[ref.name].values()]


def index(view: View, asked: Asked) -> Answer:
    """What the repository holds, and the state of each."""
    only_ready = oip_repository.parse_index(small_body(asked))
    return Answer(200, orjson.dumps(oip_repository.index(view.facts.plane.table, only_ready)))


def kserve_load(view: View, asked: Asked) -> Answer:
    """A model that is served already is loaded; others cannot be."""
    _chosen(view, asked)
    return Answer(200, orjson.dumps({"name": asked.ref.name, "load": True}))


def kserve_explain(view: View, asked: Asked) -> Answer:
    """No model here explains its answers."""
    _chosen(view, asked)
    raise DukouError(Reason.NOT_SUPPORTED, model=asked.ref.name, detail="there is no explainer")


def tf_status(view: View, asked: Asked) -> Answer:
    """The states of a model's versions. A label is not resolved: TensorFlow Serving tells of all versions."""
    ref = asked.ref
    return Answer(200, tf_rest.model_status(ref.name, view.facts.plane.table.models.get(ref.name, {}), ref.version))


def tf_metadata(view: View, asked: Asked) -> Answer:
    """The signatures of a model, as TensorFlow Serving tells them."""
    return Answer(200, tf_rest.model_metadata(_chosen(view, asked)))


def tf_options(view: View, asked: Asked) -> Answer:
    """OPTIONS below /v1, where it depends on the Origin."""
    origin = asked.headers.get(b"origin", b"")
    return Answer(200 if b"http://" in origin or b"https://" in origin else 400)


def front_page(view: View, asked: Asked) -> Answer:
    """What is served and how to call it."""
    table = view.facts.plane.table
    vary = ((b"vary", b"accept"),)
    if landing.wants_json(asked.headers.get(b"accept", b"")):
        return Answer(200, landing.as_json(table, __version__), headers=vary)
    page = landing.as_html(table, __version__, _origin(view, asked), view.plain or PlainConfig())
    return Answer(200, page, HTML_TYPE, vary)


def openapi_document(view: View, asked: Asked) -> Answer:
    """The interface, as other programs read it."""
    return Answer(200, orjson.dumps(openapi(view.facts.plane.table, view.dialect, view.plain)))


def docs(view: View, asked: Asked) -> Answer:
    """The interface, as people read it."""
    page = docs_page.as_html(openapi(view.facts.plane.table, view.dialect, view.plain))
    return Answer(200, page, HTML_TYPE, ((b"content-security-policy", policy(docs_page.SCRIPT)),))


def _origin(view: View, asked: Asked) -> str:
    """Where the reader came from, `http://127.0.0.1:8501`; the header is the caller's own."""
    host = asked.headers.get(b"host", b"")
    name = host.decode("ascii") if _HOST.fullmatch(host) else "localhost"
    return f"{view.facts.scheme()}://{name}"


def small_body(asked: Asked) -> bytes:
    """The body, which is not large in any request that is meant. Raises DukouError."""
    body = asked.body
    if b"content-encoding" in asked.headers:
        body = decompress(asked.headers[b"content-encoding"], body, LARGEST_BODY_BYTES)
    if len(body) > LARGEST_BODY_BYTES:
        raise DukouError(Reason.BODY_TOO_LARGE, wanted=LARGEST_BODY_BYTES)
    return body


def _chosen(view: View, asked: Asked) -> Served:
    return view.facts.plane.choose(asked.ref, "")
