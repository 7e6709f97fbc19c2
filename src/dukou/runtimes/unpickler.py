"""The pickle machine, in Python, with four readings of what a pickle may do: see `dukou.runtimes.pickles`."""

import math
import pickle
import struct
import types
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dukou.runtimes.dtypes import agrees, check_array, is_dtype_state
from dukou.runtimes.globals import Found, RefusedError, find
from dukou.runtimes.inflate import Stream

ARRAY = ("joblib.numpy_pickle", "NumpyArrayWrapper")
"""The name under which joblib notes that an array's bytes follow."""

_MAX_KEY_PARTS = 10_000
_Machine: Any = pickle._Unpickler
"""The standard library's, which joblib builds on too: the C one cannot stop in the middle for an array's bytes."""


class ArrayWrapper:
    """Stands for joblib's NumpyArrayWrapper: a note that an array's bytes follow in the stream."""


class Reader(_Machine):  # type: ignore[misc]
    """The pickle machine in Python, reading joblib's arrays too. What names mean is up to the subclass."""

    dispatch = _Machine.dispatch.copy()

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.stream = stream

    def load_build(self) -> None:
        if isinstance(self.stack[-2], ArrayWrapper):
            state = self.stack.pop()
            self.stack[-1] = self.read_array(state)
        else:
            self.build()

    dispatch[pickle.BUILD[0]] = load_build

    def build(self) -> None:
        """Give the state on top of the stack to the object below it."""
        super().load_build()

    def nested(self) -> "Reader":
        """A reader of the same rules for the pickle inside an array of objects."""
        return type(self)(self.stream)

    def read_array(self, state: Mapping[str, Any]) -> Any:
        """The array that joblib wrote into the stream after a wrapper with this state."""
        dtype, shape = state["dtype"], tuple(state["shape"])
        if not isinstance(dtype, np.dtype) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise pickle.UnpicklingError("an array without a proper shape and dtype")
        if dtype.hasobject:
            return self.nested().load()
        if state.get("numpy_array_alignment_bytes") is not None:
            self.stream.skip(self.stream.read(1)[0])
        return self.array(dtype, shape, state["order"])

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> Any:
        """The next bytes of the stream as an array, in the machine's byte order."""
        if not dtype.itemsize:
            return np.zeros(shape, dtype)
        self.stream.check(math.prod(shape) * dtype.itemsize)
        flat: NDArray[Any] = np.empty(math.prod(shape), dtype=dtype)
        if flat.nbytes and self.stream.readinto(flat.view(np.uint8)) != flat.nbytes:
            raise EOFError("an array ends too early")
        array = flat.reshape(shape[::-1]).T if order == "F" else flat.reshape(shape)
        return array.astype(dtype.newbyteorder("="), copy=False)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # the standard library's reserves the size before it reads

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    # Hashing a small pickle's tuples of tuples of tuples can take forever, so keys are measured first.

    def load_setitem(self) -> None:
        self._measure([self.stack[-2]])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._measure(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._measure(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        self._measure(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        self._measure(self.stack)
        super().load_frozenset()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def _measure(self, keys: Iterable[Any]) -> None:
        for key in keys:
            parts, budget = [key], _MAX_KEY_PARTS
            while parts:
                part = parts.pop()
                budget -= 1
                if budget < 0:
                    raise pickle.UnpicklingError("a dictionary key of too many parts")
                if isinstance(part, tuple | frozenset):
                    parts.extend(part)


class Trusting(Reader):
    """Builds whatever the pickle says."""

    def find_class(self, module: str, name: str) -> Any:
        return ArrayWrapper if (module, name) == ARRAY else super().find_class(module, name)


class Strict(Reader):
    """Refuses what no model needs: objects kept elsewhere, names hidden behind numbers, dtypes that lie.

    NumPy believes a dtype's state. One that hides an object in plain bytes makes a pointer of what the file says, and
    one that changes once arrays have it makes them reach beyond their memory. So a dtype gets its state once, the state
    must agree with itself, and nothing uses the dtype before.
    """

    dispatch = Reader.dispatch.copy()

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._dtypes: dict[int, np.dtype[Any]] = {}  # those with their state, kept so that their ids stay theirs

    def persistent_load(self, pid: Any) -> NoReturn:
        raise RefusedError("a persistent id")

    def get_extension(self, code: int) -> NoReturn:
        raise RefusedError(f"the extension code {code}")

    def read_array(self, state: Mapping[str, Any]) -> Any:
        self.check_dtypes((state["dtype"],))
        return super().read_array(state)

    def check_dtypes(self, values: Iterable[Any]) -> None:
        """Raise RefusedError for a dtype that still waits for its state."""
        for value in values:
            if isinstance(value, np.dtype) and id(value) not in self._dtypes:
                raise RefusedError("an unfinished NumPy dtype")

    def build_dtype(self) -> None:
        """Give a dtype its state, from the top of the stack."""
        state = self.stack.pop()
        dtype = self.stack[-1]
        if id(dtype) in self._dtypes or not is_dtype_state(state):
            raise RefusedError("a NumPy dtype with a false state")
        self.check_dtypes(field[0] for field in (state[4] or {}).values())
        self.check_dtypes((state[2] or ())[:1])
        dtype.__setstate__(state)
        if not agrees(dtype):
            raise RefusedError("a NumPy dtype that disagrees with itself")
        self._dtypes[id(dtype)] = dtype


class _Nothing:
    """Stands for everything that a survey does not build."""

    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...
    def add(self, item: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...


class Surveyor(Strict):
    """Walks a pickle and builds nothing but Python's containers and, to know how long arrays are, dtypes."""

    dispatch = Strict.dispatch.copy()

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.names: dict[tuple[str, str], None] = {}
        self.libraries: dict[str, str] = {}

    def nested(self) -> "Surveyor":
        inner = Surveyor(self.stream)
        inner.names, inner.libraries = self.names, self.libraries
        return inner

    def find_class(self, module: str, name: str) -> Any:
        self.names[module, name] = None
        if (module, name) == ARRAY:
            return ArrayWrapper
        return find(module, name).value if (module, name) == ("numpy", "dtype") else _Nothing()

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> Any:
        self.stream.skip(dtype.itemsize * math.prod(shape))
        return _Nothing()

    def build(self) -> None:
        if isinstance(self.stack[-2], np.dtype):
            self.build_dtype()
            return
        state = self.stack.pop()
        if isinstance(state, dict) and isinstance(version := state.get("_sklearn_version"), str):
            self.libraries.setdefault("scikit-learn", version)

    def make(self, constructor: Any, args: Any) -> None:
        if constructor is ArrayWrapper:
            self.stack[-1] = ArrayWrapper()
        elif isinstance(constructor, types.FunctionType):  # ours for numpy.dtype: nothing else callable is ever here
            self.stack[-1] = constructor(*args)
        else:
            self.stack[-1] = _Nothing()

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.make(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def load_obj(self) -> None:
        self.pop_mark()
        self.append(_Nothing())

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.find_class(module, name)
        self.load_obj()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.INST[0]] = load_inst


class Guarded(Strict):
    """Builds what the list allows."""

    dispatch = Strict.dispatch.copy()

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._found: dict[tuple[str, str], Found] = {ARRAY: Found(ArrayWrapper, constructs=True)}
        self._constructors = {id(ArrayWrapper)}

    def find_class(self, module: str, name: str) -> Any:
        found = self._found.get((module, name))
        if found is None:
            found = self._found[module, name] = find(module, name)
            if found.constructs:
                self._constructors.add(id(found.value))
        return found.value

    def _check_constructor(self, called: Any) -> None:
        if id(called) not in self._constructors:
            raise RefusedError(f"a call of {getattr(called, '__qualname__', type(called).__name__)}")

    def load_reduce(self) -> None:
        self._check_constructor(self.stack[-2])
        self.check_dtypes(self.stack[-1])
        super().load_reduce()

    def load_newobj(self) -> None:
        self._check_constructor(self.stack[-2])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        self._check_constructor(self.stack[-3])
        super().load_newobj_ex()

    def _instantiate(self, klass: Any, args: Any) -> None:
        """Behind the opcodes INST and OBJ of the oldest protocols."""
        self._check_constructor(klass)
        self.append(klass(*args))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def build(self) -> None:
        target, state = self.stack[-2], self.stack[-1]
        if isinstance(target, np.dtype):
            self.build_dtype()
            return
        if isinstance(target, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType):
            raise RefusedError(f"a change of {getattr(target, '__qualname__', target)} itself")
        if type(state).__module__ not in {"builtins", "numpy"}:
            raise RefusedError(f"a state of the type {type(state).__qualname__}")
        if isinstance(target, np.ndarray):
            self.check_dtypes(state)
            check_array(target, state)
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                _check_attributes(type(target), part)
        super().build()


def _check_attributes(kind: type, state: Mapping[Any, Any]) -> None:
    """A fitted model's state holds values, and hides no method."""
    for key in state:
        special = not isinstance(key, str) or (key.startswith("__") and key.endswith("__"))
        if special or any(isinstance(vars(base).get(key), types.FunctionType) for base in kind.__mro__):
            raise RefusedError(f"a change of {kind.__name__}.{key}")
