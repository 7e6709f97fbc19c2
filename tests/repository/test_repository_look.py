"""When a version is there: complete ones only, and what is wrong with the others."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dukou.core.seen import Found, Seen
from dukou.repository import look as looking
from dukou.repository.files import MOST_FILES
from dukou.repository.integrity import sha256
from dukou.repository.look import QUIET_S, Look
from dukou.repository.manifest import MANIFEST, write_manifest
from dukou.testing import models
from dukou.testing.clock import HandClock

NOBODY = 65534


def stand(folder: Path, content: str = "x", name: str = "model.onnx") -> Path:
    """A version without a manifest."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return folder


def pack(folder: Path, content: str = "x", number: int = 1) -> Path:
    """A version with a manifest."""
    stand(folder, content, "model.py")
    digests = {"model.py": sha256(folder / "model.py")}
    write_manifest(folder, msgspec.structs.replace(models.manifest("iris", number), digests=digests))
    return folder


class Watched:
    """A model's folder, looked at by a clock that is set by hand. Its files are written long before the first look."""

    def __init__(self, folder: Path, *, unix_time: float = 1e12) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.look = Look(clock=self.clock, unix_time=lambda: unix_time)

    def after(self, seconds: float) -> Seen:
        self.clock.advance(seconds)
        return self.look.see("iris", self.folder)

    def now(self) -> Seen:
        return self.after(0.0)


@pytest.fixture
def iris(tmp_path: Path) -> Path:
    folder = tmp_path / "iris"
    folder.mkdir()
    return folder


def good(seen: Seen) -> list[int]:
    return [number for number, found in seen.versions.items() if not found.error]


def test_what_nobody_has_touched_is_there_at_the_first_look(iris: Path) -> None:
    """With and without a manifest, highest first; what is no number is ignored."""
    for name in ("1", "00000123", "notes", "1.5", ".4"):
        stand(iris / name)
    pack(iris / "7")

    seen = Watched(iris).now()

    assert good(seen) == [123, 7, 1]
    assert seen.versions[123].folder == str(iris / "00000123")
    assert (seen.arriving, seen.problem, seen.warnings) == ((), "", ())


def test_what_has_just_been_written_is_waited_for(iris: Path) -> None:
    """The first look has nothing to compare it with."""
    stand(iris / "1")
    watched = Watched(iris, unix_time=(iris / "1" / "model.onnx").stat().st_ctime)

    assert watched.now() == Seen(arriving=(1,))
    assert good(watched.after(QUIET_S)) == [1]


def test_a_clock_that_was_set_back_is_waited_for(iris: Path) -> None:
    """As files of the future are no proof of anything."""
    stand(iris / "1")
    watched = Watched(iris, unix_time=0.0)

    assert watched.now().arriving == (1,)
    assert good(watched.after(QUIET_S)) == [1]


def test_a_version_without_a_manifest_appears_once_its_files_rest(iris: Path) -> None:
    """Each change begins the wait anew: size, time, name or inode."""
    watched = Watched(iris)
    watched.now()
    file = stand(iris / "1") / "model.onnx"
    changes = [
        lambda: file.write_text("xy"),
        lambda: os.utime(file, ns=(1, 1)),
        lambda: stand(iris / "1", "z", "weights/part"),
        lambda: (shutil.copy(file, iris / "copy"), os.utime(iris / "copy", ns=(1, 1)), (iris / "copy").replace(file)),
    ]

    assert watched.now().arriving == (1,)
    for change in changes:
        change()
        assert watched.after(QUIET_S) == Seen(arriving=(1,))
    assert watched.after(QUIET_S / 2) == Seen(arriving=(1,))
    assert good(watched.after(QUIET_S / 2)) == [1]


def test_a_packed_version_appears_at_once(iris: Path) -> None:
    """Its digests prove it whole, however young it is."""
    watched = Watched(iris)
    watched.now()
    pack(iris / "1")

    assert good(watched.now()) == [1]


def test_a_half_copied_packed_version_is_arriving_and_then_broken(iris: Path) -> None:
    """Its manifest came before its file had all of its bytes; when the copy goes on, it is whole."""
    watched = Watched(iris)
    watched.now()
    (pack(iris / "1", "whole") / "model.py").write_text("who")

    assert watched.now() == Seen(arriving=(1,))
    broken = watched.after(QUIET_S)
    (iris / "1" / "model.py").write_text("whole")
    whole = watched.now()

    assert "SHA-256" in broken.versions[1].error
    assert whole.versions[1].error == ""
    assert whole.versions[1].mark != broken.versions[1].mark


