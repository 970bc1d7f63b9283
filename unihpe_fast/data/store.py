"""Reading a prepared file (store_schema.py says what it holds) by row numbers."""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from unihpe_fast.data.errors import StoreError
from unihpe_fast.data.formats.hdf5 import BROKEN
from unihpe_fast.data.records import SampleInfo
from unihpe_fast.data.store_schema import (
    CAMERAS,
    FIXED_ATTRIBUTES,
    IMAGE_SUM,
    JPEG,
    NAMES,
    ROWS,
    TEXT,
    TEXT_ATTRIBUTES,
    TEXT_SUM,
    WANTED,
    text_sum,
    wrong_cameras,
    wrong_rows,
)
from unihpe_fast.data.store_writer import WriteSummary, write_store

__all__ = ["Columns", "Store", "StoreError", "WriteSummary", "write_store"]

# deflate cannot shrink further than this, so a dataset that claims more is not backed by the bytes in the file
LARGEST_COMPRESSION = 1032
DAMAGED = "found other bytes than were written, as their checksum says"
_MADE_BY = "`python -m unihpe_fast.prepare`"


@dataclass
class Columns:
    """B rows of a prepared file, in the order asked for; what a sample lacks is zero, unless said otherwise.

    info: which samples these are. keypoints_2d, joints_3d, bbox, crop: float32 as in the file. camera: [B, 9] float64,
    NaN where unknown. size: [B, 2] int32 width and height of the full image, 0 where unknown. rotation: [B, 3, 3]
    float64 world to camera, NaN where unknown. present: [3, B] bool in MODALITIES order. images: B arrays of JPEG
    bytes (empty where absent), or [] when they were not asked for.
    damaged: [B] bool, whose bytes are not those that were written, as their checksums say; images that were not asked
    for and those of files without checksums are not.
    """

    info: SampleInfo
    keypoints_2d: np.ndarray
    joints_3d: np.ndarray
    bbox: np.ndarray
    crop: np.ndarray
    camera: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    present: np.ndarray
    images: list[np.ndarray]
    damaged: np.ndarray


class Store:
    """A prepared file, read by row numbers.

    Opening costs nothing: the file is read and checked when it is first used, and only the path is pickled, so a Store
    can be sent to other processes; after a fork each process opens the file for itself. The fixed-size columns (about
    520 bytes a sample) stay in memory, images are read as they are asked for. Everything raises StoreError for a file
    that is truncated, foreign or inconsistent, and FileNotFoundError for one that is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._table: _Table | None = None
        self._handle: tuple[int, h5py.File] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_table": None, "_handle": None}

    def __len__(self) -> int:
        return len(self._loaded().rows["bbox"])

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names in the order of first appearance."""
        return tuple(self._loaded().names["subject"])

    @property
    def actions(self) -> tuple[str, ...]:
        """Names in the order of first appearance."""
        return tuple(self._loaded().names["action"])

    @property
    def present(self) -> np.ndarray:
        """[3, N] bool in MODALITIES order."""
        return self._loaded().rows["present"].T

    @property
    def up(self) -> np.ndarray:
        """[N, 3] float64 unit vectors to the sky in camera space, whose world has Z up; NaN where unknown."""
        table = self._loaded()  # whose last camera, -1, is that of samples without one
        return table.cameras["rotation"][:, :, 2][table.rows["camera"]]

    @property
    def attributes(self) -> dict[str, Any]:
        """The file's attributes: dataset, split, source_files, licence and so on."""
        return dict(self._loaded().attributes)

    @property
    def caveat(self) -> str:
        """How the samples differ from the published protocol; empty: they do not."""
        return str(self._loaded().attributes.get("caveat", ""))

    def read(self, indices: np.ndarray, *, images: bool = True) -> Columns:
        """Rows in the order given, repeats allowed. indices: [B] integers in [0, len). images: read those too."""
        table = self._loaded()
        index = np.asarray(indices, dtype=np.int64)
        if index.ndim != 1 or (index.size and not (index.min() >= 0 and index.max() < len(self))):
            raise IndexError(f"{self.path}: found rows {indices!r}, wanted a list of numbers from 0 to {len(self) - 1}")
        rows = {key: column[index] for key, column in table.rows.items()}
        # camera -1 picks the last row of the table, which holds "unknown"
        cameras = {key: column[rows["camera"]] for key, column in table.cameras.items()}
        pictures = self._images(index) if images else []
        damaged = np.zeros(len(index), dtype=bool)
        if images and table.sums is not None:
            damaged = np.array([zlib.crc32(data.data) for data in pictures], np.uint32) != table.sums[index]
        names = {key: [table.names[key][code] for code in rows[key].tolist()] for key in NAMES}
        return Columns(
            info=SampleInfo(index, rows["frame"], **names),
            keypoints_2d=rows["keypoints_2d"],
            joints_3d=rows["joints_3d"],
            bbox=rows["bbox"],
            crop=rows["crop"],
            camera=cameras["vector"],
            size=cameras["size"],
            rotation=cameras["rotation"],
            present=rows["present"].T,
            images=pictures,
            damaged=damaged,
        )

    def _images(self, index: np.ndarray) -> list[np.ndarray]:
        table = self._loaded()
        if self._handle is None or self._handle[0] != os.getpid():
            if _identity(self.path) != table.identity:
                raise StoreError(f"{self.path}: found another file than the one read before, wanted it left alone")
            self._handle = os.getpid(), h5py.File(self.path, "r")
        # h5py wants rising row numbers, each once
        rows, back = np.unique(index, return_inverse=True)
        try:
            found = self._handle[1]["image"][rows] if len(rows) else []
        except BROKEN as error:
            raise StoreError(f"{self.path}: image: rows {rows.tolist()} cannot be read: {error}") from error
        return [found[i] for i in back]

    def _loaded(self) -> "_Table":
        if self._table is None:
            self._table = _load(self.path)
        return self._table


