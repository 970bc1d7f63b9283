"""Writing a prepared file (store_schema.py says what it holds): whole or not at all, in one pass, with flat memory."""

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from unihpe_fast.data.camera import Camera
from unihpe_fast.data.images import jpeg_size
from unihpe_fast.data.records import MODALITIES, Sample
from unihpe_fast.data.store_schema import (
    CAMERAS,
    FIXED_ATTRIBUTES,
    IMAGE_SUM,
    JPEG,
    NAMES,
    ROWS,
    TEXT,
    TEXT_SUM,
    WANTED,
    text_sum,
    wrong_cameras,
    wrong_rows,
)
from unihpe_fast.fileio import atomic_path

# rows a chunk and a write: few enough that memory stays flat, enough that HDF5's cost a call vanishes
BLOCK = 1024
# bytes of disk space kept ready beyond the next block, for HDF5's indices and for closing the file
RESERVE = 8 << 20
# of one sample and one new camera
ROW_BYTES = sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in [*ROWS.values(), *CAMERAS.values()])


@dataclass
class WriteSummary:
    """What `write_store` wrote: samples in all, of each subject, action and modality."""

    samples: int = 0
    subjects: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)


def write_store(
    path: str | Path,
    samples: Iterable[Sample],
    *,
    dataset: str,
    split: str,
    source_files: Sequence[Path] = (),
    licence: str = "",
    caveat: str = "",
) -> WriteSummary:
    """Write samples as one prepared file, in one pass and with flat memory. The rest becomes its attributes.

    The file appears whole or not at all: on any error, and on Ctrl-C, an earlier file of that name stays as it was.
    Raises ValueError for a malformed sample (naming its number and what was wanted) or when there are none, and OSError
    when the disk is full.
    """
    path = Path(path)
    sizes = {str(file): Path(file).stat().st_size for file in source_files}
    attributes = {
        **FIXED_ATTRIBUTES,
        "dataset": dataset,
        "split": split,
        "source_files": json.dumps(sizes),
        "licence": licence,
        "caveat": caveat,
    }
    with atomic_path(path) as temporary:
        writer = _Writer(path, temporary)
        try:
            rest = iter(samples)
            while block := list(islice(rest, BLOCK)):
                writer.append(block)
            if not writer.summary.samples:
                raise ValueError(f"{path}: the source has no samples; nothing was written")
            writer.finish(attributes)
        finally:
            writer.close()
    return writer.summary


