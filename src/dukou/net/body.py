"""Bodies as they come, piece by piece."""

from collections.abc import Sequence

LOOSE_PARTS = 1024


class Body:
    """The bytes so far. Many small pieces are kept together: as a list, they would take thirty times their size."""

    __slots__ = ("_joined", "_parts", "size")

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []
        self._joined = bytearray()

    def add(self, data: bytes) -> None:
        """One more piece."""
        self.size += len(data)
        self._parts.append(data)
        if len(self._parts) >= LOOSE_PARTS:
            self._joined += b"".join(self._parts)
            self._parts.clear()

    def take(self) -> bytes:
        """All of it; the body is empty after that."""
        parts, self._parts = self._parts, []
        self.size = 0
        if self._joined:
            joined, self._joined = self._joined, bytearray()
            return b"".join((joined, *parts))
        return parts[0] if len(parts) == 1 else b"".join(parts)


class KeptBodies:
    """What one connection keeps of bodies that are not complete.

    One largest body is always possible; beyond that, only the oldest goes on being given window.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: dict[int, int] = {}
        self._owed: dict[int, int] = {}

    def add(self, stream_id: int, count: int) -> int:
        """How many of `count` more bytes are not to be given back yet: all or none."""
        self._kept[stream_id] = self._kept.get(stream_id, 0) + count
        self._bytes += count
        if self._bytes <= self._most_bytes or stream_id == next(iter(self._kept)):
            return 0
        self._owed[stream_id] = self._owed.get(stream_id, 0) + count
        return count

    def drop(self, stream_id: int) -> Sequence[tuple[int, int]]:
        """A body is complete, or not wanted; returns what is to be given back now, by stream."""
        self._bytes -= self._kept.pop(stream_id, 0)
        if not self._owed:
            return ()
        fits = self._bytes <= self._most_bytes
        oldest = next(iter(self._kept), stream_id)
        due = [(other, count) for other, count in self._owed.items() if fits or other in (oldest, stream_id)]
        for other, _ in due:
            del self._owed[other]
        return due
