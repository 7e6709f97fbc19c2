"""`dukou push`: a new version for a repository that is served."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dukou.cli.options import AllowVersionMismatch, Data, Lineage, Metrics, NewVersion, TrustPickle
from dukou.cli.pack import numbers, pairs
from dukou.cli.terminal import Progress

command = App(
    name="push",
    version_flags=(),
    help_epilogue="""A model file is packed first, as `dukou pack` does it; the folder of a version
is copied as it is. The version appears all at once, under the number after the
highest one; a server of the repository finds it by itself.

Examples:

  dukou push model.joblib --name iris --to models
  dukou push model.joblib --to models --data rows.csv --metric accuracy=0.97
  dukou push build/iris/1 --to /mnt/models         a packed version
  dukou push export/ --name digits --to models     a folder with an ONNX file""",
)


@command.default
def push(
    path: Annotated[Path, Parameter(help="The model file, or the folder of a version.")],
    /,
    *,
    to: Annotated[Path, Parameter(help="Folder of the repository.")],
    name: Annotated[
        str, Parameter(help="Name of the model; without it the file's or the version's.", show_default=False)
    ] = "",
    version: NewVersion = None,
    data: Data = None,
    metric: Metrics = (),
    lineage: Lineage = (),
    trust_pickle: TrustPickle = False,
    allow_version_mismatch: AllowVersionMismatch = False,
) -> None:
    """Put a new version into a repository, whole or not at all."""
    metrics, facts = numbers(metric), pairs("--lineage", lineage)
    from dukou.packing.push import push as push_version

    with Progress() as report:
        pushed, folder, manifest = push_version(
            path,
            to=to,
            name=name,
            version=version,
            data=data,
            metrics=metrics,
            lineage=facts,
            trust_pickle=trust_pickle,
            allow_version_mismatch=allow_version_mismatch,
            report=report,
        )
    print(f"pushed {pushed.name} {pushed.version} into {folder}")
    print(f"  {manifest.evidence.reason}" if manifest is not None else "  It stands as it is, without a manifest.")
    print(f"next: a server of {to} finds it by itself and follows its version policy or plan")
    print(f"      dukou status {pushed.name} shows how far it is; where none runs yet: dukou serve {to}")
