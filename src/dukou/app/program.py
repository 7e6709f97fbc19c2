"""The processes that dukou starts for itself."""

import sys

SETTINGS = "settings.json"
"""The file in the state folder by which a worker gets its configuration."""


def program(*words: str) -> list[str]:
    """`dukou WORDS...` by this interpreter. Without -P a Python file in the current folder would stand in for the
    library of its name."""
    return [sys.executable, "-P", "-m", "dukou", *words]
