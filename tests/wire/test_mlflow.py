"""MLflow's `/invocations`: four forms of JSON, and CSV."""

import asyncio
import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.message import Context, InferenceRequest, Served
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.version import ModelRef
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import mlflow

CSV = {b"content-type": b"text/csv; charset=utf-8"}


def echo(*inputs: TensorSpec) -> Served:
    """A model that answers with its first input."""
    first = inputs[0]
    signature = Signature(DEFAULT_SIGNATURE, inputs, (TensorSpec("y", first.datatype), TensorSpec("z", "FP32")))
    return served(manifest(signatures=(signature,)), Direct(FunctionModel(lambda given: {"y": given[first.name]})))


FRAME = echo(TensorSpec("X", "FP64", (-1, 2), ("age", "size")))
MATRIX = echo(TensorSpec("X", "FP32", (-1, 2)))
NAMED = echo(TensorSpec("age", "INT64", (-1,)), TensorSpec("city", "BYTES", (-1,)))
BOOLS = echo(TensorSpec("X", "BOOL", (-1, 1)))


def bound(body: Any, version: Served, headers: Any = None) -> InferenceRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    draft = mlflow.parse(ModelRef("m"), headers or {}, raw)
    return mlflow.bind(draft, version, Context())


def inputs(body: Any, version: Served, headers: Any = None) -> dict[str, Any]:
    """The inputs as lists."""
    return {name: array.tolist() for name, array in bound(body, version, headers).inputs.items()}


def refusal(body: Any, version: Served = FRAME, headers: Any = None) -> DukouError:
    with pytest.raises(DukouError) as caught:
        bound(body, version, headers)
    return caught.value


ROWS = [[31.0, 1.5], [40.0, 2.5]]
SPLIT = {"columns": ["age", "size"], "data": ROWS}
TURNED = {"columns": ["size", "age"], "data": [[1.5, 31.0], [2.5, 40.0]], "index": [7, 8]}
RECORDS = [{"age": 31, "size": 1.5}, {"size": 2.5, "age": 40}]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": SPLIT},
        {"dataframe_split": TURNED},
        {"dataframe_split": {"data": ROWS}},
        {"dataframe_records": RECORDS},
        {"instances": ROWS},
        {"instances": RECORDS},
        {"inputs": ROWS},
        {"inputs": {"age": [31, 40], "size": [1.5, 2.5]}},
        {"instances": ROWS, "params": None},
        {"instances": ROWS, "anything": "else"},
        b"age,size\n31,1.5\n40,2.5\n",
        b"size,age\r\n1.5,31\r\n\r\n2.5,4e1",
        b'\xef\xbb\xbf"age",size\n31,1.5\n"40",2.5',
    ],
)
def test_every_form_gives_the_same_rows(body: Any) -> None:
    """Columns are found by name, in whatever order they come."""
    assert inputs(body, FRAME, CSV if isinstance(body, bytes) else None) == {"X": ROWS}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["a", "b"], "data": ROWS}},
        {"dataframe_split": {"columns": [0, 1], "data": ROWS}},
        {"dataframe_records": [{"p": 31, "q": 1.5}, {"q": 2.5, "p": 40}]},
        {"instances": ROWS},
        b"0,1\n31,1.5\n40,2.5\n",
    ],
)
def test_a_model_without_names_takes_columns_in_their_order(body: Any) -> None:
    """Of records, that of the first one."""
    assert inputs(body, MATRIX, CSV if isinstance(body, bytes) else None) == {"X": ROWS}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["city", "age"], "data": [["Bern", 31], ["Oslo", 40]]}},
        {"dataframe_records": [{"age": 31, "city": "Bern"}, {"age": 40, "city": "Oslo"}]},
        {"instances": [{"age": 31, "city": "Bern"}, {"age": 40, "city": "Oslo"}]},
        {"inputs": {"age": [31, 40], "city": ["Bern", "Oslo"]}},
        b"city,age\nBern,31\nOslo,40\n",
    ],
)
def test_several_inputs_are_columns(body: Any) -> None:
    """Each with its own datatype."""
    headers = CSV if isinstance(body, bytes) else None

    assert inputs(body, NAMED, headers) == {"age": [31, 40], "city": ["Bern", "Oslo"]}


