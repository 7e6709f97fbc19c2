"""Capture: what is recorded, what is never written, and that nothing of it can hurt serving."""

import json
import logging
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from threading import Event as Flag
from typing import Any

import numpy as np
import pytest

from dukou.config import CaptureConfig
from dukou.core.message import Copy
from dukou.core.model import DEFAULT_SIGNATURE, ModelManifest, ModelVersion, Signature, TensorSpec
from dukou.telemetry.capture import Capture, blanks_of, capture_folder, redacted
from dukou.telemetry.recording import MAGIC, MOST_FILES, Record, captured
from dukou.testing.clock import HandClock
from dukou.testing.models import manifest

PEOPLE = Signature(
    name=DEFAULT_SIGNATURE,
    inputs=(
        TensorSpec("X", "FP64", (-1, 3), columns=("age", "height", "weight")),
        TensorSpec("name", "BYTES", (-1,)),
    ),
    outputs=(TensorSpec("label", "INT64", (-1,)),),
)

LONG_S = 60.0


def whole(folder: Path, model: str = "iris") -> list[Record]:
    """Everything that was recorded, where all of it has to be readable."""
    told: list[str] = []
    records = list(captured(folder, model, told.append))
    assert not told
    return records


def iris(value: float, rows: int = 1, version: int = 1, name: str = "iris") -> Copy:
    """An execution of `rows` equal rows."""
    inputs = {"X": np.full((rows, 4), value, np.float32)}
    return Copy(ModelVersion(name, version), DEFAULT_SIGNATURE, inputs, {"label": np.zeros(rows, np.int64)}, rows)


def person(name: str, age: float) -> Copy:
    """An execution of one row of PEOPLE."""
    inputs = {"X": np.array([[age, 1.8, 77.0]]), "name": np.array([name], object)}
    return Copy(ModelVersion("people", 1), DEFAULT_SIGNATURE, inputs, {"label": np.array([3])}, 1)


def people() -> ModelManifest:
    return manifest("people", signatures=(PEOPLE,))


def recorded(folder: Path, copies: Sequence[Copy], of: ModelManifest | None = None, **settings: Any) -> Capture:
    """What a capture of these executions has written, by the time it is closed."""
    capture = Capture(CaptureConfig(**{"share": 1.0, **settings}), folder, 0, clock=count(1).__next__)
    tap = capture.tap(of or manifest())
    for copy in copies:
        tap(copy)
    capture.close()
    return capture


def test_an_execution_comes_back_as_it_was(tmp_path: Path) -> None:
    """Version, signature, tensors, rows, parameters, the model's time, and when it was."""
    copy = iris(2.5, rows=3, version=7)
    copy.parameters, copy.infer_s = {"temperature": 0.5}, 0.25

    recorded(tmp_path, [copy])

    (record,) = whole(tmp_path)
    assert record.at == 1
    assert (record.copy.version, record.copy.rows, record.copy.infer_s) == (ModelVersion("iris", 7), 3, 0.25)
    assert record.copy.parameters == {"temperature": 0.5}
    np.testing.assert_array_equal(record.copy.inputs["X"], copy.inputs["X"])
    np.testing.assert_array_equal(record.copy.outputs["label"], copy.outputs["label"])


def test_the_share_is_drawn_for_each_execution(tmp_path: Path) -> None:
    """A number below the share records; the draw is an argument."""
    draws: Iterator[float] = iter([0.1, 0.3, 0.29, 0.9, 0.0])
    capture = Capture(CaptureConfig(share=0.3), tmp_path, 0, draw=draws.__next__)
    tap = capture.tap(manifest())

    for value in range(5):
        tap(iris(value))
    capture.close()

    assert [record.copy.inputs["X"][0, 0] for record in whole(tmp_path)] == [0, 2, 4]


def test_each_model_has_a_folder_and_each_worker_its_files(tmp_path: Path) -> None:
    """Two workers record the same model side by side; another model is elsewhere."""
    for slot in (0, 1):
        capture = Capture(CaptureConfig(share=1.0), tmp_path, slot)
        capture.tap(manifest())(iris(slot))
        capture.tap(manifest("prices"))(iris(9, name="prices"))
        capture.close()

    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.capture"))

    assert found == [f"{name}/worker{slot}-000001.capture" for name in ("iris", "prices") for slot in (0, 1)]
    assert [record.copy.inputs["X"][0, 0] for record in whole(tmp_path)] == [0, 1]


