"""The commands together, and how an error ends: a line on stderr and an exit code."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group

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
    "replay": "Run a new version on recorded traffic and compare its answers, before it gets any.",
    "inspect": "Show what a model or a packed version is, and which form of it serves and why.",
    "config": "Show every setting, its value and where the value comes from.",
}
"""What `dukou --help` says of each command; each module is imported when its command runs."""

SERVER_COMMANDS = {
    "status": "Show the models of a running server and their versions.",
    "deploy": "Let a version answer: by a plan that watches how it does, or at once.",
    "rollout": "Show how a new version does, until it answers everybody or goes back.",
    "rollback": "Go back to the version before.",
    "promote": "Let a new version go on to its next step, or answer everybody now.",
    "pause": "Stop judging a rollout; its shares stay.",
    "resume": "Go on judging a rollout that was paused.",
    "abort": "End a rollout; the version before answers everybody again.",
    "load": "Load a version beside the others, or anew.",
    "unload": "Unload a version, or a whole model.",
    "label": "Let labels name versions.",
    "history": "Show who changed what, when and why.",
}
"""The same for those that ask a running server, by its admin API."""

VERBS = ("rollback", "promote", "pause", "resume", "abort", "load", "unload", "label")
"""Those of them that share a module."""

app = App(
    name="dukou",
    help="From a trained model file to a live service.",
    help_epilogue="""Start here:

  dukou demo                   trains, packs, serves and calls a small model
  dukou serve model.joblib     a service from a file
  dukou deploy --help          how a served model gets its next version
  dukou serve --help           every command has its own help""",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)
_asking = Group("Commands for a running server", sort_key=1)
for _place, (_name, _help) in enumerate({**COMMANDS, **SERVER_COMMANDS}.items()):
    app.command(
        f"dukou.cli.verbs:{_name}" if _name in VERBS else f"dukou.cli.{_name}:command",
        name=_name,
        help=_help,
        sort_key=_place,
        group=_asking if _name in SERVER_COMMANDS else None,
    )
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
