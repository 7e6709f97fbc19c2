"""`/predict`: rows in, `y_pred` out."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.tensor import datatype_of
from dukou.core.version import ModelRef
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire.plain import Plain

IRIS = served()
plain = Plain()


def echo(array: Any, columns: tuple[str, ...] = ()) -> Served:
    """A model that answers each row with itself, and has a second output that nobody asks for."""
    spec = TensorSpec("X", datatype_of(array), (-1, *array.shape[1:]), columns)
    signature = Signature(DEFAULT_SIGNATURE, (spec,), (TensorSpec("y", spec.datatype), TensorSpec("z", "FP32")))
    return served(manifest(signatures=(signature,)), Direct(FunctionModel(lambda inputs: {"y": inputs["X"]})))


def bound(body: bytes, version: Served = IRIS) -> InferenceRequest:
    return plain.bind(plain.parse(ModelRef("iris"), {}, body), version, Context())


def answer(body: bytes, version: Served = IRIS) -> bytes:
    request = bound(body, version)
    assert version.stage is not None
    return plain.encode(request, asyncio.run(version.stage.infer(request))).body


def refusal(body: bytes, version: Served = IRIS) -> DukouError:
    with pytest.raises(DukouError) as caught:
        bound(body, version)
    return caught.value


def with_output(array: Any) -> bytes:
    """The body for a model whose first output is `array`."""
    request = bound(b'{"X": [[5.1, 3.5, 1.4, 0.2]]}')
    outputs: Mapping[str, Any] = {"label": array}
    return plain.encode(request, InferenceResponse(request.version, outputs)).body


@pytest.mark.parametrize(
    "body",
    [
        b'{"X": [[5.1, 3.5, 1.4, 0.2]]}',
        b'{"X": [[5.1, 3.5, 1.4, 0.2]], "extra": {"a": [1, "b"]}}',
        b'\xef\xbb\xbf{"X": [[5.1, 3.5, 1.4, 0.2]]}',
    ],
)
def test_one_row_is_answered_by_one_label(body: bytes) -> None:
    """The first output only, and nothing else is computed."""
    assert bound(body).outputs == ("label",)
    assert bound(body).rows == 1
    assert answer(body) == b'{"y_pred":[0]}'


def test_many_rows_are_answered_in_order() -> None:
    """A body above the size where another parser takes over."""
    rows = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]] * 500

    assert json.loads(answer(json.dumps({"X": rows}).encode())) == {"y_pred": [0, 2] * 500}


def test_headers_do_not_matter() -> None:
    """Curl sends a form's content type unless told otherwise."""
    headers = {b"content-type": b"application/x-www-form-urlencoded"}

    assert plain.parse(ModelRef("iris"), headers, b'{"X": [[1, 2, 3, 4]]}').payload.rows == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (np.array([1, 2]), b'{"y_pred":[1,2]}'),
        (np.array(["setosa"], object), b'{"y_pred":["setosa"]}'),
        (np.array([True, False]), b'{"y_pred":[true,false]}'),
        (np.array([0.1], np.float32), b'{"y_pred":[0.1]}'),
        (np.array([0.1]), b'{"y_pred":[0.1]}'),
        (np.array([[1.5, 2.0]], np.float32), b'{"y_pred":[[1.5,2.0]]}'),
        (np.array([np.nan, np.inf]), b'{"y_pred":[NaN,Infinity]}'),
    ],
)
def test_answers_are_the_models_own_values(output: Any, text: bytes) -> None:
    """Classes as the estimator has them, floats in the shortest form of their precision, rows of several nested."""
    assert with_output(output) == text


def test_bytes_that_are_no_text_cannot_be_said() -> None:
    """Rather than a wrong letter."""
    with pytest.raises(DukouError) as caught:
        with_output(np.array([b"\xff"], object))

    assert caught.value.reason is Reason.NOT_SUPPORTED


def test_not_finite_numbers_pass_both_ways() -> None:
    """As tokens, which Python's json reads and writes."""
    assert answer(b'{"X": [[NaN, -Infinity]]}', echo(np.zeros((1, 2), np.float32))) == b'{"y_pred":[[NaN,-Infinity]]}'