@dataclass
class _Table:
    """All of a prepared file but the images, in memory. cameras has one more row than the file: unknown. sums: CRC-32
    of the images, where the file has them."""

    attributes: dict[str, Any]
    rows: dict[str, np.ndarray]
    cameras: dict[str, np.ndarray]
    names: dict[str, list[str]]
    identity: tuple[int, int]
    sums: np.ndarray | None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _load(path: Path) -> _Table:
    identity = _identity(path)
    try:
        with h5py.File(path, "r") as file:
            return _load_file(path, file, identity)
    except StoreError:
        raise
    except BROKEN as error:
        raise StoreError(
            f"{path}: found a file that HDF5 cannot read, truncated perhaps ({error}); wanted one of {_MADE_BY}"
        ) from error


def _load_file(path: Path, file: h5py.File, identity: tuple[int, int]) -> _Table:
    for key, value in FIXED_ATTRIBUTES.items():
        found = _attribute(path, file, key)
        if type(found) is not type(value) or found != value:
            raise StoreError(f"{path}: attribute {key}: found {found!r}, wanted {value!r} as {_MADE_BY} writes it")
    count = _dataset(path, file, "bbox", *ROWS["bbox"], None).shape[0]
    _dataset(path, file, "image", JPEG, (), count)
    rows = {
        key: _numbers(path, key, _dataset(path, file, key, dtype, shape, count)) for key, (dtype, shape) in ROWS.items()
    }
    sums = None
    if IMAGE_SUM in file:
        sums = _numbers(path, IMAGE_SUM, _dataset(path, file, IMAGE_SUM, np.uint32, (), count))
    camera_count = _dataset(path, file, "cameras/vector", *CAMERAS["vector"], None).shape[0]
    cameras = {}
    for key, (dtype, shape) in CAMERAS.items():
        found = _dataset(path, file, f"cameras/{key}", dtype, shape, camera_count)
        column = _numbers(path, f"cameras/{key}", found)
        unknown: np.ndarray = np.full((1, *shape), 0 if dtype is np.int32 else np.nan, dtype)
        cameras[key] = np.concatenate([column, unknown])
    names = {key: _texts(path, file, f"names/{key}") for key in NAMES}
    for key, low, length in [("camera", -1, camera_count), *((key, 0, len(names[key])) for key in NAMES)]:
        if count and not (low <= rows[key].min() and rows[key].max() < length):
            raise StoreError(
                f"{path}: {key}: found values from {rows[key].min()} to {rows[key].max()}, wanted {low} to {length - 1}"
            )
    known_cameras = {key: column[:-1] for key, column in cameras.items()}
    for group, columns, wrong in [
        ("", rows, wrong_rows(rows)),
        ("cameras/", known_cameras, wrong_cameras(known_cameras)),
    ]:
        for key, bad in wrong.items():
            if bad.any():
                row = int(bad.argmax())
                raise StoreError(
                    f"{path}: {group}{key}: row {row}: found {columns[key][row].tolist()}, wanted {WANTED[key]}"
                )
    return _Table(_attributes(path, file), rows, cameras, names, identity, sums)


