"""What may go wrong while models change, shown with the whole server: it says what is wrong, and goes on as it was."""

import errno
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import onnx
import psutil
import pytest
from app_place import NAME, Place, ask, until
from onnx import TensorProto, helper
from test_app_changes import adds

from dukou.client.errors import ClientError
from dukou.control.operations import ModelStatus

pytestmark = [pytest.mark.socket, pytest.mark.slow]

CONFIG = """
model_config_list {{
  config {{
    name: 'm'
    base_path: '{base}'
    model_platform: 'tensorflow'
    {more}
  }}
}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[Place]:
    """A server of a model with two versions, the first of which answers."""
    adds(1.0, folder / "models" / NAME / "1" / "model.onnx")
    place = Place(folder)
    place.verb("deploy", version=1)  # so that another version waits until somebody asks for it
    adds(2.0, place.models / NAME / "2" / "model.onnx")
    yield place
    place.end()


def refused(ask_for: Callable[[], object]) -> str:
    """With which words."""
    with pytest.raises(ClientError) as raised:
        ask_for()
    return str(raised.value)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("incremental:5,50", "the last step has to be 100 %, it is 50 %"),
        ("incremental:50,20,100", "the steps have to grow, and 20 % comes after 50 %"),
        ("incremental,shadow", "shadow comes first"),
        ("gradually", "'gradually'"),
    ],
)
def test_a_plan_that_is_none_is_refused(place: Place, plan: str, said: str) -> None:
    """The sentence says what is wrong; no rollout begins."""
    assert said in refused(lambda: place.verb("deploy", version=2, plan=plan))

    assert place.status().rollout is None
    assert place.answers(3) == {1: 3}


def test_a_label_of_a_version_that_is_not_loaded_is_refused(place: Place) -> None:
    """In TensorFlow Serving's sense: a label moves to what is AVAILABLE."""
    path = f"/v1/models/{NAME}/labels/canary"

    assert "not currently available" in refused(lambda: place.admin.put(path, ModelStatus, {"version": 2}))
    assert "77" in refused(lambda: place.admin.put(path, ModelStatus, {"version": 77}))
    assert place.admin.put(path, ModelStatus, {"version": 1}).versions[-1].labels == ("canary",)


def test_a_candidate_with_another_signature_never_answers(place: Place) -> None:
    """Its rollout ends when it is loaded and its inputs are known, and says the difference; then it is barred."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in ("other", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["other"], ["y"])], "same", [x], [y])
    path = place.models / NAME / "3" / "model.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)

    place.verb("deploy", version=3, plan="incremental least_s=3600")
    until(lambda: place.rollout()["status"] == "ROLLED_BACK", "an end of the rollout")

    assert "version 3 cannot take the calls of version 1" in place.rollout()["reason"]
    assert "'other'" in place.rollout()["reason"]
    assert place.answers(10) == {1: 10}
    assert "is barred" in refused(lambda: place.verb("deploy", version=3, plan="incremental"))


def test_a_locked_store_refuses_changes_until_it_is_free(place: Place) -> None:
    """Calls are answered meanwhile, and what was refused has not happened."""
    with closing(sqlite3.connect(place.state / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = refused(lambda: place.verb("deploy", version=2))
        before = place.answers(5)
        other.execute("ROLLBACK")

    place.verb("deploy", version=2)

    assert "another process holds its lock" in said
    assert before == {1: 5}
    until(lambda: place.shares() == {2: 1.0}, "version 2 for everybody")
    place.verb("rollback")
    assert place.answers(5) == {1: 5}


def test_a_store_that_is_locked_at_the_start_is_waited_for(place: Place) -> None:
    """What was in force is served, verbs are refused, and kept once the other has let go."""
    place.server.kill_all()
    label = f"/v1/models/{NAME}/labels/late"
    with closing(sqlite3.connect(place.state / "store.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        place.start()
        answered = place.answers(5)
        said = refused(lambda: place.admin.put(label, ModelStatus, {"version": 1}))
    after = place.admin.put(label, ModelStatus, {"version": 1})

    assert answered == {1: 5}
    assert "another process holds its lock" in said
    assert "late" in after.versions[-1].labels


def test_a_candidate_whose_folder_is_deleted_ends_its_rollout(place: Place) -> None:
    """Its calls are its primary's again; nobody gets an error."""
    adds(4.0, place.models / NAME / "4" / "model.onnx")
    place.verb("deploy", version=4, plan="incremental:50,100 least_s=3600")
    until(lambda: place.shares() == {1: 0.5, 4: 0.5}, "half of the calls for the candidate")
    shutil.rmtree(place.models / NAME / "4")

    until(lambda: place.answers(10) == {1: 10}, "only the primary's answers")

    assert place.rollout()["status"] == "ROLLED_BACK"
    assert place.rollout()["reason"] == "version 4 is no longer in the repository"


