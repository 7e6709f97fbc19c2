"""One end of the link between the supervisor and a worker, on asyncio."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from socket import socket

from dukou.core.link import Decoder, Message, encode

_READ_BYTES = 65_536


class Channel:
    """Sends and receives messages over one socket of a pair. What cannot be sent because the other end has gone is
    dropped: whoever iterates over the channel learns of it by the iteration's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, link: socket) -> "Channel":
        """The channel over `link`, which it owns from now on."""
        return cls(*await asyncio.open_unix_connection(sock=link))

    def send(self, message: Message) -> None:
        """Send without waiting. Messages are few and the supervisor replaces a worker that reads none of them, so what
        waits to be written is bounded by that."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def __aiter__(self) -> AsyncIterator[Message]:
        """The messages of the other end until it closes or dies. Raises DukouError when it sends something else."""
        decoder = Decoder()
        while True:
            try:
                data = await self._reader.read(_READ_BYTES)
            except ConnectionError:
                return
            if not data:
                return
            for message in decoder.feed(data):
                yield message

    async def close(self) -> None:
        """Close after what was sent has been written."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
