"""`dukou pack`, `inspect` and `predict` on a small model."""

import json
import shutil
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dukou.cli.inspect import compared, libraries, shape, size
from dukou.cli.main import run
from dukou.cli.pack import numbers, pairs
from dukou.cli.predict import as_json, as_table, split_url, suffix_of
from dukou.cli.terminal import CommandError
from dukou.core.model import Evidence
from dukou.repository.local import next_version
from dukou.repository.manifest import read_manifest


def test_pack_names_the_model_after_its_file(repository: Path) -> None:
    """Without --name and --version it is version 1 of what the file is called, with what was said about it."""
    manifest = read_manifest(repository / "sums" / "1")

    assert (manifest.id.name, manifest.id.version) == ("sums", 1)
    assert manifest.metrics == {"accuracy": 0.97}
    assert manifest.lineage == {"commit": "4f1c2aa"}


def test_pack_takes_the_next_version(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second pack is version 2, and says where it is and what to type next."""
    argv = ["pack", str(model_file), "--to", str(tmp_path)]

    codes = [run(argv), run(argv)]

    assert codes == [0, 0]
    assert sorted(path.name for path in (tmp_path / "sums").iterdir()) == ["1", "2"]
    out = capsys.readouterr().out
    assert f"packed sums 2 into {tmp_path}/sums/2" in out
    assert f"next: dukou serve {tmp_path}/sums/2" in out


def test_push_says_what_it_did_and_what_happens_next(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, a packed version and a folder that stands as it is; each has the next number."""
    to = ["--to", str(tmp_path), "--name", "adder"]

    codes = [
        run(["push", str(model_file), *to, "--metric", "accuracy=0.97"]),
        run(["push", str(tmp_path / "adder" / "1"), *to]),
        run(["push", str(model_file.parent), *to, "--version", "7"]),
    ]

    out = capsys.readouterr().out
    assert codes == [0, 0, 0]
    for number in (1, 2, 7):
        assert f"pushed adder {number} into {tmp_path}/adder/{number}" in out
    assert read_manifest(tmp_path / "adder" / "2").metrics == {"accuracy": 0.97}
    assert out.count("It is an ONNX graph already") == 2
    assert out.count("without a manifest") == 1
    assert f"next: a server of {tmp_path} finds it by itself" in out


def test_a_version_is_never_packed_twice(
    model_file: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number that is taken is refused with a line."""
    code = run(["pack", str(model_file), "--to", str(repository), "--version", "1"])

    assert code == 1
    assert "exists already" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_met_with_the_nearest(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that takes a path helps with a slip."""
    wrong = str(model_file.with_name("sum.onnx"))

    codes = [run(["pack", wrong]), run(["inspect", wrong]), run(["predict", wrong, "1,2"])]

    err = capsys.readouterr().err
    assert codes == [1, 1, 1]
    assert err.count(f"did you mean {model_file}?") == 3


@pytest.mark.parametrize(
    ("names", "version"), [([], 1), (["1"], 2), (["2", "10"], 11), (["1", "notes", ".tmp"], 2), (None, 1)]
)
def test_the_next_version_is_after_the_highest(names: Sequence[str] | None, version: int, tmp_path: Path) -> None:
    """Numbers are compared as numbers; what is no version does not count."""
    folder = tmp_path / "model"
    for name in names or ():
        (folder / name).mkdir(parents=True)

    assert next_version(folder) == version


def test_pairs_are_cut_at_the_first_equals_sign() -> None:
    """A value may hold one."""
    assert pairs("--lineage", ["a=b=c", " k = v "]) == {"a": "b=c", "k": "v"}
    assert numbers(["a=1e-3"]) == {"a": 0.001}


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_a_pair_without_a_key_or_a_sign_is_refused(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(CommandError, match="KEY=VALUE"):
        pairs("--lineage", [text])


def test_inspect_shows_what_matters(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which form serves and why, the signature, the origin, the digests."""
    code = run(["inspect", str(repository)])

    out = capsys.readouterr().out
    assert code == 0
    for text in ("sums 1", "serves", "why", "X  FP32 [rows, 2]", "sum  FP32 [rows]", "accuracy 0.97", "4f1c2aa"):
        assert text in out
    for name, digest in read_manifest(repository / "sums" / "1").digests.items():
        assert f"{name}  {digest[:16]}" in out


def test_inspect_as_json_is_all_of_it(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read the same with nothing cut."""
    run(["inspect", str(repository), "--json"])

    (version,) = json.loads(capsys.readouterr().out)["versions"]
    assert version["intact"] is True
    assert version["digests"] == dict(read_manifest(repository / "sums" / "1").digests)


def test_inspect_tells_a_damaged_version(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1, so that a script can stop there."""
    shutil.copytree(repository, tmp_path / "models")
    folder = tmp_path / "models" / "sums" / "1"
    (folder / read_manifest(folder).serving).write_bytes(b"changed")

    code = run(["inspect", str(tmp_path / "models")])

    assert code == 1
    assert "damaged" in capsys.readouterr().out


def test_inspect_of_a_bare_file(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not packed is described too, with what to do next."""
    assert run(["inspect", str(model_file)]) == 0

    out = capsys.readouterr().out
    assert "onnx" in out
    assert "X  FP32 [rows, 2]" in out
    assert "dukou pack" in out


def test_the_small_words_of_inspect() -> None:
    """Shapes, sizes, libraries and comparisons as people read them."""
    assert shape((-1, 4), True) == "[rows, 4]"
    assert shape((-1, -1), False) == "[any, any]"
    assert shape(None, True) == "of any shape"
    assert [size(count) for count in (0, 1023, 1536, 5 * 2**20, 3 * 2**30)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5 MiB",
        "3 GiB",
    ]
    assert libraries("3.12", {"numpy": "2"}) == "Python 3.12, numpy 2"
    evidence = Evidence("compiled", "", "data", 150, 1e-7, 2e-7)
    assert compared(evidence) == "150 given rows, largest difference 1e-07 (relative 2e-07), 0 labels differ"
    assert compared(Evidence("original", "", "none")) == "no rows compared"


def test_predict_rows_of_the_command_line(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each argument is a row, a negative number first or not; the table has a line for each."""
    code = run(["predict", str(repository / "sums" / "1"), "1,2", "-3,4.5"])

    assert code == 0
    assert capsys.readouterr().out == "sum\n  3\n1.5\n"


def test_predict_a_file_as_json(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A CSV with a header, a JSON file and a .npy file are the same rows."""
    csv, listed, array = (tmp_path / name for name in ("rows.csv", "rows.json", "rows.npy"))
    csv.write_text("a,b\n1,2\n3,4\n", encoding="utf-8")
    listed.write_text("[[1, 2], [3, 4]]", encoding="utf-8")
    np.save(array, np.array([[1, 2], [3, 4]]))

    for path in (csv, listed, array):
        assert run(["predict", str(repository / "sums"), str(path), "--json"]) == 0

    assert capsys.readouterr().out.splitlines() == ['{"sum":[3.0,7.0]}'] * 3


@pytest.mark.parametrize("content", [b"1,2\n3,4\n", b" [[1, 2], [3, 4]]"])
@pytest.mark.parametrize("dash", [["-"], []])
def test_predict_standard_input(
    content: bytes,
    dash: Sequence[str],
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows come through a pipe, said with - or not."""
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(content)))

    code = run(["predict", str(repository / "sums"), *dash, "--json"])

    assert code == 0
    assert capsys.readouterr().out == '{"sum":[3.0,7.0]}\n'


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["1,2,3"], "3 values came, 2 are wanted"),
        (["rows.csv"], "rows.csv: there is no such file"),
    ],
)
def test_rows_that_do_not_fit_are_said(
    rows: Sequence[str], text: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line with what came and what is wanted."""
    code = run(["predict", str(repository / "sums"), *rows])

    assert code == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("rows", [["1,x"], ["a,b", "1,2"], ["1,"]])
def test_typed_rows_have_no_header(rows: Sequence[str], repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text among numbers is a slip, not the name of a column."""
    code = run(["predict", str(repository / "sums"), *rows])

    assert code == 2
    assert "is not a number" in capsys.readouterr().err


def test_too_few_values_are_told_of_which_input(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How many there are is in the message too."""
    code = run(["predict", str(repository / "sums"), "1"])

    assert code == 1
    assert "input 'X': 1 values came, 2 are wanted" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["127.0.0.1:8501", "localhost:8501/v2/models/iris", "[::1]:8501"])
def test_an_address_without_its_scheme_is_told_how_to_write_it(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no path, unless there is a file of that name."""
    code = run(["predict", target, "1,2"])

    assert code == 2
    assert f"http://{target}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://h:1", ("http://h:1", "", None)),
        ("grpc://h:1", ("grpc://h:1", "", None)),
        ("http://h:1/", ("http://h:1", "", None)),
        ("https://h/gate/v2/models/iris/versions/2/infer", ("https://h/gate", "iris", 2)),
        ("http://h/v2/models/a%20b", ("http://h", "a b", None)),
        ("http://h/v1/models/iris:predict", ("http://h", "iris", None)),
        ("http://h/v1/models/iris/versions/3:predict", ("http://h", "iris", 3)),
    ],
)
def test_a_url_may_name_the_model(url: str, parts: tuple[Any, ...]) -> None:
    """Whatever address of a model is at hand can be given."""
    assert split_url(url) == parts


@pytest.mark.parametrize("url", ["http://", "http://h/?q=1", "https:///v2"])
def test_another_url_is_refused(url: str) -> None:
    """No guess is made."""
    with pytest.raises(CommandError, match="is not the address"):
        split_url(url)


def test_tables_and_json_hold_every_kind_of_output() -> None:
    """Numbers, text, several numbers for a row, and what is not finite."""
    outputs = {
        "label": np.array([1, 20]),
        "p": np.array([[0.25, 0.75], [1 / 3, np.nan]], np.float32),
        "name": np.array(["a", b"bc"], dtype=object),
    }

    assert as_table(outputs).splitlines() == [
        "label      p[0]  p[1]  name",
        "    1      0.25  0.75     a",
        "   20  0.333333   nan    bc",
    ]
    assert json.loads(as_json(outputs)) == {
        "label": [1, 20],
        "p": [[0.25, 0.75], [pytest.approx(1 / 3), None]],
        "name": ["a", "bc"],
    }


def test_rows_without_a_name_are_known_by_their_start() -> None:
    """NumPy's magic, JSON's brackets, else CSV."""
    assert [suffix_of(text) for text in (b"\x93NUMPY\x01", b'\n {"a": 1}', b"1,2", b"")] == [
        ".npy",
        ".json",
        ".csv",
        ".csv",
    ]
