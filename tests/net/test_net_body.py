"""Bodies as they come."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from dukou.net.body import Body


@given(st.lists(st.binary(max_size=5), max_size=30))
def test_a_body_is_its_pieces(pieces: list[bytes]) -> None:
    """In order; taken, it is empty."""
    body = Body()
    for piece in pieces:
        body.add(piece)
    assert body.size == sum(map(len, pieces))

    assert body.take() == b"".join(pieces)
    assert (body.size, body.take()) == (0, b"")


def test_many_small_pieces_take_no_more_than_their_size() -> None:
    """A client may cut its body into single bytes."""
    body = Body()
    tracemalloc.start()
    for i in range(200_000):
        body.add(bytes([i % 250]))
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held_bytes < 500_000
    assert body.take() == bytes(i % 250 for i in range(200_000))
