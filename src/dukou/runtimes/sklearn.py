"""scikit-learn estimators: their files, their signatures, and serving them as they are where nothing faster may."""

import threading
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_outlier_detector, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, ModelManifest, Signature, TensorSpec
from dukou.core.tensor import DTYPES, Tensors
from dukou.runtimes.columns import Columns, examples, needs_frame, read_columns, states, strip_names
from dukou.runtimes.globals import RefusedError, find
from dukou.runtimes.inflate import MAX_BYTES
from dukou.runtimes.options import read_threads
from dukou.runtimes.pickles import load_pickle

METHODS: Mapping[str, str] = {
    "label": "predict",
    "y": "predict",
    "probabilities": "predict_proba",
    "score": "decision_function",
    "distances": "transform",
    "transformed": "transform",
}
"""Which of the estimator's methods gives an output."""


def open_estimator(path: Path, *, trust: bool = False) -> Any:
    """The fitted estimator in a joblib, pickle or skops file, told apart by content.

    `trust` opens files that name anything, and runs what they say. Raises DukouError PICKLE_REFUSED,
    ARTIFACT_UNREADABLE, or ARTIFACT_UNSUPPORTED for what is no fitted estimator.
    """
    estimator = _load_skops(path, trust) if zipfile.is_zipfile(path) else load_pickle(path, trust=trust)
    kind = type(estimator).__name__
    if isinstance(estimator, type) or not any(hasattr(estimator, method) for method in ("predict", "transform")):
        detail = (
            f"it holds {_describe(estimator)}; what can be served is one fitted estimator with predict or transform"
        )
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        detail = f"its {kind} is not fitted; call fit before saving it"
        raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail) from error
    except TypeError:  # an estimator by duck typing only: nothing to check
        pass
    return estimator


def signature_of(estimator: Any) -> Signature:
    """The signature of a fitted estimator, by one rule. All floats are FP64, axis 0 is rows.

    | the estimator takes | inputs |
    |---|---|
    | numbers | `X` FP64 [-1, n]; `columns` are the frame's, when it was fitted on one |
    | a frame with columns of text | one input for each column it uses: BYTES or FP64 [-1, 1], called as the column |
    | the same without names | `X` BYTES [-1, n] when all is text, else one input for each column: `x0`, `x1`, ... |
    | documents (a text vectorizer comes first) | `X` BYTES [-1] |

    | the estimator is | outputs |
    |---|---|
    | outlier detector | `label` INT64 [-1] (1 or -1), `score` FP64 [-1] (decision_function) |
    | classifier | `label` (datatype of its classes) [-1] or [-1, outputs], `probabilities` FP64 [-1, classes] |
    | regressor | `y` FP64 [-1] or [-1, outputs] |
    | clusterer, mixture | `label` INT64 [-1]; `distances` or `probabilities` FP64 [-1, clusters] where it has them |
    | transformer | `transformed` FP64 or BYTES [-1, width] |

    The `columns` of a classifier's probabilities are its classes. predict wins over transform. Output shapes are those
    of an answer to probe rows, so nothing is guessed from attributes. Raises DukouError ARTIFACT_UNSUPPORTED.
    """
    columns = read_columns(estimator)
    inputs = _inputs(columns)
    frame = needs_frame(estimator)
    failure: Exception | None = None
    for number in (1.0, 0.0, 0.5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                X = _assemble({spec.name: _probe(spec, columns, number) for spec in inputs}, inputs, frame)
                outputs = tuple(
                    _output(name, getattr(estimator, METHODS[name])(X), estimator) for name in _wanted(estimator)
                )
            return Signature(DEFAULT_SIGNATURE, inputs, outputs)
        except Exception as error:  # whatever an estimator makes of values it was not fitted for
            failure = error
    detail = f"its {type(estimator).__name__} answers no probe row: {_sentence(failure)}"
    raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path="the estimator", detail=detail) from failure


