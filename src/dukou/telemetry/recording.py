"""Recorded executions on disk: files of one model and one worker, and reading them back.

A file begins with a line that says what it is: `MAGIC` and a JSON object. Then record follows record: the size of a
frame, its CRC-32 and the Unix time of the execution, then the frame itself, which is a copy's (`dukou.core.frame`). A
worker only ever adds to its newest file, so that a file whose end is missing was being written when the worker ended.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote
from zlib import crc32

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.core.frame import PREFIX_BYTES, decode_copy
from dukou.core.message import Copy

MAGIC = b"dukou capture 1 "
MAX_RECORD_BYTES = 64 * 1024 * 1024
MOST_FILES = 64
"""Of one model and worker: each start of a worker begins a file."""

_FILES_OF_A_WHOLE = 8
"""A file is full at this part of what all may take: dropping the oldest loses no more of the record."""

_MAX_HEADER_BYTES = 65_536
_PREFIX = struct.Struct("<IId")
_NAME = re.compile(r"worker(\d+)-(\d+)\.capture")


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a file: whose executions, recorded by which worker, and the names that are left out."""

    model: str
    worker: int = 0
    redacted: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True):
    """One recorded execution, at a Unix time. Inputs and columns named in `redacted` hold zeros and empty text."""

    at: float
    copy: Copy
    redacted: tuple[str, ...] = ()


Report: TypeAlias = Callable[[str], None]
"""Told, as a sentence, of each file or record that cannot be read."""


def pack(at: float, frame: bytes) -> bytes:
    """A record as it stands in a file."""
    return _PREFIX.pack(len(frame), crc32(frame), at) + frame


def model_folder(folder: Path, model: str) -> Path:
    """Where a model's records are in a capture folder; any name is a plain folder name there."""
    name = quote(model, safe=" ")
    return folder / (name if not name.startswith(".") else f"%2E{name[1:]}")


