"""Start scripts of other servers: what their flags mean here."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dukou.cli.main import run
from dukou.cli.serve import command, settings
from dukou.cli.tf_flags import IDLE, TfFlags
from dukou.config import Config
from dukou.core.errors import DukouError, Reason


def parsed(*words: str) -> tuple[Config, list[str]]:
    """The settings that a command line of `dukou serve` means, and its warnings."""
    _, bound, _ = command.parse_args(list(words), exit_on_error=False, print_error=False)
    bound.apply_defaults()
    config, warnings = settings(bound.args, **bound.kwargs)
    return config, list(warnings)


def value(config: Config, path: str) -> Any:
    section, _, field = path.partition(".")
    return getattr(getattr(config, section), field)


MEANINGS = [
    (("--model_base_path=/models/mnist",), {"models.paths": ("/models/mnist",), "models.name": "default"}),
    (("--model_base_path", "/m", "--model_name", "mnist"), {"models.paths": ("/m",), "models.name": "mnist"}),
    (("--model_base_path=file:///models/my%20m",), {"models.paths": ("/models/my m",)}),
    (("--model_name=mnist", "/models/mnist"), {"models.paths": ("/models/mnist",), "models.name": "mnist"}),
    (("--model_config_file=/m.config",), {"models.config_file": "/m.config", "models.paths": (), "models.name": ""}),
    (("--model_config_file_poll_wait_seconds=60",), {"models.config_poll_s": 60.0}),
    (("--file_system_poll_wait_seconds=5",), {"models.poll_s": 5.0}),
    (("--file_system_poll_wait_seconds=0",), {"models.poll_s": 0.0}),
    (("--file_system_poll_wait_seconds=-1",), {"models.poll_s": 0.0}),
    (("--max_num_load_retries=2",), {"models.load_retries": 2}),
    (("--load_retry_interval_micros=1500000",), {"models.load_retry_s": 1.5}),
    (("--load_retry_interval_micros=-1",), {"models.load_retry_s": 0.0}),
    (("--enable_model_warmup=false",), {"models.warm": False}),
    (("--enable_model_warmup",), {"models.warm": True}),
    (("--allow_version_labels_for_unavailable_models=true",), {"models.labels_ahead": True}),
    (("--rest_api_timeout_in_ms=45000",), {"engine.request_timeout_s": 45.0}),
    (("--rest_api_enable_cors_support",), {"http.cors": True}),
    (("--port=9000", "--rest_api_port=9001"), {"server.listen": ("127.0.0.1:9001", "127.0.0.1:9000")}),
    (("--port=9000", "--grpc_socket_path=/run/x"), {"server.listen": ("127.0.0.1:9000", "unix:/run/x")}),
    (("--enable_batching=true",), {"engine.max_batch_rows": 256}),
    (("--model-repository=/a", "--model-repository", "/b"), {"models.paths": ("/a", "/b")}),
    (("--model-control-mode=explicit",), {"models.control": "explicit"}),
    (("--model-control-mode=poll",), {"models.control": "none"}),
]


@pytest.mark.parametrize(("words", "wanted"), MEANINGS)
def test_a_flag_means_a_setting(words: tuple[str, ...], wanted: dict[str, Any]) -> None:
    """With and without an equals sign."""
    config, warnings = parsed(*words)

    assert {path: value(config, path) for path in wanted} == wanted
    assert warnings == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max_batch_size { value: 128 }", {"engine.max_batch_rows": 128}),
        ("max_batch_size: { value: 512 } max_execution_batch_size { value: 64 }", {"engine.max_batch_rows": 64}),
        ("batch_timeout_micros { value: 2000 }", {"engine.max_queue_delay_s": 0.002}),
        ("max_batch_size { value: 8 } max_enqueued_batches { value: 100 }", {"engine.max_queue_rows": 800}),
        ("max_enqueued_batches { value: 10 }", {"engine.max_queue_rows": 10_000}),
        ("num_batch_threads { value: 4 }", {"engine.threads": 4}),
        ("", {"engine.max_batch_rows": 256, "engine.max_queue_delay_s": 0.0}),
    ],
)
def test_batching_parameters_are_the_engines_settings(tmp_path: Path, text: str, wanted: dict[str, Any]) -> None:
    """Those that the file does not name stay as they are."""
    file = tmp_path / "batching.txt"
    file.write_text(text)

    config, warnings = parsed("--enable_batching", f"--batching_parameters_file={file}")

    assert {path: value(config, path) for path in wanted} == wanted
    assert warnings == []


def test_batching_parameters_without_an_effect_are_named(tmp_path: Path) -> None:
    """So that nobody waits for it."""
    file = tmp_path / "batching.txt"
    file.write_text("thread_pool_name { value: 'x' } allowed_batch_sizes: 1 allowed_batch_sizes: 8")

    _, warnings = parsed("--enable_batching", f"--batching_parameters_file={file}")

    assert warnings == [f"{file}: no effect here: thread_pool_name, allowed_batch_sizes"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("prometheus_config { enable: true, path: '/metrics/tf' }", "/metrics/tf"),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ("prometheus_config { enable: false path: '/x' }", ""),
        ("", ""),
    ],
)
def test_the_monitoring_file_says_where_metrics_are(tmp_path: Path, text: str, wanted: str) -> None:
    """Nowhere, where it does not enable them."""
    file = tmp_path / "monitoring.config"
    file.write_text(text)

    config, _ = parsed(f"--monitoring_config_file={file}")

    assert config.telemetry.serving_metrics_path == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batching_parameters_file=x",), "without --enable_batching"),
        (("--batching_parameters_file=x", "--enable_batching=false"), "without --enable_batching"),
        (("--batching_parameters_file=/nowhere", "--enable_batching"), "/nowhere: No such file"),
        (("--ssl_config_file=x",), "server.tls_certificate"),
        (("--model_base_path=s3://bucket/m",), "only folders of this machine"),
        (("--model-control-mode=magic",), "none, poll and explicit"),
        (("--rest_api_timeout_in_ms=0",), "engine.request_timeout_s (--rest_api_timeout_in_ms): 0.0 is below"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(words: tuple[str, ...], said: str) -> None:
    """With what would be right, and under the flag's own name."""
    with pytest.raises(DukouError) as caught:
        parsed(*words)

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert said in str(caught.value)