def test_large_tables_are_read_as_arrays() -> None:
    """The same rows as small ones."""
    rows = [[float(row), row / 2] for row in range(1000)]
    turned = {"columns": ["size", "age"], "data": [row[::-1] for row in rows]}

    assert inputs({"dataframe_split": turned}, FRAME)["X"] == rows
    assert inputs({"instances": rows}, FRAME)["X"] == rows


def test_csv_has_booleans_texts_and_gaps() -> None:
    """An empty cell of a number is NaN."""
    assert inputs(b"X\nTrue\n false \n", BOOLS, CSV) == {"X": [[True], [False]]}
    ((age, size),) = inputs(b"age,size\n31,\n", FRAME, CSV)["X"]
    assert age == 31
    assert np.isnan(size)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", ""])
def test_json_may_be_declared_or_not(kind: str) -> None:
    """What curl says without being asked counts as nothing said."""
    headers = {b"content-type": kind.encode()} if kind else {}

    assert inputs({"instances": ROWS}, FRAME, headers) == {"X": ROWS}


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        (b"{bad", Reason.MALFORMED_JSON, "not JSON"),
        (b"[]", Reason.MALFORMED_REQUEST, "must be an object"),
        ({}, Reason.MALFORMED_REQUEST, "none of them"),
        ({"instances": [], "inputs": []}, Reason.MALFORMED_REQUEST, "it has instances and inputs"),
        ({"instances": ROWS, "params": []}, Reason.MALFORMED_REQUEST, "'params' must be an object"),
        ({"instances": []}, Reason.NO_ROWS, "no rows"),
        ({"dataframe_split": []}, Reason.MALFORMED_REQUEST, "'dataframe_split' must be an object"),
        ({"dataframe_split": {"columns": "a", "data": []}}, Reason.MALFORMED_REQUEST, "'columns'"),
        ({"dataframe_split": {"columns": [], "data": 1}}, Reason.MALFORMED_REQUEST, "'data'"),
        ({"dataframe_split": {"columns": ["age", "size"], "data": []}}, Reason.NO_ROWS, "no rows"),
        ({"dataframe_split": {"columns": ["age", "size"], "data": [1]}}, Reason.WRONG_VALUE, "row 0"),
        ({"dataframe_split": {"columns": ["age", "size"], "data": [[1]]}}, Reason.WRONG_WIDTH, "row 0"),
        ({"dataframe_split": {"columns": ["age"], "data": [[1]]}}, Reason.COLUMN_MISSING, "'size'"),
        ({"dataframe_split": {"columns": ["age", "x"], "data": [[1, 2]]}}, Reason.COLUMN_UNEXPECTED, "'x'"),
        ({"dataframe_split": {"columns": ["age", {}], "data": [[1, 2]]}}, Reason.COLUMN_UNEXPECTED, "unknown"),
        (
            {"dataframe_split": {"columns": ["age", "age", "size"], "data": [[1, 2, 3]]}},
            Reason.MALFORMED_REQUEST,
            "column 'age' is there twice",
        ),
        ({"dataframe_records": {}}, Reason.MALFORMED_REQUEST, "'dataframe_records'"),
        ({"dataframe_records": []}, Reason.MALFORMED_REQUEST, "'dataframe_records'"),
        ({"dataframe_records": [{"age": 1}]}, Reason.COLUMN_MISSING, "'size'"),
        ({"dataframe_records": [{"age": "x", "size": 1}]}, Reason.WRONG_VALUE, "'X'"),
    ],
)
def test_what_is_wrong_is_said(body: Any, reason: Reason, text: str) -> None:
    """With the row and the column, as far as known."""
    error = refusal(body)

    assert error.reason is reason
    assert text in str(error)


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        (b"", Reason.MALFORMED_REQUEST, "empty"),
        (b"age,size\n", Reason.MALFORMED_REQUEST, "no rows below its first line"),
        (b"\xff\n1", Reason.MALFORMED_REQUEST, "UTF-8 at offset 0"),
        (b'age,size\n"1,2', Reason.MALFORMED_REQUEST, "not CSV"),
        (b"age,size\n1,x\n", Reason.WRONG_VALUE, "row 0"),
        (b"age,size\n1,2\n3\n", Reason.WRONG_WIDTH, "row 1"),
        (b"," * 500_001, Reason.TOO_MANY_VALUES, "500001"),
    ],
)
def test_what_is_wrong_in_a_csv_is_said(body: bytes, reason: Reason, text: str) -> None:
    """In the same words as of JSON."""
    error = refusal(body, headers=CSV)

    assert error.reason is reason
    assert text in str(error)


