"""TensorProto to arrays and back: every form that clients send, and what is no tensor."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.tensor import DTYPES, narrow
from dukou.protos.pool import message, parse
from dukou.wire import tf_tensor
from dukou.wire.tf_kinds import KINDS
from dukou.wire.tf_tensor import AT_ONCE, FEW, MOST_FILLED_BYTES, from_proto, to_proto


def proto(dtype: int, shape: Any = None, **fields: Any) -> Any:
    """A TensorProto; without a shape that field is absent."""
    made = message("tensorflow.TensorProto")(dtype=dtype, **fields)
    if shape is not None:
        made.tensor_shape.SetInParent()
        for size in shape:
            made.tensor_shape.dim.add(size=size)
    return made


def read(tensor: Any) -> NDArray[Any]:
    array = from_proto(tensor, "x")
    assert array is not None
    return array


def refusal(tensor: Any) -> DukouError:
    with pytest.raises(DukouError) as caught:
        from_proto(tensor, "x")
    return caught.value


def written(array: NDArray[Any]) -> Any:
    head, values = to_proto(array)
    return message("tensorflow.TensorProto").FromString(head + bytes(values))


LISTS: list[tuple[str, list[Any], list[Any]]] = [
    ("FP32", [1.5, -2.0], [1.5, -2.0]),
    ("FP64", [0.1, 1e300], [0.1, 1e300]),
    ("INT32", [-(2**31), 2**31 - 1], [-(2**31), 2**31 - 1]),
    ("UINT8", [0, 255], [0, 255]),
    ("INT16", [-(2**15), 2**15 - 1], [-(2**15), 2**15 - 1]),
    ("INT8", [-128, 127], [-128, 127]),
    ("UINT16", [0, 2**16 - 1], [0, 2**16 - 1]),
    ("INT64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
    ("BOOL", [True, False], [True, False]),
    ("UINT32", [0, 2**32 - 1], [0, 2**32 - 1]),
    ("UINT64", [0, 2**64 - 1], [0, 2**64 - 1]),
    ("BYTES", [b"", b"\xff\x00"], [b"", b"\xff\x00"]),
    ("FP16", [0x3C00, 0xC000], [1.0, -2.0]),
]


@pytest.mark.parametrize(("datatype", "values", "wanted"), LISTS, ids=[case[0] for case in LISTS])
def test_each_datatype_has_its_list(datatype: str, values: list[Any], wanted: list[Any]) -> None:
    """The values of a dtype are read from the list that TensorFlow puts them in."""
    kind = KINDS[datatype]

    array = read(proto(kind.number, [2], **{kind.field: values}))

    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == wanted


def test_bfloat16_is_the_bits_of_half_val() -> None:
    """half_val holds 16 bits in each int32, of a BF16 as of a FP16."""
    array = read(proto(14, [1], half_val=[0x3F80]))

    assert array.view(np.uint16).tolist() == [0x3F80]
    assert array.dtype == DTYPES["BF16"]


FILLED: list[tuple[list[int], list[float], list[Any]]] = [
    ([4], [1, 7], [1, 7, 7, 7]),
    ([2, 3], [1], [[1, 1, 1], [1, 1, 1]]),
    ([2], [], [0, 0]),
    ([2], [1, 2, 3], [1, 2]),
    ([0], [], []),
    ([0, 4], [1], []),
    ([2, 0], [], [[], []]),
]


@pytest.mark.parametrize(("shape", "values", "wanted"), FILLED)
def test_the_last_value_fills_and_what_is_too_much_is_cut(
    shape: list[int], values: list[float], wanted: list[Any]
) -> None:
    """As tf.make_tensor_proto writes constants, and TensorFlow reads them."""
    assert read(proto(1, shape, float_val=values)).tolist() == wanted
    assert read(proto(1, shape, float_val=values)).shape == tuple(shape)


@pytest.mark.parametrize(("datatype", "wanted"), [("BYTES", b""), ("BOOL", False), ("INT64", 0), ("FP16", 0.0)])
def test_a_tensor_without_values_is_zeros(datatype: str, wanted: Any) -> None:
    """Of texts these are empty ones."""
    assert read(proto(KINDS[datatype].number, [2])).tolist() == [wanted, wanted]


def test_bfloat16_is_filled_as_well() -> None:
    """Its elements are records to NumPy, which have no number 0."""
    assert read(proto(14, [2])).view(np.uint16).tolist() == [0, 0]
    assert read(proto(14, [2], half_val=[7])).view(np.uint16).tolist() == [7, 7]


def test_an_absent_shape_is_a_scalar() -> None:
    """tf.make_tensor_proto(1.5) is a tensor without axes."""
    array = read(proto(1, None, float_val=[1.5]))

    assert array.shape == ()
    assert array.item() == 1.5


def test_content_wins_over_lists() -> None:
    """As in TensorFlow, which looks at tensor_content first."""
    array = read(proto(1, [1], tensor_content=np.float32(2.5).tobytes(), float_val=[7.0]))

    assert array.tolist() == [2.5]


def test_any_byte_that_is_not_zero_is_true() -> None:
    """A boolean of NumPy whose byte is 2 would equal neither True nor False."""
    assert read(proto(10, [3], tensor_content=b"\x00\x01\x02")).tolist() == [False, True, True]


def test_strings_in_content_are_lengths_and_then_texts() -> None:
    """The form that TensorFlow's C++ clients write."""
    long = b"a" * 300
    content = b"\x00\xac\x02\x01" + long + b"b"

    assert read(proto(7, [3], tensor_content=content)).tolist() == [b"", long, b"b"]


