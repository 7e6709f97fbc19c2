"""Files of fitted estimators, made once for all tests of packing."""

from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from packing_models import fit


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`model_file("forest")` is the path of that fitted model as a joblib file."""
    folder = tmp_path_factory.mktemp("models")

    def path(name: str) -> Path:
        file = folder / f"{name}.joblib"
        if not file.exists():
            joblib.dump(fit(name), file)
        return file

    return path
