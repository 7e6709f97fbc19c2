"""A body as it comes, piece by piece."""

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