def test_records_and_columns_are_rows_too() -> None:
    """By the names the model was trained on, in any order."""
    version = echo(np.zeros((1, 2), np.float32), ("width", "length"))

    assert answer(b'{"X": [{"length": 2, "width": 1}]}', version) == b'{"y_pred":[[1.0,2.0]]}'
    assert answer(b'{"X": {"length": [2], "width": [1]}}', version) == b'{"y_pred":[[1.0,2.0]]}'


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        (b"", Reason.MALFORMED_JSON, "the body is not JSON: The document is empty"),
        (b"[[1, 2, 3, 4]]", Reason.MALFORMED_REQUEST, 'the body must be {"X": [[...], ...]}, one list for each row'),
        (b'{"x": [[1]]}', Reason.MALFORMED_REQUEST, 'the body must be {"X": [[...], ...]}, one list for each row'),
        (
            b'{"X": [[1, 2, 3, 4]]} x',
            Reason.MALFORMED_JSON,
            "the body is not JSON: more follows the first value at offset 22",
        ),
        (b'{"X": ' + b"[" * 400_000, Reason.TOO_DEEP, "the JSON is nested deeper than 100 levels"),
        (
            b'{"X": [5.1, 3.5, 1.4, 0.2]}',
            Reason.MALFORMED_REQUEST,
            "model 'iris', version 1, input 'X': shape [4] came, [-1, 4] is wanted; "
            "X is a list of rows, so one row is written [[...]]",
        ),
        (
            b'{"X": [[1, 2, 3]]}',
            Reason.WRONG_WIDTH,
            "model 'iris', version 1, input 'X', row 0: 3 values came, 4 are wanted",
        ),
        (
            b'{"X": [[1, 2, 3, 4], [1, 2]]}',
            Reason.RAGGED,
            "model 'iris', version 1, input 'X', row 1: the rows have different shapes: [2] came after [4]",
        ),
        (
            b'{"X": [[1, 2, 3, "4"]]}',
            Reason.WRONG_VALUE,
            "model 'iris', version 1, input 'X', row 0: \"4\" came where FP32 is wanted",
        ),
        (
            b'{"X": [[1, 2, 3, true]]}',
            Reason.WRONG_VALUE,
            "model 'iris', version 1, input 'X', row 0: true came where FP32 is wanted",
        ),
        (b'{"X": []}', Reason.NO_ROWS, "model 'iris', version 1, input 'X': no rows came"),
        (b'{"X": [[]]}', Reason.WRONG_WIDTH, "model 'iris', version 1, input 'X', row 0: 0 values came, 4 are wanted"),
        (b'{"X": 5}', Reason.WRONG_SHAPE, "model 'iris', version 1, input 'X': shape [] came, [-1, 4] is wanted"),
        (
            b'{"X": null}',
            Reason.WRONG_VALUE,
            "model 'iris', version 1, input 'X': null came where FP32 is wanted",
        ),
        (
            b'{"X": [{"a": 1}]}',
            Reason.WRONG_VALUE,
            "model 'iris', version 1, input 'X', row 0: "
            '{"a": 1} came where a list of values (this model has no column names) is wanted',
        ),
    ],
)
def test_a_mistake_is_answered_by_what_to_change(body: bytes, reason: Reason, text: str) -> None:
    """Model, version, input, row, what came, what is wanted."""
    error = refusal(body)

    assert error.reason is reason
    assert json.loads(plain.refuse(error)) == {"error": text}


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3)))
def test_a_float_comes_back_as_it_went(array: Any) -> None:
    """Through JSON, both ways, not one bit is lost."""
    body = b'{"X":' + json.dumps(array.tolist()).encode() + b"}"

    result = np.array(json.loads(answer(body, echo(array)))["y_pred"], np.float32)

    assert np.array_equal(result, array, equal_nan=True)


@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_an_integer_comes_back_as_it_went(array: Any) -> None:
    """Identifiers above 2**53 keep their digits, in small bodies and large ones."""
    body = b'{"X":' + json.dumps(array.tolist()).encode() + b"}"

    result = json.loads(answer(body, echo(array)))["y_pred"]

    assert result == array.tolist()
