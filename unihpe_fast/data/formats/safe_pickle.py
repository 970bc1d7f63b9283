"""Pickles of other people, read without running anything.

A pickle is a program. This machine runs only the instructions that build plain data; of the callables that a pickle
may name it knows the few that NumPy and the dict-like classes need, and imitates them instead of calling them.
"""

import codecs
import io
import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import array_of, plain_dtype

# an instruction builds at most an object of some 64 bytes, so this bounds the memory beside the data itself
MAX_INSTRUCTIONS = 10_000_000
_MAX_DIMENSIONS = 8


def load_pickle(data: bytes, where: str) -> Any:
    """What a pickle of any protocol holds: None, numbers, str, bytes, lists, tuples, dicts and NumPy arrays of these.

    Strings of Python 2 are read as latin1; an OrderedDict becomes a dict; arrays may be read-only. Raises SourceError,
    beginning with `where`, for a pickle that is broken, asks for anything else or for much more memory than it has.
    """
    try:
        with warnings.catch_warnings():
            # of escapes in strings that Python does not know
            warnings.simplefilter("ignore", DeprecationWarning)
            return _Machine(data, where).run()
    except SourceError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise SourceError(f"{where}: a broken pickle: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class _Name:
    """A callable that the pickle names; nothing is imported."""

    name: str


@dataclass
class _Dtype:
    text: str
    order: str = "="

    def resolve(self, where: str) -> np.dtype:
        return plain_dtype(self.order + self.text.lstrip("<>=|"), where)


@dataclass
class _Unbuilt:
    """An array between its `_reconstruct` and its state, and where the memo keeps it."""

    memo: list[int] = field(default_factory=list)


class _Machine:
    def __init__(self, data: bytes, where: str) -> None:
        self.file = io.BytesIO(data)
        self.where = where
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        # copies that a pickle may ask for: each byte is needed once or twice, a bomb asks again and again
        self.budget = 4 * len(data) + 2**20

    def run(self) -> Any:
        for _ in range(MAX_INSTRUCTIONS):
            instruction = _INSTRUCTIONS.get(self.file.read(1))
            name = instruction.name if instruction else ""
            if name == "STOP":
                return self.stack.pop()
            if instruction is None:
                raise ValueError(f"ends or goes astray at byte {self.file.tell()}")
            if name not in _EXECUTE:
                raise self._refused(f"instruction {name}")
            if name == "STRING":
                # what pickletools makes of these has to be ASCII
                quoted = pickletools.read_stringnl(self.file, decode=False)
                argument: Any = codecs.escape_decode(quoted)[0].decode("latin-1")
            else:
                argument = instruction.arg.reader(self.file) if instruction.arg else None
            _EXECUTE[name](self, argument)
        raise self._refused(f"more than {MAX_INSTRUCTIONS} instructions")

    def _refused(self, what: str) -> SourceError:
        return SourceError(f"{self.where}: the pickle asks for more than plain data: {what}")

    def _spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise self._refused("more memory than it has bytes")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def above_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise self._refused(f"appending to {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise self._refused(f"setting items of {type(target).__name__}")
        target.update(self.dict_of(items))

    def dict_of(self, items: list[Any]) -> dict[Any, Any]:
        keys = items[::2]
        for key in keys:
            for part in key if type(key) is tuple else (key,):
                # a nested tuple's hash may exhaust the stack of C
                if not isinstance(part, str | bytes | int | float | np.generic | None):
                    raise self._refused(f"a key that is a {type(part).__name__}")
        return dict(zip(keys, items[1::2], strict=True))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("tuple of more than there is")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(items)

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if isinstance(value, _Unbuilt):
            value.memo.append(index)
        self.memo[index] = value

    def name(self, module: str, name: str) -> None:
        # NumPy 1 has numpy.core, NumPy 2 numpy._core
        full = f"{module.replace('numpy.core', 'numpy._core')}.{name}"
        if full not in _CALLABLES:
            raise self._refused(f"{module}.{name}")
        self.push(_Name(full))

    def stack_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is not a string")
        self.name(module, name)

    def reduce(self, _: Any) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, _Name) or type(arguments) is not tuple:
            raise self._refused(f"calling {type(callee).__name__}")
        self.push(_CALLABLES[callee.name](self, *arguments))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            _version, order, *structure = state[:5]
            if order not in ("<", ">", "=", "|") or any(part is not None for part in structure):
                raise self._refused("a structured dtype")
            target.order = order
        elif isinstance(target, _Unbuilt):
            _version, shape, dtype, fortran, content = state
            self.stack[-1] = self.array(content, dtype, shape, "F" if fortran else "C")
            self.memo.update(dict.fromkeys(target.memo, self.stack[-1]))
            target.memo.clear()
        else:
            raise self._refused(f"the state of {type(target).__name__}")

    def array(self, content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
        if not isinstance(dtype, _Dtype) or type(shape) is not tuple or order not in ("C", "F"):
            raise TypeError("an array without dtype, shape or order")
        if len(shape) > _MAX_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array whose shape is none")
        resolved = dtype.resolve(self.where)
        if resolved.kind == "O":
            return self.objects(content, shape, order)
        raw = self.encode(content) if isinstance(content, str) else content
        if not isinstance(raw, bytes | bytearray):
            raise TypeError("an array without bytes")
        return array_of(raw, resolved, shape, order == "F", self.where)

    def objects(self, content: Any, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
        count = math.prod(shape)
        if type(content) is not list or len(content) != count:
            raise ValueError("an object array of fewer or more objects than its shape says")
        self._spend(8 * count)
        flat = np.empty(count, object)
        for index, item in enumerate(content):
            if isinstance(item, np.ndarray) and item.dtype.kind == "O":
                # NumPy frees a chain of these recursively, however long it is
                raise self._refused("object arrays in an object array")
            flat[index] = item
        return flat.reshape(shape, order=order)

    def dtype(self, text: Any, *_: Any) -> _Dtype:
        plain_dtype(text, self.where)
        return _Dtype(text)

    def scalar(self, dtype: Any, content: Any) -> Any:
        if isinstance(dtype, _Dtype) and dtype.resolve(self.where).kind == "O":
            raise self._refused("a scalar that is an object")
        return self.array(content, dtype, ())[()]

    def encode(self, text: Any, codec: Any = "latin1") -> bytes:
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            raise self._refused("another encoding than latin1")
        self._spend(len(text))
        return text.encode("latin-1")

    def ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        items = [item for key, value in pairs for item in (key, value)]
        self._spend(64 * len(items))
        return self.dict_of(items)


_CALLABLES: dict[str, Callable[..., Any]] = {
    "numpy._core.multiarray._reconstruct": lambda machine, *_: _Unbuilt(),
    "numpy._core.multiarray.scalar": _Machine.scalar,
    "numpy._core.numeric._frombuffer": _Machine.array,
    "numpy.ndarray": lambda machine, *_: _Unbuilt(),
    "numpy.dtype": _Machine.dtype,
    "collections.OrderedDict": _Machine.ordered_dict,
    "_codecs.encode": _Machine.encode,
    # how Python 3 writes an empty bytes in protocol 2
    "__builtin__.bytes": lambda machine: b"",
}

_INSTRUCTIONS = {instruction.code.encode("latin-1"): instruction for instruction in pickletools.opcodes}
_PUSHED = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
)
_EXECUTE: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_PUSHED.split(), _Machine.push),
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.above_mark()),
    "LIST": lambda m, _: m.push(m.above_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "DICT": lambda m, _: m.push(m.dict_of(m.above_mark())),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GET": lambda m, index: m.push(m.memo[index]),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
