"""`dukou deploy`: let a version answer, step by step or at once."""

import time
from collections.abc import Callable
from typing import Annotated

from cyclopts import App, Parameter

from dukou.cli.admin import HERE, Model, Reach, Why, brief, status_of
from dukou.cli.rollout import EVERY_S, exit_code, follow
from dukou.cli.terminal import FAILED, CommandError, say
from dukou.client.admin import model_path
from dukou.control.operations import ModelStatus, VersionStatus
from dukou.core.version import State

MOST_ENDED = 3
"""Looks in a row: what was deployed just now may not have begun to load."""

command = App(
    name="deploy",
    version_flags=(),
    help_epilogue="""A plan is a chain of words: `shadow` (copies of calls, answers compared), then
`incremental` (1, 5, 25, 50, 100 % of the calls) or `blue_green`; after them
may come settings. Without a plan, and where the model's settings have none,
the version answers as soon as it is loaded.

Examples:

  dukou deploy iris
  dukou deploy iris --version 2 --plan shadow,incremental
  dukou deploy iris --plan 'incremental:10,50,100 least_s=30' --wait
  dukou deploy iris --plan shadow,blue_green --manual --why 'June data'""",
)


@command.default
def deploy(
    model: Model,
    /,
    *,
    version: Annotated[int | None, Parameter(help="Which version; without it the highest.")] = None,
    plan: Annotated[
        str, Parameter(help="What it has to go through; without it the plan of the settings.", show_default=False)
    ] = "",
    manual: Annotated[
        bool | None, Parameter(help="No step is left without `dukou promote`.", negative="", show_default=False)
    ] = None,
    why: Why = "",
    wait: Annotated[
        bool, Parameter(help="Go on until it answers everybody (exit code 0) or will not (1).", negative="")
    ] = False,
    reach: Reach = HERE,
) -> int:
    """Let a version answer: by a plan that watches how it does, or at once."""
    with reach.server(model) as admin:
        body = {"version": version, "plan": plan, "manual": manual, "why": why}
        status = admin.post(f"{model_path(model)}:deploy", ModelStatus, body)
        print(brief(status), flush=True)
        if status.rollout is not None and status.rollout.status.under_way:
            if wait:
                return exit_code(follow(admin, model))
            say(f"`dukou rollout {model}` shows how it does")
            return 0
        wanted = max((each.version for each in status.versions), default=0) if version is None else version
        if wait:
            print(brief(until_answering(lambda: status_of(admin, model), wanted, time.sleep)))
        return 0


def until_answering(ask: Callable[[], ModelStatus], version: int, pause: Callable[[float], None]) -> ModelStatus:
    """Ask until that version answers. Raises CommandError, saying why, when it has ended and stays so."""
    ended = 0
    while True:
        status = ask()
        found = {each.version: each for each in status.versions}.get(version, VersionStatus(version, State.END, "gone"))
        if found.state is State.AVAILABLE and status.serving == version:
            return status
        ended = ended + 1 if found.state is State.END else 0
        if ended == MOST_ENDED:
            raise CommandError(f"{status.name}: version {version} does not answer: {found.why}", FAILED)
        pause(EVERY_S)
