"""One live server for all public clients."""

from collections.abc import Iterator

import pytest
from clients_models import build

from dukou.testing.conformance import LABELS
from live import Live


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of every model that the programs call, in every dialect."""
    folder = tmp_path_factory.mktemp("clients")
    build(folder / "models")
    config = folder / "dukou.toml"
    stable = LABELS["half_plus_two"]["stable"]
    config.write_text(
        f"[models]\ntrust_python = true\n[models.labels.half_plus_two]\nstable = {stable}\n", encoding="utf-8"
    )
    with Live(folder / "models", "--config", config) as server:
        yield server
