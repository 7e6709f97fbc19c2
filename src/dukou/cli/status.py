"""`dukou status`: what a running server serves."""

from collections.abc import Iterator, Sequence

import msgspec
from cyclopts import App

from dukou.cli.admin import HERE, Reach, brief, said, status_of
from dukou.cli.options import Json
from dukou.control.answers import Models
from dukou.control.operations import ModelStatus, VersionStatus
from dukou.lifecycle.judge import percent

command = App(
    name="status",
    help_epilogue="""Examples:

  dukou status                every model of the server at 127.0.0.1:8600
  dukou status iris
  dukou status iris --json""",
)


@command.default
def status(model: str = "", /, *, json: Json = False, reach: Reach = HERE) -> None:
    """Show the models of a running server: their versions, how the calls are shared, and what is wrong.

    Parameters
    ----------
    model
        Name of the model; without it every model.
    """
    with reach.server(model) as admin:
        found = [status_of(admin, model)] if model else admin.get("/v1/models", Models).models
    if json:
        print(msgspec.json.format(msgspec.json.encode(found[0] if model else Models(found))).decode())
    else:
        print("\n".join(lines(found)) or "no models")


def lines(models: Sequence[ModelStatus]) -> Iterator[str]:
    """Each model: a line about it, its versions as a table, its rollout, its problem."""
    for number, model in enumerate(models):
        if number:
            yield ""
        yield f"{brief(model)} (policy {model.policy})"
        rows = [("version", "state", "calls", "labels", "")]
        rows += [_row(model, version) for version in model.versions]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            yield f"  {'  '.join((*cells, row[4]))}".rstrip()
        if model.rollout is not None and not model.rollout.status.under_way:
            yield f"  the last {said(model.rollout)}"
        if model.problem:
            yield f"  problem: {model.problem}"


def _row(model: ModelStatus, version: VersionStatus) -> tuple[str, str, str, str, str]:
    calls = percent(version.share) if version.share else ""
    return (
        str(version.version),
        version.state.value,
        calls,
        ", ".join(version.labels),
        "; ".join(_notes(model, version)),
    )


def _notes(model: ModelStatus, version: VersionStatus) -> Iterator[str]:
    rollout = model.rollout
    if rollout is not None and rollout.status.under_way and version.version == rollout.candidate:
        yield "candidate"
    if version.shadow:
        yield f"gets copies of {percent(version.shadow)}"
    if version.version == model.previous:
        yield "previous"
    if version.barred:
        yield "barred" if version.why else "barred until it is promoted"
    if version.changed:
        yield f"its files have changed since; `dukou load {model.name} --version {version.version}` takes them"
    if version.why:
        yield version.why.removeprefix(f"model {model.name!r}, version {version.version}: ")  # the line says that
