"""Rows from CSV, JSON and NumPy files, typed by the model's signature."""

from pathlib import Path

import numpy as np
import pytest

from dukou.core.errors import DukouError, Reason
from dukou.core.model import Signature, TensorSpec
from dukou.packing.rows import read_rows

MATRIX = Signature("s", (TensorSpec("X", "FP64", (-1, 3)),), ())
FRAME = Signature("s", (TensorSpec("X", "FP64", (-1, 2), ("age", "fare")),), ())
MIXED = Signature(
    "s", (TensorSpec("age", "FP64", (-1, 1)), TensorSpec("sex", "BYTES", (-1, 1)), TensorSpec("n", "INT64", (-1,))), ()
)
TEXTS = Signature("s", (TensorSpec("X", "BYTES", (-1,)),), ())


def written(folder: Path, name: str, text: str) -> Path:
    """A file with that text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "1,2,3\n4,5,6\n"),
        ("a.csv", "a,b,c\n1,2,3\n4,5,6"),
        ("a.csv", "\ufeff1;2;3\r\n4;5;6\r\n"),
        ("a.csv", '"1","2","3"\n\n 4, 5,6\n'),
        ("a.tsv", "1\t2\t3\n4\t5\t6\n"),
        ("a.json", "[[1, 2, 3], [4, 5, 6]]"),
        ("a.json", '{"instances": [[1, 2, 3], [4, 5, 6]]}'),
        ("a.json", '{"inputs": {"X": [[1, 2, 3], [4, 5, 6]]}}'),
        ("a.json", '{"X": [[1, 2, 3], [4, 5, 6]]}'),
        ("a.json", '[{"X": [1, 2, 3]}, {"X": [4, 5, 6]}]'),
        ("a.jsonl", "[1, 2, 3]\n[4, 5, 6]\n"),
    ],
)
def test_the_same_rows_in_every_form(name: str, text: str, tmp_path: Path) -> None:
    """A matrix can be written in many ways."""
    rows = read_rows(written(tmp_path, name, text), MATRIX)

    assert rows.count == 2
    assert rows.inputs["X"].dtype == np.float64
    np.testing.assert_array_equal(rows.inputs["X"], [[1, 2, 3], [4, 5, 6]])


def test_arrays_are_read_and_cast(tmp_path: Path) -> None:
    """A .npy file holds the matrix itself."""
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.int32).reshape(2, 3))

    rows = read_rows(tmp_path / "a.npy", MATRIX)

    assert rows.inputs["X"].dtype == np.float64
    assert rows.inputs["X"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_header_gives_columns_by_name_and_others_are_left_out(tmp_path: Path) -> None:
    """The order of columns does not matter, and a target column is no mistake."""
    rows = read_rows(written(tmp_path, "a.csv", "survived,fare,age\n1,10.5,30\n0,,40\n"), FRAME)

    np.testing.assert_array_equal(rows.inputs["X"], [[30, 10.5], [40, np.nan]])
    assert rows.note == "columns that the model does not take were left out: survived"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "n,sex,age\n1,m,30\n2,f,\n"),
        ("a.csv", "30,m,1\n,f,2\n"),
        ("a.json", '[{"age": 30, "sex": "m", "n": 1}, {"age": null, "sex": "f", "n": 2}]'),
        ("a.json", '{"age": [30, NaN], "sex": ["m", "f"], "n": [1, 2]}'),
        ("a.json", '[[30, "m", 1], [null, "f", 2]]'),
    ],
)
def test_mixed_columns_become_an_input_each(name: str, text: str, tmp_path: Path) -> None:
    """Numbers, text and integers side by side, with the shapes of the signature; an empty number is NaN."""
    rows = read_rows(written(tmp_path, name, text), MIXED)

    np.testing.assert_array_equal(rows.inputs["age"], [[30.0], [np.nan]])
    assert rows.inputs["sex"].tolist() == [["m"], ["f"]]
    assert (rows.inputs["n"].tolist(), rows.inputs["n"].dtype) == ([1, 2], np.int64)


def test_documents_are_a_column_of_text(tmp_path: Path) -> None:
    """One text a row, commas quoted."""
    rows = read_rows(written(tmp_path, "a.csv", 'X\n"good, very good"\nbad\n'), TEXTS)

    assert rows.inputs["X"].tolist() == ["good, very good", "bad"]


def test_a_limit_is_kept(tmp_path: Path) -> None:
    """Only so many rows are read."""
    assert read_rows(written(tmp_path, "a.csv", "1,2,3\n" * 50), MATRIX, limit=7).count == 7


@pytest.mark.parametrize(
    ("name", "text", "signature", "reason", "facts"),
    [
        ("a.csv", "1,2\n", MATRIX, Reason.WRONG_WIDTH, {"tensor": "X", "got": 2, "wanted": 3}),
        ("a.csv", "1,2,3\n4,5\n", MATRIX, Reason.WRONG_WIDTH, {"row": 1, "got": 2}),
        ("a.csv", "1,2,3\n4,five,6\n", MATRIX, Reason.WRONG_VALUE, {"row": 1, "got": "'five'", "wanted": "FP64"}),
        ("a.csv", "age,name\n1,2\n", FRAME, Reason.COLUMN_MISSING, {"missing": "fare"}),
        ("a.csv", "age,sex,n\n1,m,2.5\n", MIXED, Reason.WRONG_VALUE, {"tensor": "n", "row": 0}),
        ("a.csv", "", MATRIX, Reason.NO_ROWS, {}),
        ("a.csv", "a,b,c\n", MATRIX, Reason.NO_ROWS, {}),
        ("a.json", "[[1, 2, 3]", MATRIX, Reason.MALFORMED_JSON, {}),
        ("a.json", "[" * 100_000, MATRIX, Reason.MALFORMED_JSON, {}),
        ("a.json", "[[1, 2, 3], [4, 5]]", MATRIX, Reason.WRONG_VALUE, {}),
        ("a.json", "[[1, 2]]", MATRIX, Reason.WRONG_SHAPE, {"got": [1, 2], "wanted": [-1, 3]}),
        ("a.json", '[{"age": 1}]', FRAME, Reason.COLUMN_MISSING, {"row": 0, "missing": "fare"}),
        ("a.json", "3", MATRIX, Reason.WRONG_VALUE, {"wanted": "a list of rows"}),
        ("a.json", '[["x", 1]]', MIXED, Reason.WRONG_WIDTH, {"row": 0, "got": 2, "wanted": "3 (age, sex, n)"}),
        ("a.xlsx", "", MATRIX, Reason.ARTIFACT_UNSUPPORTED, {}),
    ],
)
def test_mistakes_name_the_place(
    *, name: str, text: str, signature: Signature, reason: Reason, facts: dict[str, object], tmp_path: Path
) -> None:
    """What came, what was wanted, in which row and column."""
    with pytest.raises(DukouError) as refused:
        read_rows(written(tmp_path, name, text), signature)

    assert refused.value.reason is reason
    assert refused.value.facts.items() >= facts.items()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is in the error."""
    with pytest.raises(DukouError) as refused:
        read_rows(tmp_path / "none.csv", MATRIX)

    assert refused.value.reason is Reason.PATH_NOT_FOUND
    assert "none.csv" in str(refused.value)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    """A .npy file of objects would be a pickle."""
    np.save(tmp_path / "a.npy", np.array([object()], dtype=object), allow_pickle=True)

    with pytest.raises(DukouError) as refused:
        read_rows(tmp_path / "a.npy", MATRIX)

    assert refused.value.reason is Reason.ARTIFACT_UNREADABLE


def test_a_column_can_be_set_aside(tmp_path: Path) -> None:
    """The label beside the inputs: also where the model's columns have no names."""
    path = tmp_path / "rows.csv"
    path.write_text("a,label,b\n1, setosa,2\n3,virginica,4\n")
    matrix = Signature("s", (TensorSpec("X", "FP32", (-1, 2)),), ())

    rows = read_rows(path, matrix, aside="label")

    assert rows.inputs["X"].tolist() == [[1, 2], [3, 4]]
    assert rows.aside == ["setosa", "virginica"]
    assert rows.note == ""


def test_a_column_to_set_aside_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With those that are."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")

    with pytest.raises(DukouError, match="there is no column 'label'; there are: a, b"):
        read_rows(path, Signature("s", (TensorSpec("X", "FP32", (-1, 2)),), ()), aside="label")
