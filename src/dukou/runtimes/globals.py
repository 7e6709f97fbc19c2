"""What a pickled model may name: the list behind the safe loader, and how each name is answered.

Found by fitting every estimator of scikit-learn and collecting what their pickles name (tests/runtimes does it again).
A name is answered in one of two ways. A *constructor* may be called while loading. A *value* may only be held: a
function that a fitted model keeps to call it on data later, a dtype, a type.

Constructors of NumPy that could be abused are answered by narrow ones of our own: `numpy.dtype(...)` may return a dtype
that the whole process shares, whose state a pickle could then overwrite; `scalar` and `_reconstruct` believe sizes.
"""

import collections
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Found(msgspec.Struct, frozen=True):
    """The object that answers a name; `constructs` says that the pickle may call it while loading."""

    value: Any
    constructs: bool = False


class RefusedError(Exception):
    """A name that is not on the list; its text is `module.name`."""


def find(module: str, name: str) -> Found:
    """What answers `module.name`. Raises RefusedError; ImportError or AttributeError when a listed module lacks it."""
    module = "builtins" if module == "__builtin__" else module  # protocol 2 is written in Python 2's words
    pair = (module, name)
    if pair in _OURS:
        return Found(_OURS[pair], constructs=True)
    if pair in _CONSTRUCTORS:
        return Found(_import(module, name), constructs=True)
    if pair in _VALUES:
        return Found(_VALUES[pair])
    if pair in _FUNCTIONS or _METRIC.fullmatch(f"{module}:{name}"):
        return Found(_import(module, name))
    if module in _UFUNC_HOMES:
        ufunc = getattr(np if module.startswith("numpy") else importlib.import_module(module), name, None)
        if isinstance(ufunc, np.ufunc):
            return Found(ufunc)
    elif _SKLEARN.fullmatch(module) and not _NOT_MODELS & set(module.split(".")) and "." not in name:
        found = _import(module, name)
        if isinstance(found, type) and found.__module__.split(".")[0] == "sklearn":
            return Found(found, constructs=True)
    raise RefusedError(f"{module}.{name}")


