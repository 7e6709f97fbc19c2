"""How commands are found, and how they end."""

import subprocess
import sys
from collections.abc import Sequence
from io import StringIO

import pytest

import dukou
from dukou.cli import main
from dukou.cli.main import COMMANDS, SERVER_COMMANDS, app, run
from dukou.cli.terminal import CommandError, Progress
from dukou.client.errors import NotFound
from dukou.core.errors import DukouError, Reason


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False)


ALL = COMMANDS | SERVER_COMMANDS


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`dukou COMMAND --help` says what it does, and how it is typed."""
    code = run([name, "--help"])

    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "Examples:" in out
    assert f"  dukou {name}" in out
    assert ALL[name].split()[0] in out


def test_the_first_page_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`dukou` alone says what there is and where to start."""
    assert run([]) == 0

    out = capsys.readouterr().out
    assert all(name in out for name in ALL)
    assert "dukou demo" in out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`dukou --version` is the package's version."""
    assert run(["--version"]) == 0

    assert capsys.readouterr().out.strip() == dukou.__version__


def test_the_first_page_imports_no_command() -> None:
    """What a command needs is imported when it runs: `dukou --help` loads no NumPy and no client."""
    code = (
        "import sys; from dukou.cli.main import run; run(['--help']);"
        "print([m for m in sys.modules if m in ('numpy', 'httpx', 'dukou.app') or m.startswith('dukou.cli.')])"
    )

    done = python("-c", code)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['dukou.cli.terminal', 'dukou.cli.main']"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["sreve"], 'Did you mean "serve"?'),
        (["serve", "m.onnx", "--prot", "1"], "Did you mean --port?"),
        (["serve", "--port", "x"], "--port"),
        (["serve"], "there is nothing to serve"),
        (["pack"], "PATH"),
        (["pack", "m", "--metric", "accuracy"], "write it as KEY=VALUE"),
        (["pack", "m", "--metric", "accuracy=high"], "'high' is not a number"),
        (["predict", "m.onnx", "1,2", "--jsno"], "unknown option --jsno"),
        (["predict", "m.onnx", "1,2", "--version", "1"], "are for servers"),
        (["predict", "http://", "1,2"], "is not the address"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_a_hint(
    argv: Sequence[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, no traceback."""
    code = run(argv)

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("dukou: ")
    assert text in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DukouError(Reason.MODEL_NOT_FOUND, model="a", served="b"), 1, "model 'a': there is no such model"),
        (NotFound("gone", 404, "HTTP 404"), 1, "gone (HTTP 404)"),
        (CommandError("no", 1), 1, "dukou: no"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (ValueError("odd"), 1, "ValueError: odd (a fault in dukou; DUKOU_DEBUG=1 shows where)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_ends_in_a_line_and_a_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback reaches the user unasked."""

    def failing(argv: Sequence[str]) -> None:
        raise error

    monkeypatch.setattr(main, "app", failing)

    assert run(["x"]) == code
    err = capsys.readouterr().err
    assert text in err
    assert "Traceback" not in err


def test_a_traceback_is_shown_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DUKOU_DEBUG=1 is for whoever looks for the fault."""
    monkeypatch.setenv("DUKOU_DEBUG", "1")

    run(["config", "--set", "a.b=1"])

    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error() -> None:
    """`dukou config | head -1` ends quietly."""
    done = subprocess.run(
        f"{sys.executable} -m dukou config | {sys.executable} -c 'input()'",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""


def test_python_m_dukou_is_the_command() -> None:
    """`python -m dukou` needs no script on PATH."""
    done = python("-m", "dukou", "--version")

    assert (done.returncode, done.stdout.strip()) == (0, dukou.__version__)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completion_is_made_for_each_shell(shell: str) -> None:
    """`dukou --install-completion` has something to install."""
    script = app.generate_completion(prog_name="dukou", shell=shell)  # type: ignore[arg-type]

    assert "serve" in script


def test_progress_is_a_spinner_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step at hand is shown, and nothing of it stays."""

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    with Progress() as report:
        report("compiling")
        report("comparing")

    assert "comparing" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets each step once, and nothing on stdout."""
    with Progress() as report:
        report("compiling")
        report("comparing")

    assert capsys.readouterr() == ("", "compiling\ncomparing\n")
