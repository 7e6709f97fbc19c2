"""`dukou config`, and the flags that set something."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest

from dukou.cli.config import values
from dukou.cli.flags import PATHS, Flags, addresses
from dukou.cli.main import run
from dukou.config import Config, load
from dukou.config.fields import settings
from dukou.config.reference import reference


@pytest.mark.parametrize(
    ("host", "port", "rest", "listen", "found"),
    [
        (None, None, None, (), None),
        (None, 9, None, (), ("127.0.0.1:9",)),
        (None, 9, 8, (), ("127.0.0.1:8", "127.0.0.1:9")),
        (None, None, 8, (), ("127.0.0.1:8", "127.0.0.1:8500")),
        ("0.0.0.0", None, None, (), ("0.0.0.0:8501", "0.0.0.0:8500")),
        ("::1", 9, None, (), ("[::1]:9",)),
        ("[::1]", 0, None, (), ("[::1]:0",)),
        (None, None, None, ("unix:/x",), ("unix:/x",)),
        (None, 9, None, ("unix:/x", "h:1"), ("127.0.0.1:9", "unix:/x", "h:1")),
    ],
)
def test_flags_name_addresses(
    host: str | None, port: int | None, rest: int | None, listen: Sequence[str], found: tuple[str, ...] | None
) -> None:
    """`--port` alone is exactly that port, `--rest_api_port` a second, `--host` moves both, `--listen` adds."""
    assert addresses(host, port, rest, listen) == found


def test_every_flag_sets_a_setting_that_is_there() -> None:
    """The paths behind the flags are those of the tree."""
    assert set(PATHS.values()) <= set(settings())


def test_flags_carry_their_own_name_as_the_source() -> None:
    """Who reads `dukou config` finds the flag that was typed."""
    flags = Flags(workers=2, port=9, host="localhost", sets=("engine.threads=3", "models.name= a=b"))

    loaded = flags.load(["a.onnx", "b.onnx"])

    assert loaded.config.engine.threads == 3
    assert loaded.config.models.name == " a=b"
    assert loaded.config.models.paths == ("a.onnx", "b.onnx")
    assert loaded.sources["engine.threads"] == "--set engine.threads"
    assert loaded.sources["server.workers"] == "--workers"
    assert loaded.sources["server.listen"] == "--host, --port"
    assert loaded.sources["models.paths"] == "command line"


def test_flags_that_are_not_given_change_nothing() -> None:
    """None and () leave everything to the layers below."""
    assert Flags().load().config == load().config


def test_config_is_a_settings_file_that_says_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What `dukou config` prints can be given back as --config."""
    file = tmp_path / "dukou.toml"

    code = run(["config", "--workers", "3", "--set", "models.options={iris = {threads = 2}}", "--port", "0"])
    file.write_text(capsys.readouterr().out, encoding="utf-8")

    assert code == 0
    assert values(load(file)) == values(Flags(config=file).load())
    assert load(file).config.server.workers == 3
    assert load(file).config.models.options == {"iris": {"threads": 2}}
    assert "server.workers = 3" in file.read_text(encoding="utf-8")
    assert "# --workers" in file.read_text(encoding="utf-8")


def test_show_is_what_happens_anyway(capsys: pytest.CaptureFixture[str]) -> None:
    """--show may be said."""
    run(["config"])
    plain = capsys.readouterr().out
    run(["config", "--show"])

    assert capsys.readouterr().out == plain
    assert set(tomllib.loads(plain)) == {field.name for field in fields(Config)}


def test_config_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting has its value and its source."""
    monkeypatch.setenv("DUKOU_ENGINE__MAX_BATCH_ROWS", "8")

    run(["config", "--json"])

    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == set(settings())
    assert shown["engine.max_batch_rows"] == {"value": 8, "source": "DUKOU_ENGINE__MAX_BATCH_ROWS"}


def test_the_reference_page_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`dukou config --reference > docs/reference/config.md` writes the page."""
    run(["config", "--reference"])

    assert capsys.readouterr().out == reference()


def test_mistakes_are_all_shown_and_the_code_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines on stderr, nothing on stdout."""
    code = run(["config", "--set", "engine.thread=1", "--host", "0.0.0.0"])

    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert "engine.thread (--set engine.thread): there is no such setting; did you mean engine.threads?" in err
    assert "server.listen (--host): other machines can reach 0.0.0.0:8501" in err
    assert "--insecure" in err
