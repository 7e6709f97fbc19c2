"""`dukou --install-completion`: tab completion for the shell at hand."""

from dukou.cli.terminal import FAILED, CommandError


def install() -> None:
    """Install tab completion for this shell and say where."""
    from cyclopts.completion.detect import ShellDetectionError

    from dukou.cli.main import app

    try:
        where = app.install_completion()
    except ShellDetectionError:
        raise CommandError("this shell is not known; completion is there for bash, zsh and fish", FAILED) from None
    print(f"written to {where}; it works in the next shell")