def _import(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


_SKLEARN = re.compile(r"sklearn(\.[A-Za-z_]\w*)+")
_NOT_MODELS = {
    "tests",
    "conftest",
    "externals",
    "datasets",
    "_testing",
    "_mocking",
    "parallel",
    "_plotting",
    "experimental",
}
"""Parts of scikit-learn whose classes are no part of a fitted model."""

_METRIC = re.compile(
    r"sklearn\.metrics\.(_\w+|cluster\._\w+|pairwise):\w+_(score|error|loss|deviance|index|kernel|distances)"
)
"""What a search over parameters keeps as its scorer."""


# Answers of our own.


def _dtype(spec: str, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    """A dtype of its own: the state that a pickle sets next must not reach the dtypes that everybody uses."""
    if not isinstance(spec, str):
        raise RefusedError("numpy.dtype of something that is no text")
    return np.dtype(spec, align=bool(align), copy=True)


def _scalar(dtype: np.dtype[Any], data: bytes = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise RefusedError("a NumPy scalar that holds an object")
    if dtype.itemsize == 0:
        return np.zeros((), dtype)[()]
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _reconstruct(subtype: type, shape: tuple[int, ...], kind: bytes) -> NDArray[Any]:
    """The empty array that `__setstate__` fills; its size is checked there against the bytes that came."""
    if subtype is not np.ndarray:
        raise RefusedError(f"a NumPy array of the type {getattr(subtype, '__name__', subtype)}")
    return np.empty((0,), dtype=np.int8)


def _masked(subtype: type, base: type, shape: tuple[int, ...], kind: bytes) -> NDArray[Any]:
    """The empty masked array that `__setstate__` fills; a parameter search keeps what it tried in such."""
    if subtype is not np.ma.MaskedArray or base is not np.ndarray:
        raise RefusedError(f"a masked array of the type {getattr(subtype, '__name__', subtype)}")
    return np.ma.MaskedArray(np.empty((0,), dtype=np.int8), mask=np.empty((0,), dtype=np.bool_))


def _frombuffer(
    buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str, axes: Any = None
) -> NDArray[Any]:
    array: NDArray[Any] = np.frombuffer(buffer, dtype=dtype)
    if order == "K" and axes is not None:
        return array.reshape(tuple(shape), order="C").transpose(axes)
    return array.reshape(tuple(shape), order="F" if order == "F" else "C")


def _latin1(characters: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise RefusedError(f"the encoding {encoding!r}")
    return characters.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes no bytes; `bytes(n)` would make as many as asked for."""
    return b""


def _ordered() -> collections.OrderedDict[Any, Any]:
    """Its items are set one by one afterwards, where their keys are measured."""
    return collections.OrderedDict()


_OURS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    ("numpy.ma.core", "_mareconstruct"): _masked,
    ("_codecs", "encode"): _latin1,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): _ordered,
}

_LOSSES = (
    *("CyHalfSquaredError", "CyAbsoluteError", "CyPinballLoss", "CyHuberLoss", "CyHalfPoissonLoss", "CyHalfGammaLoss"),
    *("CyHalfTweedieLoss", "CyHalfTweedieLossIdentity", "CyHalfBinomialLoss", "CyHalfMultinomialLoss"),
    "CyExponentialLoss",
)
_TREES = ("_kd_tree", "_ball_tree", "_dist_metrics")
_SPARSE = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")

_CONSTRUCTORS = {
    ("builtins", "slice"),
    ("functools", "partial"),
    *(("numpy.random._pickle", f"__{what}_ctor") for what in ("randomstate", "generator", "bit_generator")),
    ("numpy.random._mt19937", "MT19937"),
    ("numpy.random._pcg64", "PCG64"),
    ("numpy.random._pcg64", "PCG64DXSM"),
    ("numpy.random._philox", "Philox"),
    ("numpy.random._sfc64", "SFC64"),
    ("numpy.random.bit_generator", "SeedSequence"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
    *((f"scipy.sparse._{kind}", f"{kind}_{form}") for kind in _SPARSE for form in ("matrix", "array")),
    ("scipy.interpolate._bsplines", "BSpline"),
    *(("sklearn._loss._loss", f"__pyx_unpickle_{loss}") for loss in _LOSSES),
    *((f"sklearn.{home}.{tree}", "newObj") for home in ("neighbors", "metrics") for tree in _TREES),
}

_NUMBERS = (
    *("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "intp"),
    *("float16", "float32", "float64", "str_", "object_"),
)
_VALUES: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "memmap"): np.ndarray,
    ("numpy", "bool"): np.bool_,
    **{(home, "MaskedArray"): np.ma.MaskedArray for home in ("numpy.ma", "numpy.ma.core")},
    **{("numpy", name): getattr(np, name) for name in _NUMBERS},
    **{("builtins", kind.__name__): kind for kind in (bool, int, float, str, object)},
}

_FUNCTIONS = {
    *(("numpy", name) for name in ("mean", "median", "max", "amax", "min", "amin", "sum", "std", "var")),
    ("scipy._lib.array_api_compat.numpy._aliases", "asarray"),
    ("sklearn.utils.validation", "check_array"),
    ("sklearn.cluster._kmeans", "_kmeans_single_lloyd"),
    ("sklearn.cluster._kmeans", "_kmeans_single_elkan"),
    *(
        ("sklearn.feature_selection._univariate_selection", name)
        for name in ("f_classif", "f_oneway", "f_regression", "r_regression", "chi2")
    ),
    ("sklearn.feature_selection._mutual_info", "mutual_info_classif"),
    ("sklearn.feature_selection._mutual_info", "mutual_info_regression"),
}

_UFUNC_HOMES = {"numpy", "numpy.core._multiarray_umath", "numpy._core._multiarray_umath", "scipy.special._ufuncs"}
"""Where NumPy's and SciPy's own ufuncs live: pure functions of arrays, as in FunctionTransformer(numpy.log1p)."""
