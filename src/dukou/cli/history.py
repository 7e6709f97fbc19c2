"""`dukou history`: who changed what, when and why."""

import json as json_text
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from dukou.cli.admin import HERE, Reach
from dukou.cli.options import Json
from dukou.client.admin import model_path
from dukou.control.answers import History
from dukou.control.operations import Audited

command = App(
    name="history",
    help_epilogue="""Times are those of this machine's time zone.

Examples:

  dukou history               the last changes of all models, the latest first
  dukou history iris --limit 5
  dukou history --json""",
)


@command.default
def history(
    model: Annotated[str, Parameter(help="Name of the model; without it every model.", show_default=False)] = "",
    /,
    *,
    limit: Annotated[int, Parameter(help="How many changes.")] = 20,
    json: Json = False,
    reach: Reach = HERE,
) -> None:
    """Show what was changed: when, which model, by which verb, by whom, why, and from what to what."""
    with reach.server(model) as admin:
        found = admin.get(model_path(model, "history") if model else "/v1/history", History, limit=limit)
    if json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print("\n".join(lines(found.changes)) or "nothing was changed")


def lines(changes: Sequence[Audited]) -> Iterator[str]:
    """A line for each change, another for why, and one for each thing that was changed."""
    for each in changes:
        at = datetime.fromtimestamp(each.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        yield f"{at}  {each.verb} {each.model}  by {each.cause.who}"
        if each.cause.why:
            yield f"    why: {each.cause.why}"
        yield from (f"    {line}" for line in differences(each.before, each.after))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """`serving: 1 → 2` for everything that is not as before."""
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if old != new:
            yield f"{key}: {_text(key, old)} → {_text(key, new)}"


def _text(key: str, value: Any) -> str:
    if value in (None, "", [], {}):
        return "nothing"
    match key, value:
        case "rollout", {"id": number, "candidate": candidate, "step": step, "status": status}:
            return f"number {number} of version {candidate}, step {step + 1}, {status}"
        case _, [*many]:
            return ", ".join(map(str, many))
        case _, dict():
            return json_text.dumps(value, ensure_ascii=False)
    return str(value)
