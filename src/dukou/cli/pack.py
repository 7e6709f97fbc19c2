"""`dukou pack`: a model file as a version of a repository."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dukou.cli.options import AllowVersionMismatch, Data, Lineage, Metrics, NewVersion, TrustPickle
from dukou.cli.terminal import CommandError, Progress

command = App(
    name="pack",
    version_flags=(),
    help_epilogue="""The model is compiled, the compiled form is compared with the original, and both are
written with their digests. Pack where the model is trained: serving a packed
version needs neither the training libraries nor a pickle.

Examples:

  dukou pack model.joblib
  dukou pack model.joblib --name iris --version 2 --to models
  dukou pack model.joblib --data rows.csv --metric accuracy=0.97
  dukou pack model.joblib --lineage commit=4f1c2aa --lineage data=2026-06""",
)


@command.default
def pack(
    path: Annotated[Path, Parameter(help="The model file.")],
    /,
    *,
    name: Annotated[str, Parameter(help="Name of the model; without it the file's.", show_default=False)] = "",
    version: NewVersion = None,
    to: Annotated[Path, Parameter(help="Folder of the repository.")] = Path("models"),
    data: Data = None,
    metric: Metrics = (),
    lineage: Lineage = (),
    trust_pickle: TrustPickle = False,
    allow_version_mismatch: AllowVersionMismatch = False,
) -> None:
    """Compile a model, compare the two forms, write both with their digests as one version of a repository."""
    metrics, facts = numbers(metric), pairs("--lineage", lineage)
    name = name or path.stem
    from dukou.packing.pack import pack as pack_version
    from dukou.repository.local import next_version

    if version is None:
        version = next_version(to / name)

    with Progress() as report:
        folder, manifest = pack_version(
            path,
            name=name,
            version=version,
            to=to,
            data=data,
            metrics=metrics,
            lineage=facts,
            trust_pickle=trust_pickle,
            allow_version_mismatch=allow_version_mismatch,
            report=report,
        )
    print(f"packed {name} {version} into {folder}")
    print(f"  {manifest.evidence.reason}")
    print(f"next: dukou serve {folder}   (dukou inspect {folder} says more)")


def pairs(flag: str, texts: Sequence[str]) -> Mapping[str, str]:
    """`KEY=TEXT` arguments as a mapping. Raises CommandError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise CommandError(f"{flag} {text}: write it as KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def numbers(texts: Sequence[str]) -> Mapping[str, float]:
    """`NAME=NUMBER` arguments as a mapping. Raises CommandError."""
    found = {}
    for key, value in pairs("--metric", texts).items():
        try:
            found[key] = float(value)
        except ValueError:
            raise CommandError(f"--metric {key}={value}: {value!r} is not a number") from None
    return found
