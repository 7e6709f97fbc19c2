"""TensorFlow Serving's warm-ups: requests recorded beside a version, a TFRecord file of `PredictionLog`s.

Facts from tensorflow/serving's `servables/tensorflow/saved_model_warmup_util.cc` and tensorflow's
`core/lib/io/record_reader.cc`: a record is its length in eight bytes, the masked CRC of those, its bytes, and their
masked CRC, all least significant byte first.
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dukou.core.errors import DukouError, Reason
from dukou.protos import pool

WARMUPS = "assets.extra/tf_serving_warmup_requests"
"""Where the file is, below a version's folder."""

MOST_RECORDS = 1000
MOST_RECORD_BYTES = 256 * 1024 * 1024

_LOG = "tensorflow.serving.PredictionLog"
_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")
_CASTAGNOLI = 0x82F63B78
_MOST_LANES = 1024
_LANE_BYTES = 64


def read_warmups(folder: Path) -> Iterator[Any]:
    """The `PredictionLog`s of the version in `folder`; none where it has no such file.

    Raises DukouError ARTIFACT_UNREADABLE for a file that is damaged, or after MOST_RECORDS.
    """
    path = folder / WARMUPS
    try:
        with path.open("rb") as file:
            for number, record in enumerate(_records(file), 1):
                if number > MOST_RECORDS:
                    raise ValueError(f"it has more than {MOST_RECORDS} records")
                yield pool.parse(_LOG, record)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error.strerror)) from error
    except (ValueError, DukouError) as error:
        detail = error.what() if isinstance(error, DukouError) else str(error)
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The records of a TFRecord file. Raises ValueError where it is none."""
    number = 0
    while head := file.read(_HEAD.size):
        number += 1
        if len(head) < _HEAD.size:
            raise ValueError(f"record {number} is cut off")
        size, check = _HEAD.unpack(head)
        if masked_crc(head[:8]) != check:
            raise ValueError(f"record {number}: its length is damaged, or the file is no TFRecord file")
        if size > MOST_RECORD_BYTES:
            raise ValueError(f"record {number} has {size} bytes, {MOST_RECORD_BYTES} is the most")
        record, tail = file.read(size), file.read(_TAIL.size)
        if len(tail) < _TAIL.size:
            raise ValueError(f"record {number} is cut off")
        if masked_crc(record) != _TAIL.unpack(tail)[0]:
            raise ValueError(f"record {number} is damaged: its bytes do not have the CRC that stands there")
        yield record


def masked_crc(data: bytes) -> int:
    """The CRC-32C of `data`, rotated and shifted as TFRecord files have it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC of `data` by Castagnoli's polynomial.

    Byte by byte it would be 10 MB a second. A CRC is linear: the data is cut into lanes that are computed side by side,
    and what a lane contributes through the one behind it is looked up in four tables.
    """
    lanes = min(_MOST_LANES, 1 + len(data) // _LANE_BYTES)
    steps = -(-len(data) // lanes)
    cut = np.zeros(steps * lanes, np.uint8)
    start = cut.size - len(data)
    cut[start:] = np.frombuffer(data, np.uint8)
    cut[start : start + 4] ^= 0xFF  # the CRC begins as all ones
    left = 0xFFFFFFFF >> 8 * len(data) if len(data) < 4 else 0
    crcs = _advance(np.zeros(lanes, np.uint32), cut.reshape(lanes, steps).T)
    if lanes == 1:
        return int(crcs[0]) ^ left ^ 0xFFFFFFFF
    powers = np.arange(256, dtype=np.uint32)[np.newaxis] << np.array([[0], [8], [16], [24]], np.uint32)
    behind = _advance(powers.reshape(-1), np.zeros((steps, 1), np.uint8)).tolist()
    crc = 0
    for lane in crcs.tolist():
        crc = (
            behind[crc & 0xFF]
            ^ behind[256 + (crc >> 8 & 0xFF)]
            ^ behind[512 + (crc >> 16 & 0xFF)]
            ^ behind[768 + (crc >> 24)]
            ^ lane
        )
    return crc ^ left ^ 0xFFFFFFFF


def _advance(crcs: NDArray[np.uint32], columns: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The CRCs after a byte more for each column of `columns` [steps, lanes]."""
    table = _table()
    for column in columns:
        crcs = table[(crcs ^ column) & 0xFF] ^ (crcs >> 8)
    return crcs


@cache
def _table() -> NDArray[np.uint32]:
    """The CRC of each single byte."""
    crcs = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crcs = np.where(crcs & 1, crcs >> 1 ^ np.uint32(_CASTAGNOLI), crcs >> 1)
    return crcs
