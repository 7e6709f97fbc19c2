"""`dukou replay`: a candidate run on recorded traffic before it gets any."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
from cyclopts import App, Parameter

from dukou.cli.options import ConfigFile, Json, TrustPickle, TrustPython
from dukou.cli.terminal import FAILED, CommandError, Progress
from dukou.config import Config, Given, load
from dukou.core.errors import Code, DukouError

UNDECIDED = 3
EXIT_CODES = {"AGREES": 0, "DISAGREES": FAILED, "UNDECIDED": UNDECIDED}
"""The exit code of each finding; 2 is for what cannot be replayed as it was asked."""

_FAILURES = (Code.UNAVAILABLE, Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.DATA_LOSS)
"""Errors that say something of the candidate, not of the command line."""

command = App(
    name="replay",
    version_flags=(),
    help_epilogue="""Both versions are loaded as a shadow is, each in a process of its own, and asked
the same; a running server is not touched. Recorded calls are there where the
server was told to record: `--set capture.share=0.1`. A file of your own holds
request bodies or rows, one a line (.jsonl), or rows (.csv with the columns'
names, .tsv, .json, .npy); --labels names its column of right answers.

Exit codes: 0 the candidate agrees, or is no worse by the labels; 1 it disagrees,
is worse, or fails; 2 wrongly asked; 3 undecided, for there were too few rows.

Examples:

  dukou replay --model iris --version 2 --repository models
  dukou replay --model iris --version 2 --repository models --against rows.csv
  dukou replay --model iris --version 2 --repository models \\
      --against holdout.csv --labels species --max-disagreement 0.05 --json""",
)


@command.default
def replay(
    *,
    model: Annotated[str, Parameter(help="Name of the model.")],
    version: Annotated[int, Parameter(help="The candidate: the version that gets no traffic yet.")],
    against: Annotated[
        str, Parameter(help="`captured` for what the server has recorded, or a file.", metavar="captured|FILE")
    ] = "captured",
    primary: Annotated[
        int | None,
        Parameter(help="The version to compare with; without it the one that was recorded, else the highest other."),
    ] = None,
    repository: Annotated[
        Path | None, Parameter(help="Folder of the repository; without it `models.paths` of the settings.")
    ] = None,
    captured: Annotated[
        Path | None, Parameter(help="Folder of the records, where it is not the server's own.", metavar="FOLDER")
    ] = None,
    labels: Annotated[
        str, Parameter(help="Column, or key of a body, with the right answers: gives accuracy.", show_default=False)
    ] = "",
    limit: Annotated[
        int | None, Parameter(help="Most calls: the newest that were recorded, the first of a file.")
    ] = None,
    max_disagreement: Annotated[
        float | None, Parameter(help="Share of rows that may differ; without it, 0.01 where labels do not decide.")
    ] = None,
    latency_ratio: Annotated[
        float | None,
        Parameter(help="How many times the model's time may grow; without it times are told and not judged."),
    ] = None,
    slice_by: Annotated[
        str | None, Parameter(help="Input or column by whose values answers are compared as well.")
    ] = None,
    tolerance: Annotated[
        float | None, Parameter(help="How far numbers may differ, relatively; without it 0.001.")
    ] = None,
    config: ConfigFile = None,
    trust_pickle: TrustPickle = False,
    trust_python: TrustPython = False,
    json: Json = False,
) -> int:
    """Run a candidate on recorded traffic where it would serve, and compare its answers with those of the version that
    serves."""
    if limit is not None and limit < 1:
        raise CommandError(f"--limit is {limit}; it is at least 1")
    settings = _settings(config, repository, trust_pickle, trust_python)
    from dukou.app.replay import CAPTURED, Ask
    from dukou.app.replay import replay as run

    ask = Ask(
        model,
        version,
        against,
        primary,
        labels,
        limit,
        captured,
        max_disagreement,
        latency_ratio,
        slice_by,
        tolerance,
    )
    if against != CAPTURED and not Path(against).exists():
        raise CommandError(f"--against {against}: there is no such file")
    with Progress() as progress:
        try:
            said = run(settings, ask, progress)
        except DukouError as error:
            if error.code in _FAILURES:
                raise
            raise CommandError(str(error)) from error
    print(orjson.dumps(said, option=orjson.OPT_INDENT_2).decode() if json else "\n".join(lines(said)))
    return EXIT_CODES[said["finding"]]


def _settings(config: Path | None, repository: Path | None, trust_pickle: bool, trust_python: bool) -> Config:
    given = [Given("models.paths", (str(repository),), "--repository")] if repository is not None else []
    if trust_pickle:
        given.append(Given("models.trust_pickle", True, "--trust-pickle"))
    if trust_python:
        given.append(Given("models.trust_python", True, "--trust-python"))
    try:
        found = load(config, flags=given).config
    except DukouError as error:
        raise CommandError(str(error)) from error
    if not found.models.paths and not found.models.config_file:
        raise CommandError("say where the versions are: --repository FOLDER, or --config with the server's settings")
    return found


def lines(said: Mapping[str, Any]) -> Iterator[str]:
    """A replay's report for people."""
    from dukou.lifecycle.report import evidence

    yield (
        f"{said['model']}: version {said['primary']} → {said['candidate']}, "
        f"{said['calls']:,} calls of {said['against']}: {said['finding']}"
    )
    yield from (f"note: {note}" for note in said["notes"])
    yield ""
    yield from evidence(said)