@pytest.mark.parametrize("name", ["../up", "..", ".hidden", "a/b", "名", "con:1", "%2E"])
def test_a_model_of_any_name_stays_in_the_folder(name: str, tmp_path: Path) -> None:
    """Names come from configurations of other servers too; none leads elsewhere and no two meet."""
    root = tmp_path / "capture"

    recorded(root, [iris(1, name=name)], manifest(name))

    assert [record.copy.version.name for record in whole(root, name)] == [name]
    assert {path.parent for path in tmp_path.rglob("*.capture")} == set(root.iterdir())


def test_only_this_user_can_read_what_was_recorded(tmp_path: Path) -> None:
    """0600 for files, 0700 for folders, whatever the umask lets through."""
    recorded(tmp_path / "capture", [iris(1)])

    (file,) = tmp_path.rglob("*.capture")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_of_what_is_redacted_no_byte_is_written(tmp_path: Path) -> None:
    """An input, a column of another, a parameter and an output of that name: their bytes are in no file."""
    secret, age = "Agnes Meinhard", 47.123456789
    copy = person(secret, age)
    copy.parameters = {"name": "Agnes again"}
    copy.outputs = {"label": np.array([3]), "name": np.array([secret.encode()], object)}

    recorded(tmp_path, [copy], people(), redact=("name", "age"))

    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.capture"))
    (record,) = whole(tmp_path, "people")
    assert b"Agnes" not in written
    assert np.float64(age).tobytes() not in written
    assert np.float64(77.0).tobytes() in written
    assert record.redacted == ("name", "age")
    assert record.copy.inputs["X"].tolist() == [[0.0, 1.8, 77.0]]
    assert record.copy.inputs["name"].tolist() == [""]
    assert record.copy.outputs["name"].tolist() == [""]
    assert record.copy.parameters == {}


def test_redacting_leaves_the_callers_arrays_alone() -> None:
    """What is answered shares these arrays."""
    copy = person("Agnes", 47.0)

    redacted(copy, blanks_of(PEOPLE, ("age", "name")), ("age", "name"))

    assert copy.inputs["X"].tolist() == [[47.0, 1.8, 77.0]]
    assert copy.inputs["name"].tolist() == ["Agnes"]


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float16, np.dtype([("bfloat16", "<u2")])])
def test_an_input_of_any_datatype_can_be_left_out(dtype: Any) -> None:
    """Zeros of its own kind and shape, so that a model may still take it."""
    array = np.ones((2, 2), dtype)
    copy = Copy(ModelVersion("m", 1), "s", {"x": array}, {}, 2)

    found = redacted(copy, {"x": None}, ("x",)).inputs["x"]

    assert found.dtype == array.dtype
    assert found.tobytes() == bytes(array.nbytes)


def test_an_execution_of_an_unknown_signature_is_not_recorded(tmp_path: Path) -> None:
    """Nobody knows which of its columns are to be left out."""
    copy = person("Agnes", 47.0)
    copy.signature = "another"

    capture = recorded(tmp_path, [copy, person("Bert", 50.0)], people(), redact=("name",))

    assert capture.dropped == 1
    assert len(whole(tmp_path, "people")) == 1


def test_the_oldest_go_so_that_the_whole_keeps_its_size(tmp_path: Path) -> None:
    """Never more bytes than allowed, the newest records kept, most of the allowance used."""
    most = 65_536

    recorded(tmp_path, [iris(value, rows=16) for value in range(2000)], max_bytes=most)

    values = [record.copy.inputs["X"][0, 0] for record in whole(tmp_path)]
    total = sum(path.stat().st_size for path in tmp_path.rglob("*.capture"))
    assert values == list(range(2000 - len(values), 2000))
    assert most * 0.75 <= total <= most


def test_a_worker_that_starts_again_adds_a_file(tmp_path: Path) -> None:
    """The files of the one before count against the bound, and there are only so many."""
    for value in range(MOST_FILES + 5):
        recorded(tmp_path, [iris(value)])

    records = whole(tmp_path)
    assert len(list(tmp_path.rglob("*.capture"))) == MOST_FILES
    assert records[-1].copy.inputs["X"][0, 0] == MOST_FILES + 4


def test_what_is_larger_than_everything_may_be_is_dropped(tmp_path: Path) -> None:
    """It would drive out all others and then not fit."""
    capture = recorded(tmp_path, [iris(1), iris(2, rows=10_000), iris(3)], max_bytes=65_536)

    assert capture.dropped == 1
    assert [record.copy.inputs["X"][0, 0] for record in whole(tmp_path)] == [1, 3]