def test_records_must_have_the_same_columns() -> None:
    """Where the model has no names to compare with."""
    error = refusal({"dataframe_records": [{"a": 1, "b": 2}, {"a": 1, "c": 2}]}, MATRIX)

    assert error.reason is Reason.WRONG_VALUE
    assert error.facts["row"] == 1


def test_other_content_types_are_named() -> None:
    """With those that are understood."""
    error = refusal(b"<a/>", headers={b"content-type": b"application/xml; q"})

    assert error.reason is Reason.WRONG_MEDIA_TYPE
    assert str(error) == "the content type 'application/xml' is not understood; these are: application/json, text/csv"


def test_params_are_the_requests_parameters() -> None:
    """The model decides what they mean."""
    assert bound({"instances": ROWS, "params": {"alpha": 0.5}}, FRAME).parameters == {"alpha": 0.5}


def test_the_answer_is_the_first_output() -> None:
    """As `predictions`; nothing else is computed."""
    request = bound({"dataframe_split": SPLIT}, FRAME)
    assert FRAME.stage is not None

    reply = mlflow.encode(request, asyncio.run(FRAME.stage.infer(request)))

    assert request.outputs == ("y",)
    assert json.loads(reply.body) == {"predictions": ROWS}


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.MALFORMED_REQUEST, "BAD_REQUEST"),
        (Reason.MODEL_NOT_FOUND, "RESOURCE_DOES_NOT_EXIST"),
        (Reason.OVERLOADED, "REQUEST_LIMIT_EXCEEDED"),
        (Reason.DRAINING, "TEMPORARILY_UNAVAILABLE"),
        (Reason.MODEL_FAILED, "INTERNAL_ERROR"),
        (Reason.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    ],
)
def test_an_error_has_mlflows_form(reason: Reason, code: str) -> None:
    """A code by name, and a message of bounded size."""
    said = json.loads(mlflow.refuse(DukouError(reason, detail="x" * 10_000, served="\ud800", model="m")))

    assert said["error_code"] == code
    assert said["message"].startswith("model 'm'")
    assert len(said["message"]) <= 4096


tables = st.lists(st.tuples(st.floats(width=64), st.floats(width=64)), min_size=1, max_size=5)


@given(tables, st.permutations(["age", "size"]))
def test_any_table_means_the_same_in_every_form(rows: list[tuple[float, float]], order: list[str]) -> None:
    """NaN and the infinities too."""
    records = [dict(zip(("age", "size"), row, strict=True)) for row in rows]
    turned = [[record[name] for name in order] for record in records]
    text = io.StringIO()
    csv.writer(text).writerows([order, *turned])

    forms = [
        bound({"dataframe_split": {"columns": order, "data": turned}}, FRAME),
        bound({"dataframe_records": records}, FRAME),
        bound({"instances": [list(row) for row in rows]}, FRAME),
        bound({"inputs": {name: [record[name] for record in records] for name in order}}, FRAME),
        bound(text.getvalue().encode(), FRAME, CSV),
    ]

    for request in forms:
        np.testing.assert_array_equal(request.inputs["X"], np.array(rows))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["age", "size", "data", "columns"]), inner)
    ),
    max_leaves=12,
)
bodies = (
    st.dictionaries(st.sampled_from([*mlflow.FORMS, "params"]), json_values, max_size=3).map(
        lambda tree: json.dumps(tree).encode()
    )
    | st.binary(max_size=60)
    | st.text('age,size\n"1.5;x', max_size=40).map(str.encode)
)


@given(bodies, st.sampled_from([{}, CSV]), st.sampled_from([FRAME, MATRIX, NAMED, BOOLS]))
def test_any_body_is_understood_or_refused(body: bytes, headers: Any, version: Served) -> None:
    """Nothing but a DukouError is raised, and its text can be written."""
    try:
        bound(body, version, headers)
    except DukouError as error:
        json.loads(mlflow.refuse(error))
