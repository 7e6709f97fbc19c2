"""joblib and pickle files, opened by a list of names instead of by trust.

A pickle is a program. This loader runs it in a machine that can only build what fitted scikit-learn models are made of:

1. The file is first walked without building anything, to collect every name in it. One that is not on the list
   (`dukou.runtimes.globals`) refuses the file before anything of it exists.
2. Then it is built. Only what the list calls a constructor is called, never an object that the pickle made itself;
   state goes to instances only, never to classes, and never over a method or under a name like `__class__`;
   persistent ids and the extension registry are refused; joblib's arrays are read by our own reader, and pickles
   nested in them go the same way; NumPy's dtypes and arrays, which believe what a pickle says of their memory, get
   only states that agree with themselves.

What remains: constructors and `__setstate__` of allowed classes run with the file's values, and compiled code behind
them (trees, sparse matrices) believes indices in it; a crafted file can crash the process or exhaust it. This loader
is not a proof of safety, only far better than none. Files from strangers belong in a sandbox, or should come as ONNX.
"""

import contextlib
import importlib.metadata
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from dukou.core.errors import DukouError, Reason
from dukou.runtimes.globals import RefusedError, find
from dukou.runtimes.inflate import MAX_BYTES, open_inflated
from dukou.runtimes.unpickler import ARRAY, Guarded, Surveyor, Trusting


class Survey(msgspec.Struct, frozen=True):
    """What a pickle names, in order, and the versions of libraries that it says it was made with."""

    names: tuple[tuple[str, str], ...]
    libraries: Mapping[str, str]


def load_pickle(path: Path, *, trust: bool = False, max_bytes: int = MAX_BYTES) -> object:
    """The object in a joblib or pickle file, compressed or not.

    `trust` opens anything, and runs what it says. Raises DukouError PICKLE_REFUSED, ARTIFACT_UNREADABLE (damaged, or
    made by libraries that do not fit the installed ones), ARTIFACT_UNSUPPORTED beyond `max_bytes`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions that differ are told by read_libraries
            if not trust:
                _refuse_names(path, survey(path, max_bytes=max_bytes).names)
            with open_inflated(path, max_bytes) as stream:
                return (Trusting if trust else Guarded)(stream).load()
    except DukouError:
        raise
    except RefusedError as error:
        raise _refusal(path, f"wants {error}") from error
    except Exception as error:  # a pickle's constructors may raise anything
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=_why(path, error)) from error


def survey(path: Path, *, max_bytes: int = MAX_BYTES) -> Survey:
    """What a pickle names and was made with. Builds none of it and imports nothing.

    Raises DukouError ARTIFACT_UNREADABLE, PICKLE_REFUSED (persistent ids, extension codes), ARTIFACT_UNSUPPORTED.
    """
    try:
        with open_inflated(path, max_bytes) as stream:
            reader = Surveyor(stream)
            reader.load()
    except DukouError:
        raise
    except RefusedError as error:
        raise _refusal(path, f"wants {error}") from error
    except Exception as error:  # damaged bytes raise anything
        detail = "it is no ONNX, joblib, pickle or skops file, or it is damaged"
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=detail) from error
    return Survey(tuple(reader.names), reader.libraries)


def read_libraries(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, str]:
    """The library versions stored in a pickle, `{"scikit-learn": "1.4.2"}`, read without loading anything.

    Empty when it stores none. Raises DukouError as `survey` does.
    """
    return dict(survey(path, max_bytes=max_bytes).libraries)


def explain_mismatch(path: Path, stored: str, installed: str) -> str:
    """Why a model of another scikit-learn version is a risk, and the command that avoids it."""
    return (
        f"it was made with scikit-learn {stored}, installed is {installed}; pickles are only sure to work in the "
        f"version that made them. Where it was trained, run `dukou pack {path.name}` and serve what it makes"
    )


def _why(path: Path, error: Exception) -> str:
    """Why building failed; a different scikit-learn version is the likely reason where there is one."""
    stored = ""
    with contextlib.suppress(DukouError):  # a trusted file may hold what a survey refuses
        stored = read_libraries(path).get("scikit-learn", "")
    installed = _installed("scikit-learn")
    if not installed:
        return "scikit-learn is not installed here; install dukou[sklearn], or serve a packed model, which needs none"
    if stored and stored != installed:
        return f"{explain_mismatch(path, stored, installed)} ({_first_line(error)})"
    if isinstance(error, ModuleNotFoundError):
        return f"it needs {error.name}, which is not installed here; a module of your own is found by PYTHONPATH"
    return f"it cannot be loaded ({_first_line(error)})"


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _refuse_names(path: Path, names: Iterable[tuple[str, str]]) -> None:
    """Raise PICKLE_REFUSED for the names that are not on the list, before anything is built."""
    refused = []
    for module, name in names:
        try:
            if (module, name) != ARRAY:
                find(module, name)
        except RefusedError as error:
            refused.append(str(error))
        except (ImportError, AttributeError) as error:
            raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=_why(path, error)) from error
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise _refusal(path, "names " + ", ".join(refused[:3]) + more)


def _refusal(path: Path, what: str) -> DukouError:
    detail = (
        f"it {what}, which is not among what scikit-learn models are made of, and opening it could run any code; "
        f"nothing of it was run. If you made this file, allow it with --trust-pickle; else ask its maker for a form "
        f"without code: `dukou pack {path.name}` where it was trained, an ONNX export, or skops"
    )
    return DukouError(Reason.PICKLE_REFUSED, path=str(path), detail=detail)
