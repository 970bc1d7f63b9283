"""NumPy's .npz archives of other people: read a key at a time, sizes checked before allocating, no pickle run."""

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.safe_pickle import load_pickle
from unihpe_fast.data.formats.untrusted import array_of, checked, file_size, plain_dtype

MAX_BYTES = 4 << 30
# deflate cannot do more than 1032; above LARGE no dataset comes near the second
_MAX_RATIO, _MAX_RATIO_LARGE, _LARGE = 1032, 100, 1 << 30
_MAX_HEADER = 1 << 16
_CHUNK = 1 << 20
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']*)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d,\sL]{0,200})\),?\s*\}\s*"
)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Npz:
    """An archive and the keys in it; `where(key)` is how errors name one."""

    path: Path
    keys: frozenset[str]

    def where(self, key: str) -> str:
        return f"{self.path}: {key}"

    def array(self, key: str, shape: Sequence[int | str] | None, kinds: str) -> np.ndarray:
        """The array of a key, checked as by untrusted.checked; object arrays where kinds has "O".

        Raises SourceError where the key is missing, broken, or not of that shape and kind.
        """
        if key not in self.keys:
            raise SourceError(f"{self.path}: has no {key!r}, only {', '.join(sorted(self.keys)) or 'nothing'}")
        with self._member(key) as (file, size):
            array = self._read(key, file, size, "O" in kinds)
        return checked(array, shape, self.where(key), kinds)

    def object(self, key: str) -> Any:
        """What was saved as a single object: the content of an array of no dimensions; SourceError otherwise."""
        return self.array(key, (), "O").item()

    @contextmanager
    def _member(self, key: str) -> Iterator[tuple[IO[bytes], int]]:
        where = self.where(key)
        try:
            with zipfile.ZipFile(self.path) as archive:
                info = archive.getinfo(f"{key}.npy")
                packed, size = info.compress_size, info.file_size
                ratio = 1 if info.compress_type == zipfile.ZIP_STORED else _MAX_RATIO
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise SourceError(f"{where}: packed as numpy does not")
                if packed > file_size(self.path) or size > MAX_BYTES or size > ratio * packed:
                    raise SourceError(f"{where}: {packed} bytes claim to unpack to {size}")
                if size > max(_LARGE, _MAX_RATIO_LARGE * packed):
                    raise SourceError(f"{where}: {packed} bytes unpack to {size}, as no dataset's do")
                with archive.open(info) as file:
                    yield file, size
        except SourceError:
            raise
        except _BROKEN as error:
            raise SourceError(f"{where}: cannot be unpacked: {error}") from error

    def _read(self, key: str, file: IO[bytes], size: int, objects: bool) -> np.ndarray:
        where = self.where(key)
        magic = file.read(8)
        if magic[:6] != b"\x93NUMPY" or magic[6:7] not in (b"\1", b"\2", b"\3"):
            raise SourceError(f"{where}: not a .npy array")
        width = 2 if magic[6] == 1 else 4
        length = int.from_bytes(file.read(width), "little")
        match = _HEADER.fullmatch(file.read(min(length, _MAX_HEADER)).decode("latin-1"))
        if not match:
            raise SourceError(f"{where}: no header of a plain array")
        dtype = plain_dtype(match[1], where)
        shape = tuple(int(part.strip().rstrip("L")) for part in match[3].split(",") if part.strip())
        left = size - 8 - width - length
        if dtype.kind == "O":
            if not objects:
                raise SourceError(f"{where}: holds objects, want a plain array")
            array = load_pickle(_all_of(file, left, where).tobytes(), where)
            if not isinstance(array, np.ndarray):
                raise SourceError(f"{where}: want an object array, got {type(array).__name__}")
            return array
        return array_of(_all_of(file, left, where), dtype, shape, match[2] == "True", where)


def _all_of(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """The `size` bytes [size] uint8 that are left of a member, whose checksum is tested by reading past its end."""
    if size < 0:
        raise SourceError(f"{where}: ends in its header")
    data = np.empty(size, np.uint8)
    filled = 0
    while filled < size:
        chunk = file.read(min(_CHUNK, size - filled))
        if not chunk:
            raise SourceError(f"{where}: ends after {filled} of {size} bytes")
        data[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
    if file.read(1):
        raise SourceError(f"{where}: longer than it says")
    return data


def open_npz(path: Path) -> Npz:
    """The archive at `path`; nothing but its directory is read. OSError, or SourceError where it is not an archive."""
    file_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _BROKEN as error:
        raise SourceError(f"{path}: not an .npz archive: {error}") from error
    return Npz(path, frozenset(name.removesuffix(".npy") for name in names if name.endswith(".npy")))
