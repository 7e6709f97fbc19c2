"""The models of the conformance vectors answer as the vectors want."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dukou.app.declare import choose, declare, places
from dukou.app.opening import open_version
from dukou.config import ModelsConfig
from dukou.core.model import ModelManifest, ModelVersion
from dukou.core.runtime import LoadedModel
from dukou.testing.conformance import LABELS, build_models


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ModelManifest, LoadedModel]]:
    """All of them, as a worker opens them."""
    folder = tmp_path_factory.mktemp("models")
    build_models(folder)
    config = ModelsConfig(paths=(str(folder),), labels=LABELS)

    def never(path: Path, name: str) -> Path:
        raise AssertionError(f"{path} was packed")

    found = {}
    for declared in declare(config, places(config, never)).models.values():
        opened = open_version(choose(declared), config)
        assert opened.warnings == ()
        found[opened.manifest.id.name] = opened.manifest, opened.model
    return found


def ask(opened: Any, name: str, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    manifest, model = opened[name]
    outputs = manifest.signatures[signature].output_names()
    arrays = {key: np.asarray(value) for key, value in inputs.items()}
    return {key: array.tolist() for key, array in model.infer(signature, arrays, outputs, {}).items()}


def test_half_plus_two_takes_any_rank(opened: Any) -> None:
    """Version 123, with metadata of its own and a graph's names for its tensors."""
    manifest, _ = opened["half_plus_two"]
    spec = manifest.signatures["serving_default"].inputs[0]

    assert manifest.id == ModelVersion("half_plus_two", 123)
    assert (spec.shape, spec.stated, spec.tensor) == (None, (-1, 1), "x:0")
    for x in (2.0, [2.0, 3.0], [[2.0], [4.0]]):
        assert ask(opened, "half_plus_two", x=np.float32(x)) == {"y": (np.float32(x) / 2 + 2).tolist()}


@pytest.mark.parametrize(("signature", "output"), [("classify_x_to_y", "scores"), ("regress_x_to_y", "outputs")])
def test_half_plus_two_has_other_signatures(opened: Any, signature: str, output: str) -> None:
    """Over the same graph."""
    assert ask(opened, "half_plus_two", signature, x=np.float32([[2.0]])) == {output: [[3.0]]}
    assert opened["half_plus_two"][0].signatures[signature].method == signature.partition("_")[0]


def test_the_others_answer(opened: Any) -> None:
    """Sums and differences, echoes."""
    four = np.int32([[1, 2, 3, 4]])

    assert ask(opened, "addsub_named", a=np.float32([1, 5]), b=np.float32([2, 3])) == {
        "sum": [3.0, 8.0],
        "diff": [-1.0, 2.0],
    }
    assert ask(opened, "echo_bytes", s=np.array(["渡", b"b"], object)) == {"out_bytes": ["渡", "b"]}
    assert ask(opened, "addsub", INPUT0=four, INPUT1=four * 10) == {
        "OUTPUT0": [[11, 22, 33, 44]],
        "OUTPUT1": [[-9, -18, -27, -36]],
    }
    assert ask(opened, "identity_fp32", INPUT0=np.float32([[1.5, 2]])) == {"OUTPUT0": [[1.5, 2.0]]}
    assert ask(opened, "identity_fp16", INPUT0=np.float16([[1.5]])) == {"OUTPUT0": [[1.5]]}


@pytest.mark.parametrize(("name", "rows"), [("addsub", 8), ("identity_fp32", 1), ("identity_fp16", 1)])
def test_triton_models_bound_their_rows(opened: Any, name: str, rows: int) -> None:
    """By max_batch_size."""
    manifest, _ = opened[name]

    assert manifest.options["max_request_rows"] == rows
    assert manifest.signatures["serving_default"].batched
