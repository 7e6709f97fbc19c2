"""Protobuf read and written by hand, compared with protobuf itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.protos import pool
from dukou.wire.protobuf import MOST_FIELDS, cut, head, tag
from dukou.wire.raw_array import Raw

REQUEST = "inference.ModelInferRequest"


def without(message: bytes, *fields: int) -> tuple[bytes, dict[int, list[bytes]]]:
    """What is left of a message, and what was cut out."""
    taken: dict[int, list[Raw]] = {tag(field): [] for field in fields}
    rest = cut(message, taken)
    return rest, {field: [bytes(one) for one in taken[tag(field)]] for field in fields}


@given(st.text(max_size=200), st.text(max_size=5), st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_what_is_cut_out_is_what_protobuf_reads(name: str, identity: str, raw: list[bytes], pad: bool) -> None:
    """In small messages and large ones; the rest is the message without it."""
    raw = [*raw, bytes(5000)] if pad else raw
    message = pool.message(REQUEST)(model_name=name, id=identity, raw_input_contents=raw, inputs=[{"name": name}])

    rest, found = without(message.SerializeToString(), 3, 7)

    message.ClearField("raw_input_contents")
    message.ClearField("id")
    assert found == {3: [identity.encode()] if identity else [], 7: raw}
    assert pool.parse(REQUEST, rest) == message


def test_fields_of_every_kind_are_passed_over() -> None:
    """Also those that nobody knows, between those that are cut out."""
    unknown = b"\x78\xff\xff\x01" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x82\x01\x02hi"
    message = head(7, 1) + b"a" + unknown + head(7, 2) + b"bc"

    rest, found = without(message, 7)

    assert rest == unknown
    assert found == {7: [b"a", b"bc"]}


@pytest.mark.parametrize(
    "message",
    [
        b"\x3a",
        b"\x3a\x02a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x3a\x80",
        b"\x80",
        b"\xff" * 20,
        b"\x78" + b"\x80" * 11,
        b"\x79\0",
        b"\x7d\0",
        b"\x7b\x7c",
        b"\x7f",
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    """Cut off, overlong numbers, groups, kinds that do not exist."""
    with pytest.raises(DukouError) as caught:
        without(message, 7)

    assert caught.value.reason is Reason.MALFORMED_REQUEST


def test_the_number_of_fields_is_bounded() -> None:
    """So that a message takes no more memory than its length lets one expect."""
    without(b"\x2a\x00" * MOST_FIELDS, 7)

    with pytest.raises(DukouError):
        without(b"\x2a\x00" * (MOST_FIELDS + 1), 7)


@given(st.integers(1, 15), st.integers(0, 2**40))
def test_heads_are_what_protobuf_writes(field: int, size: int) -> None:
    """Read again, they say the field and the size."""
    made = head(field, size)

    assert made[0] == tag(field)
    value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(made[1:]))
    assert value == size
    assert all(byte > 0x7F for byte in made[1:-1])
    assert made[-1] < 0x80


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_refusal(message: bytes) -> None:
    """Whatever they are."""
    try:
        rest, found = without(message, 3, 7)
    except DukouError:
        return

    assert len(rest) + sum(len(one) for ones in found.values() for one in ones) <= len(message)