class _Writer:
    def __init__(self, path: Path, temporary: Path) -> None:
        self.path, self.summary = path, WriteSummary()
        self._cameras: dict[tuple, int] = {}
        self._camera_names: list[str] = []
        self._names: dict[str, dict[str, int]] = {key: {} for key in NAMES}
        # from HDF5 1.10 on its structure has checksums; later versions' files are not for readers of that time
        self._file = h5py.File(temporary, "w", libver=("v110", "v110"))
        self._descriptor = os.open(temporary, os.O_RDWR)
        self._reserve(0)
        for key, (dtype, shape) in ROWS.items():
            self._create(key, dtype, shape)
        for key, (dtype, shape) in CAMERAS.items():
            self._create(f"cameras/{key}", dtype, shape)
        self._create("image", JPEG, ())
        self._create(IMAGE_SUM, np.uint32, ())

    def _reserve(self, size: int) -> None:
        """Claim the disk space of the next `size` bytes: HDF5 itself crashes the process when a write fails."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, self._file.id.get_filesize(), size + RESERVE)
        except OSError as error:
            message = f"{self.path}: no room for it on the disk after {self.summary.samples} samples"
            raise OSError(error.errno, f"{message} ({error.strerror}); nothing was written") from error

    def _create(self, key: str, dtype: Any, shape: tuple[int, ...]) -> None:
        # HDF5 takes no checksum for what has no fixed size
        size, chunk, checked = (0, *shape), (BLOCK, *shape), dtype is not JPEG
        self._file.create_dataset(key, size, dtype, maxshape=(None, *shape), chunks=chunk, fletcher32=checked)

    def append(self, block: list[Sample]) -> None:
        first = self.summary.samples
        rows = _rows(block, first)
        cameras: dict[str, list] = {key: [] for key in CAMERAS}
        rows["camera"] = np.array([self._camera(sample.camera, cameras) for sample in block], np.int32)
        for key in NAMES:
            codes = self._names[key]
            rows[key] = np.array([codes.setdefault(getattr(sample, key), len(codes)) for sample in block], np.int32)
        images = np.empty(len(block), dtype=object)
        for i, sample in enumerate(block):
            images[i] = np.frombuffer(sample.image or b"", np.uint8)
        # HDF5 keeps byte strings in pages of at least 4 KiB, with some bytes around each
        self._reserve(sum(max(len(image) + 64, 4096) for image in images) + BLOCK * ROW_BYTES)
        for key, values in rows.items():
            _append(self._file[key], values)
        for key, listed in cameras.items():
            if listed:
                _append(self._file[f"cameras/{key}"], np.array(listed, CAMERAS[key][0]))
        _append(self._file["image"], images)
        _append(self._file[IMAGE_SUM], np.array([zlib.crc32(image) for image in images], np.uint32))
        self.summary.samples += len(block)
        self.summary.subjects.update(sample.subject for sample in block)
        self.summary.actions.update(sample.action for sample in block)
        self.summary.present.update(dict(zip(MODALITIES, rows["present"].sum(0).tolist(), strict=True)))

    def _camera(self, camera: Camera | None, new: dict[str, list]) -> int:
        """Row of the camera in the table; a camera not seen before is added to `new`."""
        if camera is None:
            return -1
        values = {
            "vector": camera.vector,
            "size": (camera.width, camera.height),
            "rotation": np.full((3, 3), np.nan) if camera.rotation is None else camera.rotation,
            "translation": np.full(3, np.nan) if camera.translation is None else camera.translation,
        }
        arrays = {
            key: _checked(values[key], shape, dtype, f"{self.path}: camera {camera.name!r}: {key}")
            for key, (dtype, shape) in CAMERAS.items()
        }
        for key, wrong in wrong_cameras({key: array[None] for key, array in arrays.items()}).items():
            if wrong.any():
                found = arrays[key].tolist()
                raise ValueError(f"{self.path}: camera {camera.name!r}: {key}: found {found}, wanted {WANTED[key]}")
        identity = (camera.name, *(array.tobytes() for array in arrays.values()))
        if identity not in self._cameras:
            self._cameras[identity] = len(self._cameras)
            self._camera_names.append(camera.name)
            for key, array in arrays.items():
                new[key].append(array)
        return self._cameras[identity]

    def finish(self, attributes: dict[str, Any]) -> None:
        self._reserve(len(str(attributes)) + 64 * len(self._camera_names))
        self._write_texts("cameras/name", self._camera_names)
        for key, codes in self._names.items():
            self._write_texts(f"names/{key}", list(codes))
        self._file.attrs.update(attributes)

    def _write_texts(self, key: str, texts: list[str]) -> None:
        column = self._file.create_dataset(key, data=np.array(texts, object), dtype=TEXT)
        column.attrs[TEXT_SUM] = text_sum(texts)

    def close(self) -> None:
        name = self._file.filename
        self._file.close()
        os.close(self._descriptor)
        # gives back what was reserved beyond the end: HDF5 cuts a file it opens to the length it knows of
        h5py.File(name, "r+").close()


def _append(dataset: h5py.Dataset, values: np.ndarray) -> None:
    old, count = dataset.shape[0], len(values)
    dataset.resize(old + count, axis=0)
    # h5py's own indexing takes equally long byte strings for one more axis
    space = dataset.id.get_space()
    space.select_hyperslab((old, *[0] * (values.ndim - 1)), values.shape)
    memory = h5py.h5s.create_simple(values.shape)
    dataset.id.write(memory, space, values, mtype=h5py.h5t.py_create(dataset.dtype))


def _rows(block: list[Sample], first: int) -> dict[str, np.ndarray]:
    """The fixed-size columns of a block whose samples are numbered from `first`, checked."""
    rows: dict[str, np.ndarray] = {
        key: np.zeros((len(block), *shape), dtype)
        for key, (dtype, shape) in ROWS.items()
        if key not in (*NAMES, "camera")
    }
    for i, sample in enumerate(block):
        where = f"sample {first + i} ({sample.subject} {sample.action} frame {sample.frame})"
        parts = {"keypoints_2d": sample.keypoints_2d, "joints_3d": sample.joints_3d, "bbox": sample.bbox}
        if sample.image is not None:
            try:
                jpeg_size(sample.image)
            except ValueError as error:
                raise ValueError(f"{where}: image: {error}") from error
            if sample.crop is None:
                raise ValueError(f"{where}: crop: found None beside an image, wanted [2, 3] from full-image to crop px")
            parts["crop"] = sample.crop
        for key, value in parts.items():
            if value is not None:
                dtype, shape = ROWS[key]
                rows[key][i] = _checked(value, shape, dtype, f"{where}: {key}")
        present = (sample.image is not None, sample.keypoints_2d is not None, sample.joints_3d is not None)
        if not any(present):
            raise ValueError(f"{where}: found neither image nor keypoints_2d nor joints_3d, wanted at least one")
        rows["present"][i], rows["frame"][i] = present, sample.frame
    for key, wrong in wrong_rows(rows).items():
        if wrong.any():
            i = int(wrong.argmax())
            raise ValueError(
                f"sample {first + i} ({block[i].subject} {block[i].action} frame {block[i].frame}): {key}: "
                f"found {rows[key][i].tolist()}, wanted {WANTED[key]}"
            )
    return rows


def _checked(value: Any, shape: tuple[int, ...], dtype: type, where: str) -> np.ndarray:
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "iuf":
        raise ValueError(f"{where}: found {array.dtype} {list(array.shape)}, wanted numbers of shape {list(shape)}")
    return array.astype(dtype)