def _attribute(path: Path, file: h5py.File, key: str) -> Any:
    """A number or a text, or None where there is none of that name; another kind is named."""
    try:
        found = file.attrs.get(key)
    except BROKEN as error:
        raise StoreError(f"{path}: attribute {key}: cannot be read: {error}") from error
    return found.item() if isinstance(found, np.generic) else found


def _attributes(path: Path, file: h5py.File) -> dict[str, Any]:
    """Those that a prepared file has."""
    found = {key: _attribute(path, file, key) for key in (*FIXED_ATTRIBUTES, *TEXT_ATTRIBUTES) if key in file.attrs}
    for key in TEXT_ATTRIBUTES:
        if not isinstance(found.get(key, ""), str):
            raise StoreError(f"{path}: attribute {key}: found {type(found[key]).__name__}, wanted text")
    return found


def _numbers(path: Path, key: str, dataset: h5py.Dataset) -> np.ndarray:
    """All of it; HDF5 looks at the checksums."""
    try:
        return dataset[...]
    except BROKEN as error:
        raise StoreError(f"{path}: {key}: cannot be read, damaged perhaps: {error}") from error


def _texts(path: Path, file: h5py.File, key: str) -> list[str]:
    dataset = _dataset(path, file, key, TEXT, (), None)
    try:
        texts, wanted = dataset.asstr()[...].tolist(), dataset.attrs.get(TEXT_SUM)
    except BROKEN as error:
        raise StoreError(f"{path}: {key}: cannot be read, damaged perhaps: {error}") from error
    if wanted is not None and not (np.ndim(wanted) == 0 and wanted == text_sum(texts)):
        raise StoreError(f"{path}: {key}: found other texts than were written, as their checksum says")
    return texts


def _dataset(path: Path, file: h5py.File, key: str, dtype: Any, shape: tuple, count: int | None) -> h5py.Dataset:
    """The dataset of that name if it is [count, *shape] of that dtype and its bytes are in this file."""
    want = f"{'text' if dtype is TEXT else 'JPEG bytes' if dtype is JPEG else np.dtype(dtype)} "
    want += str([*("N" if count is None else [count]), *shape])
    # a link could lead to a dataset in another file, and so could the group that it is in
    places = ["/".join(key.split("/")[: depth + 1]) for depth in range(key.count("/") + 1)]
    here = all(isinstance(file.get(place, getlink=True), h5py.HardLink) for place in places)
    found = file[key] if here else None
    if not isinstance(found, h5py.Dataset):
        raise StoreError(f"{path}: {key}: found {'nothing' if found is None else type(found).__name__}, wanted {want}")
    if found.shape is None:
        raise StoreError(f"{path}: {key}: found a dataset of no shape, wanted {want}")
    same_type = h5py.check_vlen_dtype(found.dtype) == h5py.check_vlen_dtype(np.dtype(dtype)) and (
        h5py.check_string_dtype(found.dtype) is not None if dtype is TEXT else found.dtype == np.dtype(dtype)
    )
    same_shape = found.ndim == 1 + len(shape) and found.shape[1:] == shape and count in (None, found.shape[0])
    if not (same_type and same_shape):
        raise StoreError(f"{path}: {key}: found {found.dtype} {list(found.shape)}, wanted {want}")
    if found.is_virtual or found.external:
        raise StoreError(f"{path}: {key}: found data kept in other files, wanted it in this one")
    if found.nbytes > LARGEST_COMPRESSION * found.id.get_storage_size():
        raise StoreError(
            f"{path}: {key}: found {found.id.get_storage_size()} bytes for {list(found.shape)}, wanted all of its rows"
        )
    return found
