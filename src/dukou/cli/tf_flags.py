"""The flags of other servers, so that a start script only changes the program's name.

Each means a setting of ours; those that would change nothing here are taken and named in a warning. Facts from
tensorflow/serving's `model_servers/main.cc`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

from cyclopts import Group, Parameter

from dukou.config import Given
from dukou.core.errors import DukouError, Reason

DEFAULT_NAME = "default"
"""What tensorflow_model_server calls a model without a name."""

METRICS_PATH = "/monitoring/prometheus/metrics"

_DEFAULT_BATCH = 1000

TF_GROUP = Group(
    "Flags of tensorflow_model_server",
    help="Its other flags are taken, too; those that would change nothing here are named in a warning.",
    sort_key=10,
)
TRITON_GROUP = Group("Flags of tritonserver", sort_key=11)

_HIDDEN = Parameter(show=False, negative="")
_Text = Annotated[str | None, _HIDDEN]
_Count = Annotated[int | None, _HIDDEN]
_Number = Annotated[float | None, _HIDDEN]
_Switch = Annotated[bool | None, _HIDDEN]
_IdleText = Annotated[str | None, _HIDDEN, "changes nothing"]
_IdleSwitch = Annotated[bool | None, _HIDDEN, "changes nothing"]


def _help(text: str, **more: Any) -> Parameter:
    return Parameter(help=text, **more)


@Parameter(name="*", group=TF_GROUP, name_transform=lambda name: name)
@dataclass(frozen=True, kw_only=True)
class TfFlags:
    """What tensorflow_model_server's flags say; None is left alone. What each means is in
    `docs/how-to/move-from-another-server.md`."""

    model_name: Annotated[str | None, _help("The model in --model_base_path; without it `default`.")] = None
    model_base_path: Annotated[
        str | None, _help("Folder with the numbered versions of one model.", metavar="FOLDER")
    ] = None
    model_config_file: Annotated[
        str | None,
        _help(
            "What is served, as text protobuf (`model_config_list`); --model_config_file_poll_wait_seconds N reads it "
            "again every N seconds.",
            metavar="FILE",
        ),
    ] = None

    allow_version_labels_for_unavailable_models: _Switch = None
    batching_parameters_file: _Text = None
    enable_batching: _Switch = None
    enable_grpc_healthcheck_service: _Switch = None
    enable_model_warmup: _Switch = None
    file_system_poll_wait_seconds: _Number = None
    grpc_socket_path: _Text = None
    load_retry_interval_micros: _Count = None
    max_num_load_retries: _Count = None
    model_config_file_poll_wait_seconds: _Number = None
    monitoring_config_file: _Text = None
    rest_api_enable_cors_support: _Switch = None
    rest_api_timeout_in_ms: _Count = None
    ssl_config_file: _Text = None

    enable_per_model_batching_parameters: _IdleSwitch = None
    enable_profiler: _IdleSwitch = None
    enable_serialization_as_tensor_content: _IdleSwitch = None
    enable_signature_method_name_check: _IdleSwitch = None
    flush_filesystem_caches: _IdleSwitch = None
    grpc_channel_arguments: _IdleText = None
    grpc_max_threads: _IdleText = None
    mixed_precision: _IdleText = None
    num_load_threads: _IdleText = None
    num_request_iterations_for_warmup: _IdleText = None
    num_tflite_interpreters_per_pool: _IdleText = None
    num_tflite_pools: _IdleText = None
    num_unload_threads: _IdleText = None
    per_process_gpu_memory_fraction: _IdleText = None
    platform_config_file: _IdleText = None
    prefer_tflite_model: _IdleSwitch = None
    remove_unused_fields_from_bundle_metagraph: _IdleSwitch = None
    rest_api_num_threads: _IdleText = None
    saved_model_tags: _IdleText = None
    skip_initialize_tpu: _IdleSwitch = None
    tensorflow_inter_op_parallelism: _IdleText = None
    tensorflow_intra_op_parallelism: _IdleText = None
    tensorflow_session_config_file: _IdleText = None
    tensorflow_session_parallelism: _IdleText = None
    thread_pool_factory_config_file: _IdleText = None
    use_tflite_model: _IdleSwitch = None
    xla_cpu_compilation_enabled: _IdleSwitch = None

    def given(self) -> tuple[list[Given], list[str]]:
        """The settings that these flags mean, and warnings about what they do not do. Raises DukouError
        CONFIG_INVALID."""
        warnings = list(self._warnings())
        return [*self._models(), *self._settings(), *self._batching(warnings), *self._monitoring()], warnings

    def _models(self) -> Iterator[Given]:
        if self.model_config_file is not None:
            yield Given("models.config_file", self.model_config_file, "--model_config_file")
            return
        if self.model_base_path is not None:
            from dukou.app.model_config import local_folder

            folder = local_folder(self.model_base_path)
            if folder is None:
                detail = f"--model_base_path {self.model_base_path}: only folders of this machine can be served"
                raise DukouError(Reason.CONFIG_INVALID, detail=detail)
            yield Given("models.paths", (str(folder),), "--model_base_path")
        if self.model_name is not None or self.model_base_path is not None:
            yield Given("models.name", self.model_name or DEFAULT_NAME, "--model_name")

    def _settings(self) -> Iterator[Given]:
        for flag, path, unit in (
            ("model_config_file_poll_wait_seconds", "models.config_poll_s", 1.0),
            ("file_system_poll_wait_seconds", "models.poll_s", 1.0),
            ("load_retry_interval_micros", "models.load_retry_s", 1e-6),
            ("rest_api_timeout_in_ms", "engine.request_timeout_s", 1e-3),
        ):
            number = getattr(self, flag)
            if number is not None:  # where a negative one says `never`, 0 does here
                yield Given(path, max(0.0, number * unit), f"--{flag}")
        for flag, path in (
            ("max_num_load_retries", "models.load_retries"),
            ("allow_version_labels_for_unavailable_models", "models.labels_ahead"),
            ("enable_model_warmup", "models.warm"),
            ("rest_api_enable_cors_support", "http.cors"),
        ):
            value = getattr(self, flag)
            if value is not None:
                yield Given(path, value, f"--{flag}")

    def _batching(self, warnings: list[str]) -> Iterator[Given]:
        if self.batching_parameters_file is None:
            return
        if not self.enable_batching:
            detail = "--batching_parameters_file has no meaning without --enable_batching"
            raise DukouError(Reason.CONFIG_INVALID, detail=detail)
        from dukou.app.model_config import read_text

        said = read_text(self.batching_parameters_file, "tensorflow.serving.BatchingParameters")
        source = f"--batching_parameters_file {self.batching_parameters_file}"
        rows = said.max_execution_batch_size.value or said.max_batch_size.value
        if rows:
            yield Given("engine.max_batch_rows", rows, source)
        if said.HasField("batch_timeout_micros"):
            yield Given("engine.max_queue_delay_s", said.batch_timeout_micros.value * 1e-6, source)
        if said.HasField("max_enqueued_batches"):
            most = said.max_enqueued_batches.value * (said.max_batch_size.value or _DEFAULT_BATCH)
            yield Given("engine.max_queue_rows", most, source)
        if said.HasField("num_batch_threads"):
            yield Given("engine.threads", said.num_batch_threads.value, source)
        idle = ("thread_pool_name", "allowed_batch_sizes", "pad_variable_length_inputs")
        unused = [field.name for field, _ in said.ListFields() if field.name in idle]
        if unused:
            warnings.append(f"{self.batching_parameters_file}: no effect here: {', '.join(unused)}")

    def _monitoring(self) -> Iterator[Given]:
        if self.monitoring_config_file is not None:
            from dukou.app.model_config import read_text

            said = read_text(self.monitoring_config_file, "tensorflow.serving.MonitoringConfig").prometheus_config
            path = (said.path or METRICS_PATH) if said.enable else ""
            source = f"--monitoring_config_file {self.monitoring_config_file}"
            yield Given("telemetry.serving_metrics_path", path, source)

    def _warnings(self) -> Iterator[str]:
        if self.ssl_config_file is not None:
            raise DukouError(
                Reason.CONFIG_INVALID,
                detail="--ssl_config_file: the certificate and its key have to be in files of their own; name them by "
                "--set server.tls_certificate=FILE --set server.tls_key=FILE",
            )
        if self.model_config_file is not None and (self.model_name or self.model_base_path):
            yield "--model_config_file says what is served; --model_name and --model_base_path are passed over"
        unused = [f"--{name}" for name in IDLE if getattr(self, name)]
        if unused:
            yield f"no effect here: {', '.join(unused)}"


IDLE = tuple(field.name for field in fields(TfFlags) if field.type in (_IdleText, _IdleSwitch))
"""Flags that change nothing."""


@Parameter(name="*", group=TRITON_GROUP)
@dataclass(frozen=True, kw_only=True)
class TritonFlags:
    """What tritonserver's flags say; None and () are left alone."""

    model_repository: Annotated[
        tuple[str, ...],
        _help("A folder of models; repeatable.", metavar="FOLDER", show_default=False, negative=""),
    ] = ()
    model_control_mode: Annotated[
        str | None, _help("`explicit` lets callers load and unload models; also `none` and `poll`.")
    ] = None

    def given(self) -> Iterator[Given]:
        """The settings that these flags mean. Raises DukouError CONFIG_INVALID."""
        if self.model_repository:
            yield Given("models.paths", self.model_repository, "--model-repository")
        if self.model_control_mode is not None:
            mode = {"none": "none", "poll": "none", "explicit": "explicit"}.get(self.model_control_mode)
            if mode is None:
                detail = f"--model-control-mode {self.model_control_mode!r}; there are none, poll and explicit"
                raise DukouError(Reason.CONFIG_INVALID, detail=detail)
            yield Given("models.control", mode, "--model-control-mode")


NO_TF_FLAGS = TfFlags()
NO_TRITON_FLAGS = TritonFlags()
