"""What a listener of each dialect answers: its paths, its protocols, its statuses.

Clients of different servers want different things of the same path; where they do not, everything is in the default
dialect, "".
"""

import re
from collections.abc import Mapping

import msgspec
import orjson

from dukou.config import PlainConfig
from dukou.core.entry import entry
from dukou.core.errors import DukouError, Reason
from dukou.net import commands, pages, status
from dukou.net.api import Api, Call, Generation
from dukou.net.compression import only_plain, tf_decompress
from dukou.net.exchange import Answer, error_body
from dukou.net.facts import Facts
from dukou.net.routes import NOT_ALLOWED, Act, Command, Methods, Page, Path, Routes, Show, TfPaths, View
from dukou.wire import kserve, mlflow, mlserver, oip_generate, oip_http, oip_repository, tf_rest
from dukou.wire.plain import Plain
from dukou.wire.tf_rest_examples import CLASSIFY, REGRESS

EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""Of the Open Inference Protocol, by Triton's names and in its order."""

_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)

_INFER = entry("infer", "REST")

_V2 = Api(oip_http, status.HTTP, entry=_INFER)
_TRITON = Api(oip_http, status.TRITON, reasons={Reason.MALFORMED_JSON: 500, Reason.MODEL_NOT_READY: 400}, entry=_INFER)
_KSERVE = Api(oip_http, status.HTTP, reasons={Reason.MALFORMED_JSON: 422}, words=kserve.refuse, entry=_INFER)
_KSERVE_V1 = Api(kserve, status.HTTP, reasons={Reason.MALFORMED_JSON: 422}, entry=entry("predict", "REST"))
_MLSERVER = Api(
    oip_http,
    status.HTTP,
    reasons={Reason.MALFORMED_JSON: 422, Reason.MODEL_NOT_READY: 400},
    words=mlserver.refuse,
    entry=_INFER,
)
_MLFLOW = Api(mlflow, status.HTTP, reasons={Reason.WRONG_MEDIA_TYPE: 415}, entry=entry("invocations", "REST"))


class Surface(msgspec.Struct, frozen=True):
    """All of a dialect's HTTP: its paths, and what its pages tell."""

    routes: Routes
    view: View


def surface(
    dialect: str, facts: Facts, plain: PlainConfig, *, cors: bool = False, serving_metrics_path: str = ""
) -> Surface:
    """The HTTP of a dialect. `cors` puts its headers on TensorFlow Serving's answers, whose metrics are at
    `serving_metrics_path` unless that is empty."""
    tf = _tf_paths(_CORS if cors else (), facts.reloads, coming=0 if dialect else 503)
    metrics_path = serving_metrics_path.encode()
    tf_metrics = {metrics_path: _page(pages.serving_metrics, _V2, in_pool=True)} if metrics_path else {}
    match dialect:
        case "tensorflow-serving":
            missing = Answer(404, b"Not Found\n", pages.TEXT_TYPE)
            return Surface(Routes(tf_metrics, v1=tf, missing=missing), View(facts, dialect))
        case "triton":
            view = View(facts, dialect, "triton", EXTENSIONS, bodies=False, unready=400)
            return Surface(Routes(_METRICS | _v2_fixed(_TRITON), _v2_paths(_TRITON, facts.explicit)), view)
        case "kserve":
            extensions = ("model_repository_extension",)
            view = View(facts, dialect, "kserve", extensions, model_unready=503)
            return Surface(_kserve(facts.explicit), view)
        case "mlserver":
            view = View(facts, dialect, "mlserver", bodies=False, unready=400)
            return Surface(_mlserver(facts.explicit), view)
        case _:
            fixed = {b"/": _page(pages.front_page, _V2), b"/v2/": _page(pages.server_metadata, _V2)}
            fixed = fixed | _METRICS | _DOCUMENTS | _MLFLOW_PAGES | _v2_fixed(_V2) | tf_metrics
            paths = (*_v2_paths(_V2, facts.explicit), _plain_path(plain))
            return Surface(Routes(fixed, paths, tf), View(facts, dialect, extensions=EXTENSIONS, plain=plain))


# What a method means on a path.


def _page(show: Show, api: Api, *, in_pool: bool = False, method: bytes = b"GET") -> Methods:
    return {method: lambda ref: Page(show, api, ref, in_pool)}


