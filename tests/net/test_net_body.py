"""Bodies as they come."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from dukou.net.body import Body, KeptBodies


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


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 400), st.booleans()), max_size=60))
def test_whatever_is_kept_is_given_back_once(steps: list[tuple[int, int, bool]]) -> None:
    """By stream, at the latest when its body is dropped; no more than the limit is given back of incomplete bodies
    beside the oldest."""
    kept = KeptBodies(1000)
    came: dict[int, int] = {}
    back: dict[int, int] = {}
    order: list[int] = []
    for stream_id, count, drop in steps:
        if drop:
            for other, amount in kept.drop(stream_id):
                back[other] += amount
            assert back.pop(stream_id, 0) == came.pop(stream_id, 0)
            if stream_id in order:
                order.remove(stream_id)
        else:
            came[stream_id] = came.get(stream_id, 0) + count
            back[stream_id] = back.get(stream_id, 0) + count - kept.add(stream_id, count)
            if stream_id not in order:
                order.append(stream_id)
        if order:
            assert back[order[0]] == came[order[0]]
            assert sum(back[other] for other in order[1:]) <= 1000