class Recording:
    """The files of one model and one worker: what comes is added to the newest, the oldest go so that all together
    never hold more than `max_bytes`. Readable by this user only.

    Everything raises OSError; what was written before stays readable.
    """

    def __init__(self, folder: Path, header: Header, max_bytes: int) -> None:
        self._folder = model_folder(folder, header.model)
        self._first_line = MAGIC + msgspec.json.encode(header) + b"\n"
        self._worker = header.worker
        self._max_bytes = max_bytes
        self._file_bytes = max_bytes // _FILES_OF_A_WHOLE
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        self._older = [(path, path.stat().st_size) for path in _files(self._folder, self._worker)]
        self._number = _number(self._older[-1][0]) if self._older else 0
        self._path = self._folder
        self._descriptor = -1
        self._size = 0

    def add(self, records: Sequence[bytes]) -> int:
        """Write these records; returns how many of them were too large to be kept."""
        refused = 0
        waiting: list[bytes] = []
        waiting_bytes = 0
        for one in records:
            if len(self._first_line) + len(one) > self._max_bytes or len(one) > MAX_RECORD_BYTES + _PREFIX.size:
                refused += 1
                continue
            if self._descriptor < 0 or self._size + waiting_bytes + len(one) > self._file_bytes:
                self._write(b"".join(waiting))
                waiting, waiting_bytes = [], 0
                self._begin()
            self._make_room(waiting_bytes + len(one))
            waiting.append(one)
            waiting_bytes += len(one)
        self._write(b"".join(waiting))
        return refused

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _begin(self) -> None:
        """A new file, which becomes the newest."""
        if self._descriptor >= 0:
            self.close()
            self._older.append((self._path, self._size))
        self._make_room(len(self._first_line))
        while self._descriptor < 0:
            self._number += 1
            self._path = self._folder / f"worker{self._worker}-{self._number:06}.capture"
            with suppress(FileExistsError):  # another server's, that was told the same folder
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size = 0
        self._write(self._first_line)

    def _make_room(self, size: int) -> None:
        current = self._size if self._descriptor >= 0 else 0
        total = current + sum(held for _, held in self._older)
        while self._older and (total + size > self._max_bytes or len(self._older) >= MOST_FILES):
            path, held = self._older.pop(0)
            path.unlink(missing_ok=True)
            total -= held

    def _write(self, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._size += len(data)


def is_recording(path: Path) -> bool:
    """Whether a file begins as one of these does. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def captured(folder: Path, model: str, report: Report, newest: int | None = None) -> Iterator[Record]:
    """What all workers have recorded of a model, file by file: everything, or the `newest` so many.

    `report` is told of what cannot be read; the rest is read all the same. A record cut off at a file's end is nobody's
    fault and is passed over. Raises DukouError PATH_NOT_FOUND where nothing was ever recorded of the model.
    """
    found = model_folder(folder, model)
    if not found.is_dir():
        detail = f"; nothing of {model!r} was recorded there"
        raise DukouError(Reason.PATH_NOT_FOUND, path=str(found), detail=detail)
    return read(_files(found), report, newest)


def read(paths: Sequence[Path], report: Report, newest: int | None = None) -> Iterator[Record]:
    """The records of these files, as `captured` has it."""
    since = _since(paths, newest) if newest is not None else float("-inf")
    left = newest if newest is not None else -1
    for path in paths:
        for record in _records(path, report, since):
            if not left:
                return
            left -= 1
            yield record


def _since(paths: Sequence[Path], newest: int) -> float:
    """The time of the oldest of the `newest` records."""
    times: list[float] = []
    for path in paths:
        with suppress(OSError, DukouError), path.open("rb") as file:
            if _header(file):
                times += [at for _, at, _ in _places(file)]
    times.sort()
    return times[-newest] if 0 < newest <= len(times) else float("-inf")


def _records(path: Path, report: Report, since: float) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            header = _header(file)
            if header is None:
                return
            for checksum, at, size in _places(file):
                if at < since:
                    continue
                file.seek(-size, os.SEEK_CUR)
                try:
                    yield Record(at, _copy(file, size, checksum), header.redacted)
                except DukouError as error:
                    report(f"{error}; this record is left out")
    except FileNotFoundError:
        pass  # the server that writes it has dropped it
    except DukouError as error:
        report(f"{error}; the rest of the file is left out")
    except OSError as error:
        report(f"{path}: {error.strerror}")


def _header(file: BufferedReader) -> Header | None:
    """The first line; None where a full disk or a killed worker has cut it off."""
    line = file.readline(_MAX_HEADER_BYTES)
    if not line.endswith(b"\n") and (line.startswith(MAGIC) or MAGIC.startswith(line)):
        return None
    if not line.startswith(MAGIC):
        raise _unreadable(file, "this is no file of recorded executions")
    try:
        return msgspec.json.decode(line[len(MAGIC) :], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(file, f"its first line cannot be read: {error}") from error


def _places(file: BufferedReader) -> Iterator[tuple[int, float, int]]:
    """Checksum, time and size of each record that is whole; the file stands behind it."""
    end = os.fstat(file.fileno()).st_size
    while len(prefix := file.read(_PREFIX.size)) == _PREFIX.size:
        size, checksum, at = _PREFIX.unpack(prefix)
        if not PREFIX_BYTES < size <= MAX_RECORD_BYTES:
            raise _unreadable(file, f"what ends at byte {file.tell()} does not begin a record")
        if file.tell() + size > end:
            return
        place = file.seek(size, os.SEEK_CUR)
        yield checksum, at, size
        file.seek(place)


def _copy(file: BufferedReader, size: int, checksum: int) -> Copy:
    frame = file.read(size)
    if crc32(frame) != checksum:
        raise _unreadable(file, f"the record that ends at byte {file.tell()} is damaged, its checksum is another")
    try:
        return decode_copy(memoryview(frame)[PREFIX_BYTES:])
    except DukouError as error:
        raise _unreadable(file, error.what()) from error


def _unreadable(file: BufferedReader, detail: str) -> DukouError:
    return DukouError(Reason.ARTIFACT_UNREADABLE, path=file.name, detail=detail)


def _files(folder: Path, worker: int | None = None) -> list[Path]:
    """The files of one worker or of all, each worker's oldest first."""
    found = {}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and path.is_file() and worker in (None, int(match[1])):
            found[int(match[1]), int(match[2])] = path
    return [path for _, path in sorted(found.items())]


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[2]) if match else 0
