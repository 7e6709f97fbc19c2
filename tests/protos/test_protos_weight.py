"""What a message would become in memory is known before it is made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.protos import pool
from dukou.protos.weight import MOST_RECORDS, PACKED_BYTES, check


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number of variable length."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def tensor(extra: bytes) -> bytes:
    """A PredictRequest with one tensor."""
    return field(2, field(1, b"x") + field(2, extra))


PREDICT, INFER, REGRESS = (
    "tensorflow.serving.PredictRequest",
    "inference.ModelInferRequest",
    "tensorflow.serving.RegressionRequest",
)
MANY = MOST_RECORDS + 1
NUMBERS = PACKED_BYTES * MANY
HOSTILE = {
    "inputs": (PREDICT, field(2, b"") * MANY),
    "filters": (PREDICT, field(3, b"") * MANY),
    "dims": (PREDICT, tensor(field(2, field(2, b"") * MANY))),
    "strings": (PREDICT, tensor(field(8, b"") * MANY)),
    "packed integers": (PREDICT, tensor(field(10, b"\1" * NUMBERS))),
    "floats one by one": (PREDICT, tensor(b"\x2d\0\0\0\0" * MANY)),
    "shape": (INFER, field(5, field(3, b"\1" * NUMBERS))),
    "parameters": (INFER, field(5, field(4, b"") * MANY)),
    "contents": (INFER, field(5, field(5, field(8, b"") * MANY))),
    "unknown": (INFER, field(15, b"") * MANY),
    "examples": (REGRESS, field(2, field(1, field(1, b"") * MANY))),
    "features": (REGRESS, field(2, field(1, field(1, field(1, field(1, b"") * MANY))))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_message_that_would_become_too_large_is_refused_before_it_is_made(case: str) -> None:
    """Two bytes on the wire can be a hundred in memory."""
    name, data = HOSTILE[case]

    with pytest.raises(DukouError) as refused:
        pool.parse(name, data)

    assert refused.value.reason is Reason.TOO_MANY_VALUES


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (PREDICT, tensor(field(4, b"\0" * 8_000_000))),
        (PREDICT, tensor(field(5, b"\0" * 8_000_000))),
        (PREDICT, tensor(field(8, b"text") * 100_000)),
        (INFER, field(7, b"\0" * 8_000_000)),
        (INFER, field(5, field(5, field(6, b"\0" * 8_000_000)))),
    ],
    ids=["tensor_content", "float_val", "string_val", "raw", "fp32_contents"],
)
def test_tensors_as_clients_send_them_are_made(name: str, data: bytes) -> None:
    """Many bytes are not many fields."""
    assert pool.parse(name, data).SerializeToString()


@given(st.binary(max_size=300))
def test_what_is_no_message_is_left_to_protobuf(data: bytes) -> None:
    """Counting never fails by itself."""
    check(pool.message(PREDICT).DESCRIPTOR, data)
