"""The crops of a job that was killed, kept beside its output so that the same command goes on where it stopped.

A file of records, only ever added to: which person on which photograph (the path, size and time of the photograph's
file, the bbox, and the size of the picture that was annotated), then the JPEG and its checksum. What the records mean
stands in the first line: after a change of the crop's size or of the program's versions they are not used. A record
that was cut short by the kill is cut off.
"""

import fcntl
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unihpe_fast.data.bbox import CROP_MARGIN
from unihpe_fast.data.images import JPEG_QUALITY
from unihpe_fast.data.records import Sample

# key, width, height and length of the JPEG that follows; then the checksum of all that
_HEAD, _CHECKSUM = struct.Struct("<QIII"), struct.Struct("<I")
_RECORD_SIZE = _HEAD.size + _CHECKSUM.size
# bytes of a first line; a longer one is not ours
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class Crop:
    """A JPEG cut out of a photograph of width x height px."""

    jpeg: bytes
    width: int
    height: int


class CropCache:
    """Use as a context manager: the file appears with its first record, and goes when the block ends without an error.

    Raises BlockingIOError when another process is writing the same output, and OSError for a full disk.
    """

    def __init__(self, out: Path, size: int) -> None:
        """out: the file that the job makes; size: of the crops, px."""
        self.path = out.with_name(f"{out.name}.crops")
        self._meaning = {
            "format": 1,
            "size": size,
            "margin": CROP_MARGIN,
            "quality": JPEG_QUALITY,
            "opencv": cv2.__version__,
        }
        self._file: FileIO | None = None
        self._keys, self._places = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._end = 0

    @property
    def found(self) -> int:
        """Crops of an earlier job."""
        return len(self._keys)

    def __enter__(self) -> "CropCache":
        if self.path.exists():
            self._open()
            self._load()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self._file is None:
            return
        if kind is None:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def find(self, key: int) -> Crop | None:
        """The crop of a sample that an earlier job has made. key: one of `crop_keys`."""
        at = np.searchsorted(self._keys, np.uint64(key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        return self._read(int(self._places[at]))

    def add(self, key: int, crop: Crop) -> None:
        file = self._file or self._open()
        head = _HEAD.pack(key, crop.width, crop.height, len(crop.jpeg))
        file.seek(self._end)
        left = memoryview(head + _CHECKSUM.pack(zlib.crc32(crop.jpeg, zlib.crc32(head))) + crop.jpeg)
        self._end += len(left)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            message = f"{self.path}: no room for it on the disk ({error.strerror})"
            raise OSError(error.errno, message) from error

    def _open(self) -> FileIO:
        # without a buffer: a record is on its way to the disk when `add` returns, and closing cannot fail
        self._file = file = open(self.path, "r+b" if self.path.exists() else "w+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file = None
            file.close()
            raise BlockingIOError(error.errno, f"{self.path}: another job is writing it") from error
        if not self.path.stat().st_size:
            self._begin(file)
        return file

    def _begin(self, file: FileIO) -> None:
        file.seek(0)
        file.truncate()
        file.write(json.dumps(self._meaning).encode() + b"\n")
        self._end = file.tell()

    def _load(self) -> None:
        """Find the records of an earlier job, up to the first that is not whole."""
        assert self._file is not None
        file, size = self._file, self.path.stat().st_size
        file.seek(0)
        if file.readline(_LONGEST_LINE) != json.dumps(self._meaning).encode() + b"\n":
            self._begin(file)
            return
        keys, places = [], []
        self._end = file.tell()
        while len(head := file.read(_RECORD_SIZE)) == _RECORD_SIZE:
            key, _, _, length = _HEAD.unpack_from(head)
            after = self._end + _RECORD_SIZE + length
            if after > size:
                break
            keys.append(key)
            places.append(self._end)
            self._end = after
            file.seek(length, os.SEEK_CUR)
        file.truncate(self._end)
        order = np.argsort(np.array(keys, np.uint64))
        self._keys, self._places = np.array(keys, np.uint64)[order], np.array(places, np.int64)[order]

    def _read(self, place: int) -> Crop | None:
        assert self._file is not None
        self._file.seek(place)
        head, checksum = self._file.read(_HEAD.size), self._file.read(_CHECKSUM.size)
        _, width, height, length = _HEAD.unpack(head)
        jpeg = self._file.read(length)
        whole = _CHECKSUM.pack(zlib.crc32(jpeg, zlib.crc32(head))) == checksum
        return Crop(jpeg, width, height) if whole else None


def crop_keys(photo: Path, samples: Sequence[Sample]) -> list[int]:
    """A number for each of these samples of one photograph; it changes with the photograph's file, the bbox and the
    size of the annotated picture, which says whether the photograph fits it and how its orientation tag is taken."""
    try:
        status = photo.stat()
        version = (status.st_size, status.st_mtime_ns)
    except OSError:
        version = (0, 0)
    shared = hashlib.blake2b(f"{photo.absolute()}\0{version}".encode(errors="surrogateescape"), digest_size=8)
    keys = []
    for sample in samples:
        own = shared.copy()
        own.update(np.asarray(sample.bbox, np.float32).tobytes())
        if sample.camera is not None:
            own.update(struct.pack("<QQ", sample.camera.width, sample.camera.height))
        keys.append(int.from_bytes(own.digest(), "little"))
    return keys