@pytest.mark.parametrize(
    "content", [b"\x01", b"\x05a", b"\x01ab", b"\xff\xff\xff\xff\xff\xff\x01a", b"\x80", b"\x01\x01a"]
)
def test_damaged_strings_are_refused(content: bytes) -> None:
    """Lengths that do not add up, or have no end."""
    shape = [2] if content == b"\x01\x01a" else [1]

    assert refusal(proto(7, shape, tensor_content=content)).reason is Reason.MALFORMED_REQUEST


UNREADABLE: list[tuple[Any, str]] = [
    (proto(1, [3], tensor_content=b"\x00" * 8), "tensor_content has 8 bytes, shape [3] needs 12"),
    (proto(1, [-1], float_val=[1]), "its shape is [-1]"),
    (proto(1, [2**31, 2**31], float_val=[1]), "too large to be filled up"),
    (proto(1, [MOST_FILLED_BYTES // 4 + 1], float_val=[1]), "too large to be filled up"),
    (proto(1, [0, 2**62, 2**62]), "too large to be filled up"),
    (proto(1, [2**63 - 1] * 2, tensor_content=b"\x00" * 4), "needs"),
    (proto(1, [1] * 65), "65 axes"),
    (message("tensorflow.TensorProto")(dtype=1, tensor_shape={"unknown_rank": True}), "rank is unknown"),
]


@pytest.mark.parametrize(("tensor", "text"), UNREADABLE, ids=[text for _, text in UNREADABLE])
def test_what_is_no_tensor_is_refused(tensor: Any, text: str) -> None:
    """In TensorFlow's words, with the input's name, and before memory is taken."""
    error = refusal(tensor)

    assert error.code is Code.INVALID_ARGUMENT
    assert error.what().startswith("tensor parsing error: x: ")
    assert text in error.what()


def test_a_hostile_shape_is_judged_again_each_time() -> None:
    """Only shapes that are fine are remembered."""
    tensor = proto(1, [-5])

    assert [refusal(tensor).reason, refusal(tensor).reason] == [Reason.MALFORMED_REQUEST] * 2


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT8", -1), ("INT16", 40000), ("UINT16", 65536)])
def test_integers_must_fit_their_datatype(datatype: str, value: int) -> None:
    """int_val has 32 bits; what does not fit is refused, not wrapped."""
    error = refusal(proto(KINDS[datatype].number, [1], int_val=[value]))

    assert error.reason is Reason.WRONG_VALUE
    assert error.facts["got"] == value


@pytest.mark.parametrize("number", [0, 8, 20, 21, 101, 4711])
def test_other_datatypes_are_none_of_ours(number: int) -> None:
    """Complex numbers, resources, references, and numbers that mean nothing."""
    assert from_proto(proto(number, [1]), "x") is None


def test_too_many_strings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty string is two bytes on the wire and much more in memory."""
    monkeypatch.setattr(tf_tensor, "MOST_VALUES", 3)

    assert refusal(proto(7, [4], string_val=[b""] * 4)).reason is Reason.TOO_MANY_VALUES
    assert refusal(proto(7, [4], tensor_content=b"\x00" * 4)).reason is Reason.TOO_MANY_VALUES


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "BOOL", "INT64", "UINT64", "FP16"])
def test_long_lists_are_read_as_short_ones(datatype: str) -> None:
    """Many floats are read from their packed bytes, many integers in pieces."""
    array = (np.arange(AT_ONCE + FEW) % 2).astype(DTYPES[datatype])
    kind = KINDS[datatype]
    values = array.view(np.uint16).tolist() if datatype == "FP16" else array.tolist()

    came = read(proto(kind.number, [len(array)], **{kind.field: values}))

    assert came.dtype == array.dtype
    assert np.array_equal(came, array)


def arrays(datatype: str) -> st.SearchStrategy[NDArray[Any]]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    if datatype == "BYTES":
        return hnp.arrays(object, shapes, elements=st.binary(max_size=5), fill=st.nothing())
    if datatype == "BF16":
        return hnp.arrays(np.float32, shapes).map(narrow)
    return hnp.arrays(DTYPES[datatype], shapes)


@given(st.sampled_from(list(KINDS)).flatmap(arrays))
def test_an_array_comes_back_as_it_went(array: NDArray[Any]) -> None:
    """What is written is read again to the bit, in the datatype's list."""
    came = read(written(array))

    assert came.dtype == array.dtype
    assert came.shape == array.shape
    assert came.tobytes() == array.tobytes() if array.dtype.kind != "O" else came.tolist() == array.tolist()


@given(st.sampled_from([name for name in KINDS if name not in ("BYTES", "BOOL")]).flatmap(arrays))
def test_content_is_the_memory_of_an_array(array: NDArray[Any]) -> None:
    """Row-major, little-endian; an array without elements has none."""
    number = next(kind.number for name, kind in KINDS.items() if DTYPES[name] == array.dtype)

    came = read(proto(number, array.shape, tensor_content=array.tobytes()))

    assert came.dtype == array.dtype
    assert came.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10_000, dtype=np.float32)[::2],
        np.array(["a", "é"], object),
        np.array([True, False])[::-1],
    ],
    ids=["big-endian", "strided", "fortran", "large strided", "text", "reversed"],
)
def test_arrays_in_other_layouts_are_written_in_order(array: NDArray[Any]) -> None:
    """Values are written in row-major order whatever the array's memory looks like."""
    came = read(written(array))

    texts = [item.decode() if isinstance(item, bytes) else item for item in came.ravel().tolist()]
    assert texts == array.ravel().tolist()
    assert came.shape == array.shape