def test_a_folder_that_is_still_empty_is_arriving_and_then_broken(iris: Path) -> None:
    """Its files may come after it."""
    watched = Watched(iris)
    watched.now()
    (iris / "2").mkdir()

    assert watched.now() == Seen(arriving=(2,))
    assert "there is no such file" in watched.after(QUIET_S).versions[2].error


@pytest.mark.parametrize(
    "name",
    ["model.onnx.tmp", "model.onnx~", ".model.onnx.x1Y2z3", "model.onnx.part", "m.crdownload", "deep/w.partial"],
)
def test_an_unfinished_file_keeps_a_version_back(iris: Path, name: str) -> None:
    """And is named where nothing goes on with it."""
    watched = Watched(iris)
    watched.now()
    stand(iris / "1")
    stand(iris / "1", name=name)

    assert watched.now() == Seen(arriving=(1,))
    assert f"{iris / '1' / name} has the name of an unfinished file" in watched.after(QUIET_S).versions[1].error
    (iris / "1" / name).unlink()
    watched.now()
    assert good(watched.after(QUIET_S)) == [1]


def test_an_unfinished_file_alone_is_named(iris: Path) -> None:
    """Rather than what it will be missed as."""
    stand(iris / "1", name="model.onnx.part")

    assert "model.onnx.part has the name of an unfinished file" in Watched(iris).now().versions[1].error


def test_hidden_files_and_what_python_writes_do_not_count(iris: Path) -> None:
    """They change while a version is served."""
    stand(iris / "1", name="model.py")
    watched = Watched(iris)
    before = watched.now()
    stand(iris / "1", name=".DS_Store")
    stand(iris / "1", name="__pycache__/model.pyc")

    assert watched.after(10.0) == before


def test_a_version_changed_in_place_stays_with_another_mark(iris: Path) -> None:
    """The old mark while it changes, so that it never vanishes; whether the new content is good is told with it."""
    pack(iris / "1", "before")
    watched = Watched(iris)
    before = watched.now().versions[1]
    (iris / "1" / "model.py").write_text("after!")

    changing = watched.now()
    changed = watched.after(QUIET_S).versions[1]

    assert changing == Seen({1: before}, arriving=(1,))
    assert changed.mark != before.mark
    assert "SHA-256" in changed.error


def test_a_deleted_version_vanishes(iris: Path) -> None:
    """While the others stay; and all of them when all are gone, which is no problem."""
    for number in (1, 2):
        pack(iris / str(number))
    watched = Watched(iris)
    watched.now()

    shutil.rmtree(iris / "2")
    one = watched.now()
    shutil.rmtree(iris / "1")

    assert good(one) == [1]
    assert watched.now() == Seen()


def test_a_model_whose_folder_is_gone_or_unreadable_is_a_problem(iris: Path, tmp_path: Path) -> None:
    """Not an empty one: nothing is to be unloaded. When it is back, so are its versions."""
    pack(iris / "1")
    watched = Watched(iris)
    before = watched.now()

    iris.rename(tmp_path / "away")
    gone = watched.now()
    iris.write_text("a file")
    file = watched.now()
    iris.unlink()
    (tmp_path / "away").rename(iris)

    assert gone.versions == file.versions == {}
    assert gone.problem == f"{iris}: No such file or directory"
    assert file.problem == f"{iris}: Not a directory"
    assert watched.now() == before