def test_what_comes_too_fast_is_dropped_and_said_once_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is bounded. One line for many, the next a minute later at the earliest."""
    now = HandClock()
    capture = Capture(
        CaptureConfig(share=1.0), tmp_path, 0, steady_clock=lambda: now.now, most_waiting=2, pause_s=LONG_S
    )
    tap = capture.tap(manifest())

    with caplog.at_level(logging.WARNING, "dukou.capture"):
        for value in range(50):
            tap(iris(value))
        capture.close()

    assert capture.dropped >= 50 - 2 * 2
    assert [record.message for record in caplog.records] == [
        f"{capture.dropped} executions were not recorded: too large, or they came faster than they are written"
    ]
    assert len(whole(tmp_path)) == 50 - capture.dropped


def test_the_newest_of_all_workers_can_be_asked_for(tmp_path: Path) -> None:
    """By the time of the execution, not by file."""
    for slot, times in enumerate(([1.0, 4.0, 5.0], [2.0, 3.0, 6.0])):
        capture = Capture(CaptureConfig(share=1.0), tmp_path, slot, clock=iter(times).__next__)
        tap = capture.tap(manifest())
        for at in times:
            tap(iris(at))
        capture.close()

    newest = [sorted(record.at for record in captured(tmp_path, "iris", print, most)) for most in (0, 1, 3, 6, 99)]

    assert newest == [[], [6.0], [4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]


def test_a_folder_that_cannot_be_written_ends_the_recording_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where the folder should be. The taps go on taking executions, and nothing is raised."""
    (tmp_path / "capture").write_text("in the way")

    with caplog.at_level(logging.WARNING, "dukou.capture"):
        recorded(tmp_path / "capture", [iris(1), iris(2)])

    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"recording has stopped: {tmp_path}/capture")
    assert "serving goes on" in line


def test_a_full_disk_ends_the_recording_and_leaves_what_was_written(tmp_path: Path) -> None:
    """A process that may write 8 KiB to a file, in two goes: whole records stay, one warning, taps still answer."""
    script = """
import logging, resource, sys
from pathlib import Path
from threading import Event
import numpy as np
from dukou.config import CaptureConfig
from dukou.core.message import Copy
from dukou.core.model import ModelVersion
from dukou.telemetry.capture import Capture
from dukou.testing.models import manifest
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
capture = Capture(CaptureConfig(share=1.0), Path(sys.argv[1]), 0, pause_s=0.001)
tap = capture.tap(manifest())
def tell(n):
    for value in range(n):
        tap(Copy(ModelVersion("iris", 1), "serving_default", {"X": np.full((8, 4), value, np.float32)}, {}, 8))
tell(10)
while not list(Path(sys.argv[1]).rglob("*.capture")):
    Event().wait(0.01)
tell(1000)
capture.close()
tell(10)
"""

    child = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )

    assert child.returncode == 0, child.stderr
    assert child.stdout.count("recording has stopped") == 1
    assert "File too large" in child.stdout
    assert 10 <= len(whole(tmp_path)) < 100


def test_a_file_says_what_it_is_in_its_first_line(tmp_path: Path) -> None:
    """`head -1` tells whose it is and what was left out."""
    recorded(tmp_path, [person("Agnes", 47.0)], people(), redact=("name",))

    (file,) = tmp_path.rglob("*.capture")
    line = file.read_bytes().split(b"\n")[0]
    assert json.loads(line.removeprefix(MAGIC)) == {"model": "people", "worker": 0, "redacted": ["name"]}


def test_a_writer_that_stands_still_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Closing waits only so long for the disk."""
    standing = Flag()

    def clock() -> float:
        return 0.0

    class Slow(Capture):
        def _write_waiting(self) -> None:
            standing.wait(30.0)

    capture = Slow(CaptureConfig(share=1.0), tmp_path, 0, clock=clock)
    capture.tap(manifest())(iris(1))

    capture.close(patience_s=0.05)
    standing.set()


def test_the_folder_is_in_the_state_folder_unless_the_settings_name_another(tmp_path: Path) -> None:
    """One place decides, for the server and for the replay."""
    assert capture_folder(CaptureConfig(), tmp_path) == tmp_path / "capture"
    assert capture_folder(CaptureConfig(folder="/somewhere"), tmp_path) == Path("/somewhere")