def _call(api: Api) -> Methods:
    return {b"POST": lambda ref: Call(api, ref)}


def _command(act: Act, api: Api) -> Methods:
    return {b"POST": lambda ref: Command(act, api, ref)}


def _generate(api: Api, *, events: bool) -> Methods:
    uncompressed = msgspec.structs.replace(api, decompress=only_plain, entry=entry("generate", "REST"))
    return {b"POST": lambda ref: Generation(uncompressed, ref, events)}


def _refused(answer: Answer, *methods: bytes) -> Methods:
    return {method: lambda ref: answer for method in methods}


def _unsupported(api: Api, what: str, *methods: bytes) -> Methods:
    return _refused(
        api.refuse(DukouError(Reason.NOT_SUPPORTED, detail=f"the server does not support {what}")), *methods
    )


# Parts of tables.

_METRICS = {b"/metrics": _page(pages.metrics, _V2, in_pool=True)}
_DOCUMENTS = {b"/openapi.json": _page(pages.openapi_document, _V2), b"/docs": _page(pages.docs, _V2)}
_MLFLOW_PAGES = {
    b"/invocations": _call(_MLFLOW),
    b"/ping": _page(pages.ping, _MLFLOW),
    b"/health": _page(pages.ping, _MLFLOW),
    b"/version": _page(pages.version, _MLFLOW),
}


_NO_CONFIG_FILE = Answer(
    404,
    error_body("there is no model config file to read again; start the server with --model_config_file FILE"),
)


def _tf_paths(headers: tuple[tuple[bytes, bytes], ...], reloads: bool, coming: int) -> TfPaths:
    """TensorFlow Serving knows of no version before it can be called, and says 404 of one that is loading. `coming` is
    what is said instead, so that callers come again."""
    predict, classify, regress = (
        Api(
            codec,
            status.TF_REST,
            reasons={Reason.MODEL_NOT_READY: 404},
            headers=headers,
            decompress=tf_decompress,
            entry=entry(verb, "REST"),
            coming=coming,
        )
        for codec, verb in ((tf_rest, "predict"), (CLASSIFY, "classify"), (REGRESS, "regress"))
    )
    return TfPaths(
        {b"predict": predict, b"classify": classify, b"regress": regress},
        status=lambda ref: Page(pages.tf_status, predict, ref),
        metadata=lambda ref: Page(pages.tf_metadata, predict, ref),
        reload=lambda ref: Command(commands.reload_file, predict, ref) if reloads else _NO_CONFIG_FILE,
        options=Page(pages.tf_options, predict),
    )


def _plain_path(plain: PlainConfig) -> Path:
    codec = Plain(plain.input_key, plain.output_key)
    pattern = re.compile(re.escape(plain.route.encode()) + rb"(?:/(?P<model>[^/]+))?")
    return Path(
        pattern,
        {b"": _call(Api(codec, status.HTTP, entry=entry("simple", "REST")))},
        f"{NOT_ALLOWED}: POST {{{orjson.dumps(plain.input_key).decode()}: [[...], ...]}}, a list for each row",
    )


def _v2_core(api: Api) -> dict[bytes, Methods]:
    return {
        b"/v2": _page(pages.server_metadata, api),
        b"/v2/health/live": _page(pages.live, api),
        b"/v2/health/ready": _page(pages.ready, api),
    }


def _v2_verbs(api: Api) -> dict[bytes, Methods]:
    return {
        b"": _page(pages.model_metadata, api),
        b"ready": _page(pages.model_ready, api),
        b"infer": _call(api),
    }


def _v2_model(verbs: Mapping[bytes, Methods]) -> Path:
    names = b"|".join(sorted(filter(None, verbs)))
    return Path(
        re.compile(rb"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?(?:/(?P<verb>%b))?" % names), verbs
    )


def _repository(load: Methods, unload: Methods) -> Path:
    pattern = re.compile(rb"/v2/repository/models/(?P<model>[^/]+)/(?P<verb>load|unload)")
    return Path(pattern, {b"load": load, b"unload": unload})


# Triton.