def test_answers_are_written_as_lists() -> None:
    """Clients read `outputs["y"].float_val`: tensor_content is never written."""
    tensor = written(np.array([[1.5, 2.5]], np.float32))

    assert list(tensor.float_val) == [1.5, 2.5]
    assert tensor.tensor_content == b""
    assert [axis.size for axis in tensor.tensor_shape.dim] == [1, 2]


def test_a_scalar_has_a_shape_without_axes() -> None:
    """As TensorFlow Serving writes it: the field is there."""
    tensor = written(np.array(1.5, np.float32))

    assert tensor.HasField("tensor_shape")
    assert list(tensor.float_val) == [1.5]


@given(st.binary(max_size=60))
def test_fuzzed_tensors_are_read_or_refused(body: bytes) -> None:
    """Whatever bytes protobuf takes for a TensorProto make an array or a DukouError."""
    try:
        tensor = parse("tensorflow.TensorProto", body)
        array = from_proto(tensor, "x")
    except DukouError:
        return

    assert array is None or array.nbytes <= MOST_FILLED_BYTES


def test_the_names_of_datatypes_are_tensorflows() -> None:
    """Also of those that are refused, which the error names."""
    assert [tf_tensor.name_of(number) for number in (1, 7, 8, 4711)] == [
        "float",
        "string",
        "complex64",
        "datatype 4711",
    ]
