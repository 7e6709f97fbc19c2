"""What is handed in is written by a thread."""

from collections import deque
from threading import Event, get_ident

from dukou.telemetry.writer import Writer


def test_what_comes_together_is_one_write_and_the_rest_is_written_at_the_close() -> None:
    """In another thread; the end comes last."""
    waiting: deque[int] = deque()
    written: list[tuple[int, list[int]]] = []
    first = Event()
    ended: list[int] = []

    def write() -> None:
        written.append((get_ident(), [waiting.popleft() for _ in range(len(waiting))]))
        first.set()

    writer = Writer(write, "writer", 60.0, end=lambda: ended.append(len(written)))
    waiting.extend((1, 2))
    writer.wake()
    assert first.wait(10)
    waiting.append(3)
    writer.wake()
    writer.close(10)

    assert [numbers for _, numbers in written] == [[1, 2], [3]]
    assert get_ident() not in {thread for thread, _ in written}
    assert ended == [2]


def test_a_file_that_stands_still_is_left_behind() -> None:
    """Closing takes no longer than its patience."""
    stands, goes = Event(), Event()

    def write() -> None:
        stands.set()
        goes.wait(60)

    writer = Writer(write, "writer", 0.0)
    writer.wake()
    assert stands.wait(10)

    writer.close(0.01)

    assert not goes.is_set()
    goes.set()
