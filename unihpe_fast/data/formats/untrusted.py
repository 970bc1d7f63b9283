"""Checks for what comes out of other people's files, before anything is made of it."""

import csv
import math
import posixpath
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.bounds import LARGEST_PX
from unihpe_fast.data.errors import SourceError

# of px, m and mm alike: numbers beyond are none
LARGEST = LARGEST_PX
_DRIVE = re.compile(r"[A-Za-z]:(/|$)")
_PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|\?|[iu][1248]|f[248]|O8?|[SU][1-9]\d{0,8})")
_KIND_NAMES = {"b": "bool", "i": "int", "u": "uint", "f": "float", "S": "bytes", "U": "str", "O": "object"}


def photo_path(root: Path, name: str, where: str) -> Path:
    """The file that an annotation calls `name`, under the folder `root`; it need not exist.

    Backslashes, as Windows writes them, part folders too. Raises SourceError, beginning with `where`, for a name that
    is empty, absolute, no file name at all or that climbs out of the root by its letters. Links inside the root are the
    user's own and may lead anywhere.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise SourceError(f"{where}: {name!r} is not a file name")
    path = posixpath.normpath(name.replace("\\", "/")) if name else "."
    if path in (".", "..") or path.startswith(("/", "../")) or _DRIVE.match(path):
        raise SourceError(f"{where}: want a file name below the images folder, got {name!r}")
    return root / path


def file_size(path: Path) -> int:
    """Size of a regular file in bytes; OSError where there is nothing, SourceError for a folder, pipe or device."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"{path}: not a regular file")
    return found.st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """All of a regular file; OSError where it cannot be read, SourceError where it has more than `limit` bytes."""
    size = file_size(path)
    if size > limit:
        raise SourceError(f"{path}: has {size} bytes, want at most {limit}")
    with path.open("rb") as file:
        return file.read(size)


def csv_rows(lines: Sequence[str], delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number, counted from 1, and cells; SourceError for cells of more than 131,072 characters and the like."""
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise SourceError(f"{path}: line {reader.line_num}: cannot be read as a table: {error}") from error
        if row is None:
            return
        yield reader.line_num, row


def whole_number(text: str) -> int | None:
    """Of decimal digits, as many as a number has that counts something; None for any other text."""
    return int(text) if text.isdecimal() and len(text) <= 15 else None


def plain_dtype(text: object, where: str) -> np.dtype:
    """The dtype that a .npy header or a pickle names: bool, int, uint, float up to 64 bits, bytes, str or object.

    Raises SourceError, beginning with `where`, for any other, structures too.
    """
    if not isinstance(text, str) or not _PLAIN_DTYPE.fullmatch(text):
        found = repr(text[:40]) if isinstance(text, str) else type(text).__name__
        raise SourceError(f"{where}: want a dtype of plain numbers, str or object, got {found}")
    return np.dtype(text)


def array_of(raw: Any, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, where: str) -> np.ndarray:
    """The array that the bytes are, without a copy; dtype: any but object.

    Raises SourceError, beginning with `where`, where bytes and shape disagree or texts have characters that are none.
    """
    size = memoryview(raw).nbytes
    if size != math.prod(shape) * dtype.itemsize:
        raise SourceError(f"{where}: {size} bytes for an array of {list(shape)} {dtype}")
    flat = np.frombuffer(raw, dtype)
    if dtype.kind == "U" and _characters(raw, dtype).max(initial=0) > sys.maxunicode:
        raise SourceError(f"{where}: a text is broken: characters beyond those of Unicode")
    return flat.reshape(shape, order="F" if fortran else "C")


def _characters(raw: Any, text: np.dtype) -> np.ndarray:
    return np.frombuffer(raw, np.dtype(f"{text.byteorder}u4"))


def checked(array: np.ndarray, shape: Sequence[int | str] | None, where: str, kinds: str) -> np.ndarray:
    """The array in native byte order, if it has the shape and one of the dtype kinds that are wanted.

    shape: sizes, or the names of free ones; what has the same name has the same size. None: any shape. kinds: letters
    of numpy.dtype.kind. Raises SourceError, beginning with `where`, that says what was found and what was wanted.
    """
    if shape is None:
        shape = [f"axis {axis}" for axis in range(array.ndim)]
    names: dict[str, int] = {}
    fits = array.ndim == len(shape) and all(
        found == (names.setdefault(want, found) if isinstance(want, str) else want)
        for found, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        wanted = " or ".join(_KIND_NAMES[kind] for kind in kinds)
        raise SourceError(
            f"{where}: want [{', '.join(map(str, shape))}] of {wanted}, got {list(array.shape)} {array.dtype}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def texts(array: np.ndarray, where: str) -> list[str]:
    """The strings of an array [N] of str, bytes (UTF-8) or objects that are either; SourceError otherwise."""
    array = checked(array, ("N",), where, "SUO")
    try:
        items = array.tolist()
        strings = [item.decode() if isinstance(item, bytes) else item for item in items]
    except ValueError as error:
        raise SourceError(f"{where}: a text is broken: {error}") from error
    for row, item in enumerate(strings):
        if not isinstance(item, str):
            raise SourceError(f"{where}: want strings, got {type(item).__name__} in row {row}")
    return strings


def known_joints(joints: np.ndarray) -> tuple[np.ndarray, int]:
    """Joints [..., C + 1] (coordinates, last a confidence) as float32, and how many are broken.

    A joint is known where its confidence is above 0 and all of its numbers are finite and within LARGEST; it is broken
    where only the former holds. All numbers of others than the known are 0.
    """
    if joints.dtype == np.float16:
        # LARGEST is beyond it
        joints = joints.astype(np.float32)
    stated = joints[..., -1] > 0
    known = stated & (np.abs(joints) < LARGEST).all(-1)
    return np.where(known[..., None], joints, 0).astype(np.float32), int((stated & ~known).sum())
