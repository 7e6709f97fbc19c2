"""The link's messages survive any cut of their bytes, and nothing else is taken for one."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.link import (
    MAX_MESSAGE_BYTES,
    Applied,
    Apply,
    Assignment,
    Decoder,
    Drain,
    Listen,
    Listening,
    LoadReport,
    Message,
    Ping,
    Pong,
    encode,
)
from dukou.core.version import ModelVersion, State

texts = st.text(max_size=20)
versions = st.builds(ModelVersion, texts, st.integers(1, 2**31))
options = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-9, 9) | texts | st.lists(texts), max_size=3)
assignments = st.builds(Assignment, versions, texts, st.integers(0, 1023), options)
reports = st.builds(
    LoadReport,
    versions,
    st.sampled_from(State),
    texts,
    st.lists(texts, max_size=3).map(tuple),
    st.floats(0.0, 1e6),
)
generations = st.integers(0, 2**40)
messages = st.one_of(
    st.builds(Apply, generations, st.lists(assignments, max_size=3).map(tuple)),
    st.builds(Applied, generations, st.lists(reports, max_size=3).map(tuple)),
    st.builds(Drain, st.floats(0.0, 1e6)),
    st.sampled_from([Listen(), Ping(), Listening(), Pong()]),
)


@given(st.lists(messages, max_size=5), st.data())
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(sent: list[Message], data: st.DataObject) -> None:
    """The socket may deliver the bytes in any pieces, down to single bytes."""
    stream = b"".join(encode(message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    decoder = Decoder()

    came = [message for piece in pieces for message in decoder.feed(piece)]

    assert came == sent


def test_a_message_is_given_as_soon_as_its_last_byte_is_there_and_not_before() -> None:
    """Nothing waits for the message after it."""
    stream = encode(Drain(1.5))
    decoder = Decoder()

    before = decoder.feed(stream[:-1])
    after = decoder.feed(stream[-1:])

    assert before == []
    assert after == [Drain(1.5)]


def test_a_length_beyond_the_limit_is_refused_before_its_body_is_waited_for() -> None:
    """The buffer cannot be made to grow without bound by a length."""
    with pytest.raises(DukouError) as raised:
        Decoder().feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))

    assert raised.value.reason is Reason.MALFORMED_REQUEST


def test_a_message_beyond_the_limit_is_not_sent() -> None:
    """The sender keeps to the receiver's limit."""
    message = Apply(1, (Assignment(ModelVersion("m", 1), "x" * MAX_MESSAGE_BYTES, 1),))

    with pytest.raises(DukouError):
        encode(message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "Nonsense"}),
        msgspec.msgpack.encode({"type": "Drain", "grace_s": "long"}),
        msgspec.msgpack.encode({"type": "Drain"}),
        b"\xa1\xff",
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    """Bytes that are not one of the messages raise, with the reason in words."""
    with pytest.raises(DukouError, match="cannot be read"):
        Decoder().feed(len(body).to_bytes(4, "big") + body)


@given(st.binary(max_size=200))
def test_any_bytes_either_wait_give_messages_or_are_refused(data: bytes) -> None:
    """No input brings another exception than DukouError."""
    with suppress(DukouError):
        Decoder().feed(data)
