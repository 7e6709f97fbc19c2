"""Traffic out of files: request bodies of every protocol's JSON, rows, recorded calls."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dukou.app.traffic import Asked, read_traffic
from dukou.core.errors import DukouError
from dukou.core.frame import encode_copy
from dukou.core.message import Copy
from dukou.core.model import DEFAULT_SIGNATURE, ModelManifest, ModelVersion, Signature, TensorSpec
from dukou.telemetry.recording import Header, Recording, pack
from dukou.testing.models import manifest

NAMED = Signature(
    DEFAULT_SIGNATURE,
    (TensorSpec("X", "FP32", (-1, 2), columns=("a", "b")),),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("scores", "FP32", (-1, 2))),
)
TWO = Signature(
    DEFAULT_SIGNATURE,
    (TensorSpec("age", "FP64", (-1,)), TensorSpec("name", "BYTES", (-1,))),
    (TensorSpec("label", "INT64", (-1,)),),
)


def calls(path: Path, signature: Signature = NAMED, labels: str = "", limit: int | None = None) -> list[Asked]:
    """What is read, where nothing is left out."""
    told: list[str] = []
    found = list(read_traffic(path, of(signature), told.append, labels, limit))
    assert not told
    return found


def of(*signatures: Signature) -> ModelManifest:
    return manifest("m", 1, signatures)


def written(folder: Path, name: str, *lines: Any) -> Path:
    path = folder / name
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ({"instances": [[1, 2], [3, 4]]}, [[1, 2], [3, 4]]),
        ({"instances": [{"a": 1, "b": 2}]}, [[1, 2]]),
        ({"inputs": [[1, 2]]}, [[1, 2]]),
        ({"inputs": {"X": [[1, 2]]}}, [[1, 2]]),
        ({"inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}, [[1, 2]]),
        ([1, 2], [[1, 2]]),
        ({"a": 1, "b": 2}, [[1, 2]]),
        ({"b": 2, "a": 1}, [[1, 2]]),
    ],
)
def test_a_line_is_a_body_as_callers_send_it_or_a_row(body: Any, rows: Sequence[Any], tmp_path: Path) -> None:
    """TensorFlow Serving's two forms, the Open Inference Protocol, a list, an object of columns."""
    (asked,) = calls(written(tmp_path, "calls.jsonl", body))

    assert asked.inputs["X"].tolist() == rows
    assert asked.inputs["X"].dtype == np.float32
    assert (asked.rows, asked.outputs, asked.signature) == (len(rows), ("label", "scores"), DEFAULT_SIGNATURE)


def test_outputs_and_parameters_of_a_body_are_asked_for_again(tmp_path: Path) -> None:
    """An infer body names them."""
    body = {
        "inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}],
        "outputs": [{"name": "scores"}],
        "parameters": {"temperature": 0.5},
    }

    (asked,) = calls(written(tmp_path, "calls.jsonl", body))

    assert asked.outputs == ("scores",)
    assert asked.parameters == {"temperature": 0.5}


@pytest.mark.parametrize(
    ("line", "labels"),
    [
        ({"instances": [[1, 2], [3, 4]], "right": [0, 1]}, ["0", "1"]),
        ({"a": 1, "b": 2, "right": "cat"}, ["cat"]),
        ({"inputs": {"X": [[1, 2]]}, "right": [True]}, ["True"]),
    ],
)
def test_labels_stand_beside_the_rows(line: Any, labels: Sequence[str], tmp_path: Path) -> None:
    """One for each row, or the only one."""
    (asked,) = calls(written(tmp_path, "calls.jsonl", line), labels="right")

    assert asked.labels == labels


def test_each_row_of_a_table_is_a_call(tmp_path: Path) -> None:
    """Columns by name, whatever their order; the label beside them; as many as are wanted."""
    path = written(tmp_path, "rows.csv", "b,right,a\n", "2,cat,1\n", "4,dog,3\n", "6,cat,5\n")

    found = calls(path, labels="right", limit=2)

    assert [asked.inputs["X"].tolist() for asked in found] == [[[1, 2]], [[3, 4]]]
    assert [list(asked.labels) for asked in found] == [["cat"], ["dog"]]


def test_a_json_file_is_one_call_or_a_list_of_them(tmp_path: Path) -> None:
    """A saved request, or many."""
    one = calls(written(tmp_path, "one.json", {"instances": [[1, 2], [3, 4]]}))
    many = calls(written(tmp_path, "many.json", [[1, 2], {"instances": [[3, 4]]}]))

    assert [asked.rows for asked in one] == [2]
    assert [asked.inputs["X"].tolist() for asked in many] == [[[1, 2]], [[3, 4]]]


def test_an_array_of_numpy_is_rows(tmp_path: Path) -> None:
    """A row for each entry of axis 0."""
    np.save(tmp_path / "rows.npy", np.arange(6.0).reshape(3, 2))

    assert [asked.inputs["X"].tolist() for asked in calls(tmp_path / "rows.npy")] == [[[0, 1]], [[2, 3]], [[4, 5]]]


