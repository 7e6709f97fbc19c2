"""Reading recorded executions back, whatever has happened to the files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.frame import encode_copy
from dukou.core.message import Copy
from dukou.core.model import ModelVersion
from dukou.telemetry.recording import MAGIC, Header, Recording, captured, is_recording, model_folder, pack, read


def record(value: float, at: float = 0.0) -> bytes:
    """An execution of one row, as it stands in a file."""
    copy = Copy(ModelVersion("m", 1), "s", {"x": np.array([[value]])}, {"y": np.array([value])}, 1)
    return pack(at, b"".join(encode_copy(copy)))


def recording(folder: Path, values: list[float], worker: int = 0) -> Path:
    """A file with these executions."""
    made = Recording(folder, Header("m", worker), 1_000_000)
    assert made.add([record(value, value) for value in values]) == 0
    made.close()
    return max(model_folder(folder, "m").iterdir())


def values(folder: Path) -> tuple[list[float], list[str]]:
    """What can be read, and what is said of the rest."""
    told: list[str] = []
    found = [float(one.copy.inputs["x"][0, 0]) for one in captured(folder, "m", told.append)]
    return found, told


def test_a_record_that_is_cut_off_is_passed_over_in_silence(tmp_path: Path) -> None:
    """At every length: a worker may be killed in the middle of a write, also of the first line."""
    file = recording(tmp_path, [1.0, 2.0])
    content = file.read_bytes()
    first = content.index(b"\n") + 1 + len(record(1.0))

    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert values(tmp_path) == ([1.0] if length >= first else [], [])


def test_a_file_that_is_none_is_said_and_the_next_is_read(tmp_path: Path) -> None:
    """Somebody's notes, and a file of a later format, between good ones."""
    recording(tmp_path, [1.0])
    folder = model_folder(tmp_path, "m")
    (folder / "worker0-000002.capture").write_bytes(b"my notes\n")
    (folder / "worker0-000003.capture").write_bytes(MAGIC + b'{"model": "m", "later": 1}\n' + record(9.0))
    recording(tmp_path, [4.0], worker=1)

    found, told = values(tmp_path)

    assert found == [1.0, 4.0]
    assert told[0].startswith(f"{folder}/worker0-000002.capture: this is no file of recorded executions")
    assert told[1].startswith(f"{folder}/worker0-000003.capture: its first line cannot be read")
    assert len(told) == 2


def test_a_damaged_record_is_said_and_the_next_is_read(tmp_path: Path) -> None:
    """One bit of its data is another."""
    file = recording(tmp_path, [1.0, 2.0, 3.0])
    content = bytearray(file.read_bytes())
    content[-len(record(3.0)) - 1] ^= 1
    file.write_bytes(content)

    found, told = values(tmp_path)

    assert found == [1.0, 3.0]
    assert "checksum" in told[0]


def test_a_whole_record_that_is_no_copy_is_said(tmp_path: Path) -> None:
    """Its checksum is right, its content is not."""
    file = recording(tmp_path, [1.0])
    file.write_bytes(file.read_bytes() + pack(0.0, b"\0\0\0\4none") + record(2.0))

    found, told = values(tmp_path)

    assert found == [1.0, 2.0]
    assert len(told) == 1


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_a_file_reading_ends_well(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes put in, taken out and changed anywhere: records or sentences come, never another exception."""
    content = bytearray(MAGIC + b'{"model":"m"}\n' + record(1.0) + record(2.0) + record(3.0))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 12))
        content[start:end] = data.draw(st.binary(max_size=12))
    file = tmp_path / "worker0-000001.capture"
    file.write_bytes(content)
    told: list[str] = []

    found = [float(one.copy.inputs["x"][0, 0]) for one in read([file], told.append)]

    assert set(found) <= {1.0, 2.0, 3.0}
    assert all(line.startswith(str(file)) for line in told)


def test_a_model_that_was_never_recorded_is_said(tmp_path: Path) -> None:
    """With the folder that was looked at."""
    with pytest.raises(DukouError, match="nothing of 'prices' was recorded there") as caught:
        list(captured(tmp_path, "prices", print))

    assert caught.value.reason is Reason.PATH_NOT_FOUND


def test_two_servers_that_were_told_one_folder_do_not_write_into_one_file(tmp_path: Path) -> None:
    """Each takes the next number that is free."""
    one, other = (Recording(tmp_path, Header("m"), 1_000_000) for _ in range(2))

    one.add([record(1.0)])
    other.add([record(2.0)])

    one.close()
    other.close()
    assert values(tmp_path) == ([1.0, 2.0], [])
    assert len(list(model_folder(tmp_path, "m").iterdir())) == 2


def test_a_recording_is_told_from_other_files(tmp_path: Path) -> None:
    """By its first bytes, whatever it is called."""
    file = recording(tmp_path, [1.0])
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").touch()

    assert [is_recording(path) for path in (file, tmp_path / "rows.csv", tmp_path / "empty")] == [True, False, False]
