"""Digests, and folders that appear whole or not at all."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from dukou.core.errors import DukouError, Reason
from dukou.core.model import ModelManifest
from dukou.repository.integrity import atomic_folder, files_to_serve, sha256, verify
from dukou.testing import models


def manifest_of(contents: Mapping[str, bytes], serving: str = "", original: str = "") -> ModelManifest:
    """A manifest with the right digests for `contents`."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return msgspec.structs.replace(
        models.manifest(), digests=digests, serving=serving or next(iter(contents)), original=original
    )


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    """Also for files larger than one read."""
    content = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(content)

    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_untouched_files_are_verified(tmp_path: Path) -> None:
    """No complaint about files that are as they were packed."""
    contents = {"model.onnx": b"a", "weights.bin": b"b"}
    write(tmp_path, contents)

    verify(tmp_path, manifest_of(contents))


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """The error has both digests and says which file."""
    contents = {"model.onnx": b"aaaa"}
    manifest = manifest_of(contents)
    write(tmp_path, {"model.onnx": b"aaab"})

    with pytest.raises(DukouError) as caught:
        verify(tmp_path, manifest)

    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert caught.value.facts["wanted"] == manifest.digests["model.onnx"]
    assert caught.value.facts["got"] == hashlib.sha256(b"aaab").hexdigest()
    assert str(tmp_path / "model.onnx") in str(caught.value)


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    """What cannot be opened is not a mismatch."""
    manifest = manifest_of({"gone": b"", "folder": b""})
    (tmp_path / "folder").mkdir()

    for name, says in (("gone", "the file is missing"), ("folder", "directory"), ("unlisted", "no digest")):
        with pytest.raises(DukouError, match=says) as caught:
            verify(tmp_path, manifest, [name])
        assert caught.value.reason is Reason.ARTIFACT_UNREADABLE


def test_only_the_files_asked_for_are_read(tmp_path: Path) -> None:
    """A damaged original does not stop the compiled form from serving."""
    contents = {"model.onnx": b"a", "model.onnx.data": b"b", "model.joblib": b"c"}
    manifest = manifest_of(contents, original="model.joblib")
    write(tmp_path, contents | {"model.joblib": b"damaged"})

    verify(tmp_path, manifest, files_to_serve(manifest))

    assert files_to_serve(manifest) == ("model.onnx", "model.onnx.data")


def test_the_original_counts_where_it_serves() -> None:
    """An artifact served as it was trained is verified."""
    manifest = manifest_of({"model.joblib": b"a"}, original="model.joblib")

    assert files_to_serve(manifest) == ("model.joblib",)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """Before the end there is nothing under the final name, after it everything, with ordinary permissions."""
    final = tmp_path / "iris" / "1"

    with atomic_folder(final) as folder:
        (folder / "model").write_text("x")
        assert not final.exists()

    assert (final / "model").read_text() == "x"
    assert [path.name for path in final.parent.iterdir()] == ["1"]
    probe = tmp_path / "probe"
    probe.mkdir()
    assert stat.S_IMODE(final.stat().st_mode) == stat.S_IMODE(probe.stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_an_error_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    """Neither the folder nor the parents made for it stay, and the error passes through."""

    def pack() -> None:
        with atomic_folder(tmp_path / "a" / "b" / "1") as folder:
            (folder / "model").write_text("x")
            raise error

    with pytest.raises(type(error)):
        pack()

    assert not list(tmp_path.iterdir())


def test_parents_that_others_use_stay(tmp_path: Path) -> None:
    """Only empty folders that were made here go away again."""

    def pack() -> None:
        with atomic_folder(tmp_path / "a" / "1"):
            (tmp_path / "a" / "other").mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        pack()

    assert [path.name for path in (tmp_path / "a").iterdir()] == ["other"]


def test_an_existing_version_is_never_replaced(tmp_path: Path) -> None:
    """A file or folder of that name, even a dangling link, is refused before any work."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")

    for name in ("folder", "file", "link"):
        with pytest.raises(DukouError) as caught, atomic_folder(tmp_path / name):
            pytest.fail("the body ran")
        assert caught.value.reason is Reason.ALREADY_PACKED


def test_the_slower_of_two_packers_is_refused(tmp_path: Path) -> None:
    """Both began when there was nothing; the first to finish wins, whole."""
    final = tmp_path / "1"

    def race() -> None:
        with atomic_folder(final) as slow:
            (slow / "model").write_text("slow")
            with atomic_folder(final) as fast:
                (fast / "model").write_text("fast")

    with pytest.raises(DukouError) as caught:
        race()

    assert caught.value.reason is Reason.ALREADY_PACKED
    assert (final / "model").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """The kernel's own ENOSPC, from the device that is always full."""

    def pack() -> None:
        with atomic_folder(tmp_path / "a" / "1") as folder:
            (folder / "model").write_text("x")
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"x")

    with pytest.raises(DukouError) as caught:
        pack()

    assert caught.value.reason is Reason.DISK_FULL
    assert not list(tmp_path.iterdir())


def test_a_quota_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A process that may not write more than 4 KiB to a file: the same error, the same clean place."""
    script = """
import resource, sys
from pathlib import Path
from dukou.core.errors import DukouError
from dukou.repository.integrity import atomic_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
root = Path(sys.argv[1])
try:
    with atomic_folder(root / "iris" / "1") as folder:
        (folder / "model").write_bytes(bytes(100_000))
except DukouError as error:
    sys.stdout.write(f"{error.reason.name} {list(root.iterdir())}")
"""

    child = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=30, check=False
    )

    assert child.stdout == "DISK_FULL []", child.stderr


def test_a_place_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    """Permission denied is one clear error. A child of root gives that up first, because root may write anywhere."""
    script = """
import os, sys
from pathlib import Path
from dukou.core.errors import DukouError
from dukou.repository.integrity import atomic_folder
if os.geteuid() == 0:
    os.setuid(65534)
try:
    with atomic_folder(Path(sys.argv[1]) / "iris" / "1"):
        sys.stdout.write("the body ran")
except DukouError as error:
    sys.stdout.write(error.reason.name)
"""
    tmp_path.chmod(0o500)

    child = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=30, check=False
    )

    assert child.stdout == "NOT_WRITABLE", child.stderr
