"""The commands together, and how an error ends: a line on stderr and an exit code."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from dukou import __version__
from dukou.cli.terminal import FAILED, MISUSED, CommandError, say
from dukou.client.errors import ClientError
from dukou.config import debugging
from dukou.core.errors import DukouError

INTERRUPTED = 130

COMMANDS = {
    "demo": "Train, pack, serve and call a small model, step by step.",
    "serve": "Serve models until Ctrl-C.",
    "predict": "Predict rows with a model, of a server or in this process.",
    "pack": "Pack a model file as a version of a repository.",
    "push": "Put a new version into a repository that is served.",
    "inspect": "Show what a model or a packed version is, and which form of it serves and why.",
    "config": "Show every setting, its value and where the value comes from.",
}
"""What `dukou --help` says of each command; each module is imported when its command runs."""

app = App(
    name="dukou",
    help="From a trained model file to a live service.",
    help_epilogue="""Start here:

  dukou demo                   trains, packs, serves and calls a small model
  dukou serve model.joblib     a service from a file
  dukou serve --help           every command has its own help""",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)
for _place, (_name, _help) in enumerate(COMMANDS.items()):
    app.command(f"dukou.cli.{_name}:command", name=_name, help=_help, sort_key=_place)
app.command(
    "dukou.cli.completion:install", name="--install-completion", help="Install tab completion for this shell and exit."
)


def run(argv: Sequence[str]) -> int:
    """The exit code of a command line: 0 done, 1 failed, 2 wrongly written, 130 interrupted. Errors go to stderr."""
    try:
        result = app(list(argv))
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        say(f"dukou: {error}")
        return MISUSED
    except CommandError as error:
        say(f"dukou: {error}")
        return error.exit_code
    except (DukouError, ClientError) as error:
        return _failed(str(error))
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); the interpreter must not try to flush into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _failed(f"{type(error).__name__}: {error} (a fault in dukou; DUKOU_DEBUG=1 shows where)")


def _failed(text: str) -> int:
    if debugging():
        import traceback

        traceback.print_exc()
    say(f"dukou: {text}")
    return FAILED
