"""The tree of settings: every field with its default, documentation, unit and range."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def _setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field with its documentation, unit, range and choices; the loader and the reference page read them."""
    metadata = {"doc": doc, "unit": unit, "least": least, "most": most, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where dukou listens, and with how many processes."""

    listen: tuple[str, ...] = _setting(
        ("127.0.0.1:8501", "127.0.0.1:8500"),
        "Addresses to listen on: `host:port`, `[v6]:port`, or `unix:/path`. Port 0 lets the system choose. Each may be "
        "followed by a comma and a dialect: `tensorflow-serving`, `triton`, `kserve` or `mlserver`.",
    )
    insecure: bool = _setting(
        False, "Allow addresses that other machines can reach. There is no authentication yet: anyone there may call."
    )
    workers: int = _setting(1, "Worker processes, each with one event loop.", least=1, most=256)
    backlog: int = _setting(2048, "Connections that may wait to be accepted, per socket.", least=1)
    grace_s: float = _setting(
        10.0, "After SIGTERM, how long requests under way may take to finish.", unit="s", least=0.0
    )
    load_timeout_s: float = _setting(120.0, "How long loading one version may take.", unit="s", least=0.1)
    tls_certificate: str = _setting("", "PEM file with the server's certificate chain; empty for plain text.")
    tls_key: str = _setting("", "PEM file with the certificate's private key.")


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Limits and timeouts of HTTP/1.1."""

    max_header_bytes: int = _setting(65_536, "Largest request line plus headers; more is 431.", unit="bytes", least=256)
    max_headers: int = _setting(100, "Most header fields of a request; more is 431.", least=1)
    max_body_bytes: int = _setting(
        64 * 1024 * 1024, "Largest request body, also after decompression; more is 413.", unit="bytes", least=1
    )
    max_connections: int = _setting(16_384, "Connections one worker keeps open; more are closed at once.", least=1)
    max_pipelined: int = _setting(16, "Requests of one connection answered at a time; reading pauses beyond.", least=1)
    header_timeout_s: float = _setting(20.0, "How long a request's head may take to arrive.", unit="s", least=0.1)
    body_timeout_s: float = _setting(
        60.0,
        "How long a body may stand still, and take in all, beside a second for every 1000 bytes.",
        unit="s",
        least=0.1,
    )
    idle_timeout_s: float = _setting(120.0, "How long a connection without a request stays open.", unit="s", least=0.1)
    write_timeout_s: float = _setting(
        60.0, "How long a client may take nothing of an answer before it is cut off.", unit="s", least=0.1
    )
    cors: bool = _setting(False, "Let pages of other origins call `/v1`, as TensorFlow Serving's flag does.")


@dataclass(frozen=True, slots=True)
class Http2Config:
    """HTTP/2 and gRPC. The limits and timeouts of `http` hold there as well."""

    max_concurrent_streams: int = _setting(256, "Requests of one connection under way at a time.", least=1, most=65_536)
    window_bytes: int = _setting(
        1024 * 1024,
        "How much of a request's body may be under way before we have taken it (flow control), per stream.",
        unit="bytes",
        least=65_535,
        most=2**31 - 1,
    )
    max_message_bytes: int = _setting(
        64 * 1024 * 1024,
        "Largest gRPC message, also after decompression; more is RESOURCE_EXHAUSTED.",
        unit="bytes",
        least=1,
        most=2**31 - 1,
    )
    compress_above_bytes: int = _setting(
        0, "Compress gRPC answers larger than this for clients that accept gzip; 0 never does.", unit="bytes", least=0
    )
    keepalive_s: float = _setting(
        0.0,
        "Ping a quiet connection this often; 0 never does. `http.idle_timeout_s` closes idle ones.",
        unit="s",
        least=0.0,
    )
    keepalive_timeout_s: float = _setting(20.0, "How long a ping may go unanswered.", unit="s", least=0.1)
    max_connection_age_s: float = _setting(
        0.0, "Ask clients to connect anew after this long, so that load spreads; 0 never does.", unit="s", least=0.0
    )
    max_connection_age_grace_s: float = _setting(
        30.0, "How long calls of a connection that has reached its age may go on.", unit="s", least=0.0
    )


@dataclass(frozen=True, slots=True)
class PlainConfig:
    """The simple route, for those who leave a script of their own behind."""

    route: str = _setting("/predict", "Its path; `ROUTE/NAME` names a model where several are served.")
    input_key: str = _setting("X", "Key of the rows in the request.")
    output_key: str = _setting("y_pred", "Key of the first output in the answer.")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Batching, execution and their limits."""

    max_batch_rows: int = _setting(256, "Most rows of different requests run together.", unit="rows", least=1)
    max_request_rows: int = _setting(1_000_000, "Most rows of one request; more is 400.", unit="rows", least=1)
    max_queue_rows: int = _setting(
        16_384, "Rows that may wait for one version; more is 429 with Retry-After.", unit="rows", least=1
    )
    max_queue_delay_s: float = _setting(
        0.0,
        "How long a request may wait for others to fill its batch. 0 gathers what one loop iteration reads, no timer.",
        unit="s",
        least=0.0,
        most=10.0,
    )
    max_requests: int = _setting(8192, "Requests under way in one worker; more are 429.", least=1)
    request_timeout_s: float = _setting(30.0, "After this a call is answered 504.", unit="s", least=0.001)
    tick_budget_s: float = _setting(
        0.0003,
        "Model time one loop iteration may spend on the loop itself; what does not fit runs in a thread.",
        unit="s",
        least=0.0,
    )
    threads: int = _setting(0, "Threads for models; 0 is one per CPU.", least=0, most=1024)
    decode_off_loop_bytes: int = _setting(
        131_072,
        "Bodies above this are read, and answers written, in a thread: small ones are faster without.",
        unit="bytes",
        least=1,
    )


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """What to serve."""

    paths: tuple[str, ...] = _setting((), "Model files, version folders or repository folders.")
    name: str = _setting("", "Name of the model when one file or version folder is served; empty takes the file's.")
    version_policy: str = _setting(
        "latest:1", "Versions of a repository to serve: `latest:N`, `all`, or numbers such as `1,3`."
    )
    trust_pickle: bool = _setting(
        False, "Open joblib and pickle files without the allowlist. They can run any code: only for files you made."
    )
    trust_python: bool = _setting(
        False, "Serve folders that hold a `model.py`. It can run any code: only for files you made."
    )
    labels: Mapping[str, Any] = _setting({}, "Names for versions: `[models.labels.NAME]` tables of `label = version`.")
    config_file: str = _setting(
        "", "A model config file of TensorFlow Serving (text protobuf, `model_config_list`); it says what is served."
    )
    poll_s: float = _setting(
        1.0,
        "How often repositories are looked at for new versions, beside what the system tells of changes; 0 looks once, "
        "at the start.",
        unit="s",
        least=0.0,
    )
    config_poll_s: float = _setting(
        0.0, "How often `models.config_file` is read again; 0 reads it once.", unit="s", least=0.0
    )
    control: str = _setting(
        "none",
        "`explicit` lets callers of the inference ports load, unload and reload models, as the protocols have it.",
        choices=("none", "explicit"),
    )
    load_retries: int = _setting(5, "How often a version that fails to load is tried again.", least=0, most=1000)
    load_retry_s: float = _setting(
        60.0, "Longest pause between two such tries; the first is a second.", unit="s", least=0.0
    )
    warm: bool = _setting(True, "Run made-up and recorded requests through a version before it answers.")
    labels_ahead: bool = _setting(
        False, "Allow new labels for versions that are not AVAILABLE yet, as TensorFlow Serving's flag does."
    )
    cache_dir: str = _setting("", "Where bare model files are packed in passing; empty is the user's cache folder.")
    options: Mapping[str, Any] = _setting({}, "Settings of single models: `[models.options.NAME]` tables.")
    deployment: Mapping[str, Any] = _setting(
        {},
        "How versions of single models change: tables `[deployment.NAME]` with `strategy` (`availability_preserving`, "
        "the new is loaded before the old is unloaded, or `resource_preserving`), `plan` (text or a table "
        "`[deployment.NAME.plan]`), `sticky` (`header:NAME` or `input:NAME`), `keep_previous` (true or false).",
    )


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """The control plane's own listener, for `dukou status`, `deploy`, `rollback` and the like."""

    listen: str = _setting(
        "127.0.0.1:8600",
        "Where the admin API listens: `host:port`, or empty for nowhere. Where nobody has set it and the port is "
        "taken, the server goes on without.",
    )
    token_file: str = _setting(
        "", "File with the token that callers need; made on the first start. Empty is in the user's state folder."
    )


@dataclass(frozen=True, slots=True)
class CaptureConfig:
    """Recording of what is asked and answered, for `dukou replay`. Off by default."""

    share: float = _setting(0.0, "Share of the executions that are recorded, 0 to 1.", least=0.0, most=1.0)
    redact: tuple[str, ...] = _setting((), "Inputs of which no value is recorded, by name.")
    max_bytes: int = _setting(
        256 * 1024 * 1024, "Most that is kept per model and worker; the oldest goes first.", unit="bytes", least=65_536
    )
    folder: str = _setting("", "Where to; empty is in the state folder.")


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Logs and metrics."""

    access_log: bool = _setting(False, "Write one line per request. Costs time; off by default.")
    serving_metrics_path: str = _setting(
        "/monitoring/prometheus/metrics", "Where metrics have TensorFlow Serving's names; empty for nowhere."
    )
    log_level: str = _setting("info", "Least severe level written.", choices=("debug", "info", "warning", "error"))
    state_dir: str = _setting(
        "",
        "Folder of the server's own files: what verbs have changed, the audit, counts. Empty is one in the user's "
        "state folder, the same again for the same models at the same addresses; a temporary one for bare model files "
        "and for ports of the system's choice.",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    server: ServerConfig = field(default_factory=ServerConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    http2: Http2Config = field(default_factory=Http2Config)
    plain: PlainConfig = field(default_factory=PlainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    admin: AdminConfig = field(default_factory=AdminConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
