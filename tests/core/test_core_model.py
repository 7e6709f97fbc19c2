"""The names of datatypes are said twice, with and without NumPy: they are the same."""

import subprocess
import sys

from dukou.core.model import DATATYPES
from dukou.core.tensor import DTYPES


def test_datatypes_are_those_that_have_a_dtype() -> None:
    """The manifest checks names against the list that needs no NumPy."""
    assert tuple(DTYPES) == DATATYPES


def test_declaring_needs_no_numpy() -> None:
    """The supervisor finds out what to serve without importing NumPy, which would take a fifth of its start."""
    code = "import sys, dukou.app.server, dukou.app.declare; print('numpy' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert said.strip() == "False"