def test_several_inputs_are_columns(tmp_path: Path) -> None:
    """Numbers and text side by side."""
    (asked,) = calls(written(tmp_path, "rows.csv", "name,age\n", "Ada,36\n"), TWO)

    assert asked.inputs["age"].tolist() == [36.0]
    assert asked.inputs["name"].tolist() == ["Ada"]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    """Columns that the model does not take."""
    told: list[str] = []
    path = written(tmp_path, "rows.csv", "a,b,id\n", "1,2,9\n")

    list(read_traffic(path, of(NAMED), told.append))

    assert told == ["columns that the model does not take were left out: id"]


def recording(folder: Path, *values: float) -> Path:
    made = Recording(folder, Header("m", redacted=("b",)), 1_000_000)
    copies = [
        Copy(
            ModelVersion("m", 7),
            DEFAULT_SIGNATURE,
            {"X": np.array([[value, 0.0]], np.float32)},
            {"label": np.array([1])},
            1,
            {"p": 1},
        )
        for value in values
    ]
    made.add([pack(float(at), b"".join(encode_copy(copy))) for at, copy in enumerate(copies)])
    made.close()
    return next(folder.rglob("*.capture"))


def test_a_recorded_file_is_known_by_its_content(tmp_path: Path) -> None:
    """Whatever it is called: version, answers, parameters and what was left out come with it."""
    path = recording(tmp_path, 1.0, 2.0, 3.0).rename(tmp_path / "calls.bin")

    found = calls(path, limit=2)

    assert [asked.inputs["X"][0, 0] for asked in found] == [1.0, 2.0]
    assert (found[0].version, found[0].redacted, found[0].parameters) == (7, ("b",), {"p": 1})
    assert found[0].answered is not None
    assert found[0].answered["label"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "lines", "labels", "said"),
    [
        ("rows.csv", ["a,c\n", "1,2\n"], "", "column b is missing; the model was trained on a, b"),
        ("rows.csv", ["a,b\n", "1,x\n"], "", "row 0.*'x' came where FP32 is wanted"),
        ("rows.csv", ["a,b\n", "1,2\n"], "right", "there is no column 'right'; there are: a, b"),
        ("rows.csv", [], "", "no rows came"),
        ("calls.jsonl", [[1, 2], [1, 2, 3]], "", "calls.jsonl, line 2:.*3 values came, 2 are wanted"),
        ("calls.jsonl", [[1, 2], "\n", "{nonsense\n"], "", "calls.jsonl, line 3: this is not JSON"),
        ("calls.jsonl", [{"a": 1, "c": 2}], "", "calls.jsonl, line 1:.*'c' is unknown"),
        ("calls.jsonl", [{"instances": [[1, 2]], "x": 1}], "y", "there is no 'y' beside the rows; there are: instance"),
        ("calls.jsonl", [{"instances": [[1, 2]], "y": [1, 2]}], "y", "2 labels came for 1 rows"),
        ("calls.jsonl", [[1, 2]], "y", "there is no 'y' beside the rows"),
        ("calls.json", ["[1, 2"], "", "calls.json: this is not JSON"),
        ("calls.txt", ["a"], "", "this is no file of recorded calls; others are read from .json, .jsonl, .csv"),
        ("", [], "", "Is a directory"),
        ("rows.npy", ["no array"], "", "rows.npy"),
        ("rows.npy", ["no array"], "y", "an array has no column 'y'"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(
    name: str, lines: Sequence[Any], labels: str, said: str, tmp_path: Path
) -> None:
    """The file, the line, the column, what came and what was wanted."""
    path = written(tmp_path, name, *lines) if name else tmp_path

    with pytest.raises(DukouError, match=said):
        list(read_traffic(path, of(NAMED), print, labels))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """As the system says it."""
    with pytest.raises(DukouError, match=r"nothing.csv: No such file or directory"):
        read_traffic(tmp_path / "nothing.csv", of(NAMED), print)


def test_recorded_calls_have_no_labels(tmp_path: Path) -> None:
    """Asking for them is a mistake that is told."""
    with pytest.raises(DukouError, match="recorded calls, and those have no labels"):
        read_traffic(recording(tmp_path, 1.0), of(NAMED), print, "right")


def test_a_model_without_rows_takes_bodies_only(tmp_path: Path) -> None:
    """A table would have to be cut into calls that it does not say."""
    single = Signature(
        DEFAULT_SIGNATURE, (TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),), batched=False
    )

    (asked,) = calls(written(tmp_path, "calls.jsonl", {"inputs": {"x": [1, 2]}}), single)
    with pytest.raises(DukouError, match="give request bodies, one a line"):
        calls(written(tmp_path, "rows.csv", "1,2\n"), single)

    assert (asked.rows, asked.inputs["x"].tolist()) == (1, [1, 2])