def test_a_disk_that_takes_no_more_refuses_changes_until_it_does(place: Place) -> None:
    """The supervisor may not write another byte: it says so, and calls are answered meanwhile."""
    supervisor = psutil.Process(place.server.process.pid)
    label = f"/v1/models/{NAME}/labels/full"
    _, hard = supervisor.rlimit(psutil.RLIMIT_FSIZE)
    supervisor.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
    said = refused(lambda: place.admin.put(label, ModelStatus, {"version": 1}))
    before = place.answers(5)
    supervisor.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))

    after = place.admin.put(label, ModelStatus, {"version": 1})

    assert "store.db" in said
    assert before == {1: 5}
    assert "full" in after.versions[-1].labels


def test_the_last_state_is_served_when_the_store_is_damaged(place: Place) -> None:
    """Changes are refused, with what to do about it; once it is moved away, the next one is kept in a new store."""
    store = place.state / "store.db"
    barred = [one.version for one in place.status().versions if one.barred]
    place.server.kill_all()
    for name in ("store.db-wal", "store.db-shm"):
        (place.state / name).unlink(missing_ok=True)
    store.write_bytes(b"no database at all" * 1000)

    place.start()
    answered = place.answers(5)
    said = refused(lambda: place.verb("promote", version=2))
    still = [one.version for one in place.status().versions if one.barred]
    store.rename(store.with_name("damaged"))
    place.verb("promote", version=2)

    assert barred
    assert still == barred
    assert answered == {1: 5}
    assert "it is damaged" in said
    until(lambda: place.answers(1) == {2: 1}, "version 2")
    place.server.kill_all()
    assert place.audit()[0].verb in {"promote", "follow"}
    place.start()
    assert place.answers(5) == {2: 5}


def test_a_config_file_that_is_none_changes_nothing(tmp_path: Path) -> None:
    """Bad text, a name twice, a label of a version that is not loaded: the reload is refused with the line or the name,
    and what is served stays, after all of them and when the file is well again."""
    for number in (1, 2):
        adds(float(number), tmp_path / "models" / NAME / str(number) / "model.onnx")
    base = tmp_path / "models" / NAME
    specific = "model_version_policy { specific { versions: 1 } }"
    file = tmp_path / "models.config"
    file.write_text(CONFIG.format(base=base, more=specific))
    place = Place(tmp_path, f"--model_config_file={file}")
    try:
        for text, said in (
            (CONFIG.format(base=base, more="version_policy: oops"), "line 7"),
            (CONFIG.format(base=base, more=specific) * 2, NAME),
            (CONFIG.format(base=base, more=specific + "version_labels { key: 'l' value: 2 }"), "2"),
        ):
            file.write_text(text)
            answer = place.server.post(f"/v1/models/{NAME}/versions/1/reload", b"")
            assert answer.status_code >= 400
            assert said in answer.json()["error"]
            assert place.answers(3) == {1: 3}

        file.write_text(CONFIG.format(base=base, more=""))
        answer = place.server.post(f"/v1/models/{NAME}/versions/2/reload", b"")
        assert answer.status_code == 200, answer.text
        assert place.answers(3) == {2: 3}
    finally:
        place.end()


def fill(file: BinaryIO) -> None:
    """Until the disk is full."""
    while True:
        try:
            file.write(bytes(4096))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return
            raise


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode,
    reason="needs a file system of its own",
)
def test_a_full_disk_stops_changes_and_nothing_else(tmp_path: Path) -> None:
    """No block is free where the state is kept: a new version is loaded, answers and is counted somewhere; verbs are
    refused. With room again, they are kept."""
    adds(1.0, tmp_path / "models" / NAME / "1" / "model.onnx")
    state = tmp_path / "state"
    state.mkdir()
    mount = 'mount -t tmpfs -o size=24m none "$0" && exec "$@"'
    place = Place(tmp_path, prefix=["unshare", "-rm", "sh", "-c", mount, str(state)])
    try:
        seen_by_it = Path(f"/proc/{place.server.process.pid}/root") / state.relative_to("/")
        (worker,) = place.server.workers()
        with (seen_by_it / "filler").open("wb", buffering=0) as filler:
            fill(filler)
            adds(2.0, place.models / NAME / "2" / "model.onnx")
            until(lambda: ask(place.port) == 2.0, "version 2")
            answered = {ask(place.port) for _ in range(50)}
            said = refused(lambda: place.verb("deploy", version=1))
            alive = place.server.workers()
            filler.truncate(0)

        place.verb("deploy", version=1)

        assert answered == {2.0}
        assert alive == [worker]
        assert "store.db" in said
        assert "no space left" in said
        until(lambda: place.answers(1) == {1: 1}, "version 1")
    finally:
        place.end()