@pytest.fixture
def without_rights() -> Iterator[Path]:
    """A model's folder for somebody who may not read everything, as root may."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as made:
        if root:
            os.chown(made, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(made)
        finally:
            if root:
                os.seteuid(0)


def test_unreadable_files_are_told(without_rights: Path) -> None:
    """A version's folder, a file in one, and the model's own folder."""
    iris = without_rights
    pack(iris / "1").chmod(0)
    (pack(iris / "2") / "model.py").chmod(0)
    watched = Watched(iris)

    seen = watched.now()
    iris.chmod(0)
    unread = watched.now()
    iris.chmod(0o700)
    (iris / "1").chmod(0o700)

    assert seen.versions[1].error == f"{iris / '1'}: Permission denied"
    assert "Permission denied" in seen.versions[2].error
    assert unread == Seen(problem=f"{iris}: Permission denied")


def test_a_manifest_that_is_none_is_told(iris: Path) -> None:
    """Beside the versions that are good."""
    pack(iris / "1")
    (pack(iris / "2") / MANIFEST).write_text("format = 9")

    seen = Watched(iris).now()

    assert good(seen) == [1]
    assert "this dukou reads format 1" in seen.versions[2].error


def test_the_place_names_a_version_not_its_manifest(iris: Path) -> None:
    """A copied folder is the version that it is called."""
    pack(iris / "7", number=1)

    assert good(Watched(iris).now()) == [7]


def test_of_two_folders_with_one_number_the_last_counts(iris: Path) -> None:
    """With a warning that names both."""
    stand(iris / "007")
    stand(iris / "7")

    seen = Watched(iris).now()

    assert seen.versions[7].folder == str(iris / "7")
    assert str(iris / "007") in seen.warnings[0]


def test_links_that_lead_out_are_refused(iris: Path, tmp_path: Path) -> None:
    """A version's folder, a file, a folder of files, and one that leads nowhere yet; nothing of them is opened."""
    pack(tmp_path / "outside" / "1")
    (iris / "1").symlink_to(tmp_path / "outside" / "1")
    for number, target in ((2, "outside/1/model.py"), (3, "outside/1"), (4, "nowhere")):
        stand(iris / str(number))
        (iris / str(number) / "linked").symlink_to(tmp_path / target)
    pack(iris / "5")

    seen = Watched(iris).now()

    assert good(seen) == [5]
    for number in (1, 2, 3, 4):
        assert f"it is a symbolic link that leads out of {iris}" in seen.versions[number].error


def test_links_within_the_repository_are_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts volumes, from one model to another, and a root that is itself a link."""
    (tmp_path / "real" / "iris").mkdir(parents=True)
    root = tmp_path / "root"
    root.symlink_to(tmp_path / "real")
    stand(root / "iris" / "..2026_11" / "1")
    (root / "iris" / "..data").symlink_to("..2026_11")
    (root / "iris" / "1").symlink_to("..data/1")
    pack(root / "other" / "5")
    (root / "iris" / "2").symlink_to("../other/5")
    look = Look(quiet_s=0.0)

    assert good(look.see("iris", root / "iris", root=root)) == [2, 1]
    assert good(look.see("iris", root / "iris")) == [1]


def test_a_new_target_of_a_link_is_another_mark(iris: Path) -> None:
    """So a volume that is updated in place is noticed."""
    for name in ("..1", "..2"):
        stand(iris / name / "1")
    (iris / "..data").symlink_to("..1")
    (iris / "1").symlink_to("..data/1")
    watched = Watched(iris)
    before = watched.now()

    (iris / "next").symlink_to("..2")
    (iris / "next").replace(iris / "..data")
    watched.now()

    assert watched.after(QUIET_S).versions[1].mark != before.versions[1].mark


def test_a_model_that_is_a_link_out_of_the_repository_is_a_problem(iris: Path, tmp_path: Path) -> None:
    """Where the repository is served, not where the link itself is."""
    pack(iris / "1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "iris").symlink_to(iris)
    look = Look(quiet_s=0.0)

    assert "leads out of" in look.see("iris", root / "iris", root=root).problem
    assert good(look.see("iris", root / "iris")) == [1]


def test_loops_and_masses_of_files_end(iris: Path) -> None:
    """A link to a folder above it, and a folder that is no version."""
    stand(iris / "1")
    (iris / "1" / "again").symlink_to(iris / "1")
    (iris / "2").mkdir()
    for number in range(MOST_FILES + 1):
        (iris / "2" / str(number)).touch()

    seen = Watched(iris).now()

    assert seen.versions[1].error
    assert f"more than {MOST_FILES} files" in seen.versions[2].error


def test_what_is_no_file_is_refused(iris: Path) -> None:
    """Opening a pipe would wait for ever."""
    (iris / "1").mkdir()
    os.mkfifo(iris / "1" / "model.onnx")

    assert "neither a file nor a folder" in Watched(iris).now().versions[1].error


def test_a_model_without_a_number_is_version_1(iris: Path) -> None:
    """A folder with a `model.py`."""
    stand(iris, name="model.py")

    assert Watched(iris).now().versions == {1: Found(str(iris), Watched(iris).now().versions[1].mark)}


def test_tritons_configuration_is_one_of_the_files(iris: Path) -> None:
    """What is wrong with it is tried again once it has changed."""
    stand(iris / "1")
    (iris / "config.pbtxt").write_text("max_batch_size: x")
    watched = Watched(iris)
    before = watched.now().versions[1]

    (iris / "config.pbtxt").write_text("max_batch_size: 8")
    watched.now()

    assert watched.after(QUIET_S).versions[1].mark != before.mark


def test_only_versions_that_are_wanted_are_hashed(iris: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each mark; in place of a broken one, the next."""
    hashed: list[str] = []
    real = looking.verify
    monkeypatch.setattr(looking, "verify", lambda folder, *rest: (hashed.append(folder.name), real(folder, *rest)))
    for number in (1, 2, 3, 4):
        pack(iris / str(number))
    (iris / "4" / "model.py").write_text("damaged")
    look = Look(quiet_s=0.0)

    for _ in range(3):
        seen = look.see("iris", iris, wanted=lambda numbers: list(numbers)[:1])

    assert hashed == ["4", "3"]
    assert good(seen) == [3, 2, 1]


