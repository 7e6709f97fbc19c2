"""TFRecord files of recorded requests."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.packing import tf_warmup
from dukou.packing.tf_warmup import MOST_RECORDS, WARMUPS, crc32c, masked_crc, read_warmups
from dukou.protos import pool


def framed(record: bytes) -> bytes:
    """A record as the file has it."""
    size = struct.pack("<Q", len(record))
    return size + struct.pack("<I", masked_crc(size)) + record + struct.pack("<I", masked_crc(record))


def written(folder: Path, content: bytes) -> Path:
    path = folder / WARMUPS
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return folder


def log(signature: str) -> bytes:
    said = pool.message("tensorflow.serving.PredictionLog")()
    said.predict_log.request.model_spec.signature_name = signature
    encoded: bytes = said.SerializeToString()
    return encoded


def byte_by_byte(data: bytes) -> int:
    """The CRC as it is defined."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_crc_is_castagnolis(data: bytes, crc: int) -> None:
    """The values of RFC 3720, B.4, and of the catalogues."""
    assert crc32c(data) == crc


@given(st.binary(max_size=300), st.integers(0, 300))
def test_lanes_change_nothing(start: bytes, repeated: int) -> None:
    """Whatever the length."""
    data = start * repeated

    assert crc32c(data[:5000]) == byte_by_byte(data[:5000])


def test_the_records_come_in_order(tmp_path: Path) -> None:
    """As messages."""
    folder = written(tmp_path, b"".join(framed(log(name)) for name in ("a", "b" * 100)))

    assert [said.predict_log.request.model_spec.signature_name for said in read_warmups(folder)] == ["a", "b" * 100]


def test_no_file_is_no_record(tmp_path: Path) -> None:
    """And an empty file is none either."""
    assert list(read_warmups(tmp_path)) == []
    assert list(read_warmups(written(tmp_path, b""))) == []


GOOD = framed(log("serving_default"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (GOOD[:5], "record 1 is cut off"),
        (GOOD[:-1], "record 1 is cut off"),
        (GOOD + GOOD[:20], "record 2 is cut off"),
        (b"no TFRecord at all", "record 1: its length is damaged, or the file is no TFRecord file"),
        (GOOD[:15] + b"x" + GOOD[16:], "record 1 is damaged"),
        (framed(b"\xff\xff"), "the message is not a tensorflow.serving.PredictionLog"),
        (struct.pack("<QI", 2**60, masked_crc(struct.pack("<Q", 2**60))), "is the most"),
        (GOOD * (MOST_RECORDS + 1), "it has more than 1000 records"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    """With its path, the record, and what is wrong."""
    folder = written(tmp_path, content)

    with pytest.raises(DukouError) as caught:
        list(read_warmups(folder))

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE
    assert caught.value.facts["path"] == str(folder / WARMUPS)
    assert says in str(caught.value)


def test_as_many_records_as_that_server_takes_are_taken(tmp_path: Path) -> None:
    """Exactly."""
    assert len(list(read_warmups(written(tmp_path, GOOD * MOST_RECORDS)))) == MOST_RECORDS


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    """Not passed over."""
    (tmp_path / tf_warmup.WARMUPS).mkdir(parents=True)

    with pytest.raises(DukouError) as caught:
        list(read_warmups(tmp_path))

    assert "Is a directory" in str(caught.value)
