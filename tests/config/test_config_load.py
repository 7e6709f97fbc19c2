"""The loader: layers in order, and every mistake reported at once with who made it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies

from dukou.config import Config, Given, load
from dukou.config.fields import Setting, read, settings
from dukou.core.errors import DukouError, Reason


def problems(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: tuple[Given, ...] = ()
) -> tuple[str, ...]:
    """What the loader finds wrong."""
    with pytest.raises(DukouError) as caught:
        load(file, environ or {}, flags)
    assert caught.value.reason is Reason.CONFIG_INVALID
    found: tuple[str, ...] = caught.value.facts["problems"]
    assert all(problem in str(caught.value) for problem in found)
    return found


def toml(folder: Path, text: str) -> Path:
    path = folder / "dukou.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_the_defaults_hold() -> None:
    """Nothing given is the default tree, every value from "default"."""
    loaded = load(environ={})

    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {"default"}
    assert set(loaded.sources) == set(settings())


def test_the_default_tree_keeps_its_own_rules() -> None:
    """Every default passes as a value of its own setting."""
    for setting in settings().values():
        assert read(setting, setting.default, text=False) == setting.default


def test_each_layer_goes_over_the_one_before(tmp_path: Path) -> None:
    """Defaults, file, environment, flags: the last who says something is heard, and named as the source."""
    file = toml(tmp_path, "[engine]\nmax_batch_rows = 2\nmax_requests = 2\nthreads = 2\n")
    environ = {"DUKOU_ENGINE__MAX_REQUESTS": "3", "DUKOU_ENGINE__THREADS": "3", "HOME": "/"}

    loaded = load(file, environ, [Given("engine.threads", 4, "--threads")])

    engine = loaded.config.engine
    assert (engine.max_batch_rows, engine.max_requests, engine.threads) == (2, 3, 4)
    assert loaded.sources["engine.max_batch_rows"] == str(file)
    assert loaded.sources["engine.max_requests"] == "DUKOU_ENGINE__MAX_REQUESTS"
    assert loaded.sources["engine.threads"] == "--threads"
    assert loaded.sources["engine.max_queue_rows"] == "default"


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """load() alone hears the variables of its process."""
    monkeypatch.setenv("DUKOU_SERVER__WORKERS", "2")

    assert load().config.server.workers == 2


def test_all_mistakes_of_all_layers_are_reported_together(tmp_path: Path) -> None:
    """One error names every mistake with its path and source."""
    file = toml(
        tmp_path,
        'workers = 2\nengine = 1\n[servr]\nport = 1\n[http]\nmax_header_byte = 1\nmax_headers = "many"\n',
    )
    environ = {"DUKOU_ENGINE__MAX_BATCH_ROWS": "-1", "DUKOU_ENGINE__MAX_BATCH_ROW": "1", "DUKOU_X": "1"}
    flags = (Given("engine.thread", "1", "--set engine.thread", text=True),)

    found = problems(file, environ, flags)

    assert found == (
        f"workers ({file}): there is no such section",
        f"engine ({file}): 1 is not a table; write [engine]",
        f"servr ({file}): there is no such section; did you mean server?",
        f"http.max_header_byte ({file}): there is no such setting; did you mean http.max_header_bytes?",
        f"http.max_headers ({file}): 'many' is not a whole number",
        "DUKOU_ENGINE__MAX_BATCH_ROW: this variable sets nothing; did you mean DUKOU_ENGINE__MAX_BATCH_ROWS?",
        "engine.max_batch_rows (DUKOU_ENGINE__MAX_BATCH_ROWS): -1 is below 1",
        "DUKOU_X: this variable sets nothing",
        "engine.thread (--set engine.thread): there is no such setting; did you mean engine.threads?",
    )


def test_an_entry_of_a_table_is_told_how_to_write_it() -> None:
    """As a flag it is the whole table."""
    flags = (Given("models.labels.m.stable", "9", "--set models.labels.m.stable", text=True),)

    (problem,) = problems(None, {}, flags)

    assert "write --set 'models.labels={m={stable=9}}', or [models.labels.m] in a settings file" in problem


def test_a_mistake_counts_even_where_a_later_layer_goes_over_it() -> None:
    """A wrong value does not hide behind a flag: the file is wrong and stays wrong."""
    environ = {"DUKOU_SERVER__WORKERS": "none"}

    assert problems(None, environ, (Given("server.workers", 2, "--workers"),)) == (
        "server.workers (DUKOU_SERVER__WORKERS): 'none' is not a whole number",
    )


def test_variables_of_dukou_that_are_no_settings_are_left_alone() -> None:
    """DUKOU_DEBUG is documented and is not an unknown name."""
    assert load(environ={"DUKOU_DEBUG": "1"}).config == Config()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[engine", "Expected"),
        (b"\xff", "codec"),
        (b"#" * 1_100_000, "larger than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, content: bytes, text: str) -> None:
    """Bad TOML, bad text and a file beyond all measure are said with the file's name."""
    path = tmp_path / "dukou.toml"
    path.write_bytes(content)

    (found,) = problems(path)

    assert found.startswith(f"{path}: ")
    assert text in found


