"""Model files as plain byte streams, whatever compressed them, never longer than allowed."""

import bz2
import contextlib
import importlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from dukou.core.errors import DukouError, Reason

MAX_BYTES = 8 << 30
"""Most bytes a model file may hold once inflated. A few kilobytes can inflate to more than any memory."""

_PIECE = 1 << 16
_DICTIONARY_BYTES = 256 << 20


class Decompressor(Protocol):
    """What bz2, lzma and lz4 offer, and what `_Zlib` makes of zlib."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed data was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether more compressed data is needed before more comes out."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most `max_length` bytes more."""


class _Zlib:
    """zlib and gzip data (a header tells which)."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _lz4() -> Decompressor:
    made: Decompressor = importlib.import_module("lz4.frame").LZ4FrameDecompressor()
    return made


def _lzma() -> Decompressor:
    return lzma.LZMADecompressor(memlimit=_DICTIONARY_BYTES)


_BY_FIRST_BYTES: tuple[tuple[bytes, Callable[[], Decompressor]], ...] = (
    (b"\x1f\x8b", _Zlib),
    (b"\x78", _Zlib),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", _lzma),
    (b"\x5d\x00", _lzma),
    (b'\x04"M\x18', _lz4),
)
"""No pickle begins like these: none is an opcode, or not one that may be followed so."""


class Stream:
    """A byte stream that refuses to give more than `limit` bytes in all, before it reserves memory for them.

    `ends` says that there are no more than `limit` bytes, so that wanting more is the reader's mistake (EOFError).
    """

    def __init__(self, source: io.BufferedIOBase, limit: int, path: Path, *, ends: bool = False) -> None:
        self._source = source
        self._limit = limit
        self._left = limit
        self._path = path
        self._ends = ends

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end. Raises DukouError ARTIFACT_UNSUPPORTED beyond the limit."""
        self._spend(size)
        return self._source.read(size)

    def readline(self) -> bytes:
        """The next line."""
        line = self._source.readline(self._left + 1)
        self._spend(len(line))
        return line

    def readinto(self, into: Any) -> int:
        """Fill the writable buffer `into`; returns how many bytes came."""
        view = memoryview(into).cast("B")
        self._spend(len(view))
        return self._source.readinto(view)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes. Raises EOFError when there are fewer."""
        self._spend(size)
        while size:
            came = len(self._source.read(min(size, _PIECE)))
            if not came:
                raise EOFError("it ends too early")
            size -= came

    def check(self, size: int) -> None:
        """Raise EOFError or DukouError ARTIFACT_UNSUPPORTED when `size` bytes are more than may still come."""
        if size > self._left and self._ends:
            raise EOFError("it ends too early")
        if size < 0 or size > self._left:
            detail = f"it wants more than {self._limit} bytes of memory; is it damaged, or made to exhaust the machine?"
            raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(self._path), detail=detail)

    def _spend(self, size: int) -> None:
        self.check(size)
        self._left -= size


@contextlib.contextmanager
def open_inflated(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[Stream]:
    """The content of a plain, zlib, gzip, bz2, lzma, xz or lz4 file, told apart by its first bytes.

    Raises DukouError ARTIFACT_UNREADABLE when the file cannot be opened, or is lz4 where that package is missing.
    """
    try:
        with path.open("rb") as file:
            start = file.peek(8)
            make = next((make for prefix, make in _BY_FIRST_BYTES if start.startswith(prefix)), None)
            if make is None:
                size = os.fstat(file.fileno()).st_size
                yield Stream(file, min(max_bytes, size), path, ends=size <= max_bytes)
            else:
                yield Stream(io.BufferedReader(_Inflating(file, make())), max_bytes, path)
    except OSError as error:
        detail = "there is no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error
    except ModuleNotFoundError as error:
        if error.name not in {"lz4", "lz4.frame"}:
            raise
        detail = "it is compressed with lz4; install the package lz4 to read it"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error


class _Inflating(io.RawIOBase):
    def __init__(self, file: io.BufferedIOBase, decompressor: Decompressor) -> None:
        self._file = file
        self._decompressor = decompressor

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self._decompressor.eof:
            data = self._file.read(_PIECE) if self._decompressor.needs_input else b""
            if not data and self._decompressor.needs_input:
                raise EOFError("the compressed data ends too early")
            out = self._decompressor.decompress(data, len(into))
            if out:
                into[: len(out)] = out
                return len(out)
        return 0
