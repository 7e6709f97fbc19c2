"""`dukou inspect`: what a model file or a packed version is, and which form of it serves and why."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from cyclopts import App, Parameter

from dukou.cli.options import Json
from dukou.cli.terminal import FAILED
from dukou.core.model import Evidence, Signature
from dukou.packing.inspect import FileInspection, Inspection, VersionInspection, describe

Line: TypeAlias = tuple[str, str]
"""What a line is about, and what it says."""

SHOWN_DIGITS = 16
"""Of a digest; enough to tell two files apart, and --json has all of them."""

command = App(
    name="inspect",
    help_epilogue="""Nothing is run and no pickle is opened; the files' digests are checked. The exit code is
1 where a version is damaged.

Examples:

  dukou inspect models/iris/1      one version
  dukou inspect models             every version of a repository
  dukou inspect model.joblib       a file that is not packed
  dukou inspect models --json""",
)


@command.default
def inspect(
    path: Annotated[Path, Parameter(help="A model file, a packed version, or a folder of versions.")],
    /,
    *,
    json: Json = False,
) -> int:
    """Show what a model or a packed version is: its signature, which form of it serves and why, its origin."""
    found = describe(path)
    if json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _print(found)
    return 0 if all(version.intact for version in found.versions) else FAILED


def _print(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    parts = [(found.path, file_lines(found.file))] if found.file is not None else []
    parts += [(f"{each.id.name} {each.id.version}", version_lines(each)) for each in found.versions]
    for title, lines in parts:
        console.print(Text(title, style="bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for about, text in lines:
            table.add_row(f"  {about}", Text(text, style="bold red" if about == "damaged" else ""))
        console.print(table)
        console.print()
    for warning in found.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def version_lines(version: VersionInspection) -> Iterator[Line]:
    """A packed version, most important first."""
    yield "folder", version.folder
    if not version.intact:
        yield "damaged", version.damage
    evidence = version.evidence
    if evidence is not None:
        yield "serves", f"the {evidence.form} form: {version.serving} by {version.runtime}"
        yield "why", evidence.reason
        if evidence.source:
            yield "evidence", compared(evidence)
        yield "batches", evidence.independence or shared(evidence.independent_rows)
    for signature in version.signatures.values():
        yield from signature_lines(signature)
    yield from _facts(
        [
            ("size", size(version.size_bytes)),
            ("original", version.original),
            ("packed with", libraries(version.environment.python, version.environment.libraries)),
            ("packed on", ", ".join(filter(None, (version.environment.platform, version.environment.cpu)))),
            ("metrics", ", ".join(f"{name} {value:g}" for name, value in version.metrics.items())),
        ]
    )
    for key, text in version.lineage.items():
        yield "lineage", f"{key}: {text}"
    for name, digest in version.digests.items():
        yield "SHA-256", f"{name}  {digest[:SHOWN_DIGITS]}…"


def file_lines(file: FileInspection) -> Iterator[Line]:
    """A model file that is not packed."""
    yield "format", file.format
    yield "size", size(file.size_bytes)
    if file.signature is not None:
        yield from signature_lines(file.signature)
    yield from _facts([("holds", ", ".join(file.estimators)), ("made with", libraries("", file.libraries))])
    yield from _facts([("next", file.advice)])


def _facts(lines: Sequence[Line]) -> Iterator[Line]:
    return (line for line in lines if line[1])


def signature_lines(signature: Signature) -> Iterator[Line]:
    """The tensors in and out."""
    for about, specs in (("takes", signature.inputs), ("gives", signature.outputs)):
        for spec in specs:
            columns = f": {', '.join(spec.columns)}" if spec.columns else ""
            yield about, f"{spec.name}  {spec.datatype} {shape(spec.shape, signature.batched)}{columns}"


def shape(sizes: tuple[int, ...] | None, batched: bool) -> str:
    """`[rows, 4]`: -1 is `rows` where axis 0 is the batch, and `any` elsewhere."""
    if sizes is None:
        return "of any shape"
    names = ["any" if each < 0 else str(each) for each in sizes]
    if batched and names and sizes[0] < 0:
        names[0] = "rows"
    return f"[{', '.join(names)}]"


def compared(evidence: Evidence) -> str:
    """What the comparison of the two forms saw."""
    origin = {"data": "given rows", "derived": "rows from the fitted state", "none": "rows"}
    text = f"{evidence.rows} {origin.get(evidence.source, evidence.source)}" if evidence.rows else "no rows compared"
    if evidence.rows:
        text += f", largest difference {evidence.max_abs_difference:.3g}"
        text += f" (relative {evidence.max_rel_difference:.3g}), {evidence.label_differences} labels differ"
    return text


def shared(independent: bool) -> str:
    """Whether rows of different callers are run together."""
    return f"rows of different callers {'may' if independent else 'never'} share one"


def libraries(python: str, versions: Mapping[str, str]) -> str:
    """`Python 3.12.1, numpy 2.1.0`."""
    return ", ".join([f"Python {python}"] * bool(python) + [f"{name} {number}" for name, number in versions.items()])


def size(count: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        amount /= 1024
    return f"{amount:.3g} GiB"