def differences(manifest: ModelManifest, installed: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each library that is not installed in the version the model was packed with."""
    return tuple(
        f"{name} is {installed.get(name, 'not installed')}, the model was packed with {packed}"
        for name, packed in manifest.environment.libraries.items()
        if installed.get(name) != packed
    )


class SklearnRuntime:
    """Loads estimators as they were saved.

    Option `threads`: how many threads one call may use (default 1, because requests are what runs in parallel).
    """

    def load(self, folder: Path, manifest: ModelManifest, *, trust: bool = False) -> "SklearnModel":
        """Open the estimator; `trust` is the operator's word, never the manifest's.

        Raises as `open_estimator`, and CONFIG_INVALID.
        """
        threads = read_threads(manifest.options)
        return SklearnModel(open_estimator(folder / manifest.serving, trust=trust), manifest.signatures, threads)


class SklearnModel:
    """A LoadedModel. Estimators promise nothing about threads, and Python code holds the interpreter: one at a time.

    It takes the estimator over: one that needs no frame forgets its columns' names (see `strip_names`), and `n_jobs`
    is `threads` where it was more than one: a forest of 50 trees with n_jobs=-1 answered a row in 13 to 24 ms, in 4
    without. Threads of BLAS and OpenMP are bounded too, which wait for one another longer than they compute few rows:
    with one of two cores busy, histogram boosting took 28 ms a row (99th percentile 6 s), bounded 1.5 (10).
    """

    def __init__(self, estimator: Any, signatures: Mapping[str, Signature], threads: int = 1) -> None:
        self._estimator = estimator
        self._signatures = signatures
        self._threads = threads
        self._bounded = threading.local()
        self._frame = needs_frame(estimator)
        if not self._frame:
            strip_names(estimator)
        for state in states(estimator):
            if state.get("n_jobs") not in {None, 1}:
                state["n_jobs"] = threads

    @property
    def concurrency(self) -> int:
        """One call at a time."""
        return 1

    @property
    def holds_gil(self) -> bool:
        """Most of an estimator's time is Python's."""
        return True

    def infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Tensors:
        """The outputs asked for, and nothing else computed. Raises DukouError MODEL_REFUSED_INPUT, MODEL_FAILED."""
        wanted = self._signatures[signature]
        self._bound_threads()
        try:
            X = _assemble(inputs, wanted.inputs, self._frame)
            return {
                spec.name: _cast(getattr(self._estimator, METHODS[spec.name])(X), spec)
                for spec in wanted.outputs
                if spec.name in outputs
            }
        except (ValueError, TypeError) as error:
            raise DukouError(Reason.MODEL_REFUSED_INPUT, detail=_sentence(error)) from error
        except Exception as error:  # an estimator's own code may raise anything
            raise DukouError(Reason.MODEL_FAILED) from error

    def _bound_threads(self) -> None:
        """Once for each thread that calls, and to last: OpenMP keeps the number by thread, and a call costs 10 µs."""
        if not hasattr(self._bounded, "done"):
            threadpool_limits(self._threads)
            self._bounded.done = True


def _inputs(columns: Columns) -> tuple[TensorSpec, ...]:
    """The left half of the rule in `signature_of`."""
    if columns.documents:
        return (TensorSpec("X", "BYTES", (-1,)),)
    texts = [isinstance(example, str) for example in columns.examples]
    width = len(texts)
    if not any(texts):
        return (TensorSpec("X", "FP64", (-1, width), columns.names),)
    if all(texts) and not columns.names:
        return (TensorSpec("X", "BYTES", (-1, width)),)
    names = columns.names or tuple(f"x{index}" for index in range(width))
    return tuple(
        TensorSpec(name, "BYTES" if text else "FP64", (-1, 1))
        for name, text, used in zip(names, texts, columns.used, strict=True)
        if used or not columns.names
    )


def _wanted(estimator: Any) -> tuple[str, ...]:
    """The right half: the names of the outputs."""
    if not hasattr(estimator, "predict"):
        return ("transformed",)
    if is_outlier_detector(estimator):
        return ("label", "score")
    if is_regressor(estimator):
        return ("y",)
    if hasattr(estimator, "predict_proba") and not isinstance(getattr(estimator, "classes_", None), list):
        return ("label", "probabilities")
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if hasattr(estimator, "transform") and hasattr(final, "cluster_centers_"):
        return ("label", "distances")
    return ("label",)


def _output(name: str, answer: Any, estimator: Any) -> TensorSpec:
    """The spec of an output, from the answer to two rows; probabilities have the classes for columns."""
    array = _dense(answer)
    if array.ndim == 0 or len(array) != 2:
        raise ValueError(f"{METHODS[name]} gave the shape {list(array.shape)} for 2 rows")
    kind = np.array(array.tolist()).dtype.kind  # objects may all be numbers
    if kind in "OUS":
        datatype = "BYTES"
    elif name == "label" and kind in "iu":
        datatype = "INT64"
    else:
        datatype = "BOOL" if kind == "b" else "FP64"
    columns = _classes(estimator, array.shape[-1]) if name == "probabilities" else ()
    return TensorSpec(name, datatype, (-1, *array.shape[1:]), columns)


def _classes(estimator: Any, width: int) -> tuple[str, ...]:
    """What a classifier calls its classes, as text; a mixture's components have no names."""
    classes = np.asarray(getattr(estimator, "classes_", ()))
    return tuple(str(one) for one in classes.tolist()) if classes.shape == (width,) else ()


def _probe(spec: TensorSpec, columns: Columns, number: float) -> NDArray[Any]:
    """Two equal rows of values that the estimator knows; `number` stands where it says nothing about a column."""
    if columns.documents:
        return np.array(["text", "text"], dtype=object)
    values = examples(columns, spec, number)
    return np.array([values, values], dtype=DTYPES[spec.datatype])


def _assemble(inputs: Tensors, specs: tuple[TensorSpec, ...], frame: bool) -> Any:
    """What the estimator's methods take: one array, or a frame when it was fitted on one and looks at its columns."""
    if len(specs) == 1:
        array = _texts(inputs[specs[0].name])
        return _frame(dict(zip(specs[0].columns or (specs[0].name,), array.T, strict=True))) if frame else array
    columns = {spec.name: _texts(inputs[spec.name])[:, 0] for spec in specs}
    if frame:
        return _frame(columns)
    return np.stack([column.astype(object) for column in columns.values()], axis=1)


def _frame(columns: Mapping[str, NDArray[Any]]) -> Any:
    import pandas

    return pandas.DataFrame(columns, copy=False)


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    """The array with `bytes` decoded; categories and words are `str` in an estimator."""
    if array.dtype.kind != "O" or not any(isinstance(item, bytes) for item in array.flat):
        return array
    texts = np.empty(array.shape, dtype=object)
    texts.reshape(-1)[:] = [item.decode("utf-8") if isinstance(item, bytes) else item for item in array.flat]
    return texts


def _dense(answer: Any) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    return array


def _cast(answer: Any, spec: TensorSpec) -> NDArray[Any]:
    """An answer as the dense array that its spec says; a BYTES tensor holds `str`, also of the numbers in it."""
    array = _dense(answer)
    if spec.datatype != "BYTES":
        return array.astype(DTYPES[spec.datatype], copy=False)
    texts = np.empty(array.shape, dtype=object)
    texts.reshape(-1)[:] = [str(item) for item in array.flat]
    return texts


def _load_skops(path: Path, trust: bool) -> Any:
    """A skops file opened with our list of names, never with the list that the file asks for."""
    try:
        with zipfile.ZipFile(path) as archive:
            if "schema.json" not in archive.namelist():
                detail = "it is a zip file, but not one of skops"
                raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                detail = f"it inflates to more than {MAX_BYTES} bytes"
                raise DukouError(Reason.ARTIFACT_UNSUPPORTED, path=str(path), detail=detail)
            stored = str(
                msgspec.json.decode(archive.read("schema.json"), type=dict[str, Any]).get("_skops_version", "?")
            )
        import skops.io
    except ModuleNotFoundError as error:
        detail = "skops is not installed; install dukou[sklearn]"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error
    except (OSError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=_sentence(error)) from error
    try:
        asked = skops.io.get_untrusted_types(file=path)
        refused = [] if trust else [name for name in asked if not _is_listed(name)]
        if refused:
            detail = f"it names {', '.join(refused[:3])}, which no scikit-learn model needs; see --trust-pickle"
            raise DukouError(Reason.PICKLE_REFUSED, path=str(path), detail=detail)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return skops.io.load(path, trusted=asked)
    except DukouError:
        raise
    except Exception as error:  # constructors of estimators may raise anything
        detail = f"skops {stored} wrote it; it cannot be loaded: {_sentence(error)}"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error


def _is_listed(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    try:
        find(module, name)
    except (RefusedError, ImportError, AttributeError):
        return False
    return True


def _describe(thing: object) -> str:
    if isinstance(thing, Mapping):
        return f"a {type(thing).__name__} with {', '.join(str(key)[:40] for key in list(thing)[:5]) or 'nothing'}"
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {', '.join(type(item).__name__ for item in thing[:5]) or 'nothing'}"
    return f"a {type(thing).__name__}"


def _sentence(error: Exception | None) -> str:
    """The first sentence of an exception, at most 300 characters."""
    line = str(error).strip().split("\n")[0].split(". ")[0]
    return line[:300].rstrip(".") or type(error).__name__
