"""The command lines of the processes that dukou starts for itself."""

import sys


def program(*words: str) -> list[str]:
    """`dukou WORDS...` by this interpreter. Without -P a Python file in the current folder would stand in for the
    library of its name."""
    return [sys.executable, "-P", "-m", "dukou", *words]
