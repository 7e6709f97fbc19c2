"""The loader that opens pickles by a list of names: what it must refuse, and what it must open."""

import collections
import contextlib
import gzip
import io
import pickle
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import joblib
import numpy as np
import pytest
import sklearn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression

from dukou.core.errors import DukouError, Reason
from dukou.runtimes.pickles import explain_mismatch, load_pickle, read_libraries, survey

X, y = load_iris(return_X_y=True)
FITTED = LogisticRegression(max_iter=500).fit(X, y)


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.joblib"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("make", hostile.LIVE.values(), ids=hostile.LIVE)
def test_a_live_sample_is_refused_and_nothing_of_it_runs(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    """The error names what the file names and says what the user can do; the marker is not made."""
    marker = tmp_path / "marker"
    path = written(tmp_path, make(marker))

    with pytest.raises(DukouError) as caught:
        load_pickle(path)

    assert caught.value.reason is Reason.PICKLE_REFUSED
    assert not marker.exists()
    assert "--trust-pickle" in str(caught.value)
    assert "dukou pack model.joblib" in str(caught.value)
    assert "ONNX" in str(caught.value)


@pytest.mark.parametrize("make", hostile.LIVE.values(), ids=hostile.LIVE)
def test_surveying_a_live_sample_runs_nothing(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    """Reading versions is safe for any file."""
    marker = tmp_path / "marker"

    found = survey(written(tmp_path, make(marker)))

    assert found.names
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", hostile.LIVE.values(), ids=hostile.LIVE)
def test_a_live_sample_is_live(
    tmp_path: Path, make: Callable[[Path], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """With trust each makes its marker: the samples could do harm, and trust means trust."""
    marker = tmp_path / "marker"
    path = written(tmp_path, make(marker))

    with contextlib.suppress(DukouError):  # what comes after the harm may fail
        load_pickle(path, trust=True)

    assert marker.exists()


@pytest.mark.parametrize("content", hostile.DEAD.values(), ids=hostile.DEAD)
def test_a_sample_that_holds_or_corrupts_is_refused(tmp_path: Path, content: bytes) -> None:
    """Things no model needs, though they run nothing while loading."""
    with pytest.raises(DukouError, match=r"it (names|wants) ") as caught:
        load_pickle(written(tmp_path, content))

    assert caught.value.reason is Reason.PICKLE_REFUSED


def test_a_refusal_names_what_was_found(tmp_path: Path) -> None:
    """The name as the file has it."""
    with pytest.raises(DukouError, match=r"it names posix\.system, which"):
        load_pickle(written(tmp_path, hostile.LIVE["os.system"](tmp_path / "marker")))


def test_classes_stay_as_they_are(tmp_path: Path) -> None:
    """The sample that would exchange a method of a class for everybody."""
    before = LogisticRegression.predict

    with pytest.raises(DukouError):
        load_pickle(written(tmp_path, hostile.DEAD["class changed"]))

    assert LogisticRegression.predict is before


def test_the_dtypes_of_others_stay_as_they_are(tmp_path: Path) -> None:
    """A state given to `numpy.dtype("f8")` reaches a copy, not the dtype that the whole process uses."""
    big = hostile.tuple_of(
        hostile.number(3), hostile.text(">"), *[pickle.NONE] * 3, *[hostile.number(-1)] * 2, hostile.number(0)
    )

    loaded = load_pickle(written(tmp_path, hostile.program(hostile.dtype("f8", big))))

    assert loaded == np.dtype(">f8")
    assert np.dtype("f8").isnative


@pytest.mark.parametrize("squeeze", [zlib.compress, gzip.compress])
def test_a_bomb_is_not_inflated(tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    """A small file that inflates beyond the limit is refused before it is in memory."""
    path = written(tmp_path, squeeze(pickle.dumps(bytes(10_000_000))))
    assert path.stat().st_size < 20_000

    with pytest.raises(DukouError) as caught:
        load_pickle(path, max_bytes=1_000_000)

    assert caught.value.reason is Reason.ARTIFACT_UNSUPPORTED
    assert "1000000 bytes" in str(caught.value)


@pytest.mark.parametrize(
    "opcodes",
    [
        pickle.BINBYTES8 + (1 << 40).to_bytes(8, "little"),
        pickle.BINUNICODE8 + (1 << 62).to_bytes(8, "little"),
        pickle.BYTEARRAY8 + (1 << 40).to_bytes(8, "little"),
        pickle.FRAME + (1 << 62).to_bytes(8, "little"),
        pickle.LONG4 + (1 << 30).to_bytes(4, "little"),
    ],
)
def test_a_length_is_not_believed(tmp_path: Path, opcodes: bytes) -> None:
    """No memory is reserved for bytes that the file does not have."""
    with pytest.raises(DukouError) as caught:
        load_pickle(written(tmp_path, hostile.program(opcodes)), trust=True)

    assert caught.value.reason in {Reason.ARTIFACT_UNSUPPORTED, Reason.ARTIFACT_UNREADABLE}


def test_an_array_larger_than_the_file_is_not_made(tmp_path: Path) -> None:
    """joblib's note may claim any shape."""
    content = bytearray(joblib_bytes(np.arange(1000.0)))
    at = content.index((1000).to_bytes(2, "little"), content.index(b"shape"))
    content[at - 1 : at + 2] = pickle.BININT + b"\xff\xff\xff\x7f"

    for trust in (False, True):
        with pytest.raises(DukouError) as caught:
            load_pickle(written(tmp_path, bytes(content)), trust=trust)
        assert caught.value.reason in {Reason.ARTIFACT_UNSUPPORTED, Reason.ARTIFACT_UNREADABLE}


ENDLESS = pickle.EMPTY_TUPLE + (pickle.DUP + pickle.TUPLE2) * 60
"""Sixty tuples, each twice in the next: 2^60 steps for its hash, 200 bytes in the file."""


@pytest.mark.parametrize(
    "opcodes",
    [
        pickle.EMPTY_DICT + ENDLESS + pickle.NONE + pickle.SETITEM,
        pickle.EMPTY_DICT + pickle.MARK + ENDLESS + pickle.NONE + pickle.SETITEMS,
        pickle.MARK + ENDLESS + pickle.NONE + pickle.DICT,
        pickle.EMPTY_SET + pickle.MARK + ENDLESS + pickle.ADDITEMS,
        pickle.MARK + ENDLESS + pickle.FROZENSET,
        hostile.call(
            hostile.name("collections", "OrderedDict"),
            pickle.EMPTY_LIST + hostile.tuple_of(ENDLESS, pickle.NONE) + pickle.APPEND,
        ),
    ],
    ids=["SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET", "OrderedDict"],
)
@pytest.mark.timeout(20)
def test_a_key_that_takes_forever_to_hash_is_refused(tmp_path: Path, opcodes: bytes) -> None:
    """Wherever a hash is taken."""
    with pytest.raises(DukouError) as caught:
        load_pickle(written(tmp_path, hostile.program(opcodes)))

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE


def test_an_ordered_dictionary_loads(tmp_path: Path) -> None:
    """In its order."""
    thing = collections.OrderedDict([("b", 1), (("a", 2), 2)])

    assert load_pickle(written(tmp_path, pickle.dumps(thing))) == thing


def joblib_bytes(thing: Any, compress: Any = 0) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(thing, buffer, compress=compress)
    return buffer.getvalue()


FORMS: dict[str, Callable[[Any], bytes]] = {
    **{f"pickle {protocol}": lambda thing, p=protocol: pickle.dumps(thing, protocol=p) for protocol in (2, 3, 4, 5)},
    "joblib": joblib_bytes,
    **{
        f"joblib {kind}": lambda thing, k=kind: joblib_bytes(thing, (k, 3))
        for kind in ("zlib", "gzip", "bz2", "lzma", "xz")
    },
    "pickle.gz": lambda thing: gzip.compress(pickle.dumps(thing)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_model_loads_from_every_form(tmp_path: Path, form: Callable[[Any], bytes]) -> None:
    """However it was saved, it answers the same, and its version can be read first."""
    path = written(tmp_path, form(FITTED))

    loaded: Any = load_pickle(path)

    assert np.array_equal(loaded.predict_proba(X), FITTED.predict_proba(X))
    assert read_libraries(path) == {"scikit-learn": sklearn.__version__}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">f8"),
        np.array(["a", "bc"]),
        np.array(["a", 1, None], dtype=object),
        np.zeros((0, 3)),
        np.array(5),
        np.array([(1.0, 2)], dtype=[("a", "f8"), ("b", "i4", (2,))]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array([b"", b""], dtype="S0"),
        np.float32(1.5),
        np.ma.masked_array([1.0, 2.0], [True, False]),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
@pytest.mark.parametrize("form", [pickle.dumps, FORMS["pickle 5"], joblib_bytes, FORMS["joblib zlib"]])
def test_arrays_come_back_as_they_were(tmp_path: Path, array: Any, form: Callable[[Any], bytes]) -> None:
    """Values, shape, dtype and writeability, of every kind that models hold."""
    loaded: Any = load_pickle(written(tmp_path, form(array)))

    assert loaded.dtype == array.dtype.newbyteorder("=") or loaded.dtype == array.dtype
    assert loaded.shape == array.shape
    assert np.array_equal(np.ma.getdata(loaded), np.ma.getdata(array))
    assert np.array_equal(np.ma.getmaskarray(loaded), np.ma.getmaskarray(array))
    assert loaded.ndim == 0 or loaded.flags.writeable


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello world", b"\x80\x04.", b"\x1f\x8b", b"BZh9x", b"ZF0x"])
def test_what_is_no_pickle_is_unreadable(tmp_path: Path, content: bytes) -> None:
    """Text, cut files, broken compression."""
    with pytest.raises(DukouError) as caught:
        load_pickle(written(tmp_path, content))

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE
    assert str(tmp_path) in str(caught.value)


def test_lz4_is_read_where_it_is_installed(tmp_path: Path) -> None:
    """joblib writes it only with a package that is not among ours."""
    pytest.importorskip("lz4")

    assert load_pickle(written(tmp_path, joblib_bytes([1, 2], ("lz4", 3)))) == [1, 2]


def test_lz4_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which package to install."""
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.delitem(sys.modules, "lz4.frame", raising=False)

    with pytest.raises(DukouError, match="install the package lz4"):
        load_pickle(written(tmp_path, b'\x04"M\x18'))


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(DukouError, match="there is no such file"):
        load_pickle(tmp_path / "gone.joblib")


@pytest.mark.parametrize("form", ["pickle 4", "joblib", "joblib zlib"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_clear_error_or_an_object(tmp_path: Path, form: str, data: st.DataObject) -> None:
    """Bytes changed or cut anywhere never surface as anything but a DukouError."""
    content = bytearray(FORMS[form](FITTED))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))

    with contextlib.suppress(DukouError):
        load_pickle(written(tmp_path, bytes(content[:cut])))


def test_another_version_is_explained_when_loading_fails(tmp_path: Path) -> None:
    """A class that the installed scikit-learn does not have: the stored version is the reason."""
    content = (
        pickle.dumps(FITTED)
        .replace(b"_logistic", b"_logostic")
        .replace(sklearn.__version__.encode(), b"0.9.9"[: len(sklearn.__version__)])
    )
    path = written(tmp_path, content)
    assert read_libraries(path) == {"scikit-learn": "0.9.9"}

    with pytest.raises(DukouError) as caught:
        load_pickle(path)

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE
    assert explain_mismatch(path, "0.9.9", sklearn.__version__) in str(caught.value)
    assert "dukou pack model.joblib" in str(caught.value)


def test_another_version_that_loads_is_quiet(tmp_path: Path) -> None:
    """Whether to warn is for the caller, who can read the version; nothing is printed from here."""
    content = pickle.dumps(FITTED).replace(sklearn.__version__.encode(), b"0.9.9")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_pickle(written(tmp_path, content))

    assert isinstance(loaded, LogisticRegression)


def test_a_pickle_without_a_model_says_no_version(tmp_path: Path) -> None:
    """There is nothing to read from."""
    assert read_libraries(written(tmp_path, pickle.dumps([1, 2]))) == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_every_estimator_of_scikit_learn_loads(tmp_path: Path) -> None:
    """The list of names against its evidence: whatever fits with its defaults is saved, loads, and answers the same."""
    from sklearn.linear_model import LinearRegression
    from sklearn.utils import all_estimators

    positive, (rows, targets) = np.abs(X), load_diabetes(return_X_y=True)
    loaded = 0
    for _, kind in all_estimators():
        fitted = first_fit(
            kind,
            [{}, {"estimator": LogisticRegression()}, {"estimators": [("a", LinearRegression())]}, {"novelty": True}],
            [(positive, y), (rows[:150], targets[:150]), (positive, np.c_[y, y])],
        )
        if fitted is None:
            continue
        estimator, table = fitted
        copy: Any = load_pickle(written(tmp_path, joblib_bytes(estimator)))
        for method in ("predict", "transform"):
            if hasattr(estimator, method) and hasattr(estimator, "n_features_in_"):
                wanted, got = getattr(estimator, method)(table), getattr(copy, method)(table)
                if hasattr(wanted, "toarray"):
                    wanted, got = wanted.toarray(), got.toarray()
                np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12, err_msg=kind.__name__)
        loaded += 1

    assert loaded > 170


def first_fit(kind: Any, arguments: list[dict[str, Any]], tables: list[tuple[Any, Any]]) -> tuple[Any, Any] | None:
    """The first combination that fits, or None."""
    for argument in arguments:
        for table, target in tables:
            try:
                return kind(**argument).fit(table, target), table
            except Exception:
                continue
    return None
