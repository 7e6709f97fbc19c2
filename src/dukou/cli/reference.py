"""The reference page of the command line, made from the commands' own help."""

import io

from rich.console import Console

from dukou.cli.main import COMMANDS, SERVER_COMMANDS, app

WIDTH = 100

_HEAD = """\
# Command line

The help of every command, as `dukou COMMAND --help` prints it.

Exit codes: 0 done, 1 failed, 2 wrongly written, 130 interrupted. Errors are one line on standard error;
`DUKOU_DEBUG=1` shows where in the code one was raised.
"""


def reference() -> str:
    """The page, as Markdown."""
    return "\n".join(
        [_HEAD, *(_section(words) for words in ((), *((name,) for name in (*COMMANDS, *SERVER_COMMANDS))))]
    )


def _section(words: tuple[str, ...]) -> str:
    into = io.StringIO()
    app.help_print(words, console=Console(file=into, width=WIDTH, color_system=None))
    text = "\n".join(line.rstrip() for line in into.getvalue().strip().splitlines())
    return f"## {' '.join(('dukou', *words))}\n\n```text\n{text}\n```\n"