def _v2_fixed(api: Api) -> dict[bytes, Methods]:
    return _v2_core(api) | {
        b"/v2/models/stats": _page(pages.statistics, api, in_pool=True),
        b"/v2/repository/index": _page(pages.index, api, method=b"POST"),
        b"/v2/logging": _unsupported(api, "changes of its log settings", b"GET", b"POST"),
        b"/v2/trace/setting": _unsupported(api, "trace settings", b"GET", b"POST"),
    }


def _v2_paths(api: Api, explicit: bool) -> tuple[Path, ...]:
    generate = msgspec.structs.replace(api, codec=oip_generate)
    verbs = _v2_verbs(api) | {
        b"stats": _page(pages.statistics, api, in_pool=True),
        b"config": _page(pages.model_config, api),
        b"generate": _generate(generate, events=False),
        b"generate_stream": _generate(generate, events=True),
        b"trace/setting": _unsupported(api, "trace settings", b"GET", b"POST"),
    }
    fixed_models = _refused(api.refuse(oip_repository.refuse_control()), b"POST")
    load = _command(commands.load, api) if explicit else fixed_models
    unload = _command(commands.unload, api) if explicit else fixed_models
    no_shared_memory = _unsupported(api, "shared memory", b"GET", b"POST")
    return (
        _v2_model(verbs),
        _repository(load, unload),
        Path(
            re.compile(rb"/v2/repository/[^/]+/(?:index|models/[^/]+/(?:load|unload))"),
            {b"": _unsupported(api, "a repository's name in the path", b"POST")},
        ),
        Path(
            re.compile(rb"/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?/(?P<verb>status|register|unregister)"),
            dict.fromkeys((b"status", b"register", b"unregister"), no_shared_memory),
        ),
    )


# KServe and MLServer.


def _kserve(explicit: bool) -> Routes:
    v1 = {
        b"": _page(pages.model_ready, _KSERVE_V1),
        b"predict": _call(_KSERVE_V1),
        b"explain": _page(pages.kserve_explain, _KSERVE_V1, method=b"POST"),
    }
    versions = _KSERVE.refuse(DukouError(Reason.NOT_SUPPORTED, detail="Model versioning is not supported yet."))
    load, unload = (
        _page(pages.kserve_load, _KSERVE, method=b"POST"),
        _unsupported(_KSERVE, "unloading a model", b"POST"),
    )
    if explicit:
        load, unload = _command(commands.kserve_load, _KSERVE), _command(commands.kserve_unload, _KSERVE)
    fixed = _v2_core(_KSERVE) | _METRICS | _DOCUMENTS
    fixed |= {
        b"/": _page(pages.alive, _KSERVE),
        b"/v1/models": _page(pages.model_list, _KSERVE_V1),
        b"/v2/": _v2_redirect(),
        b"/v2/models": _page(pages.model_list, _KSERVE),
        b"/v2/repository/index": _page(pages.index, _KSERVE, method=b"POST"),
    }
    return Routes(
        fixed,
        (
            Path(re.compile(rb"/v1/models/(?P<model>[^/:]+)(?::(?P<verb>predict|explain))?"), v1),
            Path(re.compile(rb"/v2/models/[^/]+/versions/[^/]+(?:/.*)?"), {b"": _refused(versions, b"GET", b"POST")}),
            _v2_model(_v2_verbs(_KSERVE)),
            _repository(load, unload),
        ),
    )


def _v2_redirect() -> Methods:
    return _refused(Answer(307, content_type=b"", headers=((b"location", b"/v2"), (b"content-length", b"0"))), b"GET")


def _mlserver(explicit: bool) -> Routes:
    fixed = _v2_core(_MLSERVER) | _METRICS | _DOCUMENTS | _MLFLOW_PAGES
    fixed |= {
        b"/v2/": _v2_redirect(),
        b"/v2/repository/index": _page(pages.index, _MLSERVER, method=b"POST"),
    }
    # These have the infer schema there.
    verbs = _v2_verbs(_MLSERVER) | {
        b"generate": _generate(_MLSERVER, events=False),
        b"generate_stream": _generate(_MLSERVER, events=True),
        b"infer_stream": _generate(_MLSERVER, events=True),
    }
    load = unload = _unsupported(_MLSERVER, "loading and unloading models", b"POST")
    if explicit:
        load, unload = _command(commands.load, _MLSERVER), _command(commands.unload, _MLSERVER)
    return Routes(fixed, (_v2_model(verbs), _repository(load, unload)))
