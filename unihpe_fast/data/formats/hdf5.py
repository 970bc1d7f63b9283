"""Datasets in HDF5 files of other people: shape and size checked before they are read, the data in the file itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from unihpe_fast.data.errors import SourceError

# deflate, the filter that packs best of those HDF5 brings, cannot do more
_MAX_RATIO = 1032
_MAX_BYTES = 2 << 30
# what h5py raises for files that are damaged, or hold what numpy has no type for
BROKEN = (OSError, RuntimeError, ValueError, LookupError, TypeError, MemoryError, OverflowError, NotImplementedError)


@contextmanager
def opened_file(path: Path) -> Iterator[h5py.File]:
    """A file, open for reading. Raises SourceError naming it where it is damaged, also where the body reads from it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except SourceError:
        raise
    except BROKEN as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error


def members(path: Path) -> frozenset[str]:
    """The names at the top of a file; none where it is damaged or no HDF5 file."""
    try:
        with opened_file(path) as file:
            return frozenset(file)
    except SourceError:
        return frozenset()


@contextmanager
def opened_dataset(path: Path, key: str, shape: Sequence[int | str], kinds: str) -> Iterator[h5py.Dataset]:
    """A dataset of a file, not read yet: `with opened_dataset(..) as dataset`.

    shape: a size or the name of one that is free. kinds: letters of numpy.dtype.kind. Raises SourceError naming file
    and key for what is missing, damaged or not like that, also where the body reads the dataset.
    """
    where = f"{path}: {key}"
    try:
        with h5py.File(path, "r") as file:
            # links and external storage would have HDF5 read other files
            if not isinstance(file.get(key, getlink=True), h5py.HardLink):
                raise SourceError(f"{where}: no such dataset in the file, only {', '.join(file) or 'nothing'}")
            dataset = file[key]
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise SourceError(f"{where}: want a dataset whose data is in the file")
            fits = len(dataset.shape or ()) == len(shape) and all(
                isinstance(want, str) or found == want for found, want in zip(dataset.shape, shape, strict=True)
            )
            if not fits or dataset.dtype.kind not in kinds:
                raise SourceError(
                    f"{where}: want [{', '.join(map(str, shape))}] of kind {kinds}, "
                    f"got {list(dataset.shape or ())} {dataset.dtype}"
                )
            stored = dataset.id.get_storage_size()
            if dataset.nbytes > min(_MAX_RATIO * stored, _MAX_BYTES):
                raise SourceError(f"{where}: {stored} bytes claim to unpack to {dataset.nbytes}")
            yield dataset
    except SourceError:
        raise
    except BROKEN as error:
        raise SourceError(f"{where}: cannot be read: {error}") from error


def read_dataset(path: Path, key: str, shape: Sequence[int | str], kinds: str) -> np.ndarray:
    """All of a dataset, checked as by `opened_dataset`, in native byte order."""
    with opened_dataset(path, key, shape, kinds) as dataset:
        array = dataset[()]
    return array.astype(array.dtype.newbyteorder("="), copy=False)
