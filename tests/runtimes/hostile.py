"""Pickles that try to do harm, made harmless: all they do, if they run at all, is make a marker file."""

import builtins
import cProfile
import functools
import gzip
import importlib
import io
import lzma
import operator
import os
import pickle
import pydoc
import subprocess
import timeit
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import dump_svmlight_file
from sklearn.preprocessing import FunctionTransformer


class Calls:
    """Pickles as a call of `function`; an instance may stand for what another call returns, also for a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function = function
        self.args = args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args

    def __call__(self) -> None:
        """Makes an instance acceptable as a function to the pickler."""


def text(value: str) -> bytes:
    """The opcode that pushes a short text."""
    return pickle.SHORT_BINUNICODE + bytes([len(value.encode())]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    """The opcodes that push a global of protocol 4, dots allowed."""
    return text(module) + text(attribute) + pickle.STACK_GLOBAL


def program(*opcodes: bytes) -> bytes:
    """A pickle of protocol 4 made of opcodes."""
    return pickle.PROTO + b"\x04" + b"".join(opcodes) + pickle.STOP


def call(function: bytes, *args: bytes) -> bytes:
    """The opcodes that call what `function` pushes."""
    return function + pickle.MARK + b"".join(args) + pickle.TUPLE + pickle.REDUCE


def staged(marker: Path, suffix: str) -> Path:
    """Where a second stage lies: a file that the first one has loaded."""
    return marker.with_name(marker.name + suffix)


def touch(marker: Path) -> str:
    """The shell command that makes the marker."""
    return f"touch {marker}"


def code(marker: Path) -> str:
    """The Python statement that makes the marker."""
    return f"open({str(marker)!r}, 'w').close()"


def shell(marker: Path) -> Calls:
    """The classic."""
    return Calls(os.system, touch(marker))


def dumped(thing: Any, compress: Any = 0) -> bytes:
    """What joblib writes for `thing`."""
    buffer = io.BytesIO()
    joblib.dump(thing, buffer, compress=compress)
    return buffer.getvalue()


def joblib_stage(marker: Path) -> bytes:
    """Loads a second file that does the harm."""
    stage = staged(marker, ".joblib")
    stage.write_bytes(dumped(shell(marker)))
    return pickle.dumps(Calls(joblib.load, str(stage)))


def numpy_stage(marker: Path) -> bytes:
    """An .npy file of objects does the harm."""
    stage = staged(marker, ".npy")
    np.save(stage, np.array([shell(marker)], dtype=object), allow_pickle=True)
    return pickle.dumps(Calls(np.load, str(stage), None, True))


def instance_call(marker: Path) -> bytes:
    """partial(os.system, ...) is made first and called as a function then."""
    return pickle.dumps(Calls(Calls(functools.partial, os.system, touch(marker))))


def attribute_chain(marker: Path) -> bytes:
    """getattr(import_module("os"), "system")(...)"""
    return pickle.dumps(Calls(Calls(getattr, Calls(importlib.import_module, "os"), "system"), touch(marker)))


def attrgetter(marker: Path) -> bytes:
    """The same by operator.attrgetter."""
    module = Calls(importlib.import_module, "os")
    return pickle.dumps(Calls(Calls(Calls(operator.attrgetter, "system"), module), touch(marker)))


def methodcaller(marker: Path) -> bytes:
    """The same by operator.methodcaller."""
    module = Calls(importlib.import_module, "os")
    return pickle.dumps(Calls(Calls(operator.methodcaller, "system", touch(marker)), module))


def old_opcodes(marker: Path) -> bytes:
    """INST, the call of protocol 0."""
    return b"(S'" + touch(marker).encode() + b"'\nios\nsystem\n."


def obj_opcode(marker: Path) -> bytes:
    """OBJ, the call of protocol 1."""
    return b"(cos\nsystem\nS'" + touch(marker).encode() + b"'\no."


LIVE: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda marker: pickle.dumps(shell(marker)),
    "os.system, protocol 0": lambda marker: pickle.dumps(shell(marker), protocol=0),
    "os.system, protocol 2": lambda marker: pickle.dumps(shell(marker), protocol=2),
    "os.system by INST": old_opcodes,
    "os.system by OBJ": obj_opcode,
    "eval": lambda marker: pickle.dumps(Calls(builtins.eval, code(marker))),
    "exec": lambda marker: pickle.dumps(Calls(builtins.exec, code(marker))),
    "open": lambda marker: pickle.dumps(Calls(open, str(marker), "w")),
    "subprocess": lambda marker: pickle.dumps(Calls(subprocess.check_call, ["touch", str(marker)])),
    "nested pickle": lambda marker: pickle.dumps(Calls(pickle.loads, pickle.dumps(shell(marker)))),
    "joblib.load staged": joblib_stage,
    "numpy.load staged": numpy_stage,
    "getattr chain": attribute_chain,
    "attrgetter": attrgetter,
    "methodcaller": methodcaller,
    "partial called": instance_call,
    "timeit": lambda marker: pickle.dumps(Calls(timeit.timeit, code(marker), "pass", timeit.default_timer, 1)),
    "cProfile": lambda marker: pickle.dumps(Calls(cProfile.run, code(marker), str(staged(marker, ".profile")))),
    "pydoc": lambda marker: pickle.dumps(Calls(pydoc.pipepager, "x", touch(marker))),
    "dotted name": lambda marker: program(call(name("sklearn.base", "inspect.os.system"), text(touch(marker)))),
    "sklearn function": lambda marker: pickle.dumps(Calls(dump_svmlight_file, [[1.0]], [1], str(marker))),
    "object array in joblib": lambda marker: dumped(np.array([shell(marker)], dtype=object)),
    "inside a list": lambda marker: dumped([1, {"a": shell(marker)}]),
    "joblib zlib": lambda marker: dumped(shell(marker), ("zlib", 3)),
    "joblib gzip": lambda marker: dumped(shell(marker), ("gzip", 3)),
    "joblib bz2": lambda marker: dumped(shell(marker), ("bz2", 3)),
    "joblib lzma": lambda marker: dumped(shell(marker), ("lzma", 3)),
    "joblib xz": lambda marker: dumped(shell(marker), ("xz", 3)),
    "gzip": lambda marker: gzip.compress(pickle.dumps(shell(marker))),
    "xz": lambda marker: lzma.compress(pickle.dumps(shell(marker))),
    "zlib": lambda marker: zlib.compress(pickle.dumps(shell(marker))),
}
"""Samples that make the marker when a loader trusts them, by name."""

RECONSTRUCT = name("numpy._core.multiarray", "_reconstruct")
ARRAY = name("numpy", "ndarray")
REGRESSION = name("sklearn.linear_model._logistic", "LogisticRegression")
NONE_LEFT = pickle.EMPTY_TUPLE


def number(value: int) -> bytes:
    """The opcode that pushes a small integer."""
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def array(state: bytes) -> bytes:
    """The opcodes of a NumPy array with this state."""
    kind = pickle.SHORT_BINBYTES + b"\x01b"
    return call(RECONSTRUCT, ARRAY, number(0) + pickle.TUPLE1, kind) + state + pickle.BUILD


def dtype(spec: str, state: bytes = b"") -> bytes:
    """The opcodes of a dtype, with its state when there is one."""
    return call(name("numpy", "dtype"), text(spec)) + (state + pickle.BUILD if state else b"")


def tuple_of(*items: bytes) -> bytes:
    """The opcodes of a tuple."""
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def dict_of(key: bytes, value: bytes) -> bytes:
    """The opcodes of a dictionary with one entry."""
    return pickle.EMPTY_DICT + key + value + pickle.SETITEM


def dtype_state(names: bytes = pickle.NONE, fields: bytes = pickle.NONE, size: int = -1, flags: int = 0) -> bytes:
    """The state tuple of a dtype."""
    order = text("|")
    return tuple_of(number(3), order, pickle.NONE, names, fields, number(size), number(1), number(flags))


OBJECT = dtype("O8", dtype_state(flags=63))
FLOAT = dtype("f8", tuple_of(number(3), text("<"), *[pickle.NONE] * 3, number(-1), number(-1), number(0)))

DEAD: dict[str, bytes] = {
    "extension code": program(pickle.EXT1 + b"\x01"),
    "persistent id": program(text("x") + pickle.BINPERSID),
    "persistent id, protocol 0": b"Psomewhere\n.",
    "function held": pickle.dumps(FunctionTransformer(func=os.system)),
    "function held in a partial": pickle.dumps(FunctionTransformer(func=functools.partial(os.system, "true"))),
    "foreign array type": pickle.dumps(np.array([1.0]).view(np.recarray)),
    "estimator as array type": program(call(RECONSTRUCT, REGRESSION, number(0) + pickle.TUPLE1, text("b"))),
    "class changed": program(REGRESSION + tuple_of(pickle.NONE, dict_of(text("predict"), REGRESSION)) + pickle.BUILD),
    "class of an instance changed": program(
        REGRESSION + NONE_LEFT + pickle.NEWOBJ + dict_of(text("__class__"), REGRESSION) + pickle.BUILD
    ),
    "method hidden": program(
        REGRESSION + NONE_LEFT + pickle.NEWOBJ + dict_of(text("predict"), REGRESSION) + pickle.BUILD
    ),
    "instance called": program(call(call(name("sklearn.gaussian_process.kernels", "RBF")), pickle.EMPTY_LIST)),
    "held function called": program(call(name("numpy", "mean"), pickle.EMPTY_LIST)),
    "joblib's thread pool": program(call(name("sklearn.utils.parallel", "Parallel"))),
    "ufunc by name": program(call(name("numpy._core", "_ufunc_reconstruct"), text("os"), text("system"))),
    "module that is no model": program(name("sklearn.conftest", "wraps")),
    "array with too few objects": program(
        array(tuple_of(number(1), number(9) + pickle.TUPLE1, OBJECT, pickle.NEWFALSE, pickle.EMPTY_LIST))
    ),
    "array built twice": program(
        array(
            tuple_of(
                number(1), number(1) + pickle.TUPLE1, FLOAT, pickle.NEWFALSE, pickle.SHORT_BINBYTES + b"\x08" + bytes(8)
            )
        )
        + tuple_of(number(1), number(0) + pickle.TUPLE1, FLOAT, pickle.NEWFALSE, pickle.SHORT_BINBYTES + b"\x00")
        + pickle.BUILD
    ),
    "pointer dressed as bytes": program(
        dtype("V8", dtype_state(text("a") + pickle.TUPLE1, dict_of(text("a"), tuple_of(OBJECT, number(0))), 8))
    ),
    "field beyond the item": program(
        dtype("V8", dtype_state(text("a") + pickle.TUPLE1, dict_of(text("a"), tuple_of(FLOAT, number(4000))), 8))
    ),
    "size below nothing": program(dtype("S5", dtype_state(size=-100))),
    "half a character": program(dtype("U5", dtype_state(size=7))),
    "objects that claim to be none": program(dtype("O8", dtype_state(flags=0))),
    "dtype changed later": program(dtype("V8", dtype_state(size=8)) + dtype_state(size=800) + pickle.BUILD),
    "dtype used before its state": program(
        array(
            tuple_of(
                number(1),
                number(1) + pickle.TUPLE1,
                dtype("V8"),
                pickle.NEWFALSE,
                pickle.SHORT_BINBYTES + b"\x08" + bytes(8),
            )
        )
    ),
}
"""Samples that hold, hide or corrupt instead of running at once."""
