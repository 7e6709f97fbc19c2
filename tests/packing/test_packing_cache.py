"""Bare files packed in passing: found again, made again when damaged, and never imported twice."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dukou.core.errors import DukouError, Reason
from dukou.packing.cache import KEPT, cache_key, pack_in_passing
from dukou.repository.integrity import verify
from dukou.repository.manifest import read_manifest

Files = Callable[[str], Path]


def test_the_second_start_finds_the_first(model_file: Files, tmp_path: Path) -> None:
    """The same file is packed once, under whatever name it serves."""
    cache = tmp_path / "cache"
    said: list[str] = []
    first = pack_in_passing(model_file("scaler"), name="a", cache_dir=cache, report=said.append)
    packed = (first / "manifest.toml").stat().st_mtime_ns
    said.clear()

    second = pack_in_passing(model_file("scaler"), name="b", cache_dir=cache, report=said.append)

    assert second == first
    assert said == []
    assert (second / "manifest.toml").stat().st_mtime_ns == packed
    verify(second, read_manifest(second))


def test_other_content_is_another_entry(model_file: Files, tmp_path: Path) -> None:
    """And so is the same content opened with another permission."""
    keys = {
        cache_key(model_file("scaler"), False, False),
        cache_key(model_file("pca"), False, False),
        cache_key(model_file("scaler"), True, False),
        cache_key(model_file("scaler"), False, True),
    }

    assert len(keys) == 4


@pytest.mark.parametrize("damage", ["model.onnx", "manifest.toml"])
def test_a_damaged_entry_is_made_again(damage: str, model_file: Files, tmp_path: Path) -> None:
    """A file cut short is noticed by its digest."""
    folder = pack_in_passing(model_file("scaler"), name="m", cache_dir=tmp_path / "cache")
    (folder / damage).write_bytes((folder / damage).read_bytes()[:-9])

    again = pack_in_passing(model_file("scaler"), name="m", cache_dir=tmp_path / "cache")

    assert again == folder
    verify(again, read_manifest(again))


def test_only_the_most_recent_entries_stay(model_file: Files, tmp_path: Path) -> None:
    """Old entries go, others' files in the folder stay."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (cache / "notes.txt").write_text("mine")
    for number in range(KEPT + 3):
        entry = cache / f"{number:064x}"
        entry.mkdir()
        os.utime(entry, (number, number))

    pack_in_passing(model_file("scaler"), name="m", cache_dir=cache)

    assert len([path for path in cache.iterdir() if path.is_dir()]) == KEPT
    assert not (cache / f"{0:064x}").exists()
    assert (cache / f"{KEPT + 2:064x}").exists()
    assert (cache / "notes.txt").exists()


def test_a_cache_that_others_can_write_is_refused(model_file: Files, tmp_path: Path) -> None:
    """What lies in the cache is served, so nobody else may put it there."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)

    with pytest.raises(DukouError, match="can be written by others") as refused:
        pack_in_passing(model_file("scaler"), name="m", cache_dir=cache)

    assert refused.value.reason is Reason.CONFIG_INVALID


def test_a_cache_that_cannot_be_made_is_named(model_file: Files, tmp_path: Path) -> None:
    """Here a file is in its place."""
    (tmp_path / "cache").write_text("")

    with pytest.raises(DukouError, match="cache: it cannot be written") as refused:
        pack_in_passing(model_file("scaler"), name="m", cache_dir=tmp_path / "cache")

    assert refused.value.reason is Reason.NOT_WRITABLE


def test_errors_name_the_model(tmp_path: Path) -> None:
    """The name that it would serve under."""
    (tmp_path / "broken.joblib").write_bytes(b"\x80\x04nothing")

    with pytest.raises(DukouError) as refused:
        pack_in_passing(tmp_path / "broken.joblib", name="iris", cache_dir=tmp_path / "cache")

    assert refused.value.facts["model"] == "iris"


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(DukouError, match=r"none\.joblib"):
        pack_in_passing(tmp_path / "none.joblib", name="m", cache_dir=tmp_path / "cache")


def test_weights_beside_an_onnx_file_belong_to_it(tmp_path: Path) -> None:
    """They are packed with it, and when they change it is packed again."""

    def save(value: float) -> None:
        weights = numpy_helper.from_array(np.full((2, 2), value, dtype=np.float32), "w")
        value_info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value_info[:1], value_info[1:], [weights]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)

    save(1.0)
    first = pack_in_passing(tmp_path / "m.onnx", name="m", cache_dir=tmp_path / "cache")
    before = read_manifest(first).digests
    save(2.0)

    second = pack_in_passing(tmp_path / "m.onnx", name="m", cache_dir=tmp_path / "cache")

    assert first == second
    after = read_manifest(second).digests
    assert before["model.onnx"] == after["model.onnx"]
    assert before["weights.bin"] != after["weights.bin"]


@pytest.mark.socket
@pytest.mark.slow
def test_the_second_start_imports_no_framework(model_file: Files, tmp_path: Path) -> None:
    """In a fresh process a cached model is found without scikit-learn, its converter or joblib."""
    cache = tmp_path / "cache"
    pack_in_passing(model_file("logistic-text"), name="m", cache_dir=cache)
    program = """
import sys
from pathlib import Path
from dukou.packing.cache import pack_in_passing
print(pack_in_passing(Path(sys.argv[1]), name="m", cache_dir=Path(sys.argv[2])))
print(sorted({"sklearn", "skl2onnx", "joblib", "pandas", "onnx", "scipy", "onnxruntime"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, str(model_file("logistic-text")), str(cache)]

    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    folder, imported = answer.stdout.splitlines()
    assert Path(folder).is_relative_to(cache)
    assert imported == "[]"
