"""Protocols: bytes to messages and messages to bytes, for servers and clients alike.

No I/O, no asyncio, no HTTP status numbers. Each inference protocol is a module with the functions of `codec.Codec`.
"""