def test_a_file_that_is_missing_is_said(tmp_path: Path) -> None:
    """A path that is not there is one problem."""
    assert problems(tmp_path / "no.toml") == (f"{tmp_path / 'no.toml'}: No such file or directory",)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("server.workers", "4", 4),
        ("engine.max_queue_delay_s", "0.01", 0.01),
        ("engine.max_queue_delay_s", "1", 1.0),
        ("server.insecure", "Yes", True),
        ("server.insecure", "0", False),
        ("models.name", "", ""),
        ("models.name", "12", "12"),
        ("server.listen", "[::1]:1 127.0.0.1:2", ("[::1]:1", "127.0.0.1:2")),
        ("models.paths", '["a b", "c"]', ("a b", "c")),
        ("models.paths", "", ()),
        ("models.options", "{iris = {threads = 2}}", {"iris": {"threads": 2}}),
    ],
)
def test_text_is_read_as_the_type_of_its_setting(path: str, text: str, value: object) -> None:
    """Text of the environment or a flag becomes the setting's type, and nothing else."""
    read_value = read(settings()[path], text, text=True)

    assert read_value == value
    assert type(read_value) is type(value)


@pytest.mark.parametrize(
    ("path", "given_value", "text", "message"),
    [
        ("server.workers", "2.5", True, "'2.5' is not a whole number"),
        ("server.workers", 2.0, False, "2.0 is not a whole number"),
        ("server.workers", True, False, "True is not a whole number"),
        ("server.workers", 257, False, "257 is above 256"),
        ("engine.tick_budget_s", "nan", True, "nan is not a number"),
        ("engine.tick_budget_s", "inf", True, "inf is not a number"),
        ("server.insecure", "maybe", True, "'maybe' is neither true nor false"),
        ("server.insecure", 1, False, "1 is neither true nor false"),
        ("server.insecure", "true", False, "'true' is neither true nor false"),
        ("models.name", 5, False, "5 is not text"),
        ("telemetry.log_level", "loud", True, "'loud' is not one of debug, info, warning, error"),
        ("models.paths", "a", False, "'a' is not a list of text"),
        ("models.paths", [1], False, "[1] is not a list of text"),
        ("models.paths", "[a]", True, "'[a]' is not a TOML array"),
        ("models.options", "iris", True, "'iris' is not a TOML inline table"),
        ("models.options", [], False, "[] is not a table"),
    ],
)
def test_what_does_not_fit_is_refused(path: str, given_value: object, text: bool, message: str) -> None:
    """The message says what came and what is wanted."""
    with pytest.raises(ValueError) as caught:
        read(settings()[path], given_value, text=text)

    assert str(caught.value) == message


@given(strategies.sampled_from(sorted(settings())), strategies.text(max_size=40))
def test_any_text_is_read_or_refused(path: str, text: str) -> None:
    """No text makes the reader fail in another way than by ValueError."""
    setting: Setting = settings()[path]
    try:
        value = read(setting, text, text=True)
    except ValueError:
        return

    assert read(setting, value, text=False) == value


def test_a_section_can_be_replaced_as_a_value() -> None:
    """The tree is made of plain frozen values."""
    config = Config()

    assert replace(config, engine=replace(config.engine, max_batch_rows=8)).engine.max_batch_rows == 8


def test_deployments_are_tables_of_their_own(tmp_path: Path) -> None:
    """In a file they stand beside the sections; they are `models.deployment` all the same."""
    file = toml(tmp_path, '[deployment.iris]\nsticky = "header:x"\n[deployment.iris.plan]\nsteps = "shadow"\n')

    loaded = load(file, {})

    assert loaded.config.models.deployment == {"iris": {"sticky": "header:x", "plan": {"steps": "shadow"}}}
    assert loaded.sources["models.deployment"] == str(file)


def test_deployments_are_said_once_and_are_tables(tmp_path: Path) -> None:
    """Not in both forms, and nothing else under that name; a slip in it is told the name."""
    (both,) = problems(toml(tmp_path, "[deployment.a]\n[models.deployment.b]\n"))
    (other,) = problems(toml(tmp_path, "deployment = 1"))
    (slip,) = problems(toml(tmp_path, "[deploymnet.a]\n"))

    assert "it is also there as [models.deployment]" in both
    assert other.endswith("1 is not a table")
    assert "did you mean deployment?" in slip