def test_a_large_version_is_hashed_when_it_rests(iris: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being copied would be read anew at every look."""
    monkeypatch.setattr(looking, "HASHED_AT_ONCE_BYTES", 0)
    watched = Watched(iris)
    watched.now()
    pack(iris / "1")

    assert watched.now() == Seen(arriving=(1,))
    assert good(watched.after(QUIET_S)) == [1]


def test_fixed_versions_are_looked_at_where_they_are(tmp_path: Path) -> None:
    """Each in its own folder; one that is gone is a problem, as it was named."""
    one, two = pack(tmp_path / "a" / "1"), stand(tmp_path / "b" / "2")
    look = Look(quiet_s=0.0)

    seen = look.see_fixed("iris", {1: one, 2: two})
    shutil.rmtree(two)
    gone = look.see_fixed("iris", {1: one, 2: two})

    assert sorted(good(seen)) == [1, 2]
    assert gone == Seen(problem=f"{two}: No such file or directory")


def test_a_model_that_is_served_from_another_folder_is_looked_at_afresh(tmp_path: Path) -> None:
    """Nothing of the one before is remembered for it."""
    for name in ("a", "b"):
        stand(tmp_path / name / "1")
    clock = HandClock()
    look = Look(clock=clock, unix_time=lambda: 1e12)

    one = look.see("iris", tmp_path / "a").versions[1]
    other = look.see("iris", tmp_path / "b").versions[1]

    assert one.folder != other.folder
    assert one.mark != other.mark


def test_thousands_of_versions_are_looked_at_by_name(iris: Path) -> None:
    """None but the wanted one is opened."""
    for number in range(3000):
        folder = iris / str(number)
        folder.mkdir()
        (folder / MANIFEST).write_text("not read")
    pack(iris / "5000")

    seen = Look(quiet_s=0.0).see("iris", iris, wanted=lambda numbers: [max(numbers)])

    assert len(seen.versions) == 3001
    assert seen.versions[5000].error == seen.versions[7].error == ""


def test_files_that_are_deleted_while_they_are_listed_do_no_harm(iris: Path) -> None:
    """A look tells what it found, or that it is gone."""
    look = Look(quiet_s=0.0)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            pack(iris / "1" / "deep" / "er")
            stand(iris / "1")
            shutil.rmtree(iris / "1")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            seen = look.see("iris", iris)
            assert not seen.problem
            assert set(seen.versions) <= {1}
    finally:
        stop.set()
        thread.join(10)


def test_what_is_known_to_be_broken_is_not_looked_into_again(iris: Path) -> None:
    """Thousands of such versions would be gone through at every look."""
    for number in range(5):
        (iris / str(number)).mkdir()
    asked: list[list[int]] = []
    look = Look(quiet_s=0.0)

    for _ in range(2):
        look.see("iris", iris, wanted=lambda numbers: asked.append(list(numbers)) or asked[-1][:1])

    assert asked == [[4, 3, 2, 1, 0], [3, 2, 1, 0], [2, 1, 0], [1, 0], [0], [], []]
