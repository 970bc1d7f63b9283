"""Matrices and cell arrays of numbers in MATLAB v5 files, the latter one cell at a time.

Not scipy.io.loadmat: cells nested some ten thousand deep overflow its C stack and end the process, and it keeps all of
a variable, of which a source may want a hundredth. Format: "MAT-File Format", The MathWorks, level 5.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import file_size

HEADER = 128
CHUNK = 1 << 20
LARGEST_CELL = 1 << 28  # bytes
MOST_CELLS = 1 << 12
_MATRIX, _COMPRESSED = 14, 15
_CELL_CLASS = 1
_NUMBER_CLASSES = range(6, 16)
# how numbers are stored, whatever their class
_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Variable:
    """A variable of a file: its name, whether it is a cell array, its dimensions, and where its element begins."""

    name: str
    cells: bool
    shape: tuple[int, ...]
    offset: int


def variables(path: Path) -> dict[str, Variable]:
    """What a file holds, by the beginnings of its variables; SourceError for anything but MATLAB v5, OSError."""
    found = {}
    with _Mat(path) as mat:
        for offset in mat.offsets():
            variable = mat.matrix(offset, f"{path}: byte {offset}").variable
            found[variable.name] = variable
    return found


def cells(path: Path, variable: Variable) -> Iterator[np.ndarray]:
    """The matrices of numbers in a cell array, column by column, as they are stored.

    Raises SourceError naming file, variable and cell where one is malformed, is not real numbers or has more than
    LARGEST_CELL bytes. Memory is that of one cell.
    """
    with _Mat(path) as mat:
        where = f"{path}: {variable.name}"
        matrix = mat.matrix(variable.offset, where)
        for index in range(_count(matrix.variable, where)):
            yield matrix.cell(f"{where}: cell {index}")


def numbers(path: Path, variable: Variable) -> np.ndarray:
    """The matrix of numbers that a variable is, as it is stored.

    Raises SourceError naming file and variable where it is malformed, is not real numbers or has more than LARGEST_CELL
    bytes.
    """
    where = f"{path}: {variable.name}"
    with _Mat(path) as mat:
        return mat.matrix(variable.offset, where).numbers(where)


def _count(variable: Variable, where: str) -> int:
    count = prod(variable.shape)
    if not variable.cells:
        raise SourceError(f"{where}: found no cell array, wanted one with a matrix of numbers in each cell")
    if count > MOST_CELLS:
        raise SourceError(f"{where}: found {list(variable.shape)} cells, wanted at most {MOST_CELLS}")
    return count


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Mat:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = file_size(path)
        self._file: BinaryIO = path.open("rb")
        try:
            self._order = self._byte_order()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "_Mat":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _byte_order(self) -> str:
        header = self._file.read(HEADER)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        version = struct.unpack(f"{order}H", header[124:126])[0] >> 8 if order else 0
        if order is None or version != 1:
            found = "MATLAB v7.3 (HDF5)" if version == 2 else "something else, or a part of one"
            raise SourceError(f"{self._path}: found {found}, wanted a MATLAB v5 file (save -v6 or -v7)")
        return order

    def offsets(self) -> Iterator[int]:
        offset = HEADER
        while offset < self._size:
            yield offset
            self._file.seek(offset)
            _, size = self._tag(self._file, f"{self._path}: byte {offset}")
            offset += 8 + size
            if offset > self._size:
                raise SourceError(f"{self._path}: has {self._size} bytes, want {offset}: cut short?")

    def _tag(self, stream: _Bytes, where: str) -> tuple[int, int]:
        return struct.unpack(f"{self._order}II", _exactly(stream, 8, where))

    def matrix(self, offset: int, where: str) -> "_Matrix":
        """The variable whose element begins there."""
        self._file.seek(offset)
        stream: _Bytes = self._file
        kind, _ = self._tag(stream, where)
        if kind == _COMPRESSED:
            stream = _Inflated(self._file, where)
            kind, _ = self._tag(stream, where)
        if kind != _MATRIX:
            raise SourceError(f"{where}: found element type {kind}, wanted a matrix ({_MATRIX})")
        return _Matrix(stream, self._order, offset, where)


class _Matrix:
    """A matrix element from behind its tag: its head is read, what is in it comes as it is asked for."""

    def __init__(self, stream: _Bytes, order: str, offset: int, where: str) -> None:
        self._stream, self._order, self._offset = stream, order, offset
        flags, shape, name = (self._element(where) for _ in range(3))
        if flags.dtype.str[1:] != "u4" or flags.size != 2 or shape.dtype.str[1:] != "i4" or not 2 <= shape.size <= 8:
            raise SourceError(f"{where}: found no matrix where one should begin")
        dimensions = tuple(shape.tolist())
        if min(dimensions) < 0:
            raise SourceError(f"{where}: found dimensions {list(dimensions)}, wanted 0 or more")
        self._class, self._complex = int(flags[0]) & 0xFF, bool(int(flags[0]) & 0x0800)
        self.variable = Variable(name.tobytes().decode("latin-1"), self._class == _CELL_CLASS, dimensions, offset)

    def cell(self, where: str) -> np.ndarray:
        """The next matrix inside."""
        kind, size = struct.unpack(f"{self._order}II", _exactly(self._stream, 8, where))
        if kind != _MATRIX:
            raise SourceError(f"{where}: found element type {kind}, wanted a matrix ({_MATRIX})")
        if not size:
            return np.empty((0, 0))
        return _Matrix(self._stream, self._order, self._offset, where).numbers(where)

    def numbers(self, where: str) -> np.ndarray:
        shape = self.variable.shape
        if self._class not in _NUMBER_CLASSES or self._complex:
            raise SourceError(f"{where}: found array class {self._class}, wanted a matrix of real numbers")
        values = self._element(where)
        if values.size != prod(shape):
            raise SourceError(f"{where}: found {values.size} numbers for dimensions {list(shape)}")
        return values.reshape(shape, order="F")

    def _element(self, where: str) -> np.ndarray:
        """The numbers of a data element, which may be so small that they are in its tag."""
        tag = _exactly(self._stream, 8, where)
        kind, size = struct.unpack(f"{self._order}II", tag)
        small = kind >> 16
        if small:
            kind, size = kind & 0xFFFF, small
        dtype = np.dtype(self._order + _NUMBERS.get(kind, "V1"))
        if kind not in _NUMBERS or size % dtype.itemsize or size > (4 if small else LARGEST_CELL):
            raise SourceError(
                f"{where}: found {size} bytes of type {kind}, wanted numbers, {LARGEST_CELL} bytes at most"
            )
        if small:
            return np.frombuffer(tag[4 : 4 + size], dtype)
        data = _exactly(self._stream, size, where)
        _exactly(self._stream, -size % 8, where)
        return np.frombuffer(data, dtype)


def _exactly(stream: _Bytes, size: int, where: str) -> bytes:
    """That many bytes, taken in chunks: a file that promises more than it has gets no memory for it."""
    parts = []
    while size:
        part = stream.read(min(size, CHUNK))
        if not part:
            raise SourceError(f"{where}: {size} bytes are missing; cut short?")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Inflated:
    """The bytes of a compressed element, from where its file stands."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where
        self._inflate = zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        """Up to that many bytes, none at the end only."""
        while not self._inflate.eof:
            data = self._inflate.unconsumed_tail or self._file.read(CHUNK)
            try:
                found = self._inflate.decompress(data, size)
            except zlib.error as error:
                raise SourceError(f"{self._where}: found compressed data that is broken ({error})") from error
            if found or not data:
                return found
        return b""
