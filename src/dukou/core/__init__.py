"""The values and Protocols that every part shares. Standard library, NumPy and msgspec only; no I/O, no asyncio."""
