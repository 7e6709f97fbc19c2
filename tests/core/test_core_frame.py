"""Frames: whatever goes in comes out, and bytes that are no frame are refused as such."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from dukou.core import frame
from dukou.core.errors import DukouError, Reason
from dukou.core.frame import (
    PREFIX_BYTES,
    Answer,
    Call,
    Dropped,
    Failure,
    Part,
    body_size,
    decode,
    decode_copy,
    encode_answer,
    encode_call,
    encode_copy,
    encode_dropped,
    encode_failure,
)
from dukou.core.message import Copy
from dukou.core.tensor import DTYPES
from dukou.core.version import ModelVersion

IRIS = ModelVersion("iris", 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = [name for name in DTYPES if name != "BYTES"]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), TEXT)
PARAMETERS = st.dictionaries(TEXT, PLAIN | st.lists(PLAIN, max_size=3), max_size=3)


@st.composite
def numbers(draw: st.DrawFn) -> NDArray[Any]:
    """An array of any datatype but BYTES, any shape, any order in memory; bits of any kind."""
    dtype = DTYPES[draw(st.sampled_from(NUMBERS))]
    shape = draw(SHAPES)
    bits = draw(arrays.arrays(np.uint8, (*shape, dtype.itemsize)))
    array = (bits % 2).astype(np.bool_)[..., 0] if dtype.kind == "b" else bits.reshape(-1).view(dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


@st.composite
def strings(draw: st.DrawFn) -> NDArray[Any]:
    """A BYTES array of text and binary."""
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    array = np.empty(count, object)
    array[:] = draw(st.lists(TEXT | st.binary(max_size=8), min_size=count, max_size=count))
    return array.reshape(shape)


TENSORS = st.dictionaries(TEXT, numbers() | strings(), max_size=3)
COPIES = st.builds(
    Copy,
    version=st.builds(ModelVersion, TEXT, st.integers(0, 2**63 - 1)),
    signature=TEXT,
    inputs=TENSORS,
    outputs=TENSORS,
    rows=st.integers(0, 2**63 - 1),
    parameters=PARAMETERS,
    infer_s=st.floats(allow_nan=False),
)


def body_of(parts: Sequence[Part]) -> bytes:
    """The body of one whole frame, after a look at its prefix."""
    whole = b"".join(parts)
    assert body_size(whole[:PREFIX_BYTES]) == len(whole) - PREFIX_BYTES
    return whole[PREFIX_BYTES:]


def same(came: Mapping[str, NDArray[Any]], sent: Mapping[str, NDArray[Any]]) -> bool:
    """Whether both hold the same names in the same order, the same dtypes and shapes, and the same bits."""
    return list(came) == list(sent) and all(
        came[name].dtype == array.dtype
        and came[name].shape == array.shape
        and (
            came[name].tolist() == array.tolist() if array.dtype == object else came[name].tobytes() == array.tobytes()
        )
        for name, array in sent.items()
    )


@given(COPIES)
def test_a_copy_comes_out_as_it_went_in(copy: Copy) -> None:
    """Every datatype, text and binary apart, empty tensors, any parameters."""
    came = decode_copy(body_of(encode_copy(copy)))

    assert same(came.inputs, copy.inputs)
    assert same(came.outputs, copy.outputs)
    assert (came.version, came.signature, came.rows) == (copy.version, copy.signature, copy.rows)
    assert (came.parameters, came.infer_s) == (copy.parameters, copy.infer_s)


@given(TENSORS, st.lists(TEXT, max_size=3), PARAMETERS)
def test_a_call_comes_out_as_it_went_in(inputs: dict[str, Any], outputs: list[str], parameters: dict[str, Any]) -> None:
    """What `infer` takes."""
    came = decode(body_of(encode_call(Call("serving_default", inputs, tuple(outputs), parameters))))

    assert isinstance(came, Call)
    assert same(came.inputs, inputs)
    assert (came.signature, came.outputs, came.parameters) == ("serving_default", tuple(outputs), parameters)


@given(TENSORS)
def test_an_answer_comes_out_as_it_went_in(outputs: dict[str, Any]) -> None:
    """What `infer` returns."""
    came = decode(body_of(encode_answer(outputs)))

    assert isinstance(came, Answer)
    assert same(came.outputs, outputs)


def test_a_failure_keeps_its_reason_and_facts() -> None:
    """So that the caller is told what the model process found."""
    error = DukouError(Reason.WRONG_SHAPE, tensor="X", got=[1, 3], wanted=[1, 4])

    came = decode(body_of(encode_failure(Failure.of(error))))

    assert isinstance(came, Failure)
    assert str(came.error()) == str(error)


def test_a_reason_that_is_unknown_here_is_internal() -> None:
    """A model process may be of another version while the server is updated."""
    assert Failure("NOT_INVENTED_YET").error().reason is Reason.INTERNAL


def test_what_was_dropped_is_told() -> None:
    """A number and nothing else."""
    assert decode(body_of(encode_dropped(Dropped(7)))) == Dropped(7)


def test_a_large_array_is_a_view_and_not_copied() -> None:
    """Its memory is written as it is."""
    large = np.zeros((100, 100))

    parts = encode_answer({"y": large})

    assert any(isinstance(part, memoryview) and np.shares_memory(np.frombuffer(part), large) for part in parts)


def test_data_at_odd_places_makes_aligned_arrays() -> None:
    """A string of any length may stand before numbers."""
    came = decode(body_of(encode_answer({"a": np.array(["x"], object), "b": np.arange(3.0)})))

    assert isinstance(came, Answer)
    assert came.outputs["b"].flags.aligned
    assert came.outputs["b"].tolist() == [0.0, 1.0, 2.0]


def test_numbers_in_the_other_byte_order_arrive_in_ours() -> None:
    """NumPy has both."""
    came = decode(body_of(encode_answer({"y": np.arange(3, dtype=">i4")})))

    assert isinstance(came, Answer)
    assert came.outputs["y"].dtype == np.int32
    assert came.outputs["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.zeros(2, "datetime64[s]")},
        {"y": np.zeros(2, np.complex128)},
        {"y": np.array(["\ud800"], object)},
    ],
)
def test_what_no_frame_can_hold_is_refused(outputs: Mapping[str, NDArray[Any]]) -> None:
    """A dtype without a name, text without a UTF-8 form."""
    with pytest.raises(DukouError, match="frame"):
        encode_answer(outputs)


@given(st.binary(max_size=64))
def test_random_bytes_are_refused_and_nothing_else_happens(body: bytes) -> None:
    """Only DukouError is raised."""
    refused(body)


@given(COPIES, st.data())
def test_a_frame_that_is_cut_off_or_damaged_is_refused_or_is_another_frame(copy: Copy, data: st.DataObject) -> None:
    """A changed byte may still make a frame; it never raises anything but DukouError."""
    body = bytearray(body_of(encode_copy(copy)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut_off = body[: data.draw(st.integers(0, len(body) - 1))]

    refused(bytes(body))

    refused(bytes(cut_off))


@pytest.mark.parametrize(
    "described",
    [
        ["y", "FP32", [2**62, 2**62], 8],
        ["y", "FP32", [0, 2**63 - 1, 2**63 - 1], 0],
        ["y", "FP32", [-1, -2], 8],
        ["y", "FP99", [2], 8],
        ["y", "FP32", [1] * 99, 4],
        ["y", "BYTES", [3], 8],
        ["y", "FP32", [2], -8],
        ["y", "FP32", [2], 9],
    ],
)
def test_a_tensor_that_no_array_can_be_is_refused(described: list[Any]) -> None:
    """Shapes too large, negative, of too many axes; sizes that are not the data's."""
    head = frame._encoder.encode(["answer", [described]])
    body = len(head).to_bytes(4, "big") + head + bytes(8)

    with pytest.raises(DukouError, match="frame"):
        decode(body)


@pytest.mark.parametrize("prefix", [b"", b"\0\0", b"\xff\xff\xff\xff"])
def test_a_prefix_that_is_cut_off_or_too_large_is_refused(prefix: bytes) -> None:
    """Nobody allocates four gigabytes for it."""
    with pytest.raises(DukouError, match="frame"):
        body_size(prefix)


def test_a_copy_is_not_taken_from_another_frame() -> None:
    """A file of captured copies holds nothing else."""
    with pytest.raises(DukouError, match="not a Copy"):
        decode_copy(body_of(encode_answer({})))


def refused(body: bytes) -> None:
    """Read the body; any exception but DukouError fails the test."""
    with suppress(DukouError):
        decode(body)
