"""`dukou rollout`: how a new version does, and what is still missing, until it answers everybody or goes back."""

import json as json_text
import sys
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from dukou.cli.admin import HERE, Model, Reach, shares
from dukou.cli.options import Json
from dukou.cli.terminal import FAILED, CommandError
from dukou.client.admin import Admin, model_path
from dukou.client.errors import ConnectionFailed
from dukou.lifecycle.report import lines
from dukou.lifecycle.rollout import Status

Report: TypeAlias = Mapping[str, Any]
"""What `dukou.lifecycle.report.report` makes of a rollout."""

EVERY_S = 1.0
MOST_MISSED = 60
"""Times in a row that the server may not answer: it may be restarted while a rollout is watched."""

command = App(
    name="rollout",
    help_epilogue="""On a terminal a rollout under way is watched. The exit code is then 0 where the
new version was promoted, and 1 where it went back.

Examples:

  dukou rollout iris
  dukou rollout iris --no-watch
  dukou rollout iris --watch --json   one report at the end""",
)


@command.default
def rollout(
    model: Model,
    /,
    *,
    watch: Annotated[bool | None, Parameter(help="Go on until the rollout is over.")] = None,
    json: Json = False,
    reach: Reach = HERE,
) -> int:
    """Show the rollout of a model, under way or the last one: its steps, what was measured, what is missing."""
    with reach.server(model) as admin:
        if watch is None:
            watch = sys.stdout.isatty() and not json
        found = follow(admin, model, show=not json) if watch else report_of(admin, model)
    if json:
        print(json_text.dumps(found, indent=2, ensure_ascii=False))
    elif not watch:
        print("\n".join(lines(found)))
    return exit_code(found) if watch else 0


def report_of(admin: Admin, model: str) -> Report:
    """The report of a model's rollout."""
    found: Report = admin.get(model_path(model, "rollout"), dict[str, Any])
    return found


def exit_code(report: Report) -> int:
    """0 where the candidate answers everybody now."""
    return 0 if report["status"] == Status.PROMOTED.value else FAILED


def follow(admin: Admin, model: str, *, show: bool = True) -> Report:
    """Show a rollout until it is over: live on a terminal, elsewhere a line when something changes. Returns its last
    report."""
    if not show:
        return until_over(lambda: report_of(admin, model), lambda report: None, time.sleep)
    if not sys.stdout.isatty():
        return until_over(lambda: report_of(admin, model), Changes(), time.sleep)
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        return until_over(
            lambda: report_of(admin, model), lambda report: live.update(view(report), refresh=True), time.sleep
        )


def until_over(ask: Callable[[], Report], show: Callable[[Report], None], pause: Callable[[float], None]) -> Report:
    """Ask for the report every EVERY_S and show it, until the rollout is over; the last report.

    Raises ConnectionFailed when nobody has answered MOST_MISSED times, CommandError when another rollout has begun.
    """
    missed, first = 0, None
    while True:
        try:
            report = ask()
        except ConnectionFailed:
            missed += 1
            if first is None or missed == MOST_MISSED:
                raise
        else:
            missed = 0
            first = report["id"] if first is None else first
            if report["id"] != first:
                raise CommandError(f"rollout {first} is over, and {report['id']} has begun", FAILED)
            show(report)
            if not Status(report["status"]).under_way:
                return report
        pause(EVERY_S)


class Changes:
    """Prints a line when the status or the step is another one."""

    def __init__(self) -> None:
        self._last: object = None

    def __call__(self, report: Report) -> None:
        """Take a report."""
        step = next((step for step in report["steps"] if step["state"] == "now"), None)
        now = (report["status"], step and step["number"])
        if now == self._last:
            return
        self._last = now
        where = ""
        if step:
            where = f", step {step['number']} of {len(report['steps'])}"
            where += f" ({shares(step['kind'], step['shadow'], step['share'])})"
        pair = f"{report['primary']} → {report['candidate']}"
        why = "" if report["status"] == Status.RUNNING.value else f": {report['reason']}"
        print(f"{report['model']} {pair}: {report['status']}{where}{why}", flush=True)
        if report["status"] == Status.HELD.value:
            name = report["model"]
            print(f"  for you to decide: dukou promote {name}, or dukou rollback {name}", flush=True)


def view(report: Report) -> Any:
    """The report for a terminal: its lines in colour, and a bar for the step at hand."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    text = Text("\n".join(lines(report)))
    text.highlight_words(["✓", "fine", Status.PROMOTED.value], "green")
    text.highlight_words(["✗", "WORSE", Status.ROLLED_BACK.value], "bold red")
    text.highlight_words(["UNLIKE", Status.HELD.value, Status.PAUSED.value], "yellow")
    text.highlight_regex(r"(?m)^  ▶.*$", "bold")
    done = progress(report)
    return text if done is None else Group(text, "", ProgressBar(total=1.0, completed=done, width=60))


def progress(report: Report) -> float | None:
    """How much of the least that the step at hand needs has been reached, 0 to 1; None when the rollout is over."""
    for step in report["steps"]:
        if step["state"] == "now":
            had = [(step["requests"], step["least_requests"]), (step["time_s"], step["least_s"])]
            return float(min((1.0, *(some / least for some, least in had if least))))
    return None