@pytest.mark.parametrize("name", IDLE)
def test_flags_that_change_nothing_are_taken_and_named(name: str) -> None:
    """Whatever their type is there."""
    switch = name.startswith(("enable_", "flush_", "prefer_", "remove_", "skip_", "use_", "xla_"))

    _, warnings = parsed(f"--{name}" if switch else f"--{name}=4")

    assert warnings == [f"no effect here: --{name}"]


def test_a_switch_that_is_off_needs_no_warning() -> None:
    """It asks for what is so."""
    assert parsed("--prefer_tflite_model=false", "--enable_grpc_healthcheck_service")[1] == []


def test_a_config_file_stands_over_a_single_model() -> None:
    """As there; the user is told."""
    config, warnings = parsed("--model_config_file=/m.config", "--model_name=a", "--model_base_path=/a")

    assert (config.models.paths, config.models.name) == ((), "")
    assert "passed over" in warnings[0]


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "a", "--model_base_path=/b"),
        ("serve", "--model-repository=a", "--model_base_path=/b"),
        ("serve", "a", "--model-repository=/b"),
        ("serve", "a", "--model_config_file=/b"),
    ],
)
def test_what_is_served_is_said_once(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """One of two paths would be forgotten in silence."""
    assert run(words) == 2
    assert "say once what is to be served" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--model_nam=x", "--no-such-flag", "--enable_magic"])
def test_unknown_flags_are_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As any other mistake."""
    assert run(["serve", word]) == 2
    assert word.partition("=")[0] in capsys.readouterr().err


def test_without_anything_to_serve_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    """A model config file would be something."""
    assert run(["serve"]) == 2
    assert "nothing to serve" in capsys.readouterr().err


def test_a_bad_config_file_ends_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the line, in the words that start scripts look for."""
    file = tmp_path / "models.config"
    file.write_text("model_config_list {\n  oops\n}")

    assert run(["serve", f"--model_config_file={file}", "--port=0"]) == 1
    said = capsys.readouterr().err
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in said
    assert "line 2" in said


def test_the_help_begins_with_our_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever is new reads those; the few that are shown of other servers come last."""
    run(["serve", "--help"])
    said = capsys.readouterr().out

    assert said.index("--name") < said.index("--set") < said.index("--model_config_file")
    assert "--grpc_max_threads" not in said
    assert len(said.splitlines()) < 80


def test_every_flag_is_documented() -> None:
    """On the page for those who come from there."""
    page = (Path(__file__).parents[2] / "docs/how-to/move-from-another-server.md").read_text(encoding="utf-8")

    assert [field.name for field in fields(TfFlags) if f"`--{field.name}`" not in page] == []
