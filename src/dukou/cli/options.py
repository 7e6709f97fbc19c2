"""Options that several commands have: the same words, and the same help, everywhere."""

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

Json: TypeAlias = Annotated[bool, Parameter(help="Print JSON.", negative="")]
ConfigFile: TypeAlias = Annotated[Path | None, Parameter(help="Settings file (TOML) of the server.", metavar="FILE")]

TrustPickle: TypeAlias = Annotated[
    bool, Parameter(help="Open pickles without the allowlist; only for files you made.", negative="")
]
TrustPython: TypeAlias = Annotated[
    bool, Parameter(help="Run the code of a model.py; only for files you made.", negative="")
]
AllowVersionMismatch: TypeAlias = Annotated[
    bool, Parameter(help="Open a file that another scikit-learn made; it may answer wrongly.", negative="")
]

NewVersion: TypeAlias = Annotated[
    int | None, Parameter(help="Number of the version; without it the next that is free.")
]
Data: TypeAlias = Annotated[
    Path | None, Parameter(help="Rows (CSV, JSON, .npy) on which the compiled form is compared with the original.")
]
Metrics: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(help="A number to remember; repeatable.", negative="", metavar="NAME=NUMBER", show_default=False),
]
Lineage: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(help="A fact of origin to remember; repeatable.", negative="", metavar="KEY=TEXT", show_default=False),
]
