"""New versions for a repository: whole, under the next number, whoever else pushes."""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelVersion
from dukou.packing.push import push
from dukou.repository.integrity import verify
from dukou.repository.look import Look
from dukou.repository.manifest import MANIFEST, read_manifest


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["X"], ["Y"])],
        "sums",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["rows", 2])],
    )
    path = tmp_path_factory.mktemp("model") / "sums.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def served(repository: Path, name: str) -> list[int]:
    """The versions that a server would find good."""
    seen = Look(quiet_s=0.0).see(name, repository / name)
    return [number for number, found in seen.versions.items() if not found.error]


def visible(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_becomes_the_next_version(sums: Path, tmp_path: Path) -> None:
    """Packed, called by the number it has, and nothing else is left in the repository."""
    pushed = [push(sums, to=tmp_path, name="adder")[0] for _ in range(2)]

    assert pushed == [ModelVersion("adder", 1), ModelVersion("adder", 2)]
    assert served(tmp_path, "adder") == [2, 1]
    assert read_manifest(tmp_path / "adder" / "2").id == ModelVersion("adder", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["adder"]


def test_a_packed_version_is_copied(sums: Path, tmp_path: Path) -> None:
    """Its manifest says its new name and number, its digests hold, what is hidden stays behind."""
    _, build, _ = push(sums, to=tmp_path / "build")
    (build / ".notes").write_text("x")

    pushed, folder, manifest = push(build, to=tmp_path / "live", version=9)
    renamed, _, _ = push(build, to=tmp_path / "live", name="other")

    assert (pushed, renamed) == (ModelVersion("sums", 9), ModelVersion("other", 1))
    assert manifest is not None
    verify(folder, manifest)
    assert read_manifest(folder) == manifest
    assert manifest.id == pushed
    assert visible(folder) == [MANIFEST, "model.onnx"]


def test_a_folder_with_an_onnx_file_or_a_model_py_is_copied(sums: Path, tmp_path: Path) -> None:
    """As it stands, named after its folder."""
    (tmp_path / "adder" / "weights").mkdir(parents=True)
    (tmp_path / "adder" / "model.py").write_text("class Model: ...")
    (tmp_path / "adder" / "weights" / "w").write_text("1")
    (tmp_path / "flow" / "3").mkdir(parents=True)
    (tmp_path / "flow" / "3" / "a.onnx").write_bytes(sums.read_bytes())

    python, folder, manifest = push(tmp_path / "adder", to=tmp_path / "live")
    graph, _, _ = push(tmp_path / "flow" / "3", to=tmp_path / "live")

    assert (python, graph) == (ModelVersion("adder", 1), ModelVersion("flow", 1))
    assert manifest is None
    assert visible(folder) == ["model.py", "weights", "weights/w"]


def test_pushes_at_once_get_different_numbers(sums: Path, tmp_path: Path) -> None:
    """And none overwrites another."""
    with ThreadPoolExecutor(6) as pool:
        pushed = list(pool.map(lambda _: push(sums, to=tmp_path)[0].version, range(12)))

    assert sorted(pushed) == served(tmp_path, "sums")[::-1] == list(range(1, 13))
    for number in pushed:
        assert read_manifest(tmp_path / "sums" / str(number)).id.version == number


def test_a_number_that_is_taken_is_refused(sums: Path, tmp_path: Path) -> None:
    """Before and after the work: what is there stays as it is."""
    push(sums, to=tmp_path, version=3)
    before = (tmp_path / "sums" / "3" / MANIFEST).read_bytes()

    with pytest.raises(DukouError) as caught:
        push(sums, to=tmp_path, version=3)

    assert caught.value.reason is Reason.ALREADY_PACKED
    assert (tmp_path / "sums" / "3" / MANIFEST).read_bytes() == before
    assert visible(tmp_path / "sums") == ["3", f"3/{MANIFEST}", "3/model.onnx"]


def test_a_number_that_is_taken_meanwhile_is_refused(sums: Path, tmp_path: Path) -> None:
    """Where it was asked for; nothing is left of the work."""
    theirs = tmp_path / "sums" / "3" / "theirs"

    def somebody_else(step: str) -> None:
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.touch()

    with pytest.raises(DukouError) as caught:
        push(sums, to=tmp_path, version=3, report=somebody_else)

    assert caught.value.reason is Reason.ALREADY_PACKED
    assert visible(tmp_path) == ["sums", "sums/3", "sums/3/theirs"]


def test_a_damaged_version_is_not_pushed(sums: Path, tmp_path: Path) -> None:
    """Its digests are verified after the copy."""
    _, build, _ = push(sums, to=tmp_path / "build")
    (build / "model.onnx").write_bytes(b"x")

    with pytest.raises(DukouError) as caught:
        push(build, to=tmp_path / "live")

    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert not (tmp_path / "live").exists()


@pytest.mark.parametrize("place", ["", "sums", "empty", "linked"])
def test_a_folder_that_is_no_version_is_refused(sums: Path, tmp_path: Path, place: str) -> None:
    """A repository, a model's folder, nothing, and one with a link that leads out of it."""
    build = tmp_path / "build"
    push(sums, to=build)
    (build / "empty").mkdir()
    (build / "linked").mkdir()
    (build / "linked" / "model.onnx").symlink_to(sums)

    with pytest.raises(DukouError) as caught:
        push(build / place, to=tmp_path / "live", name="m")

    assert caught.value.reason is Reason.ARTIFACT_UNSUPPORTED
    assert not (tmp_path / "live").exists()


@pytest.mark.parametrize(("name", "version"), [("a/b", None), (".a", None), ("a", 0), ("a", 2**63)])
def test_what_names_no_version_is_refused(sums: Path, tmp_path: Path, name: str, version: int | None) -> None:
    """Before anything is made."""
    with pytest.raises(DukouError) as caught:
        push(sums, to=tmp_path / "live", name=name, version=version)

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert not (tmp_path / "live").exists()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A process that may write no more than 4 KiB to a file; the place named is the one that was asked for."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.py").write_text("x" * 100_000)
    script = """
import resource, sys
from pathlib import Path
from dukou.core.errors import DukouError
from dukou.packing.push import push
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
root = Path(sys.argv[1])
try:
    push(root / "m", to=root / "live")
except DukouError as error:
    named = error.facts["path"] == str(root / "live" / "m")
    sys.stdout.write(f"{error.reason.name} {named} {(root / 'live').exists()}")
"""

    child = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=30, check=False
    )

    assert child.stdout == "DISK_FULL True False", child.stderr


def test_a_repository_that_may_not_be_written_is_said() -> None:
    """A child of root gives its rights up first, because root may write anywhere."""
    script = """
import os, sys
from pathlib import Path
from dukou.core.errors import DukouError
from dukou.packing.push import push
if os.geteuid() == 0:
    os.setuid(65534)
root = Path(sys.argv[1])
try:
    push(root / "m", to=root / "live")
except DukouError as error:
    sys.stdout.write(f"{error.reason.name} {error.facts['path']}")
"""

    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        root.chmod(0o755)
        (root / "m").mkdir()
        (root / "m" / "model.py").write_text("x")
        (root / "live").mkdir(mode=0o555)

        child = subprocess.run(
            [sys.executable, "-c", script, root], capture_output=True, text=True, timeout=30, check=False
        )

    assert child.stdout == f"NOT_WRITABLE {root / 'live' / 'm'}", child.stderr


def test_the_number_after_a_model_without_one_is_2(sums: Path, tmp_path: Path) -> None:
    """A folder with a `model.py` is version 1 already."""
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "model.py").write_text("x")

    assert push(sums, to=tmp_path)[0].version == 2
