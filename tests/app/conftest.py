"""Models that the tests of whole servers share: trained and packed once."""

from pathlib import Path

import pytest
from app_server import Server, run
from joblib import dump
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


@pytest.fixture(scope="session")
def iris_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source document's model, saved by joblib."""
    X, y = load_iris(return_X_y=True)
    path = tmp_path_factory.mktemp("trained") / "model.joblib"
    dump(LogisticRegression(max_iter=1000).fit(X, y), path)
    return path


@pytest.fixture(scope="session")
def repository(iris_file: Path) -> Path:
    """A repository with iris, version 1."""
    root = iris_file.parent / "models"
    done = run("pack", iris_file, "--name", "iris", "--version", "1", "--to", root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def server(repository: Path):
    """A server of the repository on a port of the system's choice."""
    with Server(repository, "--port", "0") as running:
        yield running
