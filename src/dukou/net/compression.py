"""Request bodies without their Content-Encoding (RFC 9110 section 8.4)."""

import zlib

from dukou.core.errors import DukouError, Reason

MOST_GZIP_MEMBERS = 16

_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15


def decompress(encoding: bytes, body: bytes, max_bytes: int) -> bytes:
    """`body` without its Content-Encoding: gzip, deflate (zlib's format, or raw as some clients send it), identity.

    Never makes more than `max_bytes`. Raises DukouError BODY_TOO_LARGE as soon as there would be more,
    MALFORMED_REQUEST for damaged data, NOT_SUPPORTED for other encodings.
    """
    coding = encoding.strip().lower()
    if coding in (b"", b"identity"):
        return body
    if coding in (b"gzip", b"x-gzip"):
        return _inflate(body, _GZIP, max_bytes)
    if coding == b"deflate":
        is_zlib = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
        return _inflate(body, _ZLIB if is_zlib else _RAW_DEFLATE, max_bytes)
    text = coding[:40].decode("latin-1")
    raise DukouError(
        Reason.NOT_SUPPORTED, detail=f"the content encoding {text!r} is not supported; use gzip or deflate"
    )


def tf_decompress(encoding: bytes, body: bytes, max_bytes: int) -> bytes:
    """As TensorFlow Serving does it: gzip wherever the header has that word, else the body as it is; what cannot be
    unpacked is an empty body. Raises DukouError BODY_TOO_LARGE."""
    if b"gzip" not in encoding.lower():
        return body
    try:
        return _inflate(body, _GZIP, max_bytes)
    except DukouError as error:
        if error.reason is Reason.BODY_TOO_LARGE:
            raise
        return b""


def only_plain(encoding: bytes, body: bytes, max_bytes: int) -> bytes:
    """For calls whose bodies may not be compressed. Raises DukouError MALFORMED_REQUEST for one that is."""
    if encoding.strip().lower() not in (b"", b"identity"):
        text = encoding[:40].decode("latin-1")
        raise DukouError(
            Reason.MALFORMED_REQUEST, detail=f"the content encoding {text!r} is not supported here, only 'identity' is"
        )
    return body


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> bytes:
    """All members of `body` (gzip allows several, RFC 1952 section 2.2)."""
    parts = []
    room = max_bytes
    rest = body
    try:
        for _ in range(MOST_GZIP_MEMBERS):
            if not rest:
                break
            stream = zlib.decompressobj(window_bits)
            parts.append(stream.decompress(rest, room + 1))
            room -= len(parts[-1])
            if room < 0:
                raise DukouError(Reason.BODY_TOO_LARGE, wanted=max_bytes)
            if not stream.eof:
                raise DukouError(Reason.MALFORMED_REQUEST, detail="the compressed body ends too early")
            rest = stream.unused_data
        else:
            raise DukouError(
                Reason.MALFORMED_REQUEST, detail=f"the compressed body has more than {MOST_GZIP_MEMBERS} parts"
            )
    except zlib.error as error:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=f"the compressed body is damaged: {error}") from None
    return b"".join(parts)
