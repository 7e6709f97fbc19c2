"""From paths to the versions that are served: packed ones, Triton's and TensorFlow Serving's layouts, labels."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dukou.app.plan import make_plan, read_labels
from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelVersion
from dukou.repository.manifest import write_manifest
from dukou.testing import models


def never(path: Path, name: str) -> Path:
    raise AssertionError(f"{path} was packed")


def planned(*paths: Path, **settings: Any) -> list[tuple[str, int]]:
    """Name and version of what is served."""
    config = ModelsConfig(paths=tuple(map(str, paths)), **settings)
    return [(one.id.name, one.id.version) for one in make_plan(config, never).assignments]


def warned(*paths: Path) -> tuple[str, ...]:
    return make_plan(ModelsConfig(paths=tuple(map(str, paths))), never).warnings


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pack(folder: Path) -> None:
    touch(folder / "model.py")
    write_manifest(folder, models.manifest(folder.parent.name, int(folder.name)))


def test_layouts_may_be_mixed(tmp_path: Path) -> None:
    """Packed, ONNX under TensorFlow Serving's numbers, Triton's, and Python with and without a number."""
    pack(tmp_path / "packed" / "4")
    touch(tmp_path / "numbers" / "00000123" / "net.onnx")
    touch(tmp_path / "triton" / "config.pbtxt", "max_batch_size: 8")
    touch(tmp_path / "triton" / "2" / "model.onnx")
    touch(tmp_path / "numbered" / "1" / "model.py")
    touch(tmp_path / "bare" / "model.py")

    assert planned(tmp_path) == [("bare", 1), ("numbered", 1), ("numbers", 123), ("packed", 4), ("triton", 2)]


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("triton/2", ("triton", 2)),
        ("triton", ("triton", 2)),
        ("bare", ("bare", 1)),
        ("numbers/0012", ("numbers", 12)),
        ("python/1", ("python", 1)),
    ],
)
def test_a_part_of_a_repository_can_be_served(tmp_path: Path, path: str, version: tuple[str, int]) -> None:
    """A model's folder, or one version's; its place names it."""
    touch(tmp_path / "triton" / "config.pbtxt", "")
    touch(tmp_path / "triton" / "2" / "model.onnx")
    touch(tmp_path / "bare" / "model.py")
    touch(tmp_path / "numbers" / "0012" / "any.onnx")
    touch(tmp_path / "python" / "1" / "model.py")

    assert planned(tmp_path / path) == [version]


POLICIES = [
    ("", [4]),
    ("version_policy { latest { num_versions: 2 } }", [4, 3]),
    ("version_policy: { latest { } }", [4]),
    ("version_policy { all { } }", [4, 3, 2, 1]),
    ("version_policy { specific { versions: [ 1, 3 ] } }", [3, 1]),
    ("version_policy { all { ", [4]),
]


@pytest.mark.parametrize(("text", "versions"), POLICIES)
def test_a_model_has_its_own_version_policy(tmp_path: Path, text: str, versions: list[int]) -> None:
    """Its configuration's; what cannot be read is told when the model is loaded."""
    touch(tmp_path / "m" / "config.pbtxt", text)
    for number in range(1, 5):
        touch(tmp_path / "m" / str(number) / "model.onnx")
    touch(tmp_path / "other" / "1" / "model.onnx")

    assert planned(tmp_path) == [*(("m", version) for version in versions), ("other", 1)]


def test_the_setting_holds_for_models_without_a_policy(tmp_path: Path) -> None:
    """Each model's own goes before it."""
    for name in ("own", "none"):
        for number in (1, 2):
            touch(tmp_path / name / str(number) / "model.onnx")
    touch(tmp_path / "own" / "config.pbtxt", "version_policy { latest { } }")

    assert planned(tmp_path, version_policy="all") == [("none", 2), ("none", 1), ("own", 2)]


def test_nothing_to_serve_says_which_version_was_wanted(tmp_path: Path) -> None:
    """By the model's own policy, not by the setting that it goes before."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "m" / "config.pbtxt", "version_policy { specific { versions: [ 3 ] } }")

    with pytest.raises(DukouError) as caught:
        planned(tmp_path)

    assert "nothing to serve: model 'm' has no version 3" in str(caught.value)


def test_a_configuration_without_a_version_is_warned_of(tmp_path: Path) -> None:
    """Not passed over."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "lonely" / "config.pbtxt", "")

    (warning,) = warned(tmp_path)

    assert str(tmp_path / "lonely") in warning
    assert "no version" in warning


def test_a_version_without_anything_is_still_told(tmp_path: Path) -> None:
    """With the one that can be served beside it: the policy would have wanted it."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "m" / "2" / "readme")

    assert planned(tmp_path) == [("m", 2), ("m", 1)]


def test_labels_name_versions_that_are_served(tmp_path: Path) -> None:
    """They are checked before anything is loaded."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "m" / "2" / "model.onnx")

    assert planned(tmp_path, version_policy="all", labels={"m": {"stable": 1, "new": 2}})


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"m": {"stable": 3}}, "models.labels.m.stable is 3, which is not served; served are: 1, 2"),
        ({"z": {"stable": 1}}, "models.labels.z.stable is 1, which is not served; served are: none of this name"),
        ({"m": {"stable": "1"}}, "models.labels.m.stable is '1', not the number of a version"),
        ({"m": {"stable": True}}, "models.labels.m.stable is True, not the number of a version"),
        ({"m": 1}, "models.labels.m is 1, not a table"),
    ],
)
def test_a_label_of_nothing_is_refused(labels: dict[str, Any], says: str) -> None:
    """CONFIG_INVALID names the label, and what there is."""
    with pytest.raises(DukouError) as caught:
        read_labels(labels, [ModelVersion("m", 2), ModelVersion("m", 1)])

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert says in str(caught.value)


@pytest.mark.parametrize(("configured", "loaded"), [(False, ""), (True, "google.protobuf")])
def test_planning_imports_protobuf_only_where_a_configuration_is(tmp_path: Path, configured: bool, loaded: str) -> None:
    """And never what computes: the supervisor plans."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    if configured:
        touch(tmp_path / "m" / "config.pbtxt", "max_batch_size: 2")
    heavy = ("numpy", "onnxruntime", "google.protobuf")
    program = (
        "import sys; from dukou.app.plan import make_plan; from dukou.config import ModelsConfig; "
        f"make_plan(ModelsConfig(paths=({str(tmp_path)!r},)), None); print(*set({heavy}) & set(sys.modules), end='')"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout == loaded
