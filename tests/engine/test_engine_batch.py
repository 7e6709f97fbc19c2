"""What shares a batch, and that cutting undoes joining."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest
from dukou.core.model import ModelVersion, Signature, TensorSpec
from dukou.core.tensor import DTYPES, datatype_of
from dukou.engine.batch import batch_key, cut, has_fixed_rows, join
from dukou.testing.models import IRIS_SIGNATURE, iris_request

VERSION = ModelVersion("m", 1)


def request_of(**inputs: np.ndarray[Any, Any]) -> InferenceRequest:
    specs = tuple(
        TensorSpec(name, datatype_of(array), (-1,) + (-1,) * (array.ndim - 1)) for name, array in inputs.items()
    )
    rows = len(next(iter(inputs.values())))
    return InferenceRequest(VERSION, Signature("s", specs, ()), inputs, ("y",), rows, Context())


@st.composite
def joinable(draw: st.DrawFn) -> list[InferenceRequest]:
    """Requests of one key: some inputs of any datatype, any row shape and any number of rows each, none included."""
    kinds = [
        (
            f"input{number}",
            draw(st.sampled_from(sorted(DTYPES))),
            draw(npst.array_shapes(min_dims=0, max_dims=2, max_side=4)),
        )
        for number in range(draw(st.integers(1, 3)))
    ]
    made = []
    for _ in range(draw(st.integers(1, 6))):
        rows = draw(st.integers(0, 4))
        inputs = {}
        for name, datatype, shape in kinds:
            if datatype == "BYTES":
                count = rows * math.prod(shape)
                flat = np.empty(count, dtype=object)
                flat[:] = draw(st.lists(st.text(max_size=5) | st.binary(max_size=5), min_size=count, max_size=count))
                inputs[name] = flat.reshape((rows, *shape))
            else:
                inputs[name] = draw(npst.arrays(DTYPES[datatype], (rows, *shape)))
        made.append(request_of(**inputs))
    return made


@given(joinable())
def test_cutting_undoes_joining(requests: list[InferenceRequest]) -> None:
    """cut(join(x)) == x, bit for bit, for every datatype, text and bytes included."""
    responses = cut(VERSION, join(requests), [request.rows for request in requests])

    assert len({batch_key(request) for request in requests}) == 1
    for request, response in zip(requests, responses, strict=True):
        piece = response.outputs
        assert response.version is VERSION
        assert response.array_bytes == sum(array.nbytes for array in piece.values())
        assert list(piece) == list(request.inputs)
        for name, array in request.inputs.items():
            assert piece[name].dtype == array.dtype
            assert piece[name].shape == array.shape
            if array.dtype == object:
                assert piece[name].tolist() == array.tolist()
            else:
                assert piece[name].tobytes() == array.tobytes()


def test_one_request_is_not_copied() -> None:
    """Alone in its batch a request's arrays go through as they are, in and out."""
    request = iris_request([[1, 2, 3, 4]])

    assert join([request]) is request.inputs
    assert cut(VERSION, request.inputs, [1])[0].outputs["X"] is request.inputs["X"]


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((), [1]), ((), [1, 1]), ((1,), [2]), ((3,), [1, 1]), ((1, 5), [3, 2]), ((2, 5), [3, 2]), ((0,), [1])],
)
def test_outputs_that_are_not_the_batchs_rows_are_refused(shape: tuple[int, ...], rows: list[int]) -> None:
    """Cutting them would answer one caller with another's rows, or with nothing."""
    outputs = {"good": np.zeros(sum(rows)), "bad": np.zeros(shape)}

    with pytest.raises(DukouError) as caught:
        cut(VERSION, outputs, rows)

    assert caught.value.reason is Reason.OUTPUT_NOT_ROWS
    assert caught.value.facts == {"output": "bad", "got": list(shape), "wanted": sum(rows)}


BASE = iris_request([[1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        (iris_request([[9, 9, 9, 9], [8, 8, 8, 8]]), True),
        (msgspec.structs.replace(BASE, context=Context(id="x", priority=3, principal="someone")), True),
        (msgspec.structs.replace(BASE, reply="binary"), True),
        (msgspec.structs.replace(BASE, outputs=("probabilities",)), False),
        (msgspec.structs.replace(BASE, outputs=("label", "probabilities")), False),
        (msgspec.structs.replace(BASE, parameters={"k": 1}), False),
        (msgspec.structs.replace(BASE, signature=msgspec.structs.replace(IRIS_SIGNATURE, name="other")), False),
    ],
)
@pytest.mark.parametrize("fixed_rows", [False, True])
def test_what_shares_a_batch(other: InferenceRequest, shares: bool, fixed_rows: bool) -> None:
    """Signature, outputs and parameters part; values, number of rows and who asks do not."""
    assert (batch_key(BASE, fixed_rows) == batch_key(other, fixed_rows)) is shares


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), ([1], [1.0]), ({"a": 1}, {"a": True})]
)
def test_parameters_that_are_equal_but_not_the_same_part(one: Any, other: Any) -> None:
    """Python finds 1, 1.0 and True equal; a model may not."""
    keys = {batch_key(msgspec.structs.replace(BASE, parameters={"k": value}), True) for value in (one, other)}

    assert len(keys) == 2


def test_the_order_of_names_does_not_matter() -> None:
    """Inputs and parameters are mappings."""
    forwards = request_of(a=np.zeros(1), b=np.ones(1))
    backwards = msgspec.structs.replace(forwards, inputs={"b": np.ones(1), "a": np.zeros(1)})

    assert batch_key(forwards) == batch_key(backwards)
    assert batch_key(msgspec.structs.replace(forwards, parameters={"p": 1, "q": 2})) == batch_key(
        msgspec.structs.replace(backwards, parameters={"q": 2, "p": 1})
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((1, 3)), np.zeros((1, 4))),
        (np.zeros((1, 3)), np.zeros((1, 3, 1))),
        (np.zeros((1, 3)), np.zeros((1, 3), dtype=np.float32)),
    ],
)
def test_arrays_that_cannot_be_joined_part(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
    """Where a signature leaves sizes open, the arrays themselves decide."""
    assert batch_key(request_of(a=one)) != batch_key(request_of(a=other))


@pytest.mark.parametrize(
    ("shapes", "fixed"),
    [
        ([(-1, 4)], True),
        ([(-1,), (-1, 2, 2)], True),
        ([(-1, -1)], False),
        ([(-1, 4), (-1, 8, -1)], False),
        ([None], False),
    ],
)
def test_which_signatures_fix_the_shape_of_a_row(shapes: list[tuple[int, ...] | None], fixed: bool) -> None:
    """Only the number of rows may be open."""
    inputs = tuple(TensorSpec(f"i{number}", "FP32", shape) for number, shape in enumerate(shapes))

    assert has_fixed_rows(Signature("s", inputs, ())) is fixed


@pytest.mark.parametrize(("shape", "fixed"), [((7, 2), True), ((-1, 2), False)])
def test_without_a_row_axis_every_size_must_be_fixed(shape: tuple[int, ...], fixed: bool) -> None:
    """There the first axis is one like the others."""
    signature = Signature("s", (TensorSpec("a", "FP32", shape),), (), batched=False)

    assert has_fixed_rows(signature) is fixed
